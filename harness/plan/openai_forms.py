"""Conversations as OpenAI's completions and responses routes take them: pieces of JSON that are
escaped already, to be joined into bodies.

Completions know no roles: a conversation is a transcript with a tag in front of each speaker, and
tools, calls and results are text in it. As on the other routes, each turn's prompt begins with the
whole prompt of the turn before it.
"""

import json
from typing import TYPE_CHECKING, Final

from harness.plan.types import Message, Part, PartKind, Role, ToolDefinition

if TYPE_CHECKING:
    from harness.plan.bodies import Texts

CUE: Final = rb"\n\nAssistant:"
"""Ends every transcript; the recorded answer follows it in the next turn's."""

TOOL_PARAMETERS: Final = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
}


def transcript_head(system: bytes, tools: tuple[ToolDefinition, ...], texts: "Texts") -> bytes:
    """Where every transcript begins, without the quotes around it: the system prompt, and the tools
    as JSON text.

    Args:
        system: the system prompt as a JSON string.
        tools: offered tools.
        texts: source of text.
    """
    if not tools:
        return rb"System: " + system[1:-1]
    offered = [
        {"name": tool.name, "description": texts.text(tool.block), "parameters": TOOL_PARAMETERS}
        for tool in tools
    ]
    return b"".join(
        (
            rb"System: ",
            system[1:-1],
            rb"\n\nTools: ",
            _inside(json.dumps(offered, ensure_ascii=False)),
        )
    )


def transcript(message: Message, texts: "Texts") -> bytes:
    """One message of a transcript, without quotes."""
    return b"".join(_said(message.role, part, texts) for part in message.parts)


def _said(role: Role, part: Part, texts: "Texts") -> bytes:
    match part.kind:
        case PartKind.TEXT:
            return (
                (CUE if role is Role.ASSISTANT else rb"\n\nUser:")
                + b" "
                + texts.escaped(part.block)[1:-1]
            )
        case PartKind.TOOL_USE:
            return transcript_call(part.tool_id, part.tool_name, {"input": texts.text(part.block)})
        case PartKind.TOOL_RESULT:
            return (
                rb"\n\nResult of " + _inside(part.tool_id) + b": " + texts.escaped(part.block)[1:-1]
            )


def transcript_call(tool_id: str, tool_name: str, arguments: dict[str, object]) -> bytes:
    """A tool call in a transcript, without quotes: its JSON as text."""
    call = {"id": tool_id, "name": tool_name, "arguments": arguments}
    return CUE + rb" Call: " + _inside(json.dumps(call, ensure_ascii=False))


def _inside(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()


def responses_items(message: Message, texts: "Texts") -> bytes:
    """One message as items of a responses request's `input`, joined by commas."""
    return b",".join(_item(message.role, part, texts) for part in message.parts)


def _item(role: Role, part: Part, texts: "Texts") -> bytes:
    match part.kind:
        case PartKind.TEXT:
            return b"".join(
                (
                    b'{"role":"',
                    role.value.encode(),
                    b'","content":',
                    texts.escaped(part.block),
                    b"}",
                )
            )
        case PartKind.TOOL_USE:
            # `arguments` is JSON inside a JSON string: escaped twice.
            arguments = json.dumps(
                json.dumps({"input": texts.text(part.block)}, ensure_ascii=False),
                ensure_ascii=False,
            )
            ids = f'"call_id":{json.dumps(part.tool_id)},"name":{json.dumps(part.tool_name)}'
            return f'{{"type":"function_call",{ids},"arguments":{arguments}}}'.encode()
        case PartKind.TOOL_RESULT:
            head = f'{{"type":"function_call_output","call_id":{json.dumps(part.tool_id)},"output":'
            return head.encode() + texts.escaped(part.block) + b"}"


def responses_tool(name: str, description: bytes) -> bytes:
    """One tool of a responses request.

    Args:
        name: of the function.
        description: as a JSON string.
    """
    parameters = json.dumps(TOOL_PARAMETERS, separators=(",", ":")).encode()
    named = b'{"type":"function","name":' + json.dumps(name).encode()
    return b"".join(
        (named, b',"description":', description, b',"parameters":', parameters, b',"strict":false}')
    )
