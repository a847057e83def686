"""Charts as SVG, drawn by Vega-Lite, so that a report needs neither network nor script.

Colors are placeholders while drawing. HTML replaces them by CSS variables, so that one drawing
serves light, dark and print; files next to report.md get the fixed colors of one theme.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt

WIDE: Final = (880, 230)
"""Width and height in CSS pixels on a desktop and in print."""
HALF: Final = (430, 250)
"""Of one of two charts side by side."""
NARROW: Final = (330, 210)
"""On a phone, where a wide chart would shrink until it is unreadable."""

# Placeholder -> (CSS variable, light, dark). Contrast of lines against their ground is at least 3:1
# in both themes (WCAG 1.4.11).
_COLORS: Final[Mapping[str, tuple[str, str, str]]] = {
    "#010101": ("--ink-soft", "#57606f", "#a3adbd"),
    "#010102": ("--grid", "#e6e9ef", "#2a323f"),
    "#010103": ("--series-1", "#2456d6", "#7aa5ff"),
    "#010104": ("--series-2", "#b4530a", "#f0a35e"),
    "#010105": ("--series-3", "#0f766e", "#4fd1c1"),
    "#010106": ("--window", "#2456d6", "#7aa5ff"),
    "#010107": ("--series-4", "#a21caf", "#e08bf0"),
    "#010108": ("--band", "#b42318", "#ff9b8f"),
}
SERIES: Final = ("#010103", "#010104", "#010105", "#010107")
SHAPES: Final = ("circle", "square", "triangle-up", "diamond")
"""Of points of several series, which differ in more than color."""
_DASHES: Final = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])  # lines differ in more than color
SOFT, GRID, _WINDOW, _BAND = "#010101", "#010102", "#010106", "#010108"


@dataclass(frozen=True, slots=True)
class Line:
    """One series: (x, y) points in order; a y of None breaks the line."""

    name: str
    points: Sequence[tuple[float, float | None]]
    stepped: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """A line chart; axis titles have units.

    Attributes:
        key: name in ids and files.
        caption: what it shows; also the alternative text.
        window: measurement window on x, shaded.
        y_percent: y is a share.
        bands: intervals on x in another color: when GPUs were throttled.
        marks: labeled positions on x: starts of stages.
        points: draw every point, and lines through them.
        point_names: labels for the points of the first line, where there is room.
        y_top: end of a share's axis, for shares that stay small.
        ring: a point to mark by a ring.
        half: half as wide, next to another one.
    """

    key: str
    caption: str
    x_title: str
    y_title: str
    lines: Sequence[Line]
    window: tuple[float, float] | None = None
    x_log: bool = False
    x_domain: tuple[float, float] | None = None
    y_percent: bool = False
    bands: Sequence[tuple[float, float]] = ()
    marks: Sequence[tuple[float, str]] = ()
    points: bool = False
    point_names: Sequence[str] = ()
    y_top: float = 1.0
    ring: tuple[float, float] | None = None
    half: bool = False


def cumulative(
    ordered: npt.NDArray[np.float64], everyone: int, most: int
) -> list[tuple[float, float | None]]:
    """Points (value, share of `everyone` up to it) of sorted values, at most `most`."""
    picks = np.unique(np.linspace(0, len(ordered) - 1, most).astype(int))
    return [(float(f"{ordered[i]:.4g}"), float(f"{(i + 1) / everyone:.4g}")) for i in picks]


def css_variables(theme: str) -> str:
    """The palette for `light` or `dark`, as CSS declarations."""
    return " ".join(
        f"{name}: {light if theme == 'light' else dark};" for name, light, dark in _COLORS.values()
    )


def draw(spec: Mapping[str, Any]) -> str:
    """A Vega-Lite specification as SVG in placeholder colors, for `inline` or `themed`."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(dict(spec)))


def inline(svg: str) -> str:
    """A drawing for the body of a page, with CSS variables as colors and the page's font."""
    for placeholder, (variable, _, _) in _COLORS.items():
        svg = svg.replace(placeholder, f"var({variable})")
    svg = re.sub(r' font-family="[^"]*"', "", svg)
    # A screen reader reads the caption; the parts of the drawing would be noise.
    return re.sub(r"<svg ", '<svg aria-hidden="true" focusable="false" ', svg, count=1)


def themed(svg: str, theme: str, y_title: str = "") -> str:
    """A drawing as a file of its own, in the colors of `light` or `dark`, with the title of its y
    axis above it as on the page.
    """
    if y_title:
        svg = _headed(svg, y_title)
    for placeholder, (_, light, dark) in _COLORS.items():
        svg = svg.replace(placeholder, light if theme == "light" else dark)
    return svg


_HEAD_PX: Final = 20


def _headed(svg: str, text: str) -> str:
    found = re.match(
        r'<svg [^>]*?width="([\d.]+)" height="([\d.]+)" viewBox="0 0 [\d.]+ [\d.]+"[^>]*>', svg
    )
    if found is None:
        raise ValueError("the drawing has no size")
    width, height = found[1], float(found[2]) + _HEAD_PX
    opening = found[0].replace(f'height="{found[2]}"', f'height="{height:g}"')
    opening = re.sub(r'viewBox="[^"]*"', f'viewBox="0 -{_HEAD_PX} {width} {height:g}"', opening)
    words = (
        '<text x="2" y="-6" font-family="Helvetica, Arial, sans-serif" font-size="11.5"'
        f' fill="{SOFT}">{escape(text)}</text>'
    )
    return opening + words + svg[found.end() :]


