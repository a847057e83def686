"""The same records under the definitions of other tools, so that a run's numbers can be held
against anybody's.

Every tool sees what it would have seen of the stage that heads the summary: requests that were
answered in full, timed from sending (the moment that a tool's own timer comes nearest to), over the
whole stage with its ramp and its drain. Definitions were read from the projects' sources, which are
named with each; where a tool needs something that the records do not hold, the figure is absent
with the reason, or the nearest that they do hold with a note.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from harness.artifacts.run_summary import (
    Distribution,
    Figure,
    OtherTools,
    ToolFigure,
    ToolFigures,
)
from harness.reduce.figures.answered_requests import NS, AnsweredRequests
from harness.reduce.over_time.flows import Flows
from harness.reduce.read.run import Run
from harness.reduce.windows.windows import StageWindow

TERMS: Final[Mapping[str, tuple[str, str]]] = {
    "ttft_s": ("TTFT", "s"),
    "itl_s": ("ITL", "s"),
    "tpot_s": ("TPOT", "s"),
    "output_tok_s": ("Output tokens per second", "tok/s"),
    "tok_s_user": ("Tokens per second per user", "tok/s"),
    "tok_s_gpu": ("Tokens per second per GPU", "tok/s/GPU"),
    "power_w": ("Watts", "W"),
    "output_tok_per_j": ("Output tokens per joule", "tok/J"),
    "tok_s_per_mw": ("Tokens per second per megawatt", "tok/s/MW"),
    "duration_s": ("Measured time", "s"),
}
"""Term -> heading and unit, in the order in which reports show them."""

PROVISIONED_KW: Final = (
    (re.compile(r"NVIDIA H100|NVIDIA H200"), 1.73),
    (re.compile(r"NVIDIA GB200"), 2.10),
    (re.compile(r"NVIDIA B200"), 2.17),
)
"""Utility power that InferenceX provisions for a GPU, in kW, facility overhead included:
InferenceX's app, lib/constants.ts, 2026-04-03, by secondary notes.
"""


Value = Distribution | float | str
"""A distribution, one value, or why there is none."""


@dataclass(frozen=True, slots=True)
class Term:
    """One term as one tool means it.

    Attributes:
        words: its definition.
        of: the figure.
        note: where the records hold something else than the tool would see.
    """

    words: str
    of: Callable[[AnsweredRequests], Value]
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool's dictionary.

    Attributes:
        title: for people.
        source: repository, file and commit that the definitions were read from.
        window: over what it measures, in words.
        terms: by key of `TERMS`; what it does not report is not there.
    """

    title: str
    source: str
    window: str
    terms: Mapping[str, Term]


_NO_SECOND: Final = "no answer of more than one token"
_NO_COUNT: Final = "no answer came with a count of tokens"
_NO_CHUNK: Final = "no answer of more than one chunk"
_NOT_TOLD: Final = "the stream does not tell tokens per chunk, or no answer has more than one"


def _of(key: str, why: str) -> Callable[[AnsweredRequests], Value]:
    """A distribution over requests or gaps, or why there is none."""

    def of(seen: AnsweredRequests) -> Value:
        found = seen.spread(key)
        return found if found.n else why

    return of


def _inverse_of(key: str, why: str) -> Callable[[AnsweredRequests], Value]:
    def of(seen: AnsweredRequests) -> Value:
        found = seen.inverse(key)
        return found if found.n else why

    return of


def _one_over(key: str, statistic: str, why: str) -> Callable[[AnsweredRequests], Value]:
    """1 / a statistic of a distribution."""

    def of(seen: AnsweredRequests) -> Value:
        found = getattr(seen.spread(key), statistic)
        return 1 / found if found else why

    return of


_TTFT: Final = _of("ttft", "no answer carried content")
_PACE: Final = _of("pace", _NO_SECOND)


def _per_gpu(seen: AnsweredRequests, tok_s: float) -> Value:
    return tok_s / seen.gpus if seen.gpus else "the deployment holds no GPU"


def _measured_w(seen: AnsweredRequests) -> Value:
    joules = _joules(seen)
    return _no_power(seen) if joules is None else joules / seen.duration_s


def _measured_tok_per_j(seen: AnsweredRequests) -> Value:
    joules = _joules(seen)
    return seen.output_tok / joules if joules else _no_power(seen)


def _joules(seen: AnsweredRequests) -> float | None:
    return None if seen.energy is None else seen.energy.joules


def _no_power(seen: AnsweredRequests) -> str:
    if seen.energy is not None and seen.energy.reason:
        return seen.energy.reason
    return (
        "the deployment holds no GPU"
        if seen.gpus is None
        else "no power of the boards was read over the whole stage"
    )


