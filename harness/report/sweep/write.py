"""Writes the disposable files of a sweep's folder: table, frontiers, best profile, and pages."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow.csv as pc

from harness.artifacts.atomic import alone_in, write_bytes, write_json, write_parquet
from harness.artifacts.typed_json import to_json
from harness.report.pages import Drawing, chart_links, html_page, markdown_page, write_charts
from harness.report.sweep.best_profile import BEST_FILE, best_profile
from harness.report.sweep.view import SweepView, sweep_view
from harness.sweeps.best import best
from harness.sweeps.frontier import frontier_file
from harness.sweeps.points import Sweep, load_sweep, points_table

CHARTS_DIR: Final = "sweep-charts"


@dataclass(frozen=True, slots=True)
class SweepReport:
    """The sweep, what its pages show, and the written files."""

    sweep: Sweep
    view: SweepView
    paths: tuple[Path, ...]


def write_sweep_report(folder: Path) -> SweepReport:
    """Write sweep.html (one file, needs neither network nor script), sweep.md with its charts,
    points.csv, points.parquet, frontier.json and best.yaml. A best.yaml of an earlier report is
    removed if there is no best point.

    Raises:
        ArtifactError: not a sweep, damaged, or it cannot be written.
    """
    sweep = load_sweep(folder)
    shown = sweep_view(sweep)
    profile = best_profile(sweep, best(sweep))
    table = points_table(sweep)
    text = io.BytesIO()
    pc.write_csv(table, text)
    names = ["sweep.html", "sweep.md", "points.csv", "points.parquet", "frontier.json"]
    with alone_in(folder):
        write_charts(folder / CHARTS_DIR, drawings(shown))
        write_bytes(folder / "sweep.html", sweep_html(shown).encode())
        write_bytes(folder / "sweep.md", sweep_markdown(shown).encode())
        write_bytes(folder / "points.csv", text.getvalue())
        write_parquet(folder / "points.parquet", table)
        write_json(folder / "frontier.json", to_json(frontier_file(sweep)))
        if profile is None:
            (folder / BEST_FILE).unlink(missing_ok=True)
        else:
            write_bytes(folder / BEST_FILE, profile.encode())
            names.append(BEST_FILE)
    return SweepReport(sweep, shown, tuple(folder / name for name in names))


def drawings(shown: SweepView) -> dict[str, Drawing]:
    """The charts by key."""
    return {
        key: Drawing(chart.wide, chart.narrow, chart.y_title) for key, chart in shown.charts.items()
    }


def sweep_html(shown: SweepView) -> str:
    """The page, with a wide and a narrow drawing of each chart."""
    return html_page("sweep.html.j2", shown, drawings(shown), css=("compare.css", "sweep.css"))


def sweep_markdown(shown: SweepView) -> str:
    """GitHub-flavored Markdown."""
    files = {key: chart_links(CHARTS_DIR, key) for key in shown.charts}
    return markdown_page("sweep.md.j2", v=shown, files=files)
