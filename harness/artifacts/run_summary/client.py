"""`client` of a summary: the load generator's timing error and capacity."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.artifacts.canary_truth import Spread
from harness.artifacts.typed_json import Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """Canaries of the window, compared with their reference server.

    Attributes:
        paired: completed requests with a matching truth; `unpaired`: those without.
        events: paired tokens.
    """

    requests: int
    by_outcome: Mapping[str, int] = field(default_factory=dict)
    paired: int = 0
    unpaired: int = 0
    events: int = 0
    ttft_error: Spread
    gap_error: Spread
    sent_error: Spread
    send_lag: Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One load in the certificate."""

    events_per_s: Number | None = None
    requests_per_s: Number | None = None
    ttft_error: Spread | None = None
    gap_error: Spread | None = None
    sent_error: Spread | None = None
    send_lag: Spread | None = None
    client_us_per_event: Number | None = None
    worker_cpu: Number | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Main content of `harness.artifacts.certificate.Certificate`."""

    made_at: str | None = None
    quick: bool | None = None
    bound_s: Number | None = None
    workers: int | None = None
    sufficient: bool | None = None
    certified_events_per_s: Mapping[str, Number | None] | None = None
    load: Mapping[str, object] | None = None
    cores: Mapping[str, object] | None = None
    host: Mapping[str, object] | None = None
    at_load: Level | None = None
    highest: Level | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedLoad:
    """Load in the window; events are reads with content.

    Attributes:
        loop_lag_s_max: maximum recorded event-loop lag.
    """

    events_per_s: Number | None = None
    events_per_s_peak: Number | None = None
    body_bytes_mean: Number | None = None
    loop_lag_s_max: Number | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The load generator."""

    canary: Canary | None = None
    calibration: Calibration | None = None
    load: CarriedLoad | None = None
