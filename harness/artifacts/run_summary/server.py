"""`server` and `host` of a summary: the server's own figures and the load of processes, over the
window.
"""

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
    """A histogram's rise over the window.

    Attributes:
        p50_bucket_s: bounds of the bucket that holds the median; an upper bound of None is
            infinity.
        p99_bucket_s: likewise.
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
        kind: whose names its metrics have.
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
    """CPU and memory of one scope of processes, over `n` readings.

    Attributes:
        cpus: that it may use; None where nobody knows.
    """

    cpu_cores_mean: Number | None = None
    cpu_cores_p95: Number | None = None
    rss_bytes_max: Number | None = None
    cpus: Number | None = None
    n: int = 0
