"""Load stages of a run: one table for terminal, Markdown and page, and the curves of a sweep."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from harness.artifacts.run_summary import Distribution, StageSummary, Summary
from harness.core.metrics import METRICS
from harness.core.records import Severity
from harness.profile.recorded import RecordedStage
from harness.reduce.figures.without_records import lost
from harness.report.charts import Chart, Line
from harness.report.headline import boundary_words
from harness.report.numbers import DASH, duration, plain, share
from harness.report.run.description import load_columns
from harness.report.tables import ChartView, Table

_HEADS: Final = {
    "output_tok_s_per_gpu": "Output (tok/s/GPU)",
    "output_tok_s": "Output (tok/s)",
    "requests_per_s": "Requests/s",
    "ttft_s.p50": "TTFT p50",
    "ttft_s.p99": "TTFT p99",
    "tpot_s.p50": "TPOT p50",
    "tpot_s.p99": "TPOT p99",
    "interactivity_tok_s_user": "Interactivity (tok/s/user)",
    "goodput_rps": "Goodput (req/s)",
    "slo_met_ratio": "SLO attainment",
    "error_ratio": "Error rate",
    "power_w": "Power (W)",
    "output_tok_per_j": "Output (tok/J)",
    "usd_per_mtok": "Cost ($/Mtok)",
}
_DOUBTS: Final = (Severity.INVALID, Severity.DEGRADED)


def stage_table(summary: Summary, load: Sequence[RecordedStage] = ()) -> Table | None:
    """One row per stage, each over its own measurement window; None for fewer than two stages. A
    column without a value in any stage is left out. `load` is that of the profile, in order.
    """
    stages = summary.stages
    if len(stages) < 2:
        return None
    columns = {"Stage": [_title(summary, stage) for stage in stages]}
    columns |= load_columns(load) if len(load) == len(stages) else {}
    lengths = [duration(stage.window.duration_s) for stage in stages]
    if len(set(lengths)) > 1:
        columns["Window"] = lengths
    if not lost(summary.verdict.concerns):
        columns["Requests"] = [plain(stage.requests.in_window) for stage in stages]
    columns |= _metrics(stages)
    columns["Validity"] = [_doubt(stage) for stage in stages]
    kept = {
        head: cells for head, cells in columns.items() if any(c not in ("", DASH) for c in cells)
    }
    each = f" of {lengths[0]}" if len(set(lengths)) == 1 and lengths[0] != DASH else ""
    return Table(
        f"Load stages, each in its own measurement window{each}",
        list(kept),
        list(zip(*kept.values(), strict=True)),
        marked=_position(summary),
    )


def headline_sentence(summary: Summary) -> str:
    """Which stage is the headline and why; empty for fewer than two stages."""
    chosen = summary.headline
    if chosen is None or len(summary.stages) < 2:
        return ""
    return f"Headline: stage {chosen.stage} (rule {chosen.rule}). {chosen.reason}".strip()


def curves(summary: Summary) -> dict[str, ChartView | None]:
    """Output throughput against interactivity and against TTFT, one point per stage."""
    return {"trade": _interactivity(summary), "trade_ttft": _ttft(summary)}


def _title(summary: Summary, stage: StageSummary) -> str:
    chosen = summary.headline
    return f"{stage.name} (headline)" if chosen and chosen.stage == stage.name else stage.name


def _position(summary: Summary) -> int | None:
    chosen = summary.headline
    names = [stage.name for stage in summary.stages]
    return names.index(chosen.stage) if chosen and chosen.stage in names else None


def _doubt(stage: StageSummary) -> str:
    found = {concern.severity for concern in stage.concerns}
    return next((severity.value for severity in _DOUBTS if severity in found), "")


def _metrics(stages: Sequence[StageSummary]) -> dict[str, list[str]]:
    """Heading -> cells, of the metrics that any stage has."""
    throughput = _throughput(stages)
    columns = {}
    for key, head in _HEADS.items():
        if key.startswith("output_tok_s") and key != throughput:
            continue
        full = _with_boundary(stages, key)
        where = boundary_words(full.partition("@")[2])
        text = _text(key)
        columns[f"{head}, {where}" if where else head] = [text(_value(s, full)) for s in stages]
    return columns


def _text(key: str) -> Callable[[float | None], str]:
    unit = METRICS[key.partition(".")[0]].unit
    if unit == "s":
        return duration
    return share if key.endswith("_ratio") else lambda value: plain(value, 4)


def _with_boundary(stages: Sequence[StageSummary], key: str) -> str:
    """The metric's full key: itself, or at the first boundary where any stage has a value."""
    keys = (full for stage in stages for full in stage.metrics if full.partition("@")[0] == key)
    return next((k for k in keys if any(_value(s, k) is not None for s in stages)), key)


