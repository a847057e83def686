"""Subagents of Claude Code sessions, and the tool calls that start them."""

import math
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Final

from harness.api.parts import PartKind
from harness.plan.types import Message, Part, Subagent, Turn

TASK_TOOL: Final = "Task"
"""The tool of Claude Code that starts a subagent."""


def calls_of_subagents(turns: Sequence[Turn], mean: float, rng: Random) -> list[int]:
    """Turns whose tool call starts a subagent: a Poisson number, uniform over the calls that a
    later turn follows.

    Args:
        turns: of the session.
        mean: subagents per session; one with fewer calls has fewer.
        rng: a separate generator, so that the rest of the session does not depend on it.
    """
    callers = [
        turn.index
        for turn in turns[:-1]
        if any(part.kind is PartKind.TOOL_USE for part in turn.reply.parts)
    ]
    return sorted(rng.sample(callers, min(_poisson(mean, rng), len(callers))))


def start_subagent(turns: Sequence[Turn], index: int, subagent: Subagent) -> tuple[Turn, ...]:
    """The turns, with a subagent that one of their calls starts. It takes the tool's time: no pause
    follows.
    """
    caller, follower = turns[index], turns[index + 1]
    reply = Message(caller.reply.role, tuple(map(_as_task, caller.reply.parts)))
    caller = replace(caller, reply=reply, subagents=(subagent,))
    return (*turns[:index], caller, replace(follower, gap_ns=0), *turns[index + 2 :])


def _as_task(part: Part) -> Part:
    return replace(part, tool_name=TASK_TOOL) if part.kind is PartKind.TOOL_USE else part


def _poisson(mean: float, rng: Random) -> int:
    """A Poisson number: the count of exponential gaps of rate 1 that fit into the mean."""
    count, at = 0, -math.log1p(-rng.random())
    while at < mean:
        count += 1
        at -= math.log1p(-rng.random())
    return count
