"""The energy of a known curve comes back: the double of NVML on a virtual clock, the real bindings,
the real source, the real reduction.
"""

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from harness.core.records import Basis
from harness.reduce.energy.devices import Energy, energies
from harness.reduce.read.expected_gpus import ExpectedGpus

UUIDS = ["GPU-d0ub1e00-0000-0000-0000-000000000000", "GPU-d0ub1e00-0000-0000-0000-000000000001"]
WINDOWS = [(6.0, 11.0), (7.03, 17.4), (4.5, 34.5), (5.25, 65.25)]  # s since the origin
START_NS = 37_000_000_000_000
OFFSET_S = 0.037  # of the first reading behind a renewal of the counter

# Samples at the moments that the recorder's loops would choose; the clock moves on by what the
# calls take, and never waits.
SAMPLE = """
import json, mmap, struct, sys
from pathlib import Path
from harness.telemetry.sampling import Loop
from harness.telemetry.sources.nvml import NvmlPowerSource
file = open(sys.argv[1], "r+b")
shared = mmap.mmap(file.fileno(), 8)
clock = lambda: struct.unpack("q", shared[:8])[0]
source = NvmlPowerSource(json.loads(sys.argv[2]), clock=clock)
probe = source.probe()
start = int(sys.argv[3])
moments = []
for what, interval_s in source.intervals_s.items():
    loop = Loop(what, lambda: None, interval_s, None, spread=what == "power")
    moments += [(loop._moment_ns(start, slot), what) for slot in range(int(72 / interval_s))]
rows = []
for t_ns, what in sorted(moments):
    shared[:8] = struct.pack("q", max(t_ns, clock()))
    rows += [reading.row() for reading in source.sample(what)]
source.close()
print(json.dumps({"rows": rows, "trouble": dict(source.trouble.seen), "devices": len(probe.devices)}))
"""

Record = Callable[..., list[dict]]
RECORDED: dict[str, list[dict]] = {}  # curves that several tests look at


@pytest.fixture
def record(nvml_double, tmp_path: Path) -> Record:
    """Power rows of 72 s of a curve; settings are the double's."""

    def run(
        *,
        uuids: list[str] = UUIDS[:1],
        load: list[tuple[float, float]] | None = None,
        **settings: object,
    ) -> list[dict]:
        key = json.dumps([uuids, load, settings])
        if key not in RECORDED:
            RECORDED[key] = play(uuids, load, settings)
        return RECORDED[key]

    def play(
        uuids: list[str], load: list[tuple[float, float]] | None, settings: dict[str, object]
    ) -> list[dict]:
        clock = tmp_path / "clock"
        clock.write_bytes(struct.pack("q", START_NS))
        if load is not None:
            path = tmp_path / "load"
            path.write_text("".join(f"{START_NS + int(t * 1e9)} {mw}\n" for t, mw in load))
            settings["load_file"] = path
        nvml_double(
            clock_file=clock,
            origin_ns=START_NS,
            gpus=2,
            sensor_us=20_000,
            counter_us=100_000,
            **settings,
        )
        argv = [
            sys.executable,
            "-c",
            SAMPLE,
            str(clock),
            json.dumps(uuids),
            str(START_NS + int(OFFSET_S * 1e9)),
        ]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["rows"]

    return run


def reduced(rows: list[dict], window: tuple[float, float], uuids: list[str] = UUIDS[:1]) -> Energy:
    kinds = {
        "t_ns": float,
        "power_w": float,
        "energy_j": float,
        "boundary": object,
        "device_id": object,
        "source": object,
    }
    columns = {
        name: np.array([row[name] if row[name] is not None else np.nan for row in rows], dtype=kind)
        for name, kind in kinds.items()
    }
    columns["t_ns"] -= START_NS
    found = {
        energy.boundary: energy
        for energy in energies(columns, window[0] * 1e9, window[1] * 1e9, ExpectedGpus(uuids))
    }
    return found["gpu_board"]


def steps(seed: int = 7) -> list[tuple[float, float]]:
    """A load: further mW from a time on, changing every second or so."""
    draw = np.random.default_rng(seed)
    times = np.cumsum(draw.uniform(0.4, 2.0, 70))
    return [
        (float(t), float(mw)) for t, mw in zip(times, draw.uniform(0, 200_000, 70), strict=True)
    ]


def truth_j(
    window: tuple[float, float], *, power_mw=300_000.0, slope=0.0, saw_mw=0.0, saw_s=0.0, load=()
) -> float:
    def until(t: float) -> float:
        mj = power_mw * t + slope * t * t / 2
        if saw_s:
            whole = int(t / saw_s)
            mj += saw_mw * saw_s * (whole / 2 + (t / saw_s - whole) ** 2 / 2)
        ends = [*(at for at, _ in load[1:]), float("inf")]
        mj += (
            sum(mw * max(0.0, min(t, end) - at) for (at, mw), end in zip(load, ends, strict=True))
            if load
            else 0.0
        )
        return mj

    return (until(window[1]) - until(window[0])) / 1000


CURVES = {
    "constant": ({}, {}),
    "ramp": ({"slope_mw_per_s": 5000}, {"slope": 5000}),
    "sawtooth that the sensor resolves": (
        {"saw_mw": 200_000, "saw_us": 4_000_000},
        {"saw_mw": 200_000, "saw_s": 4.0},
    ),
    "load-following": ({"load": steps()}, {"load": steps()}),
}


