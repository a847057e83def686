"""What later rooms need of a finished run: manifest.json and summary.json behind one typed view.

The whole tables are for `reduce`; comparing and scaling runs needs these two files alone, so that
it works on copies of them too.
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
from harness.artifacts.run_summary import Figure, Summary, read_summary
from harness.core.records import Basis, Boundary, Concern, Gpu, ModelFacts, ServerInfo, Status
from harness.profile.recorded import RecordedProfile

_LARGEST: Final = 1e100
"""Beyond any figure, and far from where squares and ratios of doubles end."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run by its two small files. Everything that was not recorded is None.

    Attributes:
        path: the run directory.
        manifest: manifest.json.
        summary: summary.json.
    """

    path: Path
    manifest: RecordedRun
    summary: Summary

    @property
    def run_id(self) -> str:
        """Id of the run; the folder's name where none was written."""
        return self.summary.run_id or self.manifest.run_id or self.path.name

    @property
    def name(self) -> str:
        """Name of the profile."""
        return self.summary.profile.name or self.profile.name or self.run_id

    @property
    def profile(self) -> RecordedProfile:
        """The resolved profile."""
        return self.manifest.profile

    @property
    def status(self) -> Status:
        """The verdict."""
        return self.summary.verdict.status

    @property
    def concerns(self) -> Sequence[Concern]:
        """The verdict's concerns."""
        return self.summary.verdict.concerns

    @property
    def purpose(self) -> str | None:
        """`smoke` or `measure`."""
        return self.summary.profile.purpose or self.profile.purpose

    @property
    def day(self) -> date | None:
        """The day (UTC) on which the run started; None where nothing records it."""
        if (started := self.manifest.started_at) is not None:
            return started.date()
        with suppress(ValueError):  # an id of another kind
            return datetime.strptime(self.run_id[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).date()
        return None

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that the deployment holds; empty on CPU."""
        return self.manifest.hardware.gpus

    @property
    def calibrated_boards(self) -> Mapping[str, tuple[float, float]]:
        """Boards whose power sensor was held against a meter: UUID -> gain and what is left of its
        error (95 %, relative).
        """
        board = self.summary.energy.boundaries.get(Boundary.GPU_BOARD)
        return {
            device.device_id: (float(device.gain), float(device.systematic_ratio))
            for device in (() if board is None else board.devices)
            if device.calibrated and device.systematic_ratio is not None
        }

    @property
    def server(self) -> ServerInfo | None:
        """What the manifest says of the server."""
        return self.manifest.server

    @property
    def settings(self) -> Mapping[str, str | int | float | bool | None]:
        """The server's resolved settings."""
        return self.server.settings if self.server is not None else {}

    @property
    def model(self) -> ModelFacts:
        """What is known of the model; its id is what the profile names where nothing else is."""
        return self.manifest.model or ModelFacts(self.profile.model.id or "")

    @property
    def replicas(self) -> int | None:
        """Independent servers behind the load."""
        return len(self.manifest.endpoints or ()) or None

    @property
    def output_length(self) -> str | None:
        """`forced` or `natural`."""
        return self.summary.labels.output_length or self.profile.traffic.output_length

    @property
    def slos(self) -> Mapping[str, float]:
        """The SLOs that were set."""
        return {k: v for k, v in asdict(self.summary.slos).items() if v is not None}

    @property
    def window_s(self) -> float | None:
        """Length of the measured window."""
        return self.summary.window.duration_s

    @property
    def metrics(self) -> Sequence[str]:
        """Keys of single figures, those at a second power boundary included."""
        return list(self.summary.metrics)

    @property
    def latencies(self) -> Sequence[str]:
        """Keys of distributions."""
        return list(self.summary.latency)

    def figure(self, key: str) -> Figure:
        """One single figure; an absent one has a note that says why."""
        return figure_of(self.summary, key)

    def statistic(self, key: str, statistic: str) -> Figure:
        """One statistic of a distribution; an absent one has a note that says why."""
        return statistic_of(self.summary, key, statistic)


def load_result(path: Path) -> RunResult:
    """Read manifest.json and summary.json of a run directory.

    Raises:
        ArtifactError: no run directory, no summary, no JSON, or a schema that this version does not
            know.
    """
    run_dir = RunDir(path)
    return RunResult(path, read_manifest(run_dir), read_summary(run_dir.summary, lenient=True))


def figure_of(summary: Summary, key: str) -> Figure:
    """One single figure of a summary, without numbers that no figure ever has."""
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
        note=found.note or ("it was not measured" if value is None else None),
        systematic_ratio=number(found.systematic_ratio),
    )


def _absent(note: str, unit: str = "") -> Figure:
    return Figure(None, unit, basis=Basis.ABSENT, note=note)


def statistic_of(summary: Summary, key: str, statistic: str) -> Figure:
    """One statistic of a distribution of a summary, in seconds."""
    found = summary.latency.get(key)
    if found is None:
        return _absent(f"the summary has no {key}")
    value = number(getattr(found, statistic, None))
    if value is not None:
        return Figure(value, "s", boundary="client")
    if not hasattr(found, statistic):
        note = f"the summary has no {statistic} of {key}"
    elif found.n == 0:
        note = f"no request came to have a {key}"
    elif found.censored:
        note = (
            f"{found.censored} of {found.n + found.censored} requests never got there, and"
            f" {statistic} reaches into their share"
        )
    else:
        note = f"too few values ({found.n})"
    return _absent(note, "s")


def number(value: object) -> float | None:
    """A JSON number as float; anything else as None, and so is one that no figure ever has (1e999
    is JSON too).
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not -_LARGEST < value < _LARGEST
    ):
        return None
    return float(value) if abs(value) > 1 / _LARGEST else 0.0
