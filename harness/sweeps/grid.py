"""Bayesian estimation of a threshold on a grid: the load at which a share of requests is met.

Model: a probe at load x has share Phi(z - (ln x + e - ln c) / s) of requests within the limit,
where Phi(z) is the target, c the capacity, s the width of the curve, and e ~ N(0, tau) differs from
probe to probe. With weight `OUTLIERS`, a probe lost 10% to 45% of its capacity. The priors of ln c,
ln s and ln tau are flat.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

Floats = npt.NDArray[np.float64]

OUTLIERS: Final = 0.05
LOST_BELOW: Final = 0.2
"""A probe ended early has a share below the target by at least this."""

_WIDTHS: Final = np.geomspace(0.01, 0.4, 8)
_SPREADS: Final = np.geomspace(0.003, 0.12, 5)
_LOSSES: Final = -np.log(1 - np.linspace(0.1, 0.45, 3))
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(5)
_POINTS: Final = 80
_ZOOMS: Final = 3
_TINY: Final = 1e-9
_PREDICTED: Final = 0.5
"""Posterior probability of a loss from which a probe is an outlier."""


@dataclass(frozen=True, slots=True)
class Observation:
    """Requests of a probe that met a condition; `n` of None: lost, that is certainly too few."""

    point: int
    load: float
    met: int = 0
    n: int | None = None
    design_effect: float = 1.0

    @classmethod
    def lost(cls, point: int, load: float) -> "Observation":
        """Of a probe that was ended early."""
        return cls(point, load)


@dataclass(frozen=True, slots=True)
class Posterior:
    """Of the capacity.

    Attributes:
        log_load: grid.
        cumulative: probability below each grid point.
        spread: mean of tau.
        outliers: points that probably lost capacity.
    """

    log_load: Floats
    cumulative: Floats
    spread: float
    outliers: tuple[int, ...]

    def below(self, load: float) -> float:
        """Probability that the capacity is below a load."""
        return float(np.interp(math.log(load), self.log_load, self.cumulative, left=0.0, right=1.0))


def posterior(
    seen: Sequence[Observation], target: float, lowest: float, highest: float
) -> Posterior:
    """Posterior of the capacity between two loads. The grid zooms until it is fine enough."""
    low, high = math.log(lowest), math.log(highest)
    z = float(ndtri(target))
    for _ in range(_ZOOMS):
        grid = np.linspace(low, high, _POINTS)
        by_load = np.sum(_weights(seen, grid, z, target)[0], axis=(1, 2))
        inside = np.nonzero(by_load > 1e-7 * np.max(by_load))[0]
        first, last = max(0, inside[0] - 1), min(_POINTS - 1, inside[-1] + 1)
        if last - first > _POINTS / 2:
            break
        low, high = float(grid[first]), float(grid[last])
    grid = np.linspace(low, high, _POINTS)
    weights, losses = _weights(seen, grid, z, target)
    by_load = np.sum(weights, axis=(1, 2))
    outliers = tuple(
        one.point
        for one, lost in zip(seen, losses, strict=True)
        if float(np.sum(weights * lost)) > _PREDICTED
    )
    middle = np.cumsum(by_load) - by_load / 2
    return Posterior(grid, middle, float(np.sum(weights * _SPREADS)), outliers)


def _weights(
    seen: Sequence[Observation], grid: Floats, z: float, target: float
) -> tuple[Floats, list[Floats]]:
    """Posterior weight of each (capacity, width, spread), and for each observation the probability
    there that it lost capacity.
    """
    logs = np.zeros((len(grid), len(_WIDTHS), len(_SPREADS)))
    losses = []
    for one in seen:
        plain, lossy = _likelihoods(one, grid, z, target)
        total = (1 - OUTLIERS) * plain + OUTLIERS * lossy
        logs += np.log(total)
        losses.append(OUTLIERS * lossy / total)
    weights = np.exp(logs - np.max(logs))
    return weights / np.sum(weights), losses


def _likelihoods(one: Observation, grid: Floats, z: float, target: float) -> tuple[Floats, Floats]:
    """Of an observation for each (capacity, width, spread): without and with a loss."""
    over = math.log(one.load) - grid
    plain = np.zeros((len(grid), len(_WIDTHS), len(_SPREADS)))
    for node, weight in zip(_NODES, _WEIGHTS / np.sum(_WEIGHTS), strict=True):
        at = (over[:, None, None] + _SPREADS[None, None, :] * node) / _WIDTHS[None, :, None]
        plain += weight * _likelihood(one, z - at, target)
    lossy = np.zeros((len(grid), len(_WIDTHS)))
    for loss in _LOSSES:
        at = (over[:, None] + loss) / _WIDTHS[None, :]
        lossy += _likelihood(one, z - at, target) / len(_LOSSES)
    return plain + _TINY, np.broadcast_to(lossy[:, :, None], plain.shape) + _TINY


def _likelihood(one: Observation, score: Floats, target: float) -> Floats:
    share = np.clip(ndtr(score), 1e-6, 1 - 1e-6)
    if one.n is None:
        return np.asarray(1 / (1 + np.exp((share - (target - LOST_BELOW)) / 0.02)))
    n = one.n / one.design_effect
    met = n * one.met / one.n
    best = one.met / one.n
    top = met * math.log(best) if met > 0 else 0.0
    top += (n - met) * math.log(1 - best) if met < n else 0.0
    return np.asarray(np.exp(met * np.log(share) + (n - met) * np.log(1 - share) - top))
