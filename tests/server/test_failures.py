"""Failures are told by their cause, from real logs of vLLM 0.32 and from the wordings of other
versions.
"""

from pathlib import Path

import pytest

from harness.server.failures import classify, root_cause

LOGS = Path(__file__).with_name("fixtures") / "vllm-logs"

REAL = {
    "architecture-unknown": "unsupported_model",
    "config-missing": "config_missing",
    "context-over-kv-cache": "context_too_long",
    "context-over-model": "context_over_model",
    "engine-killed-at-start": "engine_killed",
    "engine-killed": "engine_killed",
    "flag-unknown": "unsupported_argument",
    "hub-offline": "no_network",
    "kv-cache-over-memory": "no_free_memory",
    "path-missing": "config_missing",
    "port-taken": "port_taken",
    "sigint": "told_to_end",
    "sigterm-busy": "told_to_end",
    "sigterm-loading": "told_to_end",
    "tensor-parallel-over-cpus": "too_few_numa_nodes",
    "tokenizer-missing": "tokenizer_missing",
    "tool-parser-absent": "bad_parser",
    "tool-parser-unknown": "bad_parser",
    "weights-missing": "weights_missing",
    "weights-truncated": "weights_missing",
    "worker-killed-at-start": "engine_killed",
    "worker-killed": "engine_killed",
}


@pytest.mark.parametrize(("name", "code"), REAL.items())
def test_real_logs_of_vllm(name: str, code: str) -> None:
    found = classify((LOGS / f"{name}.log").read_text(), 1)
    assert found is not None
    assert found.code == code
    assert "{" not in found.cause


def test_every_log_at_hand_is_expected() -> None:
    assert {path.stem for path in LOGS.glob("*.log")} == set(REAL)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (
            (
                "Free memory on device cuda:0 (3.1/79.2 GiB) on startup is less than desired GPU"
                " memory utilization (0.9,"
            ),
            "no_free_gpu_memory",
        ),
        (
            (
                "Free memory on device (3.1/79.2 GiB) on startup is less than desired GPU memory"
                " utilization (0.9,"
            ),
            "no_free_gpu_memory",
        ),
        (
            (
                "The model's max seq len (131072) is larger than the maximum number of tokens that"
                " can be stored in KV cache (41408)."
            ),
            "context_too_long",
        ),
        (
            (
                "ValueError: No available memory for the cache blocks. Try increasing"
                " `gpu_memory_utilization`"
            ),
            "context_too_long",
        ),
        (
            (
                "OSError: [Errno 98] error while attempting to bind on address ('0.0.0.0', 8000):"
                " address already in use"
            ),
            "port_taken",
        ),
        (
            "RuntimeError: The NVIDIA driver on your system is too old (found version 12040).",
            "driver_mismatch",
        ),
        (
            "RuntimeError: CUDA error: no kernel image is available for execution on the device",
            "driver_mismatch",
        ),
        ("RuntimeError: Failed to infer device type", "no_usable_device"),
        (
            (
                "RuntimeError: Could not find nvcc and default cuda_home='/usr/local/cuda' doesn't"
                " exist"
            ),
            "no_compiler",
        ),
        (
            "FileNotFoundError: [Errno 2] No such file or directory: '/usr/local/cuda/bin/nvcc'",
            "no_compiler",
        ),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'ninja'", "no_compiler"),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
            "gpu_out_of_memory",
        ),
        ("huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: x)", "gated_model"),
        ("OSError: /m does not appear to have a file named config.json.", "config_missing"),
        ("RuntimeError: Cannot find any model weights with `/m`", "weights_missing"),
        (
            "Please pass the argument `trust_remote_code=True` to allow custom code to be run.",
            "remote_code",
        ),
        ("/bin/python: No module named vllm", "not_installed"),
        (
            "importlib.metadata.PackageNotFoundError: No package metadata was found for vllm",
            "not_installed",
        ),
        (
            (
                "Engine core initialization failed. See root cause above. Failed core proc(s):"
                " {'EngineCore_0': -9}"
            ),
            "out_of_host_memory",
        ),
        ("OSError: [Errno 28] No space left on device", "disk_full"),
    ],
)
def test_wordings(line: str, code: str) -> None:
    found = classify(f"INFO loading\n{line}\nINFO bye", 1)
    assert found is not None
    assert found.code == code


def test_the_root_cause_stands_above_what_follows_from_it() -> None:
    log = (
        "(EngineCore pid=2) ERROR 01-01 00:00:00 [core.py:1] Traceback (most recent call"
        " last):\n(EngineCore pid=2) ERROR 01-01 00:00:00 [core.py:1] ZeroDivisionError: float"
        " division by zero\n(APIServer pid=1) RuntimeError: Engine core initialization failed. See"
        " root cause above. Failed core proc(s): {'EngineCore': 1}\n"
    )
    assert root_cause(log) == "ZeroDivisionError: float division by zero"
    found = classify(log, 1)
    assert found is not None
    assert found.code == "engine_died"
    assert "ZeroDivisionError" in found.cause


def test_a_request_error_in_the_log_is_not_the_cause_of_death() -> None:
    """A request error in the log of a server that was ready is not taken for the cause of its
    death.
    """
    log = (
        "ERROR max seq len (8192) is larger than the maximum number of tokens that can be stored in"
        " KV cache\n"
    )
    assert classify(log, 1) is not None
    assert classify(log, 1, was_ready=True) is None


@pytest.mark.parametrize(
    ("status", "code"), [(-9, "killed"), (-11, "crashed"), (-4, "crashed"), (-15, "told_to_end")]
)
def test_without_words_the_signal_speaks(status: int, code: str) -> None:
    found = classify("INFO all well\n", status)
    assert found is not None
    assert found.code == code


def test_what_is_not_recognised_is_not_guessed() -> None:
    assert classify("INFO engine config: trust_remote_code=False, dtype=bfloat16\n", 1) is None
    assert classify("", None) is None
