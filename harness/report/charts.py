"""Charts as SVG, drawn by Vega-Lite here, so that a report needs neither network nor script.

Colours are placeholders while drawing. In HTML they become CSS variables, so that one drawing
serves light, dark and paper; for files beside report.md they become fixed colours of either theme.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from xml.sax.saxutils import escape

WIDE: Final = (880, 230)
"""Width and height in CSS pixels on a desk and on paper."""
NARROW: Final = (330, 210)
"""On a phone, where a wide chart would shrink until it cannot be read."""

# Placeholder -> (CSS variable, light, dark). Contrast of lines against their ground is at least 3:1
# in both themes (WCAG 1.4.11).
_COLOURS: Final[Mapping[str, tuple[str, str, str]]] = {
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
_DASHES: Final = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])  # lines differ in more than colour
SOFT, GRID, _WINDOW, _BAND = "#010101", "#010102", "#010106", "#010108"


@dataclass(frozen=True, slots=True)
class Line:
    """One series: (x, y) points in order; a y of None breaks the line."""

    name: str
    points: Sequence[tuple[float, float | None]]
    stepped: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """What to draw.

    Attributes:
        key: name in ids and files.
        title: heading.
        caption: what it shows, for those who cannot see it too.
        x_title: of the axis, with its unit.
        y_title: of the axis, with its unit.
        lines: series, in the order of the palette.
        window: measured stretch on x, shaded.
        x_log: logarithmic x.
        x_domain: ends of x.
        y_percent: y is a share.
        bands: further stretches on x, in another colour: when clocks were held back.
        marks: moments on x with a word each: where stages begin.
        points: draw every point, and lines through them.
        point_names: a word for each point of the first line, beside it where there is room.
        y_top: where a share's axis ends, for shares that stay small.
    """

    key: str
    title: str
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


def css_variables(theme: str) -> str:
    """Declarations of the palette for `light` or `dark`."""
    return " ".join(
        f"{name}: {light if theme == 'light' else dark};" for name, light, dark in _COLOURS.values()
    )


def draw(spec: Mapping[str, Any]) -> str:
    """A Vega-Lite specification as SVG in placeholder colours, for `inline` or `themed`."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(dict(spec)))


def inline(svg: str) -> str:
    """A drawing for the body of a page: coloured by CSS variables, in the page's font."""
    for placeholder, (variable, _, _) in _COLOURS.items():
        svg = svg.replace(placeholder, f"var({variable})")
    svg = re.sub(r' font-family="[^"]*"', "", svg)
    # The figure around it has the words; its parts would only be read out as noise.
    return re.sub(r"<svg ", '<svg aria-hidden="true" focusable="false" ', svg, count=1)


def themed(svg: str, theme: str, y_title: str = "") -> str:
    """A drawing as a file of its own, in the colours of `light` or `dark`; what its y is in stands
    above it, as it does on the page.
    """
    if y_title:
        svg = _headed(svg, y_title)
    for placeholder, (_, light, dark) in _COLOURS.items():
        svg = svg.replace(placeholder, light if theme == "light" else dark)
    return svg


_HEAD_PX: Final = 20


def _headed(svg: str, text: str) -> str:
    """A drawing with a line of text above it."""
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
    """The specification of a chart of lines, of a width and height in CSS pixels."""
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
        x_axis |= {"labelExpr": _SECONDS_LABEL, "values": _decades(chart.x_domain, narrow=narrow)}
    y_axis: dict[str, Any] = {
        "title": None,
        "tickCount": 5,
        "labelExpr": _PERCENT_LABEL if chart.y_percent else _COUNT_LABEL,
        "domain": False,
        "ticks": False,
    }
    layers: list[dict[str, Any]] = []
    if chart.window is not None:
        layers.append(
            {
                "data": {"values": [{"x0": chart.window[0], "x1": chart.window[1]}]},
                "mark": {"type": "rect", "color": _WINDOW, "opacity": 0.08},
                "encoding": {
                    "x": {"field": "x0", "type": "quantitative", "scale": x_scale, "axis": x_axis},
                    "x2": {"field": "x1"},
                },
            }
        )
    if chart.bands:
        layers.append(
            {
                "data": {"values": [{"x0": start, "x1": end} for start, end in chart.bands]},
                "mark": {"type": "rect", "color": _BAND, "opacity": 0.16},
                "encoding": {
                    "x": {"field": "x0", "type": "quantitative", "scale": x_scale, "axis": x_axis},
                    "x2": {"field": "x1"},
                },
            }
        )
    if chart.marks:
        layers += _marks(chart, x_scale, x_axis, width=0 if narrow else width)
    layers.append(
        {
            "mark": {
                "type": "line",
                "strokeWidth": 1.75,
                "interpolate": (
                    "step-after" if any(line.stepped for line in chart.lines) else "linear"
                ),
                "strokeJoin": "round",
                **({"point": {"filled": True, "size": 55}} if chart.points else {}),
            },
            "encoding": {
                "x": {"field": "x", "type": "quantitative", "scale": x_scale, "axis": x_axis},
                "y": {
                    "field": "y",
                    "type": "quantitative",
                    "scale": {
                        "zero": True,
                        **({"domain": [0, chart.y_top]} if chart.y_percent else {}),
                    },
                    "axis": y_axis,
                },
                "color": {
                    "field": "s",
                    "type": "nominal",
                    "legend": None,
                    "scale": {
                        "domain": [line.name for line in chart.lines],
                        "range": list(SERIES[: len(chart.lines)]),
                    },
                },
                **({"order": {"field": "o"}} if chart.points else {}),
                "strokeDash": {
                    "field": "s",
                    "type": "nominal",
                    "legend": None,
                    "scale": {
                        "domain": [line.name for line in chart.lines],
                        "range": list(_DASHES[: len(chart.lines)]),
                    },
                },
            },
        }
    )
    if chart.point_names and len(chart.point_names) <= _MOST_NAMES and not narrow:
        layers.append(_names(chart))
    return whole(width, height, rows, layers)


