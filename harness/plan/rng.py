"""Draws from a profile's distributions, by generators that are seeded with text.

`random.Random(text)` hashes the text with SHA-512 (seeding version 2), so a stream depends only on
its name: not on the process, the number of workers or earlier draws.
"""

import math
import random
from bisect import bisect_right
from typing import assert_never

from harness.profile.distributions import Constant, Geometric, Lognormal, Quantiles, Uniform

Law = Constant | Uniform | Lognormal | Geometric | Quantiles


def stream(seed: int, *name: object) -> random.Random:
    """The generator of (seed, name)."""
    return random.Random("/".join(map(str, (seed, *name))))  # noqa: S311 - reproducible load, not cryptography


def draw(law: Law, rng: random.Random) -> float:
    """One value of a distribution, with its limits applied."""
    match law:
        case Constant():
            return law.value
        case Uniform():
            return rng.uniform(law.min, law.max)
        case Lognormal():
            value = rng.lognormvariate(law.mu, law.sigma)
            return max(law.min, value if law.max is None else min(law.max, value))
        case Geometric():
            # Number of trials up to the first success with p = 1/mean, by inversion.
            if law.mean <= 1:
                return 1
            trials = 1 + math.floor(math.log1p(-rng.random()) / math.log1p(-1 / law.mean))
            return trials if law.max is None else min(law.max, trials)
        case Quantiles():
            value = _between(law, rng.random())
            return value if law.max is None else min(law.max, value)
        case _:
            assert_never(law)


def _between(law: Quantiles, share: float) -> float:
    """The quantile at a share, by interpolation of the logarithm."""
    after = min(max(1, bisect_right(law.at, share)), len(law.at) - 1)
    low, high = law.at[after - 1], law.at[after]
    part = (share - low) / (high - low)
    return math.exp(
        (1 - part) * math.log(law.values[after - 1]) + part * math.log(law.values[after])
    )


def draw_tok(law: Law, rng: random.Random, scale: float, least: int = 1) -> int:
    """A length in tokens, scaled."""
    return max(least, round(draw(law, rng) * scale))


def draw_gap_ns(law: Law, rng: random.Random) -> int:
    """A pause in nanoseconds from a distribution in seconds, never scaled."""
    return round(draw(law, rng) * 1e9)
