"""Shows finished runs in a terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.artifacts.layout import RunDir
from harness.artifacts.manifest import read_manifest
from harness.artifacts.run_summary import Summary
from harness.core.errors import ArtifactError
from harness.core.records import Severity
from harness.profile.recorded import RecordedStage
from harness.reduce.reduction import reduce_fully, write_summary
from harness.report.export import check_formats, export
from harness.report.headline import headline_rows, purpose_sentence
from harness.report.run.stages import headline_sentence, stage_table
from harness.report.run.write import write_report
from harness.report.tables import Table

COLUMNS: Final = ("metric", "value", "unit", "95% CI", "basis", "boundary")


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run for a terminal: the verdict, its concerns with the worst first, the stages of
    a sweep, which one is the headline, its metrics under `COLUMNS`, a line with the absent metrics,
    and files with details.
    """

    verdict: str
    concerns: tuple[str, ...]
    stages: Table | None
    headline: str
    rows: tuple[tuple[str, ...], ...]
    absent: str
    paths: tuple[str, ...]


def reduce_and_report(path: Path, *, report: bool, exports: Sequence[str] = ()) -> Summary:
    """Reduce a run directory; write summary.json and, on demand, report.html, report.md and
    exports.

    Raises:
        ArtifactError: not a run directory, or it cannot be written.
        ProfileError: unknown export format.
    """
    check_formats(exports)
    reduction = reduce_fully(path)
    write_summary(path, reduction.summary)
    if report:
        write_report(path, reduction)
    if exports:
        export(path, reduction, exports)
    return reduction.summary


def result(path: Path, summary: Summary) -> Result:
    """One run in one screen."""
    rows = headline_rows(summary)
    shown = [row for row in rows if row.basis != "absent"]
    missing = [row.title for row in rows if row.basis == "absent"]
    order = list(Severity)
    concerns = sorted(summary.verdict.concerns, key=lambda concern: -order.index(concern.severity))
    run_dir = RunDir(path)
    return Result(
        verdict=f"verdict: {summary.verdict.status.value}. {purpose_sentence(summary)}",
        concerns=tuple(f"{concern.severity.value}: {concern.message}" for concern in concerns),
        stages=stage_table(summary, _load(run_dir)),
        headline=headline_sentence(summary),
        rows=tuple(
            (row.title, row.value, row.unit, row.interval, row.basis, row.boundary) for row in shown
        ),
        absent=f"not available: {', '.join(missing)}" if missing else "",
        paths=tuple(
            _short(file)
            for file in (run_dir.report_html, run_dir.report_md, run_dir.summary)
            if file.exists()
        ),
    )


def _load(run_dir: RunDir) -> Sequence[RecordedStage]:
    """Load stages of the profile; empty if the manifest cannot be read."""
    try:
        return read_manifest(run_dir).profile.traffic.load
    except ArtifactError:
        return ()


def _short(path: Path) -> str:
    try:
        here = Path.cwd()
    except OSError:  # the working directory was removed
        return str(path)
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
