"""What a plan consists of. All lengths of text are targets; what the server counts is what is
reported.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from harness.api.parts import PartKind, Role


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of text that is a pure function of (seed, key, tok): equal blocks give equal bytes
    and so equal token prefixes.

    Attributes:
        key: who shares it: `chat/system` is shared by all, `s00012/3/user` by nobody.
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
        tool_name: of a tool_use; empty otherwise.
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
        gap_ns: pause after the end of the turn before; 0 for the first.
        message: the new message that this request adds (user text or tool result).
        reply: the recorded answer that later turns carry in its place.
        target_input_tok: whole prompt.
        target_output_tok: answer.
        keeps: how many exchanges (message and reply) of the request before this one still carries,
            counted from the front: None for all of them; 0 after a compaction, where `message`
            opens with the summary.
        thinking_tok: part of the answer that is meant to be reasoning, where the workload tells it
            apart; it is not in `reply`.
        cancel_after_ns: the user gives up this long after the request was sent, if it still streams
            then; None: waits for the end.
        clipped_tok: tokens of the drawn lengths that did not fit the context and were left out; 0
            for nearly all.
        prompt: all messages of this request, `message` last, where a recorded conversation does not
            simply go on; None: those of the request before, its reply, and `message`.
        intended_offset_ns: recorded time from the stage's start, which this turn waits for as well;
            None: `gap_ns` alone.
        subagents: conversations that this turn's tool call starts when its answer is whole; the
            next turn waits for their ends as well.
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
        """Requests that it stands for: its own, and those of its subagents."""
        return 1 + sum(turn.requests for one in self.subagents for turn in one.turns)


Place = tuple[int, int]
"""A message of a conversation: of which turn, and which one of it: 0 its message, 1 its reply, 2 +
k the k-th of its `prompt`.
"""


class Thread:
    """What each request of a conversation carries in front of its own message, turn by turn.

    Args:
        turns: of the conversation.
    """

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = turns
        self._index = -1
        self._places: list[Place] = []

    def before(self, turn_index: int) -> Sequence[Place]:
        """The places in front of a turn's message, in order; valid until the next call. Cheap where
        turns are asked for in order.
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
    """A tool that the request offers: a name and a description of the given text."""

    name: str
    block: Block


@dataclass(frozen=True, slots=True)
class Subagent:
    """A conversation that another one's tool call starts.

    Attributes:
        workload_class: `claude-code/subagent`, or the trace's.
        system: its system prompt.
        tools: offered tools.
        turns: its requests; the first is due at once.
        reasons: its answers hold reasoning.
    """

    workload_class: str
    system: Block
    tools: tuple[ToolDefinition, ...]
    turns: tuple[Turn, ...]
    reasons: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation.

    Attributes:
        session_id: unique within the plan, `<stage index>-<number>`; of a subagent its parent's, a
            dot, and the turn that starts it.
        number: position in its stage's order, from 0.
        workload_class: `chat`, `claude-code`, …
        stage: name of its stage.
        slot: its fixed slice. Closed loop: the live slot that it occupies, number % concurrency;
            open loop: number. Worker = slot % workers. A subagent is in its parent's.
        intended_offset_ns: open loop: start, from the stage's start; closed loop: None (starts when
            its slot is free).
        system: shared system prompt.
        tools: offered tools, in order; empty for none.
        turns: the requests, in order.
        first_turn: the turn that it starts with. Above 0 for a session that is in its middle when
            the stage starts: the turns before it are history, and one priming request
            (`priming_turn`) brings what they carry into the server's cache.
        first_gap_ns: what is left of the pause before that turn, from the stage's start.
        parent_request_id: of a subagent: the request whose tool call starts it; empty otherwise.
        reasons: answers of its class hold reasoning, so its requests ask for it where the profile
            does.
        salt: text that opens the first tool and the system prompt, so that no other session shares
            a cached prefix with this one; empty: shared.
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
        """Whether it starts in its middle, with a priming request before its first turn."""
        return self.first_turn > 0

    @property
    def priming_turn(self) -> int:
        """Index of the turn whose prompt the priming request sends: the last one before
        `first_turn`.
        """
        return self.first_turn - 1

    @property
    def live_turns(self) -> tuple[Turn, ...]:
        """The turns that are sent as requests of the load, from `first_turn` on."""
        return self.turns[self.first_turn :]

    def subagents(self, turn: Turn) -> "tuple[Session, ...]":
        """The conversations that a turn's tool call starts."""
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
        """This conversation and then those that its live turns start, with all that these start."""
        yield self
        for turn in self.live_turns:
            for one in self.subagents(turn):
                yield from one.tree()


PRIME_SUFFIX: Final = "/prime"
"""Ends the workload class of a priming request's record."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of an arrival schedule in which the rate goes in a straight line from one value to
    another.

    Attributes:
        length_s: its length.
        from_per_s: starts per second at its beginning.
        to_per_s: at its end.
    """

    length_s: float
    from_per_s: float
    to_per_s: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """Arrivals of an open loop.

    Attributes:
        process: `constant`, `poisson`, `gamma`, `weibull`; `all_at_once`: everything at the stage's
            start; `trace`: times of a trace.
        shape: of the law of the gaps: 1 / CV^2 for gamma, k for Weibull; None for the others.
        segments: the rate over time; after the last one its final rate holds, unless `repeats`.
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
        index: from 0.
        name: label.
        kind: of the profile's stage.
        load: in words, for people.
        warmup_ns: start of the window, from the stage's start.
        window_ns: length of the window; None: it ends with the last session.
        sessions: number of sessions that end the stage; None: unbounded.
        concurrency: live conversations of a closed loop, else None.
        schedule: arrivals of an open loop, else None.
        single: each session is cut to its first request.
        steady: the sessions that occupy the slots at the start are in their middle (closed loop
            only).
        max_in_flight: requests in flight over all workers.
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
        """Highest rate of an open loop's schedule, where it has one."""
        segments = () if self.schedule is None else self.schedule.segments
        return max((max(one.from_per_s, one.to_per_s) for one in segments), default=None)

    @property
    def process(self) -> str | None:
        """Law of the gaps between an open loop's starts, where it has one."""
        return (
            self.schedule.process if self.schedule is not None and self.schedule.segments else None
        )
