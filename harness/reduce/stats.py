"""Exact percentiles with right-censoring, and intervals by batch means."""

from typing import Final

import numpy as np
import numpy.typing as npt

from harness.reduce.summary import Distribution

Floats = npt.NDArray[np.float64]

_QUANTILES: Final = (("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999))

# Numbers of batches that are tried, most first, with the 97.5 % quantile of Student's t for one degree of freedom fewer. Ten to thirty
# batches are the usual advice (Schmeiser 1982: beyond thirty little is gained); fewer than ten give no interval.
_BATCHES: Final = ((30, 2.0452), (20, 2.0930), (10, 2.2622))


def percentile(ordered: Floats, q: float, censored: int = 0) -> float | None:
    """The q-quantile (0 to 1) by linear interpolation between order statistics; None when it reaches into the censored share.

    Args:
        ordered: observed values, ascending.
        q: 0 to 1.
        censored: how many further values are only known to be larger than any that counts.
    """
    n = len(ordered)
    if n == 0:
        return None
    position = (n + censored - 1) * q
    below = int(position)
    above = below if position == below else below + 1
    if above >= n:
        return None
    low, high = float(ordered[below]), float(ordered[above])
    return low + (high - low) * (position - below)


def _weighted_percentile(ordered: Floats, cumulative: Floats, q: float, total: float) -> float | None:
    """As `percentile`, of values that each stand for several equal ones; `cumulative` counts them, `total` includes censored ones."""
    if len(ordered) == 0:
        return None
    position = (total - 1) * q
    below = int(position)
    above = below if position == below else below + 1
    if above >= cumulative[-1]:
        return None
    low = float(ordered[np.searchsorted(cumulative, below, side="right")])
    high = float(ordered[np.searchsorted(cumulative, above, side="right")])
    return low + (high - low) * (position - below)


def distribution(values: Floats, censored: int = 0, weights: Floats | None = None) -> Distribution:
    """Mean, percentiles, extremes of values.

    Args:
        values: observed values; NaN ones are left out (they do not exist for that request).
        censored: further values that never came to be observed.
        weights: whole numbers: how many equal values each one stands for; default 1.
    """
    there = ~np.isnan(values)
    if weights is not None:
        there &= weights > 0
        counts = weights[there]
    else:
        counts = np.ones(0)
    observed = values[there]
    order = np.argsort(observed, kind="stable")
    ordered = observed[order]
    quantiles: dict[str, float | None]
    if weights is None:
        n = len(ordered)
        quantiles = {name: percentile(ordered, q, censored) for name, q in _QUANTILES}
        mean = float(np.mean(ordered)) if n else None
    else:
        cumulative = np.cumsum(counts[order])
        n = int(cumulative[-1]) if len(cumulative) else 0
        quantiles = {name: _weighted_percentile(ordered, cumulative, q, n + censored) for name, q in _QUANTILES}
        mean = float(np.sum(ordered * counts[order]) / n) if n else None
    if mean is not None:  # rounding of the sum must not push it past the extremes
        mean = min(max(mean, float(ordered[0])), float(ordered[-1]))
    whole = n > 0 and censored == 0
    return Distribution(
        mean=mean if whole else None,
        max=float(ordered[-1]) if whole else None,
        min=float(ordered[0]) if n else None,
        n=n,
        censored=censored,
        **quantiles,
    )


def batch_edges(start: float, end: float, batches: int) -> Floats:
    """Edges of equal batches of a window."""
    return np.linspace(start, end, batches + 1)


def ratio_interval(numerators: dict[int, Floats], denominators: dict[int, Floats]) -> tuple[float, float] | None:
    """95 % interval of sum(numerator) / sum(denominator) by batch means, or None when there are too few effective batches.

    The largest number of batches whose residuals show no more than chance correlation from one batch to the next is taken
    (lag-1 autocorrelation at most 1/sqrt(batches)); correlated batches would make the interval too narrow.

    Args:
        numerators: per number of batches, the batches' numerators.
        denominators: likewise, of the same batches.
    """
    for batches, t in _BATCHES:
        if batches not in numerators or batches not in denominators:
            continue
        top, bottom = numerators[batches], denominators[batches]
        whole = float(np.sum(bottom))
        if whole <= 0 or np.any(np.isnan(top)) or np.any(np.isnan(bottom)):
            return None
        ratio = float(np.sum(top)) / whole
        residuals = top - ratio * bottom
        spread = float(np.sum(residuals**2))
        if spread <= 0:
            continue  # nothing varies: a count of zero or a made-up series; no interval follows from it
        lag1 = float(np.sum(residuals[1:] * residuals[:-1])) / spread
        if lag1 > batches**-0.5:
            continue
        half = t * (spread / (batches - 1) / batches) ** 0.5 / (whole / batches)
        return ratio - half, ratio + half
    return None


BATCH_COUNTS: Final = tuple(batches for batches, _ in _BATCHES)
"""Numbers of batches to prepare for `ratio_interval`."""
