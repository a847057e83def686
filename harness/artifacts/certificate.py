"""calibration.json: the client-fidelity certificate, with the capacity and timing error of a host's
load generator.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from harness.artifacts.canary_truth import Spread
from harness.artifacts.recorded_run import Cores
from harness.artifacts.typed_json import Number


@dataclass(frozen=True, slots=True)
class HostFingerprint:
    """Scope of a certificate: another processor, kernel or version needs a new one."""

    cpu: str | None
    usable_cores: int
    quota_cores: Number | None
    kernel: str | None
    harness: str
    python: str
    packages: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CertifiedLoad:
    """A `harness.traffic.fidelity.Load` and its events per second."""

    api: str
    process: str
    streams: int
    requests_per_s: Number | None
    gap_ms: Number
    output_tok: int
    body_bytes: int
    clock: str
    shape: Number | None
    events_per_s: Number


@dataclass(frozen=True, slots=True)
class Level:
    """One load that was tried. Errors are those of `canary_truth.Errors`.

    Attributes:
        workers: Locust workers.
        factor: multiple of the load's streams or rate.
        streams: live streams (closed loop), else None.
        requests_per_s: completed in the window.
        events_per_s: tokens per second that the server wrote in the window.
        requests: completed ones that were scheduled in the window; `failed`: the others.
        client_us_per_event: CPU time of all Locust processes per token, µs.
        server_us_per_event: of the reference server, µs.
        worker_cpu: largest share of a core used by one worker.
        server_cpu: share of a core used by the reference server.
        within: p99 of all errors within the bound, nothing failed, CPU within its limit.
        why_not: the first reason against it.
    """

    workers: int
    factor: Number
    streams: int | None
    requests_per_s: Number
    events_per_s: Number
    requests: int
    failed: int
    ttft_error: Spread
    gap_error: Spread
    sent_error: Spread
    send_lag: Spread
    client_us_per_event: Number | None
    server_us_per_event: Number | None
    worker_cpu: Number | None
    server_cpu: Number | None
    within: bool
    why_not: str | None


@dataclass(frozen=True, slots=True)
class Certificate:
    """Capacity and timing error of this host's load generator.

    Attributes:
        version: of these keys and of the procedure.
        made_at: ISO 8601, UTC.
        quick: fewer and shorter levels.
        load: the heaviest load of its class.
        bound_s: of every error's p99.
        levels: all that were tried, in order.
        certified_events_per_s: number of workers -> highest load within bounds; None if even the
            first level was not.
        workers: fewest that carry the load, else those that carry the most.
        sufficient: these workers carry the load within bounds.
        seconds: duration of the calibration.
        at_load: the level of the load itself, with these workers.
        highest: the highest level within bounds, with these workers.
        made_unix_s: when it was cached, if it was.
    """

    version: int
    made_at: str
    quick: bool
    host: HostFingerprint
    load: CertifiedLoad
    bound_s: Number
    cores: Cores
    levels: tuple[Level, ...]
    certified_events_per_s: Mapping[str, Number | None]
    workers: int
    sufficient: bool
    seconds: Number
    at_load: Level | None
    highest: Level | None
    made_unix_s: int | None = None

    def sentence(self) -> str:
        highest, bound = self.highest, f"{self.bound_s * 1e3:g} ms"
        if not self.sufficient or highest is None:
            failed = (one for one in self.levels if one.workers == self.workers and not one.within)
            why = next((f": {level.why_not}" for level in failed), "")
            return (
                f"not certified: {self.load.events_per_s:,.0f} events/s exceed an error of {bound}"
                f" with {self.workers} worker(s){why}"
            )
        return (
            f"certified up to {highest.events_per_s:,.0f} events/s within {bound} (p99 of each"
            f" error) with {self.workers} worker(s), {highest.client_us_per_event:.1f} µs of CPU"
            " per event"
        )
