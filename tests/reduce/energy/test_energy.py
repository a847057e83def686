"""Joules of known power curves: they come back, they add up, and what cannot be known is absent
with its reason.
"""

import dataclasses
import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness.reduce.energy.curves import from_power
from harness.reduce.energy.devices import energies
from harness.reduce.energy.idle import above
from harness.reduce.energy.sensor_gain import Gain, MeterCalibration, combined_ratio
from harness.reduce.read.expected_gpus import ExpectedGpus

S = 1e9
END_S = 80.0


def constant(watts):
    return lambda t: np.full_like(t, watts), lambda t: watts * t


def ramp(start_w, per_s):
    return lambda t: start_w + per_s * t, lambda t: start_w * t + per_s * t * t / 2


def sine(mean_w, swing_w, period_s):
    k = 2 * math.pi / period_s
    return (
        lambda t: mean_w + swing_w * np.sin(k * t),
        lambda t: mean_w * t + swing_w / k * (1 - np.cos(k * t)),
    )


def square(low_w, high_w, period_s):
    def joules(t):
        whole, into = np.divmod(t, period_s)
        return (
            whole * period_s * (low_w + high_w) / 2
            + np.minimum(into, period_s / 2) * high_w
            + np.maximum(into - period_s / 2, 0) * low_w
        )

    return lambda t: np.where(t % period_s < period_s / 2, high_w, low_w), joules


class Readings:
    """Rows of the power table."""

    def __init__(self):
        self.rows = []

    def power(
        self,
        curve,
        *,
        device="GPU-0",
        every_s=0.1,
        boundary="gpu_board",
        source="nvml-instant",
        jitter=0.0,
        seed=0,
        keep=None,
    ):
        t = np.arange(0, END_S, every_s)
        t = t + np.random.default_rng(seed).uniform(0, jitter * every_s, len(t))
        if keep is not None:
            t = t[keep(t)]
        self.rows += [
            (at, boundary, device, float(w), np.nan, source)
            for at, w in zip(t, curve[0](t), strict=True)
        ]
        return self

    def counter(
        self,
        curve,
        *,
        device="GPU-0",
        every_s=1.0,
        boundary="gpu_board",
        source="nvml-counter",
        start_j=7e6,
        resets=(),
        unit=1.0,
    ):
        t = np.arange(0, END_S, every_s)
        joules = start_j + curve[1](t)
        for reset in resets:
            joules = np.where(
                t >= reset, joules - (start_j + curve[1](np.array([reset])))[0], joules
            )
            start_j = 0.0
        self.rows += [
            (at, boundary, device, np.nan, float(j) * unit, source)
            for at, j in zip(t, joules, strict=True)
        ]
        return self

    @property
    def columns(self):
        t, boundary, device, watts, joules, source = zip(
            *sorted(self.rows, key=lambda row: row[0]), strict=True
        )
        return {
            "t_ns": np.array(t) * S,
            "boundary": np.array(boundary, dtype=object),
            "device_id": np.array(device, dtype=object),
            "power_w": np.array(watts),
            "energy_j": np.array(joules),
            "source": np.array(source, dtype=object),
        }


def of(readings, start_s, end_s, uuids=("GPU-0",), **settings):
    found = energies(readings.columns, start_s * S, end_s * S, ExpectedGpus(uuids), **settings)
    return {one.boundary: one for one in found}


def board(readings, start_s=10.0, end_s=70.0, uuids=("GPU-0",), **settings):
    return of(readings, start_s, end_s, uuids, **settings)["gpu_board"]


def codes(energy):
    return {concern.code: concern for concern in energy.concerns}


RESOLVED = {
    "constant": constant(300),
    "ramp": ramp(100, 5),
    "slow wave": sine(300, 200, 10),
    "steps": square(100, 600, 8),
}


@pytest.mark.parametrize("name", RESOLVED)
@pytest.mark.parametrize("length_s", [5.0, 12.3, 60.0])
def test_a_known_curve_comes_back_by_counter_and_by_integral(name, length_s):
    curve = RESOLVED[name]
    start, end = 10.37, 10.37 + length_s
    truth = float(curve[1](np.array([end]))[0] - curve[1](np.array([start]))[0])
    counter = board(Readings().counter(curve, every_s=0.1).power(curve), start, end)
    assert counter.method == "counter"
    assert counter.joules == pytest.approx(truth, rel=0.005)
    integral = board(Readings().power(curve), start, end)
    assert integral.method == "integral"
    assert integral.joules == pytest.approx(truth, rel=0.02)
    assert integral.watts == pytest.approx(truth / length_s, rel=0.02)


