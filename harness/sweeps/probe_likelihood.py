"""Likelihood of one probe of a threshold search by its distance from the threshold.

docs/explanation/statistics.md ("Capacity at an SLO") has the model. The share of good requests
falls with the load x by one of `_LINKS`: with y = (ln x - ln x*) / s it is F(z - c y). F(z) is the
target, and c gives every link the slope of the normal one at the threshold x*. The load that acts
on the server differs from the one that was set by a factor exp(e). Here e is normal of scale tau
or, in an outlier, a loss of capacity. The likelihood, averaged over e, depends on y and tau / s
only, so a probe needs one small table, whatever the grid of x*, s and tau.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RATIO: Final = 100 ** (1 / 10)
"""Step of the grids of s and tau, so that tau / s takes few values."""
WIDTHS: Final = 0.004 * RATIO ** np.arange(11)
"""s: how far ln(load) rises while the share falls by one standard deviation: 0.004 to 0.4."""
NOISES: Final = 0.003 * RATIO ** np.arange(9)
"""tau: standard deviation of ln(capacity) between probes: 0.003 to 0.12."""
OUTLIER: Final = 0.02
"""Share of probes that are outliers."""
LOSS: Final = (0.10, 0.45)
"""Capacity that an outlier loses, as a share."""
MOST_REQUESTS: Final = 1000.0
"""Effective requests of a probe above this number count as this number: the model's shape is not
exact enough for more.
"""
LAPSE: Final = 0.0005
"""Share of requests that miss at any load, and that meet the condition at any load."""

_STEP: Final = 0.06
_Y: Final = np.arange(-6.0, 12.0 + _STEP / 2, _STEP)
_NORMAL: Final = NormalDist()
_RATIOS: Final = NOISES[0] / WIDTHS[-1] * RATIO ** np.arange(len(WIDTHS) + len(NOISES) - 1)
_SHIFTS: Final = tuple(-math.log1p(-loss) for loss in LOSS)


@dataclass(frozen=True, slots=True)
class Observation:
    """Result of one probe for one condition.

    Attributes:
        load: concurrency or rate, above 0.
        good: requests that met the condition.
        n: requests, both as effective numbers (divided by the design effect).
        at_most: the probe was ended early; `good` is an upper bound.
    """

    load: float
    good: float
    n: float
    at_most: bool = False


def _logistic(z: Floats) -> Floats:
    return 0.5 + 0.5 * np.tanh(z / 2)


def _normal(z: Floats) -> Floats:
    from scipy.special import ndtr  # on use, as in student_t.py

    return np.asarray(ndtr(z), dtype=np.float64)


def _gentle_start(z: Floats) -> Floats:
    """Misses grow exponentially from low loads on, as waits in a queue do."""
    return np.exp(-np.exp(np.minimum(-z, 50.0)))


def _sharp_start(z: Floats) -> Floats:
    """Misses start suddenly, then the share falls slowly."""
    return -np.expm1(-np.exp(np.minimum(z, 50.0)))


_LINKS: Final[tuple[Callable[[Floats], Floats], ...]] = (
    _normal,
    _logistic,
    _gentle_start,
    _sharp_start,
)
LINKS: Final = len(_LINKS)
"""Number of shapes of the curve, equally probable before the probes."""


def _inverse(target: float) -> tuple[float, ...]:
    """The z of the target, by link."""
    return (
        _NORMAL.inv_cdf(target),
        math.log(target / (1 - target)),
        -math.log(-math.log(target)),
        math.log(-math.log1p(-target)),
    )


@lru_cache(maxsize=64)
def _shares(target: float) -> Floats:
    """Share of good requests at `_Y`; one row per link."""
    slope = _NORMAL.pdf(_NORMAL.inv_cdf(target))
    rows = []
    for link, z in zip(_LINKS, _inverse(target), strict=True):
        around = link(np.array([z - 1e-4, z + 1e-4]))
        c = slope / float((around[1] - around[0]) / 2e-4)
        rows.append(np.clip(link(z - c * _Y), LAPSE, 1 - LAPSE))
    return np.stack(rows)


@dataclass(frozen=True, slots=True)
class _Kernels:
    """Blocks of rows that average a likelihood over what may shift y: first the noise, a block for
    each tau / s, then the loss of an outlier, a block for each s.

    Attributes:
        start: y of the block's first row, `step`: distance to the next, `last`: their number - 1.
        offset: number of the block's first row.
        weights: of the values at `_Y`, (rows, len(_Y)).
    """

    start: Floats
    step: Floats
    last: Floats
    offset: Ints
    weights: npt.NDArray[np.float32]


@lru_cache(maxsize=1)
def _kernels() -> _Kernels:
    blocks = [_noise_rows(ratio) for ratio in _RATIOS] + [_loss_rows(width) for width in WIDTHS]
    size = np.array([len(y) for y, _ in blocks])
    return _Kernels(
        np.array([y[0] for y, _ in blocks]),
        np.array([y[1] - y[0] for y, _ in blocks]),
        size - 1.0,
        np.cumsum(size) - size,
        np.concatenate([_weights(ramp) for _, ramp in blocks]),
    )


def _noise_rows(ratio: float) -> tuple[Floats, Floats]:
    """Values of y, and the mean of max(0, y + noise - `_Y`)."""
    y = np.arange(_Y[0] - 5 * ratio, _Y[-1] + 5 * ratio, max(_STEP, 0.15 * ratio))
    a = (y[:, None] - _Y) / ratio
    return y, ratio * (a * _normal(a) + np.exp(-a * a / 2) / math.sqrt(2 * math.pi))


def _loss_rows(width: float) -> tuple[Floats, Floats]:
    """Values of y, and the mean of max(0, y + loss - `_Y`); even in the loss's logarithm."""
    least, most = (shift / width for shift in _SHIFTS)
    y = np.linspace(_Y[0] - most, _Y[-1] - least, 300)
    a = y[:, None] - _Y
    squares = np.maximum(a + most, 0.0) ** 2 - np.maximum(a + least, 0.0) ** 2
    return y, squares / (2 * (most - least))


