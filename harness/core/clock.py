"""Clocks. Durations and timestamps are `CLOCK_MONOTONIC` nanoseconds, comparable between the
processes of one boot.

Wall-clock time enters a run once, as a `ClockAnchor` in the manifest. A lint rule bans
`time.time()` elsewhere.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

NS_PER_S = 1_000_000_000


def now_ns() -> int:
    """Monotonic nanoseconds since boot; not comparable across boots or hosts."""
    return time.monotonic_ns()


def seconds(duration_ns: float) -> float:
    """Nanoseconds to seconds."""
    return duration_ns / NS_PER_S


def boot_id() -> str | None:
    """The kernel's id of this boot, or None if it exposes none (not Linux)."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class ClockAnchor:
    """A pair of readings that converts this boot's monotonic time to Unix time.

    Attributes:
        uncertainty_ns: time between the two monotonic readings around the Unix one: a bound on the
            anchor's error.
    """

    monotonic_ns: int
    unix_ns: int
    uncertainty_ns: int
    boot_id: str | None

    def wall(self, monotonic_ns: int) -> datetime:
        """UTC of a monotonic reading of the same boot."""
        return datetime.fromtimestamp(
            (self.unix_ns + monotonic_ns - self.monotonic_ns) / NS_PER_S, tz=UTC
        )


def take_anchor() -> ClockAnchor:
    """Read both clocks; keep the tightest of five tries."""
    boot = boot_id()

    def once() -> ClockAnchor:
        before, unix, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        return ClockAnchor((before + after) // 2, unix, after - before, boot)

    return min((once() for _ in range(5)), key=lambda anchor: anchor.uncertainty_ns)


def wall_now() -> datetime:
    """Current UTC: for names and stamps, never for durations."""
    return datetime.fromtimestamp(time.time_ns() / NS_PER_S, tz=UTC)
