"""Prometheus metric names of each model server, by concept.

Names as exposed, with renames between versions: the first alternative that a server exposes is
used. If it exposes none, the value is absent, never 0. Sources, read in 2026: expositions of real
servers (vLLM 0.32, llama.cpp b11434; recorded in the tests); SGLang's srt/metrics/collector.py;
TensorRT-LLM's tensorrt_llm/metrics/collector.py; text-generation-inference's
docs/source/reference/metrics.md and router; Dynamo's lib/runtime/src/metrics/prometheus_names.rs
and its page on metrics.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final, Literal


class Concept(StrEnum):
    """A quantity that servers expose: a cumulative counter unless stated otherwise."""

    PROMPT_TOKENS = "prompt_tokens"  # cached part included
    COMPUTED_TOKENS = "computed_tokens"  # prompt tokens not read from a cache
    CACHED_TOKENS = "cached_tokens"  # prompt tokens read from a cache
    GENERATED_TOKENS = "generated_tokens"
    FINISHED = "finished"  # requests
    PREEMPTED = "preempted"  # preemptions of requests (KV cache full)
    RUNNING = "running"  # gauge: requests in the batch
    WAITING = "waiting"  # gauge: requests queued
    KV_USAGE = "kv_usage"  # gauge: share of the KV cache in use, 0 to 1
    TTFT = "ttft"  # histogram, seconds
    ITL = "itl"  # histogram, seconds


Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Series:
    """Samples of one name; only those with the listed label values, if any are listed."""

    name: str
    label: str | None = None
    values: tuple[str, ...] = ()

    def matches(self, name: str, labels: Mapping[str, str]) -> bool:
        return name == self.name and (self.label is None or labels.get(self.label) in self.values)


@dataclass(frozen=True, slots=True)
class Source:
    """Where one server exposes one concept.

    Attributes:
        kind: a histogram's samples are `<name>_bucket`, `<name>_sum` and `<name>_count`.
        series: summed; all of them must be exposed.
        replicated: labels (a tensor-parallel rank) whose samples repeat one value, so they must not
            be summed.
    """

    kind: Kind
    series: tuple[Series, ...]
    replicated: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Sample names that must be exposed for it to be used."""
        return tuple(f"{s.name}_count" if self.kind == "histogram" else s.name for s in self.series)


PREFIXES: Final[Mapping[str, str]] = {
    "vllm": "vllm:",
    "sglang": "sglang:",
    "llama.cpp": "llamacpp:",
    "trtllm": "trtllm_",
    "tgi": "tgi_",
    "dynamo": "dynamo_frontend_",
}
"""Server -> prefix of its names. The embedded engine uses vLLM's names. `dynamo` is Dynamo's
frontend; its workers expose their engine's names, so they are read as that engine.
"""

# Ranks of one scheduler; each dp_rank has its own values.
_SGLANG_RANKS = ("tp_rank", "pp_rank", "moe_ep_rank")


def _sources(kind: Kind, *names: str, replicated: tuple[str, ...] = ()) -> tuple[Source, ...]:
    return tuple(Source(kind, (Series(name),), replicated) for name in names)


_counter = partial(_sources, "counter")
_gauge = partial(_sources, "gauge")
_histogram = partial(_sources, "histogram")
_sglang = partial(_sources, replicated=_SGLANG_RANKS)


def _labeled(kind: Kind, name: str, label: str, *values: str) -> tuple[Source, ...]:
    return (Source(kind, (Series(name, label, values),)),)


def _sglang_realtime(mode: str) -> Source:
    return Source(
        "counter", (Series("sglang:realtime_tokens_total", "mode", (mode,)),), _SGLANG_RANKS
    )


def _names(**sources: tuple[Source, ...]) -> Mapping[Concept, tuple[Source, ...]]:
    return {Concept(concept): found for concept, found in sources.items()}


