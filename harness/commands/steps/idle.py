"""Idle periods before the load, and the wait for idle servers after it."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from harness.commands.steps.run_record import RunRecord
from harness.core.clock import now_ns, seconds
from harness.core.units import human_duration
from harness.server.base import RunningServer
from harness.telemetry.driver import TelemetryRecorder

IDLE_SETTLE_S: Final = 1.0
"""Pause before idle is measured: GPUs keep high clocks for a moment after work."""

IDLE_WAIT_S: Final = 5.0
"""Longest wait after the load for servers without running requests, before the last scrape."""

IDLE_SCRAPE: Final = "idle"
"""Label of scrapes that look for running requests."""


def measure_idle(
    record: RunRecord, telemetry: TelemetryRecorder, when: str, server: RunningServer | None = None
) -> None:
    """Wait for the profile's `idle_s` and record the period; skipped if no power can be read.

    Args:
        record: of the run.
        telemetry: reads power meanwhile.
        when: `before_server` or `ready`.
        server: with its model loaded; None before it is started.
    """
    idle_s = record.prepared.profile.idle_s
    if idle_s <= 0 or not _reads_power(telemetry.power):
        return
    state = "before the server starts" if server is None else "with the model loaded"
    record.phase("idle", f"{human_duration(idle_s)} without load, {state}", event=f"idle_{when}")
    start_ns = now_ns() + round(IDLE_SETTLE_S * 1e9)
    end_ns = start_ns + round(idle_s * 1e9)
    while (left_s := seconds(end_ns - now_ns())) > 0:
        time.sleep(min(left_s, 0.25))
        if server is not None:
            server.check()
    record.events.append("idle", when=when, start_ns=start_ns, end_ns=end_ns)


def wait_until_idle(telemetry: TelemetryRecorder) -> None:
    """Wait until the servers report no running requests, so that the last scrape counts every
    token. Each look is a scrape of its own: the values of the last regular one may be older than
    the end of the load.
    """
    start_ns = now_ns()
    while seconds(now_ns() - start_ns) < IDLE_WAIT_S:
        if not telemetry.scrape_now(IDLE_SCRAPE, IDLE_WAIT_S):
            time.sleep(0.25)
        live = telemetry.latest()
        if live.t_ns is None:
            return
        if live.t_ns > start_ns and not live.running and not live.waiting:
            return
        time.sleep(0.1)


def _reads_power(power: Sequence[Mapping[str, Any]]) -> bool:
    return any(
        device.get("power") or device.get("energy")
        for source in power
        for device in source.get("devices", ())
    )