def _weights(ramp: Floats) -> npt.NDArray[np.float32]:
    """Weights of the values of a piecewise linear function, constant beyond its ends, in its mean;
    from the means of the ramps that start at its nodes.
    """
    rise = (ramp[:, :-1] - ramp[:, 1:]) / _STEP
    weights = np.empty_like(ramp)
    weights[:, 0] = 1 - rise[:, 0]
    weights[:, 1:-1] = rise[:, :-1] - rise[:, 1:]
    weights[:, -1] = rise[:, -1]
    return weights.astype(np.float32)


Table = npt.NDArray[np.float32]
"""Likelihood of one observation by row of the kernels and link, relative to its largest."""


@lru_cache(maxsize=4096)
def table(target: float, good: float, n: float, at_most: bool) -> Table:
    """The table of an observation of a condition with this target share.

    Args:
        target: share of good requests at the threshold.
        good: as in `Observation`.
        n: as in `Observation`.
        at_most: as in `Observation`.
    """
    shrink = min(1.0, MOST_REQUESTS / n)
    good, n = good * shrink, n * shrink
    p = _shares(target)
    if at_most:
        from scipy.special import betainc

        plain = np.asarray(betainc(max(n - good, 1e-9), good + 1, 1 - p), dtype=np.float64)
    else:
        plain = np.exp(_log_binomial(p, good, n) - _log_binomial(np.array(good / n), good, n))
    found: Table = np.maximum(_kernels().weights @ plain.T.astype(np.float32), 0)
    return found


def _log_binomial(p: Floats, good: float, n: float) -> Floats:
    q = np.clip(p, 1e-12, 1 - 1e-12)
    return np.asarray(good * np.log(q) + (n - good) * np.log1p(-q), dtype=np.float64)


def likelihood(found: Table, y_s: Floats, widths: Ints, noises: Ints) -> tuple[Table, Table]:
    """Likelihood of an ordinary probe, (widths, noises, loads, links), and of an outlier, (widths,
    loads, links).

    Args:
        found: of the observation.
        y_s: ln(load) - ln(x*), for each x*.
        widths: which of `WIDTHS`.
        noises: which of `NOISES`.
    """
    y = y_s[None, :] / WIDTHS[widths][:, None]
    ratio = noises[None, :] - widths[:, None] + len(WIDTHS) - 1
    return _look_up(found, y[:, None, :], ratio), _look_up(found, y, widths + len(_RATIOS))


def _look_up(found: Table, y: Floats, block: Ints) -> Table:
    """Linear interpolation at y (last axis) in the blocks."""
    kernels, block = _kernels(), block[..., None]
    place = (y - kernels.start[block]) / kernels.step[block]
    place = np.clip(place, 0, kernels.last[block] - 0.001)
    row = place.astype(np.int64)
    part = (place - row).astype(np.float32)[..., None]
    row += kernels.offset[block]
    low = found[row]
    return low + part * (found[row + 1] - low)
