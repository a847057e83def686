"""Starting, watching and stopping one server process, with everything that goes wrong on the way."""

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.core.clock import NS_PER_S, now_ns
from harness.core.errors import ExitCode, HarnessError, ServerError
from harness.core.records import ModelFacts
from harness.processes import identity
from harness.processes.registry import RUN_ID_VARIABLE
from harness.profile.schema import Profile
from harness.server.base import ModelServer, RunContext
from harness.server.process import (
    ReplicaPlan,
    ServerProcess,
    free_ports,
    loopback,
    port_is_free,
    redact,
)
from harness.server.select import choose_server

Make = Callable[..., ModelServer]


@pytest.fixture
def make(profile: Callable[..., Profile], facts: ModelFacts, fake_python: str) -> Make:
    """A vLLM server on the fake, with a fault."""

    def with_fault(
        fault: str = "", env: dict[str, str] | None = None, **settings: Any
    ) -> ModelServer:
        base = {
            "kind": "vllm",
            "python": fake_python,
            "device": "cpu",
            "ready_timeout_s": 30,
            "stop_timeout_s": 5,
        }
        return choose_server(
            profile(base | settings | {"env": {"FAKE_FAULT": fault} | (env or {})}), facts
        ).server

    return with_fault


def fails(server: ModelServer, context: RunContext) -> HarnessError:
    with pytest.raises(HarnessError) as caught, server.start(context):
        pass
    assert not identity.marked(RUN_ID_VARIABLE, context.run_id)
    assert context.registry.groups == []
    return caught.value


def test_a_death_at_the_start_is_told_with_cause_and_log(make: Make, context: RunContext) -> None:
    lines = "\n".join(f"line {n}" for n in range(100))
    last = (
        "Free memory on device cuda:0 (3.1/79.2 GiB) on startup is less than desired GPU memory"
        " utilization (0.9, 71.3 GiB)."
    )
    log = f"{lines}\nValueError: {last}"
    error = fails(make("dies_at_start", {"FAKE_LOG": log}), context)
    assert error.exit_code is ExitCode.SERVER
    assert "exit code 1" in error.what
    assert error.cause is not None
    assert "3.1 of 79.2 GiB" in error.cause
    assert error.next_step is not None
    assert "gpu_memory_utilization" in error.next_step
    shown = str(error.details).splitlines()
    assert len(shown) == 31  # 30 lines of the log below the line that says where the whole of it is
    assert str(context.run_dir.logs_dir / "server.log") in shown[0]
    assert "line 99" in shown[-2]


@pytest.mark.parametrize(
    ("fault", "stage"),
    [("never_healthy", "GET /health"), ("hangs_on_request", "/v1/messages")],
)
def test_a_server_that_never_gets_ready_is_stopped_at_the_deadline(
    make: Make, context: RunContext, fault: str, stage: str
) -> None:
    error = fails(make(fault, ready_timeout_s=1.5), context)
    assert error.exit_code is ExitCode.SERVER
    assert "1.5 s" in error.what
    assert stage in error.what
    assert error.next_step is not None
    assert "ready_timeout_s" in error.next_step


def test_a_taken_port_is_found_before_the_start_and_its_holder_named(
    make: Make, context: RunContext
) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        error = fails(make(port=port), context)
    assert error.exit_code is ExitCode.PREFLIGHT
    assert f"port {port} on 127.0.0.1" in error.what
    assert f"(pid {os.getpid()})" in error.what


def test_a_port_shared_by_reuseport_counts_as_taken() -> None:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        assert not port_is_free("127.0.0.1", holder.getsockname()[1])


def test_an_address_of_another_machine_is_told_apart_from_a_taken_port(
    make: Make, context: RunContext
) -> None:
    error = fails(make(host="192.0.2.1", port=18000), context)  # TEST-NET-1: nobody's address
    assert "192.0.2.1" in error.what
    assert "18000" not in error.what


def test_a_server_that_ignores_sigterm_is_killed(make: Make, context: RunContext) -> None:
    with make("ignores_sigterm", stop_timeout_s=0.3).start(context) as running:
        (pid,) = running.pids().values()
    assert identity.read(pid) is None


def test_grandchildren_are_ended_wherever_they_moved(
    make: Make, context: RunContext, tmp_path: Path
) -> None:
    with make(env={"FAKE_CHILDREN": str(tmp_path / "pids")}).start(context):
        children = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert all(identity.read(pid) for pid in children)
    assert not any(identity.read(pid) for pid in children)


def test_grandchildren_are_ended_after_their_parent_was_killed(
    make: Make, context: RunContext, tmp_path: Path
) -> None:
    with make(env={"FAKE_CHILDREN": str(tmp_path / "pids")}).start(context) as running:
        children = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        (pid,) = running.pids().values()
        os.kill(pid, signal.SIGKILL)
    assert not any(identity.read(pid) for pid in children)


