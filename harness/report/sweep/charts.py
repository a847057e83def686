"""Charts of a sweep: metrics over the load with their intervals, and frontiers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from harness.report.charts import (
    GRID,
    SERIES,
    SHAPES,
    SOFT,
    apart,
    decades,
    label_expression,
    nominal,
    whole,
)

_TICKS: Final = 9
_ROOM: Final = 1.18
_MOST_BEYOND: Final = 2.0
"""Ends of intervals are shown up to this factor beyond the largest or smallest value."""


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """One point of a load curve, with its interval, of the series at a position."""

    series: int
    load: float
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class FrontierMark:
    """One setting in the plane of two metrics, of the series (sweep) at a position.

    Attributes:
        x_ends: its interval in x, as `y_ends`; None without one.
        probability: of being on the frontier.
        on: drawn on the line of the measured frontier.
        name: label, where there is room; empty for none.
    """

    series: int
    x: float
    y: float
    x_ends: tuple[float, float] | None
    y_ends: tuple[float, float] | None
    probability: float
    on: bool
    name: str = ""


@dataclass(frozen=True, slots=True)
class Axis:
    """Title and unit of an axis; a unit of `s` has a log scale if the values need it."""

    title: str
    unit: str


def load_chart(
    points: Sequence[LoadPoint],
    axes: tuple[Axis, Axis],
    size: tuple[int, int],
    marks: Sequence[tuple[float, str]] = (),
) -> dict[str, Any]:
    """A metric (y) over the load (x, log scale). `marks` are labeled loads."""
    rows = [
        {"x": p.load, "y": p.value, "lo": p.low, "hi": p.high, "s": str(p.series)} for p in points
    ]
    loads = sorted({p.load for p in points})
    narrow = size[0] < 400
    x = _quantitative(axes[0], loads, log=True) | {"axis": _load_axis(axes[0].title, loads, narrow)}
    ends = _shown_ends(points)
    y = _quantitative(axes[1], ends, titled=False, percent=axes[1].unit == "1")
    series = [str(n) for n in sorted({p.series for p in points})]
    colors = [SERIES[int(name)] for name in series]
    layers: list[dict[str, Any]] = [
        {
            "transform": [{"filter": "datum.lo != null && datum.hi != null"}],
            "mark": {"type": "rule", "strokeWidth": 1.5, "opacity": 0.55},
            "encoding": {
                "x": {"field": "x", **x},
                "y": {"field": "lo", **y},
                "y2": {"field": "hi"},
                "color": nominal("s", series, colors),
            },
        },
        {
            "mark": {"type": "line", "strokeWidth": 1.75},
            "encoding": {
                "x": {"field": "x", **x},
                "y": {"field": "y", **y},
                "color": nominal("s", series, colors),
            },
        },
        {
            "mark": {"type": "point", "filled": True, "size": 42, "opacity": 1},
            "encoding": {
                "x": {"field": "x", **x},
                "y": {"field": "y", **y},
                "color": nominal("s", series, colors),
                "shape": nominal("s", series, [SHAPES[int(name)] for name in series]),
            },
        },
    ]
    if marks:
        layers = [*_rules(marks, x, loads), *layers]
    return whole(*size, rows, layers)


def _shown_ends(points: Sequence[LoadPoint]) -> list[float]:
    """What the axis of values has to show. An interval far beyond all values, as two repeats give,
    is cut off: it would flatten the curve.
    """
    values = [p.value for p in points]
    lowest, highest = min(values) / _MOST_BEYOND, max(values) * _MOST_BEYOND
    ends = [end for p in points for end in (p.low, p.high) if end is not None]
    return values + [end for end in ends if lowest <= end <= highest]


def frontier_chart(
    marks: Sequence[FrontierMark], axes: tuple[Axis, Axis], size: tuple[int, int]
) -> dict[str, Any]:
    """Settings in the plane of two metrics. The more probable a setting is on the frontier, the
    fuller its color; a line joins the measured frontier of each series.
    """
    rows = [
        {
            "x": m.x,
            "y": m.y,
            "p": m.probability,
            "s": str(m.series),
            "on": m.on,
            **_ends("x", m.x_ends),
            **_ends("y", m.y_ends),
        }
        for m in marks
    ]
    x = _quantitative(axes[0], [m.x for m in marks], percent=axes[0].unit == "1")
    x["axis"] |= {"tickCount": 4 if size[0] < 400 else 6}
    y = _quantitative(axes[1], [m.y for m in marks], titled=False, percent=axes[1].unit == "1")
    series = [str(n) for n in sorted({m.series for m in marks})]
    color = nominal("s", series, [SERIES[int(name)] for name in series])
    xy = {"x": {"field": "x", **x}, "y": {"field": "y", **y}}
    line: dict[str, Any] = {
        "transform": [{"filter": "datum.on"}],
        "mark": {"type": "line", "strokeWidth": 1.25, "strokeDash": [4, 3]},
        "encoding": {**xy, "color": color, "order": {"field": "x", "type": "quantitative"}},
    }
    shape = nominal("s", series, [SHAPES[int(name)] for name in series])
    layers = [*_whiskers(xy, color), line, _dots(xy, color, shape)]
    return whole(*size, rows, [*layers, *_labels(marks, xy, x, size)])


def _whiskers(xy: Mapping[str, Any], color: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Intervals of the points that are not dominated, in both directions."""
    return [
        {
            "transform": [{"filter": f"datum.p >= 0.05 && datum.{axis}lo != null"}],
            "mark": {"type": "rule", "opacity": 0.4},
            "encoding": {
                axis: {**xy[axis], "field": f"{axis}lo"},
                f"{axis}2": {"field": f"{axis}hi"},
                other: xy[other],
                "color": color,
            },
        }
        for axis, other in (("x", "y"), ("y", "x"))
    ]


