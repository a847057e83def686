"""Charts of a run: over time, distributions, and the trade of throughput against speed for each
user.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from harness.reduce.figures.figures import intended_in
from harness.reduce.read.categorical import Bools
from harness.reduce.read.requests import Requests
from harness.reduce.reduction import Reduction
from harness.reduce.series import Series
from harness.reduce.statistics.intervals import Floats
from harness.report import numbers
from harness.report.charts import SERIES, Chart, Line
from harness.report.tables import ChartView, Table

_TABLE_ROWS: Final = 24
_ECDF_POINTS: Final = 160
_NS: Final = 1e-9


def charts(reduction: Reduction, grid: Series) -> dict[str, ChartView]:
    """All charts that the run has figures for, by key."""
    others = (
        ("latency", _latency(reduction)),
        ("classes", _by_class(reduction)),
        ("trade", _trade(reduction)),
    )
    return {
        **_timelines(reduction, grid),
        **{key: chart for key, chart in others if chart is not None},
    }


# --- over time ---


def _timelines(reduction: Reduction, grid: Series) -> dict[str, ChartView]:
    out: dict[str, ChartView] = {}
    if len(grid.t_s) < 2:
        return out
    split = "input_computed_tok_s" in grid.columns
    inputs = (
        {"input_computed_tok_s": "Computed", "input_cache_read_tok_s": "Read from cache"}
        if split
        else {"input_tok_s": "All input"}
    )
    flights = {
        "requests_in_flight": "Requests in flight",
        "live_conversations": "Live conversations",
        "server_waiting": "Queued in the server",
    }
    boundaries = {
        "gpu_board_w": "GPU boards",
        "module_w": "GPU modules",
        "cpu_package_w": "CPU packages",
        "node_w": "Nodes",
        "rack_w": "Racks",
        "facility_w": "Facility",
    }
    power = {column: title for column, title in boundaries.items() if column in grid.columns} or {
        "power_w": "Power"
    }
    shown: Sequence[tuple[str, str, str, Mapping[str, str], bool]] = (
        (
            "throughput",
            "Output tokens per second",
            "tok/s",
            {"output_tok_s": "Output tokens per second"},
            False,
        ),
        ("input", "Input tokens per second", "tok/s", inputs, False),
        ("in_flight", "Requests in flight", "requests", flights, False),
        (
            "context",
            "Mean context of the requests in flight",
            "tok",
            {"mean_context_tok": "Mean context"},
            False,
        ),
        (
            "prefix",
            "Share of input read from cache",
            "share",
            {"prefix_hit_ratio": "Read from cache"},
            True,
        ),
        ("kv", "Key-value cache in use", "share", {"kv_usage": "In use"}, True),
        ("power", "Power", "W", dict(list(power.items())[: len(SERIES)]), False),
    )
    for key, title, unit, names, percent in shown:
        chart = _timeline(reduction, grid, key, title, unit, names, percent=percent)
        if chart is not None:
            out[key] = chart
    return out


def _timeline(
    reduction: Reduction,
    grid: Series,
    key: str,
    title: str,
    unit: str,
    names: Mapping[str, str],
    *,
    percent: bool,
) -> ChartView | None:
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
        caption.append("the measured window is shaded")
    bands = _held_back(reduction, span)
    if bands:
        caption.append("red: clocks of a board were held back")
    starts = (
        [(w.stage_start * _NS, w.name) for w in reduction.windows if w.stage_start is not None]
        if len(reduction.windows) > 1
        else []
    )
    marks = [mark for mark in starts if span[0] <= mark[0] <= span[1]]
    if marks:
        caption.append(
            f"dashed: {_listed([name for _, name in marks])}"
            f" {'begins' if len(marks) == 1 else 'begin'}"
        )
    lines = [Line(label, _steps(grid, values), stepped=True) for label, values in there.items()]
    chart = Chart(
        key,
        title,
        "; ".join(caption) + ".",
        "seconds from the start of the run",
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
    """A few names, or what they are names of."""
    if len(names) > 4:
        return f"{len(names)} stages, {names[0]} to {names[-1]},"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _top(columns: Iterable[Floats]) -> float:
    """Where the axis of shares ends: 100 %, or well below where none comes near, so that their
    course can be seen.
    """
    most = max(float(np.nanmax(values)) for values in columns)
    return next(top for top in (0.05, 0.1, 0.2, 0.5, 1.0) if most <= 0.9 * top or top == 1.0)


def _held_back(reduction: Reduction, span: tuple[float, float]) -> list[tuple[float, float]]:
    """When any board was slowed down by heat, by a fault or by a power brake; a software power cap
    at its limit is normal.
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
    """The chart's figures, averaged to a table's length."""
    width = max(1, -(-len(grid.t_s) // _TABLE_ROWS))
    rows = []
    for begin in range(0, len(grid.t_s), width):
        part = slice(begin, begin + width)
        cells = []
        for values in there.values():
            known = values[part][~np.isnan(values[part])]
            mean = float(np.mean(known)) if len(known) else None
            cells.append(numbers.share(mean) if percent else numbers.plain(mean, 3))
        end = min(begin + width, len(grid.t_s)) - 1
        rows.append(
            [
                (
                    f"{numbers.plain(float(grid.t_s[begin]))} –"
                    f" {numbers.plain(float(grid.t_s[end]) + grid.step_s)} s"
                ),
                *cells,
            ]
        )
    return Table(f"{title}: means", ("Time", *there), rows)


# --- distributions ---


def _curve(name: str, values: Floats, everyone: int) -> Line | None:
    """Share of `everyone` that got there within a time; curves of failing runs end below 100 %."""
    ordered = np.sort(values[~np.isnan(values) & (values > 0)])
    if len(ordered) < 2:
        return None
    picks = np.unique(np.linspace(0, len(ordered) - 1, _ECDF_POINTS).astype(int))
    points: list[tuple[float, float | None]] = [
        (float(f"{ordered[i]:.4g}"), float(f"{(i + 1) / everyone:.4g}")) for i in picks
    ]
    return Line(name, points, stepped=True)


def _distribution_chart(key: str, title: str, caption: str, lines: Sequence[Line]) -> Chart:
    ends = [x for line in lines for x in (line.points[0][0], line.points[-1][0])]
    low, high = min(ends), max(ends)
    domain = (low / 1.15, max(high, low * 3) * 1.15)
    return Chart(
        key,
        title,
        caption,
        "time from intended, logarithmic",
        "share of requests",
        lines,
        x_log=True,
        x_domain=domain,
        y_percent=True,
    )


_SHARES: Final = (
    ("50 %", "p50"),
    ("90 %", "p90"),
    ("95 %", "p95"),
    ("99 %", "p99"),
    ("99.9 %", "p999"),
)


def _latency(reduction: Reduction) -> ChartView | None:
    """First tokens and whole answers of the requests intended in the window: the curves of the
    percentiles in the table beside them.
    """
    if reduction.headline is None:
        return None
    requests, latency = reduction.run.requests, reduction.summary.latency
    mine = intended_in(requests, reduction.headline)
    ends = np.where(np.isnan(requests.last_token), requests.done, requests.last_token)
    ttft, e2e = latency["ttft_s"], latency["e2e_s"]
    curves = (
        _curve(
            "First token",
            ((requests.first_token - requests.intended) * _NS)[mine & _began(requests)],
            ttft.n + ttft.censored,
        ),
        _curve(
            "Whole answer",
            ((ends - requests.intended) * _NS)[mine & requests.ok],
            e2e.n + e2e.censored,
        ),
    )
    lines = [line for line in curves if line is not None]
    if not lines:
        return None
    rows = [
        [q, numbers.duration(getattr(ttft, key)), numbers.duration(getattr(e2e, key))]
        for q, key in _SHARES
    ]
    began, whole = ttft.n + ttft.censored, e2e.n + e2e.censored
    caption = (
        f"Share of the {whole:,} requests intended in the window that got there within a time,"
        " counted from when each was intended."
    )
    if began != whole:
        caption = (
            "Share of the requests intended in the window that got there within a time, counted"
            f" from when each was intended: of {began:,} to the first token, of {whole:,} to the"
            " last; those that the plan cancelled count until then."
        )
    chart = _distribution_chart("latency", "Latency", caption, lines)
    return ChartView(
        chart, Table("Latency: percentiles", ("Share", "First token", "Whole answer"), rows)
    )


def _began(requests: Requests) -> Bools:
    """Requests whose first token counts, as in the summary's percentiles: answered, or cancelled by
    plan after it.
    """
    began: Bools = requests.ok | (requests.cancelled & ~np.isnan(requests.first_token))
    return began


def _by_class(reduction: Reduction) -> ChartView | None:
    """First tokens by class of requests; None where there is one class. The classes with most
    requests, as many as there are colours.
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
        [q, *(numbers.duration(getattr(one.latency["ttft_s"], key)) for one in found)]
        for q, key in _SHARES
    ]
    caption = (
        "Time to first token by class: share of the class's requests intended in the window that"
        " had one within a time."
    )
    left = len(reduction.summary.classes) - len(lines)
    if left:
        caption += (
            f" The {len(lines)} largest classes; {left} more {'is' if left == 1 else 'are'} in the"
            " table of classes."
        )
    chart = _distribution_chart("classes", "Time to first token by class", caption, lines)
    return ChartView(
        chart,
        Table(
            "Time to first token by class: percentiles",
            ("Share", *(one.name for one in found)),
            rows,
        ),
    )


# --- throughput against speed ---


def _least(xs: Sequence[float]) -> float:
    """Where the axis of speeds begins: at nothing, or nearer where all lie close together."""
    low, high = min(xs), max(xs)
    return 0.0 if low < 0.6 * high else low - (high - low) - 0.05 * high


def _trade(reduction: Reduction) -> ChartView | None:
    """A point a stage: tokens per second per user against tokens per second, per GPU where there
    are any; None for a single stage.
    """
    key = "output_tok_s_per_gpu"
    stages = [
        stage for stage in reduction.summary.stages if stage.metrics.get("interactivity_tok_s_user")
    ]
    if not any(stage.metrics[key].value is not None for stage in stages if key in stage.metrics):
        key = "output_tok_s"
    points: list[tuple[float, float | None]] = []
    rows = []
    for stage in stages:
        x, y = stage.metrics["interactivity_tok_s_user"].value, stage.metrics[key].value
        if x is None or y is None:
            continue
        points.append((float(f"{x:.5g}"), float(f"{y:.5g}")))
        ttft = stage.latency["ttft_s"].p99
        rows.append([stage.name, numbers.plain(x, 3), numbers.plain(y, 4), numbers.duration(ttft)])
    if len(points) < 2:
        return None
    per = "per GPU" if key.endswith("per_gpu") else "of the deployment"
    title = "Throughput against speed for each user"
    caption = (
        f"Each stage is a point: output tokens per second {per} against tokens per second of the"
        " median request."
    )
    xs = [x for x, _ in points]
    unit = "tok/s/GPU" if key.endswith("per_gpu") else "tok/s"
    chart = Chart(
        "trade",
        title,
        caption,
        "tokens per second per user (1 / median TPOT)",
        unit,
        [Line("Stages", points)],
        x_domain=(_least(xs), max(xs) * 1.12),
        points=True,
        point_names=[str(row[0]) for row in rows],
    )
    return ChartView(
        chart, Table(title, ("Stage", "tok/s per user, median", unit, "TTFT p99"), rows)
    )
