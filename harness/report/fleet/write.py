"""Writes what a fleet would do: fleet.html (one file, no network, no script needed), fleet.md with
its charts beside it, fleet.json.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import jinja2
from markupsafe import Markup

from harness.artifacts.atomic import alone_in, write_bytes, write_json
from harness.core.errors import ArtifactError
from harness.fleet.cases import FleetAnswer
from harness.fleet.over_time.forecast import Forecast
from harness.report.charts import css_variables, inline, themed
from harness.report.fleet.view import FleetView
from harness.report.pages import markdown_environment, spaced

CHARTS_DIR: Final = "fleet-charts"
"""Folder beside fleet.md with its charts, one for each theme."""

HOURS: Final = "fleet-hours.csv"
"""The first simulated year, one line an hour."""


def write_fleet(answer: FleetAnswer, shown: FleetView, folder: Path) -> tuple[Path, Path, Path]:
    """Write fleet.html, fleet.md and fleet.json; beside them fleet-hours.csv where years were
    simulated.

    Args:
        answer: the first case fills the page.
        shown: what is shown of it.
        folder: made where it is missing.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    paths = (folder / "fleet.html", folder / "fleet.md", folder / "fleet.json")
    try:
        (folder / CHARTS_DIR).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(
            f"cannot make {folder}: {error.strerror or error}",
            next_step="name another folder with --out, or make room there",
        ) from error
    drawings = {
        key: {"wide": chart.wide(), "narrow": chart.narrow()} for key, chart in shown.charts.items()
    }
    page, markdown = fleet_html(shown, drawings).encode(), fleet_markdown(shown).encode()
    forecast = answer.cases[0].forecast
    with alone_in(folder):
        # What an earlier answer left, and this one has not, would pass for part of it.
        for old in (folder / CHARTS_DIR).glob("*.svg"):
            if old.stem.rpartition("-")[0] not in drawings:
                old.unlink()
        if forecast is None:
            (folder / HOURS).unlink(missing_ok=True)
        else:
            write_bytes(folder / HOURS, hours_csv(forecast).encode())
        for key, drawing in drawings.items():
            for theme in ("light", "dark"):
                write_bytes(
                    folder / CHARTS_DIR / f"{key}-{theme}.svg",
                    themed(drawing["wide"], theme).encode(),
                )
        write_bytes(paths[0], page)
        write_bytes(paths[1], markdown)
        write_json(paths[2], answer.to_dict())
    return paths


def hours_csv(forecast: Forecast) -> str:
    """The first simulated year hour by hour; a column is empty where it is not known."""
    columns = {key: column for key, column in forecast.hours.items() if column is not None}
    lines = [",".join(("hour", *forecast.hours))]
    for hour in range(len(next(iter(columns.values())))):
        values = (f"{columns[key][hour]:.7g}" if key in columns else "" for key in forecast.hours)
        lines.append(",".join((str(hour), *values)))
    return "\n".join(lines) + "\n"


def fleet_html(shown: FleetView, drawings: Mapping[str, Mapping[str, str]]) -> str:
    """The page, with a wide and a narrow drawing of each chart; a chart without drawings is left
    out.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    drawn = {
        key: {
            "wide": Markup(inline(drawing["wide"])),  # noqa: S704 - drawn by us
            "narrow": Markup(inline(drawing["narrow"])),  # noqa: S704 - drawn by us
        }
        for key, drawing in drawings.items()
    }
    assert environment.loader is not None
    style, more, script = (
        environment.loader.get_source(environment, name)[0]
        for name in ("style.css", "fleet.css", "report.js")
    )
    style = style.replace("LIGHT_SERIES", css_variables("light")).replace(
        "DARK_SERIES", css_variables("dark")
    )
    template = environment.get_template("fleet.html.j2")
    return template.render(v=shown, drawn=drawn, style=Markup(style + more), script=Markup(script))  # noqa: S704 - ours


def fleet_markdown(shown: FleetView) -> str:
    """GitHub-flavoured Markdown."""
    return spaced(
        markdown_environment().get_template("fleet.md.j2").render(v=shown, charts_dir=CHARTS_DIR)
    )
