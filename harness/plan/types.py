"""What a plan consists of. All lengths of text are targets; what the server counts is what is reported."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of text that is a pure function of (seed, key, tok): equal blocks give equal bytes and so equal token prefixes.

    Attributes:
        key: who shares it: `chat/system` is shared by all, `s00012/3/user` by nobody.
        tok: target length in tokens.
    """

    key: str
    tok: int


class Role(StrEnum):
    """Who speaks."""

    USER = "user"
    ASSISTANT = "assistant"


class PartKind(StrEnum):
    """Kind of one content block of a message."""

    TEXT = "text"
    TOOL_USE = "tool_use"
    TOOL_RESULT = "tool_result"


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
    """

    index: int
    gap_ns: int
    message: Message
    reply: Message
    target_input_tok: int
    target_output_tok: int


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """A tool that the request offers: a name and a description of the given text."""

    name: str
    block: Block


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation.

    Attributes:
        session_id: unique within the plan, `<stage index>-<number>`.
        number: position in its stage's order, from 0.
        workload_class: `chat`, `claude-code`, …
        stage: name of its stage.
        slot: its fixed slice. Closed loop: the live slot that it occupies, number % concurrency; open loop: number.
            Worker = slot % workers.
        intended_offset_ns: open loop: start, from the stage's start; closed loop: None (starts when its slot is free).
        system: shared system prompt.
        tools: offered tools, in order; empty for none.
        turns: the requests, in order.
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


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One load stage, resolved.

    Attributes:
        index: from 0.
        name: label.
        kind: `concurrency` or `arrival_rate`.
        warmup_ns: start of the window, from the stage's start.
        window_ns: length of the window; None: it ends with the last session.
        sessions: number of sessions that end the stage; None: unbounded.
        concurrency: live conversations of a closed loop, else None.
        rate_per_s: starts per second of an open loop, else None.
        process: law of an open loop's gaps, else None.
        max_in_flight: requests in flight over all workers.
    """

    index: int
    name: str
    kind: str
    warmup_ns: int
    window_ns: int | None
    sessions: int | None
    concurrency: int | None
    rate_per_s: float | None
    process: str | None
    max_in_flight: int


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """What every request carries beside its messages.

    Attributes:
        api: a value of `core.records.Api`.
        force_output: add `ignore_eos` and, where the API has it, `min_tokens` (not on Messages).
        temperature: sampling temperature.
    """

    api: str
    force_output: bool
    temperature: float
