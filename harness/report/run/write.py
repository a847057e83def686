"""Writes report.html and report.md of a run directory."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import jinja2
from markupsafe import Markup

from harness.artifacts.atomic import write_bytes
from harness.artifacts.layout import RunDir
from harness.core.errors import ArtifactError
from harness.reduce.reduction import Reduction, reduce_fully
from harness.report.charts import NARROW, WIDE, css_variables, draw, inline, themed
from harness.report.pages import markdown_environment, spaced
from harness.report.run.view import View, view

CHARTS_DIR: Final = "report-charts"
"""Folder beside report.md with its charts, one for each theme."""

_THEMES: Final = ("light", "dark")


def write_report(run_path: Path, reduction: Reduction | None = None) -> tuple[Path, Path]:
    """Write report.html (one file, no network, no script needed) and report.md (with its charts in
    a folder beside it).

    Args:
        run_path: a run directory. Nothing but it is read, so that any old run can be reported
            again.
        reduction: of that directory, where the caller has just made it.

    Returns:
        Paths of report.html and report.md.

    Raises:
        ArtifactError: not a run directory, or it cannot be written.
    """
    run_dir = RunDir(run_path)
    shown = view(reduction or reduce_fully(run_path))
    drawings = {
        key: {"wide": draw(chart.chart, WIDE), "narrow": draw(chart.chart, NARROW)}
        for key, chart in shown.charts.items()
    }
    write_bytes(run_dir.report_html, html(shown, drawings).encode())
    folder = run_path / CHARTS_DIR
    if shown.charts:
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ArtifactError(
                f"cannot create {folder}: {error.strerror or error}",
                cause="no permission, or no space",
            ) from error
    for key, drawing in drawings.items():
        for theme in _THEMES:
            write_bytes(
                _chart(folder, key, theme),
                themed(drawing["wide"], theme, shown.charts[key].chart.y_title).encode(),
            )
    _forget(folder, {_chart(folder, key, theme) for key in drawings for theme in _THEMES})
    write_bytes(run_dir.report_md, markdown(shown).encode())
    return run_dir.report_html, run_dir.report_md


def _chart(folder: Path, key: str, theme: str) -> Path:
    return folder / f"{key}-{theme}.svg"


def _forget(folder: Path, current: Collection[Path]) -> None:
    """Remove charts that an earlier report of the directory had and this one has not; one that
    stays is linked by nothing.
    """
    for theme in _THEMES:
        for old in folder.glob(f"*-{theme}.svg"):
            if old not in current:
                with suppress(OSError):
                    old.unlink()


def html(shown: View, drawings: Mapping[str, Mapping[str, str]]) -> str:
    """The page, with a wide and a narrow drawing of each chart."""
    environment = markdown_environment()
    drawn = {
        key: {size: Markup(inline(svg)) for size, svg in sizes.items()}  # noqa: S704 - drawn by us
        for key, sizes in drawings.items()
    }
    style = (
        _source(environment, "style.css")
        .replace("LIGHT_SERIES", css_variables("light"))
        .replace("DARK_SERIES", css_variables("dark"))
    )
    script = _source(environment, "report.js")
    return environment.get_template("report.html.j2").render(
        v=shown,
        drawn=drawn,
        style=Markup(style),  # noqa: S704 - ours
        script=Markup(script),  # noqa: S704 - ours
    )


def markdown(shown: View) -> str:
    """GitHub-flavoured Markdown."""
    files: Mapping[str, Mapping[str, str]] = {
        key: {theme: f"{CHARTS_DIR}/{key}-{theme}.svg" for theme in ("light", "dark")}
        for key in shown.charts
    }
    text = markdown_environment().get_template("report.md.j2").render(v=shown, files=files)
    return spaced(text)


def _source(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
