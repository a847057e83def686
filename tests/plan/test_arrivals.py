"""Arrivals are drawn before the run, from the seed, by the rate over time."""

import itertools
import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.plan.arrivals import arrivals_ns
from harness.plan.types import Schedule, Segment

WINDOW = {"window_s": 10}


def starts_s(plan, count=None, until_s=None):
    found = (session.intended_offset_ns / 1e9 for session in plan.sessions(0))
    return (
        list(itertools.islice(found, count))
        if count
        else list(itertools.takewhile(lambda t: t < until_s, found))
    )


def gaps(times):
    return [b - a for a, b in itertools.pairwise(times)]


@pytest.mark.parametrize(
    ("law", "cv"),
    [
        ({"process": "poisson"}, 1.0),
        ({"process": "gamma", "cv": 3}, 3.0),
        ({"process": "gamma", "cv": 0.5}, 0.5),
        # CV of Weibull: sqrt(G(1+2/k) / G(1+1/k)^2 - 1)
        (
            {"process": "weibull", "weibull_shape": 0.6},
            math.sqrt(math.gamma(1 + 2 / 0.6) / math.gamma(1 + 1 / 0.6) ** 2 - 1),
        ),
        (
            {"process": "weibull", "weibull_shape": 3},
            math.sqrt(math.gamma(1 + 2 / 3) / math.gamma(1 + 1 / 3) ** 2 - 1),
        ),
    ],
)
def test_gaps_have_the_rate_and_the_spread_of_their_law(make, law, cv):
    plan = make("batch", {"kind": "arrival_rate", "rate_per_s": 20, **law, **WINDOW})
    found = gaps(starts_s(plan, 6000))
    assert statistics.mean(found) == pytest.approx(
        1 / 20, rel=0.02 + 0.05 * cv
    )  # five standard errors of the mean
    assert statistics.stdev(found) / statistics.mean(found) == pytest.approx(cv, rel=0.15)


def test_a_ramp_starts_as_many_as_the_area_under_it(make):
    load = {
        "kind": "ramp",
        "from_per_s": 0,
        "to_per_s": 10,
        "ramp_s": 100,
        "process": "constant",
        **WINDOW,
    }
    times = starts_s(make("batch", load), until_s=200)
    # Area t^2 / 20 up to 100 s, then 10 a second.
    assert sum(t < 50 for t in times) == pytest.approx(125, abs=1)
    assert sum(t < 100 for t in times) == pytest.approx(500, abs=1)
    assert sum(t >= 100 for t in times) == pytest.approx(1000, abs=1)
    assert times[0] == pytest.approx(math.sqrt(20), abs=1e-6)


def test_steps_have_their_rates_and_the_last_one_goes_on(make):
    steps = [
        {"rate_per_s": 2, "for_s": 10},
        {"rate_per_s": 0, "for_s": 5},
        {"rate_per_s": 8, "for_s": "10s"},
    ]
    times = starts_s(
        make("batch", {"kind": "step", "steps": steps, "process": "constant", **WINDOW}), until_s=45
    )
    counts = [
        sum(a <= t < b for t in times)
        for a, b in ((0, 10.01), (10.01, 15), (15, 25.01), (25.01, 45))
    ]
    assert counts == [20, 0, 80, 160 - 1]


def test_a_rate_that_ends_at_nothing_ends_the_stage(make):
    load = {
        "kind": "ramp",
        "from_per_s": 4,
        "to_per_s": 0,
        "ramp_s": 10,
        "process": "constant",
        "sessions": 1000,
    }
    assert len(starts_s(make("batch", load), 1000)) == 20


def test_a_day_is_compressed_and_keeps_its_rates(make):
    curve = [{"hour": 6, "factor": 0.0}, {"hour": 12, "factor": 2}, {"hour": 18, "factor": 0}]
    load = {
        "kind": "diurnal",
        "rate_per_s": 5,
        "curve": curve,
        "time_scale": 3600,
        "process": "constant",
        **WINDOW,
    }
    times = starts_s(
        make("batch", load), until_s=48
    )  # an hour of the day is a second here: two days
    assert len(times) == pytest.approx(
        2 * 5 * 12, abs=2
    )  # area of the triangle: 12 h x 2 / 2, at 5 a second
    assert all(6 <= t % 24 <= 18 for t in times)
    later = starts_s(make("batch", {**load, "start_hour": 9}), until_s=24)
    assert sum(t < 3 for t in later) == pytest.approx(5 * 4.5, abs=1)  # 9 to 12 o'clock


