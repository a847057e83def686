"""A comparison as the text, tables and charts of its page. All decisions are made here; the
templates only place things.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
from markupsafe import Markup

from harness.artifacts.layout import RunDir
from harness.artifacts.run_result import RunResult, load_result
from harness.artifacts.run_summary import StageSummary, Summary
from harness.compare import gate_output
from harness.compare.compare import HEADLINE, Comparison, Row, Side
from harness.compare.gates import GateResult, Outcome
from harness.compare.ratios import Cell, Word, base
from harness.core.errors import ArtifactError
from harness.core.metrics import METRICS
from harness.core.records import CANARY
from harness.report import numbers
from harness.report.charts import NARROW, SERIES, WIDE, Chart, Line, draw, line_chart
from harness.report.comparison.charts import RatioMark, TradePoint, ratios, trade
from harness.report.headline import boundary_words
from harness.report.tables import Table

_MOST_SIDES: Final = len(SERIES)
"""Sides that are drawn; tables hold all of them."""
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
"""Gates that failed and are told at the top; the table below has all."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawn chart.

    Attributes:
        key: name in ids and files.
        title: heading.
        caption: what it shows, for those who cannot see it too.
        y_title: above the chart, where the axis has none.
        legend: (position of the palette from 1, name) of what is drawn.
        wide: SVG in placeholder colours, for a desk.
        narrow: likewise, for a phone.
        table: the same as a table.
    """

    key: str
    title: str
    caption: str
    y_title: str
    legend: Sequence[tuple[int, str]]
    wide: str
    narrow: str
    table: Table


@dataclass(frozen=True, slots=True)
class ComparisonView:
    """All that the page shows, as text."""

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
    money: Sequence[Table]
    everything: Sequence[Table]
    repeats: Table | None
    runs: Sequence[tuple[str, str]]
    figures: Mapping[str, Figure]
    notes: Sequence[str]


def compare_view(comparison: Comparison) -> ComparisonView:
    """Make the page's contents. Requests of the runs are read for the latency curves where they are
    at hand.
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
    # Settings that all sides have and that differ are a treatment; those that one engine has and
    # another lacks only come with the engine.
    own = [
        row
        for row in [*differing, *same]
        if "settings." in row[0] and (row in same or "—" in row[1:])
    ]
    head = (
        "Treatment",
        *(
            f"{side.label} · {len(side.runs)} run{'s' if len(side.runs) > 1 else ''}"
            for side in comparison.sides
        ),
    )
    listed, others = (
        [
            (row[0].replace("* ", "▸ "), *row[1:])
            for row in [*differing, *same]
            if (row in own) is aside
        ]
        for aside in (False, True)
    )
    marked = "‡ stands apart from its side's other repeats; kept in all figures"
    return ComparisonView(
        title=_title(comparison),
        tone=tone,
        badge=badge,
        lead=_lead(comparison),
        sides=[side.title for side in comparison.sides],
        allowed=[str(mismatch) for mismatch in comparison.allowed],
        gates=_gates(comparison.gates),
        treatments=Table(
            "What differs is marked; the rest is equal", head, listed, tuple(range(1, len(head)))
        ),
        settings=(
            Table(
                "Settings that are equal, or that one engine lacks",
                head,
                others,
                tuple(range(1, len(head))),
            )
            if others
            else None
        ),
        headline=_rows(comparison, headline),
        money=_rows(comparison, money) if money else (),
        everything=_rows(comparison, comparison.metrics),
        repeats=Table(marked, comparison.repeat_columns(), repeats, (1,)) if repeats else None,
        runs=[(side.title, ", ".join(side.runs)) for side in comparison.sides],
        figures={figure.key: figure for figure in _figures(comparison, headline)},
        notes=comparison.notes,
    )


def _title(comparison: Comparison) -> str:
    baseline, *others = [side.title for side in comparison.sides]
    if not others:
        return comparison.sides[0].name
    return (
        f"{', '.join(others)} against {baseline}"
        if len(others) < _MOST_SIDES
        else f"{len(others)} sides against {baseline}"
    )


