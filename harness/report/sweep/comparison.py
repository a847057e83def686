"""The comparison of two sweeps: text, tables and charts, as Markdown and as a page."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.artifacts.atomic import alone_in, write_bytes, write_json
from harness.artifacts.typed_json import to_json
from harness.compare.gates import GateResult
from harness.compare.ratios import Cell, Row, Word
from harness.compare.sweeps import SweepComparison, ratio_text
from harness.report.numbers import DASH, plain
from harness.report.pages import (
    Drawing,
    chart_links,
    html_page,
    make_folder,
    markdown_page,
    write_charts,
)
from harness.report.sweep.view import frontier_figure
from harness.report.tables import DrawnChart, Table
from harness.sweeps.points import COLUMN, load_sweep

CHARTS_DIR: Final = "comparison-charts"


@dataclass(frozen=True, slots=True)
class SweepComparisonView:
    """The content of the page, as text."""

    title: str
    lead: Sequence[str]
    capacities: Table | None
    gates: Table | None
    areas: Table
    pairs: Table
    everything: Table
    treatments: Table | None
    only: Sequence[tuple[str, str]]
    allowed: Sequence[str]
    notes: Sequence[str]
    charts: Mapping[str, DrawnChart]


def sweep_comparison_view(comparison: SweepComparison, *, charts: bool) -> SweepComparisonView:
    """The content of the page. `charts` draws the frontiers over each other, for which the folders
    are read again.
    """
    sides = comparison.sides
    differing = [one for one in comparison.treatments if one.differs]
    return SweepComparisonView(
        title=f"{sides[1].title} vs. {sides[0].title}",
        lead=list(_lead(comparison)),
        capacities=_capacities(comparison),
        gates=_gates(comparison),
        areas=_areas(comparison),
        pairs=_pairs(comparison),
        everything=_everything(comparison),
        treatments=(
            Table(
                "Properties that differ",
                ("Treatment", *(side.title for side in sides)),
                [(one.key, *one.values) for one in differing],
                (1, 2),
            )
            if differing
            else None
        ),
        only=[(f"Only in {label}", "; ".join(names)) for label, names in comparison.only.items()],
        allowed=[str(mismatch) for mismatch in comparison.allowed_mismatches],
        notes=comparison.notes,
        charts={chart.key: chart for chart in _charts(comparison)} if charts else {},
    )


def _lead(comparison: SweepComparison) -> Iterator[str]:
    for one in comparison.capacities:
        yield f"Capacity at tier {one.tier}, B / A: {ratio_text(one)}."
    count = len(comparison.pairs)
    yield f"{count} point{'' if count == 1 else 's'} of both sweeps with equal values."
    known = [one for one in comparison.areas if one.ratio is not None]
    if known:
        first = known[0]
        title = f"{COLUMN[first.y].title} and {COLUMN[first.x].title}"
        yield f"Area below the frontier of {title}, B / A: {ratio_text(first)}."
    words = [cell.word for pair in comparison.pairs for row in pair.metrics for cell in row.cells]
    for word in (Word.BETTER, Word.WORSE):
        if found := words.count(word):
            yield f"B is significantly {word} in {found} of {len(words)} comparisons of points."


def _capacities(comparison: SweepComparison) -> Table | None:
    rows = [
        (one.tier, plain(one.a), plain(one.b), ratio_text(one)) for one in comparison.capacities
    ]
    head = ("Tier", "A", "B", "B / A")
    return Table("Capacities, B / A (95% CI)", head, rows) if rows else None


_GATE: Final = (6, 2, 3, 4, 7)
"""Columns of a gate's row: only B has gates, and a search has no minimum detectable effect."""


def _gates(comparison: SweepComparison) -> Table | None:
    rows = [(gate.threshold.text, *(gate.row()[n] for n in _GATE)) for gate in comparison.gates]
    head = ("Gate", *(GateResult.COLUMNS[n].capitalize() for n in _GATE))
    return Table("Gates", head, rows, (1, 5)) if rows else None


