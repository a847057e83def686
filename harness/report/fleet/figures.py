"""Charts of a fleet's page with captions, and the same data as tables."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from harness.fleet.estimate.results import FleetEstimate, Swing
from harness.fleet.over_time.forecast import Forecast
from harness.report import charts
from harness.report.charts import Chart, Line
from harness.report.fleet import charts as fleet_charts
from harness.report.fleet.charts import Bar, Span
from harness.report.numbers import DASH, plain, share
from harness.report.tables import Table


@dataclass(frozen=True, slots=True)
class FleetChart:
    """A chart with the same data as a table; `wide` and `narrow` draw it as SVG when called."""

    key: str
    title: str
    caption: str
    wide: Callable[[], str]
    narrow: Callable[[], str]
    table: Table
    legend: tuple[tuple[str, str], ...] = ()
    y_title: str = ""


_SCALES: Final = ((1e12, 1e12, "T"), (1e9, 1e9, "B"), (1e6, 1e6, "M"), (1e5, 1e3, "k"))


def scaled(value: float | None, digits: int = 3, like: float | None = None) -> str:
    """A number with significant digits and k, M, B or T; numbers below a hundred thousand are
    written out. It takes the suffix of `like`, so that both ends of a range have the same.
    """
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    size = max(abs(value), abs(like or 0.0))
    if value == int(value) and size < 1e6 and (like is None or like == int(like)):
        return plain(value)
    unit, name = next(((unit, name) for limit, unit, name in _SCALES if size >= limit), (1.0, ""))
    value = float(f"{value / unit:.{digits - 1}e}")
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}\u00a0{name}".rstrip()


def scaled_range(low: float, high: float, digits: int = 3) -> str:
    """Both ends with the same suffix; one number if they look alike."""
    texts = [scaled(end, digits, max(abs(low), abs(high))) for end in (low, high)]
    return texts[0] if texts[0] == texts[1] else f"{texts[0]} to {texts[1]}"


def percent(swing: Swing, center: float) -> str:
    """Effect of a factor, in percent of the central value."""
    ends = sorted((swing.at_p5 / center - 1, swing.at_p95 / center - 1))
    return f"{signed(ends[0])} to {signed(ends[1])}"


def signed(ratio: float) -> str:
    """A change in whole percent, with its sign."""
    return f"{ratio:+.0%}".replace("-", "\u2212")


# --- charts ---


def fleet_charts_of(e: FleetEstimate, f: Forecast | None) -> dict[str, FleetChart]:
    """All charts of a case, by key, in the order of the page."""
    tornados, time = _tornado_charts(e), _time_charts(f)
    found = (_tokens_chart(e), _power_chart(e), *tornados, *time, _scenario_chart(f))
    return {chart.key: chart for chart in found if chart is not None}


def _tokens_chart(e: FleetEstimate) -> FleetChart:
    """From all of the site's GPUs at the measured rate to the daily mean."""
    steps = [step for step in e.waterfall if step.part == "tokens"]
    count = e.stated.gpus or 1.0
    whole = steps[0].result * count
    bars = [Bar("all GPUs at the measured rate", 0.0, whole, "whole", f"{scaled(whole)} tok/s")]
    at = whole
    for step in steps[1:]:
        factor = step.factor / count if step.label.startswith("GPUs that") else step.factor
        left = at * factor
        kind = "lost" if left <= at else "added"
        bars.append(Bar(step.label, left, at, kind, f"× {plain(factor, 3)}"))
        at = left
    bars.append(Bar("daily mean", 0.0, at, "whole", f"{scaled(at)} tok/s"))
    rows = tuple(
        (bar.label, bar.text, f"{scaled(bar.end if bar.kind == 'whole' else bar.start)} tok/s")
        for bar in bars
    )
    return FleetChart(
        "waterfall-tokens",
        "Token throughput, factor by factor",
        "Output tokens per second, from all GPUs of the site at the measured rate to the daily"
        " mean, with each factor at its central value.",
        *_both(partial(fleet_charts.waterfall, bars, "output tokens per second")),
        Table("Tokens", ("Step", "Factor", "Remaining"), rows),
        (("s1", "output"), ("s2", "lost")),
    )


def _power_chart(e: FleetEstimate) -> FleetChart | None:
    """Watts at the facility meter per GPU, part by part."""
    steps = [step for step in e.waterfall if step.part == "power"]
    each = [step for step in steps if step.unit.startswith("W/GPU")]
    if not each:
        return None
    bars, before = [], 0.0
    for step in each:
        kind = "whole" if step.operation == "=" else "added" if step.result >= before else "lost"
        text = (
            f"{plain(step.result, 3)} W"
            if step.operation == "="
            else f"+ {plain(step.result - before, 3)} W"
        )
        bars.append(
            Bar(step.label, 0.0 if step.operation == "=" else before, step.result, kind, text)
        )
        before = step.result
    bars.append(Bar("facility meter, under load", 0.0, before, "whole", f"{plain(before, 4)} W"))
    rows = tuple((bar.label, bar.text) for bar in bars)
    return FleetChart(
        "waterfall-power",
        "Power per GPU, factor by factor",
        "Watts per GPU at the facility meter under the run's load, with each factor at its central"
        " value.",
        *_both(partial(fleet_charts.waterfall, bars, "W per GPU")),
        Table("Power", ("Part", "W per GPU"), rows),
        (("s1", "measured, and total"), ("s3", "added")),
    )