def _verdict(comparison: Comparison) -> tuple[str, str]:
    """Tone of the box and the word on its badge."""
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
    return "preliminary", "nothing is claimed" if comparison.sides[1:] else "spread of one side"


def _lead(comparison: Comparison) -> list[str]:
    """What the gates say, and what each side is better and worse in, in words."""
    by_outcome = {
        outcome: [gate for gate in comparison.gates if gate.outcome is outcome]
        for outcome in Outcome
    }
    counted = [f"{len(found)} {outcome.lower()}" for outcome, found in by_outcome.items() if found]
    sentences = [f"Gates: {', '.join(counted)}."] if counted else []
    failed = [*by_outcome[Outcome.FAILED], *by_outcome[Outcome.ABSENT]]
    sentences += [
        f"{text[0].upper()}{text[1:]}."
        for gate in failed[:_MOST_FAILED]
        for text in [gate_output.sentence(gate)]
    ]
    sentences += (
        [f"{len(failed) - _MOST_FAILED} further gates failed."]
        if len(failed) > _MOST_FAILED
        else []
    )
    for position, side in enumerate(comparison.sides[1:]):
        by_word: dict[Word, list[Row]] = {}
        for row in comparison.metrics:
            by_word.setdefault(row.cells[position].word, []).append(row)
        parts = [
            f"{word} in {_listed(by_word[word], position)}" if by_word.get(word) else ""
            for word in (Word.BETTER, Word.WORSE)
        ]
        for word in (Word.NO_DIFFERENCE, Word.TOO_FEW, Word.NO_CLAIM):
            if found := by_word.get(word):
                whys = {row.cells[position].note for row in found}
                why = whys.pop() if len(whys) == 1 else None
                parts.append(
                    f"{word} in {len(found)} figure{'s' if len(found) > 1 else ''}"
                    + (f" ({why})" if why else "")
                )
        sentences.append(
            f"{side.label} ({side.name}):"
            f" {'; '.join(part for part in parts if part) or 'nothing to compare'}."
        )
    if len(comparison.sides) == 1:
        side = comparison.sides[0]
        sentences.append(f"{len(side.runs)} repeats of {side.name}: means with 95 % t-intervals.")
    return sentences


def _listed(rows: Sequence[Row], position: int) -> str:
    headline = [row for row in rows if row.key in HEADLINE]
    named = [
        f"{row.title[0].lower()}{row.title[1:]}{_statistic(row)} ({_percent(row.cells[position])})"
        for row in headline
    ]
    rest = len(rows) - len(headline)
    return ", ".join(named + ([f"{rest} other figure{'s' if rest > 1 else ''}"] if rest else []))


def _statistic(row: Row) -> str:
    statistic = row.key.partition(".")[2]
    return f" {statistic}" if statistic else ""


def _percent(cell: Cell) -> str:
    if cell.ratio is None:
        return ""
    return (
        _signed(cell.ratio - 1) if 0.2 < cell.ratio < 3 else f"{numbers.plain(cell.ratio, 3)}\xa0×"
    )


def _signed(share: float) -> str:
    return f"{share * 100:+.1f}\xa0%".replace("-", "−")


def _says(cell: Cell) -> Markup:
    """The word, marked where it is better or worse, and what belongs beside it."""
    aside = Markup("<small>{}</small>").format(cell.aside()) if cell.aside() else Markup("")
    return Markup('<span class="word {}">{}</span>{}').format(
        str(cell.word).split()[0], str(cell.word), aside
    )


def _gates(gates: Sequence[GateResult]) -> Table | None:
    if not gates:
        return None
    rows = []
    for gate in gates:
        text, side, baseline, value, change, detects, outcome, why = gate.row()
        tone = {Outcome.PASSED: "better", Outcome.TOO_FEW: ""}.get(gate.outcome, "worse")
        said = Markup('<span class="word {}">{}</span>').format(tone, outcome) + (
            Markup("<small>{}</small>").format(why) if why else ""
        )
        rows.append((text.strip("`"), side, said, value, baseline, change, detects))
    head = ("Gate", "side", "result", "value", "baseline", "change, noise band", "detects")
    return Table("What was asked, and what the repeats say", head, rows, (1, 2))


