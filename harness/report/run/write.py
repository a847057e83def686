"""Writes report.html and report.md of a run directory."""

from pathlib import Path
from typing import Final

from harness.artifacts.atomic import write_bytes
from harness.artifacts.layout import RunDir
from harness.reduce.reduction import Reduction, reduce_fully
from harness.report.charts import HALF, NARROW, WIDE, draw, line_chart
from harness.report.pages import Drawing, chart_links, html_page, markdown_page, write_charts
from harness.report.run.view import View, view

CHARTS_DIR: Final = "report-charts"
"""Folder of the charts of report.md, one file per theme."""


def write_report(run_path: Path, reduction: Reduction | None = None) -> tuple[Path, Path]:
    """Write report.html (one file, needs neither network nor script) and report.md, with its charts
    in a folder next to it; returns both paths. Only the run directory is read, so any old run can
    be reported again. `reduction` is of that directory, if there is one already.

    Raises:
        ArtifactError: not a run directory, or it cannot be written.
    """
    run_dir = RunDir(run_path)
    shown = view(reduction or reduce_fully(run_path))
    drawings = {
        key: Drawing(
            draw(line_chart(item.chart, HALF if item.chart.half else WIDE)),
            draw(line_chart(item.chart, NARROW)),
            item.chart.y_title,
        )
        for key, item in shown.charts.items()
    }
    write_bytes(run_dir.report_html, html_page("report.html.j2", shown, drawings).encode())
    write_charts(run_path / CHARTS_DIR, drawings)
    write_bytes(run_dir.report_md, markdown(shown).encode())
    return run_dir.report_html, run_dir.report_md


def markdown(shown: View) -> str:
    """GitHub-flavored Markdown."""
    files = {key: chart_links(CHARTS_DIR, key) for key in shown.charts}
    return markdown_page("report.md.j2", v=shown, files=files)
