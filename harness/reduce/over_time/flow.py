"""Amounts spread over time, and how much of them lies in which stretch of it."""

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
    """An amount spread over time, each piece of it evenly from its start to its end, or at its end
    where that is not after its start.

    The pieces are made block by block whenever somebody asks, so that none but a block of them is
    ever in memory. Of every block it is known when it begins and ends and how much it holds: those
    that no edge cuts are not made again.

    Args:
        count: number of blocks.
        make: starts, ends and amounts of a block; pieces with a NaN are left out.
    """

    __slots__ = ("_count", "_index", "_make", "_only")

    def __init__(self, count: int, make: Callable[[int], Block]) -> None:
        self._count = count
        self._make = make
        self._index: Floats | None = None
        self._only: Block | None = None

    @classmethod
    def of(cls, start: Floats, end: Floats, amount: Floats) -> "Flow":
        """Of arrays."""

        def make(number: int) -> Block:
            rows = slice(number * BLOCK, (number + 1) * BLOCK)
            return start[rows], end[rows], amount[rows]

        return cls(-(-len(start) // BLOCK), make)

    def between(self, start: float, end: float) -> float:
        """The amount in [start, end): adjacent windows add up."""
        return float(self.per_bin(np.array([start, end]))[0]) if end > start else 0.0

    def per_bin(self, edges: Floats) -> Floats:
        """The amount in each of the half-open stretches between ascending edges."""
        amounts = np.zeros(len(edges) - 1)
        if self._index is None:  # the blocks have to be made: their index is taken on the way
            index = [
                self._add(amounts, edges, self._block(number)) for number in range(self._count)
            ]
            self._index = np.array(index).reshape(self._count, 3).T
            return amounts
        first, last, total = self._index
        low, high = (
            np.searchsorted(edges, first, side="right"),
            np.searchsorted(edges, last, side="right"),
        )
        whole = (low == high) & (low > 0) & (low <= len(amounts))
        amounts += np.bincount(low[whole] - 1, weights=total[whole], minlength=len(amounts))
        for number in np.flatnonzero(low < high):
            self._add(amounts, edges, self._block(int(number)))
        return amounts

    @staticmethod
    def _add(amounts: Floats, edges: Floats, block: Block) -> tuple[float, float, float]:
        """Add a block's pieces to the bins; returns when the first begins, when the last ends, and
        how much they are.
        """
        start, end, amount = block
        if len(start) == 0:
            return -np.inf, -np.inf, 0.0  # before every edge
        first, last, total = float(np.min(start)), float(np.max(end)), float(np.sum(amount))
        low, high = np.searchsorted(edges, (first, last), side="right")
        inside = edges[low:high]
        parts = (
            np.diff(np.concatenate([[0.0], _upto(start, end, amount, inside), [total]]))
            if len(inside)
            else np.array([total])
        )
        before = 1 if low == 0 else 0  # what lies before the first edge
        amounts[low - 1 + before : high] += parts[before : len(amounts) - low + 1]
        return first, last, total

    def _block(self, number: int) -> Block:
        if self._only is not None:
            return self._only
        start, end, amount = self._make(number)
        unknown = np.isnan(start) | np.isnan(end) | np.isnan(amount)
        if np.any(unknown):
            good = ~unknown
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
    """Likewise, of pieces that have a length."""
    if len(edges) <= _FEW_EDGES:  # exact to rounding
        first_inside = np.searchsorted(
            edges, start, side="right"
        )  # the edges that cut a piece: from this one
        first_after = np.searchsorted(
            edges, end, side="left"
        )  # to the one before this; here and later it counts in full
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
    # For long grids: the rate changes only where a piece begins or ends, so the running total is
    # linear in between.
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
        """The amount in [start, end)."""
        return sum(flow.between(start, end) for flow in self.flows)

    def per_bin(self, edges: Floats) -> Floats:
        """The amount in each of the half-open stretches between ascending edges."""
        return np.asarray(
            np.sum([flow.per_bin(edges) for flow in self.flows], axis=0), dtype=np.float64
        )