def _areas(comparison: SweepComparison) -> Table:
    rows = [
        (
            f"{COLUMN[one.y].title} and {COLUMN[one.x].title}",
            ratio_text(one),
            plain(one.points),
        )
        for one in comparison.areas
    ]
    return Table("Areas below the frontiers, B / A (95% CI)", ("Frontier", "B / A", "Pairs"), rows)


_MAIN: Final = {
    "output_tok_s_per_gpu": "Output tok/s/GPU",
    "output_tok_s": "Output tok/s",
    "interactivity_tok_s_user": "Tok/s per user",
    "ttft_s.p99": "TTFT p99",
    "tpot_s.p99": "TPOT p99",
    "output_tok_per_j": "Output tok/J",
    "usd_per_mtok": "USD per Mtok",
}
"""Metrics of the table with one row per point; the total throughput only without GPUs."""


def _pairs(comparison: SweepComparison) -> Table:
    there = {row.key for pair in comparison.pairs for row in pair.metrics}
    unused = "output_tok_s" if "output_tok_s_per_gpu" in there else "output_tok_s_per_gpu"
    keys = [key for key in _MAIN if key in there and key != unused]
    rows = []
    for pair in comparison.pairs:
        found = {row.key: row.cells[0] for row in pair.metrics}
        rows.append((pair.name, *(_ratio(found.get(key)) for key in keys)))
    caption = "Paired points, B / A (95% CI)"
    return Table(caption, ("Point", *(_MAIN[key] for key in keys)), rows)


def _ratio(cell: Cell | None) -> str:
    if cell is None:
        return DASH
    return f"{cell.text()} {cell.word}" if cell.word in {Word.BETTER, Word.WORSE} else cell.text()


def _everything(comparison: SweepComparison) -> Table:
    rows = [
        (f"{pair.name}: {row.name}", *_cells(row))
        for pair in comparison.pairs
        for row in pair.metrics
    ]
    head = ("Point: metric", "A", "B", "B / A", "Result")
    return Table("All headline metrics of the paired points (95% CI)", head, rows, (4,))


def _cells(row: Row) -> tuple[str, ...]:
    cell = row.cells[0]
    return (plain(row.baseline), plain(cell.value), cell.text(), cell.says())


def _charts(comparison: SweepComparison) -> Iterator[DrawnChart]:
    sweeps = [load_sweep(Path(side.path)) for side in comparison.sides]
    names = [side.title for side in comparison.sides]
    for first, second in zip(*(side.frontiers for side in comparison.sides), strict=False):
        if first.key == second.key and first.absent is None and second.absent is None:
            yield frontier_figure(first, *sweeps, others=(second,), names=names)


def sweep_comparison_markdown(shown: SweepComparisonView) -> str:
    """GitHub-flavored Markdown."""
    files = {key: chart_links(CHARTS_DIR, key) for key in shown.charts}
    return markdown_page("sweeps.md.j2", v=shown, files=files)


def write_sweep_comparison(comparison: SweepComparison, folder: Path) -> tuple[Path, Path, Path]:
    """Write comparison.html (one file, needs neither network nor script), comparison.md with its
    charts, and comparison.json.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    shown = sweep_comparison_view(comparison, charts=True)
    drawings = {
        key: Drawing(chart.wide, chart.narrow, chart.y_title) for key, chart in shown.charts.items()
    }
    page = html_page("sweeps.html.j2", shown, drawings, css=("compare.css", "sweep.css"))
    paths = (folder / "comparison.html", folder / "comparison.md", folder / "comparison.json")
    make_folder(folder)
    with alone_in(folder):
        write_charts(folder / CHARTS_DIR, drawings)
        write_bytes(paths[0], page.encode())
        write_bytes(paths[1], sweep_comparison_markdown(shown).encode())
        write_json(paths[2], to_json(comparison))
    return paths
