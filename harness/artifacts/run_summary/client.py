"""`client` of a summary: how far the load generator's clock can be trusted."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.artifacts.canary_truth import Spread
from harness.artifacts.typed_json import Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """The canaries of the window against their server's truth.

    Attributes:
        paired: answered requests whose truth was found.
        unpaired: answered requests whose truth is missing or says something else.
        events: tokens that were paired.
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
    """What the certificate says of one load."""

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
    """The certificate of the load generator on this host, as far as a reader of figures needs it.

    Attributes:
        bound_s: of every error's p99.
        sufficient: its workers carry the load within bounds.
        certified_events_per_s: number of workers -> highest load within bounds; None where not even
            the first level was.
        load: that it is about, `cores` who ran where, `host` what it holds for, as the certificate
            has them.
        at_load: the level of the load itself.
        highest: the highest level within bounds.
    """

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
    """The load that the load generator carried in the window; events are reads with content.

    Attributes:
        loop_lag_s_max: the latest that one of its timers fired; None where none was late enough to
            be recorded.
    """

    events_per_s: Number | None = None
    events_per_s_peak: Number | None = None
    body_bytes_mean: Number | None = None
    loop_lag_s_max: Number | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The load generator; each part is None where there is none."""

    canary: Canary | None = None
    calibration: Calibration | None = None
    load: CarriedLoad | None = None
