"""Exact distributions by counting values, and a record of seen blocks, both in bounded memory."""

import math
from collections.abc import Iterable
from typing import Final

MAX_DENSE_ID: Final = 64 * 1024**2
"""Block ids below this use one byte each: published traces number blocks from 0."""
MAX_OTHER_IDS: Final = 2_000_000
"""Limit of other ids (texts, large numbers): about 200 MB. Beyond it the hit rate is not available.
"""


class Counts:
    """Weighted values as counts in multiples of `step` (1 for tokens, 0.001 for seconds): quantiles
    are exact to a step.
    """

    def __init__(self, step: float = 1.0) -> None:
        self._step = step
        self._counts: dict[int, float] = {}

    def add(self, value: float, weight: float = 1) -> None:
        key = value if type(value) is int and self._step == 1 else round(value / self._step)
        self._counts[key] = self._counts.get(key, 0) + weight

    @property
    def n(self) -> float:
        """Number (or weight) of values."""
        return math.fsum(self._counts.values())

    def total(self) -> float:
        return math.fsum(value * count for value, count in self._counts.items()) * self._step

    def mean(self) -> float | None:
        """None without values."""
        n = self.n
        return self.total() / n if n else None

    def quantiles(self, at: Iterable[float]) -> list[float | None]:
        """Quantiles by linear interpolation between order statistics (position q * (n - 1)); for
        fractional weights, the least value whose share is at least q. None without values.
        """
        ordered = sorted(self._counts.items())
        n = self.n
        if not n:
            return [None for _ in at]
        whole = all(float(count).is_integer() for count in self._counts.values())
        return [self._quantile(ordered, q * (n - 1) if whole else q * n, whole=whole) for q in at]

    def _quantile(self, ordered: list[tuple[int, float]], position: float, *, whole: bool) -> float:
        below = 0.0
        for index, (value, count) in enumerate(ordered):
            below += count
            if whole and position <= below - 1:
                return value * self._step
            if whole and position < below and index + 1 < len(ordered):
                # Between this value's last place and the next value's first.
                step = ordered[index + 1][0] - value
                return (value + step * (position - (below - 1))) * self._step
            if not whole and position <= below:
                return value * self._step
        return ordered[-1][0] * self._step

    def ln_fit(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the logarithm of the values above 0 (a lognormal's mu and
        sigma).
        """
        logs = [(math.log(v * self._step), count) for v, count in self._counts.items() if v > 0]
        n = math.fsum(count for _, count in logs)
        if not n:
            return None
        mu = math.fsum(log * count for log, count in logs) / n
        return mu, math.sqrt(math.fsum((log - mu) ** 2 * count for log, count in logs) / n)


class Moments:
    """Mean and standard deviation of a stream (Welford)."""

    def __init__(self) -> None:
        self.n = 0
        self.mean = 0.0
        self._m2 = 0.0

    def add(self, value: float) -> None:
        self.n += 1
        delta = value - self.mean
        self.mean += delta / self.n
        self._m2 += delta * (value - self.mean)

    def cv(self) -> float | None:
        """Population standard deviation over mean; None for fewer than two values or mean 0."""
        return math.sqrt(self._m2 / self.n) / self.mean if self.n > 1 and self.mean > 0 else None


class SeenBlocks:
    """Blocks seen so far, as in an infinite cache; `full`: some could not be remembered."""

    def __init__(self) -> None:
        self._dense = bytearray()
        self._others: set[int | str] = set()
        self.full = False

    def leading(self, hashes: tuple[int | str, ...]) -> int:
        """Number of blocks from the start that were all seen before. Marks all as seen."""
        dense, others = self._dense, self._others
        known = 0
        for h in hashes:
            if type(h) is int and h < MAX_DENSE_ID:
                if h >= len(dense) or not dense[h]:
                    break
            elif h not in others:
                break
            known += 1
        for h in hashes[known:]:
            if type(h) is int and h < MAX_DENSE_ID:
                if h >= len(dense):
                    dense.extend(
                        bytes(max(h + 1 - len(dense), min(len(dense), MAX_DENSE_ID - len(dense))))
                    )
                dense[h] = 1
            elif len(others) < MAX_OTHER_IDS:
                others.add(h)
            else:
                self.full = True
        return known

    def forget(self) -> None:
        """Start a new scope, in which ids have other meanings."""
        # The ids of one recording are few: a new array is cheaper than clearing a large one.
        self._dense = bytearray()
        self._others = set()
