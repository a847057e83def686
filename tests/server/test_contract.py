"""What every `ModelServer` keeps, whichever it is."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from harness.core.errors import ServerError
from harness.core.records import Api, ModelFacts
from harness.processes import identity
from harness.processes.registry import RUN_ID_VARIABLE
from harness.profile.schema import Profile
from harness.server.base import ModelServer, RunContext
from harness.server.one_request import one_token_body, request_once
from harness.server.process import port_is_free
from harness.server.select import choose_server


@dataclass
class Case:
    server: ModelServer
    ours: bool  # started by the harness


@pytest.fixture(params=["vllm", "torch", "attach"])
def case(
    request: pytest.FixtureRequest,
    profile: Callable[..., Profile],
    facts: ModelFacts,
    fake_python: str,
    context: RunContext,
) -> Iterator[Case]:
    kind = request.param
    settings: dict[str, Any] = {
        "python": fake_python,
        "device": "cpu",
        "ready_timeout_s": 30,
        "stop_timeout_s": 5,
    }
    if kind != "attach":
        yield Case(choose_server(profile({"kind": kind, **settings}), facts).server, ours=True)
        return
    with choose_server(profile({"kind": "vllm", **settings}), facts).server.start(
        context
    ) as running:
        yield Case(
            choose_server(
                profile({"kind": "attach", "urls": [running.endpoints[0].base_url]}), facts
            ).server,
            ours=False,
        )


def test_preflight_finds_nothing_wrong(case: Case) -> None:
    assert case.server.preflight() == ()


def test_endpoints_answer_and_are_described(case: Case, context: RunContext) -> None:
    with case.server.start(context) as running:
        (endpoint,) = running.endpoints
        assert endpoint.name == "replica-0"
        assert endpoint.model == "builtin:tiny"
        assert endpoint.metrics_url == f"{endpoint.base_url}/metrics"
        assert request_once(endpoint, Api.MESSAGES, one_token_body(endpoint.model, Api.MESSAGES)).ok
        assert running.info.kind == case.server.kind
        assert running.info.version == "0.32.0"
        assert running.info.settings["max_model_len"] == 4096
        assert (running.info.ready_s is not None) == case.ours
        assert len(running.info.argv) == (1 if case.ours else 0)
        running.check()


def test_pids_are_those_that_the_harness_started(case: Case, context: RunContext) -> None:
    with case.server.start(context) as running:
        pids = running.pids()
        assert list(pids) == (["server:replica-0"] if case.ours else [])
        for pid in pids.values():
            assert pid == running.endpoints[0].pid
            assert identity.environ(pid)[RUN_ID_VARIABLE] == context.run_id
            assert os.getpgid(pid) == pid


def test_afterwards_nothing_of_ours_is_left_and_nothing_of_others_is_touched(
    case: Case, context: RunContext
) -> None:
    with case.server.start(context) as running:
        port = int(running.endpoints[0].base_url.rpartition(":")[2])
        running.stop()
        running.stop()
    assert port_is_free("127.0.0.1", port) == case.ours
    if case.ours:
        assert not identity.marked(RUN_ID_VARIABLE, context.run_id)
        assert context.registry.groups == []


def test_an_error_inside_passes_through_and_still_stops_the_server(
    case: Case, context: RunContext
) -> None:
    with pytest.raises(KeyboardInterrupt), case.server.start(context):
        raise KeyboardInterrupt
    assert bool(identity.marked(RUN_ID_VARIABLE, context.run_id)) != case.ours


def test_a_death_in_the_middle_is_noticed(
    case: Case, context: RunContext, eventually: Callable[..., None]
) -> None:
    with ExitStack() as stack:
        running = stack.enter_context(case.server.start(context))
        with pytest.raises(httpx.HTTPError):
            httpx.post(f"{running.endpoints[0].base_url}/die", json={})

        caught: list[ServerError] = []

        def noticed() -> bool:
            try:
                running.check()
            except ServerError as error:
                caught.append(error)
            return bool(caught)

        eventually(noticed)
        assert running.pids() == {}
    if case.ours:
        assert "exit code 3" in caught[0].what
        assert "GPU" in str(caught[0].cause)
        assert "logs/server.log" in str(caught[0].details)
        assert "CUDA out of memory" in str(caught[0].details)
