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
    rows = [
        {
            "label": _wrapped(bar.label, narrow=narrow),
            "a": min(bar.start, bar.end),
            "b": max(bar.start, bar.end),
            "kind": bar.kind,
            "text": bar.text,
        }
        for bar in bars
    ]
    y = _rows([_wrapped(bar.label, narrow=narrow) for bar in bars], narrow=narrow)
    return _spec(
        width,
        len(bars),
        rows,
        [
            {
                "mark": {"type": "bar", "height": 16, "cornerRadius": 2},
                "encoding": {
                    "y": y,
                    "x": {
                        "field": "a",
                        "type": "quantitative",
                        "title": x_title,
                        "scale": {"domain": [0, top * (1.8 if narrow else 1.25)], "nice": False},
                        "axis": _axis(narrow),
                    },
                    "x2": {"field": "b"},
                    "color": nominal("kind", ["whole", "lost", "added"], SERIES[:3]),
                    "opacity": {
                        "condition": {"test": "datum.kind === 'lost'", "value": 0.75},
                        "value": 1,
                    },
                },
            },
            _texts(y, 6),
        ],
    )


def tornado(spans: Sequence[Span], center: float, x_title: str, width: int) -> dict[str, Any]:
    """Effect of each factor, the largest on top; a line at the central value."""
    narrow = width < 500
    rows = []
    for span in spans:
        ends = (span.low, center, "low"), (center, span.high, "high")
        if span.turned:
            ends = (span.low, center, "high"), (center, span.high, "low")
        rows += [
            {"label": _wrapped(span.label, narrow=narrow), "a": a, "b": b, "end": end}
            for a, b, end in ends
        ]
    y = _rows([_wrapped(span.label, narrow=narrow) for span in spans], narrow=narrow)
    x = {
        "field": "a",
        "type": "quantitative",
        "title": x_title,
        "scale": {"zero": False, "nice": True},
        "axis": _axis(narrow),
    }
    return _spec(
        width,
        len(spans),
        rows,
        [
            {
                "mark": {"type": "bar", "height": 16},
                "encoding": {
                    "y": y,
                    "x": x,
                    "x2": {"field": "b"},
                    "color": nominal("end", ["low", "high"], SERIES[1::-1]),
                },
            },
            {
                "mark": {"type": "rule", "color": SOFT, "strokeWidth": 1.25},
                "encoding": {"x": {"datum": center, "type": "quantitative"}},
            },
        ],
    )


def ranges(spans: Sequence[Span], x_title: str, width: int) -> dict[str, Any]:
    """P5 to P95 of shares, with a tick at the median."""
    narrow = width < 500
    rows = [
        {
            "label": _wrapped(span.label, narrow=narrow),
            "a": span.low,
            "b": span.high,
            "m": span.middle,
            "s": str(span.series),
            "text": span.text,
        }
        for span in spans
    ]
    y = _rows([_wrapped(span.label, narrow=narrow) for span in spans], narrow=narrow)
    color = nominal("s", ["0", "1"], SERIES[:2])
    scale = {"domain": [0, 1.3 if narrow else 1.12], "nice": False}
    values = [0, 0.5, 1] if narrow else [0, 0.2, 0.4, 0.6, 0.8, 1]
    axis = {**_axis(narrow), "values": values, "labelExpr": "format(datum.value, '.0%')"}
    return _spec(
        width,
        len(spans),
        rows,
        [
            {
                "mark": {"type": "bar", "height": 8, "cornerRadius": 4, "opacity": 0.45},
                "encoding": {
                    "y": y,
                    "x": {
                        "field": "a",
                        "type": "quantitative",
                        "title": x_title,
                        "scale": scale,
                        "axis": axis,
                    },
                    "x2": {"field": "b"},
                    "color": color,
                },
            },
            {
                "mark": {"type": "tick", "thickness": 3, "height": 18},
                "encoding": {"y": y, "x": {"field": "m", "type": "quantitative"}, "color": color},
            },
            _texts(y, 10),
        ],
    )


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


def _wrapped(label: str, *, narrow: bool) -> str:
    """On a phone, a label has two lines."""
    return "\n".join(textwrap.wrap(label, 21, max_lines=2, placeholder="…")) if narrow else label


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
