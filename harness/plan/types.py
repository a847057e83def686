"""The parts of a plan. All text lengths are targets; reports use the server's counts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from harness.api.parts import PartKind, Role


@dataclass(frozen=True, slots=True)
class Block:
    """Text that is a pure function of (seed, key, tok): equal blocks give equal bytes and so equal
    token prefixes.

    Attributes:
        key: its scope: all sessions share `chat/system`; `s00012/3/user` is unique.
        tok: target length in tokens.
    """

    key: str
    tok: int


@dataclass(frozen=True, slots=True)
class Part:
    """One content block of a message.

    Attributes:
        kind: text, tool_use (assistant) or tool_result (user).
        block: its text; for tool_use the input's text.
        tool_id: links a tool_result with its tool_use; empty for text.
        tool_name: of a tool_use, else empty.
    """

    kind: PartKind
    block: Block
    tool_id: str = ""
    tool_name: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """One request.

    Attributes:
        index: from 0 within its session.
        gap_ns: pause after the end of the previous turn; 0 for the first.
        message: the new message that this request adds (user text or tool result).
        reply: the recorded response that later turns carry.
        target_input_tok: complete prompt.
        target_output_tok: response.
        keeps: number of the previous request's exchanges (message and reply) that this one still
            carries, from the front. None: all; 0: after a compaction, when `message` starts with
            the summary.
        thinking_tok: planned reasoning within the response, not in `reply`; 0 if the workload does
            not plan it.
        cancel_after_ns: the user cancels this long after sending, if the response still streams;
            None: never.
        clipped_tok: tokens of the drawn lengths that did not fit the context; usually 0.
        prompt: all messages of this request, `message` last, if a recorded session does not simply
            continue; None: those of the previous request, its reply, and `message`.
        intended_offset_ns: recorded time from the stage's start, which this turn also waits for;
            None: only `gap_ns`.
        subagents: sessions that this turn's tool call starts when its response is complete; the
            next turn also waits for them to end.
    """

    index: int
    gap_ns: int
    message: Message
    reply: Message
    target_input_tok: int
    target_output_tok: int
    keeps: int | None = None
    thinking_tok: int = 0
    cancel_after_ns: int | None = None
    clipped_tok: int = 0
    prompt: tuple[Message, ...] | None = None
    intended_offset_ns: int | None = None
    subagents: "tuple[Subagent, ...]" = ()

    @property
    def requests(self) -> int:
        """Number of requests, with those of its subagents."""
        return 1 + sum(turn.requests for one in self.subagents for turn in one.turns)


Place = tuple[int, int]
"""A message of a session: its turn's index, and 0 for the turn's message, 1 for its reply, 2 + k
for message k of its `prompt`.
"""


class Thread:
    """The messages that each request of a session carries before its own message."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = turns
        self._index = -1
        self._places: list[Place] = []

    def before(self, turn_index: int) -> Sequence[Place]:
        """The places before a turn's message, in order; valid until the next call. Cheap if turns
        come in order.
        """
        if turn_index < self._index:
            self._index, self._places = -1, []
        while self._index < turn_index:
            self._index += 1
            self._step(self._turns[self._index])
        return self._places

    def message(self, place: Place) -> Message:
        turn = self._turns[place[0]]
        if place[1] < 2:
            return turn.reply if place[1] else turn.message
        assert turn.prompt is not None
        return turn.prompt[place[1] - 2]

    def _step(self, turn: Turn) -> None:
        if turn.index:
            self._places += [(turn.index - 1, 0), (turn.index - 1, 1)]
        if turn.prompt is not None:
            self._places = [(turn.index, 2 + k) for k in range(len(turn.prompt) - 1)]
        elif turn.keeps is not None:
            del self._places[2 * turn.keeps :]


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """A tool that the request offers; the block is its description."""

    name: str
    block: Block