def _provisioned(seen: AnsweredRequests) -> Value:
    if seen.gpus is None:
        return "the deployment holds no GPU"
    kw = provisioned_kw(seen.gpu_name)
    if kw is None:
        return f"no provisioned power is published for {seen.gpu_name or 'this GPU'}"
    return seen.total_tok_s / seen.gpus * 1000 / kw


def provisioned_kw(gpu_name: str | None) -> float | None:
    """InferenceX's provisioned utility power a GPU, in kW; None for a GPU without one."""
    return next(
        (kw for pattern, kw in PROVISIONED_KW if gpu_name and pattern.match(gpu_name)), None
    )


_WHOLE: Final = "the whole run, from the first request's start to the last answer's end, ramp and drain included"  # noqa: E501
_ROLE_CHUNK: Final = (
    "a chunk without content is not in the records; the first one with content stands in, so that"
    " this is an upper bound"
)
_OUTPUT: Final = Term(
    "output tokens of all answered requests / measured time", lambda seen: seen.output_tok_s
)
_DURATION: Final = Term("first request's start to last answer's end", lambda seen: seen.duration_s)
_MEAN_PACE: Final = "per request: (last token - first token) / (output tokens - 1)"

TOOLS: Final[Mapping[str, Tool]] = {
    "vllm_bench": Tool(
        "vllm bench serve",
        "vllm-project/vllm vllm/benchmarks/serve.py at 009e6d4a, lib/endpoint_request_func.py at"
        " 02cfb534",
        _WHOLE,
        {
            "ttft_s": Term(
                "first chunk that has `choices`, even one without content", _TTFT, _ROLE_CHUNK
            ),
            "itl_s": Term(
                "gaps between chunks, pooled over all requests, one each whatever they hold",
                _of("chunk_gap", _NO_CHUNK),
            ),
            "tpot_s": Term(
                "per request: (latency to the last chunk - TTFT) / (output tokens - 1)", _PACE
            ),
            "output_tok_s": _OUTPUT,
            "tok_s_user": Term(
                "output tokens per second / concurrency (the x axis of its Pareto plots)",
                lambda seen: seen.output_tok_s / seen.concurrency,
            ),
            "tok_s_gpu": Term(
                "output tokens per second / GPUs (the y axis of its Pareto plots)",
                lambda seen: _per_gpu(seen, seen.output_tok_s),
            ),
            "duration_s": _DURATION,
        },
    ),
    "aiperf": Tool(
        "AIPerf",
        "ai-dynamo/aiperf aiperf/metrics/types at db4f6397; energy: from notes on its metrics"
        " reference, the original was not read",
        _WHOLE,
        {
            "ttft_s": Term("first response with content, reasoning included", _TTFT),
            "itl_s": Term(
                "per request: (request latency - TTFT) / (output tokens - 1), its mean gap", _PACE
            ),
            "output_tok_s": _OUTPUT,
            "tok_s_user": Term(
                "per request: 1 / ITL, as a distribution", _inverse_of("pace", _NO_SECOND)
            ),
            "tok_s_gpu": Term(
                "output tokens per second / GPUs", lambda seen: _per_gpu(seen, seen.output_tok_s)
            ),
            "power_w": Term("measured at the GPU boards, summed", _measured_w),
            "output_tok_per_j": Term(
                "output tokens / measured energy of the GPU boards", _measured_tok_per_j
            ),
            "duration_s": _DURATION,
        },
    ),
    "guidellm": Tool(
        "GuideLLM",
        "vllm-project/guidellm src/guidellm/schemas/request_stats.py at ee7a7745",
        f"{_WHOLE}; fractions at its ends are left out when its --warmup and --cooldown are set,"
        " which is not its default",
        {
            "ttft_s": Term("first iteration that yields a token", _TTFT),
            "itl_s": Term(_MEAN_PACE, _PACE),
            "tpot_s": Term(
                "per request: (last token - request's start) / output tokens: includes the time to"
                " the first",
                _of("whole_pace", _NO_COUNT),
            ),
            "output_tok_s": _OUTPUT,
            "tok_s_user": Term(
                "per request: output tokens / request latency",
                _inverse_of("whole_pace_to_end", _NO_COUNT),
            ),
            "duration_s": _DURATION,
        },
    ),
    "inference_perf": Tool(
        "inference-perf",
        "kubernetes-sigs/inference-perf inference_perf/reportgen/base.py at 7de5ef2e",
        f"{_WHOLE} of each stage",
        {
            "ttft_s": Term(
                "first token, of answers with more than one",
                _of("ttft_of_several", "no such answer"),
            ),
            "itl_s": Term(
                "gaps between tokens, pooled over all requests, every token of a chunk at the"
                " chunk's arrival",
                _of("token_gap", _NO_SECOND),
                "it counts a chunk's tokens with a tokenizer; here they are the stream's own, or"
                " one a chunk where it does not tell",
            ),
            "tpot_s": Term(_MEAN_PACE, _PACE),
            "output_tok_s": _OUTPUT,
            "duration_s": _DURATION,
        },
    ),
    "genai_bench": Tool(
        "genai-bench",
        "sgl-project/genai-bench genai_bench/metrics at 7fd04d8c",
        f"{_WHOLE}; with --warmup-ratio or --cooldown-ratio requests are left out of the sums but"
        " not their time of the duration",
        {
            "ttft_s": Term("first token", _TTFT),
            "tpot_s": Term(
                "per request: (whole latency - TTFT) / (output tokens - 1)",
                _of("pace_to_end", _NO_SECOND),
            ),
            "output_tok_s": _OUTPUT,
            "tok_s_user": Term(
                "per request: 1 / TPOT (output inference speed)",
                _inverse_of("pace_to_end", _NO_SECOND),
            ),
            "duration_s": _DURATION,
        },
    ),
    "llmperf": Tool(
        "llmperf",
        "ray-project/llmperf token_benchmark_ray.py at f1d6bed4",
        _WHOLE,
        {
            "ttft_s": Term("first chunk with content", _TTFT),
            "itl_s": Term(
                "per request: (last chunk - request's start) / output tokens: includes the time to"
                " the first",
                _of("whole_pace", _NO_COUNT),
                "it counts output tokens with the tokenizer of Llama whatever the model; here they"
                " are the server's",
            ),
            "output_tok_s": _OUTPUT,
            "tok_s_user": Term(
                "per request: output tokens / whole latency",
                _inverse_of("whole_pace_to_end", _NO_COUNT),
            ),
            "duration_s": _DURATION,
        },
    ),
    "mlperf_endpoints": Tool(
        "MLPerf Endpoints",
        "mlcommons/endpoints services/metrics_aggregator/metrics_table.py at ea332753; p90: from"
        " notes on its rules, not read",
        f"{_WHOLE} of what is tracked; its rules ask for the saturated part",
        {
            "ttft_s": Term("first chunk with content, its rules at p90", _TTFT),
            "tpot_s": Term(
                "per request: (answer's end - first chunk) / tokens after the first chunk",
                _of("pace_after_chunk", _NOT_TOLD),
            ),
            "output_tok_s": _OUTPUT,
            "tok_s_user": Term("1 / p90 of TPOT", _one_over("pace_after_chunk", "p90", _NOT_TOLD)),
            "duration_s": _DURATION,
        },
    ),
    "inferencex": Tool(
        "InferenceX",
        "SemiAnalysisAI/InferenceX utils/process_result.py and utils/aggregate_power.py at"
        " 843c6254; tok/s/MW: from notes on its app",
        _WHOLE,
        {
            "ttft_s": Term("as vllm bench, of which its client is a fork", _TTFT, _ROLE_CHUNK),
            "itl_s": Term("as vllm bench", _of("chunk_gap", _NO_CHUNK)),
            "tpot_s": Term("as vllm bench", _PACE),
            "output_tok_s": _OUTPUT,
            "tok_s_user": Term(
                "1 / median of TPOT (interactivity; other statistics likewise)",
                _one_over("pace", "p50", _NO_SECOND),
            ),
            "tok_s_gpu": Term(
                "input and output tokens per second / GPUs, cached input counted in full;"
                " disaggregated, output only over decode GPUs",
                lambda seen: _per_gpu(seen, seen.total_tok_s),
            ),
            "power_w": Term(
                "measured at the GPU boards, the mean of one GPU",
                lambda seen: (
                    found / seen.gpus
                    if isinstance(found := _measured_w(seen), float) and seen.gpus
                    else found
                ),
            ),
            "output_tok_per_j": Term(
                "1 / joules per output token: measured energy of all boards / output tokens",
                _measured_tok_per_j,
            ),
            "tok_s_per_mw": Term(
                "input and output tokens per second per GPU x 1000 / a provisioned constant of kW"
                " per GPU, facility overhead included",
                _provisioned,
                "modelled: the power is a constant of the GPU's type, not measured",
            ),
            "duration_s": _DURATION,
        },
    ),
}
"""The tools, by key of the summary."""

