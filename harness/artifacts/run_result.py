"""A finished run for its readers: manifest.json and summary.json in one typed view.

Comparing and scaling runs needs only these two files, so it also works on copies of them.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

from harness.artifacts.layout import RunDir
from harness.artifacts.manifest import read_manifest
from harness.artifacts.recorded_run import RecordedRun
from harness.artifacts.run_summary import Figure, StageSummary, Summary, read_summary
from harness.core.records import Basis, Boundary, Concern, Gpu, ModelFacts, ServerInfo, Status
from harness.profile.recorded import RecordedProfile

_LARGEST: Final = 1e100
"""Larger than any value; squares and ratios of such numbers stay within doubles."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run by its two small files. What was not recorded is None."""

    path: Path
    manifest: RecordedRun
    summary: Summary

    @property
    def run_id(self) -> str:
        return self.summary.run_id or self.manifest.run_id or self.path.name

    @property
    def name(self) -> str:
        """Name of the profile."""
        return self.summary.profile.name or self.profile.name or self.run_id

    @property
    def profile(self) -> RecordedProfile:
        return self.manifest.profile

    @property
    def status(self) -> Status:
        return self.summary.verdict.status

    @property
    def concerns(self) -> Sequence[Concern]:
        return self.summary.verdict.concerns

    @property
    def purpose(self) -> str | None:
        """`smoke` or `measure`."""
        return self.summary.profile.purpose or self.profile.purpose

    @property
    def day(self) -> date | None:
        """Start date (UTC); None if unknown."""
        if (started := self.manifest.started_at) is not None:
            return started.date()
        with suppress(ValueError):  # another form of id
            return datetime.strptime(self.run_id[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).date()
        return None

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The deployment's GPUs; empty on CPU."""
        return self.manifest.hardware.gpus

    @property
    def calibrated_boards(self) -> Mapping[str, tuple[float, float]]:
        """GPUs with a calibrated power sensor: UUID -> gain and its error (95%, relative)."""
        board = self.summary.energy.boundaries.get(Boundary.GPU_BOARD)
        return {
            device.device_id: (float(device.gain), float(device.systematic_ratio))
            for device in (() if board is None else board.devices)
            if device.calibrated and device.systematic_ratio is not None
        }

    @property
    def server(self) -> ServerInfo | None:
        return self.manifest.server

    @property
    def settings(self) -> Mapping[str, str | int | float | bool | None]:
        """The server's resolved settings."""
        return self.server.settings if self.server is not None else {}

    @property
    def model(self) -> ModelFacts:
        """The model, at least the profile's id of it."""
        return self.manifest.model or ModelFacts(self.profile.model.id or "")

    @property
    def replicas(self) -> int | None:
        return len(self.manifest.endpoints or ()) or None

    @property
    def output_length(self) -> str | None:
        """`forced` or `natural`."""
        return self.summary.labels.output_length or self.profile.traffic.output_length

    @property
    def slos(self) -> Mapping[str, float]:
        return {k: v for k, v in asdict(self.summary.slos).items() if v is not None}

    @property
    def headline_stage(self) -> str | None:
        """Name of the stage that heads the summary; None if unknown."""
        if self.summary.headline is not None:
            return self.summary.headline.stage
        return next((one.window for one in self.summary.metrics.values() if one.window), None)

    @property
    def window_s(self) -> float | None:
        return self.summary.window.duration_s

    @property
    def metrics(self) -> Sequence[str]:
        """Keys of single values, including those at further power boundaries."""
        return list(self.summary.metrics)

    @property
    def latencies(self) -> Sequence[str]:
        """Keys of distributions."""
        return list(self.summary.latency)

    def figure(self, key: str) -> Figure:
        return figure_of(self.summary, key)

    def statistic(self, key: str, statistic: str) -> Figure:
        return statistic_of(self.summary, key, statistic)


def load_result(path: Path) -> RunResult:
    """Read manifest.json and summary.json of a run directory.

    Raises:
        ArtifactError: not a run directory, no summary, not JSON, or an unknown schema version.
    """
    run_dir = RunDir(path)
    return RunResult(path, read_manifest(run_dir), read_summary(run_dir.summary, lenient=True))


def figure_of(summary: Summary | StageSummary, key: str) -> Figure:
    """One metric of a summary or stage, without impossible numbers; an absent one has a note."""
    found = summary.metrics.get(key)
    if found is None:
        return _absent(f"the summary has no {key}")
    value = number(found.value)
    return replace(
        found,
        value=value,
        ci_low=number(found.ci_low),
        ci_high=number(found.ci_high),
        boundary=found.boundary or None,
        note=found.note or ("not measured" if value is None else None),
        systematic_ratio=number(found.systematic_ratio),
    )


def _absent(note: str, unit: str = "") -> Figure:
    return Figure(None, unit, basis=Basis.ABSENT, note=note)


def statistic_of(summary: Summary | StageSummary, key: str, statistic: str) -> Figure:
    """One statistic (s) of a distribution of a summary or stage; an absent one has a note."""
    found = summary.latency.get(key)
    if found is None:
        return _absent(f"the summary has no {key}")
    value = number(getattr(found, statistic, None))
    if value is not None:
        return Figure(value, "s", boundary="client")
    if not hasattr(found, statistic):
        note = f"the summary has no {statistic} of {key}"
    elif found.n == 0:
        note = f"no request has a {key}"
    elif found.censored:
        note = (
            f"{found.censored} of {found.n + found.censored} requests failed or did not finish, so"
            f" {statistic} is undefined"
        )
    else:
        note = f"too few values ({found.n})"
    return _absent(note, "s")


def number(value: object) -> float | None:
    """A JSON number as float; None for anything else and impossible numbers (1e999 is JSON too)."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not -_LARGEST < value < _LARGEST
    ):
        return None
    return float(value) if abs(value) > 1 / _LARGEST else 0.0
