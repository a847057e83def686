"""What later rooms need of a finished run: manifest.json and summary.json behind one typed view.

The whole tables are for `reduce`; comparing and scaling runs needs these two files alone, so that
it works on copies of them too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from harness.artifacts.layout import RunDir
from harness.artifacts.manifest import read_manifest
from harness.artifacts.run_record import RecordedConcern, RunRecord
from harness.artifacts.run_summary import Figure
from harness.artifacts.summaries import read_summary_json
from harness.artifacts.typed_json import read_leniently
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
    manifest: RunRecord
    summary: Mapping[str, Any]

    @property
    def run_id(self) -> str:
        """Id of the run; the folder's name where none was written."""
        return _text(self.summary.get("run_id")) or self.manifest.run_id or self.path.name

    @property
    def name(self) -> str:
        """Name of the profile."""
        return self._stated("name") or self.profile.name or self.run_id

    @property
    def profile(self) -> RecordedProfile:
        """The resolved profile."""
        return self.manifest.profile

    @property
    def state(self) -> str | None:
        """complete, interrupted or failed."""
        return _text(self.summary.get("state")) or self.manifest.state

    @property
    def status(self) -> Status:
        """The verdict; a missing one is invalid."""
        raw = _mapping(self.summary.get("verdict")).get("status")
        return Status(raw) if isinstance(raw, str) and raw in set(Status) else Status.INVALID

    @property
    def concerns(self) -> Sequence[Concern]:
        """The verdict's concerns."""
        raw = _mapping(self.summary.get("verdict")).get("concerns")
        listed = raw if isinstance(raw, list) else []
        found = (read_leniently(RecordedConcern, one).concern() for one in listed)
        return [concern for concern in found if concern is not None]

    @property
    def purpose(self) -> str | None:
        """`smoke` or `measure`."""
        return self._stated("purpose") or self.profile.purpose

    @property
    def schema_version(self) -> int | None:
        """Of the summary."""
        return _whole(self.summary.get("schema_version"))

    @property
    def metric_version(self) -> int | None:
        """Of the definitions that the figures were made by."""
        return _whole(self.summary.get("metric_version"))

    @property
    def workload_sha256(self) -> str | None:
        """Of what was to be sent."""
        return self._stated("workload_sha256") or self.manifest.workload_sha256

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that the deployment holds; empty on CPU."""
        return self.manifest.hardware.gpus

    @property
    def calibrated_boards(self) -> Mapping[str, tuple[float, float]]:
        """Boards whose power sensor was held against a meter: UUID -> gain and what is left of its
        error (95 %, relative).
        """
        energy = _mapping(self.summary.get("energy"))
        board = _mapping(_mapping(energy.get("boundaries")).get(Boundary.GPU_BOARD))
        devices = board.get("devices")
        found: dict[str, tuple[float, float]] = {}
        for device in devices if isinstance(devices, list) else ():
            fields = _mapping(device)
            gain, error = number(fields.get("gain")), number(fields.get("systematic_ratio"))
            if fields.get("calibrated") is True and gain is not None and error is not None:
                found[str(fields.get("device_id"))] = (gain, error)
        return found

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
        return _text(self._labels.get("output_length")) or self.profile.traffic.output_length

    @property
    def context_scale(self) -> float | None:
        """Factor on all lengths of the workload, as its figures are labelled."""
        return number(self._labels.get("context_scale"))

    @property
    def load_format(self) -> str | None:
        """`dummy` where the weights were."""
        return _text(self._labels.get("load_format"))

    @property
    def slos(self) -> Mapping[str, float]:
        """The SLOs that were set."""
        raw = self.summary.get("slos")
        if isinstance(raw, Mapping):
            found = {str(key): number(value) for key, value in raw.items()}
        else:
            found = asdict(self.profile.slos)
        return {key: value for key, value in found.items() if value is not None}

    @property
    def window(self) -> tuple[float, float] | None:
        """Start and end of the measured window, in seconds from the run's start."""
        raw = _mapping(self.summary.get("window"))
        start, end = number(raw.get("start_s")), number(raw.get("end_s"))
        return None if start is None or end is None else (start, end)

    @property
    def window_s(self) -> float | None:
        """Length of the measured window."""
        return number(_mapping(self.summary.get("window")).get("duration_s"))

    @property
    def metrics(self) -> Sequence[str]:
        """Keys of single figures, those at a second power boundary included."""
        return list(_mapping(self.summary.get("metrics")))

    @property
    def latencies(self) -> Sequence[str]:
        """Keys of distributions."""
        return list(_mapping(self.summary.get("latency")))

    def figure(self, key: str) -> Figure:
        """One single figure; an absent one has a note that says why."""
        return figure_of(self.summary, key)

    def stage_figures(self, key: str) -> Sequence[Figure]:
        """One single figure of each load stage; of the whole run where no stage is recorded."""
        raw = self.summary.get("stages")
        stages = [_mapping(one) for one in raw] if isinstance(raw, list) else []
        return [figure_of(one, key) for one in stages or [self.summary]]

    def statistic(self, key: str, statistic: str) -> Figure:
        """One statistic of a distribution; an absent one has a note that says why."""
        return statistic_of(self.summary, key, statistic)

    @property
    def _labels(self) -> Mapping[str, Any]:
        return _mapping(self.summary.get("labels"))

    def _stated(self, key: str) -> str | None:
        return _text(_mapping(self.summary.get("profile")).get(key))


def load_result(path: Path) -> RunResult:
    """Read manifest.json and summary.json of a run directory.

    Raises:
        ArtifactError: no run directory, no summary, no JSON, or a schema that this version does not
            know.
    """
    run_dir = RunDir(path)
    return RunResult(path, read_manifest(run_dir), read_summary_json(run_dir.summary))


def figure_of(summary: Mapping[str, Any], key: str) -> Figure:
    """One single figure of a summary."""
    raw = _mapping(summary.get("metrics")).get(key)
    if not isinstance(raw, Mapping):
        return _absent(f"the summary has no {key}")
    value, basis = number(raw.get("value")), raw.get("basis")
    note = _text(raw.get("note"))
    return Figure(
        value=value,
        unit=_text(raw.get("unit")) or "",
        ci_low=number(raw.get("ci_low")),
        ci_high=number(raw.get("ci_high")),
        basis=next((one for one in Basis if one == basis), Basis.ABSENT),
        boundary=_text(raw.get("boundary")),
        note=note or ("it was not measured" if value is None else None),
        systematic_ratio=number(raw.get("systematic_ratio")),
    )


def _absent(note: str, unit: str = "") -> Figure:
    return Figure(None, unit, basis=Basis.ABSENT, note=note)


def statistic_of(summary: Mapping[str, Any], key: str, statistic: str) -> Figure:
    """One statistic of a distribution of a summary, in seconds."""
    raw = _mapping(summary.get("latency")).get(key)
    if not isinstance(raw, Mapping):
        return _absent(f"the summary has no {key}")
    value = number(raw.get(statistic))
    if value is not None:
        return Figure(value, "s", boundary="client")
    n, censored = number(raw.get("n")) or 0, number(raw.get("censored")) or 0
    if statistic not in raw:
        note = f"the summary has no {statistic} of {key}"
    elif n == 0:
        note = f"no request came to have a {key}"
    elif censored:
        note = (
            f"{censored:.0f} of {n + censored:.0f} requests never got there, and {statistic}"
            " reaches into their share"
        )
    else:
        note = f"too few values ({n:.0f})"
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


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None
