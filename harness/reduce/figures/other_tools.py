"""The same records under other tools' metric definitions, so that results can be compared.

Every tool gets what it would have seen of the headline stage: completed requests, timed from
sending (closest to the tools' own timers), over the whole stage with ramp and drain. Definitions
were read from the sources named with each tool. If a tool needs data that the records lack, its
value is absent with a reason, or the nearest available one with a note.
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
from harness.reduce.energy.devices import per_joule
from harness.reduce.figures.answered_requests import NS, AnsweredRequests
from harness.reduce.over_time.flows import Flows
from harness.reduce.read.run import Run
from harness.reduce.windows.measurement_window import StageWindow

TERMS: Final[Mapping[str, tuple[str, str]]] = {
    "ttft_s": ("TTFT", "s"),
    "itl_s": ("ITL", "s"),
    "tpot_s": ("TPOT", "s"),
    "output_tok_s": ("Output-token throughput", "tok/s"),
    "tok_s_user": ("Tokens per second per user", "tok/s"),
    "tok_s_gpu": ("Tokens per second per GPU", "tok/s/GPU"),
    "power_w": ("Power", "W"),
    "output_tok_per_j": ("Output tokens per joule", "tok/J"),
    "tok_s_per_mw": ("Tokens per second per megawatt", "tok/s/MW"),
    "duration_s": ("Measured time", "s"),
}
"""Term -> heading and unit, in the order of reports."""

PROVISIONED_KW: Final = (
    (re.compile(r"NVIDIA H100|NVIDIA H200"), 1.73),
    (re.compile(r"NVIDIA GB200"), 2.10),
    (re.compile(r"NVIDIA B200"), 2.17),
)
"""InferenceX's provisioned utility power per GPU, in kW, with facility overhead: its app's
lib/constants.ts, 2026-04-03, by secondary notes.
"""


Value = Distribution | float | str
"""A distribution, one value, or the reason why there is none."""


@dataclass(frozen=True, slots=True)
class Term:
    """One term as defined by one tool.

    Attributes:
        words: its definition.
        of: its value.
        note: how the records differ from what the tool would see.
    """

    words: str
    of: Callable[[AnsweredRequests], Value]
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool's definitions.

    Attributes:
        source: repository, file and commit of the definitions.
        window: what it measures over.
        terms: by key of `TERMS`, without those it does not report.
    """

    title: str
    source: str
    window: str
    terms: Mapping[str, Term]


_NO_SECOND: Final = "no response has more than one token"
_NO_COUNT: Final = "no response reported a token count"
_NO_CHUNK: Final = "no response has more than one chunk"
_NOT_TOLD: Final = "the stream does not report tokens per chunk, or no response has more than one"
_NO_GPU: Final = "the deployment has no GPU"


def _of(key: str, why: str, *, inverse: bool = False) -> Callable[[AnsweredRequests], Value]:
    """A distribution over requests or gaps, or why there is none."""

    def of(seen: AnsweredRequests) -> Value:
        found = seen.inverse(key) if inverse else seen.spread(key)
        return found if found.n else why

    return of


def _one_over(key: str, statistic: str, why: str) -> Callable[[AnsweredRequests], Value]:
    """1 / a statistic of a distribution."""

    def of(seen: AnsweredRequests) -> Value:
        found = getattr(seen.spread(key), statistic)
        return 1 / found if found else why

    return of


_TTFT: Final = _of("ttft", "no response has content")
_PACE: Final = _of("pace", _NO_SECOND)


def _per_gpu(seen: AnsweredRequests, tok_s: float) -> Value:
    return tok_s / seen.gpus if seen.gpus else _NO_GPU


def _measured_w(seen: AnsweredRequests) -> Value:
    joules = _joules(seen)
    return _no_power(seen) if joules is None else joules / seen.duration_s


def _measured_tok_per_j(seen: AnsweredRequests) -> Value:
    found = per_joule(seen.output_tok, _joules(seen))
    return _no_power(seen) if found is None else found


def _joules(seen: AnsweredRequests) -> float | None:
    return None if seen.energy is None else seen.energy.joules


def _no_power(seen: AnsweredRequests) -> str:
    if seen.energy is not None and seen.energy.reason:
        return seen.energy.reason
    return _NO_GPU if seen.gpus is None else "GPU power was not read over the whole stage"


def _provisioned(seen: AnsweredRequests) -> Value:
    if seen.gpus is None:
        return _NO_GPU
    kw = provisioned_kw(seen.gpu_name)
    if kw is None:
        return f"no provisioned power is published for {seen.gpu_name or 'this GPU'}"
    return seen.total_tok_s / seen.gpus * 1000 / kw


def provisioned_kw(gpu_name: str | None) -> float | None:
    """InferenceX's provisioned utility power per GPU, in kW; None for a GPU without one."""
    kws = (kw for pattern, kw in PROVISIONED_KW if gpu_name and pattern.match(gpu_name))
    return next(kws, None)


