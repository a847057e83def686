"""Student's t against printed tables and closed forms."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.reduce.statistics.student_t import t_beyond, t_quantile


@pytest.mark.parametrize(
    ("df", "within", "t"),
    # Abramowitz & Stegun, table 26.10
    [
        (1, 0.95, 12.706),
        (2, 0.95, 4.303),
        (4, 0.99, 4.604),
        (10, 0.90, 1.812),
        (29, 0.95, 2.045),
        (31, 0.95, 2.0395),
        (30, 0.99, 2.750),
        (1e6, 0.95, 1.95996),
    ],
)
def test_quantiles_are_those_of_the_printed_table(df, within, t):
    assert t_quantile(within, df) == pytest.approx(t, abs=6e-4)


def test_one_degree_of_freedom_is_cauchy():
    assert t_quantile(0.9, 1) == pytest.approx(math.tan(math.pi * 0.45), rel=1e-12)


@pytest.mark.parametrize("t", [0.1, 1.0, 3.0, 12.0])
def test_probabilities_are_exact_where_there_is_a_closed_form(t):
    root = math.sqrt(2 + t * t)
    assert t_beyond(t, 1) == pytest.approx(math.atan2(1, t) / math.pi, rel=1e-12)
    assert t_beyond(t, 2) == pytest.approx(1 / (root * (root + t)), rel=1e-12)
    assert t_beyond(-t, 2) == pytest.approx(1 - t_beyond(t, 2), rel=1e-12)


@given(df=st.floats(1, 500), within=st.floats(0.01, 0.999))
def test_the_quantile_inverts_the_distribution(df, within):
    assert 2 * t_beyond(t_quantile(within, df), df) == pytest.approx(1 - within, rel=1e-10)


def test_fractional_degrees_of_freedom_lie_between_whole_ones():
    assert t_quantile(0.95, 3) < t_quantile(0.95, 2.5) < t_quantile(0.95, 2)
