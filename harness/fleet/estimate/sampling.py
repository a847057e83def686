"""Draws of uncertain factors. Each has its own stream, so that adding one does not change others'
draws.
"""

import math
from typing import Final

import numpy as np

from harness.fleet.estimate.results import Floats
from harness.fleet.site.types import Prior

Z95: Final = 1.959964
"""97.5% quantile of the standard normal: half the width of a 95% interval in deviations."""

_Z90: Final = 1.644854  # 95% quantile: distance of P5 and P95 from the median in deviations

BLOCK: Final = 10_000
"""Draws of one block. Its stream depends only on the seed, the factor's name and its number."""


def draw(prior: Prior, rng: np.random.Generator, n: int) -> Floats:
    """Draws from a prior. Quantiles are cut at 1: they are of shares of a rated power."""
    match prior.kind:
        case "fixed":
            return np.full(n, prior.value)
        case "uniform":
            return rng.uniform(prior.low, prior.high, n)
        case "triangular":
            return rng.triangular(prior.low, prior.value, prior.high, n)
        case "quantiles":
            z = rng.standard_normal(n)
            below = math.log(prior.value / prior.low) / _Z90
            above = math.log(prior.high / prior.value) / _Z90
            return np.minimum(1.0, prior.value * np.exp(np.where(z < 0, below, above) * z))


class Streams:
    """Random streams by name, of `n` draws each."""

    def __init__(self, seed: int, n: int) -> None:
        self.seed, self.n = seed, n

    def _blocks(self, name: str) -> list[tuple[np.random.Generator, int]]:
        starts = range(0, self.n, BLOCK)
        return [
            (
                np.random.default_rng([self.seed, *([block] if block else []), *name.encode()]),
                min(BLOCK, self.n - start),
            )
            for block, start in enumerate(starts)
        ]

    def prior(self, prior: Prior) -> Floats:
        return np.concatenate([draw(prior, rng, n) for rng, n in self._blocks(prior.key)])

    def normal(self, name: str, value: float, deviation: float) -> Floats:
        """Draws of a positive quantity with a normal error."""
        drawn = np.concatenate([rng.normal(value, deviation, n) for rng, n in self._blocks(name)])
        positive: Floats = np.maximum(drawn, value * 1e-3)
        return positive  # a rate or a power is positive

    def fixed(self, value: float) -> Floats:
        return np.full(self.n, value)
