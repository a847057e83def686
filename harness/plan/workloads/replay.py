"""A recorded trace as sessions of a plan.

What a trace says of its prompts is how long they are and, by block ids, which starts they share.
Both are kept:

- Ids that mean the same in the whole trace (Mooncake): each block is a text of its own, a function
  of (seed, trace, id), so equal ids give equal token prefixes in any two requests. The prompt is
  one user message of those blocks and, behind the last id, a text that nobody shares.
- Ids of one recording (Claude Code): a request that goes on from the prompt before adds the
  recorded answer and a new message. One that keeps only a part of an earlier prompt (a compaction,
  a reminder taken out, a subagent's common start) keeps exactly that many blocks of it: a text cut
  short is the start of the whole one.
- Sessions that another one started (subagents) begin with the end of the turn after which they were
  recorded, and that session's next turn waits for their ends. They are never split.
- No ids: nothing is known to be shared, so each request's text is its own.

A prompt is system text of one word and messages; the recorded tools and system prompt are part of
the first message.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from harness.api.parts import PartKind, Role
from harness.core.errors import ProfileError
from harness.core.records import CANARY
from harness.plan.traces.records import Clock, ReadTally, Trace, TraceRequest, TraceSession
from harness.plan.types import PRIME_SUFFIX, Block, Message, Part, Session, Subagent, Turn
from harness.plan.workloads.shared_prefix import MESSAGE_OVERHEAD_TOK

SYSTEM: Final = Block("trace/system", 1)
"""The one word that stands for a system prompt; the recorded one is in the messages, where it can
differ between requests.
"""
HEAD_TOK: Final = SYSTEM.tok + 2 * MESSAGE_OVERHEAD_TOK
"""What the system word and the markers around it and the first message cost; taken off the first
text that nobody shares.
"""


@dataclass(slots=True)
class ReplayTally(ReadTally):
    """What a replay made of a trace; counted while sessions are taken.

    Attributes:
        requests: requests given out.
        sessions: sessions given out.
        continuations: of these, sessions that go on with another because its context was rewritten
            (`rewrites="split"`).
        rewrites: requests whose prompt does not go on from the turn before, first ones aside.
        skipped: requests over the limit that were left out.
        capped_gaps: pauses that were shortened to `idle_cap_s`.
        longest_tok: longest input and output of a request given out, scaled.
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
    """A stretch of a prompt said by one side.

    Attributes:
        role: who says it.
        key: of its text.
        span: recorded tokens that it stands for.
        less: tokens of these that the chat template's markers make up, unscaled.
    """

    role: Role
    key: str
    span: int
    less: int = 0


@dataclass(frozen=True, slots=True)
class _Step:
    """One request and its whole prompt."""

    request: TraceRequest
    pieces: tuple[_Piece, ...]
    appended: bool


class _Scope:
    """The prompts of one recording so far, as a tree of their blocks: an id alone would not do,
    because some traces number blocks by content, wherever they stand.
    """

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, int | str], int] = {}
        self._owners: list[tuple[_Piece, ...]] = [()]

    def longest_start(self, hashes: Sequence[int | str]) -> tuple[int, tuple[_Piece, ...]]:
        """How many blocks from the start an earlier prompt had as well, and that prompt."""
        node = 0
        for kept, h in enumerate(hashes):
            following = self._nodes.get((node, h))
            if following is None:
                return kept, self._owners[node]
            node = following
        return len(hashes), self._owners[node]

    def remember(self, hashes: Sequence[int | str], pieces: tuple[_Piece, ...]) -> None:
        """A prompt was said."""
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

    Args:
        trace: recorded requests.
        seed: of the draw where the trace is one of distributions; the text's seed is that of
            `Texts`.
        time_scale: factor on times and pauses: 0.5 replays twice as fast.
        length_scale: factor on all lengths.
        limit_tok: longest input and output together, scaled.
        over_limit: a longer request is an error that names its line, or is left out and counted; it
            is never cut.
        idle_cap_s: longest pause between turns, after scaling; None: as recorded.
        stage: name of the stage, which begins every session's id.
        workload_class: class of requests to which the trace gives none.
        rewrites: what becomes of a turn that does not go on from the one before: `inline` sends its
            whole prompt in the same session (`Turn.prompt`); `split` ends the session and starts
            another with the prompt as one message, which costs the prefix hits behind the first
            message's common start.
        tally: counts what was given out.

    A session has an intended start only where the trace has one clock. A pause is the recorded one
    from end to start; where the end was not recorded, from start to start. An answer of no tokens
    asks for one.

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
    number = 0
    for tree in _trees(trace.sessions(seed=seed, tally=tally)):
        for session in maker.sessions(tree):
            yield replace(
                session, session_id=f"{stage}-{number:06d}", number=number, stage=stage, slot=number
            )
            number += 1


def _trees(sessions: Iterable[TraceSession]) -> Iterator[list[TraceSession]]:
    """Each session with those that follow it and that it, or one of them, started."""
    tree: list[TraceSession] = []
    for session in sessions:
        if tree and session.parent_id not in {one.session_id for one in tree}:
            yield tree
            tree = []
        tree.append(session)
    if tree:
        yield tree


