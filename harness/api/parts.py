"""Parts of messages, the same for every API. Their text is already escaped for JSON, so that it is
copied into a body as bytes.
"""

import json
from dataclasses import dataclass, field
from enum import StrEnum


class Role(StrEnum):
    """Author of a message."""

    USER = "user"
    ASSISTANT = "assistant"


class PartKind(StrEnum):
    """Kind of one content block of a message."""

    TEXT = "text"
    TOOL_USE = "tool_use"
    TOOL_RESULT = "tool_result"
    THINKING = "thinking"  # of a server's answer only
    REDACTED_THINKING = "redacted_thinking"  # of a server's answer only


@dataclass(frozen=True, slots=True)
class ContentPart:
    """One content block, from the plan or from a server.

    Attributes:
        escaped: its text as the content of a JSON string: escaped, in UTF-8, without the quotes.
            For a planned tool_use, the text of its one input; for a server's, the input's JSON; for
            redacted_thinking, its data.
        tool_id: of a tool_use and of a tool_result; empty if the server sent none.
        tool_name: of a tool_use.
        signature: of a thinking block, to be sent back with it; empty for none.
        planned: the text is from the plan.
    """

    kind: PartKind
    escaped: bytes
    tool_id: str = ""
    tool_name: str = ""
    signature: str = ""
    planned: bool = False

    @property
    def quoted(self) -> bytes:
        return b'"' + self.escaped + b'"'

    @property
    def text(self) -> str:
        return str(json.loads(self.quoted))

    @property
    def arguments(self) -> str:
        """A tool_use's input as JSON text of an object. A server's object stays unchanged (an empty
        one may come as nothing); anything else is wrapped in one as text.
        """
        text = self.text
        if self.planned:
            return json.dumps({"input": text}, ensure_ascii=False)
        try:
            if isinstance(json.loads(text or "{}"), dict):
                return text or "{}"
        except (ValueError, RecursionError):
            pass  # a call that was cut off, or invalid JSON by a small model
        return json.dumps({"input": text})


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool of a request. `description` is a JSON string."""

    name: str
    description: bytes


@dataclass(slots=True)
class _OpenBlock:
    kind: PartKind
    tool_id: str = ""
    tool_name: str = ""
    signature: str = ""
    pieces: list[bytes] = field(default_factory=list)


class AnswerParts:
    """Collects the parts of one response in stream order, for later turns (`assistant: live`).
    This needs no additional parsing.
    """

    def __init__(self) -> None:
        self._blocks: list[_OpenBlock] = []

    def begin(self, kind: PartKind, *, tool_id: str = "", tool_name: str = "") -> None:
        self._blocks.append(_OpenBlock(kind, tool_id, tool_name))

    def add(self, kind: str, escaped: bytes) -> None:
        """Add text to the open block; another kind starts a new one."""
        if not self._blocks or self._blocks[-1].kind != kind:
            self.begin(PartKind(kind))
        self._blocks[-1].pieces.append(escaped)

    def add_text(self, kind: str, text: str) -> None:
        if text:
            self.add(kind, json.dumps(text)[1:-1].encode())

    def sign(self, signature: str) -> None:
        if self._blocks and self._blocks[-1].kind is PartKind.THINKING:
            self._blocks[-1].signature += signature

    def parts(self) -> tuple[ContentPart, ...]:
        return tuple(
            ContentPart(
                one.kind, _utf8(b"".join(one.pieces)), one.tool_id, one.tool_name, one.signature
            )
            for one in self._blocks
        )


def _utf8(escaped: bytes) -> bytes:
    # Other bytes would make the next body invalid.
    return escaped.decode("utf-8", "replace").encode()