def line_chart(chart: Chart, size: tuple[int, int]) -> dict[str, Any]:
    """The specification of a line chart, of a width and height in CSS pixels."""
    width, height = size
    narrow = width < 500
    rows = [
        {"x": x, "y": y, "s": line.name, "o": order}
        for line in chart.lines
        for order, (x, y) in enumerate(line.points)
    ]
    x_scale: dict[str, Any] = {"type": "log"} if chart.x_log else {"nice": False, "zero": False}
    if chart.x_domain is not None:
        x_scale["domain"] = list(chart.x_domain)
    x_axis: dict[str, Any] = {
        "title": chart.x_title,
        "tickCount": 4 if narrow else 9,
        "grid": chart.x_log,
    }
    if chart.x_log:
        x_axis |= {
            "labelExpr": label_expression("s"),
            "values": decades(chart.x_domain, narrow=narrow),
        }
    y_axis: dict[str, Any] = {
        "title": None,
        "tickCount": 5,
        "labelExpr": label_expression("1" if chart.y_percent else ""),
        "domain": False,
        "ticks": False,
    }
    x = {"type": "quantitative", "scale": x_scale, "axis": x_axis}
    layers: list[dict[str, Any]] = [
        {
            "data": {"values": [{"x0": start, "x1": end} for start, end in spans]},
            "mark": {"type": "rect", "color": color, "opacity": opacity},
            "encoding": {"x": {"field": "x0", **x}, "x2": {"field": "x1"}},
        }
        for spans, color, opacity in (
            ((chart.window,) if chart.window else (), _WINDOW, 0.08),
            (chart.bands, _BAND, 0.16),
        )
        if spans
    ]
    if chart.marks:
        layers += _marks(chart, {"field": "at", **x}, width=0 if narrow else width)
    names = [line.name for line in chart.lines]
    y_scale = {"zero": True, **({"domain": [0, chart.y_top]} if chart.y_percent else {})}
    stepped = any(line.stepped for line in chart.lines)
    lines: dict[str, Any] = {
        "mark": {
            "type": "line",
            "strokeWidth": 1.75,
            "interpolate": "step-after" if stepped else "linear",
            "strokeJoin": "round",
            **({"point": {"filled": True, "size": 55}} if chart.points else {}),
        },
        "encoding": {
            "x": {"field": "x", **x},
            "y": {"field": "y", "type": "quantitative", "scale": y_scale, "axis": y_axis},
            "color": nominal("s", names, SERIES[: len(names)]),
            **({"order": {"field": "o"}} if chart.points else {}),
            "strokeDash": nominal("s", names, _DASHES[: len(names)]),
        },
    }
    layers.append(lines)
    axes = {"x": {"field": "x", **x}, "y": lines["encoding"]["y"]}
    if chart.ring is not None:
        layers.append(_ring(chart.ring, axes))
    if chart.point_names:
        layers.append(_names(chart, size, axes))
    return whole(width, height, rows, layers)


def nominal(field: str, domain: Sequence[object], values: Sequence[object]) -> dict[str, Any]:
    """Encoding of a nominal field by given values, such as colors, without a legend."""
    scale = {"domain": list(domain), "range": list(values)}
    return {"field": field, "type": "nominal", "legend": None, "scale": scale}


def whole(
    width: int,
    height: int,
    rows: Sequence[Mapping[str, Any]],
    layers: Sequence[Mapping[str, Any]],
    *,
    padding: int | Mapping[str, int] = 2,
) -> dict[str, Any]:
    """A complete specification from its layers (back to front), in the common style. `width` and
    `height` are in CSS pixels and include the padding; `rows` are the data of layers without their
    own.
    """
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": width,
        "height": height,
        "background": None,
        "padding": padding,
        "autosize": {"type": "fit", "contains": "padding"},
        "data": {"values": list(rows)},
        "layer": list(layers),
        "config": {
            "font": "Helvetica, Arial, sans-serif",
            "view": {"stroke": None},
            "axis": {
                "labelColor": SOFT,
                "titleColor": SOFT,
                "gridColor": GRID,
                "domainColor": SOFT,
                "tickColor": SOFT,
                "labelFontSize": 11.5,
                "titleFontSize": 11.5,
                "titleFontWeight": "normal",
                "titlePadding": 8,
                "labelPadding": 6,
            },
        },
    }