def _name(row: Row) -> str:
    boundary = (
        f", {boundary_words(row.boundary)}"
        if row.boundary and METRICS[base(row.key)].boundary == "power"
        else ""
    )
    return f"{row.title}{', ' if _statistic(row) else ''}{_statistic(row).strip()}{boundary}"


def _value(value: float | None, unit: str) -> str:
    number_, suffix = numbers.figure(value, unit)
    return f"{number_} {suffix}".strip()


def _rows(comparison: Comparison, rows: Sequence[Row]) -> list[Table]:
    """A table for each side but the baseline; of one side alone, its repeats' means."""
    if len(comparison.sides) == 1:
        head: tuple[str, ...] = ("Figure", "mean", "95 % interval", "CV", "runs")
        table = []
        for row in rows:
            spread = row.spreads[0]
            interval = numbers.interval(spread.low, spread.high, row.unit) or numbers.DASH
            cv = numbers.DASH if spread.cv is None else f"{spread.cv:.1%}"
            table.append(
                (_name(row), _value(spread.mean, row.unit), interval, cv, str(len(spread.values)))
            )
        return [
            Table(
                f"{comparison.sides[0].name}, {len(comparison.sides[0].runs)} repeats", head, table
            )
        ]
    tables = []
    for position, side in enumerate(comparison.sides[1:]):
        cells = [
            (
                _name(row),
                _value(row.baseline, row.unit),
                _value(cell.value, row.unit),
                cell.text(),
                _says(cell),
            )
            for row in rows
            for cell in [row.cells[position]]
        ]
        said = f"{side.title}, against {comparison.sides[0].title}"
        tables.append(
            Table(said, ("Figure", "A", side.label, f"{side.label} / A", "says"), cells, (4,))
        )
    return tables


# --- charts ---


def _figures(comparison: Comparison, headline: Sequence[Row]) -> list[Figure]:
    drawn = comparison.sides[:_MOST_SIDES]
    names = [side.title for side in drawn]
    found = [_ratio_figure(headline, names)]
    read = {path: _result(Path(path)) for side in drawn for path in side.paths}
    found.append(_trade_figure(drawn, names, read))
    for key, title, column in (
        ("ttft", "Time to first token", "first_token_ns"),
        ("e2e", "Whole answer", "last_token_ns"),
    ):
        found.append(_cdf_figure(drawn, names, read, key, title, column))
    return [figure for figure in found if figure is not None]


def _ratio_figure(rows: Sequence[Row], names: Sequence[str]) -> Figure | None:
    marks = [
        RatioMark(
            _short(row),
            position + 1,
            cell.ratio,
            cell.low,
            cell.high,
            said=cell.word in {Word.BETTER, Word.WORSE},
        )
        for row in rows
        for position, cell in enumerate(row.cells[: _MOST_SIDES - 1])
        if cell.ratio is not None and cell.ratio > 0
    ]
    if not marks:
        return None
    legend = [(i + 1, name) for i, name in enumerate(names) if i]
    caption = (
        "Ratios to A on a logarithmic scale; the line at 1 is A itself. Filled: called better or"
        " worse. Hollow: nothing is said."
    )
    table = Table(
        "Ratios to A",
        ("Figure", *names[1:]),
        [(_name(row), *(cell.text() for cell in row.cells[: len(names) - 1])) for row in rows],
    )
    return Figure(
        "ratios",
        "Ratios to A",
        caption,
        "",
        legend,
        draw(ratios(marks, names, WIDE[0])),
        draw(ratios(marks, names, NARROW[0])),
        table,
    )


def _short(row: Row) -> str:
    shorts = {
        "output_tok_s": "Output tok/s",
        "output_tok_s_per_gpu": "Output tok/s/GPU",
        "interactivity_tok_s_user": "tok/s per user",
        "goodput_rps": "Goodput",
        "slo_met_ratio": "Within all SLOs",
        "power_w": "Power",
        "output_tok_per_j": "tok per joule",
        "usd_per_mtok": "USD per Mtok",
    }
    statistic = _statistic(row)
    known = shorts.get(base(row.key)) or {
        "ttft_s": "TTFT",
        "tpot_s": "TPOT",
        "e2e_s": "Whole answer",
    }.get(base(row.key))
    return f"{known or row.title}{statistic}"


