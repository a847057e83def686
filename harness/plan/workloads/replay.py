"""A recorded trace as sessions of a plan.

A trace has the lengths of its prompts and, by block ids, their common prefixes. Both are kept:

- Ids with one meaning in the complete trace (Mooncake): the text of a block is a function of (seed,
  trace, id), so equal ids give equal token prefixes in any two requests. The prompt is one user
  message of those blocks and, after the last id, a unique text.
- Ids of one recording (Claude Code): a request that continues the previous prompt adds the recorded
  response and a new message. One that keeps only part of an earlier prompt (a compaction, a removed
  reminder, a subagent's common start) keeps exactly that many blocks: a shortened text is the start
  of the complete one.
- Sessions that another session started (subagents) begin at the end of the turn after which they
  were recorded, and the next turn of that session waits for them. They are never split.
- No ids: each request has unique text, since no shared prefix is known.

A prompt has a system text of one word, and messages. The recorded tools and system prompt are part
of the first message.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from harness.api.parts import PartKind, Role
from harness.core.errors import ProfileError
from harness.core.records import CANARY
from harness.plan.traces.records import Clock, ReadTally, Trace, TraceRequest, TraceSession
from harness.plan.types import PRIME_SUFFIX, Block, Message, Part, Session, Subagent, Turn
from harness.plan.workloads.shared_prefix import MESSAGE_OVERHEAD_TOK

SYSTEM: Final = Block("trace/system", 1)
"""One word as the system prompt; the recorded one is in the messages, where it can differ between
requests.
"""
HEAD_TOK: Final = SYSTEM.tok + 2 * MESSAGE_OVERHEAD_TOK
"""Tokens of the system word and the markers around it and the first message; subtracted from the
first unique text.
"""


@dataclass(slots=True)
class ReplayTally(ReadTally):
    """Counts of a replay, updated while its sessions are read.

    Attributes:
        continuations: of these, sessions that continue another whose context was rewritten
            (`rewrites="split"`).
        rewrites: requests, except first ones, whose prompt does not continue the previous turn.
        skipped: requests over the limit that were left out.
        capped_gaps: pauses shortened to `idle_cap_s`.
        longest_tok: longest input and output of a returned request, scaled.
    """

    requests: int = 0
    sessions: int = 0
    continuations: int = 0
    rewrites: int = 0
    skipped: int = 0
    capped_gaps: int = 0
    longest_tok: int = 0


@dataclass(frozen=True, slots=True)
class _Piece:
    """Part of a prompt by one role.

    Attributes:
        span: recorded tokens that it represents.
        less: tokens of these that are markers of the chat template, unscaled.
    """

    role: Role
    key: str
    span: int
    less: int = 0


@dataclass(frozen=True, slots=True)
class _Step:
    """One request and its complete prompt; `appended`: it continues the previous one."""

    request: TraceRequest
    pieces: tuple[_Piece, ...]
    appended: bool


class _Scope:
    """The prompts of one recording so far, as a tree of their blocks. Ids alone are not enough:
    some traces number blocks by content, at any position.
    """

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, int | str], int] = {}
        self._owners: list[tuple[_Piece, ...]] = [()]

    def longest_start(self, hashes: Sequence[int | str]) -> tuple[int, tuple[_Piece, ...]]:
        """Number of blocks from the start that an earlier prompt also has, and that prompt."""
        node = 0
        for kept, h in enumerate(hashes):
            following = self._nodes.get((node, h))
            if following is None:
                return kept, self._owners[node]
            node = following
        return len(hashes), self._owners[node]

    def remember(self, hashes: Sequence[int | str], pieces: tuple[_Piece, ...]) -> None:
        node = 0
        for h in hashes:
            following = self._nodes.get((node, h))
            if following is None:
                following = len(self._owners)
                self._nodes[node, h] = following
                self._owners.append(pieces)
            node = following


def replay_sessions(
    trace: Trace,
    *,
    seed: int,
    time_scale: float = 1.0,
    length_scale: float = 1.0,
    limit_tok: int,
    over_limit: Literal["refuse", "skip"] = "refuse",
    idle_cap_s: float | None = None,
    stage: str,
    workload_class: str = "replay",
    rewrites: Literal["inline", "split"] = "split",
    tally: ReplayTally | None = None,
) -> Iterator[Session]:
    """Sessions of a trace in order of their starts, made one at a time.

    A session has a scheduled start only if the trace has one clock. A pause is the recorded one
    from end to start, or from start to start if the end was not recorded. A response of 0 tokens is
    requested with 1.

    Args:
        trace: recorded requests.
        seed: of the draws from a trace of distributions; the text's seed is that of `Texts`.
        time_scale: factor on times and pauses: 0.5 replays twice as fast.
        length_scale: factor on all lengths.
        limit_tok: longest input and output together, scaled.
        over_limit: a longer request is an error that names its line, or is left out and counted; it
            is never cut.
        idle_cap_s: longest pause between turns, after scaling; None: as recorded.
        stage: name of the stage, which starts every session's id.
        workload_class: class of requests that have none in the trace.
        rewrites: handling of a turn that does not continue the previous one. `inline` sends its
            complete prompt in the same session (`Turn.prompt`). `split` starts a new session with
            the prompt as one message, which loses the prefix hits after the common start.
        tally: counts the returned sessions.

    Raises:
        ProfileError: a factor that is not above 0, a request over the limit, or a broken trace.
    """
    for name, value in (("time_scale", time_scale), ("length_scale", length_scale)):
        if not 0 < value < float("inf"):
            raise ProfileError(f"{name} is {value:g}; it must be a number above 0")
    if idle_cap_s is not None and not idle_cap_s >= 0:
        raise ProfileError(f"idle_cap_s is {idle_cap_s:g}; it must be at least 0")
    tally = tally if tally is not None else ReplayTally()
    maker = _Maker(
        trace,
        time_scale,
        length_scale,
        limit_tok,
        over_limit,
        idle_cap_s,
        workload_class,
        tally,
        split=rewrites == "split",
    )
    trees = _trees(trace.sessions(seed=seed, tally=tally))
    made = (session for tree in trees for session in maker.sessions(tree))
    for number, session in enumerate(made):
        name = f"{stage}-{number:06d}"
        yield replace(session, session_id=name, number=number, stage=stage, slot=number)


def _trees(sessions: Iterable[TraceSession]) -> Iterator[list[TraceSession]]:
    """Each session with the following ones that it, or one of them, started."""
    tree: list[TraceSession] = []
    for session in sessions:
        if tree and session.parent_id not in {one.session_id for one in tree}:
            yield tree
            tree = []
        tree.append(session)
    if tree:
        yield tree


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes sessions of a plan from those of a trace; see `replay_sessions`."""

    trace: Trace
    time_scale: float
    length_scale: float
    limit_tok: int
    over_limit: str
    idle_cap_s: float | None
    workload_class: str
    tally: ReplayTally
    split: bool
    scopes: dict[str, _Scope] = field(default_factory=dict)

    def sessions(self, tree: Sequence[TraceSession]) -> Iterator[Session]:
        """The first session of a tree, in parts if it is split. Its turns start the others."""
        kept = [(recorded, self._steps(recorded)) for recorded in tree]
        steps_of = {recorded.session_id: steps for recorded, steps in kept if steps}
        # by the session and the turn that start them
        started: dict[tuple[str, int], list[tuple[TraceSession, list[_Step]]]] = {}
        roots: list[tuple[TraceSession, list[_Step]]] = []
        for recorded, steps in kept:
            parent = recorded.parent_id or ""
            caller = _caller(steps_of.get(parent, ()), recorded.requests[0].t_s)
            if not steps:
                continue
            if caller is None or recorded is tree[0]:
                roots.append((recorded, steps))
            else:
                started.setdefault((parent, caller.request.turn), []).append((recorded, steps))

        def subagents(recorded: TraceSession, step: _Step) -> Iterator[Subagent]:
            for child, steps in started.get((recorded.session_id, step.request.turn), ()):
                label = steps[0].request.workload_class or self.workload_class
                yield Subagent(label, SYSTEM, (), turns(child, steps, flat=False))

        def turns(recorded: TraceSession, run: Sequence[_Step], *, flat: bool) -> tuple[Turn, ...]:
            self.tally.sessions += 1
            return tuple(
                replace(turn, subagents=tuple(subagents(recorded, step)))
                for turn, step in zip(self._turns(run, flat=flat), run, strict=True)
            )

        for recorded, steps in roots:
            for part, run in enumerate(_runs(steps) if self.split else [steps]):
                made = turns(recorded, run, flat=self.split)
                self.tally.continuations += part > 0
                yield Session(
                    session_id="",
                    number=0,
                    workload_class=run[0].request.workload_class or self.workload_class,
                    stage="",
                    slot=0,
                    intended_offset_ns=made[0].intended_offset_ns,
                    system=SYSTEM,
                    tools=(),
                    turns=made,
                )

    def _steps(self, recorded: TraceSession) -> list[_Step]:
        """The requests of a session that fit."""
        _refuse_label(recorded.requests[0])
        kept = [one for one in recorded.requests if self._fits(one)]
        if not kept:
            return []
        scope_name = kept[0].hash_scope
        if scope_name not in self.scopes:
            # Recordings come one after the other: earlier ones are no longer needed.
            self.scopes.clear()
            self.scopes[scope_name] = _Scope()
        steps = _steps(self.trace, recorded, kept, self.scopes[scope_name])
        self.tally.rewrites += sum(not step.appended for step in steps[1:])
        return steps

    def _fits(self, request: TraceRequest) -> bool:
        scale, limit_tok = self.length_scale, self.limit_tok
        total = _scaled(request.input_tok, scale) + _scaled(request.output_tok, scale)
        if total <= limit_tok:
            self.tally.requests += 1
            self.tally.longest_tok = max(self.tally.longest_tok, total)
            return True
        if self.over_limit == "refuse":
            factor = limit_tok / (request.input_tok + request.output_tok)
            raise ProfileError(
                f"{request.where}: {request.input_tok:,} input and {request.output_tok:,} output"
                f" tokens, scaled by {scale:g}, are {total:,}; the limit is {limit_tok:,}",
                next_step=f"scale lengths by {factor:.3g} or less, or skip longer requests",
            )
        self.tally.skipped += 1
        return False

    def _turns(self, steps: Sequence[_Step], *, flat: bool) -> Iterator[Turn]:
        scale = self.length_scale
        for index, step in enumerate(steps):
            request = step.request
            reply_span = max(1, request.output_tok)
            if index + 1 < len(steps) and steps[index + 1].appended:
                reply_span = steps[index + 1].pieces[-2].span
            messages = _messages(step.pieces, scale)
            message = messages[-1]
            rewritten = not step.appended and (index > 0 or len(messages) > 1)
            if rewritten and flat:
                message = Message(Role.USER, tuple(part for one in messages for part in one.parts))
            reply = _Piece(Role.ASSISTANT, _reply_key(step), reply_span)
            offset_ns = None
            if self.trace.clock is Clock.TRACE:
                offset_ns = round(request.t_s * self.time_scale * 1e9)
            yield Turn(
                index=index,
                gap_ns=self._gap_ns(steps[index - 1].request, request) if index else 0,
                message=message,
                reply=_message(Role.ASSISTANT, [reply], scale),
                target_input_tok=_scaled(request.input_tok, scale),
                target_output_tok=_scaled(request.output_tok, scale),
                prompt=messages if rewritten and not flat else None,
                intended_offset_ns=offset_ns,
            )

    def _gap_ns(self, before: TraceRequest, request: TraceRequest) -> int:
        gap_s = request.gap_s
        if gap_s is None or request.turn != before.turn + 1:
            gap_s = request.t_s - before.t_s
        gap_s *= self.time_scale
        if self.idle_cap_s is not None and gap_s > self.idle_cap_s:
            self.tally.capped_gaps += 1
            gap_s = self.idle_cap_s
        return round(gap_s * 1e9)


