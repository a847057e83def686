"""What the server says of itself over the window, and what came from its prefix cache."""

from collections.abc import Sequence

from harness.artifacts.run_summary import Distribution, Histogram, ServerFigures
from harness.reduce.reduction import Reduction
from harness.report import numbers
from harness.report.tables import Table


def cache(reduction: Reduction) -> Table | None:
    """Where prompts came from, by the answers' usage and by the server's counters; None where
    nobody tells.
    """
    summary = reduction.summary
    length_s = summary.window.duration_s
    counted = summary.server or ServerFigures()

    def of_client(key: str) -> float | None:
        """A figure, unless it stands for the server's counters itself."""
        figure = summary.metrics.get(key)
        return figure.value if figure is not None and figure.boundary == "client" else None

    rows = []
    for title, key, count in (
        ("Read from cache", "input_cache_read_tok_s", counted.cached_tokens),
        ("Computed", "input_computed_tok_s", counted.computed_tokens),
        ("Written to cache", "input_cache_write_tok_s", None),
        ("All input", "input_tok_s", counted.prompt_tokens),
    ):
        server = count / length_s if count is not None and length_s else None
        rows.append((title, _rate(of_client(key)), _rate(server)))
    if rows[0][1:] == (numbers.DASH, numbers.DASH):
        return None
    whole, cached = counted.prompt_tokens, counted.cached_tokens
    share = cached / whole if whole and cached is not None else None
    rows.append(
        (
            "Share read from cache",
            numbers.share(of_client("prefix_hit_ratio")),
            numbers.share(share),
        )
    )
    return Table("Input tokens of the window", ("", "Client (usage)", "Server (counters)"), rows)


def _rate(tok_s: float | None) -> str:
    return numbers.DASH if tok_s is None else f"{numbers.plain(tok_s)} tok/s"


def server(reduction: Reduction) -> list[Table]:
    """Counters, gauges and histograms of the window; none where the server tells nothing."""
    found, latency = reduction.summary.server, reduction.summary.latency
    if found is None:
        return []
    names = f" ({found.kind}'s names)" if found.kind else ""
    length_s = reduction.summary.window.duration_s
    counters = [
        (
            title,
            numbers.plain(round(value)),  # interpolated between scrapes: whole in truth
            f"{numbers.plain(value / length_s)} /s" if length_s else numbers.DASH,
        )
        for title, value in (
            ("Prompt tokens", found.prompt_tokens),
            ("Prompt tokens, computed", found.computed_tokens),
            ("Prompt tokens, from cache", found.cached_tokens),
            ("Generated tokens", found.generated_tokens),
            ("Requests finished", found.finished),
            ("Preemptions", found.preempted),
        )
        if value is not None
    ]
    gauges = [
        (title, text(gauge.mean), text(gauge.max), numbers.plain(gauge.n))
        for title, gauge, text in (
            ("Requests in the batch", found.running, _three),
            ("Requests queued", found.waiting, _three),
            ("KV cache in use", found.kv_usage, numbers.share),
        )
        if gauge is not None
    ]
    histograms = [
        _histogram(title, histogram, [latency.get(own, Distribution()) for own in owns])
        for title, histogram, owns in (
            ("Time to first token", found.ttft_s, ("ttft_from_sent_s",)),
            ("Time between tokens", found.itl_s, ("itl_s", "inter_event_s")),
        )
        if histogram is not None
    ]
    tables = (
        Table(f"The server's own counters{names}", ("", "In the window", "Per second"), counters),
        Table("Its gauges, by scrape", ("", "Mean", "Largest", "Scrapes"), gauges),
        Table(
            "Its histograms, beside the client's clock from sending; a histogram tells a"
            " percentile's bucket only",
            ("", "Mean", "p50 within", "p99 within", "Count", "Client: mean", "p50", "p99"),
            histograms,
        ),
    )
    return [table for table in tables if table.rows]


def _three(value: float | None) -> str:
    return numbers.plain(value, 3)


def _histogram(
    title: str, histogram: Histogram, clients: Sequence[Distribution]
) -> tuple[str, ...]:
    own = next((one for one in clients if one.n), Distribution())
    return (
        title,
        numbers.duration(histogram.mean_s),
        _bucket(histogram.p50_bucket_s),
        _bucket(histogram.p99_bucket_s),
        numbers.plain(round(histogram.count)),
        *(numbers.duration(value) for value in (own.mean, own.p50, own.p99)),
    )


def _bucket(bounds: tuple[float, float | None] | None) -> str:
    """Bounds of a histogram's bucket."""
    if bounds is None:
        return numbers.DASH
    low, high = bounds
    if high is None:
        return f"over {numbers.duration(low)}"
    return numbers.interval(low, high, "s")
