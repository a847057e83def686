"""The profile as a manifest keeps it: what readers use of it. Every field is one of
`harness.profile.schema`'s by name; None is not recorded, since runs of any age and with any damage
are read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class RecordedModel:
    """What was asked to be served."""

    id: str | None = None
    load_format: str | None = None
    dtype: str | None = None
    quantization: str | None = None


@dataclass(frozen=True, slots=True)
class RecordedServer:
    """What was asked to serve it."""

    kind: str | None = None
    gpu_count: int | None = None


@dataclass(frozen=True, slots=True)
class RecordedStep:
    """One step of a `step` stage."""

    rate_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class RecordedStage:
    """A load stage of any kind.

    Attributes:
        warmup_s: None is to be found in the data; 0 where nothing is recorded.
    """

    kind: str | None = None
    name: str | None = None
    warmup_s: float | None = 0.0
    sessions: int | None = None
    concurrency: int | None = None
    over: str | None = None
    process: str | None = None
    rate_per_s: float | None = None
    from_per_s: float | None = None
    to_per_s: float | None = None
    steps: tuple[RecordedStep, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordedTraffic:
    """What was to be sent, and when.

    Attributes:
        workload: whole, to be compared.
    """

    api: str | None = None
    workload: Mapping[str, Any] = field(default_factory=dict)
    load: tuple[RecordedStage, ...] = ()
    output_length: str | None = None

    @property
    def workload_kind(self) -> str | None:
        """Kind of the workload."""
        kind = self.workload.get("kind")
        return kind if isinstance(kind, str) and kind else None


@dataclass(frozen=True, slots=True)
class RecordedSlos:
    """Service level objectives of one request."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None


@dataclass(frozen=True, slots=True)
class RecordedPowerSource:
    """A source of power readings that the profile names."""

    kind: str | None = None
    path: str | None = None
    device_label: str | None = None
    device_column: str | None = None


@dataclass(frozen=True, slots=True)
class RecordedTelemetry:
    """What was watched.

    Attributes:
        power: sources that the profile names; none for `auto` and `none`.
    """

    scrape_interval_s: float | None = None
    prometheus: str | None = None
    power: tuple[RecordedPowerSource, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordedFactor:
    """A number that was stated, and who says so."""

    value: float | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class RecordedEnergy:
    """Energy accounting."""

    attribute: bool = False
    host_w_per_gpu: RecordedFactor = RecordedFactor()
    network_storage_ratio: RecordedFactor = RecordedFactor()
    pue: RecordedFactor = RecordedFactor()
    grid_kgco2_per_kwh: float | None = None
    grid_source: str | None = None


@dataclass(frozen=True, slots=True)
class RecordedPrice:
    """What a GPU-hour costs."""

    usd_per_gpu_h: float | None = None
    source: str | None = None
    date: str | None = None


@dataclass(frozen=True, slots=True)
class RecordedProfile:
    """The resolved profile of a run."""

    name: str | None = None
    purpose: str | None = None
    seed: int | None = None
    model: RecordedModel = RecordedModel()
    server: RecordedServer = RecordedServer()
    traffic: RecordedTraffic = RecordedTraffic()
    slos: RecordedSlos = RecordedSlos()
    headline: str | None = None
    telemetry: RecordedTelemetry = RecordedTelemetry()
    energy: RecordedEnergy = RecordedEnergy()
    price: RecordedPrice = RecordedPrice()
