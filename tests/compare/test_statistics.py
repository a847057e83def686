import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.compare.statistics import holm, t_quantile, t_within, welch

SIDE = st.lists(st.floats(-5, 5), min_size=2, max_size=6)


@pytest.mark.parametrize(
    ("df", "within", "t"),
    # Abramowitz & Stegun, table 26.10
    [
        (1, 0.95, 12.706),
        (2, 0.95, 4.303),
        (3, 0.95, 3.182),
        (4, 0.99, 4.604),
        (5, 0.95, 2.571),
        (10, 0.90, 1.812),
        (29, 0.95, 2.045),
        (30, 0.99, 2.750),
    ],
)
def test_student_t_agrees_with_the_printed_table(df, within, t):
    assert t_quantile(within, df) == pytest.approx(t, abs=6e-4)
    assert t_within(t, df) == pytest.approx(within, abs=1e-4)


@given(st.floats(0, 50), st.integers(1, 60))
def test_student_t_is_a_probability_that_grows_with_t(t, df):
    assert 0 <= t_within(t, df) <= t_within(t + 0.5, df) + 1e-12 <= 1 + 1e-11


def test_welch_on_a_worked_example():
    # Two sides of three: variances 1 and 4, so the squared error is 5/3 and Welch-Satterthwaite gives 50/17 = 2.94 degrees of freedom.
    found = welch([1.0, 2.0, 3.0], [4.0, 6.0, 8.0])
    assert found.difference == pytest.approx(4.0)
    assert found.df == pytest.approx(50 / 17)
    assert found.half_width == pytest.approx(t_quantile(0.95, 50 / 17) * math.sqrt(5 / 3), rel=1e-9)
    assert 3.1825 < t_quantile(0.95, 50 / 17) < 4.3027  # between 3 and 2 degrees of freedom
    assert found.p_value == pytest.approx(1 - t_within(4 / math.sqrt(5 / 3), 50 / 17))


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
    for _ in range(2000):
        a, b = rng.normal(0, 1, 4), rng.normal(0.5, 2, 3)
        found = welch(a.tolist(), b.tolist())
        covered += abs(found.difference - 0.5) <= found.half_width
        alarms += welch(a.tolist(), rng.normal(0, 1, 4).tolist()).p_value < 0.05
    assert 0.94 < covered / 2000 <= 0.985
    assert alarms / 2000 < 0.06


def test_holm_corrects_for_the_number_of_questions():
    assert holm({"a": 0.04}) == {"a"}
    assert holm({"a": 0.04, "b": 0.5}) == frozenset()
    assert holm({"a": 0.01, "b": 0.03, "c": 0.9}) == {"a"}
    assert holm({"a": 0.01, "b": 0.02, "c": 0.04}) == {"a", "b", "c"}
    assert holm({}) == frozenset()
