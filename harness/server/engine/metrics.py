"""Metrics of the engine, exposed under vLLM's names so that one scraper reads both.

Only known values are exposed: no preemptions, no queue times, no FLOPs. Buckets are vLLM 0.32's.
"""

from collections.abc import Callable
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from harness.core.clock import seconds

TTFT_BUCKETS: Final = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
    160.0,
    640.0,
    2560.0,
)
ITL_BUCKETS: Final = (
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
)
E2E_BUCKETS: Final = (
    0.3,
    0.5,
    0.8,
    1.0,
    1.5,
    2.0,
    2.5,
    5.0,
    10.0,
    15.0,
    20.0,
    30.0,
    40.0,
    50.0,
    60.0,
    120.0,
    240.0,
    480.0,
    960.0,
    1920.0,
    7680.0,
)

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST


class EngineMetrics:
    """Counters, gauges and histograms of one engine. The callables are read at each scrape:
    requests in the batch and waiting for it, and the share of the KV cache used by live requests
    (None before the first batch).
    """

    def __init__(
        self,
        model_name: str,
        running: Callable[[], float],
        waiting: Callable[[], float],
        kv_usage: Callable[[], float | None],
    ) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        names, values = ("model_name", "engine"), (model_name, "0")

        def counter(name: str, text: str) -> Counter:
            return Counter(f"vllm:{name}", text, names, registry=registry).labels(*values)

        def counters(name: str, text: str, label: str, of: tuple[str, ...]) -> dict[str, Counter]:
            made = Counter(f"vllm:{name}", text, (*names, label), registry=registry)
            return {value: made.labels(*values, value) for value in of}

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            made = Histogram(f"vllm:{name}", text, names, registry=registry, buckets=buckets)
            return made.labels(*values)

        def gauge(name: str, text: str, read: Callable[[], float]) -> None:
            made = Gauge(f"vllm:{name}", text, names, registry=registry)
            made.labels(*values).set_function(read)

        def kv_usage_or_nan() -> float:
            # Prometheus has no absent gauge under a fixed label set: NaN means unknown.
            share = kv_usage()
            return float("nan") if share is None else share

        gauge("num_requests_running", "Number of requests in model execution batches.", running)
        gauge("num_requests_waiting", "Number of requests waiting to be processed.", waiting)
        gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", kv_usage_or_nan)
        self.prompt_tokens = counter("prompt_tokens", "Number of prefill tokens processed.")
        self.prompt_by_source = counters(
            "prompt_tokens_by_source",
            "Number of prompt tokens by source.",
            "source",
            ("local_compute", "local_cache_hit"),
        )
        self.prompt_cached = counter(
            "prompt_tokens_cached", "Number of cached prompt tokens (local + external)."
        )
        self.cache_queries = counter(
            "prefix_cache_queries", "Prefix cache queries, in terms of number of queried tokens."
        )
        self.cache_hits = counter(
            "prefix_cache_hits", "Prefix cache hits, in terms of number of cached tokens."
        )
        self.generation_tokens = counter(
            "generation_tokens", "Number of generation tokens processed."
        )
        self.finished = counters(
            "request_success",
            "Count of successfully processed requests.",
            "finished_reason",
            ("stop", "length", "abort", "error"),
        )
        self.ttft = histogram(
            "time_to_first_token_seconds",
            "Histogram of time to first token in seconds.",
            TTFT_BUCKETS,
        )
        self.itl = histogram(
            "inter_token_latency_seconds",
            "Histogram of inter-token latency in seconds.",
            ITL_BUCKETS,
        )
        self.e2e = histogram(
            "e2e_request_latency_seconds",
            "Histogram of e2e request latency in seconds.",
            E2E_BUCKETS,
        )

    def prefilled(self, prompt_tok: int, cached_tok: int, ttft_ns: int) -> None:
        self.prompt_tokens.inc(prompt_tok)
        self.prompt_by_source["local_compute"].inc(prompt_tok - cached_tok)
        self.prompt_by_source["local_cache_hit"].inc(cached_tok)
        self.prompt_cached.inc(cached_tok)
        self.cache_queries.inc(prompt_tok)
        self.cache_hits.inc(cached_tok)
        self.ttft.observe(seconds(ttft_ns))

    def ended(self, reason: str, e2e_ns: int) -> None:
        self.finished[reason].inc()
        if reason in {"stop", "length"}:
            self.e2e.observe(seconds(e2e_ns))

    def exposition(self) -> bytes:
        return generate_latest(self.registry)