def _trade_figure(
    sides: Sequence[Side], names: Sequence[str], read: Mapping[str, RunResult | None]
) -> Figure | None:
    def points(key: str) -> list[TradePoint]:
        found = []
        for position, side in enumerate(sides):
            for path in side.paths:
                result = read[path]
                if result is None:
                    continue
                stages: Sequence[StageSummary | Summary] = result.summary.stages
                summaries = stages or (result.summary,)
                for order, stage in enumerate(summaries):
                    x, y = (
                        None if (figure := stage.metrics.get(one)) is None else figure.value
                        for one in ("interactivity_tok_s_user", key)
                    )
                    if x is not None and y is not None:
                        found.append(TradePoint(position, order, x, y))
        return found

    per_gpu = points("output_tok_s_per_gpu")
    found = per_gpu or points("output_tok_s")
    if len({point.side for point in found}) < len(sides) or not found:
        return None
    y_title = (
        "output tokens per second per GPU"
        if per_gpu
        else "output tokens per second, whole deployment (no GPUs)"
    )
    table = Table(
        "Every run and stage",
        ("Side", "stage", "tokens/s per user", y_title),
        [(names[p.side], str(p.order + 1), numbers.plain(p.x), numbers.plain(p.y)) for p in found],
    )
    caption = (
        "A point a run and load stage: up is more from the hardware, right is faster for each user;"
        " a side that is up and right wins."
    )
    title = (
        "Tokens per GPU against tokens per user"
        if per_gpu
        else "Throughput against tokens per user"
    )
    legend = [(i + 1, name) for i, name in enumerate(names)]
    wide, narrow = (draw(trade(found, names, (size[0], 280))) for size in (WIDE, NARROW))
    return Figure("trade", title, caption, y_title, legend, wide, narrow, table)


def _cdf_figure(
    sides: Sequence[Side],
    names: Sequence[str],
    read: Mapping[str, RunResult | None],
    key: str,
    title: str,
    column: str,
) -> Figure | None:
    lines, ends, rows = [], [], []
    for side, name in zip(sides, names, strict=True):
        values, everyone = _latencies(side, read, column)
        if len(values) < _MIN_LATENCIES:
            return None
        picks = np.unique(np.linspace(0, len(values) - 1, _CDF_POINTS).astype(int))
        points: list[tuple[float, float | None]] = [
            (float(f"{values[i]:.4g}"), float(f"{(i + 1) / everyone:.4g}")) for i in picks
        ]
        lines.append(Line(name, points, stepped=True))
        ends += [float(values[0]), float(values[-1])]
        shares = [int(np.ceil(q * everyone)) - 1 for q in (0.5, 0.9, 0.95, 0.99)]
        rows.append(
            (
                name,
                *(
                    numbers.duration(float(values[i])) if i < len(values) else numbers.DASH
                    for i in shares
                ),
                f"{everyone:,}",
            )
        )
    low = max(min(ends), max(ends) / 1e6)
    caption = (
        "Share of the requests intended in the window that got there within a time, all repeats of"
        " a side together; a curve that ends below 100 % is that of a side whose requests failed."
    )
    chart = Chart(
        key,
        title,
        caption,
        f"{title.lower()} (logarithmic)",
        "share",
        lines,
        x_log=True,
        x_domain=(low * 0.97, max(ends) * 1.03),
        y_percent=True,
    )
    legend = [(i + 1, name) for i, name in enumerate(names)]
    table = Table(
        f"{title}, all repeats together", ("Side", "p50", "p90", "p95", "p99", "requests"), rows
    )
    return Figure(
        key,
        title,
        caption,
        "share of requests",
        legend,
        draw(line_chart(chart, WIDE)),
        draw(line_chart(chart, NARROW)),
        table,
    )


def _latencies(
    side: Side, read: Mapping[str, RunResult | None], column: str
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], int]:
    """Sorted latencies of a side's answered requests, in seconds, and how many requests count; none
    where a run's are not at hand.
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
    """A run that is still where it was compared; None where it is not."""
    with suppress(ArtifactError):
        return load_result(path)
    return None
