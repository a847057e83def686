"""Writes a comparison as a page, Markdown and JSON, and its gates for CI."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.artifacts.atomic import alone_in, write_bytes, write_json
from harness.artifacts.typed_json import to_json
from harness.compare import gate_output
from harness.compare.compare import Comparison
from harness.compare.gates import GateResult
from harness.core.errors import ArtifactError, ExitCode
from harness.report.comparison.view import ComparisonView, compare_view
from harness.report.pages import (
    Drawing,
    chart_links,
    html_page,
    make_folder,
    markdown_page,
    write_charts,
)

CHARTS_DIR: Final = "comparison-charts"


@dataclass(frozen=True, slots=True)
class Conclusion:
    """Outcome of a comparison for a command: annotations for GitHub Actions (on demand), written
    files and failed gates, and the exit code, which is 99 if a gate failed.
    """

    annotations: tuple[str, ...]
    lines: tuple[str, ...]
    exit_code: ExitCode


def conclude_comparison(
    comparison: Comparison,
    *,
    strict: bool = False,
    junit: Path | None = None,
    github: bool = False,
    summary: Path | None = None,
    report: Path | None = None,
) -> Conclusion:
    """`conclude` for a comparison of runs. `report` is the folder for the page, Markdown and JSON.

    Raises:
        ArtifactError: a file cannot be written.
    """
    return conclude(
        comparison.gates,
        gate_output.summary(comparison, strict=strict),
        write_comparison(comparison, report) if report is not None else (),
        strict=strict,
        junit=junit,
        github=github,
        summary=summary,
    )


def conclude(
    gates: Sequence[GateResult],
    text: str,
    written: Sequence[Path],
    *,
    strict: bool = False,
    junit: Path | None = None,
    github: bool = False,
    summary: Path | None = None,
) -> Conclusion:
    """Write the requested files about gates, and decide the exit code. With `strict`, too few
    repeats are a failure as well; with `github`, make annotations and append the summary to the
    file in GITHUB_STEP_SUMMARY. `text` is the Markdown of the summary; `written` are files of the
    comparison that exist already.

    Raises:
        ArtifactError: a file cannot be written.
    """
    lines = [str(path) for path in written]
    if junit is not None:
        _write(junit, gate_output.junit(gates, strict=strict))
        lines.append(str(junit))
    if summary is not None:
        _write(summary, text)
        lines.append(str(summary))
    page = os.environ.get("GITHUB_STEP_SUMMARY")
    if github and page:
        _append(Path(page), text)
    failed = [gate for gate in gates if gate.failed(strict=strict)]
    lines += [f"gate failed: {gate_output.sentence(gate)}" for gate in failed]
    annotations = gate_output.github(gates, strict=strict) if github else []
    return Conclusion(
        tuple(annotations),
        tuple(lines),
        ExitCode.THRESHOLD_FAILED if failed else ExitCode.OK,
    )


def write_comparison(comparison: Comparison, folder: Path) -> tuple[Path, Path, Path]:
    """Write comparison.html (one file, needs neither network nor script), comparison.md with its
    charts, and comparison.json.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    shown = compare_view(comparison)
    page, markdown = (
        comparison_html(shown).encode(),
        comparison_markdown(comparison, shown).encode(),
    )
    paths = (folder / "comparison.html", folder / "comparison.md", folder / "comparison.json")
    make_folder(folder)
    with alone_in(folder):
        write_charts(folder / CHARTS_DIR, _drawings(shown))
        write_bytes(paths[0], page)
        write_bytes(paths[1], markdown)
        write_json(paths[2], to_json(comparison))
    return paths


def comparison_html(shown: ComparisonView) -> str:
    """The page, with a wide and a narrow drawing of each chart."""
    return html_page("compare.html.j2", shown, _drawings(shown), css=("compare.css",))


def _drawings(shown: ComparisonView) -> dict[str, Drawing]:
    return {key: Drawing(chart.wide, chart.narrow) for key, chart in shown.charts.items()}


def comparison_markdown(comparison: Comparison, shown: ComparisonView) -> str:
    """GitHub-flavored Markdown: the comparison, then the charts."""
    files = {key: chart_links(CHARTS_DIR, key) for key in shown.charts}
    return markdown_page("compare.md.j2", v=shown, files=files, text=comparison.to_markdown())


def _write(path: Path, text: str) -> None:
    make_folder(path.parent)
    write_bytes(path, text.encode())


def _append(path: Path, text: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text + "\n")
    except OSError as error:
        raise ArtifactError(
            f"cannot write {path}: {error.strerror or error}", cause="GITHUB_STEP_SUMMARY names it"
        ) from error
