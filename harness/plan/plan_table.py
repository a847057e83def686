"""The plan as rows of plan.parquet, and their totals, in one pass over the sessions."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.plan.build import RunPlan
from harness.plan.types import PRIME_SUFFIX, Block, Message, Session, Thread, Turn
from harness.plan.workloads.shared_prefix import MESSAGE_OVERHEAD_TOK


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def copy(self) -> "_Digest": ...
    def hexdigest(self) -> str: ...


@dataclass(slots=True)
class PlanTotals:
    """Totals of the rows.

    Attributes:
        sessions: with subagents.
        primes: priming requests before it.
        clipped_requests: requests whose drawn lengths did not fit the context.
        clipped_tok: tokens clipped from them.
    """

    sessions: int = 0
    requests: int = 0
    primes: int = 0
    clipped_requests: int = 0
    clipped_tok: int = 0
    classes: dict[str, int] = field(default_factory=dict)

    def add(self, session: Session) -> None:
        turns = session.live_turns
        self.sessions += 1
        self.requests += len(turns)
        self.primes += session.primed
        self.clipped_requests += sum(turn.clipped_tok > 0 for turn in turns)
        self.clipped_tok += sum(turn.clipped_tok for turn in turns)
        label = session.workload_class
        self.classes[label] = self.classes.get(label, 0) + len(turns)

    def notes(self) -> tuple[str, ...]:
        """Notes for readers of the results."""
        if not self.clipped_requests:
            return ()
        share = f"{self.clipped_requests} of {self.requests} planned requests"
        return (f"{share} exceeded the context and were clipped by {self.clipped_tok} tokens",)


def body_hashes(session: Session) -> Iterator[str]:
    """For each turn, a hash over the keys and lengths of its body's blocks. Each block is hashed
    once.
    """
    digest: _Digest = hashlib.sha256(f"{session.salt}\n".encode())
    for block in (session.system, *(tool.block for tool in session.tools)):
        digest.update(f"{block.key}:{block.tok}\n".encode())
    after = [digest]  # up to the head's end, and up to the end of each exchange that is carried on
    for turn in session.turns:
        if turn.prompt is not None:
            del after[1:]
        elif turn.keeps is not None:
            del after[turn.keeps + 1 :]
        whole = after[-1].copy()
        for message in (turn.prompt or ())[:-1]:
            _add(whole, message)
        _add(whole, turn.message)
        yield whole.hexdigest()
        _add(whole, turn.reply)
        after.append(whole)


def _add(digest: _Digest, message: Message) -> None:
    for part in message.parts:
        digest.update(f"{part.block.key}:{part.block.tok}\n".encode())


def known_prefixes(session: Session, *, head_is_known: bool) -> Iterator[int]:
    """For each turn, the tokens of the longest prefix that its prompt shares with an earlier prompt
    (the ideal prefix hit, as in descriptions of traces).

    Args:
        session: its replies count from the first prompt that carries them.
        head_is_known: whether another session has sent the same head before.
    """
    turns = session.turns
    own_tok = sum(map(_tok, turns[0].prompt or (turns[0].message,)))
    head_tok = turns[0].target_input_tok - MESSAGE_OVERHEAD_TOK - own_tok
    thread = Thread(turns)
    before: list[Block] = []
    for turn in turns:
        places = thread.before(turn.index)
        if turn.index and turn.prompt is not None:
            now = [part.block for message in turn.prompt for part in message.parts]
            yield head_tok + _common_tok(before, now)
        elif not places:
            yield head_tok if head_is_known or turn.index else 0
        else:
            last = turns[places[-1][0]]
            known = last.target_input_tok
            if last.index < turn.index - 1:  # an earlier prompt has already carried this reply
                known += _tok(last.reply) + MESSAGE_OVERHEAD_TOK
            yield known
        if turn.index + 1 < len(turns) and turns[turn.index + 1].prompt is not None:
            messages = (*(thread.message(place) for place in places), turn.message)
            before = [part.block for message in messages for part in message.parts]


def _common_tok(one: Sequence[Block], other: Sequence[Block]) -> int:
    """Tokens of the common prefix of two prompts, including the start of a shortened text."""
    common = 0
    for a, b in zip(one, other, strict=False):
        common += min(a.tok, b.tok) if a.key == b.key else 0
        if a != b:
            break
    return common


def _tok(message: Message) -> int:
    return sum(part.block.tok for part in message.parts)


def plan_rows(plan: RunPlan, totals: PlanTotals | None = None) -> Iterator[dict[str, Any]]:
    """Rows of plan.parquet (schema `artifacts.tables.PLAN`), stage by stage, added to `totals`."""
    for stage in plan.stages:
        for session in plan.horizon(stage.index):
            for one in session.tree():
                if totals is not None:
                    totals.add(one)
                yield from _rows(one, live=plan.settings.live)


def _rows(session: Session, *, live: bool) -> Iterator[dict[str, Any]]:
    for turn, body_sha256 in zip(session.turns, body_hashes(session), strict=True):
        if turn.index >= session.first_turn:
            unknown = live and turn.index > session.first_turn
            yield _row(session, turn, None if unknown else body_sha256)
        elif turn.index == session.priming_turn:
            yield _row(session, turn, body_sha256) | {
                "class": session.workload_class + PRIME_SUFFIX,
                "target_output_tok": 1,
            }


def _row(session: Session, turn: Turn, body_sha256: str | None) -> dict[str, Any]:
    first = turn.index == session.first_turn
    offset_ns = session.first_gap_ns if session.primed else session.intended_offset_ns
    return {
        "request_id": f"{session.session_id}/{turn.index}",
        "session_id": session.session_id,
        "turn": turn.index,
        "parent_request_id": (session.parent_request_id or None) if first else None,
        "class": session.workload_class,
        "stage": session.stage,
        "slot": session.slot,
        "intended_offset_ns": offset_ns if first else None,
        "gap_ns": turn.gap_ns if turn.index > session.first_turn else None,
        "target_input_tok": turn.target_input_tok,
        "target_output_tok": turn.target_output_tok,
        "body_sha256": body_sha256,
    }
