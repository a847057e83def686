"""The text, tables and charts of a sweep's page. All decisions are made here; the templates and the
terminal only place the parts.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from harness.artifacts.sweep.index import PointState, Value
from harness.core.records import Basis, Status
from harness.reduce.figures.headline import SLO_SHARE
from harness.report.charts import HALF, NARROW, SERIES, draw
from harness.report.headline import boundary_words
from harness.report.numbers import DASH, duration, plain, share
from harness.report.sweep.charts import (
    Axis,
    FrontierMark,
    LoadPoint,
    frontier_chart,
    load_chart,
)
from harness.report.sweep.search import search_lead, share_chart, tiers_table
from harness.report.tables import DrawnChart, Table
from harness.sweeps.best import Best, best
from harness.sweeps.curve import REACHED, Curve, load_curves, load_title
from harness.sweeps.frontier import (
    DRAWS,
    POSSIBLE,
    Frontier,
    FrontierPoint,
    frontiers,
    non_dominated,
    signed,
)
from harness.sweeps.points import (
    AT_POWER,
    COLUMN,
    COLUMNS,
    Measured,
    Setting,
    Sweep,
    short_names,
    shown,
)

MARK: Final = "★"
"""Marks the best point."""
_MOST_SERIES: Final = len(SERIES)
_MOST_LABELS: Final = 8
_OVER_LOAD: Final = ("output_tok_s", "ttft_p99_s", "tpot_p99_s", "slo_met_ratio", "power_w")
_PLACES: Final = {
    "frontier": "on the frontier",
    "indistinguishable": "cannot be distinguished",
    "dominated": "dominated",
}


@dataclass(frozen=True, slots=True)
class FrontierView:
    """One frontier: the key of its chart, a sentence, and its points that are not dominated."""

    key: str
    title: str
    sentence: str
    table: Table


@dataclass(frozen=True, slots=True)
class SweepView:
    """The content of the page, as text.

    Attributes:
        points: one row per measured setting.
        left_out: settings without a result that supports a claim, with the reason.
        peaks: peak and knee of every curve.
        curves: keys of the charts over the load.
        absent: frontiers that do not exist, with the reason.
        tiers: capacities of a search; None of a sweep.
    """

    title: str
    kind: str
    tone: str
    badge: str
    lead: Sequence[str]
    points: Table | None
    left_out: Table | None
    peaks: Table | None
    curves: Sequence[str]
    frontiers: Sequence[FrontierView]
    absent: Sequence[tuple[str, str]]
    facts: Sequence[tuple[str, str]]
    notes: Sequence[str]
    charts: Mapping[str, DrawnChart]
    tiers: Table | None = None


def sweep_view(sweep: Sweep) -> SweepView:
    """The content of the page."""
    chosen, curves, found = best(sweep), load_curves(sweep), frontiers(sweep)
    tone, badge = _badge(sweep)
    over_load = {chart.key: chart for chart in _load_charts(curves)}
    drawn = {one.key: frontier_figure(one, sweep) for one in found if one.absent is None}
    capacity = sweep.capacity
    shares = None if capacity is None else share_chart(sweep, capacity)
    if shares is not None:
        over_load = {shares.key: shares, **over_load}
    return SweepView(
        title=sweep.index.profile,
        kind=sweep.index.kind,
        tone=tone,
        badge=badge,
        lead=[
            *(() if capacity is None else search_lead(capacity)),
            *_lead(sweep, chosen, curves),
        ],
        points=_points(sweep, chosen),
        left_out=_left_out(sweep),
        peaks=_peaks(curves),
        curves=list(over_load),
        frontiers=[_frontier(one) for one in found if one.absent is None],
        absent=[(frontier_title(one), one.absent) for one in found if one.absent],
        facts=list(_facts(sweep)),
        notes=list(_notes(sweep, found)),
        charts={**over_load, **drawn},
        tiers=None if capacity is None else tiers_table(capacity),
    )


def text_of(key: str, value: float | None) -> str:
    """A value of a column, with the unit of times and shares."""
    unit = COLUMN[key].unit
    if unit == "s":
        return duration(value)
    return share(value) if unit == "1" else plain(value, 3)


def _text(setting: Setting, key: str) -> str:
    found = setting.metrics.get(key)
    return DASH if found is None else text_of(key, found.value)


def _badge(sweep: Sweep) -> tuple[str, str]:
    """Tone of the box and text of its badge."""
    usable, everything = len(sweep.usable), len(sweep.settings)
    tone = "valid" if usable == everything else "degraded" if usable else "invalid"
    return tone, f"{usable} of {everything} points measured"


def _lead(sweep: Sweep, chosen: Best, curves: Sequence[Curve]) -> Iterator[str]:
    if (setting := chosen.setting) is None:
        yield f"No best point: {chosen.why}."
    else:
        value = f"{_text(setting, chosen.key)} {COLUMN[chosen.key].unit}"
        beside = (
            f"{_text(setting, key)} {words}"
            for key, words in (
                ("interactivity_tok_s_user", "tok/s per user"),
                ("ttft_p99_s", "TTFT p99"),
                ("output_tok_per_j", "tok/J"),
            )
            if key in setting.metrics
        )
        yield f"Best point: {setting.name}, with {', '.join([value, *beside])} ({chosen.why})."
        if chosen.close:
            count = len(chosen.close)
            yield (
                f"{count} other point{'s are' if count > 1 else ' is'} within its interval, so"
                " which is best is not certain."
            )
    if curves:
        yield _peak_sentence(curves[0])
    counts = Counter(one.state for one in sweep.settings if not one.usable)
    invalid = counts.pop(PointState.DONE, 0)
    parts = [f"{number} {state}" for state, number in counts.items()]
    if invalid:
        parts.append(f"{invalid} invalid")
    if parts:
        yield f"Without a result: {', '.join(parts)}."


def _peak_sentence(curve: Curve) -> str:
    word = load_title(curve.key).partition(" (")[0]
    where = f" ({others})" if (others := _others(curve)) else ""
    peak = f"{word} {curve.load(curve.peak):g}{where}"
    sentence = f"Output throughput peaks at {_text(curve.peak, 'output_tok_s')} tok/s at {peak}"
    if curve.knee is not curve.peak:
        sentence += (
            f"; {REACHED:.0%} of it is reached from {word} {curve.load(curve.knee):g} on (knee)"
        )
    elif len(curve.settings) > 1:
        sentence += f"; no smaller load reaches {REACHED:.0%} of it"
    more = " That is the highest measured load, so more load may give more."
    return f"{sentence}.{more if curve.rising else ''}"


def _others(curve: Curve) -> str:
    return setting_name(curve.others)


def setting_name(values: Mapping[str, Value]) -> str:
    """Values of keys, in words."""
    short = short_names(values)
    return ", ".join(f"{short[key]} {shown(value)}" for key, value in values.items())


# --- tables ---


def _points(sweep: Sweep, chosen: Best) -> Table | None:
    """Measured settings; a column without any value is left out."""
    settings = [one for one in sweep.settings if one.metrics]
    if not settings:
        return None
    columns: dict[str, list[str]] = {}
    for key, short in short_names(sweep.keys).items():
        columns[_capital(short)] = [shown(one.values[key]) for one in settings]
    first = next(iter(columns))
    columns[first] = [
        f"{cell} {MARK}" if one is chosen.setting else cell
        for cell, one in zip(columns[first], settings, strict=True)
    ]
    counts = [f"{len(one.runs)}" for one in settings]
    if len(set(counts)) > 1 or counts[0] != "1":
        columns["Runs"] = counts
    for column in COLUMNS:
        if column.key != "live_sessions" and any(column.key in one.metrics for one in settings):
            columns[_head(column.key, settings)] = [_text(one, column.key) for one in settings]
    if "output_tok_s_per_gpu" in {key for one in settings for key in one.metrics}:
        columns.pop(COLUMN["output_tok_s"].title)
    verdicts = [_verdict(one) for one in settings]
    if len(set(verdicts)) > 1:
        columns["Verdict"] = verdicts
    marked = next((n for n, one in enumerate(settings) if one is chosen.setting), None)
    best_mark = f"; {MARK} best point" if marked is not None else ""
    verdict = "" if len(set(verdicts)) > 1 else f", all {verdicts[0]}"
    return Table(
        f"Measured points{verdict}{best_mark}. Intervals are in points.csv",
        list(columns),
        list(zip(*columns.values(), strict=True)),
        text=[n for n, head in enumerate(columns) if head == "Verdict"],
        marked=marked,
    )


def _head(key: str, settings: Sequence[Setting]) -> str:
    """Title of a column, with the power boundary if it is the same in all rows."""
    if key not in AT_POWER:
        return COLUMN[key].title
    found = {(m.boundary, m.basis) for one in settings if (m := one.metrics.get(key)) is not None}
    if len({boundary for boundary, _ in found}) > 1:
        return COLUMN[key].title
    where = boundary_words(next(iter(found))[0] or "")
    modelled = any(basis is Basis.MODELLED for _, basis in found)
    return ", ".join(filter(None, (COLUMN[key].title, where, "modeled" if modelled else "")))


def _verdict(setting: Setting) -> str:
    if setting.state is PointState.PARTIAL:
        return "ended early"
    return setting.status.value if setting.status is not None else DASH


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:].replace("_", " ")


def _left_out(sweep: Sweep) -> Table | None:
    rows = [
        (one.name, _verdict(one) if one.state is PointState.DONE else one.state.value, _why(one))
        for one in sweep.settings
        if not one.usable or one.why
    ]
    head = ("Point", "State", "Reason")
    return Table("Not measured, or only in part", head, rows, (1, 2)) if rows else None


def _why(setting: Setting) -> str:
    reasons = [] if setting.why is None else [setting.why]
    if setting.status is Status.INVALID:
        found = [one for run in setting.runs for one in run.concerns if one.severity == "invalid"]
        reasons.append(found[0].message if found else "its summary has no verdict")
    if setting.state is PointState.PLANNED:
        reasons.append("not started yet")
    if setting.state is PointState.PARTIAL:
        reasons.append("ended early, since its result was certain or the server was saturated")
    return "; ".join(reasons) or DASH


def _peaks(curves: Sequence[Curve]) -> Table | None:
    if len(curves) < 2:
        return None
    rows = [
        (
            _others(curve) or "all",
            f"{curve.load(curve.peak):g}",
            _text(curve.peak, "output_tok_s"),
            f"{curve.load(curve.knee):g}",
            _text(curve.knee, "output_tok_s"),
            "yes" if curve.rising else "no",
        )
        for curve in curves
    ]
    head = ("Series", "Load at peak", "Tok/s", "Load at knee", "Tok/s", "Still rising")
    return Table(f"Peak, and the smallest load with {REACHED:.0%} of it", head, rows)


# --- charts ---


def _load_charts(curves: Sequence[Curve]) -> Iterator[DrawnChart]:
    drawn = curves[:_MOST_SERIES]
    for key in _OVER_LOAD:
        points = [
            LoadPoint(n, curve.load(one), found.value, found.low, found.high)
            for n, curve in enumerate(drawn)
            for one in curve.settings
            if (found := one.metrics.get(key)) is not None
        ]
        if points:
            yield _load_chart(key, points, curves)


def _load_chart(key: str, points: Sequence[LoadPoint], curves: Sequence[Curve]) -> DrawnChart:
    first, title = curves[0], load_title(curves[0].key)
    marks: list[tuple[float, str]] = []
    if key == "output_tok_s":
        marks = [(first.load(first.peak), "peak"), (first.load(first.knee), "knee")]
        if marks[0][0] == marks[1][0]:
            marks = [(marks[0][0], "peak and knee")]
    axes = Axis(title, ""), Axis(COLUMN[key].title, COLUMN[key].unit)
    intervals = ", with 95% intervals" if any(point.low is not None for point in points) else ""
    caption = f"{COLUMN[key].title} by {title.partition(' (')[0]}{intervals}."
    if len(curves) > _MOST_SERIES:
        caption += f" The {_MOST_SERIES} of {len(curves)} series with the highest peaks."
    if marks and len(curves) > 1:
        caption += f" Peak and knee: {_others(first)}."
    named = [_others(curve) for curve in curves[:_MOST_SERIES]]
    rows = [
        (
            named[p.series] or "all",
            f"{p.load:g}",
            text_of(key, p.value),
            _interval(key, p.low, p.high),
        )
        for p in points
    ]
    head = ("Series", "Load", COLUMN[key].title, "95% CI")
    return DrawnChart(
        key=f"load-{key}",
        title=COLUMN[key].title,
        caption=caption,
        y_title=COLUMN[key].title,
        legend=list(enumerate(named, 1)) if len(named) > 1 else [],
        wide=draw(load_chart(points, axes, HALF, marks)),
        narrow=draw(load_chart(points, axes, NARROW, marks)),
        table=Table(f"{COLUMN[key].title} over the load", head, rows),
    )


def _interval(key: str, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return DASH
    return f"{text_of(key, low)} – {text_of(key, high)}"


def frontier_title(found: Frontier) -> str:
    """Names of both metrics."""
    return f"{COLUMN[found.y].title} vs. {COLUMN[found.x].title}"


def direction(found: Frontier) -> str:
    """Where in the chart is better."""
    up = "Up" if found.y_better == "higher" else "Down"
    return f"{up} and {'right' if found.x_better == 'higher' else 'left'} is better."


def frontier_figure(
    found: Frontier, *sweeps: Sweep, others: Sequence[Frontier] = (), names: Sequence[str] = ()
) -> DrawnChart:
    """The chart of a frontier, or of those of several sweeps over each other.

    Args:
        found: of the first sweep.
        sweeps: all.
        others: the frontiers of the other sweeps, in the same order.
        names: of the sweeps.
    """
    whole = (found, *others)
    marks = [
        mark
        for position, (one, sweep) in enumerate(zip(whole, sweeps, strict=True))
        for mark in _marks(position, one, sweep, named=not others)
    ]
    where = boundary_words(found.boundary) if found.boundary else ""
    modelled = "modeled" if found.basis is Basis.MODELLED else ""
    y_title = ", ".join(filter(None, (COLUMN[found.y].title, where, modelled)))
    axes = Axis(COLUMN[found.x].title, COLUMN[found.x].unit), Axis(y_title, COLUMN[found.y].unit)
    keys = [short_names(sweeps[0].keys)[key] for key in sweeps[0].varied]
    labels = f" Labels: {', '.join(keys)}." if keys and not others else ""
    return DrawnChart(
        key=found.key,
        title=frontier_title(found),
        caption=(
            f"{direction(found)} The fuller a point, the more probable it is on the frontier; pale"
            f" ones are dominated. Dashed: frontier of the measured values.{labels}"
        ),
        y_title=y_title,
        legend=list(enumerate(names, 1)),
        wide=draw(frontier_chart(marks, axes, HALF)),
        narrow=draw(frontier_chart(marks, axes, NARROW)),
        table=_every_point(whole, names),
    )


def _marks(position: int, found: Frontier, sweep: Sweep, *, named: bool) -> Iterator[FrontierMark]:
    settings = {tuple(p.id for p in one.points): one for one in sweep.settings}
    y, x = (np.array([[getattr(point, axis) for point in found.points]]) for axis in "yx")
    on = non_dominated(signed(y, found.y_better), signed(x, found.x_better))[0]
    certain = sorted((p for p in found.points if p.place == "frontier"), key=lambda p: p.x)
    labeled = certain[:: max(1, -(-len(certain) // _MOST_LABELS))] if named else []
    for point, is_on in zip(found.points, on, strict=True):
        setting = settings[point.points]
        yield FrontierMark(
            series=position,
            x=point.x,
            y=point.y,
            x_ends=_both(setting.metrics[found.x]),
            y_ends=_both(setting.metrics[found.y]),
            probability=point.probability,
            on=bool(is_on),
            name=", ".join(shown(point.values[key]) for key in sweep.varied)
            if point in labeled
            else "",
        )


def _both(found: Measured) -> tuple[float, float] | None:
    return None if found.low is None or found.high is None else (found.low, found.high)


def _every_point(whole: Sequence[Frontier], names: Sequence[str]) -> Table:
    first = whole[0]
    head = ("Point", COLUMN[first.x].title, COLUMN[first.y].title, "Probability", "Place")
    rows = [
        (f"{names[n]}: {row[0]}" if names else row[0], *row[1:])
        for n, found in enumerate(whole)
        for row in _rows(found, found.points)
    ]
    return Table(f"{frontier_title(first)}, all points", head, rows, (4,))


def _rows(found: Frontier, points: Sequence[FrontierPoint]) -> list[tuple[str, ...]]:
    return [
        (
            setting_name(point.values),
            text_of(found.x, point.x),
            text_of(found.y, point.y),
            share(point.probability),
            _PLACES[point.place],
        )
        for point in points
    ]


def _frontier(found: Frontier) -> FrontierView:
    kept = sorted((p for p in found.points if p.place != "dominated"), key=lambda p: p.x)
    counts = Counter(point.place for point in found.points)
    parts = [f"{counts['frontier']} of {len(found.points)} points are on the frontier"]
    if counts["indistinguishable"]:
        parts.append(f"{counts['indistinguishable']} cannot be distinguished from it")
    if counts["dominated"]:
        parts.append(f"{counts['dominated']} are dominated")
    title = frontier_title(found)
    head = ("Point", COLUMN[found.x].title, COLUMN[found.y].title, "Probability", "Place")
    caption = f"{title}: points that are not dominated"
    table = Table(caption, head, _rows(found, kept), (4,))
    return FrontierView(found.key, title, f"{'; '.join(parts)}.", table)


# --- facts and notes ---


def _facts(sweep: Sweep) -> Iterator[tuple[str, str]]:
    index = sweep.index
    yield "Folder", index.sweep_id
    for axis in index.axes:
        zipped = "" if axis.zipped is None else f" (in step, group {axis.zipped + 1})"
        yield axis.key, ", ".join(map(shown, axis.values)) + zipped
    yield "Order", index.order
    yield "Runs of each point", str(index.repeats)
    if index.overrides:
        yield "Overrides", ", ".join(index.overrides)
    if (measured_s := sum(p.wall_s or 0 for p in index.points)) > 0:
        yield "Time of all points", duration(measured_s)


def _notes(sweep: Sweep, found: Sequence[Frontier]) -> Iterator[str]:
    yield from sweep.index.notes
    yield (
        f"Frontiers: {DRAWS:,} draws of every metric from its interval. A point is on the frontier"
        f" with a probability of at least 50%. It cannot be distinguished with at least"
        f" {POSSIBLE:.0%}, or while no other point dominates it significantly."
    )
    if sweep.index.repeats == 1:
        yield (
            "Each point was run once: its intervals cover the noise within the run, not the"
            " differences between runs. `repeats` of the sweep adds them."
        )
    exact = sorted({COLUMN[key].title for one in found for key in one.exact})
    if exact:
        yield f"No point has an interval for {', '.join(exact)}: frontiers treat it as exact."
    if any(one.sensors for setting in sweep.usable for one in setting.metrics.values()):
        yield (
            "Errors of power sensors are common to all points on a GPU: intervals do not have them,"
            " and they change no order."
        )
    if any(setting.status is Status.FUNCTIONAL for setting in sweep.usable):
        yield "These are smoke runs: they prove function only."
    if sweep.index.kind == "sweep":
        yield (
            "The best point has the highest throughput per GPU (without GPUs: in total) among those"
            f" with a valid verdict in which at least {SLO_SHARE:.0%} of requests met every SLO."
            " The highest of several noisy values is slightly too high: run best.yaml to confirm"
            " it."
        )