def _caller(steps: Sequence[_Step], t_s: float) -> _Step | None:
    """The turn whose tool call starts a session at a time: the last one that began before it, or
    None without turns.
    """
    return next(
        (step for step in reversed(steps) if step.request.t_s <= t_s), steps[0] if steps else None
    )


def _refuse_label(first: TraceRequest) -> None:
    label = first.workload_class or ""
    if label == CANARY or label.endswith(PRIME_SUFFIX):
        raise ProfileError(
            f"{first.where}: class {label!r} is reserved for the harness's own requests, which"
            " count in no metric",
            next_step="give the class another name in the trace",
        )


def _scaled(tok: int, scale: float) -> int:
    return max(1, round(tok * scale))


def _steps(
    trace: Trace, recorded: TraceSession, requests: Sequence[TraceRequest], scope: _Scope
) -> list[_Step]:
    """The prompts of a session, in terms of earlier prompts of its scope."""
    steps: list[_Step] = []
    before: _Step | None = None
    for request in requests:
        # A key has the first request with the text. The session's id identifies drawn requests and
        # those without a session, since it contains their line.
        key = f"trace/{trace.name}/{request.hash_scope}/{recorded.session_id}/{request.turn}"
        hashes = request.block_hashes or ()
        if hashes and not request.hash_scope:
            step = _Step(request, _common_blocks(trace, request, key), appended=False)
        elif before is not None and _goes_on(before.request, request):
            grown = request.input_tok - before.request.input_tok
            span = min(max(1, before.request.output_tok), grown - 1)
            reply = _Piece(Role.ASSISTANT, _reply_key(before), span)
            new = _Piece(Role.USER, key, grown - span, 2 * MESSAGE_OVERHEAD_TOK)
            step = _Step(request, (*before.pieces, reply, new), appended=True)
        else:
            step = _Step(request, _kept_start(request, key, scope), appended=False)
        if hashes and request.hash_scope:
            scope.remember(hashes, step.pieces)
        steps.append(step)
        before = step
    return steps


