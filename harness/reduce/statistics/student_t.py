"""Student's t for any number of degrees of freedom, from the incomplete beta function.

Equal to scipy to 1e-12 (tests), without its 143 MB: nothing else here needs scipy.
"""

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Final

_EPSILON: Final = 3e-16
_MOST_STEPS: Final = 100_000


def t_beyond(t: float, df: float) -> float:
    """P(T > t), one-sided; exact for small probabilities too. NaN unless df > 0."""
    if not df > 0 or math.isnan(t):
        return math.nan
    if df == math.inf or math.isinf(t):
        return 0.5 * math.erfc(t / math.sqrt(2))
    half = _half_tail(abs(t), df)
    return half if t >= 0 else 1 - half


@lru_cache(maxsize=4096)
def t_quantile(within: float, df: float) -> float:
    """The t with P(|T| <= t) = within. NaN unless df > 0 and 0 <= within <= 1.

    Newton steps on the logarithms of t and of the tail, which is concave: it converges from the
    quantile of the normal distribution, which is smaller.
    """
    tail = (1 - within) / 2
    if not (df > 0 and 0 <= within <= 1):
        return math.nan
    if within in (0, 1):
        return 0.0 if within == 0 else math.inf
    t = -NormalDist().inv_cdf(tail)
    for _ in range(200 if df < math.inf else 0):
        beyond = _half_tail(t, df)
        step = math.log(beyond / tail) * beyond / (t * _density(t, df))
        t *= math.exp(step)
        if abs(step) < 1e-15:
            break
    return t


def _half_tail(t: float, df: float) -> float:
    """P(T > t) for t >= 0: half of I_x(df/2, 1/2) at x = df / (df + t^2), DLMF 8.17."""
    a, b = df / 2, 0.5
    front = math.exp(-a * math.log1p(t * t / df)) * t / math.sqrt(df + t * t)
    front *= _gamma_ratio(a) / math.sqrt(math.pi)
    x, y = df / (df + t * t), t * t / (df + t * t)
    if x < (a + 1) / (a + b + 2):
        return front / _fraction(a, b, x, y) / 2
    return 0.5 - front / _fraction(b, a, y, x) / 2


def _density(t: float, df: float) -> float:
    power = math.exp(-(df + 1) / 2 * math.log1p(t * t / df))
    return _gamma_ratio(df / 2) / math.sqrt(math.pi * df) * power


def _gamma_ratio(a: float) -> float:
    """Gamma(a + 1/2) / Gamma(a); for large a its asymptotic series, DLMF 5.11.13."""
    if a < 80:
        return math.gamma(a + 0.5) / math.gamma(a)
    series = (-399 / 262144, -21 / 32768, 5 / 1024, 1 / 128, -1 / 8, 1.0)
    total = 0.0
    for coefficient in series:
        total = total / a + coefficient
    return math.sqrt(a) * total


def _fraction(a: float, b: float, x: float, y: float) -> float:
    """The even part of the continued fraction of I_x(a, b), DLMF 8.17.22, by Lentz's method;
    y is 1 - x without the loss of digits.
    """
    value = c = a * (a * y - b * x + 1) / (a + 1)
    d = 0.0
    for m in range(1, _MOST_STEPS):
        odd = a + 2 * m - 1
        over = (a + m - 1) * (a + b + m - 1) * m * (b - m) * (x / odd) ** 2
        under = m + m * (b - m) * x / odd
        under += (a + m) * (a * y - b * x + 1 + m * (1 + y)) / (odd + 2)
        d = 1 / (under + over * d)
        c = under + over / c
        value *= c * d
        if abs(c * d - 1) < _EPSILON:
            break
    return value
