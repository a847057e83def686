"""Writes fleet.html, fleet.md with its charts, and fleet.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from harness.artifacts.atomic import alone_in, write_bytes, write_json
from harness.fleet.cases import FleetAnswer
from harness.fleet.over_time.forecast import Forecast
from harness.report.fleet.view import FleetView
from harness.report.pages import Drawing, html_page, make_folder, markdown_page, write_charts

CHARTS_DIR: Final = "fleet-charts"
"""Folder of the charts of fleet.md, one file per theme."""

HOURS: Final = "fleet-hours.csv"
"""The first simulated year, one line per hour."""


def write_fleet(answer: FleetAnswer, shown: FleetView, folder: Path) -> tuple[Path, Path, Path]:
    """Write fleet.html, fleet.md and fleet.json, and fleet-hours.csv if years were simulated. The
    first case of `answer` fills the page.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    paths = (folder / "fleet.html", folder / "fleet.md", folder / "fleet.json")
    make_folder(folder)
    drawings = {key: Drawing(chart.wide(), chart.narrow()) for key, chart in shown.charts.items()}
    page, markdown = fleet_html(shown, drawings).encode(), fleet_markdown(shown).encode()
    forecast = answer.cases[0].forecast
    with alone_in(folder):
        write_charts(folder / CHARTS_DIR, drawings)
        if forecast is None:  # of an earlier estimate
            (folder / HOURS).unlink(missing_ok=True)
        else:
            write_bytes(folder / HOURS, hours_csv(forecast).encode())
        write_bytes(paths[0], page)
        write_bytes(paths[1], markdown)
        write_json(paths[2], answer.to_dict())
    return paths


def hours_csv(forecast: Forecast) -> str:
    """The first simulated year by hour; a column is empty if it is unknown."""
    columns = {key: column for key, column in forecast.hours.items() if column is not None}
    lines = [",".join(("hour", *forecast.hours))]
    for hour in range(len(next(iter(columns.values())))):
        values = (f"{columns[key][hour]:.7g}" if key in columns else "" for key in forecast.hours)
        lines.append(",".join((str(hour), *values)))
    return "\n".join(lines) + "\n"


def fleet_html(shown: FleetView, drawings: Mapping[str, Drawing]) -> str:
    """The page, with a wide and a narrow drawing of each chart; charts without drawings are
    omitted.
    """
    return html_page("fleet.html.j2", shown, drawings, css=("fleet.css",))


def fleet_markdown(shown: FleetView) -> str:
    """GitHub-flavored Markdown."""
    return markdown_page("fleet.md.j2", v=shown, charts_dir=CHARTS_DIR)