@pytest.mark.parametrize("period_s", [0.03, 0.07, 0.13])
def test_a_load_faster_than_the_sensor_never_has_a_wrong_interval(period_s):
    """A load faster than the sensor has an interval that contains the truth or none."""
    inside = absent = 0
    for seed in range(12):
        curve = square(100, 600, period_s)
        found = board(Readings().power(curve, jitter=1.0, seed=seed))
        truth = float(curve[1](np.array([70.0]))[0] - curve[1](np.array([10.0]))[0])
        if found.joules is None:
            absent += 1
        else:
            assert found.error_ratio > 0.01  # it is told that the readings do not resolve the load
            inside += abs(found.joules - truth) <= found.error_ratio * found.joules
    assert inside + absent >= 11  # 95 % of twelve


def test_a_short_window_of_a_fast_load_without_a_counter_is_absent():
    found = board(Readings().power(square(50, 700, 0.07), jitter=1.0), 10, 15)
    assert found.joules is None
    assert found.method is None
    assert found.parts[0].counter_j is None
    assert found.parts[0].integral_j > 0


def test_the_counter_stands_where_power_readings_cannot_resolve_the_load():
    curve = square(50, 700, 0.07)
    found = board(Readings().power(curve, jitter=1.0, every_s=0.5, seed=3).counter(curve), 10, 20)
    assert found.method == "counter"
    assert found.joules == pytest.approx(3750, rel=0.02)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.floats(5, 12), min_size=2, max_size=5),
    name=st.sampled_from(sorted(RESOLVED)),
    counter=st.booleans(),
    reset=st.one_of(st.none(), st.floats(12, 68)),
)
def test_joules_of_adjacent_windows_add_up(lengths, name, counter, reset):
    cuts = [10.0, *(10 + np.cumsum(lengths))]
    curve = RESOLVED[name]
    readings = Readings().power(curve)
    if counter:
        readings.counter(curve, resets=() if reset is None else (reset,))
    columns = readings.columns
    parts = [
        energies(columns, a * S, b * S, ExpectedGpus(("GPU-0",)))[0].joules
        for a, b in itertools.pairwise(cuts)
    ]
    whole = energies(columns, cuts[0] * S, cuts[-1] * S, ExpectedGpus(("GPU-0",)))[0]
    assume(None not in parts)  # few readings do not place a step well enough in five seconds
    assert whole.joules == pytest.approx(sum(parts), rel=1e-9)
    assert float(np.sum(whole.per_bin(np.array(cuts) * S))) == pytest.approx(whole.joules, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(resets=st.lists(st.floats(11, 69), min_size=1, max_size=3), watts=st.floats(20, 700))
def test_resets_of_the_counter_are_bridged_by_power(resets, watts):
    curve = constant(watts)
    found = board(Readings().power(curve).counter(curve, resets=sorted(resets)))
    assert found.joules == pytest.approx(60 * watts, rel=0.001)
    assert "bridged" in found.method
    assert codes(found)["energy_counter_reset"].severity == "degraded"


def test_a_reset_without_power_readings_costs_its_window_alone():
    """A reset that no power reading bridges leaves the window without joules and no other."""
    curve = constant(300)
    readings = Readings().counter(curve, resets=(30.0,))
    found = board(readings)
    assert found.joules is None
    assert "reset" in found.reason
    assert board(readings, 35, 70).joules == pytest.approx(35 * 300)
    assert board(readings, 10, 28).joules == pytest.approx(18 * 300)


@settings(max_examples=25, deadline=None)
@given(
    factor=st.sampled_from([1e-6, 1e-3, 1e3, 1e6, 3600.0, 1 / 3.6]),
    watts=st.floats(30, 650),
    where=st.sampled_from(["counter", "power", "both"]),
)
def test_a_mistaken_unit_is_no_energy(factor, watts, where):
    right, wrong = constant(watts), constant(watts * factor)
    readings = Readings()
    readings.power(right if where == "counter" else wrong)
    readings.counter(right, unit=1.0 if where == "power" else factor)
    for limits in (
        {"GPU-0": 700.0},
        {},
        {"GPU-0": 700_000.0},
    ):  # known, unknown, and mistaken in the same way
        found = board(readings, limits_w=limits)
        if where == "both" and 1 <= watts * factor <= (
            735 if limits.get("GPU-0") == 700.0 else 1e4
        ):
            continue  # both wrong alike and within what a board may draw: nothing can tell
        assert found.joules is None
        assert found.reason
        assert where != "both" or codes(found)["power_implausible"].value == pytest.approx(
            watts * factor, rel=1e-3
        )


@pytest.mark.parametrize(
    ("boundary", "watts", "right"),
    [
        ("node", 12_000, True),
        ("node", 1_200_000, False),
        ("rack", 600_000, True),
        ("rack", 6e7, False),
        ("facility", 5e8, True),
        ("cpu_package", 450, True),
        ("cpu_package", 450_000, False),
        ("dram", 40_000, False),
        ("module", 2_700, True),
        ("module", 0.4, False),
    ],
)
def test_no_boundary_takes_what_nothing_at_it_can_draw(boundary, watts, right):
    found = of(Readings().power(constant(watts), boundary=boundary), 10, 70, uuids=())[boundary]
    assert (found.joules is not None) is right
    assert ("power_implausible" in codes(found)) is not right


def test_short_windows_are_absent_and_those_below_30_s_preliminary():
    curve = constant(300)
    readings = Readings().power(curve).counter(curve)
    assert "at least 5 s" in board(readings, 10, 14).reason
    assert codes(board(readings, 10, 20))["energy_window_short"].severity == "preliminary"
    assert not board(readings, 10, 40).concerns


def test_readings_must_bracket_the_window():
    found = board(Readings().power(constant(300)), 50, 85)
    assert found.joules is None
    assert "do not cover" in found.reason


@pytest.mark.parametrize(("gap_s", "known"), [(2.5, True), (3.5, False)])
def test_a_silence_beyond_three_seconds_voids_the_integral_but_not_the_counter(gap_s, known):
    curve = constant(300)
    keep = lambda t: (t < 30) | (t > 30 + gap_s)  # noqa: E731
    found = board(Readings().power(curve, keep=keep))
    assert (found.joules is not None) is known
    if not known:
        assert " 3." in found.reason
        assert codes(found)["power_gap"].value == pytest.approx(gap_s, abs=0.2)
    assert board(Readings().power(curve, keep=keep).counter(curve)).joules == pytest.approx(18_000)


def test_a_silence_before_or_after_the_window_does_not_matter():
    keep = lambda t: ((t < 2) | (t > 8)) & ((t < 72) | (t > 78))  # noqa: E731
    found = board(Readings().power(constant(300), keep=keep))
    assert found.joules == pytest.approx(18_000)
    assert not found.concerns


@given(
    times=st.lists(st.integers(0, 800), min_size=3, max_size=30, unique=True),
    start=st.floats(0, 1),
    length=st.floats(0.01, 1),
    watts=st.floats(10, 500),
    slope=st.floats(-5, 5),
)
def test_power_that_is_linear_is_integrated_exactly_however_seldom_it_was_read(
    times, start, length, watts, slope
):
    t = np.sort(np.array(times)) / 10
    curve = from_power(t * S, 500 + watts + slope * t, gap_s=100.0)
    a = t[0] + start * (t[-1] - t[0])
    b = a + length * (t[-1] - a)
    truth = (500 + watts) * (b - a) + slope * (b * b - a * a) / 2
    assert curve.between(a * S, b * S) == pytest.approx(truth, rel=1e-9, abs=1e-5)


def test_dropped_readings_up_to_the_limit_do_not_matter():
    curve = sine(300, 100, 20)
    keep = lambda t: np.random.default_rng(1).random(len(t)) < 0.5  # noqa: E731
    truth = float(curve[1](np.array([70.0]))[0] - curve[1](np.array([10.0]))[0])
    assert board(Readings().power(curve, keep=keep)).joules == pytest.approx(truth, rel=0.02)


def test_counter_and_integral_that_disagree_are_no_energy():
    found = board(Readings().power(constant(300)).counter(constant(330)))
    assert found.joules is None
    assert "10.0%" in found.reason
    assert codes(found)["energy_disagrees"].severity == "degraded"
    assert board(Readings().power(constant(300)).counter(constant(312))).joules == pytest.approx(
        60 * 312
    )


def test_averages_over_a_trailing_second_are_moved_to_their_middle():
    curve = ramp(100, 8)
    late = (lambda t: curve[0](t - 0.5), curve[1])
    truth = float(curve[1](np.array([70.0]))[0] - curve[1](np.array([10.0]))[0])
    assert board(Readings().power(late, source="nvml-average")).joules == pytest.approx(
        truth, rel=1e-6
    )


def test_readings_of_an_unknown_age_have_a_wider_interval_that_contains_the_truth():
    """nvmlDeviceGetPowerUsage: instant on some boards, the average of the second before on others."""
    curve = ramp(100, 8)
    truth = float(curve[1](np.array([70.0]))[0] - curve[1](np.array([10.0]))[0])
    for lag_s in (0.0, 0.5):
        late = (lambda t, lag_s=lag_s: curve[0](t - lag_s), curve[1])
        found = board(Readings().power(late, source="nvml-usage"))
        assert abs(found.joules - truth) <= found.error_ratio * found.joules
        assert 0 < found.error_ratio < 0.01


def test_every_board_must_be_there_and_others_are_left_out():
    readings = (
        Readings()
        .power(constant(300))
        .power(constant(200), device="GPU-1")
        .power(constant(90), device="GPU-9")
    )
    both = board(readings, uuids=("GPU-0", "GPU-1"))
    assert both.joules == pytest.approx(60 * 500)
    assert codes(both)["gpu_set"].severity == "note"
    missing = board(readings, uuids=("GPU-0", "GPU-1", "GPU-2"))
    assert missing.joules is None
    assert "GPU-2" in missing.reason


def of_gpus(many):
    readings = Readings()
    for gpu in range(many):
        readings.power(constant(300), device=f"node-{gpu}")
    return readings


@pytest.mark.parametrize("found", [12, 20])
def test_another_number_of_gpus_than_expected_leaves_no_joules(found):
    energy = energies(of_gpus(found).columns, 10 * S, 70 * S, ExpectedGpus(count=16))[0]
    assert energy.joules is None
    assert {"16", str(found), "node-11"} <= set(re.findall(r"[\w-]+", energy.reason))
    assert codes(energy)["gpu_set"].severity == "degraded"


def test_as_many_gpus_as_expected_or_one_meter_of_all_have_joules():
    all_there = energies(of_gpus(16).columns, 10 * S, 70 * S, ExpectedGpus(count=16))[0]
    assert all_there.joules == pytest.approx(16 * 60 * 300)
    assert not codes(all_there)
    one, meter = of_gpus(1).columns, ExpectedGpus(count=16, whole_meters={"node-0"})
    assert energies(one, 10 * S, 70 * S, meter)[0].joules == pytest.approx(60 * 300)
    assert energies(one, 10 * S, 70 * S, ExpectedGpus(count=16))[0].joules is None


class TestStepsOfTheCounter:
    """A counter that is read once a second: joules lie within its steps as power went there, where
    power says so.
    """

    @pytest.mark.parametrize(
        ("start", "end"), [(10.5, 27.0), (12.0, 24.5), (13.25, 31.5), (17.5, 29.75)]
    )
    def test_power_tells_on_which_side_of_an_edge_they_lie(self, start, end):
        curve = square(100, 600, 7.0)  # switches at 10.5, 14, 17.5, …: in the middle of steps
        truth = float(curve[1](np.array([end]))[0] - curve[1](np.array([start]))[0])
        assert board(Readings().power(curve).counter(curve), start, end).joules == pytest.approx(
            truth, abs=26
        )  # 0.1 s of 500 W, halved
        even = board(Readings().power(curve, every_s=40).counter(curve), start, end)
        assert even.method == "counter"
        assert even.joules == pytest.approx(truth, abs=251)

    def test_power_that_does_not_resolve_the_load_says_nothing_and_joules_lie_evenly(self):
        curve = square(50, 700, 0.07)
        found = board(Readings().power(curve, jitter=1.0, every_s=0.5).counter(curve), 10.5, 60.5)
        counter = curve[1](np.arange(0, END_S))
        at = np.interp([10.5, 60.5], np.arange(0, END_S), counter)
        assert found.joules == pytest.approx(at[1] - at[0], rel=1e-12)

    def test_a_silence_of_power_within_a_step_leaves_that_step_even(self):
        curve = ramp(100, 5)
        keep = lambda t: (t < 10.2) | (t > 13.8)  # noqa: E731
        found = board(Readings().power(curve, keep=keep).counter(curve, every_s=5.0), 12.5, 52.5)
        assert (
            found.joules is None
            # the counter's readings are too far apart to cut the window at 12.5, and power was silent
            # there
        )
        near = board(Readings().power(curve, keep=keep).counter(curve, every_s=2.5), 11.25, 52.5)
        counter = curve[1](np.array([10.0, 12.5]))
        truth = float(curve[1](np.array([52.5]))[0]) - (counter[0] + counter[1]) / 2
        assert near.joules == pytest.approx(truth, rel=1e-9)

    @pytest.mark.parametrize(
        ("source", "boundary", "step_s"),
        [("nvml-counter", "gpu_board", 0.1), ("rapl", "cpu_package", 0.001)],
        ids=["nvml", "rapl"],
    )
    def test_what_a_step_leaves_unknown_is_its_share_of_the_window(self, source, boundary, step_s):
        """Both ends fall anywhere in a step: a uniform error each, whose standard deviation is step
        / sqrt(12).
        """
        found = of(
            Readings().counter(constant(300), source=source, boundary=boundary), 10, 70, uuids=()
        )[boundary]
        assert found.error_ratio == pytest.approx(1.96 * math.sqrt(2 / 12) * step_s / 60, rel=1e-6)

    def test_an_edge_within_a_step_of_moving_power_is_less_well_known(self):
        curve = square(100, 600, 20.0)
        readings = Readings().counter(curve)
        errors = [
            board(readings, start, 67.0).error_ratio for start in (13.0, 13.5, 20.5)
        ]  # even power: 100 W from 10 to 20 s
        assert errors[0] == pytest.approx(errors[1], rel=0.05)
        assert errors[2] > 2 * errors[0]


def test_an_energy_that_is_absent_has_no_joules_in_any_stretch_of_it():
    edges = np.linspace(10, 70, 5) * S
    assert np.all(
        np.isnan(board(Readings().power(constant(300)).counter(constant(330))).per_bin(edges))
    )
    assert np.all(np.isnan(board(Readings().power(constant(300)), 10, 13).per_bin(edges)))
    found = board(Readings().power(constant(300)))
    assert found.per_bin(edges) == pytest.approx(np.full(4, 4500))
    assert np.isnan(found.per_bin(np.array([-5, 10, 20]) * S)[0])


def test_boundaries_and_sources_are_never_mixed():
    readings = (
        Readings()
        .power(constant(300))
        .power(constant(310), source="dcgm")
        .power(constant(250), source="modelled")
    )
    readings.power(constant(900), boundary="node", device="bmc", source="ipmi", every_s=2.0)
    found = of(readings, 10, 70)
    assert set(found) == {"gpu_board", "node"}
    assert (found["gpu_board"].source, found["gpu_board"].basis) == ("nvml", "measured")
    assert found["gpu_board"].joules == pytest.approx(18_000)
    assert found["gpu_board"].others == {
        "dcgm": pytest.approx(18_600),
        "modelled": pytest.approx(15_000),
    }
    assert found["node"].joules == pytest.approx(54_000)


def test_a_modules_power_may_exceed_the_boards_limit():
    readings = (
        Readings().power(constant(850), boundary="module").power(constant(850), device="GPU-1")
    )
    limits = {"GPU-0": 700.0, "GPU-1": 700.0}
    assert of(readings, 10, 70, limits_w=limits)["module"].joules == pytest.approx(60 * 850)
    gpu = board(readings, uuids=("GPU-1",), limits_w=limits)
    assert gpu.joules is None
    assert codes(gpu)["power_implausible"].limit == 700


def test_sources_that_disagree_are_a_concern_and_modelled_ones_are_called_so():
    readings = Readings().power(constant(300)).power(constant(360), source="dcgm")
    assert codes(board(readings))["energy_sources_disagree"].value == pytest.approx(0.2)
    modelled = board(Readings().power(constant(250), source="modelled"))
    assert modelled.basis == "modelled"
    replayed = board(Readings().power(constant(250), source="replay:nvml-instant"))
    assert replayed.basis == "modelled"
    assert "power_replayed" in codes(replayed)


def test_slow_node_meters_may_be_slow_and_stop_being_trusted_when_they_are_silent():
    node = Readings().power(
        constant(900), boundary="node", device="bmc", source="redfish", every_s=4.0
    )
    assert of(node, 10, 70)["node"].joules == pytest.approx(54_000)
    few = Readings().power(
        constant(900), boundary="node", device="bmc", source="redfish", every_s=10.0
    )
    assert "at least 10" in of(few, 10, 70)["node"].reason
    keep = lambda t: (t < 30) | (t > 45)  # noqa: E731
    silent = Readings().power(
        constant(900), boundary="node", device="bmc", source="redfish", every_s=2.0, keep=keep
    )
    assert codes(of(silent, 10, 70)["node"])["power_gap"].value > 15


class TestErrors:
    def test_gains_of_boards_are_independent(self):
        readings = Readings().power(constant(300)).power(constant(300), device="GPU-1")
        assert board(readings).systematic_ratio == pytest.approx(0.05)
        assert board(readings, uuids=("GPU-0", "GPU-1")).systematic_ratio == pytest.approx(
            0.05 / math.sqrt(2)
        )

    def test_the_accuracy_of_a_bmc_is_not_known(self):
        node = Readings().power(constant(900), boundary="node", device="bmc", source="redfish")
        assert of(node, 10, 70)["node"].systematic_ratio is None

    def test_a_calibration_moves_the_joules_and_replaces_the_default(self):
        calibration = MeterCalibration({"GPU-0": Gain(1.04, 0.01, "a meter")})
        found = board(
            Readings().power(constant(300)).counter(constant(300)), calibration=calibration
        )
        assert found.joules == pytest.approx(60 * 312)
        assert found.systematic_ratio == pytest.approx(0.01)
        assert float(np.sum(found.per_bin(np.linspace(10, 70, 7) * S))) == pytest.approx(60 * 312)

    @given(
        st.dictionaries(st.sampled_from("abcdef"), st.floats(1, 1e6), min_size=1),
        st.floats(0.001, 0.3),
    )
    def test_a_sum_errs_between_one_board_and_all_boards_alike(self, joules, ratio):
        found = combined_ratio(joules, dict.fromkeys(joules, ratio))
        assert ratio / math.sqrt(len(joules)) * 0.999 <= found <= ratio * 1.001

    def test_a_steady_load_is_known_better_than_a_noisy_one(self):
        steady = board(Readings().power(constant(300)))
        noise = np.random.default_rng(0)
        noisy = board(Readings().power((lambda t: 300 + noise.normal(0, 100, len(t)), None)))
        assert steady.error_ratio < 1e-6
        assert 0.02 < noisy.error_ratio < 0.05

    def test_power_above_idle_has_the_error_of_both_and_the_gain_of_one(self):
        noise = np.random.default_rng(2)
        noisy = lambda mean: (lambda t: mean + noise.normal(0, 20, len(t)), None)  # noqa: E731
        load, idle = board(Readings().power(noisy(400))), board(Readings().power(noisy(100)), 5, 35)
        found = above(load, idle)
        assert found.watts == pytest.approx(300, rel=0.03)
        assert found.error_w == pytest.approx(
            math.hypot(load.error_ratio * load.watts, idle.error_ratio * idle.watts)
        )
        assert found.systematic_ratio == load.systematic_ratio
        assert above(load, None) is None
        assert above(load, board(Readings().power(noisy(100)), 5, 7)) is None
        unknown = above(dataclasses.replace(load, error_ratio=None), idle)
        assert (unknown.watts, unknown.error_w) == (found.watts, None)

    def test_errors_of_unlike_boards_weigh_by_their_joules(self):
        assert combined_ratio({"a": 300.0, "b": 100.0}, {"a": 0.04, "b": 0.08}) == pytest.approx(
            math.hypot(12, 8) / 400
        )
        assert combined_ratio({"a": 300.0, "b": 100.0}, {"a": 0.04, "b": None}) is None
        assert combined_ratio({"a": 0.0}, {"a": 0.04}) is None
