"""Parts of messages as every API's module takes and gives them: text that is escaped for JSON
already, so that it goes into a body as bytes.
"""

import json
from dataclasses import dataclass, field
from enum import StrEnum


class Role(StrEnum):
    """Who speaks."""

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
    """One content block, planned or as a server gave it.

    Attributes:
        kind: of the block.
        escaped: its text as the content of a JSON string: escaped, in UTF-8, without the quotes. Of
            a planned tool_use the text of its one input; of a server's the input's JSON; of a
            redacted_thinking its data.
        tool_id: of a tool_use and of a tool_result; empty where the server gave none.
        tool_name: of a tool_use.
        signature: of a thinking block, which must come back with it; empty for none.
        planned: the text is the plan's, not a server's.
    """

    kind: PartKind
    escaped: bytes
    tool_id: str = ""
    tool_name: str = ""
    signature: str = ""
    planned: bool = False

    @property
    def quoted(self) -> bytes:
        """The text as a JSON string."""
        return b'"' + self.escaped + b'"'

    @property
    def text(self) -> str:
        """The text, not escaped."""
        return str(json.loads(self.quoted))

    @property
    def arguments(self) -> str:
        """A tool_use's input as JSON text of an object. What a server gave stays as it came where
        it is an object (an empty one may come as nothing); anything else becomes a text in one.
        """
        text = self.text
        if self.planned:
            return json.dumps({"input": text}, ensure_ascii=False)
        try:
            if isinstance(json.loads(text or "{}"), dict):
                return text or "{}"
        except (ValueError, RecursionError):
            pass  # a call that was cut short, or that a small model got wrong
        return json.dumps({"input": text})


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that a request offers: its name, and its description as a JSON string."""

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
    """Collects the parts of one answer in the order of its stream, for later turns to carry
    (`assistant: live`). Nothing is parsed for them that would not be parsed without.
    """

    def __init__(self) -> None:
        self._blocks: list[_OpenBlock] = []

    def begin(self, kind: PartKind, *, tool_id: str = "", tool_name: str = "") -> None:
        """A block begins."""
        self._blocks.append(_OpenBlock(kind, tool_id, tool_name))

    def add(self, kind: str, escaped: bytes) -> None:
        """Text of the block that is open; another kind than that begins a block."""
        if not self._blocks or self._blocks[-1].kind != kind:
            self.begin(PartKind(kind))
        self._blocks[-1].pieces.append(escaped)

    def add_text(self, kind: str, text: str) -> None:
        """Text that was parsed."""
        if text:
            self.add(kind, json.dumps(text)[1:-1].encode())

    def sign(self, signature: str) -> None:
        """A signature of the thinking block that is open."""
        if self._blocks and self._blocks[-1].kind is PartKind.THINKING:
            self._blocks[-1].signature += signature

    def parts(self) -> tuple[ContentPart, ...]:
        """The parts so far."""
        return tuple(
            ContentPart(
                one.kind, _utf8(b"".join(one.pieces)), one.tool_id, one.tool_name, one.signature
            )
            for one in self._blocks
        )


def _utf8(escaped: bytes) -> bytes:
    """As it is; bytes that are no UTF-8 would make the next body none."""
    try:
        escaped.decode()
    except UnicodeDecodeError:
        return escaped.decode("utf-8", "replace").encode()
    return escaped
