"""The parts of a manifest's profile that readers use. Every field has a name of
`harness.profile.schema`; None is "not recorded", since old and damaged runs are read too.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class RecordedModel:
    """The requested model."""

    id: str | None = None
    load_format: str | None = None
    dtype: str | None = None
    quantization: str | None = None


@dataclass(frozen=True, slots=True)
class RecordedServer:
    """The requested server."""

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
        warmup_s: None: to be detected in the data; 0 if nothing is recorded.
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
    """Requests and their times. `workload` is complete, for comparisons."""

    api: str | None = None
    workload: Mapping[str, Any] = field(default_factory=dict)
    load: tuple[RecordedStage, ...] = ()
    output_length: str | None = None

    @property
    def workload_kind(self) -> str | None:
        """`kind` of the workload."""
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
    """A power source in the profile."""

    kind: str | None = None
    path: str | None = None
    device_label: str | None = None
    device_column: str | None = None


@dataclass(frozen=True, slots=True)
class RecordedTelemetry:
    """Telemetry settings."""

    scrape_interval_s: float | None = None
    prometheus: str | None = None
    power: tuple[RecordedPowerSource, ...] | Literal["auto", "none"] = ()


@dataclass(frozen=True, slots=True)
class RecordedFactor:
    """A stated number and its source."""

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
    """Price of a GPU-hour."""

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