@dataclass(frozen=True, slots=True)
class Subagent:
    """A session that a tool call of another session starts.

    Attributes:
        workload_class: `claude-code/subagent`, or the trace's.
        turns: its requests; the first is sent immediately.
    """

    workload_class: str
    system: Block
    tools: tuple[ToolDefinition, ...]
    turns: tuple[Turn, ...]
    reasons: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation of one or more requests.

    Attributes:
        session_id: unique within the plan, `<stage index>-<number>`; of a subagent its parent's, a
            dot, and the turn that starts it.
        number: position in its stage's order, from 0.
        workload_class: `chat`, `claude-code`, …
        slot: closed loop: the live slot that it uses, number % concurrency; open loop: number.
            Worker = slot % workers. A subagent has its parent's.
        intended_offset_ns: open loop: scheduled start, from the stage's start; closed loop: None
            (it starts when its slot is free).
        first_turn: the turn that it starts with. Above 0 for a session that starts midway: earlier
            turns are history, which one priming request (`priming_turn`) puts into the server's
            cache.
        first_gap_ns: rest of the pause before that turn, from the stage's start.
        parent_request_id: of a subagent: the request whose tool call starts it, else empty.
        reasons: responses of its class have reasoning, so its requests ask for it if the profile
            does.
        salt: text that opens the first tool and the system prompt, so that no other session shares
            its cached prefix; empty: shared.
    """

    session_id: str
    number: int
    workload_class: str
    stage: str
    slot: int
    intended_offset_ns: int | None
    system: Block
    tools: tuple[ToolDefinition, ...]
    turns: tuple[Turn, ...]
    first_turn: int = 0
    first_gap_ns: int = 0
    salt: str = ""
    reasons: bool = False
    parent_request_id: str = ""

    @property
    def primed(self) -> bool:
        """Whether it starts midway, with a priming request before its first turn."""
        return self.first_turn > 0

    @property
    def priming_turn(self) -> int:
        """Index of the turn whose prompt the priming request sends."""
        return self.first_turn - 1

    @property
    def live_turns(self) -> tuple[Turn, ...]:
        """The turns that are sent during the load, from `first_turn`."""
        return self.turns[self.first_turn :]

    def subagents(self, turn: Turn) -> "tuple[Session, ...]":
        """The sessions that a turn's tool call starts."""
        return tuple(self._subagent(turn, place, one) for place, one in enumerate(turn.subagents))

    def _subagent(self, turn: Turn, place: int, one: Subagent) -> "Session":
        mark = f"{turn.index}-{place}" if place else f"{turn.index}"
        return Session(
            session_id=f"{self.session_id}.{mark}",
            number=self.number,
            workload_class=one.workload_class,
            stage=self.stage,
            slot=self.slot,
            intended_offset_ns=None,
            system=one.system,
            tools=one.tools,
            turns=one.turns,
            salt=f"{self.salt}[{mark}] " if self.salt else "",
            reasons=one.reasons,
            parent_request_id=f"{self.session_id}/{turn.index}",
        )

    def tree(self) -> "Iterator[Session]":
        """This session, then those that its live turns start, recursively."""
        yield self
        for turn in self.live_turns:
            for one in self.subagents(turn):
                yield from one.tree()


PRIME_SUFFIX: Final = "/prime"
"""Ends the workload class of a priming request's record."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Part of an arrival schedule whose rate (starts per second) changes linearly."""

    length_s: float
    from_per_s: float
    to_per_s: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """Arrivals of an open loop.

    Attributes:
        process: `constant`, `poisson`, `gamma`, `weibull`; `all_at_once`: everything at the stage's
            start; `trace`: times of a trace.
        shape: of the gaps' distribution: 1 / CV^2 for gamma, k for Weibull, else None.
        segments: the rate over time; after the last one its final rate stays, unless `repeats`.
            Empty for `all_at_once` and `trace`.
        repeats: start again with the first segment after the last.
    """

    process: str
    shape: float | None = None
    segments: tuple[Segment, ...] = ()
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One load stage, resolved.

    Attributes:
        warmup_ns: start of the window, from the stage's start.
        window_ns: length of the window; None: it ends with the last session.
        sessions: number of sessions that end the stage; None: no limit.
        concurrency: live sessions of a closed loop, else None.
        schedule: arrivals of an open loop, else None.
        single: each session is cut to its first request.
        steady: the first session of each slot starts midway (closed loop only).
        max_in_flight: limit of requests in flight over all workers.
        part: the only part of a mix that it draws from; None: all of them.
    """

    index: int
    name: str
    kind: str
    load: str
    warmup_ns: int
    window_ns: int | None
    sessions: int | None
    concurrency: int | None
    schedule: Schedule | None
    single: bool
    steady: bool
    max_in_flight: int
    part: str | None = None

    @property
    def rate_per_s(self) -> float | None:
        """Highest rate of an open loop's schedule, if it has rates."""
        segments = () if self.schedule is None else self.schedule.segments
        return max((max(one.from_per_s, one.to_per_s) for one in segments), default=None)

    @property
    def process(self) -> str | None:
        """Process of an open loop's starts, if its schedule has rates."""
        return self.schedule.process if self.schedule and self.schedule.segments else None
