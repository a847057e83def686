"""Student's t and Holm's correction, for a handful of repeats a side."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

ALPHA: Final = 0.05
"""Two-sided error of one comparison, before correction for several."""


def t_within(t: float, df: int) -> float:
    """P(|T| <= t) of Student's t with a whole number of degrees of freedom.

    The finite sums of Abramowitz & Stegun, Handbook of Mathematical Functions (1964), 26.7.3 and 26.7.4.
    """
    if df < 1:
        raise ValueError("Student's t needs at least one degree of freedom")
    theta = math.atan(abs(t) / math.sqrt(df))
    cos2 = math.cos(theta) ** 2
    term = math.cos(theta) if df % 2 else 1.0
    total = 0.0
    for k in range(2 if df % 2 == 0 else 3, df + 1, 2):
        total += term
        term *= cos2 * (k - 1) / k
    if df % 2 == 0:
        return min(1.0, math.sin(theta) * total)
    return min(1.0, 2 / math.pi * (theta + math.sin(theta) * total))


def t_quantile(within: float, df: int) -> float:
    """The t with P(|T| <= t) = within, by bisection."""
    low, high = 0.0, 1.0
    while t_within(high, df) < within:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_within(middle, df) < within else (low, middle)
    return (low + high) / 2


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of the one side less mean of the other.

    Attributes:
        difference: in the values' own unit.
        half_width: of the 95 % interval; None where the repeats do not differ at all, so that nothing follows.
        p_value: two-sided; None likewise.
    """

    difference: float
    half_width: float | None
    p_value: float | None


def welch(a: Sequence[float], b: Sequence[float], *, systematic: float = 0.0) -> Difference:
    """The difference b - a with Welch's t-interval; degrees of freedom are rounded down, which widens it.

    Args:
        a: at least two values.
        b: at least two values.
        systematic: bound of an error that repeats do not remove. It widens the interval, and the test asks whether the difference
            exceeds it.
    """
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    share_a = math.fsum((x - mean_a) ** 2 for x in a) / (len(a) - 1) / len(a)
    share_b = math.fsum((x - mean_b) ** 2 for x in b) / (len(b) - 1) / len(b)
    difference = mean_b - mean_a
    variance = share_a + share_b
    if variance <= 0:
        return Difference(difference, None, None)
    # Welch-Satterthwaite never lies below the smaller side's; shares are scaled so that tiny variances do not underflow when squared.
    fraction = share_a / variance
    df = max(1, math.floor(1 / (fraction**2 / (len(a) - 1) + (1 - fraction) ** 2 / (len(b) - 1)) + 1e-9))
    error = math.sqrt(variance)
    beyond = max(0.0, abs(difference) - systematic)
    return Difference(difference, t_quantile(1 - ALPHA, df) * error + systematic, 1 - t_within(beyond / error, df))


def holm(p_values: Mapping[str, float], alpha: float = ALPHA) -> frozenset[str]:
    """Names whose difference stands when all of them are asked at once (Holm 1979, Scand. J. Statist. 6:65-70)."""
    standing: set[str] = set()
    for position, (name, p_value) in enumerate(sorted(p_values.items(), key=lambda item: (item[1], item[0]))):
        if p_value > alpha / (len(p_values) - position):
            break
        standing.add(name)
    return frozenset(standing)