def test_the_sine_of_a_day_peaks_at_its_hour(make):
    load = {
        "kind": "diurnal",
        "rate_per_s": 100,
        "amplitude": 0.5,
        "peak_hour": 15,
        "time_scale": 3600,
        "process": "constant",
        **WINDOW,
    }
    times = starts_s(make("batch", load), until_s=24)
    assert len(times) == pytest.approx(2400, abs=3)
    by_hour = [sum(h <= t < h + 1 for t in times) for h in range(24)]
    assert by_hour.index(max(by_hour)) in {14, 15}
    assert max(by_hour) == pytest.approx(150, abs=2)
    assert min(by_hour) == pytest.approx(50, abs=2)


def test_all_at_once_starts_everything_at_nothing(make):
    sessions = list(make("batch", {"kind": "all_at_once", "sessions": 30}).sessions(0))
    assert [session.intended_offset_ns for session in sessions] == [0] * 30


LAWS = st.one_of(
    st.just(("poisson", None)),
    st.just(("constant", None)),
    st.tuples(st.sampled_from(["gamma", "weibull"]), st.floats(0.2, 5)),
)
RATES = st.floats(0, 50)


@settings(max_examples=80, deadline=None)
@given(
    law=LAWS,
    rates=st.lists(st.tuples(st.floats(0.1, 20), RATES, RATES), min_size=1, max_size=5),
    repeats=st.booleans(),
)
def test_any_schedule_gives_rising_times_at_which_the_rate_is_not_nothing(law, rates, repeats):
    segments = tuple(Segment(*one) for one in rates)
    if repeats and not any(one.from_per_s + one.to_per_s > 0.1 for one in segments):
        return  # nothing would ever start: the profile's rules refuse it
    times = list(itertools.islice(arrivals_ns(Schedule(*law, segments, repeats), 1, "s"), 200))
    assert times == sorted(times)
    ends_s = list(itertools.accumulate(one.length_s for one in segments))
    for t_ns in times:
        at = t_ns / 1e9 % ends_s[-1] if repeats else t_ns / 1e9
        segment = next(
            (one for one, end in zip(segments, ends_s, strict=True) if at <= end + 1e-6),
            segments[-1],
        )
        assert segment.from_per_s + segment.to_per_s > 0 or any(
            abs(at - end) < 1e-6 for end in (0, *ends_s)
        )


@pytest.mark.parametrize(
    "load",
    [
        {"kind": "ramp", "from_per_s": 1, "to_per_s": 5, "ramp_s": 5, "sessions": 40},
        {
            "kind": "step",
            "steps": [{"rate_per_s": 3, "for_s": 4}],
            "process": "gamma",
            "cv": 2,
            "sessions": 40,
        },
        {"kind": "diurnal", "rate_per_s": 3, "sessions": 40},
        {"kind": "all_at_once", "sessions": 40},
    ],
)
@pytest.mark.parametrize("workers", [2, 5])
def test_workers_together_start_what_one_starts(make, load, workers):
    plan = make("chat", load)
    alone = list(plan.sessions(0))
    shared = [
        session
        for worker in range(workers)
        for session in plan.sessions(0, worker=worker, workers=workers)
    ]
    assert sorted(shared, key=lambda session: session.number) == alone
    assert len({session.session_id for session in shared}) == 40


def test_a_rate_next_to_nothing_ends_the_schedule():
    """Found by the property above: the next start of such a ramp lies beyond any number of
    nanoseconds.
    """
    ramp = Schedule("poisson", None, (Segment(1.0, 0.0, 1.1125369292536007e-308),), False)
    assert list(arrivals_ns(ramp, 1, "s")) == []
