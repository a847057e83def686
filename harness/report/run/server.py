"""Shows what the server reported over the window, and what came from its prefix cache."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from harness.artifacts.run_summary import Distribution
from harness.reduce.read.run import mapping, number, sequence
from harness.reduce.reduction import Reduction
from harness.report import numbers
from harness.report.tables import Table

_CACHE_ROWS: Final = (
    ("Read from cache", "input_cache_read_tok_s", "cached_tokens"),
    ("Computed", "input_computed_tok_s", "computed_tokens"),
    ("Written to cache", "input_cache_write_tok_s", None),
    ("All input", "input_tok_s", "prompt_tokens"),
)


def cache(reduction: Reduction) -> Table | None:
    """Where prompts came from, by the answers' usage and by the server's counters; None where
    nobody tells.
    """
    summary = reduction.summary
    length_s = summary.window.duration_s

    def of_client(key: str) -> float | None:
        """A figure, unless it stands for the server's counters itself."""
        figure = summary.metrics.get(key)
        return figure.value if figure is not None and figure.boundary == "client" else None

    rows = []
    known = False
    for title, key, concept in _CACHE_ROWS:
        rate = of_client(key)
        count = number(summary.server.get(concept)) if concept is not None else None
        server = count / length_s if count is not None and length_s else None
        known |= title == "Read from cache" and (rate is not None or server is not None)
        rows.append((title, _rate(rate), _rate(server)))
    if not known:
        return None
    whole, cached = (
        number(summary.server.get("prompt_tokens")),
        number(summary.server.get("cached_tokens")),
    )
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


_COUNTERS: Final = (
    ("prompt_tokens", "Prompt tokens"),
    ("computed_tokens", "Prompt tokens, computed"),
    ("cached_tokens", "Prompt tokens, from cache"),
    ("generated_tokens", "Generated tokens"),
    ("finished", "Requests finished"),
    ("preempted", "Preemptions"),
)
_GAUGES: Final = (
    ("running", "Requests in the batch"),
    ("waiting", "Requests queued"),
    ("kv_usage", "KV cache in use"),
)
_HISTOGRAMS: Final = (
    ("ttft_s", "Time to first token", ("ttft_from_sent_s",)),
    ("itl_s", "Time between tokens", ("itl_s", "inter_event_s")),
)


def server(reduction: Reduction) -> list[Table]:
    """Counters, gauges and histograms of the window; none where the server tells nothing."""
    found = reduction.summary.server
    names = f" ({found['kind']}'s names)" if found.get("kind") else ""
    length_s = reduction.summary.window.duration_s
    counters = []
    for key, title in _COUNTERS:
        value = number(found.get(key))
        if value is not None:
            rate = f"{numbers.plain(value / length_s)} /s" if length_s else numbers.DASH
            counters.append(
                (title, numbers.plain(round(value)), rate)
            )  # interpolated between scrapes: whole in truth
    gauges = []
    for key, title in _GAUGES:
        gauge = mapping(found.get(key))
        if gauge:
            text = numbers.share if key == "kv_usage" else _three
            gauges.append(
                (
                    title,
                    text(number(gauge.get("mean"))),
                    text(number(gauge.get("max"))),
                    numbers.plain(number(gauge.get("n"))),
                )
            )
    histograms = [
        _histogram(
            title,
            mapping(found.get(key)),
            [reduction.summary.latency.get(own, Distribution()) for own in owns],
        )
        for key, title, owns in _HISTOGRAMS
        if mapping(found.get(key))
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
    title: str, histogram: Mapping[str, Any], clients: Sequence[Distribution]
) -> tuple[str, ...]:
    own = next((one for one in clients if one.n), Distribution())
    return (
        title,
        numbers.duration(number(histogram.get("mean_s"))),
        _bucket(histogram.get("p50_bucket_s")),
        _bucket(histogram.get("p99_bucket_s")),
        numbers.plain(_whole(number(histogram.get("count")))),
        *(numbers.duration(value) for value in (own.mean, own.p50, own.p99)),
    )


def _whole(value: float | None) -> float | None:
    return None if value is None else round(value)


def _bucket(raw: object) -> str:
    """Bounds of a histogram's bucket."""
    bounds = [number(one) for one in sequence(raw)]
    if len(bounds) != 2 or bounds[0] is None:
        return numbers.DASH
    if bounds[1] is None:
        return f"over {numbers.duration(bounds[0])}"
    return numbers.interval(bounds[0], bounds[1], "s")