def _marks(chart: Chart, x: Mapping[str, Any], *, width: int) -> list[dict[str, Any]]:
    """Rules at positions, with their labels above the plot as far as they fit; a width of 0 has
    none.
    """
    data = {"values": [{"at": at} for at, _ in chart.marks]}
    layers: list[dict[str, Any]] = [
        {
            "data": data,
            "mark": {"type": "rule", "color": SOFT, "strokeDash": [3, 3]},
            "encoding": {"x": x},
        }
    ]
    if fitting := _fitting(chart.marks, chart.x_domain, width):
        layers.append(
            {
                "data": {"values": [{"at": at, "word": word} for at, word in fitting]},
                "mark": {**_LABEL, "dx": -1},
                "encoding": {"x": x, "y": {"value": -3}, "text": {"field": "word"}},
            }
        )
    return layers


_LABEL: Final = {
    "type": "text",
    "align": "left",
    "baseline": "bottom",
    "fontSize": 11,
    "color": SOFT,
}


_LETTER_PX: Final = 6.2
"""Mean width of a letter of 11 px, rounded up: Helvetica's digits are 6.1."""
_LINE_PX: Final = 13
_AXIS_PX: Final = 50
"""Largest width of the labels of the other axis."""


def _fitting(
    marks: Sequence[tuple[float, str]], domain: tuple[float, float] | None, width: int
) -> list[tuple[float, str]]:
    """Marks whose labels neither overlap an earlier one nor stick out."""
    if domain is None or domain[1] <= domain[0] or not width:
        return []
    out: list[tuple[float, str]] = []
    free = 0.0
    for at, word in sorted(marks):
        left = (at - domain[0]) / (domain[1] - domain[0]) * (width - _AXIS_PX)
        right = left + _LETTER_PX * len(word)
        if left >= free and right <= width - _AXIS_PX + 10:
            out.append((at, word))
            free = right + _LETTER_PX
    return out


def _ring(at: tuple[float, float], axes: Mapping[str, Any]) -> dict[str, Any]:
    mark = {"type": "point", "filled": False, "size": 240, "strokeWidth": 2, "color": SERIES[1]}
    return {"data": {"values": [{"x": at[0], "y": at[1]}]}, "mark": mark, "encoding": dict(axes)}


def _names(chart: Chart, size: tuple[int, int], axes: Mapping[str, Any]) -> dict[str, Any]:
    """Names of the first line's points, without those that would cover an earlier one; on the side
    where the line does not pass.
    """
    points = [(x, y or 0.0) for x, y in chart.lines[0].points]
    kept = apart(points, chart.point_names, chart.x_log, size)
    (x0, y0), (x1, y1) = min(points), max(points)
    side = {"align": "right", "dx": -9} if y1 > y0 and x1 > x0 else {"dx": 9}
    return {
        "data": {"values": [{"x": x, "y": y, "word": word} for x, y, word in kept]},
        "mark": {**_LABEL, **side, "dy": -5},
        "encoding": {**axes, "text": {"field": "word"}},
    }


def apart(
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    x_log: bool,
    size: tuple[int, int],
) -> list[tuple[float, float, str]]:
    """Points with names, without those whose name would cover an earlier one's."""
    xs = [math.log(x) if x_log else x for x, _ in points]
    span = (max(xs) - min(xs) or 1.0, max(y for _, y in points) or 1.0)
    kept: list[tuple[float, float, str]] = []
    taken: list[tuple[float, float, int]] = []
    for at, (x, y), name in zip(xs, points, names, strict=True):
        left, top = at / span[0] * 0.7 * (size[0] - _AXIS_PX), y / span[1] * (size[1] - _AXIS_PX)
        free = all(
            abs(top - other_top) > _LINE_PX
            or left > other_left + _LETTER_PX * (length + 1)
            or left + _LETTER_PX * (len(name) + 1) < other_left
            for other_left, other_top, length in taken
        )
        if free:
            kept.append((x, y, name))
            taken.append((left, top, len(name)))
    return kept


_PERCENT_LABEL: Final = "format(datum.value, '.0%')"
_COUNT_LABEL: Final = (
    "datum.value >= 1e6 ? format(datum.value / 1e6, '~g') + 'M' : datum.value >= 1e4 ?"
    " format(datum.value / 1e3, '~g') + 'k' : format(datum.value, ',~g')"
)
_SECONDS_LABEL: Final = (
    "datum.value == 0 ? '0' : datum.value < 0.001 ? format(datum.value * 1e6, '~r') + ' µs' :"
    " datum.value < 1 ? format(datum.value * 1e3, '~r') + ' ms' : format(datum.value, '~r') + ' s'"
)


def label_expression(unit: str) -> str:
    """Vega's expression for the labels of an axis: `s` in a suitable unit, `1` in percent, other
    values as numbers.
    """
    return {"s": _SECONDS_LABEL, "1": _PERCENT_LABEL}.get(unit, _COUNT_LABEL)


def decades(domain: tuple[float, float] | None, *, narrow: bool) -> list[float]:
    """Ticks at 1, 2 and 5 of each decade, fewer if there is little room."""
    low, high = domain or (1e-3, 1e2)
    steps = (1,) if narrow and high / low > 30 else (1, 2, 5)
    ticks = [mantissa * 10.0**exponent for exponent in range(-7, 6) for mantissa in steps]
    kept = [float(f"{tick:.6g}") for tick in ticks if low <= tick <= high]
    return kept if len(kept) <= 12 else kept[:: len(kept) // 8]