NAMES: Final[Mapping[str, Mapping[Concept, tuple[Source, ...]]]] = {
    "vllm": _names(
        prompt_tokens=_counter("vllm:prompt_tokens_total"),
        computed_tokens=_labeled(
            "counter", "vllm:prompt_tokens_by_source_total", "source", "local_compute"
        ),
        # By source first: prefix_cache_hits counted requests that were scheduled again twice (vLLM
        # #43736).
        cached_tokens=(
            *_labeled(
                "counter",
                "vllm:prompt_tokens_by_source_total",
                "source",
                "local_cache_hit",
                "external_kv_transfer",
            ),
            *_counter(
                "vllm:prompt_tokens_cached_total",
                "vllm:prefix_cache_hits_total",
                "vllm:gpu_prefix_cache_hits_total",
            ),
        ),
        generated_tokens=_counter("vllm:generation_tokens_total"),
        finished=_counter("vllm:request_success_total"),
        preempted=_counter("vllm:num_preemptions_total"),
        running=_gauge("vllm:num_requests_running"),
        waiting=_gauge("vllm:num_requests_waiting"),
        kv_usage=_gauge("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        ttft=_histogram("vllm:time_to_first_token_seconds"),
        itl=_histogram("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
    ),
    "sglang": _names(
        prompt_tokens=_sglang("counter", "sglang:prompt_tokens_total"),
        computed_tokens=(_sglang_realtime("prefill_compute"),),
        # Not sglang:cache_hit_rate, which is instantaneous.
        cached_tokens=(
            *_sglang("counter", "sglang:cached_tokens_total"),
            _sglang_realtime("prefill_cache"),
        ),
        generated_tokens=_sglang("counter", "sglang:generation_tokens_total"),
        finished=_sglang("counter", "sglang:num_requests_total"),
        # In older versions a gauge that only grows; sglang:num_retracted_reqs is instantaneous.
        preempted=_sglang(
            "counter", "sglang:num_retracted_requests_total", "sglang:total_retracted_reqs"
        ),
        running=_sglang("gauge", "sglang:num_running_reqs"),
        waiting=_sglang("gauge", "sglang:num_queue_reqs"),
        kv_usage=_sglang("gauge", "sglang:token_usage"),
        ttft=_sglang("histogram", "sglang:time_to_first_token_seconds"),
        itl=_sglang(
            "histogram",
            "sglang:inter_token_latency_seconds",
            "sglang:time_per_output_token_seconds",
        ),
    ),
    "llama.cpp": _names(
        # prompt_tokens_total excludes the cached part, so both are needed.
        prompt_tokens=(
            Source(
                "counter",
                (
                    Series("llamacpp:prompt_tokens_total"),
                    Series("llamacpp:prompt_tokens_cached_total"),
                ),
            ),
        ),
        computed_tokens=_counter("llamacpp:prompt_tokens_total"),
        cached_tokens=_counter("llamacpp:prompt_tokens_cached_total"),
        generated_tokens=_counter("llamacpp:tokens_predicted_total"),
        running=_gauge("llamacpp:requests_processing"),
        waiting=_gauge("llamacpp:requests_deferred"),
        kv_usage=_gauge("llamacpp:kv_cache_usage_ratio"),
    ),
    # Served at /prometheus/metrics (/metrics is JSON). Tokens are counted when a request finishes,
    # and only with return_perf_metrics; requests and KV usage only with enable_iter_perf_stats.
    "trtllm": _names(
        prompt_tokens=_counter("trtllm_prompt_tokens_total"),
        cached_tokens=_counter("trtllm_prompt_cached_tokens_total"),
        generated_tokens=_counter("trtllm_generation_tokens_total"),
        finished=_counter("trtllm_request_success_total"),
        running=_gauge("trtllm_num_requests_running"),
        waiting=_gauge("trtllm_num_requests_waiting"),
        kv_usage=_gauge("trtllm_kv_cache_utilization"),
        ttft=_histogram("trtllm_time_to_first_token_seconds"),
        itl=_histogram("trtllm_time_per_output_token_seconds"),
    ),
    "tgi": _names(
        prompt_tokens=_counter("tgi_request_input_length_sum"),
        generated_tokens=_counter("tgi_request_generated_tokens_sum"),
        finished=_counter("tgi_request_success"),
        running=_gauge("tgi_batch_current_size"),
        waiting=_gauge("tgi_queue_size"),
        itl=_histogram("tgi_request_mean_time_per_token_duration"),
    ),
    "dynamo": _names(
        prompt_tokens=_counter("dynamo_frontend_input_sequence_tokens_sum"),
        cached_tokens=_counter("dynamo_frontend_cached_tokens_sum"),
        generated_tokens=_counter("dynamo_frontend_output_tokens_total"),
        finished=_labeled("counter", "dynamo_frontend_requests_total", "status", "success"),
        # Includes waiting requests: counted from arrival to the end of the response.
        running=_gauge("dynamo_frontend_active_requests", "dynamo_frontend_inflight_requests"),
        waiting=(
            *_labeled(
                "gauge",
                "dynamo_frontend_stage_requests",
                "stage",
                "preprocess",
                "route",
                "dispatch",
            ),
            *_gauge("dynamo_frontend_queued_requests"),
        ),
        ttft=_histogram("dynamo_frontend_time_to_first_token_seconds"),
        itl=_histogram("dynamo_frontend_inter_token_latency_seconds"),
    ),
}
"""Server -> concept -> alternatives, best first."""


def identify(names: Collection[str]) -> str | None:
    """The server (a key of `NAMES`) that exposes these sample names, or None if unknown."""
    counts = {
        server: sum(name.startswith(prefix) for name in names)
        for server, prefix in PREFIXES.items()
    }
    best = max(counts, key=lambda server: counts[server])
    return best if counts[best] else None


def pick(concept: Concept, names: Collection[str]) -> Source | None:
    """Where a server with these sample names exposes a concept, or None if it does not."""
    server = identify(names)
    have = set(names)
    for source in NAMES.get(server or "", {}).get(concept, ()):
        if have.issuperset(source.names):
            return source
    return None


def combine(
    source: Source, samples: Iterable[tuple[str, Mapping[str, str], float]]
) -> float | None:
    """One value from the samples (name, labels, value) of one scrape, for counters and gauges.

    Ranks and models are summed, replicated ones taken once; for KV usage, the maximum. None if a
    series of the source has no sample with a number.
    """
    total = 0.0
    ratio = source.kind == "gauge" and source.series[0].name in _RATIOS
    kept = list(samples)
    for series in source.series:
        distinct: dict[frozenset[tuple[str, str]], float] = {}
        for name, labels, value in kept:
            if series.matches(name, labels) and not math.isnan(value):
                key = frozenset((k, v) for k, v in labels.items() if k not in source.replicated)
                distinct[key] = max(value, distinct.get(key, value))
        if not distinct:
            return None
        total += max(distinct.values()) if ratio else sum(distinct.values())
    return total


_RATIOS: Final = frozenset(
    source.series[0].name
    for concepts in NAMES.values()
    for source in concepts.get(Concept.KV_USAGE, ())
)

MAPPED: Final = frozenset(
    name
    for concepts in NAMES.values()
    for sources in concepts.values()
    for source in sources
    for series in source.series
    for name in (
        (f"{series.name}_bucket", f"{series.name}_sum", f"{series.name}_count")
        if source.kind == "histogram"
        else (series.name,)
    )
)
"""Every sample name that is used."""
