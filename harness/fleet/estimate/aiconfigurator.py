"""The modelled step between two types of GPU by NVIDIA's AIConfigurator: its command, where one is
installed, asked once for each type.

AIConfigurator (PyPI, https://github.com/ai-dynamo/aiconfigurator) models an engine's iterations
from measured kernels. It brings a few hundred megabytes of data and plotting packages, so it stays
in an environment of its own and only its command is used: `cli estimate` at the run's model,
precision, lengths, share of cached input, requests on each replica and tensor parallelism, once on
the run's type of GPU and once on the site's. Only the ratio of its two throughputs is taken. What
was read here is the output of version 0.12.0.
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
from harness.fleet.estimate.gpu_ratio import TOOL, Ratio
from harness.fleet.estimate.measured import measured_tokens, work_of
from harness.processes.command import ask

NAME: Final = TOOL

COMMAND_VARIABLE: Final = "HARNESS_AICONFIGURATOR"
"""Environment variable with the path of the command, where it is not on PATH."""

DEADLINE_S: Final = 300.0
"""Upper bound of one question; version 0.12.0 answers in 10 s on two cores."""

SYSTEMS: Final[Mapping[str, str]] = {
    "A100": "a100_sxm",
    "H100": "h100_sxm",
    "H200": "h200_sxm",
    "B200": "b200_sxm",
    "B300": "b300_sxm",
    "GB200": "gb200",
    "GB300": "gb300",
}
"""AIConfigurator's name of a type of GPU."""

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
"""Its name of a type of weights; None leaves it to the model's own configuration, which is where
the engine read it.
"""


@dataclass(frozen=True, slots=True)
class Question:
    """One configuration.

    Attributes:
        model: a hub id that AIConfigurator knows, or a folder with config.json.
        precision: its name of the weights' type; None: as the model's configuration says.
        input_tok: of a request.
        cached_tok: part of the input that was read from the prefix cache.
        output_tok: of a request.
        batch: requests in flight on each replica.
        tensor_parallel: GPUs of each replica.
        engine: of `ENGINES`.
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
        """Of `cli estimate`."""
        said = [
            "--model-path",
            self.model,
            "--system",
            system,
            "--backend",
            self.engine,
            "--estimate-mode",
            "agg",
            "--batch-size",
            self.batch,
            "--isl",
            self.input_tok,
            "--osl",
            self.output_tok,
            "--prefix",
            self.cached_tok,
            "--tp-size",
            self.tensor_parallel,
            # vLLM shards experts as it shards everything else unless it is told to spread them; a
            # dense model has none.
            "--moe-tp-size",
            self.tensor_parallel,
            "--no-color",
        ]
        if self.precision is not None:
            said += ["--gemm-quant-mode", self.precision, "--moe-quant-mode", self.precision]
        return tuple(map(str, said))

    def text(self) -> str:
        """In words."""
        cached = f" ({self.cached_tok:,} of them cached)" if self.cached_tok else ""
        return (
            f"{self.model}, {self.precision or 'precision of its configuration'},"
            f" {self.input_tok:,}{cached} input and {self.output_tok:,} output tokens,"
            f" {self.batch:,} requests on each replica of {self.tensor_parallel}"
            f" GPU{'s' if self.tensor_parallel > 1 else ''}"
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What it says of one configuration on one system.

    Attributes:
        tok_s_per_gpu: output tokens per second per GPU.
        backend: engine and the version of it whose kernels were measured.
        version: of AIConfigurator.
    """

    tok_s_per_gpu: float
    backend: str
    version: str


