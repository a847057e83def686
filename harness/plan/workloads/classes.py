"""The classes of sessions in a profile's workload, each with its share and its head."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

from harness.plan.rng import stream
from harness.plan.types import Subagent, Turn
from harness.plan.workloads.claude_code import claude_code_turns
from harness.plan.workloads.common import Frame, give_up
from harness.plan.workloads.conversation import (
    batch_turns,
    chat_turns,
    doc_qa_turns,
    thinking_turns,
)
from harness.plan.workloads.replay import SYSTEM
from harness.plan.workloads.shared_prefix import Head, make_head
from harness.plan.workloads.subagents import calls_of_subagents, start_subagent
from harness.profile.rules import reasons
from harness.profile.workloads import (
    BatchWorkload,
    ChatWorkload,
    ClaudeCodeWorkload,
    DocQaWorkload,
    MixPart,
    MixWorkload,
    ReplayWorkload,
    SessionsBase,
    Subagents,
    ThinkingWorkload,
    Workload,
)

PlainWorkload = ChatWorkload | ClaudeCodeWorkload | DocQaWorkload | ThinkingWorkload | BatchWorkload
"""Every workload whose sessions are generated (`claude-chat` is a `chat`)."""

SUBAGENT = "subagent"


@dataclass(frozen=True, slots=True)
class WorkClass:
    """Sessions of one kind.

    Attributes:
        weight: their share of all sessions is weight / sum of weights; 0 for subagents, which
            other sessions start.
        subagent: of the workload's subagents, not its main agents.
        head: shared start of their prompts, scaled.
        limit_tok: their longest context, scaled.
    """

    label: str
    weight: float
    workload: PlainWorkload | ReplayWorkload
    subagent: bool
    head: Head
    limit_tok: int

    @property
    def reasons(self) -> bool:
        """Whether its responses have reasoning."""
        return reasons(self.workload)


def make_classes(workload: Workload, scale: float, limit_tok: int) -> tuple[WorkClass, ...]:
    """The classes of a workload; `limit_tok` is the longest context of any of them, scaled."""
    if isinstance(workload, ReplayWorkload):
        head = Head(SYSTEM, ())
        return (
            WorkClass(workload.kind, 1, workload, subagent=False, head=head, limit_tok=limit_tok),
        )
    if isinstance(workload, MixWorkload):
        parts = workload.parts
    else:
        parts = (MixPart(weight=1, workload=workload),)
    classes: list[WorkClass] = []
    for part in parts:
        inner, label = part.workload, part.name or part.workload.kind
        limit = min(limit_tok, max(1, int(inner.context_limit_tok * scale)))
        kinds: list[tuple[str, float, PlainWorkload | Subagents]] = [(label, part.weight, inner)]
        if isinstance(inner, ClaudeCodeWorkload) and inner.subagents.share:
            kinds.append((f"{label}/{SUBAGENT}", 0, inner.subagents))
        for name, weight, sizes in kinds:
            tools_tok = tools = 0
            if isinstance(sizes, ClaudeCodeWorkload | Subagents):
                tools_tok, tools = sizes.tools_tok, sizes.tools
            head = make_head(
                name, scale, system_tok=sizes.system_tok, tools_tok=tools_tok, tools=tools
            )
            subagent = sizes is not inner
            classes.append(WorkClass(name, weight, inner, subagent, head, limit))
    return tuple(classes)


def class_of(classes: Sequence[WorkClass], seed: int, *name: object) -> WorkClass:
    """The class of one session, drawn from the seed."""
    if len(classes) == 1:
        return classes[0]
    at = stream(seed, "class", *name).random() * sum(one.weight for one in classes)
    for one in classes:
        at -= one.weight
        if at < 0:
            return one
    return classes[-1]


def make_turns(
    one: WorkClass, *, seed: int, scale: float, salt_tok: int, name: Sequence[object], key: str
) -> tuple[Turn, ...]:
    """The requests of one session: at least one, and as many as fit the context limit. `salt_tok`
    is the length that its salts add to the head, `name` names the random stream of its lengths,
    and `key` is the prefix of its blocks' keys.
    """
    frame = Frame(
        stream(seed, "session", *name), key, scale, one.limit_tok, one.head.tok + salt_tok
    )
    workload = one.workload
    turns: tuple[Turn, ...]
    match workload:
        case ChatWorkload():
            turns = chat_turns(workload, frame)
        case ClaudeCodeWorkload():
            turns = claude_code_turns(workload, frame, subagent=one.subagent)
        case DocQaWorkload():
            turns = doc_qa_turns(workload, frame)
        case ThinkingWorkload():
            turns = thinking_turns(workload, frame)
        case BatchWorkload():
            turns = batch_turns(workload, frame)
        case ReplayWorkload():
            raise TypeError("sessions of a replay are read, not generated")
        case _:
            assert_never(workload)
    # A subagent has no user.
    if one.subagent or not isinstance(workload, SessionsBase):
        return turns
    return give_up(turns, workload, stream(seed, "abandon", *name))


def make_tree(
    one: WorkClass,
    sub: WorkClass | None,
    *,
    seed: int,
    scale: float,
    salt_tok: Callable[[WorkClass], int],
    name: Sequence[object],
    key: str,
) -> tuple[Turn, ...]:
    """`make_turns`, with the subagents (of class `sub`) that the session's tool calls start;
    `salt_tok` gives the length that salts add to the head of a class.
    """
    turns = make_turns(one, seed=seed, scale=scale, salt_tok=salt_tok(one), name=name, key=key)
    if sub is None or not isinstance(one.workload, ClaudeCodeWorkload):
        return turns
    share = one.workload.subagents.share
    for index in calls_of_subagents(turns, share / (1 - share), stream(seed, "subagents", *name)):
        inner = make_turns(
            sub,
            seed=seed,
            scale=scale,
            salt_tok=salt_tok(sub),
            name=(*name, index),
            key=f"{key}/{index}/subagent",
        )
        agent = Subagent(sub.label, sub.head.system, sub.head.tools, inner, reasons=sub.reasons)
        turns = start_subagent(turns, index, agent)
    return turns
