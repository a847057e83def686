"""Charts of a fleet's page, as Vega-Lite in the placeholder colors of `harness.report.charts`:
waterfall, tornado, scenarios.
"""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from harness.report.charts import SERIES, SOFT, nominal, whole

ROW: Final = 30
"""Height of a row in CSS pixels."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a waterfall, from `start` to `end`, with a text after it. `kind` is `whole` (a
    total), `lost` or `added`.
    """

    label: str
    start: float
    end: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Span:
    """One row of a tornado or of scenarios.

    Attributes:
        low: one end.
        high: the other end.
        middle: a tick; None for none.
        text: after the bar.
        turned: whether the factor's P95 is at the lower end.
        series: color, from 0.
    """

    label: str
    low: float
    high: float
    middle: float | None = None
    text: str = ""
    turned: bool = False
    series: int = 0


def waterfall(bars: Sequence[Bar], x_title: str, width: int) -> dict[str, Any]:
    """Bars that start where the previous one ends, from the total to the remainder, or from 0 to
    the sum.
    """
    narrow = width < 500
    top = max((max(bar.start, bar.end) for bar in bars), default=1.0)
    labels = _wrapped(bars, narrow=narrow)
    rows = [
        {
            "label": label,
            "a": min(bar.start, bar.end),
            "b": max(bar.start, bar.end),
            "kind": bar.kind,
            "text": bar.text,
        }
        for bar, label in zip(bars, labels, strict=True)
    ]
    y = _rows(labels, narrow=narrow)
    scale = {"domain": [0, top * (1.8 if narrow else 1.25)], "nice": False}
    color = nominal("kind", ["whole", "lost", "added"], SERIES[:3])
    drawn = _bars(y, _x(x_title, scale, _axis(narrow)), color, height=16, cornerRadius=2)
    lost = {"test": "datum.kind === 'lost'", "value": 0.75}
    drawn["encoding"]["opacity"] = {"condition": lost, "value": 1}
    return _spec(width, len(bars), rows, [drawn, _texts(y, 6)])


def tornado(spans: Sequence[Span], center: float, x_title: str, width: int) -> dict[str, Any]:
    """Effect of each factor, the largest on top; a line at the central value."""
    narrow = width < 500
    labels = _wrapped(spans, narrow=narrow)
    rows = []
    for span, label in zip(spans, labels, strict=True):
        low, high = ("high", "low") if span.turned else ("low", "high")
        rows += [
            {"label": label, "a": span.low, "b": center, "end": low},
            {"label": label, "a": center, "b": span.high, "end": high},
        ]
    x = _x(x_title, {"zero": False, "nice": True}, _axis(narrow))
    color = nominal("end", ["low", "high"], SERIES[1::-1])
    line = {
        "mark": {"type": "rule", "color": SOFT, "strokeWidth": 1.25},
        "encoding": {"x": {"datum": center, "type": "quantitative"}},
    }
    drawn = _bars(_rows(labels, narrow=narrow), x, color, height=16)
    return _spec(width, len(spans), rows, [drawn, line])


def ranges(spans: Sequence[Span], x_title: str, width: int) -> dict[str, Any]:
    """P5 to P95 of shares, with a tick at the median."""
    narrow = width < 500
    labels = _wrapped(spans, narrow=narrow)
    rows = [
        {
            "label": label,
            "a": span.low,
            "b": span.high,
            "m": span.middle,
            "s": str(span.series),
            "text": span.text,
        }
        for span, label in zip(spans, labels, strict=True)
    ]
    y = _rows(labels, narrow=narrow)
    color = nominal("s", ["0", "1"], SERIES[:2])
    scale = {"domain": [0, 1.3 if narrow else 1.12], "nice": False}
    values = [0, 0.5, 1] if narrow else [0, 0.2, 0.4, 0.6, 0.8, 1]
    axis = {**_axis(narrow), "values": values, "labelExpr": "format(datum.value, '.0%')"}
    drawn = _bars(y, _x(x_title, scale, axis), color, height=8, cornerRadius=4, opacity=0.45)
    ticks = {
        "mark": {"type": "tick", "thickness": 3, "height": 18},
        "encoding": {"y": y, "x": {"field": "m", "type": "quantitative"}, "color": color},
    }
    return _spec(width, len(spans), rows, [drawn, ticks, _texts(y, 10)])


def _x(title: str, scale: Mapping[str, Any], axis: Mapping[str, Any]) -> dict[str, Any]:
    return {"field": "a", "type": "quantitative", "title": title, "scale": scale, "axis": axis}


def _bars(
    y: Mapping[str, Any], x: Mapping[str, Any], color: Mapping[str, Any], **mark: float
) -> dict[str, Any]:
    return {
        "mark": {"type": "bar", **mark},
        "encoding": {"y": y, "x": x, "x2": {"field": "b"}, "color": color},
    }


def _texts(y: Mapping[str, Any], dx: int) -> dict[str, Any]:
    """Text after the end of each bar."""
    return {
        "mark": {"type": "text", "align": "left", "dx": dx, "color": SOFT, "fontSize": 11.5},
        "encoding": {
            "y": y,
            "x": {"field": "b", "type": "quantitative"},
            "text": {"field": "text"},
        },
    }


def _wrapped(rows: Sequence[Bar | Span], *, narrow: bool) -> list[str]:
    """Labels; on a phone, each has two lines."""
    labels = [row.label for row in rows]
    if not narrow:
        return labels
    return ["\n".join(textwrap.wrap(label, 21, max_lines=2, placeholder="…")) for label in labels]


def _rows(labels: Sequence[str], *, narrow: bool) -> dict[str, Any]:
    limit = 128 if narrow else 292
    # Room for the page's font, which may be wider than the one that Vega-Lite measures with.
    longest = max((len(line) for label in labels for line in label.split("\n")), default=0)
    extent = min(limit, 7.2 * longest) + 14
    axis = {
        "domain": False,
        "ticks": False,
        "labelLimit": limit,
        "labelPadding": 8,
        "labelExpr": "split(datum.label, '\\n')",
        "minExtent": extent,
        "maxExtent": extent,
    }
    return {"field": "label", "type": "nominal", "sort": list(labels), "title": None, "axis": axis}


def _axis(narrow: bool) -> dict[str, Any]:
    label = (
        "abs(datum.value) >= 1e9 ? format(datum.value / 1e9, '~g') + ' B' : abs(datum.value) >= 1e6"
        " ? format(datum.value / 1e6, '~g') + ' M' : abs(datum.value) >= 1e4 ? format(datum.value /"
        " 1e3, '~g') + ' k' : format(datum.value, ',~g')"
    )
    return {
        "tickCount": 3 if narrow else 6,
        "labelExpr": label,
        "domain": False,
        "ticks": False,
        "grid": True,
    }


def _spec(
    width: int, count: int, rows: Sequence[Mapping[str, Any]], layers: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return whole(width, ROW * max(1, count) + 46, rows, layers)
