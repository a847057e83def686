"""What the makers of turns are given, and the giving up that all of them share."""

from dataclasses import dataclass, replace
from random import Random
from typing import Final

from harness.api.parts import PartKind, Role
from harness.plan.rng import draw_gap_ns
from harness.plan.types import Block, Message, Part, Turn
from harness.profile.workloads import SessionsBase

LEAST_MESSAGE_TOK: Final = 16
"""What an answer leaves for the message before it, where a context is very short."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One session to be made.

    Attributes:
        rng: the session's own generator.
        key: opens the keys of its blocks; no two sessions share one.
        scale: factor on all lengths.
        limit_tok: longest context (input and output), scaled.
        head_tok: length of what every prompt starts with.
    """

    rng: Random
    key: str
    scale: float
    limit_tok: int
    head_tok: int


def user_text(key: str, tok: int) -> Message:
    """A message of the user: one text."""
    return Message(Role.USER, (Part(PartKind.TEXT, Block(key, tok)),))


def assistant_text(key: str, tok: int) -> Message:
    """An answer: one text."""
    return Message(Role.ASSISTANT, (Part(PartKind.TEXT, Block(key, tok)),))


def give_up(turns: tuple[Turn, ...], workload: SessionsBase, rng: Random) -> tuple[Turn, ...]:
    """The turns up to the first whose user gives up, which is cancelled in mid-stream."""
    if not workload.abandon_share:
        return turns
    for index, turn in enumerate(turns):
        if rng.random() < workload.abandon_share:
            return (
                *turns[:index],
                replace(turn, cancel_after_ns=draw_gap_ns(workload.abandon_after_s, rng)),
            )
    return turns