def test_two_replicas_have_ports_and_logs_of_their_own(make: Make, context: RunContext) -> None:
    with make(replicas=2).start(context) as running:
        assert [endpoint.name for endpoint in running.endpoints] == ["replica-0", "replica-1"]
        assert len({endpoint.base_url for endpoint in running.endpoints}) == 2
        assert running.info.log_paths == ("logs/server-0.log", "logs/server-1.log")
        assert set(running.pids()) == {"server:replica-0", "server:replica-1"}
        os.kill(running.pids()["server:replica-1"], signal.SIGKILL)
        while "server:replica-1" in running.pids():
            pass
        with pytest.raises(ServerError, match=r"replica-1 .*SIGKILL") as caught:
            running.check()
        assert "memory" in str(caught.value.cause)


def test_one_replica_that_dies_at_the_start_stops_the_others(
    make: Make, context: RunContext
) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        free = holder.getsockname()[1]
    error = fails(
        make(
            "dies_at_start",
            {"FAKE_LOG": "OSError: [Errno 98] Address already in use"},
            replicas=2,
            port=free,
        ),
        context,
    )
    assert "port" in str(error.cause)


def test_the_key_is_in_the_environment_and_nowhere_else(
    make: Make, context: RunContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    with make(api_key_env="MY_KEY").start(context) as running:
        (pid,) = running.pids().values()
        assert "sk-very-secret" not in Path(f"/proc/{pid}/cmdline").read_text()
        assert identity.environ(pid)["VLLM_API_KEY"] == "sk-very-secret"
        assert "sk-very-secret" not in str(running.info)
        assert "sk-very-secret" not in context.registry.path.read_text()


def test_log_lines_that_are_shown_hide_the_key(
    make: Make, context: RunContext, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("sk-very-secret\n")
    error = fails(
        make("dies_at_start", {"FAKE_LOG": "no"}, api_key_file=str(tmp_path / "key")), context
    )
    assert "secret in the environment: ***" in str(error)
    assert "sk-very-secret" not in str(error)


def test_a_wrong_key_file_is_a_preflight_error(
    make: Make, context: RunContext, tmp_path: Path
) -> None:
    (tmp_path / "empty").touch()
    for name in ("absent", "empty"):
        assert (
            fails(make(api_key_file=str(tmp_path / name)), context).exit_code is ExitCode.PREFLIGHT
        )


def test_a_command_that_does_not_exist_is_told(
    context: RunContext, eventually: Callable[..., None]
) -> None:
    (port,) = free_ports("127.0.0.1", 1)
    spec = ReplicaPlan(
        "replica-0",
        ("/no/such/program",),
        {},
        "127.0.0.1",
        port,
    )
    log = context.run_dir.logs_dir / "server.log"
    child = ServerProcess.start(spec, log, context.registry)
    eventually(lambda: not child.child.alive())
    error = child.died(was_ready=False)
    assert "exit code 127" in error.what
    assert "cannot run /no/such/program: No such file or directory" in str(error.details)
    child.stop(1)


def test_a_second_interruption_while_stopping_still_leaves_nothing(
    make: Make, context: RunContext
) -> None:
    class ImpatientError(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise ImpatientError

    before = signal.signal(signal.SIGALRM, interrupt)
    began = now_ns()
    try:
        with (
            pytest.raises(ImpatientError),
            make("ignores_sigterm", stop_timeout_s=60).start(context),
        ):
            signal.setitimer(signal.ITIMER_REAL, 0.3)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert now_ns() - began < 50 * NS_PER_S  # it did not wait its 60 s out
    assert not identity.marked(RUN_ID_VARIABLE, context.run_id)


def test_free_ports_differ_and_can_be_bound() -> None:
    ports = free_ports("127.0.0.1", 20)
    assert len(set(ports)) == 20
    assert all(port_is_free("127.0.0.1", port) for port in ports)


def test_loopback_names_an_address_that_can_be_reached() -> None:
    assert [loopback(host) for host in ("0.0.0.0", "::", "127.0.0.1", "::1")] == [
        "127.0.0.1",
        "[::1]",
        "127.0.0.1",
        "[::1]",
    ]


def test_redact_hides_values_of_secret_options_only() -> None:
    argv = (
        "python",
        "-m",
        "x",
        "--api-key",
        "a",
        "b",
        "--hf-token=c",
        "--max-num-batched-tokens",
        "512",
        "--tokenizer",
        "t",
    )
    assert redact(argv) == (*argv[:4], "***", "***", "--hf-token=***", *argv[7:])