class _Maker:
    """Makes sessions of a plan from those of a trace."""

    def __init__(
        self,
        trace: Trace,
        time_scale: float,
        length_scale: float,
        limit_tok: int,
        over_limit: str,
        idle_cap_s: float | None,
        workload_class: str,
        tally: ReplayTally,
        *,
        split: bool,
    ) -> None:
        self._trace = trace
        self._time_scale = time_scale
        self._length_scale = length_scale
        self._limit_tok = limit_tok
        self._over_limit = over_limit
        self._idle_cap_s = idle_cap_s
        self._workload_class = workload_class
        self._tally = tally
        self._split = split
        self._scopes: dict[str, _Scope] = {}

    def sessions(self, tree: Sequence[TraceSession]) -> Iterator[Session]:
        """The sessions of a tree: its first, in parts where it is split, with the others started by
        its turns.
        """
        kept = [(recorded, self._steps(recorded)) for recorded in tree]
        steps_of = {recorded.session_id: steps for recorded, steps in kept if steps}
        started: dict[
            tuple[str, int], list[tuple[TraceSession, list[_Step]]]
        ] = {}  # by the session and its turn that starts them
        roots: list[tuple[TraceSession, list[_Step]]] = []
        for recorded, steps in kept:
            caller = _caller(steps_of.get(recorded.parent_id or "", ()), recorded.requests[0].t_s)
            if not steps:
                continue
            if caller is None or recorded is tree[0]:
                roots.append((recorded, steps))
            else:
                started.setdefault((recorded.parent_id or "", caller.request.turn), []).append(
                    (recorded, steps)
                )

        def subagents(recorded: TraceSession, step: _Step) -> tuple[Subagent, ...]:
            return tuple(
                Subagent(
                    steps[0].request.workload_class or self._workload_class,
                    SYSTEM,
                    (),
                    turns(child, steps, flat=False),
                )
                for child, steps in started.get((recorded.session_id, step.request.turn), ())
            )

        def turns(recorded: TraceSession, run: Sequence[_Step], *, flat: bool) -> tuple[Turn, ...]:
            self._tally.sessions += 1
            made = _turns(
                self._trace,
                run,
                self._time_scale,
                self._length_scale,
                self._idle_cap_s,
                self._tally,
                flat=flat,
            )
            return tuple(
                replace(turn, subagents=subagents(recorded, step))
                for turn, step in zip(made, run, strict=True)
            )

        for recorded, steps in roots:
            for part, run in enumerate(_runs(steps) if self._split else [steps]):
                made = turns(recorded, run, flat=self._split)
                self._tally.continuations += part > 0
                yield Session(
                    session_id="",
                    number=0,
                    workload_class=run[0].request.workload_class or self._workload_class,
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
        kept = [
            one
            for one in recorded.requests
            if _fits(one, self._length_scale, self._limit_tok, self._over_limit, self._tally)
        ]
        if not kept:
            return []
        scope_name = kept[0].hash_scope
        if scope_name not in self._scopes:
            # Recordings come one after the other: what an earlier one said is no longer needed.
            self._scopes.clear()
            self._scopes[scope_name] = _Scope()
        steps = _steps(self._trace, recorded, kept, self._scopes[scope_name])
        self._tally.rewrites += sum(not step.appended for step in steps[1:])
        return steps


def _caller(steps: Sequence[_Step], t_s: float) -> _Step | None:
    """The turn whose tool call starts what begins at a time: the last one that began before it.
    None where there is no turn.
    """
    return next(
        (step for step in reversed(steps) if step.request.t_s <= t_s), steps[0] if steps else None
    )


def _refuse_label(first: TraceRequest) -> None:
    """A class of the trace that would be taken for the harness's own requests, which count in no
    figure.
    """
    label = first.workload_class or ""
    if label == CANARY or label.endswith(PRIME_SUFFIX):
        raise ProfileError(
            f"{first.where}: requests of class {label!r} would be taken for the harness's own,"
            " which count in no figure",
            next_step="give the class another name in the trace",
        )


def _fits(
    request: TraceRequest, scale: float, limit_tok: int, over_limit: str, tally: ReplayTally
) -> bool:
    total = _scaled(request.input_tok, scale) + _scaled(request.output_tok, scale)
    if total <= limit_tok:
        tally.requests += 1
        tally.longest_tok = max(tally.longest_tok, total)
        return True
    if over_limit == "refuse":
        raise ProfileError(
            f"{request.where}: {request.input_tok:,} input and {request.output_tok:,} output"
            f" tokens, scaled by {scale:g}, are {total:,}: more than the limit of {limit_tok:,}",
            next_step=(
                f"scale lengths by {limit_tok / (request.input_tok + request.output_tok):.3g} or"
                " less, or skip what is longer"
            ),
        )
    tally.skipped += 1
    return False


def _scaled(tok: int, scale: float) -> int:
    return max(1, round(tok * scale))


def _steps(
    trace: Trace, recorded: TraceSession, requests: Sequence[TraceRequest], scope: _Scope
) -> list[_Step]:
    """The prompts of a session, each in terms of what earlier ones of its scope said."""
    steps: list[_Step] = []
    before: _Step | None = None
    for request in requests:
        # A key names who says it first; drawn and sessionless requests are told apart by the
        # session's id, which holds their line.
        key = f"trace/{trace.name}/{request.hash_scope}/{recorded.session_id}/{request.turn}"
        hashes = request.block_hashes or ()
        if hashes and not request.hash_scope:
            step = _Step(request, _common_blocks(trace, request, key), appended=False)
        elif before is not None and _goes_on(before.request, request):
            grown = request.input_tok - before.request.input_tok
            reply = min(max(1, before.request.output_tok), grown - 1)
            said = (
                _Piece(Role.ASSISTANT, _reply_key(before), reply),
                _Piece(Role.USER, key, grown - reply, 2 * MESSAGE_OVERHEAD_TOK),
            )
            step = _Step(request, (*before.pieces, *said), appended=True)
        else:
            step = _Step(request, _kept_start(request, key, scope), appended=False)
        if hashes and request.hash_scope:
            scope.remember(hashes, step.pieces)
        steps.append(step)
        before = step
    return steps


def _goes_on(before: TraceRequest, request: TraceRequest) -> bool:
    """Whether a prompt holds the whole of the one before, and room for an answer and a message
    behind it.
    """
    earlier, hashes = before.block_hashes, request.block_hashes
    return bool(
        earlier
        and hashes
        and request.input_tok - before.input_tok >= 2
        and hashes[: len(earlier)] == earlier
    )


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
    # Texts may hold anything, slashes as well: a digest cannot be taken for another key.
    return str(h) if isinstance(h, int) else "t" + hashlib.sha256(h.encode()).hexdigest()[:32]


def _kept_start(request: TraceRequest, key: str, scope: _Scope) -> tuple[_Piece, ...]:
    """The blocks that an earlier prompt of the scope began with as well, cut at that block, and a
    new message for the rest.
    """
    kept, owner = scope.longest_start(request.block_hashes or ())
    # At least one token is new: a request needs a message of its own.
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
    """The stretches of a session that only append."""
    runs: list[list[_Step]] = []
    for step in steps:
        if step.appended and runs:
            runs[-1].append(step)
        else:
            runs.append([step])
    return runs


def _turns(
    trace: Trace,
    steps: Sequence[_Step],
    time_scale: float,
    length_scale: float,
    idle_cap_s: float | None,
    tally: ReplayTally,
    *,
    flat: bool,
) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    for index, step in enumerate(steps):
        request = step.request
        follower = steps[index + 1] if index + 1 < len(steps) else None
        if follower is not None and follower.appended:
            reply_span = follower.pieces[-2].span
        else:
            reply_span = max(1, request.output_tok)
        messages = _messages(step.pieces, length_scale)
        rewritten = not step.appended and (index > 0 or len(messages) > 1)
        message = messages[-1]
        if rewritten and flat:
            message = Message(Role.USER, tuple(part for one in messages for part in one.parts))
        turns.append(
            Turn(
                index=index,
                gap_ns=(
                    _gap_ns(steps[index - 1].request, request, time_scale, idle_cap_s, tally)
                    if index
                    else 0
                ),
                message=message,
                reply=_message(
                    Role.ASSISTANT,
                    [_Piece(Role.ASSISTANT, _reply_key(step), reply_span)],
                    length_scale,
                ),
                target_input_tok=_scaled(request.input_tok, length_scale),
                target_output_tok=_scaled(request.output_tok, length_scale),
                prompt=messages if rewritten and not flat else None,
                intended_offset_ns=(
                    round(request.t_s * time_scale * 1e9) if trace.clock is Clock.TRACE else None
                ),
            )
        )
    return tuple(turns)


def _messages(pieces: Sequence[_Piece], scale: float) -> tuple[Message, ...]:
    """Consecutive pieces of one side are one message."""
    grouped: list[list[_Piece]] = []
    for piece in pieces:
        if grouped and grouped[-1][0].role is piece.role:
            grouped[-1].append(piece)
        else:
            grouped.append([piece])
    return tuple(_message(group[0].role, group, scale) for group in grouped)


def _message(role: Role, pieces: Sequence[_Piece], scale: float) -> Message:
    return Message(
        role,
        tuple(
            Part(PartKind.TEXT, Block(p.key, max(1, _scaled(p.span, scale) - p.less)))
            for p in pieces
        ),
    )


def _gap_ns(
    before: TraceRequest,
    request: TraceRequest,
    time_scale: float,
    idle_cap_s: float | None,
    tally: ReplayTally,
) -> int:
    recorded_s = (
        request.gap_s
        if request.gap_s is not None and request.turn == before.turn + 1
        else request.t_s - before.t_s
    )
    gap_s = recorded_s * time_scale
    if idle_cap_s is not None and gap_s > idle_cap_s:
        tally.capped_gaps += 1
        gap_s = idle_cap_s
    return round(gap_s * 1e9)
