import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.compare.hypothesis_tests import (
    holm,
    one_sample,
    outlier,
    two_samples,
    welch,
)
from harness.reduce.statistics.student_t import t_beyond, t_quantile

SIDE = st.lists(st.floats(-5, 5), min_size=2, max_size=6)


def test_welch_on_a_worked_example():
    # Two sides of three: variances 1 and 4, so the squared error is 5/3 and Welch-Satterthwaite
    # gives 50/17 = 2.94 degrees of freedom.
    found = welch([1.0, 2.0, 3.0], [4.0, 6.0, 8.0])
    assert found.difference == pytest.approx(4.0)
    assert found.df == pytest.approx(50 / 17)
    assert found.half_width == pytest.approx(t_quantile(0.95, 50 / 17) * math.sqrt(5 / 3), rel=1e-9)
    assert 3.1825 < t_quantile(0.95, 50 / 17) < 4.3027  # between 3 and 2 degrees of freedom
    assert found.p_value == pytest.approx(2 * t_beyond(4 / math.sqrt(5 / 3), 50 / 17))


@given(SIDE, SIDE, st.floats(0, 1))
def test_a_systematic_error_never_makes_a_difference_clearer(a, b, systematic):
    plain, wide = welch(a, b), welch(a, b, systematic=systematic)
    if plain.half_width is None:
        assert wide.half_width is None
    else:
        assert wide.half_width == pytest.approx(plain.half_width + systematic)
        assert wide.p_value >= plain.p_value - 1e-12


def test_repeats_without_any_spread_yield_no_interval():
    found = welch([2.0, 2.0], [3.0, 3.0])
    assert (found.difference, found.half_width, found.p_value) == (1.0, None, None)


def test_the_interval_covers_the_truth_at_its_level_and_equal_systems_seldom_differ():
    rng = np.random.default_rng(7)
    covered = alarms = 0
    for _ in range(700):
        a, b = rng.normal(0, 1, 4), rng.normal(0.5, 2, 3)
        found = welch(a.tolist(), b.tolist())
        covered += abs(found.difference - 0.5) <= found.half_width
        alarms += welch(a.tolist(), rng.normal(0, 1, 4).tolist()).p_value < 0.05
    assert 0.94 < covered / 700 <= 0.985
    assert alarms / 700 < 0.06


def test_holm_corrects_for_the_number_of_questions():
    assert holm({"a": 0.04}) == {"a"}
    assert holm({"a": 0.04, "b": 0.5}) == frozenset()
    assert holm({"a": 0.01, "b": 0.03, "c": 0.9}) == {"a"}
    assert holm({"a": 0.01, "b": 0.02, "c": 0.04}) == {"a", "b", "c"}
    assert holm({}) == frozenset()


@pytest.mark.parametrize(
    ("n_a", "n_b", "margin"), [(3, 3, 0.025), (5, 5, 0.025), (4, 7, 0.0), (2, 10, 0.05)]
)
def test_the_detectable_effect_is_the_one_that_simulation_detects(n_a, n_b, margin):
    rng = np.random.default_rng(3)
    deviation = 0.015
    design = two_samples(deviation, n_a, n_b, 0.01, margin=margin)
    effect = design.detectable()
    found = 0
    for _ in range(500):
        difference = welch(
            rng.normal(0, deviation, n_a).tolist(), rng.normal(effect, deviation, n_b).tolist()
        )
        found += (
            difference.difference > margin
            and t_beyond(difference.difference / difference.error, difference.df) < 0.01
        )
    assert found / 500 == pytest.approx(0.9, abs=0.035)
    assert design.detection(effect) == pytest.approx(0.9, abs=1e-3)
    assert design.detection(0.0) <= 0.0101


def test_detection_of_one_sample_agrees_with_simulation():
    rng = np.random.default_rng(4)
    design = one_sample(1.0, 5, 0.01)
    effect = design.detectable()
    sample = rng.normal(effect, 1, (4000, 5))
    t = sample.mean(axis=1) / (sample.std(axis=1, ddof=1) / math.sqrt(5))
    assert np.mean(t > t_quantile(0.98, 4)) == pytest.approx(0.9, abs=0.015)


@given(st.floats(0.001, 0.2), st.integers(2, 8), st.floats(0, 0.1))
def test_more_noise_a_margin_or_a_sensor_never_make_smaller_effects_detectable(deviation, n, extra):
    plain = two_samples(deviation, n, n, 0.01).detectable()
    assert two_samples(deviation * 1.5, n, n, 0.01).detectable() >= plain
    assert two_samples(deviation, n, n, 0.01, margin=extra).detectable() >= plain * (1 - 1e-3)
    assert two_samples(deviation, n, n, 0.01, systematic=extra).detectable() >= plain * (1 - 1e-3)
    assert two_samples(deviation, n + 1, n + 1, 0.01).detectable() <= plain


def test_without_noise_the_margin_alone_decides():
    design = two_samples(0.0, 3, 3, 0.01, margin=0.05)
    assert design.detectable() == pytest.approx(0.05)
    assert (design.detection(0.04), design.detection(0.06)) == pytest.approx((0.0, 1.0))


def test_a_value_apart_is_named_and_equal_ones_are_not():
    assert outlier([10.0, 10.1, 9.9, 10.05, 14.0]) == 4
    assert outlier([10.0, 10.1, 9.9, 10.05, 10.2]) is None
    assert outlier([1.0, 1.0, 1.0, 1.0, 1.0]) is None
    assert outlier([1.0, 1.0, 9.0]) is None  # three cannot tell
    rng = np.random.default_rng(5)
    assert sum(outlier(rng.normal(0, 1, 5).tolist()) is not None for _ in range(1000)) < 25


def test_values_that_are_equal_have_no_spread_at_all():
    third = math.log(0.4)
    assert welch([third] * 5, [third] * 5).p_value is None
