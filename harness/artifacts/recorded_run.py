"""Types of manifest.json. Every field has a default, since manifests of any version and with any
damage are read; None is not recorded.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Final

from harness.artifacts.run_summary.energy import IdleStretch
from harness.core.clock import ClockAnchor
from harness.core.records import Concern, Gpu, ModelFacts, ServerInfo, Severity
from harness.profile.recorded import RecordedProfile


@dataclass(frozen=True, slots=True)
class HarnessVersion:
    """The harness that made a run."""

    version: str | None = None
    commit: str | None = None
    dirty: bool | None = None


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """The plan and its totals, which are None if the load is bounded by time only.

    Attributes:
        choices: how model and API were chosen, if the profile left them open.
    """

    context_scale: float | None = None
    context_scale_reason: str | None = None
    context_limit_tok: int | None = None
    tok_per_word: float | None = None
    tok_per_word_source: str | None = None
    output_length: str | None = None
    assistant: str | None = None
    choices: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    planned_sessions: int | None = None
    planned_requests: int | None = None
    priming_requests: int | None = None
    clipped_requests: int | None = None
    clipped_tok: int | None = None


@dataclass(frozen=True, slots=True)
class Cpu:
    """The host's processors."""

    model: str | None = None
    architecture: str | None = None
    logical_cores: int | None = None
    physical_cores: int | None = None
    usable_cores: int | None = None
    quota_cores: float | None = None
    numa_nodes: int | None = None


@dataclass(frozen=True, slots=True)
class Hardware:
    """The host, and the deployment's GPUs on it."""

    gpus: tuple[Gpu, ...] = ()
    cpu: Cpu | None = None
    ram_bytes: int | None = None
    kernel: str | None = None
    os: str | None = None
    hostname_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Software:
    """Python and the packages that the harness runs on."""

    python: str | None = None
    packages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Replica:
    """One server behind the load (`harness.core.records.Endpoint`)."""

    name: str | None = None
    base_url: str | None = None
    model: str | None = None
    metrics_url: str | None = None
    gpu_uuids: tuple[str, ...] = ()
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class HostAnchor:
    """A reading of a host's two clocks at once (`harness.core.clock.ClockAnchor`)."""

    host: str | None = None
    monotonic_ns: int | None = None
    unix_ns: int | None = None
    uncertainty_ns: int | None = None
    boot_id: str | None = None

    def wall(self, monotonic_ns: int | None) -> datetime | None:
        """UTC of a monotonic reading; None if unknown."""
        if self.monotonic_ns is None or self.unix_ns is None or monotonic_ns is None:
            return None
        with suppress(ValueError, OverflowError, OSError):  # no calendar has such a year
            return ClockAnchor(self.monotonic_ns, self.unix_ns, 0, None).wall(monotonic_ns)
        return None


@dataclass(frozen=True, slots=True)
class Cores:
    """Cores of the load generator and of the rest (`harness.hardware.cores.Partition`)."""

    traffic: tuple[int, ...] = ()
    rest: tuple[int, ...] = ()
    shared: bool | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Recorder:
    """The telemetry recorder.

    Attributes:
        power: what each power source can read.
        sampling: frequency and delays of each sampler loop; None before its end.
    """

    nice: int | None = None
    power: tuple[Mapping[str, Any], ...] = ()
    sampling: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class RepeatLabel:
    """Which repeat of which series a run is."""

    series: str | None = None
    variant: str | None = None
    repeat: int | None = None
    of: int | None = None


@dataclass(frozen=True, slots=True)
class SweepLabel:
    """Which point of which sweep or search a run is (`harness.artifacts.sweep.index.Point`)."""

    id: str | None = None
    point: int | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


def _from(name: str) -> str:
    return "from" if name == "from_run" else name


@dataclass(frozen=True, slots=True)
class KeptIdle:
    """Idle power measured in an earlier run of the same sweep, when the server was started.

    Attributes:
        from_run: name of that run; `from` in JSON.
    """

    __pydantic_config__: ClassVar = {"alias_generator": _from}

    from_run: str | None = None
    before_server: IdleStretch | None = None
    ready: IdleStretch | None = None


@dataclass(frozen=True, slots=True)
class RecordedConcern:
    """A concern found during the run."""

    code: str | None = None
    severity: str | None = None
    message: str | None = None
    value: float | None = None
    limit: float | None = None

    def concern(self) -> Concern | None:
        """As a concern; None without a code. An unknown severity counts as degraded."""
        if not self.code:
            return None
        known = (one for one in Severity if one == self.severity)
        severity = next(known, Severity.DEGRADED)
        return Concern(self.code, severity, self.message or "", self.value, self.limit)


@dataclass(frozen=True, slots=True)
class RecordedError:
    """What ended a run."""

    what: str | None = None
    cause: str | None = None
    next_step: str | None = None


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """manifest.json.

    Attributes:
        endpoints: empty before the server was ready.
        calibration: name of the certificate's file.
        canary: whether canaries were sent.
        idle: of an earlier run; None if the run measured its own.
    """

    schema_version: int | None = None
    state: str | None = None
    concerns: tuple[RecordedConcern, ...] = ()
    error: RecordedError | None = None
    run_id: str | None = None
    harness: HarnessVersion | None = None
    profile: RecordedProfile = field(default_factory=RecordedProfile)
    overrides: tuple[str, ...] = ()
    workload_sha256: str | None = None
    plan_sha256: str | None = None
    seed: int | None = None
    plan: PlanRecord = PlanRecord()
    model: ModelFacts | None = None
    hardware: Hardware = Hardware()
    software: Software | None = None
    server: ServerInfo | None = None
    endpoints: tuple[Replica, ...] | None = None
    prometheus: Mapping[str, Any] | None = None
    clock_anchors: tuple[HostAnchor, ...] = ()
    started_ns: int | None = None
    ended_ns: int | None = None
    workers: int | None = None
    canary: bool | None = None
    calibration: str | None = None
    cores: Cores | None = None
    not_implemented: tuple[str, ...] | None = None
    telemetry: Recorder | None = None
    repeat: RepeatLabel = RepeatLabel()
    sweep: SweepLabel = SweepLabel()
    idle: KeptIdle | None = None

    @property
    def started_at(self) -> datetime | None:
        """UTC of the run's start; None if unknown."""
        times = (anchor.wall(self.started_ns) for anchor in self.clock_anchors)
        return next((time for time in times if time is not None), None)

    @property
    def variant(self) -> str | None:
        return self.repeat.variant


SAVED: Final = "saved"
"""Key of the manifest in copies of runs."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A copy of a run.

    Attributes:
        source: name of the original folder.
        reducible: whether it has everything that the reduction reads.
        left_out: what is missing, with the reason, except journals, logs and reports.
    """

    source: str
    reducible: bool
    left_out: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"from": self.source, "reducible": self.reducible, "left_out": list(self.left_out)}


def saved_of(manifest: Mapping[str, Any]) -> Saved | None:
    """The manifest's record of a copy; None in an original run."""
    raw = manifest.get(SAVED)
    if not isinstance(raw, Mapping):
        return None
    left_out = raw.get("left_out")
    listed = tuple(str(one) for one in left_out) if isinstance(left_out, list) else ()
    return Saved(str(raw.get("from") or "unknown"), raw.get("reducible") is not False, listed)
