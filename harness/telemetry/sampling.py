"""The recorder's threads that sample power and GPU state: one loop per source and kind of reading.

Power is sampled once per slot of its interval, at a random time within the slot. On a fixed grid, a
load with the same period would always be sampled at the same phase. With uniform times, the mean is
unbiased for every load. (Golden-ratio phases resonate with some periods: 5% error after 30 s for
one of 131 ms.)

Counters are read on a fixed grid. They update on a grid of their own (about every 100 ms on NVIDIA
GPUs), and the same lag at both ends of a window cancels.
"""

import os
import threading
from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Final

from harness.core.clock import NS_PER_S, now_ns
from harness.core.records import Boundary
from harness.telemetry.sources.base import (
    PowerProbe,
    PowerReading,
    PowerSource,
    What,
    probed,
    sampled,
)
from harness.telemetry.sources.gpu_state import BoardReader

STALE_POWER_S: Final = 3.0
"""An older reading is not shown as the present one."""
BOARDS_INTERVAL_S: Final = 1.0
"""Between two readings of the GPUs' state."""

_64_BITS: Final = (1 << 64) - 1
_JOIN_S: Final = 2.0
_LOCAL: Final = ("nvml", "rapl")  # driver and kernel calls, not a network

Append = Callable[[Sequence[Mapping[str, Any]]], None]


