"""The server's live response as the assistant's turn in later requests (`assistant: live`)."""

import json
from collections.abc import Sequence
from dataclasses import replace

from harness.api.parts import ContentPart, PartKind
from harness.plan.prompt_text import Texts
from harness.plan.types import Message, Part


def planned_part(part: Part, texts: Texts) -> ContentPart:
    """A part of the plan, with its text."""
    escaped = texts.escaped(part.block)[1:-1]
    return ContentPart(part.kind, escaped, part.tool_id, part.tool_name, planned=True)


def live_turn(
    recorded: Message, answer: Sequence[ContentPart], texts: Texts
) -> tuple[ContentPart, ...]:
    """The parts of a response that later requests carry, depending on the plan.

    If the plan has a tool call, that is the server's first call, else the planned one, since the
    planned result that follows needs a call. If it has none, calls are dropped, since no result
    follows. Reasoning is dropped except before a call: the Messages API requires it there.

    Returns:
        Empty if nothing is left: the recorded turn stays.
    """
    planned = next((part for part in recorded.parts if part.kind is PartKind.TOOL_USE), None)
    said = [one for one in answer if one.kind is PartKind.TEXT]
    text: tuple[ContentPart, ...] = ()
    if any(one.text.strip() for one in said):
        text = (ContentPart(PartKind.TEXT, b"".join(one.escaped for one in said)),)
    if planned is None:
        return text
    calls = (one for one in answer if one.kind is PartKind.TOOL_USE and one.tool_name)
    call = next(calls, None)
    if call is None:
        return (*text, _as_given(planned, texts)) if text else ()
    thoughts = (one for one in answer if one.signature or one.kind is PartKind.REDACTED_THINKING)
    return (*thoughts, *text, replace(call, tool_id=call.tool_id or planned.tool_id))


def _as_given(planned: Part, texts: Texts) -> ContentPart:
    """The planned call as a server would make it."""
    given = planned_part(planned, texts).arguments
    escaped = json.dumps(given, ensure_ascii=False)[1:-1].encode()
    return ContentPart(PartKind.TOOL_USE, escaped, planned.tool_id, planned.tool_name)


def tool_ids(recorded: Message, carried: Sequence[ContentPart]) -> dict[str, str]:
    """The plan's ids of calls -> the server's, which the following result must have."""
    planned = [part.tool_id for part in recorded.parts if part.kind is PartKind.TOOL_USE]
    call = next((part for part in carried if part.kind is PartKind.TOOL_USE), None)
    return {} if call is None or call.tool_id in planned else dict.fromkeys(planned, call.tool_id)
