"""Charts of a comparison, drawn by Vega-Lite to SVG in the placeholder colours of
`harness.report.charts`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from harness.report.charts import SERIES, SOFT, whole

_PADDING: Final = {"left": 6, "right": 14, "top": 4, "bottom": 4}
SHAPES: Final = ("circle", "square", "triangle-up", "diamond")
"""Points of sides differ in more than colour."""


@dataclass(frozen=True, slots=True)
class RatioMark:
    """One ratio of the overview.

    Attributes:
        figure: row of the chart.
        side: position of the side, from 1 (the baseline is 0).
        ratio: to the baseline's.
        low: lower end of its interval; None where there is none.
        high: its upper end.
        said: whether it was called better or worse.
    """

    figure: str
    side: int
    ratio: float
    low: float | None
    high: float | None
    said: bool = False


@dataclass(frozen=True, slots=True)
class TradePoint:
    """One run in the plane of tokens per user and tokens per GPU.

    Attributes:
        side: position of the side.
        order: position along the side's line: its stage.
        x: tokens per second and user.
        y: tokens per second and GPU.
    """

    side: int
    order: int
    x: float
    y: float


def ratios(marks: Sequence[RatioMark], names: Sequence[str], width: int) -> dict[str, Any]:
    """Ratios with their intervals about a line at 1.

    Args:
        marks: what to draw; figures appear in their order.
        names: of the sides, the baseline's first.
        width: in CSS pixels.
    """
    figures = list(dict.fromkeys(mark.figure for mark in marks))
    sides = [names[i] for i in sorted({mark.side for mark in marks})]
    rows = [
        {
            "f": mark.figure,
            "s": names[mark.side],
            "r": mark.ratio,
            "lo": mark.low or mark.ratio,
            "hi": mark.high or mark.ratio,
            "fill": mark.said,
        }
        for mark in marks
    ]
    ends = [
        1.0,
        *(end for mark in marks for end in (mark.low or mark.ratio, mark.high or mark.ratio)),
    ]
    low, high = min(ends) / 1.03, max(ends) * 1.03
    colour = _colour(sides, names)
    room = (
        round(6.8 * max(map(len, figures))) + 8
    )  # of labels in the page's own font, which is wider than the one they are placed with
    y = {
        "field": "f",
        "type": "nominal",
        "sort": figures,
        "axis": {
            "title": None,
            "ticks": False,
            "domain": False,
            "labelLimit": 220,
            "minExtent": room,
        },
    }
    offset = {"yOffset": {"field": "s", "type": "nominal", "sort": sides}} if len(sides) > 1 else {}
    scale = {"type": "log", "domain": [low, high], "nice": False}
    axis = {
        "title": "ratio to A, with 95 % interval",
        "format": "~g",
        "values": _ratio_ticks(low, high, narrow=width < 500),
    }

    def x(field: str) -> dict[str, Any]:
        return {"field": field, "type": "quantitative", "scale": scale, "axis": axis}

    return whole(
        width,
        24 + len(figures) * max(26, 15 * len(sides)),
        rows,
        [
            {
                "data": {"values": [{"one": 1}]},
                "mark": {"type": "rule", "color": SOFT},
                "encoding": {"x": x("one")},
            },
            {
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": {
                    "x": x("lo"),
                    "x2": {"field": "hi"},
                    "y": y,
                    "color": colour,
                    **offset,
                },
            },
            {
                "mark": {
                    "type": "point",
                    "filled": False,
                    "size": 60,
                    "strokeWidth": 2,
                    "opacity": 1,
                },
                "encoding": {
                    "x": x("r"),
                    "y": y,
                    "stroke": colour,
                    "fill": colour,
                    "fillOpacity": {
                        "field": "fill",
                        "type": "nominal",
                        "legend": None,
                        "scale": {"domain": [True, False], "range": [1, 0]},
                    },
                    "shape": _shape(sides, names),
                    **offset,
                },
            },
        ],
        padding=_PADDING,
    )


def trade(
    points: Sequence[TradePoint], names: Sequence[str], size: tuple[int, int]
) -> dict[str, Any]:
    """Tokens per GPU against tokens per user: a point a run, a line through the means of a side's
    stages.
    """
    sides = [names[i] for i in sorted({point.side for point in points})]
    rows = [{"s": names[p.side], "o": p.order, "x": p.x, "y": p.y} for p in points]
    colour = _colour(sides, names)
    x_axis = {"title": "tokens per second per user (1 / median TPOT)", "format": "~s"}
    y_axis = {"title": None, "format": "~s", "domain": False, "ticks": False}
    x_scale, y_scale = (
        {"domain": [0, 1.06 * max(getattr(point, axis) for point in points)], "nice": False}
        for axis in ("x", "y")
    )
    layers: list[dict[str, Any]] = [
        {
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 0.9},
            "encoding": {
                "x": {"field": "x", "type": "quantitative", "scale": x_scale, "axis": x_axis},
                "y": {"field": "y", "type": "quantitative", "scale": y_scale, "axis": y_axis},
                "color": colour,
                "shape": _shape(sides, names),
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
                    "x": {"field": "mx", "type": "quantitative", "scale": x_scale, "axis": x_axis},
                    "y": {"field": "my", "type": "quantitative", "scale": y_scale, "axis": y_axis},
                    "order": {"field": "o"},
                    "color": colour,
                },
            }
        )
    return whole(*size, rows, layers, padding=_PADDING)


def _colour(sides: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    places = [names.index(side) % len(SERIES) for side in sides]
    return {
        "field": "s",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": list(sides), "range": [SERIES[i] for i in places]},
    }


def _shape(sides: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    places = [names.index(side) % len(SHAPES) for side in sides]
    return {
        "field": "s",
        "type": "nominal",
        "legend": None,
        "scale": {"domain": list(sides), "range": [SHAPES[i] for i in places]},
    }


def _ratio_ticks(low: float, high: float, *, narrow: bool) -> list[float]:
    """Round ratios about 1, which is always among them: even steps where all are near it, doublings
    or decades where they are not.
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
