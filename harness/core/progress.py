"""How a run is going: what traffic and telemetry report while load is under way, for the live view
and the exporter. None is unknown; before the first report all of it is.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrafficProgress:
    """The load generator, all workers together, every half second.

    Attributes:
        t_ns: when worker 0 reported; its report closes a round.
        stage: name of the load stage.
        in_flight: requests sent and not finished.
        live_sessions: conversations under way.
        sent: requests that were sent and have ended since the start of the run.
        ok: requests answered in full.
        failed: requests that ended otherwise, but for what the plan itself cancelled.
        dropped: requests never sent.
        ttft_p50_s: of this stage so far, from the intended time.
        ttft_p99_s: likewise.
        loop_lag_s: largest lateness of an event loop's timer since the last report.
        cpu: largest share of a core that a worker used since the last report.
    """

    t_ns: int | None = None
    stage: str | None = None
    in_flight: int | None = None
    live_sessions: int | None = None
    sent: int | None = None
    ok: int | None = None
    failed: int | None = None
    dropped: int | None = None
    ttft_p50_s: float | None = None
    ttft_p99_s: float | None = None
    loop_lag_s: float | None = None
    cpu: float | None = None


@dataclass(frozen=True, slots=True)
class TelemetryProgress:
    """Servers and boards, once a second.

    Attributes:
        t_ns: when it was gathered; of a Prometheus: the oldest of the targets' last scrapes.
        running: requests in the servers' batches.
        waiting: requests queued in the servers.
        kv_usage: share of the KV cache in use, 0 to 1, of the fullest replica.
        generated_tokens: cumulative, all servers.
        power_w: all boards.
        scrapes: scrapes so far.
        scrape_failures: those of them that failed.
    """

    t_ns: int | None = None
    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    generated_tokens: float | None = None
    power_w: float | None = None
    scrapes: int | None = None
    scrape_failures: int | None = None
