"""`auto` chooses by what is there, says why, and never falls back in silence from a GPU to the CPU."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from harness.core.errors import ExitCode, PreflightError
from harness.core.records import Gpu, ModelFacts
from harness.profile.schema import Profile
from harness.server.embedded import TorchServerRunner
from harness.server.select import choose_server, kv_capacity
from harness.server.vllm import VllmServerRunner

BOARD = (Gpu("GPU-1", 0, name="H100"),)


def test_without_a_gpu_the_embedded_engine_serves(
    profile: Callable[..., Profile], facts: ModelFacts
) -> None:
    choice = choose_server(profile({"kind": "auto", "port": 4242, "env": {"A": "b"}}), facts)
    assert choice.kind == "torch"
    assert "CPU" in choice.reason
    assert isinstance(choice.server, TorchServerRunner)
    assert (choice.server.device, choice.server.server.port, choice.server.server.env) == (
        "cpu",
        4242,
        {"A": "b"},
    )


def test_with_a_gpu_and_vllm_it_is_vllm(
    profile: Callable[..., Profile],
    facts: ModelFacts,
    fake_python: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HARNESS_VLLM_PYTHON", fake_python)
    choice = choose_server(profile({"kind": "auto"}), facts, BOARD, nvidia_present=True)
    assert choice.kind == "vllm"
    assert "vLLM 0.32.0" in choice.reason
    assert isinstance(choice.server, VllmServerRunner)
    assert choice.server.device == "cuda"


@pytest.mark.parametrize(
    "gpus", [(), BOARD], ids=["driver does not answer", "vLLM is not installed"]
)
def test_a_gpu_that_cannot_be_used_is_an_error(
    profile: Callable[..., Profile],
    facts: ModelFacts,
    gpus: tuple[Gpu, ...],
    bare_python: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HARNESS_VLLM_PYTHON", bare_python)
    with pytest.raises(PreflightError) as caught:
        choose_server(profile({"kind": "auto"}), facts, gpus, nvidia_present=True)
    assert caught.value.exit_code is ExitCode.PREFLIGHT
    assert caught.value.next_step


@pytest.mark.parametrize("kind", ["vllm", "torch"])
def test_what_the_profile_says_is_taken(
    profile: Callable[..., Profile], facts: ModelFacts, kind: str
) -> None:
    choice = choose_server(
        profile({"kind": kind, "device": "cpu"}), facts, BOARD, nvidia_present=True
    )
    assert (choice.kind, "profile" in choice.reason) == (kind, True)


GIB = 2**30


@pytest.mark.parametrize(
    ("server", "capacity_tok"),
    [
        ({"kind": "torch", "device": "cpu", "kv_cache_tok": 4096}, 4096),
        ({"kind": "torch", "device": "cpu"}, None),
        ({"kind": "vllm", "device": "cpu", "cpu_kv_cache_bytes": GIB}, GIB / 1024),
        # 2 boards of 80 GiB at 90 %, less the weights of each
        ({"kind": "vllm", "gpu_memory_utilization": 0.9}, (2 * 80 * 0.9 * GIB - 2 * 8e9) / 1024),
        (
            {"kind": "vllm", "gpu_memory_utilization": 0.9, "tensor_parallel_size": 2},
            (2 * 80 * 0.9 * GIB - 8e9) / 1024,
        ),
        ({"kind": "auto"}, None),
    ],
)
def test_tokens_that_the_kv_cache_holds(
    profile: Callable[..., Profile],
    facts: ModelFacts,
    monkeypatch: pytest.MonkeyPatch,
    server: dict[str, Any],
    capacity_tok: float | None,
) -> None:
    boards = (Gpu("GPU-1", 0, memory_bytes=80 * GIB), Gpu("GPU-2", 1, memory_bytes=80 * GIB))
    monkeypatch.setattr("harness.server.vllm.resolve_gpus", lambda _: boards)
    known = replace(facts, kv_bytes_per_tok=1024, parameters=4_000_000_000, dtype="bfloat16")
    assert kv_capacity(profile(server).server, known)[0] == capacity_tok


def test_a_kv_cache_is_unknown_without_a_board(
    profile: Callable[..., Profile], facts: ModelFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.server.vllm.resolve_gpus", lambda _: ())
    known = replace(facts, kv_bytes_per_tok=1024, parameters=4_000_000_000)
    assert kv_capacity(profile({"kind": "vllm"}).server, known)[0] is None
