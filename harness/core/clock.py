"""The clocks. Durations and timestamps are `CLOCK_MONOTONIC` nanoseconds, comparable between the
processes of one boot.

Wall time enters a run once, as a `ClockAnchor` in the manifest. `time.time()` is banned everywhere
else by a lint rule.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

NS_PER_S = 1_000_000_000


def now_ns() -> int:
    """Monotonic nanoseconds; the origin is the host's boot, so values of different boots or hosts
    do not compare.
    """
    return time.monotonic_ns()


def seconds(duration_ns: float) -> float:
    """Nanoseconds as seconds."""
    return duration_ns / NS_PER_S


def boot_id() -> str | None:
    """The kernel's id of this boot, or None where the kernel does not tell (not Linux)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class ClockAnchor:
    """One pair of readings that turns this boot's monotonic time into wall time.

    Attributes:
        monotonic_ns: monotonic clock at the anchor.
        unix_ns: wall clock (Unix epoch) at the same moment.
        uncertainty_ns: time between the two monotonic readings around the wall reading; the anchor
            is right to within this.
        boot_id: the boot to which `monotonic_ns` belongs.
    """

    monotonic_ns: int
    unix_ns: int
    uncertainty_ns: int
    boot_id: str | None

    def wall(self, monotonic_ns: int) -> datetime:
        """The wall time (UTC) of a monotonic reading of the same boot."""
        return datetime.fromtimestamp(
            (self.unix_ns + monotonic_ns - self.monotonic_ns) / NS_PER_S, tz=UTC
        )


def take_anchor() -> ClockAnchor:
    """Read both clocks, keeping the tightest of five tries."""
    best: ClockAnchor | None = None
    boot = boot_id()
    for _ in range(5):
        before = time.monotonic_ns()
        unix = time.time_ns()
        after = time.monotonic_ns()
        if best is None or after - before < best.uncertainty_ns:
            best = ClockAnchor((before + after) // 2, unix, after - before, boot)
    assert best is not None
    return best


def wall_now() -> datetime:
    """The present wall time in UTC: for names and stamps, never for durations."""
    return datetime.fromtimestamp(time.time_ns() / NS_PER_S, tz=UTC)