HARNESS: Final[Mapping[str, str]] = {
    "ttft_s": "ttft_s",
    "itl_s": "itl_s",
    "tpot_s": "tpot_s",
    "output_tok_s": "output_tok_s",
    "tok_s_user": "interactivity_tok_s_user",
    "tok_s_gpu": "output_tok_s_per_gpu",
    "power_w": "power_w",
    "output_tok_per_j": "output_tok_per_j",
    "tok_s_per_mw": "output_tok_s_per_mw",
}
"""Term -> the harness's own metric."""


def rosetta(
    run: Run,
    window: StageWindow | None,
    flow: Flows,
    metrics: Mapping[str, Figure],
    latency: Mapping[str, Distribution],
) -> OtherTools | None:
    """The stage that heads the summary under every tool's definitions; None without a stage that
    answered anything.
    """
    seen = None if window is None else AnsweredRequests.of(run, window, flow)
    if window is None or seen is None:
        return None
    return OtherTools(
        stage=window.name,
        requests=seen.requests,
        harness=_own(metrics, latency, window),
        tools={key: _tool(tool, seen) for key, tool in TOOLS.items()},
    )


def _own(
    metrics: Mapping[str, Figure], latency: Mapping[str, Distribution], window: StageWindow
) -> dict[str, ToolFigure]:
    out: dict[str, ToolFigure] = {}
    for term, key in HARNESS.items():
        if key in latency:
            found = latency[key]
            if term == "itl_s" and not found.n and latency["inter_event_s"].n:
                out[term] = _entry(
                    term,
                    latency["inter_event_s"],
                    "gaps between events",
                    "the stream does not tell tokens per chunk",
                )
            else:
                out[term] = _entry(
                    term,
                    found if found.n else "no request came that far",
                    f"the harness's {key}",
                    None,
                )
        else:
            figure = metrics.get(key)
            value: Value = (
                figure.value
                if figure is not None and figure.value is not None
                else (figure.note if figure else None) or "absent"
            )
            out[term] = _entry(term, value, f"the harness's {key}", None)
    if window.start is not None and window.end is not None:
        out["duration_s"] = _entry(
            "duration_s", (window.end - window.start) * NS, "the measured window", None
        )
    return out