@pytest.mark.parametrize("name", CURVES)
def test_by_counter_within_half_a_percent_and_by_power_within_two(
    record: Record, name: str
) -> None:
    settings, formula = CURVES[name]
    rows = record(**settings)
    power_only = [row for row in rows if row["source"] != "nvml-counter"]
    averages = record(**settings, no_instant=1, no_counter=1) if name != "constant" else []
    assert {row["source"] for row in averages} <= {"nvml-average"}
    for window in WINDOWS:
        truth = truth_j(window, **formula)
        counter, integral = reduced(rows, window), reduced(power_only, window)
        assert (counter.method, integral.method, counter.basis) == (
            "counter",
            "integral",
            Basis.MEASURED,
        )
        assert counter.joules == pytest.approx(truth, rel=0.005), window
        assert integral.joules == pytest.approx(truth, rel=0.02), window
        if averages:
            averaged = reduced(averages, window)
            assert averaged.joules is None or averaged.joules == pytest.approx(truth, rel=0.02), (
                window
            )


@pytest.mark.parametrize("name", ["constant", "ramp"])
def test_dropped_readings_up_to_the_limit_change_nothing(record: Record, name: str) -> None:
    settings, formula = CURVES[name]
    rows = record(**settings)
    draw = np.random.default_rng(3)

    def kept(row: dict) -> bool:
        t_s = (row["t_ns"] - START_NS) / 1e9
        if row["source"] == "nvml-counter":
            return round(t_s) % 2 == 0
        return not 20.0 < t_s < 22.4 and draw.uniform() > 0.3

    left = [row for row in rows if kept(row)]
    assert len(left) < 0.75 * len(rows)
    for window in WINDOWS:
        truth = truth_j(window, **formula)
        assert reduced(left, window).joules == pytest.approx(truth, rel=0.005)
        integral = reduced([row for row in left if row["source"] == "nvml-instant"], window)
        assert integral.joules == pytest.approx(truth, rel=0.02)
    silent = [
        row
        for row in rows
        if not 20.0 < (row["t_ns"] - START_NS) / 1e9 < 23.5 and row["source"] == "nvml-instant"
    ]
    absent = reduced(silent, WINDOWS[-1])
    assert absent.joules is None
    assert "3.6 s" in str(absent.reason)


@pytest.mark.parametrize(
    ("period_us", "locked"), [(37_313, False), (131_071, False), (130_000, True)]
)
def test_a_load_faster_than_the_sensor_is_counted_right_or_known_to_be_unknown(
    record: Record, period_us: int, locked: bool
) -> None:
    rows = record(saw_mw=300_000, saw_us=period_us)
    power_only = [row for row in rows if row["source"] != "nvml-counter"]
    for window in WINDOWS:
        truth = truth_j(window, saw_mw=300_000, saw_s=period_us / 1e6)
        counter, integral = reduced(rows, window), reduced(power_only, window)
        if counter.joules is None:
            assert "apart" in str(counter.reason)
        else:
            assert counter.method == "counter"
            assert counter.joules == pytest.approx(truth, rel=0.005)
        if integral.joules is None:
            continue
        assert integral.error_ratio is not None
        assert integral.systematic_ratio is not None
        # A load in step with the sensor's own renewals shows it few points of its period, the same
        # ones for ever: a bias that no number of readings removes. It is held by the systematic
        # error of the board.
        ratio = integral.error_ratio + 0.002 + (integral.systematic_ratio if locked else 0.0)
        assert abs(integral.joules - truth) <= integral.joules * ratio, window


def test_every_board_of_a_deployment_is_summed_and_slow_counters_do_not_shift_power(
    record: Record,
) -> None:
    rows = record(uuids=UUIDS, counter_latency_us=2400)
    energy = reduced(rows, (4.5, 34.5), UUIDS)
    assert energy.joules == pytest.approx(
        truth_j((4.5, 34.5)) + truth_j((4.5, 34.5), power_mw=301_000), rel=0.005
    )
    assert energy.devices == 2


def test_a_counter_that_starts_again_is_bridged_or_absent_and_told(record: Record) -> None:
    rows = record(reset_us=20_450_000)
    truth = truth_j((4.5, 34.5))
    bridged = reduced(rows, (4.5, 34.5))
    assert bridged.joules == pytest.approx(truth, rel=0.005)
    assert "energy_counter_reset" in {concern.code for concern in bridged.concerns}
    alone = reduced([row for row in rows if row["source"] == "nvml-counter"], (4.5, 34.5))
    assert alone.joules is None
    assert "reset" in str(alone.reason)


def test_a_grace_module_is_a_boundary_of_its_own_never_added_to_its_gpu(record: Record) -> None:
    rows = record(module=1, module_extra_mw=150_000)
    assert {row["boundary"] for row in rows} == {"gpu_board", "module"}
    assert reduced(rows, (4.5, 34.5)).joules == pytest.approx(truth_j((4.5, 34.5)), rel=0.005)
    module = [row["power_w"] for row in rows if row["boundary"] == "module"]
    assert module[0] == pytest.approx(450.0)
    module_alone = record(module=1, no_instant=1, no_average=1, no_usage=1, no_counter=1)
    assert {row["boundary"] for row in module_alone} == {"module"}


def test_mig_instances_of_a_board_are_that_board_once(record: Record) -> None:
    rows = record(uuids=["MIG-" + UUIDS[0][4:], UUIDS[0]], mig=1)
    assert {row["device_id"] for row in rows} == {UUIDS[0]}
    assert reduced(rows, (4.5, 34.5)).joules == pytest.approx(truth_j((4.5, 34.5)), rel=0.005)
