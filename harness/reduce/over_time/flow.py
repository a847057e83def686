"""Amounts spread over time, and how much of them falls into an interval."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from harness.reduce.read.spill import BLOCK
from harness.reduce.statistics.intervals import Floats

Block = tuple[Floats, Floats, Floats]
"""Starts, ends and amounts."""

_FEW_EDGES: Final = 64


class Flow:
    """A sum over time of pieces; each is spread evenly over [start, end), or counted at its end if
    that is empty.

    The pieces are computed block by block on request, so that only one block is in memory. Start,
    end and total of every block are cached: blocks that no edge cuts are not computed again.

    Args:
        count: number of blocks.
        make: starts, ends and amounts of a block; pieces with a NaN are ignored.
    """

    __slots__ = ("_count", "_index", "_make", "_only")

    def __init__(self, count: int, make: Callable[[int], Block]) -> None:
        self._count = count
        self._make = make
        self._index: Floats | None = None
        self._only: Block | None = None

    @classmethod
    def of(cls, start: Floats, end: Floats, amount: Floats) -> "Flow":
        def make(number: int) -> Block:
            rows = slice(number * BLOCK, (number + 1) * BLOCK)
            return start[rows], end[rows], amount[rows]

        return cls(-(-len(start) // BLOCK), make)

    def between(self, start: float, end: float) -> float:
        """The amount in [start, end), so that adjacent windows add up."""
        return float(self.per_bin(np.array([start, end]))[0]) if end > start else 0.0

    def per_bin(self, edges: Floats) -> Floats:
        """The amount between each two adjacent of ascending edges (half-open)."""
        amounts = np.zeros(len(edges) - 1)
        if self._index is None:
            index = [self._add(amounts, edges, self._block(n)) for n in range(self._count)]
            self._index = np.array(index).reshape(self._count, 3).T
            return amounts
        first, last, total = self._index
        low = np.searchsorted(edges, first, side="right")
        high = np.searchsorted(edges, last, side="right")
        whole = (low == high) & (low > 0) & (low <= len(amounts))
        amounts += np.bincount(low[whole] - 1, weights=total[whole], minlength=len(amounts))
        for number in np.flatnonzero(low < high):
            self._add(amounts, edges, self._block(int(number)))
        return amounts

    @staticmethod
    def _add(amounts: Floats, edges: Floats, block: Block) -> tuple[float, float, float]:
        """Add a block's pieces to the bins; returns its start, end and total."""
        start, end, amount = block
        if len(start) == 0:
            return -np.inf, -np.inf, 0.0  # before every edge
        first, last, total = float(np.min(start)), float(np.max(end)), float(np.sum(amount))
        low, high = np.searchsorted(edges, (first, last), side="right")
        inside = edges[low:high]
        upto = _upto(start, end, amount, inside) if len(inside) else inside
        parts = np.diff(np.concatenate([[0.0], upto, [total]]))
        before = 1 if low == 0 else 0  # omits what lies before the first edge
        amounts[low - 1 + before : high] += parts[before : len(amounts) - low + 1]
        return first, last, total

    def _block(self, number: int) -> Block:
        if self._only is not None:
            return self._only
        start, end, amount = self._make(number)
        good = ~(np.isnan(start) | np.isnan(end) | np.isnan(amount))
        if not np.all(good):
            start, end, amount = start[good], end[good], amount[good]
        block = np.minimum(start, end), end, amount
        if self._count == 1:
            self._only = block
        return block


def _upto(start: Floats, end: Floats, amount: Floats, edges: Floats) -> Floats:
    """The amount before each edge."""
    flat = end <= start
    if np.all(flat):
        return _before(end, amount, edges)
    if not np.any(flat):
        return _spread(start, end, amount, edges)
    apart = ~flat
    return _before(end[flat], amount[flat], edges) + _spread(
        start[apart], end[apart], amount[apart], edges
    )


def _before(t: Floats, amount: Floats, edges: Floats) -> Floats:
    first_after = np.searchsorted(edges, t, side="right")
    return np.asarray(
        np.cumsum(np.bincount(first_after, weights=amount, minlength=len(edges) + 1))[: len(edges)],
        dtype=np.float64,
    )


def _spread(start: Floats, end: Floats, amount: Floats, edges: Floats) -> Floats:
    if len(edges) <= _FEW_EDGES:  # exact to rounding
        # The edges from first_inside to first_after cut a piece; later ones count it in full.
        first_inside = np.searchsorted(edges, start, side="right")
        first_after = np.searchsorted(edges, end, side="left")
        upto: Floats = np.cumsum(
            np.bincount(first_after, weights=amount, minlength=len(edges) + 1).astype(np.float64)
        )[: len(edges)]
        cut = first_inside < first_after
        start, amount, length = start[cut], amount[cut], (end - start)[cut]
        begins, ends = first_inside[cut], first_after[cut]
        for number, edge in enumerate(edges):
            here = (begins <= number) & (number < ends)
            upto[number] += np.sum(amount[here] * ((edge - start[here]) / length[here]))
        return upto
    # Long grids: the rate changes only where a piece begins or ends; in between it is constant.
    rate = amount / (end - start)
    moments = np.concatenate([start, end])
    order = np.argsort(moments)
    moments = moments[order]
    slope = np.cumsum(np.concatenate([rate, -rate])[order])
    running = np.concatenate([np.zeros(1), np.cumsum(slope[:-1] * np.diff(moments))])
    return np.asarray(np.interp(edges, moments, running), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class SumOf:
    """Several amounts as one."""

    flows: tuple[Flow, ...]

    def between(self, start: float, end: float) -> float:
        return sum(flow.between(start, end) for flow in self.flows)

    def per_bin(self, edges: Floats) -> Floats:
        return np.asarray(np.sum([flow.per_bin(edges) for flow in self.flows], axis=0))