def whole(
    width: int,
    height: int,
    rows: Sequence[Mapping[str, Any]],
    layers: Sequence[Mapping[str, Any]],
    *,
    padding: int | Mapping[str, int] = 2,
) -> dict[str, Any]:
    """A drawing for Vega-Lite from its layers, in the look that all charts share.

    Args:
        width: in CSS pixels, padding included.
        height: likewise.
        rows: data of the layers that bring none of their own.
        layers: from back to front.
        padding: around it.
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


def _marks(
    chart: Chart, x_scale: Mapping[str, Any], x_axis: Mapping[str, Any], *, width: int
) -> list[dict[str, Any]]:
    """Rules at moments, with their words above the plot as far as they fit beside each other; a
    width of 0 has none.
    """
    data = {"values": [{"at": at} for at, _ in chart.marks]}
    x = {"field": "at", "type": "quantitative", "scale": x_scale, "axis": x_axis}
    layers: list[dict[str, Any]] = [
        {
            "data": data,
            "mark": {"type": "rule", "color": SOFT, "strokeDash": [3, 3]},
            "encoding": {"x": x},
        }
    ]
    told = _fitting(chart.marks, chart.x_domain, width)
    if told:
        text = {
            "type": "text",
            "align": "left",
            "baseline": "bottom",
            "dx": -1,
            "fontSize": 11,
            "color": SOFT,
        }
        encoding = {"x": x, "y": {"value": -3}, "text": {"field": "word"}}
        layers.append(
            {
                "data": {"values": [{"at": at, "word": word} for at, word in told]},
                "mark": text,
                "encoding": encoding,
            }
        )
    return layers


_LETTER_PX: Final = 6.2
"""Mean width of a letter of 11 px, rounded up: Helvetica's digits are 6.1."""
_AXIS_PX: Final = 50
"""What the labels of the other axis take, at most."""


_MOST_NAMES: Final = 8
"""Of points; more would lie upon each other."""


def _fitting(
    marks: Sequence[tuple[float, str]], domain: tuple[float, float] | None, width: int
) -> list[tuple[float, str]]:
    """Marks whose words overlap none before them nor stick out."""
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


def _names(chart: Chart) -> dict[str, Any]:
    values = [
        {"x": x, "y": y, "word": word}
        for (x, y), word in zip(chart.lines[0].points, chart.point_names, strict=True)
    ]
    text = {
        "type": "text",
        "align": "left",
        "baseline": "bottom",
        "dx": 6,
        "dy": -4,
        "fontSize": 11,
        "color": SOFT,
    }
    axes: dict[str, Any] = {axis: {"field": axis, "type": "quantitative"} for axis in ("x", "y")}
    return {
        "data": {"values": values},
        "mark": text,
        "encoding": {**axes, "text": {"field": "word"}},
    }


_PERCENT_LABEL: Final = "format(datum.value, '.0%')"
_COUNT_LABEL: Final = (
    "datum.value >= 1e6 ? format(datum.value / 1e6, '~g') + 'M' : datum.value >= 1e4 ?"
    " format(datum.value / 1e3, '~g') + 'k' : format(datum.value, ',~g')"
)
_SECONDS_LABEL: Final = (
    "datum.value < 0.001 ? format(datum.value * 1e6, '~r') + ' µs' : datum.value < 1 ?"
    " format(datum.value * 1e3, '~r') + ' ms' : format(datum.value, '~r') + ' s'"
)


def _decades(domain: tuple[float, float] | None, *, narrow: bool) -> list[float]:
    """Ticks at 1, 2 and 5 of each decade, fewer where there is little room."""
    low, high = domain or (1e-3, 1e2)
    steps = (1,) if narrow and high / low > 30 else (1, 2, 5)
    ticks = [mantissa * 10.0**exponent for exponent in range(-7, 6) for mantissa in steps]
    kept = [float(f"{tick:.6g}") for tick in ticks if low <= tick <= high]
    return kept if len(kept) <= 12 else kept[:: len(kept) // 8]
