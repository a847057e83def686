"""Load stages of a run: one table for terminal, Markdown and page, and the curves of a sweep."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from harness.artifacts.run_summary import Distribution, StageSummary, Summary
from harness.core.metrics import METRICS
from harness.core.records import HeadlineRule, Severity
from harness.profile.recorded import RecordedStage
from harness.reduce.figures.without_records import lost
from harness.report.charts import Chart, Line
from harness.report.headline import boundary_words
from harness.report.numbers import DASH, duration, plain, share
from harness.report.run.description import load_columns
from harness.report.tables import ChartView, Table

_HEADS: Final = {
    "output_tok_s_per_gpu": "Output tok/s/GPU",
    "output_tok_s": "Output tok/s",
    "requests_per_s": "Req/s",
    "ttft_s.p50": "TTFT p50",
    "ttft_s.p99": "TTFT p99",
    "tpot_s.p50": "TPOT p50",
    "tpot_s.p99": "TPOT p99",
    "interactivity_tok_s_user": "Tok/s per user",
    "goodput_rps": "Goodput req/s",
    "slo_met_ratio": "SLOs met",
    "error_ratio": "Error rate",
    "power_w": "Power W",
    "output_tok_per_j": "Output tok/J",
    "usd_per_mtok": "USD per Mtok",
}
MARK: Final = "★"
"""Marks the headline."""
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
    doubts = [_doubt(stage) for stage in stages]
    if len(set(doubts)) > 1:  # else the verdict is the same
        columns["Validity"] = doubts
    kept = {
        head: cells for head, cells in columns.items() if any(c not in ("", DASH) for c in cells)
    }
    each = f" of {lengths[0]}" if len(set(lengths)) == 1 and lengths[0] != DASH else ""
    marked = _position(summary)
    mark = "" if marked is None else f"; {MARK} headline"
    return Table(
        f"Load stages, each in its own measurement window{each}{mark}",
        list(kept),
        list(zip(*kept.values(), strict=True)),
        marked=marked,
    )


def headline_sentence(summary: Summary) -> str:
    """Which stage is the headline and why; empty for fewer than two stages."""
    chosen = summary.headline
    if chosen is None or len(summary.stages) < 2:
        return ""
    reason = f": {chosen.reason}" if chosen.reason else ""
    rule = f", by rule {chosen.rule}" if chosen.rule in set(HeadlineRule) else ""
    return f"Headline: stage {chosen.stage}{rule}{reason}."


def curves(summary: Summary) -> dict[str, ChartView | None]:
    """Output throughput against interactivity and against TTFT, one point per stage."""
    return {"trade": _interactivity(summary), "trade_ttft": _ttft(summary)}


def _title(summary: Summary, stage: StageSummary) -> str:
    chosen = summary.headline
    return f"{stage.name} {MARK}" if chosen and chosen.stage == stage.name else stage.name


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
    return share if key.endswith("_ratio") else lambda value: plain(value, 3)


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


@dataclass(frozen=True, slots=True)
class _Sweep:
    """Stages with a throughput (`y`: its metric) and a value to draw it against."""

    stages: Sequence[StageSummary]
    y: str
    headline: str | None

    @property
    def names(self) -> list[str]:
        return [stage.name for stage in self.stages]

    @property
    def per_gpu(self) -> str:
        return " per GPU" if self.y.endswith("per_gpu") else ""

    @property
    def unit(self) -> str:
        return "tok/s/GPU" if self.per_gpu else "tok/s"

    def line(self, title: str, x: str) -> Line:
        found = [(_value(stage, x), _value(stage, self.y)) for stage in self.stages]
        return Line(title, [(_rounded(x), _rounded(y)) for x, y in found if x and y is not None])

    def chart(self, key: str, caption: str, lines: Sequence[Line], **fields: Any) -> Chart:  # noqa: ANN401 - fields of Chart
        ring = None
        if self.headline in self.names:
            x, y = lines[0].points[self.names.index(self.headline)]
            ring = x, y or 0.0
            caption += f" Ring: headline ({self.headline})."
        return Chart(
            key,
            f"Output throughput{self.per_gpu} vs. {caption}",
            y_title=self.unit,
            lines=lines,
            points=True,
            point_names=self.names,
            ring=ring,
            half=True,
            **fields,
        )


def _sweep(summary: Summary, x: str) -> _Sweep | None:
    """Stages that have a value for `x` and a throughput; None for fewer than two."""
    y = _throughput(summary.stages)
    stages = [s for s in summary.stages if _value(s, x) and _value(s, y) is not None]
    headline = None if summary.headline is None else summary.headline.stage
    return _Sweep(stages, y, headline) if len(stages) > 1 else None


def _interactivity(summary: Summary) -> ChartView | None:
    key = "interactivity_tok_s_user"
    sweep = _sweep(summary, key)
    if sweep is None:
        return None
    line = sweep.line("Stages", key)
    xs = [x for x, _ in line.points]
    chart = sweep.chart(
        "trade",
        "interactivity: output tokens per second per user, of the median request. Up and right is"
        " better.",
        [line],
        x_title="interactivity (tok/s/user)",
        x_domain=(_least(xs), max(xs) * 1.18),  # with room for a name
    )
    named = zip(sweep.names, line.points, strict=True)
    rows = [[name, plain(x, 3), plain(y, 4)] for name, (x, y) in named]
    head = ("Stage", "Interactivity (tok/s/user)", sweep.unit)
    return ChartView(chart, Table("Throughput vs. interactivity", head, rows))


def _ttft(summary: Summary) -> ChartView | None:
    sweep = _sweep(summary, "ttft_s.p50")
    if sweep is None:
        return None
    found = [sweep.line(f"TTFT {quantile}", f"ttft_s.{quantile}") for quantile in ("p50", "p99")]
    lines = [line for line in found if line.points]
    xs = [x for line in lines for x, _ in line.points]
    room = 1.15 * (max(xs) / min(xs)) ** 0.15  # for names
    chart = sweep.chart(
        "trade_ttft",
        "time to first token (TTFT). Up and left is better.",
        lines,
        x_title="TTFT (log scale)",
        x_log=True,
        x_domain=(min(xs) / room, max(xs) * room),
    )
    rows = [
        [
            stage.name,
            duration(_value(stage, "ttft_s.p50")),
            duration(_value(stage, "ttft_s.p99")),
            plain(_value(stage, sweep.y), 4),
        ]
        for stage in sweep.stages
    ]
    head = ("Stage", "TTFT p50", "TTFT p99", sweep.unit)
    return ChartView(chart, Table("Throughput vs. TTFT", head, rows))


def _least(xs: Sequence[float]) -> float:
    """Start of the axis of speeds: 0, or higher if all values are close together."""
    low, high = min(xs), max(xs)
    return 0.0 if low < 0.6 * high else low - (high - low) - 0.05 * high


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
