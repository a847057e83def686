"""What later rooms need of a finished run: manifest.json and summary.json behind one typed view.

The whole tables are for `reduce`; comparing and scaling runs needs these two files alone, so that
it works on copies of them too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.artifacts.layout import RunDir
from harness.artifacts.manifest import read_manifest
from harness.artifacts.run_summary import Labels, Summary, read_summary
from harness.core.records import Basis, Boundary, Concern, Gpu, Status

_LARGEST: Final = 1e100
"""Beyond any figure, and far from where squares and ratios of doubles end."""


@dataclass(frozen=True, slots=True)
class Value:
    """One figure of a summary as it was written; `value` is None when it is absent and `note` then
    says why.
    """

    value: float | None
    unit: str = ""
    ci_low: float | None = None
    ci_high: float | None = None
    basis: Basis = Basis.ABSENT
    boundary: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run by its two small files. Everything that was not recorded is None.

    Attributes:
        path: the run directory.
        manifest: manifest.json.
        summary: summary.json.
    """

    path: Path
    manifest: Mapping[str, Any]
    summary: Summary

    @property
    def run_id(self) -> str:
        """Id of the run; the folder's name where none was written."""
        return self.summary.run_id or _text(self.manifest.get("run_id")) or self.path.name

    @property
    def name(self) -> str:
        """Name of the profile."""
        return self.summary.profile.name or _text(self.profile.get("name")) or self.run_id

    @property
    def profile(self) -> Mapping[str, Any]:
        """The resolved profile."""
        return _mapping(self.manifest.get("profile"))

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
        return self.summary.profile.purpose or _text(self.profile.get("purpose"))

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that the deployment holds; empty on CPU."""
        raw = _mapping(self.manifest.get("hardware")).get("gpus")
        return (
            tuple(_gpu(item) for item in raw if isinstance(item, Mapping))
            if isinstance(raw, list)
            else ()
        )

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
    def server(self) -> Mapping[str, Any]:
        """What the manifest says of the server: kind, version, software, settings."""
        return _mapping(self.manifest.get("server"))

    @property
    def settings(self) -> Mapping[str, Any]:
        """The server's resolved settings."""
        return _mapping(self.server.get("settings"))

    @property
    def model(self) -> Mapping[str, Any]:
        """What is known of the model: model_id, fingerprint, parameters, dtype."""
        return _mapping(self.manifest.get("model"))

    @property
    def replicas(self) -> int | None:
        """Independent servers behind the load."""
        raw = self.manifest.get("endpoints")
        return len(raw) if isinstance(raw, list) and raw else None

    @property
    def labels(self) -> Labels:
        """Words that belong next to the figures."""
        return self.summary.labels

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

    def figure(self, key: str) -> Value:
        """One single figure; an absent one has a note that says why."""
        return figure_of(self.summary, key)

    def statistic(self, key: str, statistic: str) -> Value:
        """One statistic of a distribution; an absent one has a note that says why."""
        return statistic_of(self.summary, key, statistic)


def load_result(path: Path) -> RunResult:
    """Read manifest.json and summary.json of a run directory.

    Raises:
        ArtifactError: no run directory, no summary, no JSON, or a schema that this version does not
            know.
    """
    run_dir = RunDir(path)
    manifest = read_manifest(run_dir)
    return RunResult(path, manifest, read_summary(run_dir.summary))


def figure_of(summary: Summary, key: str) -> Value:
    """One single figure of a summary."""
    figure = summary.metrics.get(key)
    if figure is None:
        return Value(None, note=f"the summary has no {key}")
    value = number(figure.value)
    return Value(
        value=value,
        unit=figure.unit,
        ci_low=number(figure.ci_low),
        ci_high=number(figure.ci_high),
        basis=figure.basis,
        boundary=figure.boundary or None,
        note=figure.note or ("it was not measured" if value is None else None),
    )


def statistic_of(summary: Summary, key: str, statistic: str) -> Value:
    """One statistic of a distribution of a summary, in seconds."""
    found = summary.latency.get(key)
    if found is None:
        return Value(None, note=f"the summary has no {key}")
    value = number(getattr(found, statistic, None))
    if value is not None:
        return Value(value, unit="s", basis=Basis.MEASURED, boundary="client")
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
    return Value(None, unit="s", note=note)


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


def _gpu(raw: Mapping[str, Any]) -> Gpu:
    def count(key: str) -> int | None:
        found = number(raw.get(key))
        return None if found is None else int(found)

    return Gpu(
        uuid=_text(raw.get("uuid")) or "",
        index=count("index") or 0,
        name=_text(raw.get("name")),
        memory_bytes=count("memory_bytes"),
        power_limit_w=number(raw.get("power_limit_w")),
        power_limit_default_w=number(raw.get("power_limit_default_w")),
        sm_clock_max_mhz=count("sm_clock_max_mhz"),
        driver_version=_text(raw.get("driver_version")),
    )
