"""From a verdict and thresholds to the exit code."""

from pathlib import Path

import pytest

from harness.artifacts.run_summary import Figure, RequestCounts, Summary, Verdict, Window
from harness.commands.steps.outcome import result_of
from harness.core.errors import ExitCode
from harness.core.records import Status


def summary(status: Status) -> Summary:
    return Summary(
        schema_version=1,
        metric_version=1,
        run_id="run",
        state="complete",
        profile={},
        verdict=Verdict(status),
        window=Window(0.0, 60.0, 60.0, "explicit"),
        requests=RequestCounts(1, 1, 1, 0, 0, 0, {"ok": 1}, 1),
        metrics={"output_tok_s": Figure(1000.0, "tok/s", boundary="client")},
        latency={},
        reconciliation={},
        stages=(),
    )


MET, MISSED, ABSENT = "output_tok_s >= 1k", "output_tok_s > 2k", "power_w < 1"
RELATIVE = "output_tok_s >= 0.9 * baseline"


@pytest.mark.parametrize(
    ("status", "thresholds", "interrupted", "code"),
    [
        (Status.VALID, (), False, ExitCode.OK),
        (Status.DEGRADED, (MET, RELATIVE), False, ExitCode.OK),
        (Status.VALID, (MET, MISSED), False, ExitCode.THRESHOLD_FAILED),
        (Status.VALID, (ABSENT,), False, ExitCode.THRESHOLD_FAILED),
        (Status.INVALID, (), False, ExitCode.INVALID_RUN),
        (Status.INVALID, (MISSED,), False, ExitCode.INVALID_RUN),
        (Status.FUNCTIONAL, (), True, ExitCode.INTERRUPTED),
        (Status.INVALID, (MISSED,), True, ExitCode.INTERRUPTED),
    ],
)
def test_an_interruption_comes_before_an_invalid_run_and_that_before_thresholds(
    status: Status, thresholds: tuple[str, ...], interrupted: bool, code: ExitCode
) -> None:
    result = result_of(Path("run"), summary(status), thresholds, interrupted=interrupted)
    assert result.exit_code is code


def test_messages_name_what_failed_and_what_one_run_cannot_answer() -> None:
    result = result_of(
        Path("run"), summary(Status.VALID), (MET, MISSED, RELATIVE), interrupted=False
    )
    failed, not_judged = result.messages
    assert MISSED in failed
    assert RELATIVE in not_judged
