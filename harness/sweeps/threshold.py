"""Bayesian estimate of the highest load that meets an SLO, and the load to probe next.

docs/explanation/statistics.md ("Capacity at an SLO") has the model and its measured coverage. All
functions are pure: the same observations, in any order, give the same result.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist
from typing import Final

import numpy as np

from harness.sweeps.probe_likelihood import (
    LINKS,
    NOISES,
    OUTLIER,
    WIDTHS,
    Floats,
    Ints,
    Observation,
    likelihood,
    table,
)

POINTS: Final = 64
"""Values of x* in the grid, which zooms until they cover little more than the posterior."""
BEYOND: Final = math.log(4.0)
"""x* is at most this factor below the lowest and above the highest load."""
NEGLIGIBLE: Final = 1e-6
"""Density relative to the largest, below which the grid ends."""
QUANTILES: Final = (0.5, 0.8, 0.35)
"""Of the capacity that a probe will have, at which probes are made in turn."""
SURPRISING: Final = 0.001
"""Two-sided predictive probability below which a probe is reported as an outlier."""


@dataclass(frozen=True, slots=True)
class Observed:
    """A condition of a tier and its observations.

    Attributes:
        target: share of requests that must meet it, between 0 and 1.
    """

    target: float
    observations: tuple[Observation, ...]


@dataclass(frozen=True, slots=True)
class _Grid:
    """Values of ln(x*), and which of `WIDTHS` and `NOISES`."""

    x: Floats
    widths: Ints
    noises: Ints


@dataclass(frozen=True, slots=True)
class Posterior:
    """Posterior of a threshold.

    Attributes:
        log_x: grid of ln(x*).
        weight: (widths, noises, x, links), sums to 1.
        tau: posterior mean of the noise between probes.
    """

    log_x: Floats
    widths: Ints
    noises: Ints
    weight: Floats
    tau: float

    def quantile(self, q: float) -> float:
        """The load below which x* lies with probability q."""
        density = np.sum(self.weight, axis=(0, 1, 3))
        below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
        return math.exp(float(np.interp(q * below[-1], below, self.log_x)))


def _likelihoods(condition: Observed, one: Observation, grid: _Grid) -> tuple[Floats, Floats]:
    """Of an ordinary probe and of an outlier, with the dimensions of the grid and links."""
    found = table(condition.target, one.good, one.n, one.at_most)
    y_s = math.log(one.load) - grid.x
    ordinary, outlier = likelihood(found, y_s, grid.widths, grid.noises)
    return np.asarray(ordinary, dtype=np.float64), np.asarray(outlier[:, None], dtype=np.float64)


def _mixed(parts: tuple[Floats, Floats]) -> Floats:
    return (1 - OUTLIER) * parts[0] + OUTLIER * parts[1] + 1e-30


def _weight(condition: Observed, grid: _Grid) -> Floats:
    """Posterior density on the grid, relative to its largest value."""
    shape = (len(grid.widths), len(grid.noises), len(grid.x), LINKS)
    total = np.zeros(shape)  # the prior is flat over ln(x*), ln(s) and ln(tau)
    for i in range(0, len(condition.observations), 8):  # products of more could underflow
        product = np.ones(shape)
        for one in condition.observations[i : i + 8]:
            product *= _mixed(_likelihoods(condition, one, grid))
        total += np.log(product)
    weight: Floats = np.exp(total - np.max(total))
    return weight


def _support(density: Floats, negligible: float) -> tuple[int, int]:
    inside = np.flatnonzero(density > negligible * np.max(density))
    return int(inside[0]), int(inside[-1])


def _around(values: Ints, density: Floats, size: int) -> Ints:
    first, last = _support(density, 1e-4)
    return np.arange(max(values[first] - 1, 0), min(values[last] + 2, size))


def posterior(condition: Observed) -> Posterior:
    """The posterior of a condition's threshold.

    The grid of x* starts wide and zooms: a step above the precision would bias the result. All of s
    and tau are used once the window of x* is narrow or stops shrinking.

    Raises:
        ValueError: no observation.
    """
    if not condition.observations:
        raise ValueError("a posterior needs at least one observation")
    ordered = sorted(condition.observations, key=lambda o: (o.load, o.good, o.n, o.at_most))
    condition = Observed(condition.target, tuple(ordered))
    low, high = math.log(ordered[0].load) - BEYOND, math.log(ordered[-1].load) + BEYOND
    widths, noises = np.arange(0, len(WIDTHS), 2), np.arange(0, len(NOISES), 2)
    full = False
    while True:
        grid = _Grid(np.linspace(low, high, POINTS), widths, noises)
        weight = _weight(condition, grid)
        first, last = _support(np.sum(weight, axis=(0, 1, 3)), NEGLIGIBLE)
        tight = float(grid.x[max(first - 2, 0)]), float(grid.x[min(last + 2, POINTS - 1)])
        still = tight[1] - tight[0] > 0.6 * (high - low)
        if still and full:
            break
        if still or tight[1] - tight[0] < 0.3:
            full = True
            widths = _around(widths, np.sum(weight, axis=(1, 2, 3)), len(WIDTHS))
            noises = _around(noises, np.sum(weight, axis=(0, 2, 3)), len(NOISES))
        low, high = tight
    weight /= np.sum(weight)
    tau = float(np.sum(weight, axis=(0, 2, 3)) @ NOISES[noises])
    return Posterior(grid.x, widths, noises, weight, tau)


def outliers(condition: Observed, found: Posterior) -> tuple[int, ...]:
    """Indices of the observations that the others do not explain: the probability of a share as far
    off, in an ordinary probe, is below `SURPRISING`.
    """
    grid = _Grid(found.log_x, found.widths, found.noises)

    def surprising(one: Observation) -> bool:
        others = found.weight / _mixed(_likelihoods(condition, one, grid))
        others /= np.sum(others)

        def at_most(good: float) -> float:
            bound = Observation(one.load, good, one.n, at_most=True)
            return float(np.sum(others * _likelihoods(condition, bound, grid)[0]))

        lower = at_most(one.good)
        upper = 1.0 if one.at_most or one.good < 1 else 1 - at_most(one.good - 1)
        return 2 * min(lower, upper) < SURPRISING

    every = condition.observations
    return tuple(i for i, one in enumerate(every) if len(every) > 2 and surprising(one))


# --- tiers ---


class Found(StrEnum):
    """What a search knows about a tier.

    `unknown`: no observations; `below`: no load from `from` on meets it; `beyond`: every load up to
    `to` does.
    """

    INTERVAL = "interval"
    BELOW = "below"
    BEYOND = "beyond"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a search may probe and when it stops.

    Attributes:
        start: lowest load, `end`: highest.
        whole: loads are integers (concurrency).
        precision: half of the 95% interval relative to the capacity, at which a tier is finished.
        max_points: number of probes.
        guess: load of the first probe; None: `start`.
    """

    start: float
    end: float
    whole: bool = True
    precision: float = 0.03
    max_points: int = 20
    guess: float | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """Capacity of a tier: the smallest of its conditions' thresholds.

    Attributes:
        load: median of the posterior, `low` and `high`: ends of the 95% interval.
        binding: index of the condition with the smallest median.
        tau: standard deviation of ln(capacity) between probes.
        share: share of good requests in all probes at the lowest load, for `Found.BELOW`.
    """

    found: Found
    load: float | None = None
    low: float | None = None
    high: float | None = None
    binding: int | None = None
    tau: float | None = None
    share: float | None = None

    @property
    def half_width(self) -> float | None:
        """Half of the interval of ln(load)."""
        if self.low is None or self.high is None:
            return None
        return math.log(self.high / self.low) / 2