_TORNADOS: Final = (
    ("output_tok_s", "Sensitivity: tokens", "output tok/s, daily mean"),
    ("power_mean_mw", "Sensitivity: power", "MW, daily mean"),
    ("usd_per_mtok", "Sensitivity: cost", "USD per million output tokens at the site's price"),
)


def _tornado_charts(e: FleetEstimate) -> list[FleetChart]:
    found = []
    for key, title, x_title in _TORNADOS:
        least = abs(e.central.get(key, 0.0)) * 1e-3  # narrower bars are invisible
        swings = [swing for swing in e.tornado if swing.figure == key and swing.width > least][:8]
        if not swings:
            continue
        center = e.central[key]
        spans = [
            Span(
                swing.title,
                min(swing.at_p5, swing.at_p95),
                max(swing.at_p5, swing.at_p95),
                turned=swing.at_p95 < swing.at_p5,
            )
            for swing in swings
        ]
        rows = tuple(
            (swing.title, scaled(swing.at_p5, 4), scaled(swing.at_p95, 4), percent(swing, center))
            for swing in swings
        )
        found.append(
            FleetChart(
                f"tornado-{key.replace('_', '-')}",
                title,
                "Each factor at its P5 and P95, all others at their central values. Line: central"
                f" value, {scaled(center)}.",
                *_both(partial(fleet_charts.tornado, spans, center, x_title)),
                Table(title, ("Factor", "At P5", "At P95", "Change"), rows),
                (("s2", "factor at P5"), ("s1", "factor at P95")),
            )
        )
    return found


def _time_charts(f: Forecast | None) -> list[FleetChart]:
    if f is None:
        return []
    hours = [float(hour) for hour in range(24)]
    serving = f.day["serving_nodes"]
    capacity = None if serving is None else [nodes * f.node_tok_s for nodes in serving]
    tokens = [
        ("requested", hours, f.day["demand_tok_s"]),
        ("served", hours, f.day["served_tok_s"]),
        ("capacity", hours, capacity),
    ]
    words = "Output tokens per second by hour of the day, mean of the simulated years."
    found = [
        _lines("day-tokens", "Throughput by hour", words, ("hour of the day", "tok/s"), tokens)
    ]
    if (power := f.day["power_mw"]) is not None:
        words = "Megawatts at the facility meter by hour of the day, mean of the simulated years."
        found.append(
            _lines(
                "day-power",
                "Power by hour",
                words,
                ("hour of the day", "MW"),
                [("power", hours, power)],
            )
        )
    words = (
        "Percent of the demand that was not served within the SLO, by hour, in the week around the"
        " worst hour of a simulated year."
    )
    missed = (
        None if (kept := f.worst["slo_ratio"]) is None else [100 * (1 - ratio) for ratio in kept]
    )
    week = [("not within the SLO", f.worst["hour"] or [], missed)]
    found.append(
        _lines(
            "worst-week",
            "The worst week",
            words,
            ("hour of the year", "% not served within the SLO"),
            week,
        )
    )
    return found


def _both(spec: Callable[[int], Mapping[str, Any]]) -> tuple[Callable[[], str], Callable[[], str]]:
    """Both drawings, made when called, because drawing is slow."""

    def at(width: int) -> str:
        return charts.draw(spec(width))

    return partial(at, charts.WIDE[0]), partial(at, charts.NARROW[0])


def _lines(
    key: str,
    title: str,
    caption: str,
    axes: tuple[str, str],
    series: Sequence[tuple[str, Sequence[float], Sequence[float] | None]],
) -> FleetChart:
    lines = [Line(name, list(zip(x, y, strict=False))) for name, x, y in series if y is not None]
    x_title, y_title = axes
    chart = Chart(key, caption, x_title, y_title, lines)
    xs = series[0][1]
    stride = max(1, len(xs) // 24)
    rows = tuple(
        (plain(x), *(scaled(y[position]) for _, _, y in series if y is not None))
        for position, x in enumerate(xs)
        if position % stride == 0
    )
    table = Table(title, (x_title, *(name for name, _, y in series if y is not None)), rows)
    legend = (
        tuple((f"s{position}", line.name) for position, line in enumerate(lines, 1))
        if len(lines) > 1
        else ()
    )
    return FleetChart(
        key,
        title,
        caption,
        lambda: charts.draw(charts.line_chart(chart, charts.WIDE)),
        lambda: charts.draw(charts.line_chart(chart, charts.NARROW)),
        table,
        legend,
        y_title,
    )


def _scenario_chart(f: Forecast | None) -> FleetChart | None:
    if f is None or not f.scenarios:
        return None
    base = f.scenarios[0].base_served_ratio
    spans = [Span("Baseline", base.p5, base.p95, base.p50, share(base.p50), series=0)]
    spans += [
        Span(
            item.title,
            item.served_ratio.p5,
            item.served_ratio.p95,
            item.served_ratio.p50,
            share(item.served_ratio.p50),
            series=1,
        )
        for item in f.scenarios
    ]
    rows = tuple((span.label, share(span.low), span.text, share(span.high)) for span in spans)
    return FleetChart(
        "scenarios",
        "Value of ready capacity",
        "Share of demand served over the scenario's horizon if it happens: P5 to P95, with a tick"
        " at the median.",
        *_both(partial(fleet_charts.ranges, spans, "demand served")),
        Table("Scenarios", ("Scenario", "P5", "Median", "P95"), rows),
        (("s1", "baseline"), ("s2", "scenario")),
    )