def _tool(tool: Tool, seen: AnsweredRequests) -> ToolFigures:
    return ToolFigures(
        title=tool.title,
        source=tool.source,
        window=tool.window,
        figures={
            key: _entry(key, term.of(seen), term.words, term.note)
            for key, term in tool.terms.items()
        },
    )


def _entry(term: str, value: Value, words: str, note: str | None) -> ToolFigure:
    entry = ToolFigure(unit=TERMS[term][1], definition=words, note=note)
    if isinstance(value, str):
        return replace(entry, note=value)
    if isinstance(value, Distribution):
        return replace(
            entry, mean=value.mean, p50=value.p50, p90=value.p90, p99=value.p99, n=value.n
        )
    if not np.isfinite(value):
        return replace(entry, note="nothing to take it from")
    return replace(entry, value=float(value))


@dataclass(frozen=True, slots=True)
class RosettaTable:
    """The table for a report: terms down, tools across.

    Attributes:
        head: `term`, then the harness and every tool.
        rows: under the head; a distribution as `(p50, p99)`, one value as itself, None where the
            tool has no such term or it is absent.
        terms: heading and unit of each row.
        notes: definition, source and remark of every cell, one line each, in the order of the
            tools.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[tuple[float | None, float | None] | float | None, ...], ...]
    terms: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str, str], ...]


def rosetta_table(found: OtherTools | None) -> RosettaTable | None:
    """The table; None where there is nothing for it."""
    if found is None:
        return None
    columns: Sequence[tuple[str, Mapping[str, ToolFigure]]] = (
        ("this harness", found.harness),
        *((tool.title, tool.figures) for tool in found.tools.values()),
    )
    rows = tuple(tuple(_cell(figures.get(term)) for _, figures in columns) for term in TERMS)
    notes = tuple(
        (
            tool.title,
            TERMS[term][0],
            entry.definition + (f" ({entry.note})" if entry.note else ""),
        )
        for tool in found.tools.values()
        for term, entry in tool.figures.items()
    )
    return RosettaTable(
        ("term", *(title for title, _ in columns)), rows, tuple(TERMS.values()), notes
    )


def _cell(entry: ToolFigure | None) -> tuple[float | None, float | None] | float | None:
    if entry is None:
        return None
    if entry.value is not None:
        return float(entry.value)
    return (entry.p50, entry.p99) if entry.n else None
