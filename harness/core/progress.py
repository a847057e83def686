"""Progress of a run, for the live view and the exporter. None is unknown."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrafficProgress:
    """The load generator, all workers together, every half second.

    Attributes:
        t_ns: when worker 0 reported; its report closes a round.
        in_flight: requests sent and not finished.
        sent: requests sent and ended since the start of the run.
        ok: completed requests.
        failed: requests that ended otherwise, except those that the plan canceled.
        dropped: requests never sent.
        judged: ended requests of this stage, without those that the plan canceled; so is
            `window_judged`, of those scheduled in the window.
        missed: of `judged`, those that missed each of the profile's conditions (its SLOs, or those
            of a search's tiers); `window_missed` is of `window_judged`.
        ttft_p50_s: of this stage so far, from the scheduled send time; so is `ttft_p99_s`.
        loop_lag_s: largest event-loop lag since the last report.
        cpu: largest share of a core used by a worker since the last report.
    """

    t_ns: int | None = None
    stage: str | None = None
    in_flight: int | None = None
    live_sessions: int | None = None
    sent: int | None = None
    ok: int | None = None
    failed: int | None = None
    dropped: int | None = None
    judged: int | None = None
    missed: tuple[int, ...] = ()
    window_judged: int | None = None
    window_missed: tuple[int, ...] = ()
    ttft_p50_s: float | None = None
    ttft_p99_s: float | None = None
    loop_lag_s: float | None = None
    cpu: float | None = None


@dataclass(frozen=True, slots=True)
class TelemetryProgress:
    """Servers and GPUs, once per second.

    Attributes:
        t_ns: when it was gathered; with Prometheus, the oldest of the targets' last scrapes.
        running: requests in the servers' batches.
        waiting: requests queued in the servers.
        kv_usage: KV cache usage of the fullest replica, 0 to 1.
        generated_tokens: cumulative, all servers.
        power_w: all GPUs.
        scrapes: so far, including `scrape_failures`.
    """

    t_ns: int | None = None
    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    generated_tokens: float | None = None
    power_w: float | None = None
    scrapes: int | None = None
    scrape_failures: int | None = None
