"""Attribution: known coefficients come back from stages made for it, and stages that cannot tell
the terms apart are refused.
"""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness.reduce.energy.attribution import (
    CONDITION_LIMIT,
    HELD_OUT_LIMIT,
    TERMS,
    StageSlices,
    components,
    fit,
    slice_edges,
)

TRUTH = np.array([180.0, 0.02, 0.30, 4e-5])

# (name, computed tok/s, output tok/s, context tok, requests in flight, share of input from cache)
PLAN = [
    ("prefill", 9000.0, 60.0, 600.0, 16.0, 0.0),
    ("decode b8 short", 60.0, 300.0, 300.0, 8.0, 0.0),
    ("decode b32 short", 180.0, 900.0, 300.0, 32.0, 0.0),
    ("decode b128 short", 400.0, 2000.0, 300.0, 128.0, 0.0),
    ("decode b8 long", 30.0, 250.0, 6000.0, 8.0, 0.95),
    ("decode b32 long", 90.0, 700.0, 6000.0, 32.0, 0.95),
]


def stage(
    name,
    computed,
    output,
    context,
    in_flight,
    cached,
    *,
    truth=TRUTH,
    noise=0.0,
    slices=12,
    seed=0,
    spread=0.0,
    bend=0.0,
):
    rng = np.random.default_rng([seed, *name.encode()])
    seconds = np.full(slices, 5.0)
    vary = 1 + spread * rng.standard_normal((slices, 2))
    work = np.column_stack(
        [
            seconds,
            computed * seconds * vary[:, 0],
            output * seconds * vary[:, 1],
            output * context * seconds * vary[:, 1],
        ]
    )
    joules = work @ truth
    joules = (
        joules * (1 - bend * joules / (seconds * 700)) * (1 + noise * rng.standard_normal(slices))
    )
    return StageSlices(name, joules, work, in_flight, cached if computed else None)


def stages(**how):
    return [stage("idle", 0.0, 0.0, 0.0, 0.0, None, **how), *(stage(*row, **how) for row in PLAN)]


FITTED = fit(stages())


def without(found, *names):
    return [one for one in found if one.name not in names]


@settings(max_examples=20, deadline=None)
@given(
    truth=st.tuples(
        st.floats(40, 400), st.floats(0.001, 0.1), st.floats(0.02, 1.0), st.floats(1e-6, 2e-4)
    ),
    seed=st.integers(0, 10**6),
)
def test_known_coefficients_come_back(truth, seed):
    truth = np.array(truth)
    found = fit(stages(truth=truth, spread=0.1, seed=seed))
    assert found.stands, found.reason
    assert found.values == pytest.approx(truth, rel=1e-6)
    assert found.condition_number <= CONDITION_LIMIT
    assert max(map(abs, found.held_out.values())) < 1e-6


def test_noise_widens_the_error_and_the_error_holds_the_truth():
    held = 0
    for seed in range(20):
        found = fit(stages(noise=0.02, spread=0.05, seed=seed))
        assert found.stands, found.reason
        assert 0 < found.residual_ratio < 0.05
        held += all(
            abs(c.value - t) <= c.error + 1e-12
            for c, t in zip(found.coefficients, TRUTH, strict=True)
        )
    assert held >= 16


def test_coefficients_are_never_negative():
    found = fit(stages(truth=np.array([200.0, 0.02, 0.3, 0.0]), noise=0.02, seed=4))
    assert np.all(found.values >= 0)


@given(ratio=st.floats(0.5, 3), context=st.floats(100, 8000))
@settings(max_examples=20, deadline=None)
def test_collinear_stages_are_refused(ratio, context):
    """One mix of work at several loads: whatever the loads, input, output and context go together."""
    rows = [(f"c{n}", 40.0 * n * ratio, 40.0 * n, context, float(n), 0.6) for n in (4, 16, 64, 128)]
    found = fit(
        [stage("idle", 0.0, 0.0, 0.0, 0.0, None), *(stage(*row) for row in rows)],
        check_design=False,
    )
    assert not found.stands
    assert "collinear" in found.reason
    assert all(c.value is None for c in found.summarized().coefficients.values())


def test_one_window_alone_is_refused():
    found = fit([stage(*PLAN[2], spread=0.3)])
    assert (found.stands, found.coefficients, found.condition_number) == (False, (), None)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (("idle",), "energy.idle_s"),
        (("prefill",), "prefill only"),
        (("decode b8 short", "decode b8 long"), "3 batch sizes"),
        (("decode b8 long", "decode b32 long"), "2 context sizes"),
        (("decode b8 long", "decode b32 long"), "cached prefix"),
    ],
)
def test_each_stage_that_is_missing_is_named(gone, said):
    found = fit(without(stages(spread=0.05), *gone))
    assert not found.stands
    assert said in found.reason


def test_a_machine_that_the_model_does_not_describe_is_refused():
    found = fit(stages(bend=0.6))
    assert not found.stands
    assert max(map(abs, found.held_out.values())) > HELD_OUT_LIMIT
    assert found.summarized().coefficients["time"].value is None


def test_slices_without_joules_are_refused():
    broken = stages()
    broken[3] = StageSlices(broken[3].name, broken[3].joules * math.nan, broken[3].work, 8.0, 0.0)
    assert broken[3].name in fit(broken).reason


@given(st.floats(0, 1e5), st.floats(0, 1e5), st.floats(0, 1e9), st.floats(1, 1e6))
@settings(max_examples=20, deadline=None)
def test_the_components_add_up_to_the_windows_joules(computed, output, context, joules):
    parts = components(FITTED, np.array([60.0, computed, output, context]), joules)
    assert set(parts) == {*TERMS, "unexplained"}
    assert sum(parts.values()) == pytest.approx(joules, rel=1e-9, abs=1e-6)


@given(st.floats(0, 1e4), st.floats(0.1, 3000))
def test_slices_are_at_least_five_seconds(start_s, length_s):
    assume(abs(length_s % 5) > 1e-6)
    edges = slice_edges(start_s * 1e9, (start_s + length_s) * 1e9)
    assert np.all(np.diff(edges) >= 5e9 * (1 - 1e-6))
    assert (len(edges) == 1) is (length_s < 5)