def _smallest(found: Sequence[Posterior], q: float) -> float:
    """Quantile of the minimum. The conditions share their probes, so their errors go together: the
    quantile of the minimum is the minimum of the quantiles.
    """
    return min(one.quantile(q) for one in found)


def estimate(conditions: Sequence[Observed], limits: Limits) -> Estimate:
    """The capacity of a tier."""
    if not conditions or not all(one.observations for one in conditions):
        return Estimate(Found.UNKNOWN)
    every = [posterior(one) for one in conditions]
    load, low, high = (_smallest(every, q) for q in (0.5, 0.025, 0.975))
    found = Found.INTERVAL
    if high < limits.start:
        found = Found.BELOW
    elif low > limits.end:
        found = Found.BEYOND
    medians = [one.quantile(0.5) for one in every]
    binding = int(np.argmin(medians))
    at = [o for o in conditions[binding].observations if o.load == _lowest(conditions)]
    share = sum(o.good for o in at) / sum(o.n for o in at)
    return Estimate(found, load, low, high, binding, every[binding].tau, share)


def _lowest(conditions: Sequence[Observed]) -> float:
    return min(one.load for condition in conditions for one in condition.observations)


def is_finished(tier: Estimate, limits: Limits) -> bool:
    """Whether a tier needs no further probe: known to the precision, or to one integer."""
    if tier.low is None or tier.high is None or tier.half_width is None:
        return False
    if tier.found is not Found.INTERVAL or tier.half_width <= limits.precision:
        return True
    return limits.whole and (tier.high - tier.low) / 2 <= 0.5 and tier.low >= 1


