"""Intervals within a run: how often they hold the truth, and when there is none.
benchmarks/coverage/bench_statistics.py has the whole picture.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.reduce.statistics.intervals import (
    QUANTILES,
    distribution,
    mean_error,
    mean_interval,
    quantile_intervals,
)

floats = st.lists(st.floats(0.001, 1000), min_size=1, max_size=300)


def queue(draw: np.random.Generator, runs: int, length: int, utilisation: float) -> np.ndarray:
    """Times in a stationary M/M/1 queue by Lindley's recursion, step by step."""
    wait = np.where(
        draw.random(runs) < utilisation, draw.exponential(1 / (1 - utilisation), size=runs), 0.0
    )
    out = np.empty((length, runs))
    for i in range(length):
        service = draw.exponential(size=runs)
        out[i] = wait + service
        wait = np.maximum(0.0, out[i] - draw.exponential(1 / utilisation, size=runs))
    return out.T


def test_quantiles_of_a_queue_are_covered_or_absent() -> None:
    """300 queues of 3,000: 95 % nominal for p50 and p90 (three standard errors: 91.2 to 98.8 %);
    too short for p99.9.
    """
    found = [quantile_intervals(row) for row in queue(np.random.default_rng(3), 300, 3000, 0.5)]
    for name in ("p50", "p90"):
        truth = -math.log(1 - QUANTILES[name]) / 0.5
        given = [one[name] for one in found]
        held = [low <= truth <= high for low, high in filter(None, given)]
        assert len(held) > 280
        assert 0.912 <= np.mean(held) <= 0.988
    assert all(one["p999"] is None for one in found)


def test_the_mean_of_a_correlated_series_is_covered_or_absent() -> None:
    """An AR(1) series with phi 0.9, 300 runs of each length."""
    draw = np.random.default_rng(4)
    for length, least in ((100, 0), (3000, 290)):
        series = draw.normal(size=(length + 200, 300))
        for i in range(1, len(series)):
            series[i] += 0.9 * series[i - 1]
        given = [
            one
            for one in (mean_interval(np.ascontiguousarray(row)) for row in series[200:].T)
            if one is not None
        ]
        if least:
            assert len(given) > least
            assert 0.912 <= np.mean([low <= 0 <= high for low, high in given]) <= 0.988
        else:
            assert len(given) < 30


def test_a_trend_has_no_interval() -> None:
    assert mean_interval(np.linspace(10, 100, 640)) is None
    assert mean_interval(np.full(640, 5.0)) is None


def test_the_error_of_independent_batches_is_students() -> None:
    """Without correlation the variance is s^2 / k, up to the correction for what was not known
    beforehand.
    """
    means = np.tile([1.0, -1.0, -1.0, 1.0], 8)  # lag-1 correlation -1/32 before correction
    error = mean_error(means)
    assert error is not None
    assert error.variance == pytest.approx(1 / 31, rel=0.1)
    assert 9 < error.df < 11


@given(values=floats, censored=st.integers(0, 20), seed=st.integers(0, 99))
def test_intervals_hold_their_percentile_and_stay_within_the_extremes(
    values: list[float], censored: int, seed: int
) -> None:
    series = np.concatenate([np.repeat(values, 4), np.full(censored, np.inf)])
    np.random.default_rng(seed).shuffle(series)
    found = distribution(series[np.isfinite(series)], censored, series=series)
    points = [found.min, found.p50, found.p90, found.p95, found.p99, found.p999, found.max]
    known = [p for p in points if p is not None]
    assert known == sorted(known)
    for name in QUANTILES:
        interval, value = found.ci[name], getattr(found, name)
        if interval is not None:
            assert value is not None
            assert min(series) <= interval[0] <= value <= interval[1] <= max(values)


def test_censored_values_take_part_in_the_interval() -> None:
    """Values that are known to be large only widen what the largest known ones bound; a share of 2
    % leaves nothing of p99.
    """
    draw = np.random.default_rng(6)
    series = draw.exponential(size=20_000)
    whole = quantile_intervals(series)
    some = quantile_intervals(np.where(series > np.quantile(series, 0.999), np.inf, series))
    assert some["p99"] == whole["p99"]
    many = quantile_intervals(np.where(series > np.quantile(series, 0.98), np.inf, series))
    assert many["p99"] is None
    assert many["p50"] == whole["p50"]


def test_no_interval_is_asked_for_none_is_given() -> None:
    assert distribution(np.arange(100.0)).ci == {}
    assert distribution(np.arange(5.0), series=np.arange(5.0)).ci == {
        "mean": None,
        **dict.fromkeys(QUANTILES),
    }


@given(
    values=st.lists(st.floats(0.001, 1000), min_size=64, max_size=200), censored=st.integers(0, 3)
)
def test_a_mean_of_which_some_are_not_known_is_absent_and_so_is_its_interval(
    values: list[float], censored: int
) -> None:
    series = np.concatenate([values, np.full(censored, np.inf)])
    found = distribution(np.array(values), censored, series=series)
    assert (found.mean is None) is (censored > 0)
    assert (found.max is None) is (censored > 0)
    assert found.min == min(values)
    if censored:
        assert found.ci["mean"] is None
    elif found.ci["mean"] is not None:
        low, high = found.ci["mean"]
        assert low <= found.mean <= high


def test_batches_that_go_together_have_no_interval() -> None:
    """A wave of which the run holds two: neighbouring batches are alike, so nobody knows what the
    next hour would bring.
    """
    wave = np.sin(np.linspace(0, 4 * np.pi, 640))
    noise = np.random.default_rng(1).normal(scale=0.1, size=640)
    assert mean_interval(10 + wave + noise) is None
    assert mean_interval(10 + noise) is not None
    assert (
        mean_interval(np.random.default_rng(1).normal(size=31)) is None
    )  # a batch is one value at least
