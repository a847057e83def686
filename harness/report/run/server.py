"""Server metrics of the window, and the prefix cache."""

from collections.abc import Sequence

from harness.artifacts.run_summary import Distribution, Histogram, ServerFigures
from harness.reduce.reduction import Reduction
from harness.report.numbers import DASH, duration, interval, plain, share
from harness.report.tables import Table


def cache(reduction: Reduction) -> Table | None:
    """Sources of the input tokens, from the responses' usage and from the server's counters; None
    without either.
    """
    summary = reduction.summary
    length_s = summary.window.duration_s
    counted = summary.server or ServerFigures()

    def of_client(key: str) -> float | None:
        found = summary.metrics.get(key)  # may be from the server's counters instead
        return found.value if found is not None and found.boundary == "client" else None

    rows = []
    for title, key, count in (
        ("Cached", "input_cache_read_tok_s", counted.cached_tokens),
        ("Computed", "input_computed_tok_s", counted.computed_tokens),
        ("Written to cache", "input_cache_write_tok_s", None),
        ("All input", "input_tok_s", counted.prompt_tokens),
    ):
        server = count / length_s if count is not None and length_s else None
        rows.append((title, _rate(of_client(key)), _rate(server)))
    if rows[0][1:] == (DASH, DASH):
        return None
    whole, cached = counted.prompt_tokens, counted.cached_tokens
    hits = cached / whole if whole and cached is not None else None
    client = share(of_client("prefix_hit_ratio"))
    rows.append(("Prefix cache hit rate", client, share(hits)))
    head = ("", "Client (usage)", "Server (counters)")
    return Table("Input tokens in the window", head, rows)


def _rate(tok_s: float | None) -> str:
    return DASH if tok_s is None else f"{plain(tok_s)} tok/s"


def server(reduction: Reduction) -> list[Table]:
    """Counters, gauges and histograms of the window; empty without server metrics."""
    found, latency = reduction.summary.server, reduction.summary.latency
    if found is None:
        return []
    names = f" ({found.kind} metrics)" if found.kind else ""
    length_s = reduction.summary.window.duration_s
    counters = [
        (
            title,
            plain(round(value)),  # an integer, but interpolated between scrapes
            f"{plain(value / length_s)}/s" if length_s else DASH,
        )
        for title, value in (
            ("Prompt tokens", found.prompt_tokens),
            ("Prompt tokens, computed", found.computed_tokens),
            ("Prompt tokens, cached", found.cached_tokens),
            ("Generated tokens", found.generated_tokens),
            ("Finished requests", found.finished),
            ("Preemptions", found.preempted),
        )
        if value is not None
    ]
    gauges = [
        (title, text(gauge.mean), text(gauge.max), plain(gauge.n))
        for title, gauge, text in (
            ("Running requests", found.running, _three),
            ("Queued requests", found.waiting, _three),
            ("KV cache usage", found.kv_usage, share),
        )
        if gauge is not None
    ]
    histograms = [
        _histogram(title, histogram, [latency.get(own, Distribution()) for own in owns])
        for title, histogram, owns in (
            ("Time to first token", found.ttft_s, ("ttft_from_sent_s",)),
            ("Inter-token latency", found.itl_s, ("itl_s", "inter_event_s")),
        )
        if histogram is not None
    ]
    tables = (
        Table(f"Server counters{names}", ("", "In the window", "Per second"), counters),
        Table("Server gauges, by scrape", ("", "Mean", "Max", "Scrapes"), gauges),
        Table(
            "Server histograms, which give only the bucket of a percentile, and client times from"
            " sending",
            ("", "Mean", "p50 within", "p99 within", "Count", "Client: mean", "p50", "p99"),
            histograms,
        ),
    )
    return [table for table in tables if table.rows]


def _three(value: float | None) -> str:
    return plain(value, 3)


def _histogram(
    title: str, histogram: Histogram, clients: Sequence[Distribution]
) -> tuple[str, ...]:
    own = next((one for one in clients if one.n), Distribution())
    return (
        title,
        duration(histogram.mean_s),
        _bucket(histogram.p50_bucket_s),
        _bucket(histogram.p99_bucket_s),
        plain(round(histogram.count)),
        *(duration(value) for value in (own.mean, own.p50, own.p99)),
    )


def _bucket(bounds: tuple[float, float | None] | None) -> str:
    if bounds is None:
        return DASH
    low, high = bounds
    if high is None:
        return f"over {duration(low)}"
    return interval(low, high, "s")
