"""Charts of a comparison, drawn by Vega-Lite in the placeholder colors of
`harness.report.charts`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from harness.report.charts import SERIES, SHAPES, SOFT, nominal, whole

_PADDING: Final = {"left": 6, "right": 14, "top": 4, "bottom": 4}


@dataclass(frozen=True, slots=True)
class RatioMark:
    """One ratio to the baseline, in the row `metric`, of the side at position `side` (from 1; the
    baseline is 0), with its interval. `significant`: better or worse.
    """

    metric: str
    side: int
    ratio: float
    low: float | None
    high: float | None
    significant: bool = False


@dataclass(frozen=True, slots=True)
class TradePoint:
    """One run in the plane of tokens per second per user (x) and per GPU (y). `order` is its
    position along the side's line: its stage.
    """

    side: int
    order: int
    x: float
    y: float


def ratios(marks: Sequence[RatioMark], names: Sequence[str], width: int) -> dict[str, Any]:
    """Ratios with their intervals around a line at 1. `names` are those of the sides, the baseline
    first.
    """
    metrics = list(dict.fromkeys(mark.metric for mark in marks))
    sides = [names[i] for i in sorted({mark.side for mark in marks})]
    rows = [
        {
            "f": mark.metric,
            "s": names[mark.side],
            "r": mark.ratio,
            "lo": mark.low or mark.ratio,
            "hi": mark.high or mark.ratio,
            "fill": mark.significant,
        }
        for mark in marks
    ]
    ends = [
        1.0,
        *(end for mark in marks for end in (mark.low or mark.ratio, mark.high or mark.ratio)),
    ]
    low, high = min(ends) / 1.03, max(ends) * 1.03
    color = _by_side(sides, names, SERIES)
    # Width of labels in the page's font, which is wider than the one that Vega-Lite measures with.
    room = round(6.8 * max(map(len, metrics))) + 8
    labels = {"title": None, "ticks": False, "domain": False, "labelLimit": 220, "minExtent": room}
    y = {"field": "f", "type": "nominal", "sort": metrics, "axis": labels}
    offset = {"yOffset": {"field": "s", "type": "nominal", "sort": sides}} if len(sides) > 1 else {}
    scale = {"type": "log", "domain": [low, high], "nice": False}
    axis = {
        "title": "ratio to A (95% CI)",
        "format": "~g",
        "values": _ratio_ticks(low, high, narrow=width < 500),
    }

    def x(field: str) -> dict[str, Any]:
        return {"field": field, "type": "quantitative", "scale": scale, "axis": axis}

    line = {
        "data": {"values": [{"one": 1}]},
        "mark": {"type": "rule", "color": SOFT},
        "encoding": {"x": x("one")},
    }
    intervals = {
        "mark": {"type": "rule", "strokeWidth": 2},
        "encoding": {"x": x("lo"), "x2": {"field": "hi"}, "y": y, "color": color, **offset},
    }
    points = {
        "mark": {"type": "point", "filled": False, "size": 60, "strokeWidth": 2, "opacity": 1},
        "encoding": {
            "x": x("r"),
            "y": y,
            "stroke": color,
            "fill": color,
            "fillOpacity": nominal("fill", [True, False], [1, 0]),
            "shape": _by_side(sides, names, SHAPES),
            **offset,
        },
    }
    height = 24 + len(metrics) * max(26, 15 * len(sides))
    return whole(width, height, rows, [line, intervals, points], padding=_PADDING)


def trade(
    points: Sequence[TradePoint], names: Sequence[str], size: tuple[int, int]
) -> dict[str, Any]:
    """Tokens per GPU vs. tokens per user: one point per run, and a line through the means of a
    side's stages.
    """
    sides = [names[i] for i in sorted({point.side for point in points})]
    rows = [{"s": names[p.side], "o": p.order, "x": p.x, "y": p.y} for p in points]
    color = _by_side(sides, names, SERIES)
    x_axis = {"title": "tok/s per user (1 / median TPOT)", "format": "~s"}
    y_axis = {"title": None, "format": "~s", "domain": False, "ticks": False}
    x_scale, y_scale = (
        {"domain": [0, 1.06 * max(getattr(point, axis) for point in points)], "nice": False}
        for axis in ("x", "y")
    )
    x = {"type": "quantitative", "scale": x_scale, "axis": x_axis}
    y = {"type": "quantitative", "scale": y_scale, "axis": y_axis}
    layers: list[dict[str, Any]] = [
        {
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 0.9},
            "encoding": {
                "x": {"field": "x", **x},
                "y": {"field": "y", **y},
                "color": color,
                "shape": _by_side(sides, names, SHAPES),
            },
        }
    ]
    if len({point.order for point in points}) > 1:
        means = [{"op": "mean", "field": field, "as": f"m{field}"} for field in ("x", "y")]
        layers.append(
            {
                "mark": {"type": "line", "strokeWidth": 1.5},
                "transform": [{"aggregate": means, "groupby": ["s", "o"]}],
                "encoding": {
                    "x": {"field": "mx", **x},
                    "y": {"field": "my", **y},
                    "order": {"field": "o"},
                    "color": color,
                },
            }
        )
    return whole(*size, rows, layers, padding=_PADDING)


def _by_side(sides: Sequence[str], names: Sequence[str], looks: Sequence[str]) -> dict[str, Any]:
    """Encoding by side; a side has the look of its position among all."""
    return nominal("s", sides, [looks[names.index(side) % len(looks)] for side in sides])


def _ratio_ticks(low: float, high: float, *, narrow: bool) -> list[float]:
    """Round ratios around and including 1: even steps if all are near it, else doublings or
    decades.
    """
    most = 5 if narrow else 9
    if high / low < 2:
        for step in (0.01, 0.02, 0.05, 0.1, 0.2):
            ticks = [
                round(1 + i * step, 6) for i in range(-100, 101) if low <= 1 + i * step <= high
            ]
            if len(ticks) <= most:
                return ticks
    for factor in (2.0, 4.0, 10.0, 100.0, 1000.0):
        ticks = [factor**i for i in range(-20, 21) if low <= factor**i <= high]
        if len(ticks) <= most:
            return ticks
    return [1.0]
