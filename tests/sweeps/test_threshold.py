"""Estimate of a threshold and the next probe's load."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.sweeps.probe_likelihood import LINKS, NOISES, WIDTHS, Observation, likelihood, table
from harness.sweeps.threshold import (
    Found,
    Limits,
    Observed,
    estimate,
    is_finished,
    next_load,
    outliers,
    posterior,
)

LIMITS = Limits(1, 128)
TYPICAL = ((8.0, 300), (16.0, 296), (32.0, 120), (20.0, 287), (22.0, 280))
loads = st.floats(1, 100)
probe_lists = st.lists(st.tuples(loads, st.integers(0, 300)), min_size=2, max_size=5)


def condition(
    probes: Sequence[tuple[float, float]], target: float = 0.95, scale: float = 1.0
) -> Observed:
    return Observed(target, tuple(Observation(load * scale, k, 300) for load, k in probes))


def median(probes: Sequence[tuple[float, float]], **options: float) -> float:
    return posterior(condition(probes, **options)).quantile(0.5)


class TestLikelihood:
    def test_a_probe_at_the_threshold_without_noise_has_the_binomial_likelihood(self) -> None:
        found = table(0.95, 280.0, 300.0, False)
        widths, noises = np.array([len(WIDTHS) - 1]), np.array([0])
        ordinary, _ = likelihood(found, np.zeros(1), widths, noises)
        expected = 280 * math.log(0.95 * 300 / 280) + 20 * math.log(0.05 * 300 / 20)
        assert ordinary.shape == (1, 1, 1, LINKS)
        assert np.log(ordinary).ravel() == pytest.approx([expected] * LINKS, abs=0.05)

    def test_noise_averages_over_loads(self) -> None:
        found = table(0.95, 285.0, 300.0, False)
        widths, noises = np.array([5]), np.array([len(NOISES) - 1])
        y_s = np.linspace(-3, 3, 6001)
        area = [
            float(np.sum(likelihood(found, y_s, widths, which)[0][0, 0, :, 0]))
            for which in (noises, np.array([0]))
        ]
        assert area[0] == pytest.approx(area[1], rel=0.01)

    def test_an_outlier_lost_capacity(self) -> None:
        found = table(0.95, 0.0, 300.0, False)
        _, outlier = likelihood(found, np.log([0.5, 0.8, 1.0]), np.array([0]), np.array([0]))
        assert outlier[0, 0, 0] < 1e-3
        assert 0.3 < outlier[0, 1, 0] < 0.8
        lapse = 0.9995**300  # no good request, where one in 2,000 is good at any load
        assert outlier[0, 2, 0] == pytest.approx(lapse, rel=1e-3)

    def test_at_most_includes_fewer_good_answers(self) -> None:
        exact, bound = (table(0.95, 200.0, 300.0, at_most) for at_most in (False, True))
        y_s, last = np.array([2.0]), np.array([0])
        assert likelihood(bound, y_s, last, last)[0] == pytest.approx(1.0, abs=1e-3)
        assert likelihood(exact, y_s, last, last)[0] == pytest.approx(0.0, abs=1e-3)


class TestPosterior:
    def test_known_capacity(self) -> None:
        found = posterior(condition(TYPICAL))
        assert 18 < found.quantile(0.025) < found.quantile(0.5) < found.quantile(0.975) < 24
        assert 0.003 < found.tau < 0.12

    def test_grid_is_finer_than_the_interval(self) -> None:
        found = posterior(condition(TYPICAL))
        step = float(found.log_x[1] - found.log_x[0])
        assert step < math.log(found.quantile(0.975) / found.quantile(0.025)) / 10

    @settings(deadline=None, max_examples=20)
    @given(probe_lists, st.randoms(use_true_random=False))
    def test_order_does_not_matter(self, probes: list[tuple[float, int]], random: object) -> None:
        shuffled = list(probes)
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        assert median(shuffled) == median(probes)

    @settings(deadline=None, max_examples=20)
    @given(probe_lists, st.floats(0.01, 100))
    def test_scale_does_not_matter(self, probes: list[tuple[float, int]], scale: float) -> None:
        assert median(probes, scale=scale) == pytest.approx(scale * median(probes), rel=1e-3)

    @settings(deadline=None, max_examples=20)
    @given(st.integers(150, 295), st.integers(1, 5))
    def test_more_good_answers_never_lower_it(self, good: int, more: int) -> None:
        before = posterior(condition(((10, 300), (14, good))))
        wobble = 0.02 * (before.quantile(0.975) - before.quantile(0.025))  # of the grid
        after = median(((10, 300), (14, good + more)))
        assert after >= before.quantile(0.5) - wobble

    def test_none_without_probes(self) -> None:
        with pytest.raises(ValueError, match="at least one observation"):
            posterior(Observed(0.95, ()))


def test_a_slow_probe_is_an_outlier_and_moves_little() -> None:
    usual = (*TYPICAL, (19.0, 288), (21.0, 284), (20.5, 285))
    slow = condition((*usual, (18.0, 20)))
    found = posterior(slow)
    assert outliers(slow, found) == (len(usual),)
    assert outliers(condition(usual), posterior(condition(usual))) == ()
    assert found.quantile(0.5) == pytest.approx(median(usual), rel=0.03)


class TestEstimate:
    def test_the_smallest_condition_binds(self) -> None:
        strict, loose = condition(TYPICAL), condition(TYPICAL, 0.5)
        found = estimate([loose, strict], LIMITS)
        assert found.found is Found.INTERVAL
        assert found.binding == 1
        assert found.load == pytest.approx(posterior(strict).quantile(0.5))

    def test_no_load_meets_it(self) -> None:
        found = estimate([condition(((1, 90), (1, 90)))], LIMITS)
        assert found.found is Found.BELOW
        assert found.share == pytest.approx(0.3)

    def test_every_load_meets_it(self) -> None:
        found = estimate([condition(((64, 300), (128, 300)))], LIMITS)
        assert found.found is Found.BEYOND
        assert found.low is not None
        assert found.low > LIMITS.end

    def test_unknown_without_probes(self) -> None:
        assert estimate([Observed(0.95, ())], LIMITS).found is Found.UNKNOWN


def answer(load: float, capacity: float, target: float = 0.95) -> Observation:
    good = 300 * min(1.0, target * (capacity / load) ** 4)
    return Observation(load, round(good), 300)


def search(limits: Limits, capacities: Sequence[float]) -> list[float]:
    done: list[float] = []
    while True:
        tiers = [[Observed(0.95, tuple(answer(load, one) for load in done))] for one in capacities]
        load = next_load(tiers, limits)
        if load is None:
            return done
        done.append(load)


class TestNextLoad:
    def test_doubles_until_a_probe_fails(self) -> None:
        assert search(LIMITS, [20.0])[:6] == [1, 2, 4, 8, 16, 32]

    def test_halves_from_a_guess_that_fails(self) -> None:
        assert search(Limits(1, 128, guess=64), [20.0])[:3] == [64, 32, 16]

    def test_then_stays_near_the_capacity_in_integers(self) -> None:
        found = search(Limits(1, 128, precision=0.05), [20.0])
        assert all(load == int(load) and 16 <= load <= 32 for load in found[6:])
        assert len(found) < LIMITS.max_points

    def test_stops_at_the_precision(self) -> None:
        limits = Limits(0.5, 64, whole=False, precision=0.02)
        found = search(limits, [7.3])
        last = [Observed(0.95, tuple(answer(load, 7.3) for load in found))]
        assert is_finished(estimate(last, limits), limits)
        assert not is_finished(
            estimate([Observed(0.95, last[0].observations[:-1])], limits), limits
        )

    def test_stops_at_the_most_points(self) -> None:
        assert len(search(Limits(1, 128, precision=0.0, whole=False, max_points=9), [20.0])) == 9

    def test_stops_where_every_load_passes_or_none(self) -> None:
        assert set(search(LIMITS, [1000.0])) == {1, 2, 4, 8, 16, 32, 64, 128}
        assert set(search(LIMITS, [0.1])) == {1}

    def test_every_tier_is_climbed_to(self) -> None:
        found = search(LIMITS, [10.0, 40.0])
        assert found[:7] == [1, 2, 4, 8, 16, 32, 64]
        assert any(8 < load < 16 for load in found)
        assert any(32 < load < 64 for load in found)

    def test_resumed_asks_what_the_unbroken_search_asked(self) -> None:
        whole = search(LIMITS, [20.0])
        for cut in range(len(whole)):
            done = tuple(answer(load, 20.0) for load in whole[:cut])
            assert next_load([[Observed(0.95, done)]], LIMITS) == whole[cut]
