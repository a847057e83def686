"""The recorder's threads that sample power and boards: a loop for each kind of reading of each
source, side by side.

Power is sampled once in each slot of its interval, at a moment drawn anew for each slot. On a fixed
grid a load that repeats with the interval would be met at the same point of its period every time;
drawn evenly from the whole slot, the mean is right for every load. (Phases that follow the golden
ratio resonate with some periods: 5 % off after 30 s for one of 131 ms.)

Counters are read on a fixed grid: they are renewed on a grid of their own (about every 100 ms on
NVIDIA boards), and the same lag at both ends of a window cancels.
"""

import os
import threading
from array import array
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from harness.core.clock import NS_PER_S, now_ns
from harness.core.records import Boundary
from harness.telemetry.sources.base import PowerProbe, PowerReading, PowerSource, What
from harness.telemetry.sources.gpu_state import BoardReader

STALE_POWER_S: Final = 3.0
"""A reading older than this is not shown as the present one."""
BOARDS_INTERVAL_S: Final = 1.0
"""Between two readings of the boards' state."""

_64_BITS: Final = (1 << 64) - 1
_JOIN_S: Final = 2.0
_LOCAL: Final = ("nvml", "rapl")  # read by calls into the driver and the kernel, not over a network

Append = Callable[[Sequence[Mapping[str, Any]]], None]


@dataclass(slots=True)
class Loop:
    """Calls `step` once in each slot of an interval until the stop; missed slots are left out,
    never made up for.

    Attributes:
        name: of the thread, and in what is told of it.
        step: what is called.
        interval_s: length of a slot.
        stop: ends it.
        wake: set to have `step` called out of turn.
        spread: draw the moment within each slot; else its begin.
        urgent: ask the kernel for real-time priority for this thread (round-robin, the lowest): its
            steps take microseconds to a few milliseconds and must not wait behind a load generator
            that saturates the cores. Without permission it stays as it is.
        realtime: whether the kernel granted that.
        late_s: by how much each call began after its time.
    """

    name: str
    step: Callable[[], None]
    interval_s: float
    stop: threading.Event
    wake: threading.Event | None = None
    spread: bool = False
    urgent: bool = False
    realtime: bool = False
    late_s: "array[float]" = field(default_factory=lambda: array("f"))

    def run(self) -> None:
        """The loop; ends after `stop`."""
        if self.urgent:
            with suppress(OSError):  # not permitted: the process's priority, which `ready` tells
                # Programs that are started from here go back to normal.
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
            self.step()
            now = now_ns()
            if now >= due_ns:
                slot = max(slot + 1, int((now - start_ns) / NS_PER_S / self.interval_s))
                if self._moment_ns(start_ns, slot) < now:
                    slot += 1
                due_ns = self._moment_ns(start_ns, slot)
            (self.wake or self.stop).wait(max(0.0, (due_ns - now_ns()) / NS_PER_S))

    def _moment_ns(self, start_ns: int, slot: int) -> int:
        phase = _drawn(slot) if self.spread else 0.0
        return start_ns + int((slot + phase) * self.interval_s * NS_PER_S)

    def told(self) -> dict[str, float | int]:
        """How many calls there were, how late they began, and whether at real-time priority."""
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
    """A number from 0 to 1 for each slot, the same in every run: splitmix64 (Steele, Lea and Flood,
    OOPSLA 2014).
    """
    z = (slot + 1) * 0x9E3779B97F4A7C15 & _64_BITS
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _64_BITS
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _64_BITS
    return (z ^ z >> 31) / (1 << 64)


