"""`auto` chooses by what is there, says why, and never falls back in silence from a GPU to the CPU."""

from collections.abc import Callable

import pytest

from harness.core.errors import ExitCode, PreflightError
from harness.core.records import Gpu, ModelFacts
from harness.profile.schema import Profile
from harness.server.embedded import TorchServerRunner
from harness.server.select import choose_server
from harness.server.vllm import VllmServerRunner

BOARD = (Gpu("GPU-1", 0, name="H100"),)


def test_without_a_gpu_the_embedded_engine_serves(
    profile: Callable[..., Profile], facts: ModelFacts
) -> None:
    choice = choose_server(profile({"kind": "auto", "port": 4242, "env": {"A": "b"}}), facts)
    assert choice.kind == "torch"
    assert "no GPU" in choice.reason
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
    assert (choice.kind, choice.reason) == (kind, "the profile says so")
