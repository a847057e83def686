"""The ratio between two types of GPU as modeled by NVIDIA's AIConfigurator.

AIConfigurator (PyPI, https://github.com/ai-dynamo/aiconfigurator) models an engine's iterations
from measured kernels. It needs a few hundred megabytes of data and plotting packages, so it has its
own environment and only its command is used: `cli estimate` with the run's model, precision,
lengths, share of cached input, requests per replica and tensor parallelism, for the run's type of
GPU and the site's. Only the ratio of the two throughputs is used. Parses the output of 0.12.0.
"""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from harness.artifacts.run_result import RunResult, number
from harness.core.errors import NotComparableError, PreflightError
from harness.fleet.estimate.gpu_ratio import STATE_RATIO, TOOL, Ratio
from harness.fleet.estimate.measured import measured_tokens, work_of
from harness.processes.command import ask

NAME: Final = TOOL

COMMAND_VARIABLE: Final = "HARNESS_AICONFIGURATOR"
"""Environment variable with the path of the command, if it is not on PATH."""

DEADLINE_S: Final = 300.0
"""Timeout of one command; version 0.12.0 takes 10 s on two cores."""

SYSTEMS: Final[Mapping[str, str]] = {
    "A100": "a100_sxm",
    "H100": "h100_sxm",
    "H200": "h200_sxm",
    "B200": "b200_sxm",
    "B300": "b300_sxm",
    "GB200": "gb200",
    "GB300": "gb300",
}
"""AIConfigurator's names of GPU types."""

ENGINES: Final = ("vllm", "sglang", "trtllm")
"""Engines that it models."""

PRECISIONS: Final[Mapping[str, str | None]] = {
    "bfloat16": "bfloat16",
    "float16": "bfloat16",
    "fp8": "fp8",
    "auto": None,
    "modelopt": None,
    "modelopt_fp4": None,
    "compressed-tensors": None,
    "fbgemm_fp8": None,
}
"""Its names of weight types; None: from the model's configuration, as in the engine."""


