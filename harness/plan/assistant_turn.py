"""What a server really answered, as the turn of the assistant that later requests carry
(`assistant: live`).
"""

import json
from collections.abc import Sequence
from dataclasses import replace

from harness.api.parts import ContentPart, PartKind
from harness.plan.prompt_text import Texts
from harness.plan.types import Message, Part


def planned_part(part: Part, texts: Texts) -> ContentPart:
    """A part of the plan with its text."""
    escaped = texts.escaped(part.block)[1:-1]
    return ContentPart(part.kind, escaped, part.tool_id, part.tool_name, planned=True)


def live_turn(
    recorded: Message, answer: Sequence[ContentPart], texts: Texts
) -> tuple[ContentPart, ...]:
    """What later requests carry of an answer, by what the plan goes on with.

    Where the plan has a tool call, that is the server's first call, else the planned one, since the
    planned result that follows needs one; where it has none, calls are dropped, since no result
    follows. Reasoning is dropped, except in front of a call: the Messages API wants it back.

    Returns:
        Empty where nothing is left to carry: the recorded turn stays.
    """
    planned = next((part for part in recorded.parts if part.kind is PartKind.TOOL_USE), None)
    said = [one for one in answer if one.kind is PartKind.TEXT]
    texts_said = (
        (ContentPart(PartKind.TEXT, b"".join(one.escaped for one in said)),)
        if any(one.text.strip() for one in said)
        else ()
    )
    if planned is None:
        return texts_said
    calls = (one for one in answer if one.kind is PartKind.TOOL_USE and one.tool_name)
    call = next(calls, None)
    if call is None:
        return (*texts_said, _as_given(planned, texts)) if texts_said else ()
    thoughts = (one for one in answer if one.signature or one.kind is PartKind.REDACTED_THINKING)
    return (*thoughts, *texts_said, replace(call, tool_id=call.tool_id or planned.tool_id))


def _as_given(planned: Part, texts: Texts) -> ContentPart:
    """The planned call as a server would have made it."""
    given = planned_part(planned, texts).arguments
    escaped = json.dumps(given, ensure_ascii=False)[1:-1].encode()
    return ContentPart(PartKind.TOOL_USE, escaped, planned.tool_id, planned.tool_name)


def tool_ids(recorded: Message, carried: Sequence[ContentPart]) -> dict[str, str]:
    """The plan's ids of calls -> the server's, which the result that follows must name."""
    planned = [part.tool_id for part in recorded.parts if part.kind is PartKind.TOOL_USE]
    call = next((part for part in carried if part.kind is PartKind.TOOL_USE), None)
    return {} if call is None or call.tool_id in planned else dict.fromkeys(planned, call.tool_id)
