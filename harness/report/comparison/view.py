"""The text, tables and charts of a comparison's page. All decisions are made here; the templates
only place the parts.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
from markupsafe import Markup

from harness.artifacts.layout import RunDir
from harness.artifacts.run_result import RunResult, load_result
from harness.artifacts.run_summary import StageSummary, Summary
from harness.compare import gate_output
from harness.compare.compare import Comparison, Side
from harness.compare.gates import GateResult, Outcome
from harness.compare.ratios import HEADLINE, Cell, Row, Word, base
from harness.core.errors import ArtifactError
from harness.core.metrics import METRICS
from harness.core.records import CANARY
from harness.report.charts import NARROW, SERIES, WIDE, Chart, Line, cumulative, draw, line_chart
from harness.report.comparison.charts import RatioMark, TradePoint, ratios, trade
from harness.report.headline import boundary_words
from harness.report.numbers import DASH, duration, figure, interval, plain
from harness.report.tables import DrawnChart, Table

_MOST_SIDES: Final = len(SERIES)
"""Sides in charts; tables have all of them."""
_CDF_POINTS: Final = 120
_MONEY: Final = (
    "power_w",
    "energy_j",
    "output_tok_per_j",
    "j_per_output_tok",
    "j_per_request",
    "output_tok_s_per_mw",
    "usd_per_mtok",
)
_MIN_LATENCIES: Final = 2
_MOST_FAILED: Final = 4
"""Failed gates at the top; the table below has all."""


@dataclass(frozen=True, slots=True)
class ComparisonView:
    """The content of the page, as text."""

    title: str
    tone: str
    badge: str
    lead: Sequence[str]
    sides: Sequence[str]
    allowed: Sequence[str]
    gates: Table | None
    treatments: Table
    settings: Table | None
    headline: Sequence[Table]
    stages: Sequence[Table]
    remarks: Sequence[str]
    money: Sequence[Table]
    everything: Sequence[Table]
    repeats: Table | None
    runs: Sequence[tuple[str, str]]
    charts: Mapping[str, DrawnChart]
    notes: Sequence[str]


def compare_view(comparison: Comparison) -> ComparisonView:
    """The content of the page. Latency curves need the requests of the runs, if they
    still exist.
    """
    tone, badge = _verdict(comparison)
    repeats = comparison.repeat_rows()
    money = [row for row in comparison.metrics if base(row.key) in _MONEY]
    headline = [row for row in comparison.metrics if row.key in HEADLINE] or list(
        comparison.metrics
    )
    differing = [
        row for row in comparison.treatment_rows() if row[0] == "verdict" or row[0].startswith("* ")
    ]
    same = [row for row in comparison.treatment_rows() if row not in differing]
    # Settings that all sides have and that differ are a treatment; a setting that only one engine
    # has comes with the engine.
    own = [
        row
        for row in [*differing, *same]
        if "settings." in row[0] and (row in same or "—" in row[1:])
    ]
    head = ("Treatment", *comparison.treatment_columns()[1:])
    listed, others = (
        [
            (row[0].replace("* ", "▸ "), *row[1:])
            for row in [*differing, *same]
            if (row in own) is aside
        ]
        for aside in (False, True)
    )
    text = tuple(range(1, len(head)))
    marked = "‡ outlier among the repeats of its side; counted in all values"
    return ComparisonView(
        title=_title(comparison),
        tone=tone,
        badge=badge,
        lead=_lead(comparison),
        sides=[side.title for side in comparison.sides],
        allowed=[str(mismatch) for mismatch in comparison.allowed],
        gates=_gates(comparison.gates),
        treatments=Table("Differences are marked with ▸", head, listed, text),
        settings=(
            Table("Settings that are equal, or that only one engine has", head, others, text)
            if others
            else None
        ),
        headline=_rows(comparison, headline) if headline else (),
        stages=_stages(comparison),
        remarks=comparison.stage_remarks(),
        money=_rows(comparison, money) if money else (),
        everything=_rows(comparison, comparison.metrics) if headline else (),
        repeats=Table(marked, comparison.repeat_columns(), repeats, (1,)) if repeats else None,
        runs=[(side.title, ", ".join(side.runs)) for side in comparison.sides],
        charts={chart.key: chart for chart in _charts(comparison, headline)},
        notes=comparison.notes,
    )


def _title(comparison: Comparison) -> str:
    baseline, *others = [side.title for side in comparison.sides]
    if not others:
        return comparison.sides[0].name
    return (
        f"{', '.join(others)} vs. {baseline}"
        if len(others) < _MOST_SIDES
        else f"{len(others)} sides vs. {baseline}"
    )


def _verdict(comparison: Comparison) -> tuple[str, str]:
    """Tone of the box and text of its badge."""
    outcomes = {gate.outcome for gate in comparison.gates}
    if outcomes & {Outcome.FAILED, Outcome.ABSENT}:
        return "invalid", "gate failed"
    if Outcome.TOO_FEW in outcomes:
        return "degraded", "too few repeats"
    if outcomes:
        return "valid", "gates passed"
    found = {cell.word for row in comparison.metrics for cell in row.cells}
    if found & {Word.BETTER, Word.WORSE}:
        return "plain", "differences found"
    if Word.NO_DIFFERENCE in found:
        return "plain", "no detectable difference"
    return "preliminary", "no claim" if comparison.sides[1:] else "spread of one side"


def _lead(comparison: Comparison) -> list[str]:
    """Gates, then the better and worse metrics of each side, in words."""
    counts = Counter(gate.outcome for gate in comparison.gates)
    counted = [f"{counts[outcome]} {outcome.lower()}" for outcome in Outcome if counts[outcome]]
    sentences = [f"Gates: {', '.join(counted)}."] if counted else []
    failed = [
        gate_output.sentence(gate)
        for outcome in (Outcome.FAILED, Outcome.ABSENT)
        for gate in comparison.gates
        if gate.outcome is outcome
    ]
    sentences += [f"{text[0].upper()}{text[1:]}." for text in failed[:_MOST_FAILED]]
    if more := failed[_MOST_FAILED:]:
        sentences.append(f"{len(more)} further gates failed.")
    for position, side in enumerate(comparison.sides[1:]):
        by_word: dict[Word, list[Row]] = defaultdict(list)
        for row in comparison.metrics:
            by_word[row.cells[position].word].append(row)
        parts = [
            f"{word} in {_listed(by_word[word], position)}"
            for word in (Word.BETTER, Word.WORSE)
            if by_word[word]
        ]
        for word in (Word.NO_DIFFERENCE, Word.TOO_FEW, Word.NO_CLAIM):
            if found := by_word[word]:
                whys = {row.cells[position].note for row in found}
                why = f" ({whys.pop()})" if len(whys) == 1 and None not in whys else ""
                parts.append(f"{word} in {_count(found)}{why}")
        verdicts = "; ".join(parts) or "nothing to compare"
        sentences.append(f"{side.label} ({side.name}): {verdicts}.")
    if len(comparison.sides) == 1:
        side = comparison.sides[0]
        sentences.append(f"{len(side.runs)} repeats of {side.name}: means with 95% t-intervals.")
    return sentences


def _count(rows: Sequence[Row], other: str = "") -> str:
    return f"{len(rows)} {other}metric{'s' if len(rows) > 1 else ''}"


def _listed(rows: Sequence[Row], position: int) -> str:
    headline = [row for row in rows if row.key in HEADLINE]
    named = [f"{_short(row)} ({_percent(row.cells[position])})" for row in headline]
    if rest := [row for row in rows if row.key not in HEADLINE]:
        named.append(_count(rest, "other "))
    return ", ".join(named)


def _percent(cell: Cell) -> str:
    if cell.ratio is None:
        return ""
    if 0.2 < cell.ratio < 3:
        return f"{cell.ratio - 1:+.1%}".replace("-", "−")
    return f"{plain(cell.ratio, 3)}\xa0×"


def _verdict_cell(word: object, tone: str, aside: str) -> Markup:
    """A verdict, marked where it is better or worse, and its details."""
    details = Markup("<small>{}</small>").format(aside) if aside else Markup("")
    return Markup('<span class="word {}">{}</span>{}').format(tone, str(word), details)


def _gates(gates: Sequence[GateResult]) -> Table | None:
    if not gates:
        return None
    rows = []
    for gate in gates:
        text, side, baseline, value, change, detects, outcome, why = gate.row()
        tone = {Outcome.PASSED: "better", Outcome.TOO_FEW: ""}.get(gate.outcome, "worse")
        result = _verdict_cell(outcome, tone, why)
        rows.append((text.strip("`"), side, result, value, baseline, change, detects))
    head = ("Gate", "Side", "Result", "Value", "Baseline", "Change, noise band", "Detectable")
    return Table("Gates", head, rows, (1, 2))


def _name(row: Row) -> str:
    parts = [row.title, row.key.partition(".")[2]]
    if METRICS[base(row.key)].boundary == "power":
        parts.append(boundary_words(row.boundary))
    return ", ".join(part for part in parts if part)


def _value(value: float | None, unit: str) -> str:
    return " ".join(figure(value, unit)).strip()


def _rows(comparison: Comparison, rows: Sequence[Row]) -> list[Table]:
    """One table per side but the baseline; for a single side, the means of its repeats."""
    if len(comparison.sides) == 1:
        only = comparison.sides[0]
        head = ("Metric", "Mean", "95% CI", "CV", "Runs")
        caption = f"{only.name}, {len(only.runs)} repeats"
        return [Table(caption, head, [_spread_cells(row) for row in rows])]
    tables = []
    for position, side in enumerate(comparison.sides[1:]):
        caption = f"{side.title} vs. {comparison.sides[0].title}"
        head = ("Metric", "A", side.label, f"{side.label} / A", "Result")
        tables.append(Table(caption, head, [_ratio_cells(row, position) for row in rows], (4,)))
    return tables


def _spread_cells(row: Row) -> tuple[str, ...]:
    spread = row.spreads[0]
    ends = interval(spread.low, spread.high, row.unit) or DASH
    cv = DASH if spread.cv is None else f"{spread.cv:.1%}"
    return (_name(row), _value(spread.mean, row.unit), ends, cv, str(len(spread.values)))


def _ratio_cells(row: Row, position: int) -> tuple[str, ...]:
    cell = row.cells[position]
    return (
        _name(row),
        _value(row.baseline, row.unit),
        _value(cell.value, row.unit),
        cell.text(),
        _verdict_cell(cell.word, str(cell.word).split()[0], cell.aside()),
    )


def _stages(comparison: Comparison) -> list[Table]:
    """The tables of `_rows` over all stages; a row is named by its stage and metric."""
    tables: list[Table] = []
    for stage in comparison.stages:
        for position, table in enumerate(_rows(comparison, stage.metrics)):
            rows = [(f"{stage.name}: {row[0]}", *row[1:]) for row in table.rows]
            if position == len(tables):
                tables.append(replace(table, rows=[]))
            tables[position] = replace(tables[position], rows=[*tables[position].rows, *rows])
    return tables


# --- charts ---


def _charts(comparison: Comparison, headline: Sequence[Row]) -> list[DrawnChart]:
    drawn = comparison.sides[:_MOST_SIDES]
    names = [side.title for side in drawn]
    read = {path: _result(Path(path)) for side in drawn for path in side.paths}
    found = (
        _ratio_chart(headline, names),
        _trade_chart(drawn, names, read),
        _cdf_chart(drawn, names, read, "ttft", "first_token_ns"),
        _cdf_chart(drawn, names, read, "e2e", "last_token_ns"),
    )
    return [chart for chart in found if chart is not None]


def _ratio_chart(rows: Sequence[Row], names: Sequence[str]) -> DrawnChart | None:
    marks = [
        RatioMark(
            _short(row),
            position + 1,
            cell.ratio,
            cell.low,
            cell.high,
            significant=cell.word in {Word.BETTER, Word.WORSE},
        )
        for row in rows
        for position, cell in enumerate(row.cells[: _MOST_SIDES - 1])
        if cell.ratio is not None and cell.ratio > 0
    ]
    if not marks:
        return None
    caption = (
        "Ratios to A with 95% confidence intervals on a log scale. Filled: better or worse"
        " (significant). Hollow: no verdict."
    )
    cells = [(_name(row), *(cell.text() for cell in row.cells[: len(names) - 1])) for row in rows]
    title = "Ratios to A"
    return DrawnChart(
        "ratios",
        title,
        caption,
        "",
        _legend(names)[1:],
        draw(ratios(marks, names, WIDE[0])),
        draw(ratios(marks, names, NARROW[0])),
        Table(title, ("Metric", *names[1:]), cells),
    )


def _legend(names: Sequence[str]) -> list[tuple[int, str]]:
    return list(enumerate(names, 1))


def _short(row: Row) -> str:
    shorts = {
        "output_tok_s": "Output tok/s",
        "output_tok_s_per_gpu": "Output tok/s/GPU",
        "interactivity_tok_s_user": "tok/s per user",
        "goodput_rps": "Goodput",
        "slo_met_ratio": "SLO attainment",
        "power_w": "Power",
        "output_tok_per_j": "Output tok/J",
        "usd_per_mtok": "USD per Mtok",
        "ttft_s": "TTFT",
        "tpot_s": "TPOT",
        "e2e_s": "E2E latency",
    }
    title = shorts.get(base(row.key), row.title)
    return f"{title} {row.key.partition('.')[2]}".strip()


def _trade_chart(
    sides: Sequence[Side], names: Sequence[str], read: Mapping[str, RunResult | None]
) -> DrawnChart | None:
    def points(key: str) -> list[TradePoint]:
        found = []
        for position, side in enumerate(sides):
            for result in (run for path in side.paths if (run := read[path]) is not None):
                stages: Sequence[StageSummary | Summary] = result.summary.stages
                for order, stage in enumerate(stages or (result.summary,)):
                    x, y = (
                        None if (found_ := stage.metrics.get(one)) is None else found_.value
                        for one in ("interactivity_tok_s_user", key)
                    )
                    if x is not None and y is not None:
                        found.append(TradePoint(position, order, x, y))
        return found

    per_gpu = points("output_tok_s_per_gpu")
    found = per_gpu or points("output_tok_s")
    if len({point.side for point in found}) < len(sides) or not found:
        return None
    y_title = "output tok/s per GPU" if per_gpu else "output tok/s"
    table = Table(
        "All runs and stages",
        ("Side", "Stage", "tok/s per user", y_title),
        [(names[p.side], str(p.order + 1), plain(p.x), plain(p.y)) for p in found],
    )
    caption = (
        "One point per run and load stage. Up: more throughput. Right: faster for each user."
        " A side that is further up and right is better."
    )
    wide, narrow = (draw(trade(found, names, (size[0], 280))) for size in (WIDE, NARROW))
    title = "Throughput vs. interactivity"
    return DrawnChart("trade", title, caption, y_title, _legend(names), wide, narrow, table)


def _cdf_chart(
    sides: Sequence[Side],
    names: Sequence[str],
    read: Mapping[str, RunResult | None],
    key: str,
    column: str,
) -> DrawnChart | None:
    title = METRICS[f"{key}_s"].title
    lines, ends, rows = [], [], []
    for side, name in zip(sides, names, strict=True):
        values, everyone = _latencies(side, read, column)
        if len(values) < _MIN_LATENCIES:
            return None
        lines.append(Line(name, cumulative(values, everyone, _CDF_POINTS), stepped=True))
        ends += [float(values[0]), float(values[-1])]
        shares = [int(np.ceil(q * everyone)) - 1 for q in (0.5, 0.9, 0.95, 0.99)]
        percentiles = (duration(float(values[i])) if i < len(values) else DASH for i in shares)
        rows.append((name, *percentiles, f"{everyone:,}"))
    low = max(min(ends), max(ends) / 1e6)
    caption = (
        "Cumulative share of requests scheduled in the window, all repeats of a side together. A"
        " curve that ends below 100% is of a side with failed requests."
    )
    chart = Chart(
        key,
        caption,
        f"{title} (log scale)",
        "share",
        lines,
        x_log=True,
        x_domain=(low * 0.97, max(ends) * 1.03),
        y_percent=True,
    )
    head = ("Side", "p50", "p90", "p95", "p99", "Requests")
    return DrawnChart(
        key,
        title,
        caption,
        "share of requests",
        _legend(names),
        draw(line_chart(chart, WIDE)),
        draw(line_chart(chart, NARROW)),
        Table(f"{title}, all repeats together", head, rows),
    )


def _latencies(
    side: Side, read: Mapping[str, RunResult | None], column: str
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], int]:
    """Sorted latencies of a side's completed requests, in seconds, and the number of requests that
    count; empty if a run's requests are missing.
    """
    found, everyone = [], 0
    for path in side.paths:
        run_dir, result = RunDir(Path(path)), read[path]
        if result is None or not run_dir.requests.exists():
            return np.zeros(0), 0
        start, end = result.summary.window.start_s, result.summary.window.end_s
        origin = result.manifest.started_ns
        if start is None or end is None or origin is None:
            return np.zeros(0), 0
        rows = pq.read_table(
            run_dir.requests, columns=["class", "outcome", "intended_ns", column]
        ).to_pandas()
        rows = rows[(rows["class"] != CANARY) & ~rows["class"].str.endswith("/prime")]
        at = (rows["intended_ns"] - origin) * 1e-9
        rows = rows[(at >= start) & (at < end) & (rows["outcome"] != "cancelled")]
        everyone += len(rows)
        ok = rows[rows["outcome"] == "ok"]
        values = ((ok[column] - ok["intended_ns"]) * 1e-9).to_numpy(dtype=np.float64)
        found.append(values[~np.isnan(values) & (values > 0)])
    return (np.sort(np.concatenate(found)) if found else np.zeros(0)), everyone


def _result(path: Path) -> RunResult | None:
    """A run that still exists where it was compared, else None."""
    with suppress(ArtifactError):
        return load_result(path)
    return None
