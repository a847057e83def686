"""An answer put together again from its stream, for later turns to carry (`assistant: live`).

Pieces of text stay as they stood in the stream, escaped for JSON; nothing is parsed for them that
would not be parsed without.
"""

import json
from dataclasses import dataclass, field

from harness.plan.assistant_turn import ReplyBlock, SpokenKind


@dataclass(slots=True)
class _Block:
    kind: SpokenKind
    tool_id: str = ""
    tool_name: str = ""
    signature: str = ""
    pieces: list[bytes] = field(default_factory=list)


class Reply:
    """Collects the blocks of one answer in the order of the stream."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []

    def begin(self, kind: SpokenKind, *, tool_id: str = "", tool_name: str = "") -> None:
        """A block begins."""
        self._blocks.append(_Block(kind, tool_id, tool_name))

    def add(self, kind: str, escaped: bytes) -> None:
        """Text of the block that is open; another kind than that begins a block."""
        if not self._blocks or self._blocks[-1].kind != kind:
            self.begin(SpokenKind(kind))
        self._blocks[-1].pieces.append(escaped)

    def add_text(self, kind: str, text: str) -> None:
        """Text that was parsed."""
        if text:
            self.add(kind, json.dumps(text)[1:-1].encode())

    def sign(self, signature: str) -> None:
        """A signature of the thinking block that is open."""
        if self._blocks and self._blocks[-1].kind is SpokenKind.THINKING:
            self._blocks[-1].signature += signature

    def spoken(self) -> tuple[ReplyBlock, ...]:
        """The blocks."""
        return tuple(
            ReplyBlock(
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
