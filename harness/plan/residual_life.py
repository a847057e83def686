"""Ages of a closed loop's sessions at the stage's start, as if it had been running for long.

If a slot has always had one session after another, then at a random time the probability of a
session is proportional to its duration, and its age is uniform. So for each slot a session is
chosen by duration from a drawn pool, with a uniform age. A session's duration is its pauses plus
`REQUEST_NS` per request. The time of its subagents is not included: a session that waits for one
would occupy its slot without sending.
"""

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from harness.plan.types import Turn

REQUEST_NS: Final = 1_000_000_000
"""Assumed duration of one request: the real one is not known before the run."""
LEAST_POOL: Final = 256
MOST_POOL: Final = 1024
"""Sessions in the pool: one per slot within these bounds."""


def span_ns(turns: Sequence[Turn]) -> int:
    """Planned duration of a session: `REQUEST_NS` per request, and pauses, or waits for subagents
    if longer.
    """
    waits = (max((span_ns(one.turns) for one in turn.subagents), default=0) for turn in turns)
    return sum(
        REQUEST_NS + max(turn.gap_ns, wait_ns)
        for turn, wait_ns in zip(turns, (0, *waits), strict=False)
    )


@dataclass(frozen=True, slots=True)
class Age:
    """State of one session.

    Attributes:
        candidate: its place in the pool.
        turn: the next turn that it sends; 0: it has not begun.
        gap_ns: rest of the pause before that turn.
    """

    candidate: int
    turn: int
    gap_ns: int


class Pool:
    """Durations of sessions that slots may have, from the turns of each."""

    def __init__(self, candidates: Iterable[Sequence[Turn]]) -> None:
        self._gaps = [[turn.gap_ns for turn in turns] for turns in candidates]
        # End times of the turns within each session, and of the sessions one after the other.
        self._ends = [
            list(itertools.accumulate(gap_ns + REQUEST_NS for gap_ns in gaps))
            for gaps in self._gaps
        ]
        self._until = list(itertools.accumulate(ends[-1] for ends in self._ends))

    def age(self, rng: Random) -> Age:
        """A length-biased session and a uniform age in it."""
        at_ns = rng.randrange(self._until[-1])
        candidate = bisect_right(self._until, at_ns)
        ends = self._ends[candidate]
        age_ns = at_ns - (self._until[candidate] - ends[-1])
        turn = bisect_right(ends, age_ns)
        began_ns = ends[turn - 1] if turn else 0
        return Age(candidate, turn, max(0, began_ns + self._gaps[candidate][turn] - age_ns))
