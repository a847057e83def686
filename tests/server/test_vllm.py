"""vLLM's command line, environment and preflight, derived from the profile, the model and the
boards.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import PreflightError
from harness.core.records import Gpu, ModelFacts
from harness.profile.schema import Profile
from harness.profile.serving import TorchServer, VllmServer
from harness.server import local
from harness.server.base import Needs, raise_problems
from harness.server.embedded import TorchServerRunner
from harness.server.environment import Cuda, find_python, inspect, options_in_help, vllm_options
from harness.server.vllm import VllmServerRunner

BOARDS = tuple(Gpu(f"GPU-{n}", n, name="H100") for n in range(4))


@pytest.fixture
def runner(profile: Callable[..., Profile], facts: ModelFacts) -> Callable[..., VllmServerRunner]:
    def make(
        settings: dict[str, Any] | None = None,
        *,
        gpus: tuple[Gpu, ...] = (),
        tools: bool = False,
        facts_: ModelFacts = facts,
        **changes: Any,
    ) -> VllmServerRunner:
        made = profile({"kind": "vllm"} | (settings or {}), **changes)
        assert isinstance(made.server, VllmServer)
        return VllmServerRunner(made, made.server, facts_, gpus, bool(gpus), Needs(tools=tools))

    return make


def option(argv: tuple[str, ...], name: str) -> str:
    return argv[argv.index(name) + 1]


def test_on_cpu_the_model_is_local_eager_and_without_gpu_options(
    runner: Callable[..., VllmServerRunner], model_dir: Path
) -> None:
    made = runner({"cpu_kv_cache_bytes": "1536MiB", "cpu_threads_bind": "nobind"})
    argv = made.argv("py", 8001)
    assert argv[:3] == ("py", "-m", "vllm.entrypoints.openai.api_server")
    assert option(argv, "--model") == str(model_dir)
    assert option(argv, "--served-model-name") == "builtin:tiny"
    assert option(argv, "--port") == "8001"
    assert option(argv, "--seed") == "1"
    assert "--enforce-eager" in argv
    assert "--enable-prompt-tokens-details" in argv
    assert "--gpu-memory-utilization" not in argv
    env = made.env(())
    assert env["VLLM_CPU_KVCACHE_SPACE"] == "2"  # whole GiB, up
    assert env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert env["HF_HUB_OFFLINE"] == env["VLLM_NO_USAGE_STATS"] == env["DO_NOT_TRACK"] == "1"


def test_on_gpus_the_boards_are_split_over_as_many_replicas_as_they_hold(
    runner: Callable[..., VllmServerRunner], fake_python: str
) -> None:
    made = runner(
        {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.8, "python": fake_python},
        gpus=BOARDS,
    )
    plan = made.plan()
    assert [[gpu.uuid for gpu in one.gpus] for one in plan.replicas] == [
        ["GPU-0", "GPU-1"],
        ["GPU-2", "GPU-3"],
    ]
    assert [one.env["CUDA_VISIBLE_DEVICES"] for one in plan.replicas] == ["0,1", "2,3"]
    assert {one.env["CUDA_DEVICE_ORDER"] for one in plan.replicas} == {"PCI_BUS_ID"}
    assert option(plan.replicas[0].argv, "--tensor-parallel-size") == "2"
    assert option(plan.replicas[0].argv, "--gpu-memory-utilization") == "0.8"
    assert "--enforce-eager" not in plan.replicas[0].argv
    assert plan.settings["replicas"] == 2
    assert plan.software["vllm"] == "0.32.0"


def test_a_mig_slice_is_named_by_its_uuid() -> None:
    assert local.visible((Gpu("MIG-7", 0),), by_index=True)["CUDA_VISIBLE_DEVICES"] == "MIG-7"


def test_a_hub_model_may_use_the_network(
    runner: Callable[..., VllmServerRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    made = runner(
        facts_=ModelFacts("org/model"),
        model={
            "id": "org/model",
            "load_format": "dummy",
            "quantization": "fp8",
            "max_context_tok": "8k",
        },
    )
    argv = made.argv("py", 1)
    assert (
        option(argv, "--model"),
        option(argv, "--load-format"),
        option(argv, "--quantization"),
    ) == ("org/model", "dummy", "fp8")
    assert option(argv, "--max-model-len") == "8000"
    assert "HF_HUB_OFFLINE" not in made.env(())


@pytest.mark.parametrize(
    ("model", "parser", "reasoning"),
    [
        ("builtin:smollm2-135m", "hermes", None),
        ("Qwen/Qwen3-8B", "hermes", "qwen3"),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct", "qwen3_coder", None),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3_json", None),
        ("openai/gpt-oss-120b", "openai", "openai_gptoss"),
        ("somebody/unheard-of", "hermes", None),
    ],
)
def test_parsers_follow_from_the_model(
    runner: Callable[..., VllmServerRunner], model: str, parser: str, reasoning: str | None
) -> None:
    argv = runner(facts_=ModelFacts(model), model={"id": model}, tools=True).argv("py", 1)
    assert "--enable-auto-tool-choice" in argv
    assert option(argv, "--tool-call-parser") == parser
    assert (
        option(argv, "--reasoning-parser") if "--reasoning-parser" in argv else None
    ) == reasoning


def test_without_tools_no_parser_is_asked_for(runner: Callable[..., VllmServerRunner]) -> None:
    assert "--tool-call-parser" not in runner().argv("py", 1)


def test_the_control_run_has_no_prefix_cache(runner: Callable[..., VllmServerRunner]) -> None:
    assert "--no-enable-prefix-caching" in runner({"prefix_caching": False}).argv("py", 1)


def test_a_key_of_the_callers_own_does_not_reach_the_server(
    runner: Callable[..., VllmServerRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "mine")
    assert "VLLM_API_KEY" not in runner().env(())


def codes(made: VllmServerRunner | TorchServerRunner) -> dict[str, str]:
    return {problem.code: f"{problem.what} | {problem.next_step}" for problem in made.preflight()}


def test_an_unknown_argument_is_named_with_its_nearest(
    runner: Callable[..., VllmServerRunner], fake_python: str
) -> None:
    found = codes(
        runner({"python": fake_python, "extra_args": ["--enable-promt-tokens-details", "5"]})
    )
    for value in ("0.32.0", "--enable-promt-tokens-details", "--enable-prompt-tokens-details"):
        assert value in found["unknown_argument"]


def test_arguments_are_taken_in_all_spellings_that_vllm_takes(
    runner: Callable[..., VllmServerRunner], fake_python: str
) -> None:
    assert (
        codes(
            runner(
                {
                    "python": fake_python,
                    "extra_args": ["--max_context", "-3", "--device.x", "1", "--threads=3", "-O3"],
                }
            )
        )
        == {}
    )


def test_the_answer_about_options_is_kept(fake_python: str, cache: Path) -> None:
    options = vllm_options(inspect(fake_python))
    assert options is not None
    assert "--served-model-name" in options
    (kept,) = (cache / "vllm-options").iterdir()
    kept.write_text(json.dumps(["--kept"]))
    assert vllm_options(inspect(fake_python)) == {"--kept"}


def test_an_environment_whose_help_fails_blocks_nothing(bare_python: str) -> None:
    assert vllm_options(inspect(bare_python)) is None


def test_options_in_help() -> None:
    text = (
        "usage: x [--usage-only]\n\nJSON options take --like-this\n\n  --api-server-count"
        " API_SERVER_COUNT, -asc API_SERVER_COUNT\n                        text --not-this\n "
        " --enable-a, --no-enable-a\n                        more\n  --config CONFIG       Read"
        " --nor-this.\n  -tp N, --tensor-parallel-size N\n"
    )
    assert options_in_help(text) == {
        "--api-server-count",
        "-asc",
        "--enable-a",
        "--no-enable-a",
        "--config",
        "-tp",
        "--tensor-parallel-size",
    }


def test_missing_programs_packages_and_models_are_all_told_at_once(
    runner: Callable[..., VllmServerRunner], bare_python: str, tmp_path: Path
) -> None:
    assert "make vllm-cpu" in codes(runner({"python": bare_python}))["vllm_missing"]
    found = codes(
        runner(
            {"python": str(tmp_path / "absent"), "api_key_env": "NOT_SET_ANYWHERE"},
            facts_=ModelFacts("m", path=str(tmp_path)),
        )
    )
    assert set(found) == {"python", "api_key", "config_missing"}
    with pytest.raises(PreflightError, match=r"\b3\b") as caught:
        raise_problems(
            runner(
                {"python": "/absent", "api_key_env": "NOT_SET_ANYWHERE"},
                facts_=ModelFacts("m", path=str(tmp_path)),
            ).preflight()
        )
    assert "NOT_SET_ANYWHERE" in str(caught.value)


def test_a_context_longer_than_the_models_is_refused(
    runner: Callable[..., VllmServerRunner], fake_python: str
) -> None:
    found = codes(
        runner({"python": fake_python}, model={"id": "builtin:tiny", "max_context_tok": "16k"})
    )
    assert "16,000" in found["context_over_model"]
    assert "8,192" in found["context_over_model"]


def test_boards_have_to_be_enough_and_usable(
    runner: Callable[..., VllmServerRunner], fake_python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no_gpu" in codes(runner({"python": fake_python, "device": "cuda"}))
    assert (
        "8 GPUs"
        in codes(
            runner({"python": fake_python, "tensor_parallel_size": 4, "replicas": 2}, gpus=BOARDS)
        )["too_few_gpus"]
    )
    monkeypatch.setattr(
        local, "cuda", lambda *_: Cuda(None, 0, "Torch not compiled with CUDA enabled")
    )
    assert "0 of 4 GPUs" in codes(runner({"python": fake_python}, gpus=BOARDS))["cuda_unusable"]
    monkeypatch.setattr(local, "cuda", lambda *_: Cuda("13.0", 4, None))
    assert codes(runner({"python": fake_python}, gpus=BOARDS)) == {}


def test_a_relative_python_keeps_the_link_that_makes_it_an_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to("/bin/sh")
    monkeypatch.chdir(tmp_path)
    assert find_python("bin/python") == str(tmp_path / "bin" / "python")
    assert find_python("sh").endswith("/sh")


# --- the embedded engine ---


def engine(profile: Profile, facts: ModelFacts, gpus: tuple[Gpu, ...] = ()) -> TorchServerRunner:
    assert isinstance(profile.server, TorchServer)
    return TorchServerRunner(profile, profile.server, facts, gpus, bool(gpus))


def test_the_engines_command_line(
    profile: Callable[..., Profile], facts: ModelFacts, model_dir: Path
) -> None:
    server = {
        "kind": "torch",
        "threads": 2,
        "kv_cache_tok": "10k",
        "page_tok": 16,
        "max_batch_tok": 256,
    }
    argv = engine(profile(server), facts).argv("py", 9)
    assert argv[:3] == ("py", "-m", "harness.server.engine")
    assert option(argv, "--model") == str(model_dir)
    assert (option(argv, "--device"), option(argv, "--threads"), option(argv, "--max-context")) == (
        "cpu",
        "2",
        "8192",
    )
    assert (
        option(argv, "--kv-cache-tokens"),
        option(argv, "--page-size"),
        option(argv, "--max-batch-tokens"),
    ) == ("10000", "16", "256")


def test_the_engine_takes_one_board_a_replica(
    profile: Callable[..., Profile], facts: ModelFacts, fake_python: str
) -> None:
    plan = engine(profile({"kind": "torch", "python": fake_python}), facts, BOARDS).plan()
    assert [one.env["CUDA_VISIBLE_DEVICES"] for one in plan.replicas] == [
        "GPU-0",
        "GPU-1",
        "GPU-2",
        "GPU-3",
    ]
    assert plan.settings["device"] == "cuda"


def test_the_engine_refuses_a_key_that_it_would_not_check(
    profile: Callable[..., Profile], facts: ModelFacts
) -> None:
    assert set(codes(engine(profile({"kind": "torch", "api_key_env": "K"}), facts))) == {
        "no_key_support"
    }


def test_the_engine_knows_every_argument_that_it_is_given(
    profile: Callable[..., Profile], facts: ModelFacts
) -> None:
    from harness.server.engine.__main__ import parse

    server = {
        "kind": "torch",
        "threads": 2,
        "kv_cache_tok": "10k",
        "page_tok": 16,
        "max_batch_tok": 256,
    }
    made = parse(list(engine(profile(server), facts).argv("py", 9)[3:]))
    assert (made.served_name, made.port, made.kv_cache_tokens, made.seed) == (
        "builtin:tiny",
        9,
        10000,
        1,
    )


def test_the_engine_wants_a_local_model_and_its_packages(
    profile: Callable[..., Profile], bare_python: str
) -> None:
    found = codes(
        engine(profile({"kind": "torch", "python": bare_python}), ModelFacts("org/model"))
    )
    assert set(found) == {"model_not_local", "engine_missing"}
    assert "torch, transformers, uvicorn, starlette" in found["engine_missing"]