def ratio_between(
    run: RunResult, of: str, to: str, *, model: str | None = None, demonstrate: bool = False
) -> Ratio:
    """Throughput of one type of GPU over another's for the run's work, as AIConfigurator models it.

    Args:
        run: the measured run.
        of: type of the run's GPUs.
        to: type of the site's GPUs.
        model: a model that AIConfigurator knows and that has the run's shape, where it does not
            know the run's by its name.
        demonstrate: as in `measured_tokens`.

    Raises:
        PreflightError: AIConfigurator is not installed, or does not run.
        NotComparableError: it does not know the system, the model, the engine or the precision, or
            says that the model does not fit; or the run does not tell what it has to be asked.
        InvalidRunError: the run may not be scaled at all.
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
        f" {measured:,.0f} (the model is {apart:+.0%} from it); nobody publishes its error"
    )
    return Ratio(would.tok_s_per_gpu / had.tok_s_per_gpu, source)


def question_of(run: RunResult, model: str | None = None) -> Question:
    """What has to be asked for a run.

    Raises:
        NotComparableError: the run does not tell it, or AIConfigurator has no word for it.
    """
    work = work_of(run)
    engine = next(
        (
            name
            for name in ((run.server.kind, *run.server.software) if run.server else ())
            if name in ENGINES
        ),
        None,
    )
    if engine is None:
        kind = run.server.kind if run.server else "unknown"
        raise NotComparableError(
            f"{NAME} does not model the run's engine, {kind}",
            cause=f"it models {', '.join(ENGINES)}",
            next_step="state a ratio and its source: --modelled 1.2 --modelled-source …",
        )
    precision = str(work.precision or "auto")
    if precision not in PRECISIONS:
        raise NotComparableError(
            f"{NAME} is not asked about weights of {precision}",
            cause=f"its word for them is not certain; certain are {', '.join(PRECISIONS)}",
            next_step="state a ratio and its source: --modelled 1.2 --modelled-source …",
        )
    inputs, outputs, batch = (
        work.mean_input_tok,
        work.mean_output_tok,
        run.figure("requests_in_flight").value,
    )
    replicas = run.replicas or 1
    settings = run.settings
    parallel = number(settings.get("tensor_parallel_size"))
    copies = replicas * (number(settings.get("data_parallel_size")) or 1)
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
            f"{NAME} cannot be asked about {run.path}: it does not tell"
            f" {', '.join(missing) or 'how many GPUs a replica has'}",
            next_step=(
                "reduce the run again (harness reduce RUN), or state a ratio: --modelled 1.2"
                " --modelled-source …"
            ),
        )
    folder = run.model.path
    if model is None:
        model = (
            str(folder)
            if folder is not None and (Path(folder) / "config.json").is_file()
            else str(work.model)
        )
    assert inputs is not None
    assert outputs is not None
    assert batch is not None
    assert parallel is not None
    cached = run.figure("prefix_hit_ratio").value or 0.0
    return Question(
        model=model,
        precision=PRECISIONS[precision],
        input_tok=max(1, round(inputs)),
        cached_tok=max(
            0, min(round(inputs) - 1, round(inputs * cached))
        ),  # one token at least is computed
        output_tok=max(2, round(outputs)),
        batch=max(1, round(batch / copies)),
        tensor_parallel=round(parallel),
        engine=engine,
    )


def find_command() -> str:
    """Path of AIConfigurator's command.

    Raises:
        PreflightError: there is none.
    """
    stated = os.environ.get(COMMAND_VARIABLE)
    found = shutil.which(stated or NAME)
    if found is None:
        raise PreflightError(
            f"--modelled {NAME}:"
            f" {f'{COMMAND_VARIABLE}={stated} is no command' if stated else 'the command is not on PATH'}",  # noqa: E501
            cause="AIConfigurator is not installed; it is no part of the harness",
            next_step=(
                f"python -m venv aic && aic/bin/pip install {NAME}==0.12.0, then set"
                f" {COMMAND_VARIABLE}=aic/bin/{NAME}; or use --modelled table, or a stated ratio"
            ),
        )
    return found


def parse_answer(out: str, log: str) -> Answer | None:
    """The box that `cli estimate` prints; None where it holds no throughput.

    Args:
        out: what it wrote to stdout.
        log: what it wrote to stderr.
    """
    figure = re.search(r"^\s*tokens/s/gpu:\s*([\d,]+(?:\.\d+)?)\s*$", out, re.MULTILINE)
    backend = re.search(r"^\s*Backend:\s*(\S.*?)\s*$", out, re.MULTILINE)
    version = re.search(r"Loading AIConfigurator version: (\S+)", log + out)
    value = float(figure[1].replace(",", "")) if figure else 0.0
    if value <= 0:
        return None
    return Answer(
        value,
        backend[1] if backend else "engine not told",
        version[1] if version else "(version not told)",
    )


def parse_fault(log: str) -> str:
    """Why it gave no answer: the last line of its log that names an error, else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    said = next(
        (line for line in reversed(lines) if re.search(r"\b(Error|error|OOM)\b|Error:", line)),
        lines[-1] if lines else "it said nothing",
    )
    return re.sub(r"^(aiconfigurator [a-z]+: error|RuntimeError|Error|ValueError): ", "", said)


@cache
def _ask(command: str, question: Question, system: str) -> Answer:
    argv = (command, "cli", "estimate", *question.arguments(system))
    nowhere = dict.fromkeys(
        ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"
    )  # nothing is fetched
    try:
        done = ask(argv, timeout_s=DEADLINE_S, env=nowhere)
    except OSError as error:
        raise PreflightError(
            f"{command} does not run: {error}", next_step=f"run it by hand: {' '.join(argv)}"
        ) from error
    answer = parse_answer(done.out, done.err) if done.status == 0 else None
    if answer is None:
        raise NotComparableError(
            f"{NAME} has no answer for {question.text()} with {question.engine} on {system}",
            cause=parse_fault(done.err),
            next_step=_next(done.err, argv),
        )
    return answer


def _next(log: str, argv: Sequence[str]) -> str:
    if "--model-path" in log and "config.json" in log:
        return (
            "name a model of the same shape that it knows: --modelled"
            f" {NAME}:meta-llama/Meta-Llama-3.1-8B; or state a ratio"
        )
    return (
        f"run it by hand ({' '.join(argv)}), or state a ratio and its source: --modelled 1.2"
        " --modelled-source …"
    )


def _system(kind: str) -> str:
    if kind not in SYSTEMS:
        raise NotComparableError(
            f"{NAME} has no system for {kind}",
            cause=f"asked are {', '.join(SYSTEMS)}",
            next_step="state a ratio and its source: --modelled 1.2 --modelled-source …",
        )
    return SYSTEMS[kind]