def _value(stage: StageSummary, key: str) -> float | None:
    """The stage's value of a metric or, with a suffix such as `.p99`, a percentile."""
    name, _, quantile = key.partition(".")
    if quantile:
        found: float | None = getattr(stage.latency.get(name, Distribution()), quantile)
        return found
    metric = stage.metrics.get(key)
    return None if metric is None else metric.value


def _throughput(stages: Sequence[StageSummary]) -> str:
    """Output throughput per GPU if it is known, else in total."""
    per_gpu = "output_tok_s_per_gpu"
    return per_gpu if any(_value(s, per_gpu) is not None for s in stages) else "output_tok_s"


# --- curves ---


def _interactivity(summary: Summary) -> ChartView | None:
    shown = _curve(summary, {"Stages": "interactivity_tok_s_user"})
    if shown is None:
        return None
    lines, names, ring, unit, words = shown
    xs = [x for x, _ in lines[0].points]
    rows = [
        [name, plain(x, 3), plain(y, 4)]
        for name, (x, y) in zip(names, lines[0].points, strict=True)
    ]
    chart = Chart(
        "trade",
        f"{words} vs. interactivity: output tokens per second per user, of the median request."
        " Up and right is better." + ring[1],
        "interactivity (tok/s/user)",
        unit,
        lines,
        x_domain=(_least(xs), max(xs) * 1.12),
        points=True,
        point_names=names,
        ring=ring[0],
        half=True,
    )
    head = ("Stage", "Interactivity (tok/s/user)", unit)
    return ChartView(chart, Table("Throughput vs. interactivity", head, rows))


def _ttft(summary: Summary) -> ChartView | None:
    shown = _curve(summary, {"TTFT p50": "ttft_s.p50", "TTFT p99": "ttft_s.p99"})
    if shown is None:
        return None
    lines, names, ring, unit, words = shown
    xs = [x for line in lines for x, _ in line.points]
    chart = Chart(
        "trade_ttft",
        f"{words} vs. time to first token (TTFT). Up and left is better." + ring[1],
        "TTFT (log scale)",
        unit,
        lines,
        x_log=True,
        x_domain=(min(xs) / 1.3, max(xs) * 1.6),
        points=True,
        point_names=names,
        ring=ring[0],
        half=True,
    )
    by_key = {stage.name: stage for stage in summary.stages}
    rows = [
        [
            name,
            *(duration(_value(by_key[name], f"ttft_s.{q}")) for q in ("p50", "p99")),
            plain(y, 4),
        ]
        for name, (_, y) in zip(names, lines[0].points, strict=True)
    ]
    return ChartView(chart, Table("Throughput vs. TTFT", ("Stage", "p50", "p99", unit), rows))


def _least(xs: Sequence[float]) -> float:
    """Start of the axis of speeds: 0, or higher if all values are close together."""
    low, high = min(xs), max(xs)
    return 0.0 if low < 0.6 * high else low - (high - low) - 0.05 * high


_Curve = tuple[list[Line], list[str], tuple[tuple[float, float] | None, str], str, str]


def _curve(summary: Summary, against: Mapping[str, str]) -> _Curve | None:
    """(lines, names of the first line's points, the headline's point with its words, unit, words
    for y); None with fewer than two points. `against` is title -> metric on x.
    """
    y_key = _throughput(summary.stages)
    first = next(iter(against.values()))
    stages = [s for s in summary.stages if _value(s, first) and _value(s, y_key) is not None]
    if len(stages) < 2:
        return None
    lines = []
    for title, key in against.items():
        known = [(_value(s, key), _value(s, y_key)) for s in stages]
        points = [(_rounded(x), _rounded(y)) for x, y in known if x and y is not None]
        if points:
            lines.append(Line(title, points))
    names = [stage.name for stage in stages]
    at, words = None, ""
    if summary.headline is not None and summary.headline.stage in names:
        x, y = lines[0].points[names.index(summary.headline.stage)]
        at, words = (x, y or 0.0), f" Ring: headline ({summary.headline.stage})."
    per_gpu = y_key.endswith("per_gpu")
    unit = "tok/s/GPU" if per_gpu else "tok/s"
    return lines, names, (at, words), unit, f"Output throughput{' per GPU' if per_gpu else ''}"


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
