"""Inputs of the functions that make turns, and cancellation by users."""

from dataclasses import dataclass, replace
from random import Random
from typing import Final

from harness.api.parts import PartKind, Role
from harness.plan.rng import draw_gap_ns
from harness.plan.types import Block, Message, Part, Turn
from harness.profile.workloads import SessionsBase

LEAST_MESSAGE_TOK: Final = 16
"""Room that a response leaves for its message in a very short context."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One session to make.

    Attributes:
        rng: the session's own generator.
        key: prefix of its blocks' keys, unique to the session.
        limit_tok: longest context (input and output), scaled.
        head_tok: length of the head of every prompt.
    """

    rng: Random
    key: str
    scale: float
    limit_tok: int
    head_tok: int


def user_text(key: str, tok: int) -> Message:
    """A user message with one text."""
    return Message(Role.USER, (Part(PartKind.TEXT, Block(key, tok)),))


def assistant_text(key: str, tok: int) -> Message:
    """A response with one text."""
    return Message(Role.ASSISTANT, (Part(PartKind.TEXT, Block(key, tok)),))


def give_up(turns: tuple[Turn, ...], workload: SessionsBase, rng: Random) -> tuple[Turn, ...]:
    """The turns up to the first that the user cancels in mid-stream."""
    for index, turn in enumerate(turns if workload.abandon_share else ()):
        if rng.random() < workload.abandon_share:
            after_ns = draw_gap_ns(workload.abandon_after_s, rng)
            return (*turns[:index], replace(turn, cancel_after_ns=after_ns))
    return turns
