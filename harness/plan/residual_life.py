"""Where the conversations of a closed loop are when its stage starts, as if it had been going on
for long.

A slot that has always held one conversation after another holds, at a random moment, one that was
chosen with a probability in proportion to how long it lasts, at a moment that is uniform over its
time. So: a pool of conversations is drawn, one of them is chosen for each slot by its duration, and
an age uniform within that. The time of a conversation is that of its pauses plus `REQUEST_NS` for
each request. The time of its subagents is left out: a conversation that waited for one would hold
its slot with nothing to send.
"""

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from harness.plan.types import Turn

REQUEST_NS: Final = 1_000_000_000
"""Time that the plan allows one request: one second. What a server really needs is not known before
the run.
"""
LEAST_POOL: Final = 256
MOST_POOL: Final = 1024
"""Conversations in the pool: one a slot within these bounds."""


def span_ns(turns: Sequence[Turn]) -> int:
    """Planned time of a conversation: `REQUEST_NS` a request, and the pauses, or the waits for
    subagents where those are longer.
    """
    waits = (max((span_ns(one.turns) for one in turn.subagents), default=0) for turn in turns)
    return sum(
        REQUEST_NS + max(turn.gap_ns, wait_ns)
        for turn, wait_ns in zip(turns, (0, *waits), strict=False)
    )


@dataclass(frozen=True, slots=True)
class Age:
    """Where one conversation is.

    Attributes:
        candidate: its place in the pool.
        turn: the next turn that it sends; 0 means that it has not begun.
        gap_ns: what is left of the pause before that turn.
    """

    candidate: int
    turn: int
    gap_ns: int


class Pool:
    """Durations of conversations that slots may hold.

    Args:
        candidates: the turns of each.
    """

    def __init__(self, candidates: Iterable[Sequence[Turn]]) -> None:
        self._gaps = [[turn.gap_ns for turn in turns] for turns in candidates]
        # Of each: the times at which its turns end, and over all of them the times at which
        # conversations end.
        self._ends = [
            list(itertools.accumulate(gap_ns + REQUEST_NS for gap_ns in gaps))
            for gaps in self._gaps
        ]
        self._until = list(itertools.accumulate(ends[-1] for ends in self._ends))

    def age(self, rng: Random) -> Age:
        """A length-biased conversation and a uniform age in it."""
        at_ns = rng.randrange(self._until[-1])
        candidate = bisect_right(self._until, at_ns)
        ends = self._ends[candidate]
        age_ns = at_ns - (self._until[candidate] - ends[-1])
        turn = bisect_right(ends, age_ns)
        began_ns = ends[turn - 1] if turn else 0
        return Age(candidate, turn, max(0, began_ns + self._gaps[candidate][turn] - age_ns))
