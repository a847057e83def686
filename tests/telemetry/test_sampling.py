"""The sampler's loops: one call a slot, phases that spread, counters on a grid, troubles told once."""

import threading
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest

from harness.core.clock import now_ns
from harness.core.records import Boundary
from harness.telemetry.sampling import Loop, PowerSampler
from harness.telemetry.sources.base import DeviceProbe, PowerProbe, PowerReading, ReadFailures, What


class Scripted:
    """A source that gives what it is told to."""

    def __init__(
        self,
        name: str,
        *,
        watts: float | None = 100.0,
        boundary: Boundary = Boundary.GPU_BOARD,
        why_not: str = "",
    ) -> None:
        self.name = name
        self.watts = watts
        self.boundary = boundary
        self.why_not = why_not
        self.trouble = ReadFailures()
        self.calls = 0
        self.closed = False

    @property
    def intervals_s(self) -> Mapping[What, float]:
        return {"power": 0.02, "energy": 3600.0}

    def probe(self) -> PowerProbe:
        devices = () if self.why_not else (DeviceProbe("d", self.boundary, self.name, self.name),)
        return PowerProbe(self.name, devices, self.why_not)

    def sample(self, what: What, /) -> tuple[PowerReading, ...]:
        self.calls += 1
        if self.watts is None:
            self.trouble.note(f"{self.name}: no answer")
            return ()
        power, energy = (self.watts, None) if what == "power" else (None, 7.0)
        return (PowerReading(now_ns(), self.boundary, "d", power, energy, self.name),)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def rows() -> list[dict]:
    return []


def sampler(
    sources: list[Scripted], rows: list[dict], problems: list[tuple[str, str]] | None = None
) -> PowerSampler:
    told = [] if problems is None else problems
    return PowerSampler(
        sources, None, rows.extend, rows.extend, lambda code, text: told.append((code, text))
    )


def test_lateness_is_told_by_nearest_rank() -> None:
    loop = Loop("loop", lambda: None, 1.0, threading.Event())
    assert loop.summary()["calls"] == 0
    loop.late_s.extend(n / 1000 for n in range(200, 0, -1))
    told = loop.summary()
    assert told["calls"] == 200
    late = [told[f"late_{rank}_s"] for rank in ("p50", "p99", "max")]
    assert late == pytest.approx([0.101, 0.199, 0.2])


def test_sources_run_side_by_side_and_one_without_an_answer_is_only_described(
    rows: list[dict], until
) -> None:
    board, node, absent = (
        Scripted("nvml"),
        Scripted("ipmi", watts=900.0, boundary=Boundary.NODE),
        Scripted("rapl", why_not="not here"),
    )
    power = sampler([board, node, absent], rows)
    power.start()
    until(
        lambda: {"nvml", "ipmi"} == {row["source"] for row in rows} and len(rows) > 8,
        "readings of both",
    )
    assert power.power_now_w() == 100.0  # boards alone: a node's power holds theirs
    power.stop()
    power.close()
    assert absent.calls == 0
    assert [one["why_not"] for one in power.described()] == ["", "", "not here"]
    assert all(source.closed for source in (board, node, absent))
    loops = power.summary()["loops"]
    assert set(loops) == {"nvml-power", "nvml-energy", "ipmi-power", "ipmi-energy"}
    assert loops["nvml-power"]["calls"] > 1


def test_a_failure_is_told_once_counted_and_the_rest_goes_on(rows: list[dict], until) -> None:
    problems: list[tuple[str, str]] = []
    failing, working = Scripted("ipmi", watts=None), Scripted("nvml")
    power = sampler([failing, working], rows, problems)
    power.start()
    until(lambda: failing.calls > 5 and len(rows) > 5, "several calls of both")
    power.stop()
    power.close()
    assert [code for code, _ in problems] == ["power_reading_failed"]
    assert "no answer" in problems[0][1]
    assert power.summary()["failures"]["ipmi: no answer"] > 1


def test_a_defect_in_a_source_is_told_and_the_others_go_on(
    rows: list[dict], until, monkeypatch
) -> None:
    problems: list[tuple[str, str]] = []
    broken, working = Scripted("ipmi"), Scripted("nvml")
    monkeypatch.setattr(broken, "sample", lambda _what: {}["defect"])
    power = sampler([broken, working], rows, problems)
    power.start()
    until(
        lambda: problems and len(rows) > 5,
        "the broken one is reported, the other goes on",
    )
    power.stop()
    power.close()
    assert all("defect" in text for _, text in problems)


def test_counters_are_read_at_once_when_asked(rows: list[dict], until) -> None:
    power = sampler([Scripted("nvml")], rows)
    power.start()
    until(
        lambda: sum(row["energy_j"] is not None for row in rows) == 1,
        "the first reading of the grid",
    )
    power.wake()
    until(lambda: sum(row["energy_j"] is not None for row in rows) == 2, "a reading out of turn")
    power.stop()
    power.close()


def test_moments_of_power_are_spread_over_the_slot_and_those_of_counters_stay() -> None:
    spread = Loop("p", lambda: None, 0.1, threading.Event(), spread=True)
    grid = Loop("e", lambda: None, 1.0, threading.Event())
    phases = np.array(
        [(spread._moment_ns(0, slot) - slot * 100_000_000) / 1e8 for slot in range(10_000)]
    )
    counts, _ = np.histogram(phases, bins=10, range=(0, 1))
    assert sum(counts) == 10_000
    assert np.all(np.abs(counts - 1000) < 150)  # 5 standard deviations
    for period in (
        0.37313,
        1.0,
        1.31071,
        2.0,
        7.77,
    ):  # in slots: no load's period is met at some of its points only
        at = (np.arange(10_000) + phases) / period
        assert abs(np.mean(np.exp(2j * np.pi * at))) < 0.05
    assert [grid._moment_ns(5, slot) for slot in range(3)] == [5, 1_000_000_005, 2_000_000_005]


def test_a_slow_step_leaves_slots_out_and_never_makes_up_for_them(until) -> None:
    stop, began = threading.Event(), []
    gate = threading.Event()

    def step() -> None:
        began.append(now_ns())
        if len(began) == 1:
            gate.wait(20)

    thread = threading.Thread(target=Loop("slow", step, 0.05, stop).run)
    start_ns = now_ns()
    thread.start()
    until(lambda: now_ns() - start_ns > 400_000_000, "eight slots have passed")
    gate.set()
    until(lambda: len(began) >= 4, "it goes on")
    stop.set()
    thread.join()
    gaps = [after - before for before, after in pairwise(began[1:])]
    assert min(gaps) > 0
    assert len(began) < 20
