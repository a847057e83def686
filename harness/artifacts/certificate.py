"""calibration.json: the client-fidelity certificate, which says what a host's load generator can do
and how wrong its clock is meanwhile.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from harness.artifacts.canary_truth import Spread
from harness.artifacts.recorded_run import Cores
from harness.artifacts.typed_json import Number


@dataclass(frozen=True, slots=True)
class HostFingerprint:
    """What a certificate holds for: another processor, kernel or version needs another one."""

    cpu: str | None
    usable_cores: int
    quota_cores: Number | None
    kernel: str | None
    harness: str
    python: str
    packages: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CertifiedLoad:
    """What a certificate is about: a `harness.traffic.fidelity.Load` and its events per second."""

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
    """One load that was tried.

    Attributes:
        workers: Locust workers.
        factor: of the load's streams or rate.
        streams: live streams (closed loop), else None.
        requests_per_s: answers per second in the window.
        events_per_s: tokens per second that the server wrote in the window.
        requests: answered requests that were intended in the window.
        failed: others.
        ttft_error: first token's time in the record minus the server's.
        gap_error: size of the difference between recorded and true gaps.
        sent_error: recorded sending behind the server's receipt.
        send_lag: sending behind the intended time.
        client_us_per_event: CPU time of all Locust processes per token, µs.
        server_us_per_event: of the paced server, µs.
        worker_cpu: largest share of a core that one worker used.
        server_cpu: share of a core that the paced server used.
        within: all errors' p99 within the bound, nothing failed, CPU within its limit.
        why_not: the first reason against, in words.
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
    """What this host's load generator can do.

    Attributes:
        version: of these keys and of the procedure.
        made_at: wall time (ISO 8601, UTC).
        quick: fewer and shorter levels.
        host: processor, cores, kernel and versions: a certificate holds for these.
        load: what it is about; the heaviest load of its class.
        bound_s: of every error's p99.
        cores: who ran where.
        levels: all that was tried, in order.
        certified_events_per_s: number of workers -> highest load within bounds; None where not even
            the first level was.
        workers: the fewest that carry the load; where none does, those that carry the most.
        sufficient: these workers carry the load within bounds.
        seconds: how long it took.
        at_load: the level of the load itself, with the chosen workers.
        highest: the highest level within bounds, with the chosen workers.
        made_unix_s: when it was put into the cache; None where it was not.
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
        """What it says, for people."""
        highest = self.highest
        if not self.sufficient or highest is None:
            level = next(
                (
                    level
                    for level in self.levels
                    if level.workers == self.workers and not level.within
                ),
                None,
            )
            why = f": {level.why_not}" if level is not None else ""
            load = f"{self.load.events_per_s:,.0f} events/s"
            return (
                f"not certified: {load} are not within {self.bound_s * 1e3:g} ms with"
                f" {self.workers} worker(s){why}"
            )
        return (
            f"certified up to {highest.events_per_s:,.0f} events/s within {self.bound_s * 1e3:g} ms"
            f" (p99 of each error) with {self.workers} worker(s), {highest.client_us_per_event:.1f}"
            " µs of CPU an event"
        )
