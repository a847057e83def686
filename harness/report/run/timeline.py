"""Charts of a run: over time, latency distributions, and the curves of its stages."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from harness.reduce.figures.window_figures import intended_in
from harness.reduce.read.categorical import Bools
from harness.reduce.read.requests import Requests
from harness.reduce.reduction import Reduction
from harness.reduce.series import Series
from harness.reduce.statistics.intervals import Floats
from harness.report.charts import SERIES, Chart, Line, cumulative
from harness.report.headline import BOUNDARIES
from harness.report.numbers import duration, plain, share
from harness.report.run.stages import curves
from harness.report.tables import ChartView, Table

_TABLE_ROWS: Final = 24
_ECDF_POINTS: Final = 160
_NS: Final = 1e-9


def charts(reduction: Reduction, grid: Series) -> dict[str, ChartView]:
    """All charts for which the run has data, by key."""
    others = {
        "latency": _latency(reduction),
        "classes": _by_class(reduction),
        **curves(reduction.summary),
    }
    found = _timelines(reduction, grid) | others
    return {key: chart for key, chart in found.items() if chart is not None}


# --- over time ---


def _timelines(reduction: Reduction, grid: Series) -> dict[str, ChartView | None]:
    if len(grid.t_s) < 2:
        return {}
    split = "input_computed_tok_s" in grid.columns
    inputs = (
        {"input_computed_tok_s": "Computed", "input_cache_read_tok_s": "Cached"}
        if split
        else {"input_tok_s": "All input"}
    )
    flights = {
        "requests_in_flight": "Requests in flight",
        "live_conversations": "Live sessions",
        "server_waiting": "Queued in the server",
    }
    power = {
        f"{name}_w": title[0].upper() + title[1:]
        for name, title in BOUNDARIES.items()
        if f"{name}_w" in grid.columns and name != "dram"
    } or {"power_w": "Power"}
    output, context = "Output tokens per second", "Mean context of requests in flight"
    shown: Sequence[tuple[str, str, str, Mapping[str, str]]] = (
        ("throughput", output, "tok/s", {"output_tok_s": output}),
        ("input", "Input tokens per second", "tok/s", inputs),
        ("in_flight", "Requests in flight", "requests", flights),
        ("context", context, "tok", {"mean_context_tok": "Mean context"}),
        ("prefix", "Prefix cache hit rate", "share", {"prefix_hit_ratio": "Hit rate"}),
        ("kv", "KV cache usage", "share", {"kv_usage": "Usage"}),
        ("power", "Power", "W", dict(list(power.items())[: len(SERIES)])),
    )
    return {
        key: _timeline(reduction, grid, key, title, unit, names)
        for key, title, unit, names in shown
    }


def _timeline(
    reduction: Reduction,
    grid: Series,
    key: str,
    title: str,
    unit: str,
    names: Mapping[str, str],
) -> ChartView | None:
    percent = unit == "share"
    there = {
        label: grid.columns[column] for column, label in names.items() if column in grid.columns
    }
    there = {label: values for label, values in there.items() if np.any(~np.isnan(values))}
    if not there:
        return None
    span = (float(grid.t_s[0]), float(grid.t_s[-1] + grid.step_s))
    window = reduction.summary.window
    shaded = None
    caption = [f"{title}, mean of {grid.step_s} s"]
    if window.start_s is not None and window.end_s is not None:
        shaded = (max(window.start_s, span[0]), min(window.end_s, span[1]))
        caption.append("shaded: measurement window")
    bands = _throttled(reduction, span)
    if bands:
        caption.append("red: a GPU was throttled")
    starts = (
        [(w.stage_start * _NS, w.name) for w in reduction.windows if w.stage_start is not None]
        if len(reduction.windows) > 1
        else []
    )
    marks = [mark for mark in starts if span[0] <= mark[0] <= span[1]]
    if marks:
        caption.append(f"dashed: start of {_listed([name for _, name in marks])}")
    lines = [Line(label, _steps(grid, values), stepped=True) for label, values in there.items()]
    chart = Chart(
        key,
        "; ".join(caption) + ".",
        "time since start (s)",
        unit,
        lines,
        shaded,
        x_domain=span,
        y_percent=percent,
        bands=bands,
        marks=marks,
        y_top=_top(there.values()) if percent else 1.0,
    )
    return ChartView(chart, _timeline_table(title, grid, there, percent=percent))


def _listed(names: Sequence[str]) -> str:
    """A few names, or their number."""
    if len(names) > 4:
        return f"{len(names)} stages, {names[0]} to {names[-1]}"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _top(columns: Iterable[Floats]) -> float:
    """End of the axis of shares: 1, or well below if all values are small."""
    most = max(float(np.nanmax(values)) for values in columns)
    return next(top for top in (0.05, 0.1, 0.2, 0.5, 1.0) if most <= 0.9 * top or top == 1.0)


def _throttled(reduction: Reduction, span: tuple[float, float]) -> list[tuple[float, float]]:
    """When any GPU was throttled by temperature, a fault or a power brake; a software power cap at
    its limit is normal.
    """
    return [
        (max(stretch.start_s, span[0]), min(stretch.end_s, span[1]))
        for stretch in reduction.summary.energy.boards.stretches
        if stretch.invalid and stretch.start_s < span[1] and stretch.end_s > span[0]
    ]


def _steps(grid: Series, values: Floats) -> list[tuple[float, float | None]]:
    points: list[tuple[float, float | None]] = [
        (round(float(t), 3), None if np.isnan(v) else float(f"{v:.5g}"))
        for t, v in zip(grid.t_s, values, strict=True)
    ]
    points.append((round(float(grid.t_s[-1] + grid.step_s), 3), points[-1][1]))
    return points


def _timeline_table(
    title: str, grid: Series, there: Mapping[str, Floats], *, percent: bool
) -> Table:
    """The chart's values, averaged to the length of a table."""
    width = max(1, -(-len(grid.t_s) // _TABLE_ROWS))
    rows = []
    for begin in range(0, len(grid.t_s), width):
        part = slice(begin, begin + width)
        cells = []
        for values in there.values():
            known = values[part][~np.isnan(values[part])]
            mean = float(np.mean(known)) if len(known) else None
            cells.append(share(mean) if percent else plain(mean, 3))
        end = min(begin + width, len(grid.t_s)) - 1
        start, stop = float(grid.t_s[begin]), float(grid.t_s[end]) + grid.step_s
        rows.append([f"{plain(start)} – {plain(stop)} s", *cells])
    return Table(f"{title}: means", ("Time", *there), rows)


# --- distributions ---


def _curve(name: str, values: Floats, everyone: int) -> Line | None:
    """Cumulative share of `everyone` by latency; with failed requests it ends below 100%."""
    ordered = np.sort(values[~np.isnan(values) & (values > 0)])
    if len(ordered) < 2:
        return None
    return Line(name, cumulative(ordered, everyone, _ECDF_POINTS), stepped=True)


def _distribution_chart(key: str, caption: str, lines: Sequence[Line]) -> Chart:
    ends = [x for line in lines for x in (line.points[0][0], line.points[-1][0])]
    low, high = min(ends), max(ends)
    domain = (low / 1.15, max(high, low * 3) * 1.15)
    return Chart(
        key,
        caption,
        "time from scheduled send (log scale)",
        "share of requests",
        lines,
        x_log=True,
        x_domain=domain,
        y_percent=True,
    )


_QUANTILES: Final = {"p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99", "p99.9": "p999"}


def _latency(reduction: Reduction) -> ChartView | None:
    """TTFT and E2E latency of the requests scheduled in the window: the distributions behind the
    table of percentiles.
    """
    if reduction.headline is None:
        return None
    requests, latency = reduction.run.requests, reduction.summary.latency
    mine = intended_in(requests, reduction.headline)
    ends = np.where(np.isnan(requests.last_token), requests.done, requests.last_token)
    ttft, e2e = latency["ttft_s"], latency["e2e_s"]
    curves = (
        _curve(
            "TTFT",
            ((requests.first_token - requests.intended) * _NS)[mine & _began(requests)],
            ttft.n + ttft.censored,
        ),
        _curve(
            "E2E latency",
            ((ends - requests.intended) * _NS)[mine & requests.ok],
            e2e.n + e2e.censored,
        ),
    )
    lines = [line for line in curves if line is not None]
    if not lines:
        return None
    rows = [
        [q, duration(getattr(ttft, key)), duration(getattr(e2e, key))]
        for q, key in _QUANTILES.items()
    ]
    began, whole = ttft.n + ttft.censored, e2e.n + e2e.censored
    caption = (
        "Cumulative share of requests scheduled in the window by latency from the scheduled send"
        " time"
    )
    if began == whole:
        caption += f" ({whole:,} requests)."
    else:
        caption += (
            f": TTFT of {began:,}, E2E latency of {whole:,} (without requests that the plan"
            " canceled before)."
        )
    chart = _distribution_chart("latency", caption, lines)
    return ChartView(chart, Table("Latency percentiles", ("", "TTFT", "E2E latency"), rows))


def _began(requests: Requests) -> Bools:
    """Requests whose first token counts, as in the summary's percentiles: completed, or canceled by
    plan after it.
    """
    began: Bools = requests.ok | (requests.cancelled & ~np.isnan(requests.first_token))
    return began


def _by_class(reduction: Reduction) -> ChartView | None:
    """TTFT by request class; None for a single class. Shows the largest classes, as many as there
    are colors.
    """
    if reduction.headline is None or len(reduction.summary.classes) < 2:
        return None
    requests = reduction.run.requests
    counted = intended_in(requests, reduction.headline) & _began(requests)
    lines: list[Line] = []
    found = []
    for one in sorted(
        reduction.summary.classes, key=lambda one: (-(one.requests.in_window or 0), one.name)
    ):
        mine = counted & (requests.workload_class == one.name)
        ttft = one.latency["ttft_s"]
        line = _curve(
            one.name,
            ((requests.first_token - requests.intended) * _NS)[mine],
            ttft.n + ttft.censored,
        )
        if line is not None and len(lines) < len(SERIES):
            lines.append(line)
            found.append(one)
    if len(lines) < 2:
        return None
    rows = [
        [q, *(duration(getattr(one.latency["ttft_s"], key)) for one in found)]
        for q, key in _QUANTILES.items()
    ]
    caption = "TTFT by class: cumulative share of the class's requests scheduled in the window."
    left = len(reduction.summary.classes) - len(lines)
    if left:
        caption += f" Only the {len(lines)} largest classes; {left} more in the table of classes."
    head = ("", *(one.name for one in found))
    table = Table("TTFT by class: percentiles", head, rows)
    return ChartView(_distribution_chart("classes", caption, lines), table)