class PowerSampler:
    """Probes sources, samples those that answer, and writes what they say.

    Args:
        sources: from `harness.telemetry.sources.select`.
        boards: reader of the boards' state; None: there is no board.
        append_power: takes rows of the power table.
        append_boards: takes rows of the boards table.
        on_problem: called with a code and a message, once for each message.
    """

    def __init__(
        self,
        sources: Sequence[PowerSource],
        boards: BoardReader | None,
        append_power: Append,
        append_boards: Append,
        on_problem: Callable[[str, str], None],
    ) -> None:
        self.probes: tuple[PowerProbe, ...] = ()
        self._sources = tuple(sources)
        self._boards = boards
        self._append_power = append_power
        self._append_boards = append_boards
        self._on_problem = on_problem
        self._stop = threading.Event()
        self._energy_wanted: list[threading.Event] = []
        self._loops: list[Loop] = []
        self._threads: list[threading.Thread] = []
        self._state = threading.Lock()
        self._told: set[str] = set()
        self._shown: tuple[str, frozenset[str]] | None = (
            None  # which readings the live view adds up: source, devices
        )
        self._latest: dict[str, PowerReading] = {}

    def start(self) -> None:
        """Probe all sources at once, then start the loops of those that answer."""
        if self._sources:
            with ThreadPoolExecutor(len(self._sources), thread_name_prefix="probe") as pool:
                self.probes = tuple(pool.map(lambda source: source.probe(), self._sources))
        for source, probe in zip(self._sources, self.probes, strict=True):
            boards = frozenset(
                d.device_id for d in probe.devices if d.boundary is Boundary.GPU_BOARD and d.power
            )
            if boards and self._shown is None:
                self._shown = (source.name, boards)
            for what, interval_s in (
                source.intervals_s.items()
                if any(d.power or d.energy for d in probe.devices)
                else ()
            ):
                wake = threading.Event() if what == "energy" else None
                if wake is not None:
                    self._energy_wanted.append(wake)
                step = _step(self._sample, source, what)
                self._loops.append(
                    Loop(
                        f"{source.name}-{what}",
                        step,
                        interval_s,
                        self._stop,
                        wake,
                        spread=what == "power",
                        urgent=source.name in _LOCAL,
                    )
                )
        if self._boards is not None and self._boards.open():
            self._loops.append(Loop("boards", self._read_boards, BOARDS_INTERVAL_S, self._stop))
        for loop in self._loops:
            thread = threading.Thread(target=self._run, args=(loop,), name=loop.name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, loop: Loop) -> None:
        try:
            loop.run()
        except Exception as error:
            text = (
                f"{loop.name} ended by a defect of the harness ({type(error).__name__}: {error});"
                " its readings are absent from here on"
            )
            self._on_problem("power_reading_failed", text)
            raise

    def _sample(self, source: PowerSource, what: What) -> None:
        readings = source.sample(what)
        self._append_power([reading.row() for reading in readings])
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
                self._on_problem(
                    "power_reading_failed",
                    f"{message} (where it does not answer, readings are absent)",
                )

    def _read_boards(self) -> None:
        assert self._boards is not None
        self._append_boards(self._boards.read())

    def wake(self) -> None:
        """Read the counters now."""
        for event in self._energy_wanted:
            event.set()

    def power_now_w(self) -> float | None:
        """Present power of all boards together; None where one of them did not tell lately."""
        if self._shown is None:
            return None
        oldest_ns = now_ns() - int(STALE_POWER_S * NS_PER_S)
        with self._state:
            fresh = [
                r.power_w
                for device in self._shown[1]
                if (r := self._latest.get(device)) is not None and r.t_ns >= oldest_ns
            ]
        known = [watts for watts in fresh if watts is not None]
        return sum(known) if known and len(known) == len(self._shown[1]) else None

    def described(self) -> list[dict[str, Any]]:
        """The probes as JSON, for the manifest."""
        return [asdict(probe) for probe in self.probes]

    def told(self) -> dict[str, Any]:
        """How the sampling went: calls and lateness of each loop, failures by message."""
        failures: dict[str, int] = {}
        for source in self._sources:
            for message in source.trouble.messages():
                failures[message] = failures.get(message, 0) + source.trouble.seen[message]
        return {"loops": {loop.name: loop.told() for loop in self._loops}, "failures": failures}

    def stop(self) -> None:
        """End the loops. One that hangs in a driver's call is left behind."""
        self._stop.set()
        self.wake()
        deadline_ns = now_ns() + int(_JOIN_S * NS_PER_S)
        for thread in self._threads:
            thread.join(timeout=max(0.0, (deadline_ns - now_ns()) / NS_PER_S))

    def close(self) -> None:
        """Let go of the sources; after `stop`."""
        for source in self._sources:
            source.close()
        if self._boards is not None:
            self._boards.close()


def _step(
    sample: Callable[[PowerSource, What], None], source: PowerSource, what: What
) -> Callable[[], None]:
    return lambda: sample(source, what)
