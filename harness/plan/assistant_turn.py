"""What a server really answered, as the turn of the assistant that later requests carry
(`assistant: live`).

Text is kept as it came, as the content of a JSON string that is escaped already, so that it goes
into the next body as bytes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from harness.core.records import Api
from harness.plan import openai_forms
from harness.plan.types import Message, Part, PartKind

if TYPE_CHECKING:
    from harness.plan.bodies import Texts


class SpokenKind(StrEnum):
    """Kind of one block of an answer."""

    TEXT = "text"
    TOOL_USE = "tool_use"
    THINKING = "thinking"
    REDACTED_THINKING = "redacted_thinking"


@dataclass(frozen=True, slots=True)
class ReplyBlock:
    """One block of an answer that a server gave.

    Attributes:
        kind: of the block.
        escaped: its text as the content of a JSON string: escaped, in UTF-8, without the quotes. Of
            a tool_use its input's JSON; of a redacted_thinking its data.
        tool_id: of a tool_use; empty where the server gave none.
        tool_name: of a tool_use.
        signature: of a thinking block, which must come back with it; empty for none.
    """

    kind: SpokenKind
    escaped: bytes
    tool_id: str = ""
    tool_name: str = ""
    signature: str = ""

    @property
    def text(self) -> str:
        """The text, not escaped."""
        return str(json.loads(b'"' + self.escaped + b'"'))


@dataclass(frozen=True, slots=True)
class LiveTurn:
    """A turn of the assistant as later requests carry it.

    Attributes:
        thoughts: reasoning in front of a tool call, which the Messages API wants back; empty
            otherwise.
        text: escaped; empty for none.
        call: the call that the server made, where the plan has one in this place.
        planned_call: the plan's call, where the server made none: the planned result that follows
            needs one.
    """

    thoughts: tuple[ReplyBlock, ...]
    text: bytes
    call: ReplyBlock | None
    planned_call: Part | None


def live_turn(recorded: Message, spoken: Sequence[ReplyBlock]) -> LiveTurn | None:
    """What later requests carry of an answer, by what the plan goes on with.

    Where the plan has a tool call, that is the server's first call, else the planned one; where it
    has none, calls are dropped, since no result follows. Reasoning is dropped, except in front of a
    call.

    Returns:
        None where nothing is left to carry: the recorded turn stays.
    """
    planned = next((part for part in recorded.parts if part.kind is PartKind.TOOL_USE), None)
    call = (
        next((one for one in spoken if one.kind is SpokenKind.TOOL_USE and one.tool_name), None)
        if planned is not None
        else None
    )
    said = [one for one in spoken if one.kind is SpokenKind.TEXT]
    text = b"".join(one.escaped for one in said) if any(one.text.strip() for one in said) else b""
    if not text and call is None:
        return None
    kinds = (SpokenKind.THINKING, SpokenKind.REDACTED_THINKING)
    thoughts = (
        tuple(
            one for one in spoken if one.kind in kinds and (one.signature or one.kind is kinds[1])
        )
        if call is not None
        else ()
    )
    return LiveTurn(thoughts, text, call, planned if call is None else None)


def tool_ids(recorded: Message, turn: LiveTurn) -> dict[str, str]:
    """The plan's id of a call -> the server's, which the result that follows must name."""
    if turn.call is None or not turn.call.tool_id:
        return {}
    return {
        part.tool_id: turn.call.tool_id for part in recorded.parts if part.kind is PartKind.TOOL_USE
    }


def render(turn: LiveTurn, recorded: Message, api: Api, texts: "Texts") -> bytes:
    """The turn in the form of an API, as `bodies` renders a recorded one."""
    name, ident, given = _call(turn, recorded, texts)
    text = b'"' + turn.text + b'"' if turn.text else b""
    arguments = json.dumps(given, ensure_ascii=False).encode()  # JSON inside a JSON string
    match api:
        case Api.MESSAGES:
            parts = [_thought(one) for one in turn.thoughts]
            parts += [b'{"type":"text","text":' + text + b"}"] if text else []
            if name:
                head = f'{{"type":"tool_use","id":{json.dumps(ident)},"name":{json.dumps(name)},"input":'  # noqa: E501
                parts.append(head.encode() + given.encode() + b"}")
            return b'{"role":"assistant","content":[' + b",".join(parts) + b"]}"
        case Api.COMPLETIONS:
            out = (
                openai_forms.CUE + turn.text if text else b""
            )  # as it was generated behind the cue
            return (
                out + openai_forms.transcript_call(ident, name, json.loads(given)) if name else out
            )
        case Api.RESPONSES:
            items = [b'{"role":"assistant","content":' + text + b"}"] if text else []
            if name:
                head = f'{{"type":"function_call","call_id":{json.dumps(ident)},"name":{json.dumps(name)},"arguments":'  # noqa: E501
                items.append(head.encode() + arguments + b"}")
            return b",".join(items)
        case _:
            said = b'{"role":"assistant","content":' + (text or b"null")
            if name:
                head = f',"tool_calls":[{{"id":{json.dumps(ident)},"type":"function","function":{{"name":{json.dumps(name)},"arguments":'  # noqa: E501
                said += head.encode() + arguments + b"}}]"
            return said + b"}"


def _thought(one: ReplyBlock) -> bytes:
    if one.kind is SpokenKind.REDACTED_THINKING:
        return b'{"type":"redacted_thinking","data":"' + one.escaped + b'"}'
    return (
        b'{"type":"thinking","thinking":"'
        + one.escaped
        + b'","signature":'
        + json.dumps(one.signature).encode()
        + b"}"
    )


def _call(turn: LiveTurn, recorded: Message, texts: "Texts") -> tuple[str, str, str]:
    """Name, id and input (JSON text of an object) of the turn's call; empty texts for none."""
    if turn.call is not None:
        ident = turn.call.tool_id or next(
            part.tool_id for part in recorded.parts if part.kind is PartKind.TOOL_USE
        )
        return turn.call.tool_name, ident, _object(turn.call.text)
    if turn.planned_call is not None:
        part = turn.planned_call
        return (
            part.tool_name,
            part.tool_id,
            json.dumps({"input": texts.text(part.block)}, ensure_ascii=False),
        )
    return "", "", ""


def _object(text: str) -> str:
    """A call's input as it came, where it is a JSON object (an empty one may come as nothing);
    anything else as a text in one.
    """
    try:
        if isinstance(json.loads(text or "{}"), dict):
            return text or "{}"
    except (ValueError, RecursionError):
        pass  # a call that was cut short, or that a small model got wrong
    return json.dumps({"input": text})