@dataclass(frozen=True, slots=True)
class Question:
    """One configuration.

    Attributes:
        model: a hub id that AIConfigurator supports, or a folder with config.json.
        precision: weight type; None: from the model's configuration.
        input_tok: per request.
        cached_tok: part of the input that was read from the prefix cache.
        output_tok: per request.
        batch: requests in flight per replica.
        tensor_parallel: GPUs per replica.
        engine: one of `ENGINES`.
    """

    model: str
    precision: str | None
    input_tok: int
    cached_tok: int
    output_tok: int
    batch: int
    tensor_parallel: int
    engine: str

    def arguments(self, system: str) -> tuple[str, ...]:
        options = {
            "model-path": self.model,
            "system": system,
            "backend": self.engine,
            "estimate-mode": "agg",
            "batch-size": self.batch,
            "isl": self.input_tok,
            "osl": self.output_tok,
            "prefix": self.cached_tok,
            "tp-size": self.tensor_parallel,
            # By default, vLLM uses tensor parallelism for experts too; a dense model has none.
            "moe-tp-size": self.tensor_parallel,
        }
        if self.precision is not None:
            options |= {"gemm-quant-mode": self.precision, "moe-quant-mode": self.precision}
        arguments = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        return (*arguments, "--no-color")

    def text(self) -> str:
        cached = f" ({self.cached_tok:,} of them cached)" if self.cached_tok else ""
        return (
            f"{self.model}, {self.precision or 'precision of its configuration'},"
            f" {self.input_tok:,}{cached} input and {self.output_tok:,} output tokens,"
            f" {self.batch:,} requests per replica of {self.tensor_parallel}"
            f" GPU{'s' if self.tensor_parallel > 1 else ''}"
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """Result for one configuration on one system.

    Attributes:
        tok_s_per_gpu: output tokens per second per GPU.
        backend: engine and the version whose kernels were measured.
        version: of AIConfigurator.
    """

    tok_s_per_gpu: float
    backend: str
    version: str


def ratio_between(
    run: RunResult, of: str, to: str, *, model: str | None = None, demonstrate: bool = False
) -> Ratio:
    """Modeled throughput of one type of GPU over another's for the run's work.

    Args:
        run: the measured run.
        of: type of the run's GPUs.
        to: type of the site's GPUs.
        model: a model of the run's shape that AIConfigurator supports, if it does not support the
            run's.
        demonstrate: as in `measured_tokens`.

    Raises:
        PreflightError: AIConfigurator is not installed, or does not run.
        NotComparableError: it does not support the system, model, engine or precision, the model
            does not fit, or the run lacks an input.
        InvalidRunError: the run cannot be scaled.
    """
    measured = measured_tokens(run, demonstrate=demonstrate).value or 0.0
    systems = [_system(kind) for kind in (of, to)]
    question = question_of(run, model)
    command = find_command()
    had, would = (_ask(command, question, system) for system in systems)
    apart = had.tok_s_per_gpu / measured - 1
    engine = had.backend if had.backend == would.backend else f"{had.backend} and {would.backend}"
    source = (
        f"{NAME} {had.version}, {question.text()}, {engine}: {would.tok_s_per_gpu:,.0f} tok/s/GPU"
        f" on {systems[1]} over {had.tok_s_per_gpu:,.0f} on {systems[0]}, where the run measured"
        f" {measured:,.0f} (model error {apart:+.0%}); its accuracy is not published"
    )
    return Ratio(would.tok_s_per_gpu / had.tok_s_per_gpu, source)


def question_of(run: RunResult, model: str | None = None) -> Question:
    """The configuration of a run.

    Raises:
        NotComparableError: the run lacks an input, or AIConfigurator has no name for it.
    """
    work = work_of(run)
    names = (run.server.kind, *run.server.software) if run.server else ("unknown",)
    engine = next((name for name in names if name in ENGINES), None)
    if engine is None:
        raise NotComparableError(
            f"{NAME} does not model the run's engine, {names[0]}",
            cause=f"it models {', '.join(ENGINES)}",
            next_step=STATE_RATIO,
        )
    precision = str(work.precision or "auto")
    if precision not in PRECISIONS:
        raise NotComparableError(
            f"weights of {precision} are not supported with {NAME}",
            cause=f"supported are {', '.join(PRECISIONS)}",
            next_step=STATE_RATIO,
        )
    inputs, outputs = work.mean_input_tok, work.mean_output_tok
    batch, settings = run.figure("requests_in_flight").value, run.settings
    parallel = number(settings.get("tensor_parallel_size"))
    copies = (run.replicas or 1) * (number(settings.get("data_parallel_size")) or 1)
    if parallel is None and run.gpus:
        parallel = len(run.gpus) / copies
    missing = [
        name
        for name, value in (
            ("mean_input_tok", inputs),
            ("mean_output_tok", outputs),
            ("requests_in_flight", batch),
            ("tensor_parallel_size", parallel),
            ("a model", model or run.model.path or work.model),
        )
        if not value
    ]
    if missing or parallel != round(parallel or 0):
        raise NotComparableError(
            f"{NAME} cannot model {run.path}: it does not record"
            f" {', '.join(missing) or 'a whole number of GPUs per replica'}",
            next_step=f"reduce the run again (harness reduce RUN), or {STATE_RATIO}",
        )
    folder = run.model.path
    if model is None:
        has_config = folder is not None and (Path(folder) / "config.json").is_file()
        model = str(folder if has_config else work.model)
    assert inputs and outputs and batch and parallel  # noqa: PT018 (for the type checker)
    cached = run.figure("prefix_hit_ratio").value or 0.0
    return Question(
        model=model,
        precision=PRECISIONS[precision],
        input_tok=max(1, round(inputs)),
        # At least one token is computed.
        cached_tok=max(0, min(round(inputs) - 1, round(inputs * cached))),
        output_tok=max(2, round(outputs)),
        batch=max(1, round(batch / copies)),
        tensor_parallel=round(parallel),
        engine=engine,
    )


def find_command() -> str:
    """Path of AIConfigurator's command; PreflightError if it is not found."""
    stated = os.environ.get(COMMAND_VARIABLE)
    found = shutil.which(stated or NAME)
    if found is None:
        what = f"{COMMAND_VARIABLE}={stated} is not a command" if stated else "not on PATH"
        raise PreflightError(
            f"--modelled {NAME}: {what}",
            cause="AIConfigurator is not installed; it is not part of the harness",
            next_step=(
                f"python -m venv aic && aic/bin/pip install {NAME}==0.12.0, then set"
                f" {COMMAND_VARIABLE}=aic/bin/{NAME}; or use --modelled table, or a stated ratio"
            ),
        )
    return found


def parse_answer(out: str, log: str) -> Answer | None:
    """Parse the output of `cli estimate` and its log on stderr; None without a throughput."""
    rate = re.search(r"^\s*tokens/s/gpu:\s*([\d,]+(?:\.\d+)?)\s*$", out, re.MULTILINE)
    backend = re.search(r"^\s*Backend:\s*(\S.*?)\s*$", out, re.MULTILINE)
    version = re.search(r"Loading AIConfigurator version: (\S+)", log + out)
    value = float(rate[1].replace(",", "")) if rate else 0.0
    if value <= 0:
        return None
    return Answer(
        value,
        backend[1] if backend else "unknown engine",
        version[1] if version else "(unknown version)",
    )


def parse_fault(log: str) -> str:
    """Why it failed: the last line of its log with an error, else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    reason = next(
        (line for line in reversed(lines) if re.search(r"\b(Error|error|OOM)\b|Error:", line)),
        lines[-1] if lines else "empty log",
    )
    return re.sub(r"^(aiconfigurator [a-z]+: error|RuntimeError|Error|ValueError): ", "", reason)


@cache
def _ask(command: str, question: Question, system: str) -> Answer:
    argv = (command, "cli", "estimate", *question.arguments(system))
    # No downloads.
    offline = dict.fromkeys(
        ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"
    )
    try:
        done = ask(argv, timeout_s=DEADLINE_S, env=offline)
    except OSError as error:
        raise PreflightError(
            f"{command} does not run: {error}", next_step=f"run it by hand: {' '.join(argv)}"
        ) from error
    answer = parse_answer(done.out, done.err) if done.status == 0 else None
    if answer is None:
        raise NotComparableError(
            f"{NAME} has no result for {question.text()} with {question.engine} on {system}",
            cause=parse_fault(done.err),
            next_step=_next(done.err, argv),
        )
    return answer


def _next(log: str, argv: Sequence[str]) -> str:
    if "--model-path" in log and "config.json" in log:
        return (
            "name a supported model of the same shape: --modelled"
            f" {NAME}:meta-llama/Meta-Llama-3.1-8B; or state a ratio"
        )
    return f"run it by hand ({' '.join(argv)}), or {STATE_RATIO}"


def _system(kind: str) -> str:
    if kind not in SYSTEMS:
        raise NotComparableError(
            f"{NAME} has no system for {kind}",
            cause=f"supported are {', '.join(SYSTEMS)}",
            next_step=STATE_RATIO,
        )
    return SYSTEMS[kind]
