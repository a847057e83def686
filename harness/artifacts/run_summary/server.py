"""`server` and `host` of a summary: server metrics, CPU and memory, over the window."""

from dataclasses import dataclass

from harness.artifacts.typed_json import Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """A gauge over its `n` scrapes in the window."""

    mean: Number | None = None
    max: Number | None = None
    n: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """A histogram's increase over the window.

    Attributes:
        p50_bucket_s: bounds of the bucket with the median, as `p99_bucket_s`; an upper bound of
            None is infinity.
    """

    count: Number
    mean_s: Number | None = None
    p50_bucket_s: tuple[Number, Number | None] | None = None
    p99_bucket_s: tuple[Number, Number | None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFigures:
    """The server's counters, gauges and histograms, by `harness.core.metric_names.Concept`; None is
    what it does not expose.

    Attributes:
        kind: server whose metric names it uses.
        resets: of its counters.
    """

    kind: str | None = None
    prompt_tokens: Number | None = None
    computed_tokens: Number | None = None
    cached_tokens: Number | None = None
    generated_tokens: Number | None = None
    finished: Number | None = None
    preempted: Number | None = None
    running: Gauge | None = None
    waiting: Gauge | None = None
    kv_usage: Gauge | None = None
    ttft_s: Histogram | None = None
    itl_s: Histogram | None = None
    resets: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeLoad:
    """CPU and memory of one scope of processes, over `n` readings; `cpus`: that it may use."""

    cpu_cores_mean: Number | None = None
    cpu_cores_p95: Number | None = None
    rss_bytes_max: Number | None = None
    cpus: Number | None = None
    n: int = 0
