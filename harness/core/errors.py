"""Errors for users, and the exit code of each.

`harness.cli` alone turns a `HarnessError` into an exit status. Any other exception is a defect and
shows a traceback.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """Exit status of the `harness` command."""

    OK = 0
    PROFILE = 2
    PREFLIGHT = 3
    SERVER = 4
    TRAFFIC = 5
    TELEMETRY = 6
    ARTIFACTS = 7
    NOT_COMPARABLE = 8
    INVALID_RUN = 10
    THRESHOLD_FAILED = 99
    INTERRUPTED = 130


EXIT_MEANINGS: Final[Mapping[ExitCode, str]] = {
    ExitCode.OK: "fine: the run is functional, valid, preliminary or degraded",
    ExitCode.PROFILE: "bad profile or arguments",
    ExitCode.PREFLIGHT: "preflight failed: this machine cannot do what the profile asks",
    ExitCode.SERVER: "the model server failed",
    ExitCode.TRAFFIC: "the load generator failed",
    ExitCode.TELEMETRY: "telemetry failed",
    ExitCode.ARTIFACTS: "the run directory cannot be written or read",
    ExitCode.NOT_COMPARABLE: "the runs are not comparable",
    ExitCode.INVALID_RUN: "the run finished but is invalid",
    ExitCode.THRESHOLD_FAILED: "a threshold or gate failed",
    ExitCode.INTERRUPTED: "interrupted",
}


class HarnessError(Exception):
    """An error that the user can act on.

    Args:
        what: one sentence: what is wrong, with the values involved.
        cause: the likely cause, if known.
        next_step: the fix, in the imperative.
        details: further lines, such as the end of a log.
    """

    exit_code: ExitCode = ExitCode.PROFILE

    def __init__(
        self,
        what: str,
        *,
        cause: str | None = None,
        next_step: str | None = None,
        details: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.cause = cause
        self.next_step = next_step
        self.details = details

    def __str__(self) -> str:
        cause = self.cause and f"  likely cause: {self.cause}"
        next_step = self.next_step and f"  next step: {self.next_step}"
        return "\n".join(filter(None, (self.what, cause, next_step, self.details)))


class ProfileError(HarnessError):
    """The profile or the command line is wrong (exit 2)."""

    exit_code = ExitCode.PROFILE


class PreflightError(HarnessError):
    """This machine cannot do what the profile asks (exit 3)."""

    exit_code = ExitCode.PREFLIGHT


class ServerError(HarnessError):
    """The model server did not start, died or failed (exit 4)."""

    exit_code = ExitCode.SERVER


class TrafficError(HarnessError):
    """The load generator failed (exit 5)."""

    exit_code = ExitCode.TRAFFIC


class TelemetryError(HarnessError):
    """Telemetry that the profile requires is not available (exit 6)."""

    exit_code = ExitCode.TELEMETRY


class ArtifactError(HarnessError):
    """The run directory cannot be written or read (exit 7)."""

    exit_code = ExitCode.ARTIFACTS


class NotComparableError(HarnessError):
    """The runs differ in an identity key (exit 8)."""

    exit_code = ExitCode.NOT_COMPARABLE


class InvalidRunError(HarnessError):
    """The run is invalid and cannot be used for this (exit 10)."""

    exit_code = ExitCode.INVALID_RUN


class InterruptedRunError(HarnessError):
    """A signal interrupted the run; its measurements are kept (exit 130)."""

    exit_code = ExitCode.INTERRUPTED