_WHOLE: Final = (
    "the whole run, from the first request's start to the last response's end, with ramp and drain"
)
_ROLE_CHUNK: Final = (
    "chunks without content are not recorded; the first one with content is used, so this is an"
    " upper bound"
)
_RAW: Final = (
    "raw readings, as the tool takes them: without this run's sensor calibration and even if GPUs"
    " were throttled, so it can differ from the harness's value"
)
_OUTPUT: Final = Term(
    "output tokens of all completed requests / measured time", lambda seen: seen.output_tok_s
)
_DURATION: Final = Term(
    "first request's start to last response's end", lambda seen: seen.duration_s
)
_MEAN_PACE: Final = "per request: (last token - first token) / (output tokens - 1)"
_TOTAL_PACE: Final = (
    "per request: (last token - request start) / output tokens; includes the time to first token"
)


def _defined(title: str, source: str, window: str = _WHOLE, **terms: Term) -> Tool:
    every = {"output_tok_s": _OUTPUT, "duration_s": _DURATION, **terms}
    return Tool(title, source, window, {term: every[term] for term in TERMS if term in every})


TOOLS: Final[Mapping[str, Tool]] = {
    "vllm_bench": _defined(
        "vllm bench serve",
        "vllm-project/vllm vllm/benchmarks/serve.py at 009e6d4a, lib/endpoint_request_func.py at"
        " 02cfb534",
        _WHOLE,
        ttft_s=Term("first chunk with `choices`, even without content", _TTFT, _ROLE_CHUNK),
        itl_s=Term(
            "gaps between chunks, pooled over all requests, one per chunk",
            _of("chunk_gap", _NO_CHUNK),
        ),
        tpot_s=Term("per request: (latency to the last chunk - TTFT) / (output tokens - 1)", _PACE),
        tok_s_user=Term(
            "output tokens per second / concurrency (the x axis of its Pareto plots)",
            lambda seen: seen.output_tok_s / seen.concurrency,
        ),
        tok_s_gpu=Term(
            "output tokens per second / GPUs (the y axis of its Pareto plots)",
            lambda seen: _per_gpu(seen, seen.output_tok_s),
        ),
    ),
    "aiperf": _defined(
        "AIPerf",
        "ai-dynamo/aiperf aiperf/metrics/types at db4f6397; energy: from notes on its metrics"
        " reference, not read",
        _WHOLE,
        ttft_s=Term("first response with content, reasoning included", _TTFT),
        itl_s=Term("per request: (request latency - TTFT) / (output tokens - 1)", _PACE),
        tok_s_user=Term(
            "per request: 1 / ITL, as a distribution", _of("pace", _NO_SECOND, inverse=True)
        ),
        tok_s_gpu=Term(
            "output tokens per second / GPUs", lambda seen: _per_gpu(seen, seen.output_tok_s)
        ),
        power_w=Term("measured GPU power, summed", _measured_w, _RAW),
        output_tok_per_j=Term("output tokens / measured GPU energy", _measured_tok_per_j, _RAW),
    ),
    "guidellm": _defined(
        "GuideLLM",
        "vllm-project/guidellm src/guidellm/schemas/request_stats.py at ee7a7745",
        f"{_WHOLE}; its --warmup and --cooldown (not its default) exclude fractions at the ends",
        ttft_s=Term("first iteration that yields a token", _TTFT),
        itl_s=Term(_MEAN_PACE, _PACE),
        tpot_s=Term(_TOTAL_PACE, _of("whole_pace", _NO_COUNT)),
        tok_s_user=Term(
            "per request: output tokens / request latency",
            _of("whole_pace_to_end", _NO_COUNT, inverse=True),
        ),
    ),
    "inference_perf": _defined(
        "inference-perf",
        "kubernetes-sigs/inference-perf inference_perf/reportgen/base.py at 7de5ef2e",
        f"{_WHOLE} of each stage",
        ttft_s=Term(
            "first token, of responses with more than one",
            _of("ttft_of_several", _NO_SECOND),
        ),
        itl_s=Term(
            "gaps between tokens, pooled over all requests; a chunk's tokens arrive with it",
            _of("token_gap", _NO_SECOND),
            "it counts a chunk's tokens with a tokenizer; here the count is the stream's, or"
            " one per chunk",
        ),
        tpot_s=Term(_MEAN_PACE, _PACE),
    ),
    "genai_bench": _defined(
        "genai-bench",
        "sgl-project/genai-bench genai_bench/metrics at 7fd04d8c",
        f"{_WHOLE}; --warmup-ratio and --cooldown-ratio exclude requests from the sums, but not"
        " their time from the duration",
        ttft_s=Term("first token", _TTFT),
        tpot_s=Term(
            "per request: (E2E latency - TTFT) / (output tokens - 1)",
            _of("pace_to_end", _NO_SECOND),
        ),
        tok_s_user=Term(
            "per request: 1 / TPOT (output inference speed)",
            _of("pace_to_end", _NO_SECOND, inverse=True),
        ),
    ),
    "llmperf": _defined(
        "llmperf",
        "ray-project/llmperf token_benchmark_ray.py at f1d6bed4",
        _WHOLE,
        ttft_s=Term("first chunk with content", _TTFT),
        itl_s=Term(
            _TOTAL_PACE,
            _of("whole_pace", _NO_COUNT),
            "it counts output tokens with Llama's tokenizer for every model; here the count is"
            " the server's",
        ),
        tok_s_user=Term(
            "per request: output tokens / E2E latency",
            _of("whole_pace_to_end", _NO_COUNT, inverse=True),
        ),
    ),
    "mlperf_endpoints": _defined(
        "MLPerf Endpoints",
        "mlcommons/endpoints services/metrics_aggregator/metrics_table.py at ea332753; p90: from"
        " notes on its rules, not read",
        f"{_WHOLE}, of tracked requests; its rules require the saturated part",
        ttft_s=Term("first chunk with content, its rules at p90", _TTFT),
        tpot_s=Term(
            "per request: (response end - first chunk) / tokens after the first chunk",
            _of("pace_after_chunk", _NOT_TOLD),
        ),
        tok_s_user=Term("1 / p90 of TPOT", _one_over("pace_after_chunk", "p90", _NOT_TOLD)),
    ),
    "inferencex": _defined(
        "InferenceX",
        "SemiAnalysisAI/InferenceX utils/process_result.py and utils/aggregate_power.py at"
        " 843c6254; tok/s/MW: from notes on its app",
        _WHOLE,
        ttft_s=Term("as vllm bench, which its client forks", _TTFT, _ROLE_CHUNK),
        itl_s=Term("as vllm bench", _of("chunk_gap", _NO_CHUNK)),
        tpot_s=Term("as vllm bench", _PACE),
        tok_s_user=Term(
            "1 / median of TPOT (interactivity; also for other statistics)",
            _one_over("pace", "p50", _NO_SECOND),
        ),
        tok_s_gpu=Term(
            "input and output tokens per second / GPUs, cached input in full; if disaggregated,"
            " output over decode GPUs only",
            lambda seen: _per_gpu(seen, seen.total_tok_s),
        ),
        power_w=Term(
            "measured GPU power, mean per GPU",
            lambda seen: (
                found / seen.gpus
                if isinstance(found := _measured_w(seen), float) and seen.gpus
                else found
            ),
            _RAW,
        ),
        output_tok_per_j=Term(
            "1 / joules per output token: measured energy of all GPUs / output tokens",
            _measured_tok_per_j,
            _RAW,
        ),
        tok_s_per_mw=Term(
            "input and output tokens per second per GPU x 1000 / provisioned kW per GPU, with"
            " facility overhead",
            _provisioned,
            "modeled: the power is a constant per GPU type, not measured",
        ),
    ),
}
"""By key of the summary."""

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
    """The headline stage under every tool's definitions; None without a completed request."""
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
        words, note = f"the harness's {key}", None
        value: Value
        if key not in latency:
            metric = metrics.get(key)
            value = (metric.note if metric else None) or "absent"
            if metric is not None and metric.value is not None:
                value = metric.value
        elif term == "itl_s" and not latency[key].n and latency["inter_event_s"].n:
            value, words = latency["inter_event_s"], "gaps between chunks"
            note = "the stream does not report tokens per chunk"
        else:
            value = latency[key] if latency[key].n else "no request reached it"
        out[term] = _entry(term, value, words, note)
    if window.start is not None and window.end is not None:
        length_s = (window.end - window.start) * NS
        out["duration_s"] = _entry("duration_s", length_s, "the measurement window", None)
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
        return replace(entry, note="no data")
    return replace(entry, value=float(value))


@dataclass(frozen=True, slots=True)
class RosettaTable:
    """The table for a report: a row per term, a column per tool.

    Attributes:
        head: `term`, then the harness and every tool.
        rows: a distribution as `(p50, p99)`, a value as itself, None if absent.
        terms: heading and unit of each row.
        notes: tool, term, and definition with its note, ordered by tool.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[tuple[float | None, float | None] | float | None, ...], ...]
    terms: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str, str], ...]


def rosetta_table(found: OtherTools | None) -> RosettaTable | None:
    """The table, if there is data for it."""
    if found is None:
        return None
    columns: Sequence[tuple[str, Mapping[str, ToolFigure]]] = (
        ("this harness", found.harness),
        *((tool.title, tool.figures) for tool in found.tools.values()),
    )
    rows = tuple(tuple(_cell(figures.get(term)) for _, figures in columns) for term in TERMS)
    notes = tuple(
        (tool.title, TERMS[term][0], one.definition + (f" ({one.note})" if one.note else ""))
        for tool in found.tools.values()
        for term, one in tool.figures.items()
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