def _outcomes(conditions: Sequence[Observed]) -> tuple[set[float], set[float]]:
    """Loads with a probe that met each condition, and loads with one that missed any."""
    passed = [{o.load for o in c.observations if o.good >= c.target * o.n} for c in conditions]
    failed = [{o.load for o in c.observations if o.good < c.target * o.n} for c in conditions]
    return set.intersection(*passed), set.union(*failed)


def next_load(tiers: Sequence[Sequence[Observed]], limits: Limits) -> float | None:
    """The load of the next probe, a pure function of the finished ones; None: the search is over.

    Doubling until each tier failed once (halving from a guess that failed), then the quantiles
    `QUANTILES` in turn of the unfinished tier with the widest interval. A tier that fails at the
    lowest load or passes at the highest is probed there again until the posterior is certain.
    """
    probes = max((len(c.observations) for tier in tiers for c in tier), default=0)
    if probes >= limits.max_points:
        return None
    if not probes:
        return _allowed(limits.start if limits.guess is None else limits.guess, limits)
    outcomes = [_outcomes(tier) for tier in tiers]
    highest, lowest = (
        f(o.load for t in tiers for c in t for o in c.observations) for f in (max, min)
    )
    if lowest > limits.start and any(not passed for passed, _ in outcomes):
        return _allowed(lowest / 2, limits)
    if highest < limits.end and any(not failed for _, failed in outcomes):
        return _allowed(highest * 2, limits)
    found = [(estimate(tier, limits), tier) for tier in tiers]
    left = [(one.half_width or 0.0, tier) for one, tier in found if not is_finished(one, limits)]
    if not left:
        return None
    widest = max(left, key=lambda pair: pair[0])[1]
    every = [posterior(one) for one in widest]
    return _allowed(_seen(every, QUANTILES[probes % len(QUANTILES)]), limits)


def _seen(every: Sequence[Posterior], q: float) -> float:
    """Quantile of the capacity that one more probe will have. It differs from x* by the noise
    between probes, so loads spread by tau however well x* is known: at x* alone, probes would show
    little of tau and of the curve's width.
    """
    middle = _smallest(every, 0.5)
    known = math.log(_smallest(every, q) / middle)
    noise = NormalDist().inv_cdf(q) * max(one.tau for one in every)
    return middle * math.exp(math.copysign(math.hypot(known, noise), q - 0.5))


def _allowed(load: float, limits: Limits) -> float:
    load = min(max(load, limits.start), limits.end)
    return float(round(load)) if limits.whole else load