@dataclass(slots=True)
class Loop:
    """Calls `step` once per slot of an interval until `stop`; missed slots are skipped.

    Attributes:
        wake: set to call `step` out of turn.
        spread: at a random time within each slot, instead of its start.
        urgent: request real-time priority for this thread (round-robin, the lowest), if permitted.
            Its steps take microseconds to a few milliseconds and must not wait behind a load
            generator that saturates the cores.
        realtime: whether the kernel granted that.
        on_error: called with each different failure of `step`, which is then called again.
        late_s: delay of each call.
    """

    name: str
    step: Callable[[], None]
    interval_s: float
    stop: threading.Event
    wake: threading.Event | None = None
    spread: bool = False
    urgent: bool = False
    realtime: bool = False
    on_error: Callable[[str], None] | None = None
    late_s: "array[float]" = field(default_factory=lambda: array("f"))
    _failures: set[str] = field(default_factory=set)

    def run(self) -> None:
        if self.urgent:
            with suppress(OSError):  # not permitted: the process's priority
                # Child processes get normal priority again.
                os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
                self.realtime = True
        start_ns, slot = now_ns(), 0
        due_ns = start_ns
        while not self.stop.is_set():
            if self.wake is not None:
                self.wake.clear()
            now = now_ns()
            if now >= due_ns:
                self.late_s.append((now - due_ns) / NS_PER_S)
            self._do_step()
            now = now_ns()
            if now >= due_ns:
                slot = max(slot + 1, int((now - start_ns) / NS_PER_S / self.interval_s))
                if self._moment_ns(start_ns, slot) < now:
                    slot += 1
                due_ns = self._moment_ns(start_ns, slot)
            (self.wake or self.stop).wait(max(0.0, (due_ns - now_ns()) / NS_PER_S))

    def _do_step(self) -> None:
        try:
            self.step()
        except Exception as error:
            if self.on_error is None:
                raise
            why = f"{self.name}: {type(error).__name__}: {error}"
            if why not in self._failures:
                self._failures.add(why)
                self.on_error(why)

    def _moment_ns(self, start_ns: int, slot: int) -> int:
        phase = _drawn(slot) if self.spread else 0.0
        return start_ns + int((slot + phase) * self.interval_s * NS_PER_S)

    def summary(self) -> dict[str, float | int]:
        """Number of calls, their lateness, and whether at real-time priority."""
        late = sorted(self.late_s)
        if not late:
            return {"calls": 0, "realtime": self.realtime}
        return {
            "calls": len(late),
            "realtime": self.realtime,
            "late_p50_s": late[len(late) // 2],
            "late_p99_s": late[min(len(late) - 1, int(len(late) * 0.99))],
            "late_max_s": late[-1],
        }


def _drawn(slot: int) -> float:
    """A number in [0, 1) per slot, the same in every run: splitmix64 (Steele, Lea and Flood, OOPSLA
    2014).
    """
    z = (slot + 1) * 0x9E3779B97F4A7C15 & _64_BITS
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _64_BITS
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _64_BITS
    return (z ^ z >> 31) / (1 << 64)


@dataclass(eq=False)
class PowerSampler:
    """Probes sources, samples the working ones, and records their readings.

    Attributes:
        gpu_state: reader of the GPUs' state; None without GPUs.
        append_power: called with rows of the power table.
        append_state: called with rows of `tables.BOARDS`.
        on_problem: called with a code and a message, once per message.
    """

    sources: Sequence[PowerSource]
    gpu_state: BoardReader | None
    append_power: Append
    append_state: Append
    on_problem: Callable[[str, str], None]

    def __post_init__(self) -> None:
        self.probes: tuple[PowerProbe, ...] = ()
        self._stop = threading.Event()
        self._energy_wanted: list[threading.Event] = []
        self._loops: list[Loop] = []
        self._threads: list[threading.Thread] = []
        self._state = threading.Lock()
        self._told: set[str] = set()
        self._silent: set[PowerSource] = set()  # without a reading so far
        # readings that the live view adds up: source, devices
        self._shown: tuple[str, frozenset[str]] | None = None
        self._latest: dict[str, PowerReading] = {}

    def start(self) -> None:
        """Probe all sources at once, then start the loops of the working ones."""
        if self.sources:
            with ThreadPoolExecutor(len(self.sources), thread_name_prefix="probe") as pool:
                self.probes = tuple(pool.map(probed, self.sources))
        for source, probe in zip(self.sources, self.probes, strict=True):
            boards = frozenset(
                d.device_id for d in probe.devices if d.boundary is Boundary.GPU_BOARD and d.power
            )
            if boards and self._shown is None:
                self._shown = (source.name, boards)
            if not any(d.power or d.energy for d in probe.devices):
                continue
            self._silent.add(source)
            for what, interval_s in source.intervals_s.items():
                loop = Loop(
                    f"{source.name}-{what}",
                    partial(self._sample, source, what),
                    interval_s,
                    self._stop,
                    spread=what == "power",
                    urgent=source.name in _LOCAL,
                    on_error=self._failed,
                )
                if what == "energy":
                    loop.wake = threading.Event()
                    self._energy_wanted.append(loop.wake)
                self._loops.append(loop)
        if self.gpu_state is not None and self.gpu_state.open():
            boards_loop = Loop("boards", self._read_boards, BOARDS_INTERVAL_S, self._stop)
            boards_loop.on_error = self._failed
            self._loops.append(boards_loop)
        for loop in self._loops:
            thread = threading.Thread(target=loop.run, name=loop.name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _failed(self, why: str) -> None:
        """A defect in one loop: its later readings and the other sources continue."""
        self.on_problem("power_reading_failed", f"{why} (failed readings are missing)")

    def _sample(self, source: PowerSource, what: What) -> None:
        readings = sampled(source, what)
        if readings:
            self._silent.discard(source)
        self.append_power([reading.row() for reading in readings])
        if self._shown is not None and source.name == self._shown[0]:
            with self._state:
                for reading in readings:
                    if reading.power_w is not None and reading.boundary is Boundary.GPU_BOARD:
                        self._latest[reading.device_id] = reading
        self._tell(source)

    def _tell(self, source: PowerSource) -> None:
        for message in source.trouble.messages():
            with self._state:
                new = message not in self._told
                self._told.add(message)
            if new:
                text = f"{message} (failed readings are missing)"
                self.on_problem("power_reading_failed", text)

    def _read_boards(self) -> None:
        assert self.gpu_state is not None
        self.append_state(self.gpu_state.read())

    def wake(self) -> None:
        for event in self._energy_wanted:
            event.set()

    def power_now_w(self) -> float | None:
        """Present power of all GPUs together; None if one has no recent reading."""
        if self._shown is None:
            return None
        oldest_ns = now_ns() - int(STALE_POWER_S * NS_PER_S)
        devices = self._shown[1]
        with self._state:
            latest = [self._latest[device] for device in devices if device in self._latest]
        known = [r.power_w for r in latest if r.power_w is not None and r.t_ns >= oldest_ns]
        return sum(known) if len(known) == len(devices) else None

    def described(self) -> list[dict[str, Any]]:
        """The probes, for the manifest."""
        return [asdict(probe) for probe in self.probes]

    def summary(self) -> dict[str, Any]:
        """Calls and lateness of each loop, failures by message."""
        failures: Counter[str] = Counter()
        for source in self.sources:
            for message in source.trouble.messages():
                failures[message] += source.trouble.seen[message]
        loops = {loop.name: loop.summary() for loop in self._loops}
        return {"loops": loops, "failures": dict(failures)}

    def stop(self) -> None:
        """Stop the loops. One that hangs in a driver call is left behind."""
        self._stop.set()
        self.wake()
        deadline_ns = now_ns() + int(_JOIN_S * NS_PER_S)
        for thread in self._threads:
            thread.join(timeout=max(0.0, (deadline_ns - now_ns()) / NS_PER_S))
        for source in tuple(self._silent):  # a loop that hangs may still change it
            if not source.trouble.messages():
                text = f"{source.name}: no readings during the run"
                self.on_problem("power_reading_failed", text)

    def close(self) -> None:
        """Release the sources; after `stop`."""
        for source in self.sources:
            try:
                source.close()
            except Exception as error:  # noqa: BLE001 - the others must be closed too
                source.trouble.failed(source.name, error)
        if self.gpu_state is not None:
            self.gpu_state.close()