def _dots(
    xy: Mapping[str, Any], color: Mapping[str, Any], shape: Mapping[str, Any]
) -> dict[str, Any]:
    """The points, filled by their probability."""
    by_probability = {
        "field": "p",
        "type": "quantitative",
        "legend": None,
        "scale": {"domain": [0, 1], "range": [0, 1]},
    }
    pale = {"condition": {"test": "datum.p >= 0.05", "value": 1}, "value": 0.45}
    return {
        "mark": {"type": "point", "filled": False, "size": 62, "strokeWidth": 1.4, "opacity": 1},
        "encoding": {
            **xy,
            "stroke": color,
            "fill": color,
            "fillOpacity": by_probability,
            "strokeOpacity": pale,
            "shape": shape,
        },
    }


def _labels(
    marks: Sequence[FrontierMark],
    xy: Mapping[str, Any],
    x: Mapping[str, Any],
    size: tuple[int, int],
) -> list[dict[str, Any]]:
    named = [m for m in marks if m.name]
    if not named:
        return []
    log = x["scale"]["type"] == "log"
    kept = apart([(m.x, m.y) for m in named], [m.name for m in named], log, size)
    return [
        {
            "data": {"values": [{"x": at, "y": up, "word": word} for at, up, word in kept]},
            "mark": {
                "type": "text",
                "align": "left",
                "baseline": "bottom",
                "fontSize": 11,
                "color": SOFT,
                "dx": 5,
                "dy": -4,
            },
            "encoding": {**xy, "text": {"field": "word"}},
        }
    ]


def _ends(axis: str, ends: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = ends or (None, None)
    return {f"{axis}lo": low, f"{axis}hi": high}


def _quantitative(
    axis: Axis,
    values: Sequence[float],
    *,
    log: bool = False,
    titled: bool = True,
    percent: bool = False,
) -> dict[str, Any]:
    """Encoding of a numeric axis. Times over more than a factor of 12 have a log scale."""
    low, high = min(values), max(values)
    log = log or (axis.unit == "s" and low > 0 and high > 12 * low)
    shown: dict[str, Any] = {
        "title": f"{axis.title} (log scale)" if log and titled else axis.title if titled else None,
        "labelExpr": label_expression(axis.unit),
        "tickCount": 5,
        "gridColor": GRID,
    }
    if not titled:
        shown |= {"domain": False, "ticks": False}
        if axis.unit == "s":  # the page's font is wider than the one that Vega-Lite measures with
            shown["minExtent"] = 50
    if log:
        domain = [low / _ROOM, high * _ROOM]
        if axis.unit == "s":
            few, many = (decades((domain[0], domain[1]), narrow=narrow) for narrow in (True, False))
            shown["values"] = few if len(few) > 2 else many
        return {
            "type": "quantitative",
            "scale": {"type": "log", "domain": domain, "nice": False, "clamp": True},
            "axis": shown,
        }
    start, top = 0.0, 1.0 if percent else high * (_ROOM if titled else 1.08) or 1.0
    if percent and titled:  # shares close to 1 would lie on each other
        room = max(0.04 * (1 - low), 1e-4)
        start, top = max(0.0, low - 2 * room), 1 + 3 * room
    scale = {"type": "linear", "domain": [start, top], "nice": False, "clamp": True}
    return {"type": "quantitative", "scale": scale, "axis": shown}


def _load_axis(title: str, loads: Sequence[float], narrow: bool) -> dict[str, Any]:
    """Ticks at measured loads, as many as fit."""
    step = -(-len(loads) // (_TICKS if not narrow else 7))
    return {
        "title": f"{title}, log scale",
        "values": list(loads)[::-1][::step],
        "format": "~g",
        "grid": False,
    }


def _rules(
    marks: Sequence[tuple[float, str]], x: Mapping[str, Any], loads: Sequence[float]
) -> list[dict[str, Any]]:
    """Dashed lines at loads with labels at the top, on the side that has room."""
    middle = (loads[0] * loads[-1]) ** 0.5
    layers: list[dict[str, Any]] = [
        {
            "data": {"values": [{"at": at} for at, _ in marks]},
            "mark": {"type": "rule", "color": SOFT, "strokeDash": [3, 3]},
            "encoding": {"x": {"field": "at", **x}},
        }
    ]
    for row, (at, word) in enumerate(marks):
        left = at > middle
        layers.append(
            {
                "data": {"values": [{"at": at, "word": word}]},
                "mark": {
                    "type": "text",
                    "align": "right" if left else "left",
                    "baseline": "top",
                    "fontSize": 11,
                    "color": SOFT,
                    "dx": -4 if left else 4,
                },
                "encoding": {
                    "x": {"field": "at", **x},
                    "y": {"value": 2 + 14 * row},
                    "text": {"field": "word"},
                },
            }
        )
    return layers
