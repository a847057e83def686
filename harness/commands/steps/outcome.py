"""After a run: tables, reduction, and the exit code of its verdict."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.artifacts.finalize import finalize
from harness.artifacts.layout import RunDir
from harness.artifacts.run_summary import Summary
from harness.commands.display import View
from harness.compare.thresholds import evaluate_thresholds
from harness.core.errors import ExitCode, HarnessError
from harness.core.records import ModelFacts, Status
from harness.processes.child import exit_text
from harness.processes.command import ask
from harness.processes.registry import RunRegistry
from harness.processes.start import own_environment, own_module
from harness.report.terminal import reduce_and_report

RECOUNT_TIMEOUT_S: Final = 120.0
"""Timeout for recounting the prompts with the model's tokenizer."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """Result of a run.

    Attributes:
        run_dir: its folder.
        summary: the reduction.
        exit_code: of the command.
        messages: thresholds that failed or could not be evaluated.
    """

    run_dir: Path
    summary: Summary
    exit_code: ExitCode
    messages: tuple[str, ...] = ()


def reduce_measured(
    run_dir: RunDir, view: View, facts: ModelFacts, *, interrupted: bool
) -> Summary:
    """Convert the journals to tables and reduce them.

    Raises:
        HarnessError: tables or reduction failed.
    """
    view.phase("reducing", run_dir.root.name)
    finalize(run_dir)
    if not interrupted:
        _recount(run_dir, view, facts)
    return reduce_and_report(run_dir.root, report=True)


def reduce_failed(run_dir: RunDir, view: View) -> None:
    """Reduce a failed run, so that its records are usable. A failure is only a warning."""
    view.phase("reducing", run_dir.root.name)
    try:
        finalize(run_dir)
        reduce_and_report(run_dir.root, report=True)
    except HarnessError as error:
        view.warn(f"the run could not be reduced: {error.what}")


def _recount(run_dir: RunDir, view: View, facts: ModelFacts) -> None:
    """Recount prompts with the model's tokenizer in a child process, if it is on this machine. A
    failure is only a warning.
    """
    if facts.path is None or not (Path(facts.path) / "tokenizer.json").is_file():
        return
    root = run_dir.root
    argv = own_module("harness.models.recount", str(root))
    try:
        with RunRegistry.open(root.name, root) as registry:
            done = ask(
                argv,
                timeout_s=RECOUNT_TIMEOUT_S,
                env=own_environment(),
                registry=registry,
                name="recount",
            )
        detail = "" if done.status == 0 else done.err.strip() or exit_text(done.status)
    except (OSError, HarnessError) as error:
        detail = str(error)
    if detail:
        view.warn(f"prompts could not be recounted: {detail.splitlines()[-1]}")


def result_of(
    run_dir: Path, summary: Summary, thresholds: Sequence[str], *, interrupted: bool
) -> RunResult:
    """The verdict as an exit code: 130 before 10 before 99."""
    results = evaluate_thresholds(thresholds, summary)
    failed = [result for result in results if result.judged and not result.passed]
    messages = ["threshold failed: " + " · ".join(filter(None, result.row())) for result in failed]
    messages += [
        f"threshold not judged: {result.threshold.text}: {result.reason}"
        for result in results
        if not result.judged
    ]
    code = ExitCode.THRESHOLD_FAILED if failed else ExitCode.OK
    if summary.verdict.status is Status.INVALID:
        code = ExitCode.INVALID_RUN
    if interrupted:
        code = ExitCode.INTERRUPTED
    return RunResult(run_dir, summary, code, tuple(messages))
