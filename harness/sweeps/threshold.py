"""Bayesian estimate of the load at which a share of good requests falls to its target."""
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from harness.sweeps.probe_likelihood import (
    NOISES, OUTLIER, WIDTHS, Floats, Ints, Observation, likelihood, table,
)

_POINTS: Final = 64
_BEYOND: Final = math.log(4.0)
_NEGLIGIBLE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class _Grid:
    x: Floats
    widths: Ints
    noises: Ints


def log_prior(grid: _Grid) -> Floats:
    w = np.zeros(len(grid.widths))
    t = TAU_POWER * np.log(NOISES[grid.noises])
    return w[:, None, None, None] + t[None, :, None, None] + np.zeros((1, 1, len(grid.x), 4))

TAU_POWER = 0.0


def _log_posterior(observations, target, grid):
    total = log_prior(grid)
    product = np.ones_like(total)
    for i, one in enumerate(observations):
        found = table(target, one.good, one.n, one.at_most)
        main, outlier = likelihood(found, math.log(one.load) - grid.x, grid.widths, grid.noises)
        product *= (1 - OUTLIER) * main + OUTLIER * outlier[:, None] + 1e-30
        if i % 8 == 7:
            total += np.log(product)
            product[:] = 1
    return total + np.log(product)


def _support(density, share=_NEGLIGIBLE):
    inside = np.flatnonzero(density > share * density.max())
    return int(inside[0]), int(inside[-1])


@dataclass(frozen=True)
class Posterior:
    grid: _Grid
    weight: Floats

    @property
    def density(self):
        return self.weight.sum(axis=(0, 1, 3))

    def quantile(self, q):
        d = self.density
        step = self.grid.x[1] - self.grid.x[0]
        cdf = np.concatenate([[0], np.cumsum((d[1:] + d[:-1]) / 2)])
        return math.exp(float(np.interp(q * cdf[-1], cdf, self.grid.x)))


def posterior(observations, target):
    loads = np.log([one.load for one in observations])
    low, high = loads.min() - _BEYOND, loads.max() + _BEYOND
    allw, allt = np.arange(len(WIDTHS)), np.arange(len(NOISES))
    widths, noises = allw[::2], allt[::2]
    for rnd in range(8):
        grid = _Grid(np.linspace(low, high, _POINTS), widths, noises)
        logp = _log_posterior(observations, target, grid)
        weight = np.exp(logp - logp.max())
        d = weight.sum(axis=(0, 1, 3))
        a, b = _support(d)
        step = grid.x[1] - grid.x[0]
        nlow, nhigh = grid.x[max(a - 2, 0)], grid.x[min(b + 2, _POINTS - 1)]
        done = (nhigh - nlow) > 0.6 * (high - low)
        if done and len(widths) and rnd and full:
            return Posterior(grid, weight / weight.sum())
        full = done or (nhigh - nlow) < 0.3
        if full:
            w0, w1 = _support(weight.sum(axis=(1, 2, 3)), 1e-4)
            t0, t1 = _support(weight.sum(axis=(0, 2, 3)), 1e-4)
            widths = np.arange(max(widths[w0] - 1, 0), min(widths[w1] + 2, len(WIDTHS)))
            noises = np.arange(max(noises[t0] - 1, 0), min(noises[t1] + 2, len(NOISES)))
        low, high = nlow, nhigh
    return Posterior(grid, weight / weight.sum())