def _goes_on(before: TraceRequest, request: TraceRequest) -> bool:
    """Whether a prompt contains the complete previous one, and room for a response and a message
    after it.
    """
    earlier, hashes = before.block_hashes, request.block_hashes
    grown = request.input_tok - before.input_tok
    return bool(earlier and hashes and grown >= 2 and hashes[: len(earlier)] == earlier)


def _reply_key(step: _Step) -> str:
    return f"{step.pieces[-1].key}/reply"


def _common_blocks(trace: Trace, request: TraceRequest, key: str) -> tuple[_Piece, ...]:
    assert request.block_hashes is not None
    assert request.block_tok is not None
    pieces: list[_Piece] = []
    left = request.input_tok
    for h in request.block_hashes:
        span = min(left, request.block_tok)
        pieces.append(_Piece(Role.USER, f"trace/{trace.name}/{_id_text(h)}", span))
        left -= span
    if left:
        pieces.append(_Piece(Role.USER, key, left, HEAD_TOK))
    return tuple(pieces)


def _id_text(h: int | str) -> str:
    # Text ids may contain anything, also slashes; a digest cannot be confused with another key.
    return str(h) if isinstance(h, int) else "t" + hashlib.sha256(h.encode()).hexdigest()[:32]


def _kept_start(request: TraceRequest, key: str, scope: _Scope) -> tuple[_Piece, ...]:
    """The blocks that an earlier prompt of the scope also starts with, and a new message for the
    rest.
    """
    kept, owner = scope.longest_start(request.block_hashes or ())
    # At least one token is new: a request needs its own message.
    left = min(kept * (request.block_tok or 0), request.input_tok - 1)
    rest = request.input_tok - left
    pieces: list[_Piece] = []
    for piece in owner:
        if left <= 0:
            break
        pieces.append(replace(piece, span=min(piece.span, left)))
        left -= piece.span
    return (*pieces, _Piece(Role.USER, key, rest, 2 * MESSAGE_OVERHEAD_TOK if pieces else HEAD_TOK))


def _runs(steps: Sequence[_Step]) -> list[list[_Step]]:
    """The parts of a session that only append."""
    runs: list[list[_Step]] = []
    for step in steps:
        if not (step.appended and runs):
            runs.append([])
        runs[-1].append(step)
    return runs


def _messages(pieces: Sequence[_Piece], scale: float) -> tuple[Message, ...]:
    """Consecutive pieces of one role are one message."""
    groups = itertools.groupby(pieces, key=lambda piece: piece.role)
    return tuple(_message(role, group, scale) for role, group in groups)


def _message(role: Role, pieces: Iterable[_Piece], scale: float) -> Message:
    blocks = (Block(p.key, max(1, _scaled(p.span, scale) - p.less)) for p in pieces)
    return Message(role, tuple(Part(PartKind.TEXT, block) for block in blocks))
