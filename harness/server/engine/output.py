"""From token ids to text that is valid at all times, stop strings, and tool calls."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from harness.api.base import Piece, Text, ToolCall

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOOL_OPEN: Final = "<tool_call>"
TOOL_CLOSE: Final = "</tool_call>"


class Detokenizer:
    """Token ids to text, one token at a time, never emitting half of a character."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._emitted = ""

    def feed(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete, and for
        special tokens.
        """
        self._ids.append(token_id)
        text: str = self._stream.step(self._tokenizer, token_id) or ""
        self._emitted += text
        return text

    def rest(self) -> str:
        """The remainder once no token follows: incomplete characters, as replacement characters."""
        whole: str = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        return whole[len(self._emitted) :] if whole.startswith(self._emitted) else ""


class StopStrings:
    """Cuts text before the first stop string, holding back what could still become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """Text that is now final. Sets `matched` once a stop string is complete; the rest is
        dropped.
        """
        if not self._stops:
            return text
        self._held += text
        found = [(at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            at, self.matched = min(found)
            out, self._held = self._held[:at], ""
            return out
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return out

    def rest(self) -> str:
        out, self._held = self._held, ""
        return out


class ToolCalls:
    """Finds calls in Hermes form, `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, of the
    functions that the request offers. Anything else stays text.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = frozenset(names)
        self._held = ""
        self._called = False

    def feed(self, text: str) -> list[Piece]:
        self._held += text
        pieces: list[Piece] = []
        while True:
            start = self._held.find(TOOL_OPEN)
            if start < 0:
                keep = _overlap(self._held, TOOL_OPEN)
                self._say(pieces, self._held[: len(self._held) - keep])
                self._held = self._held[len(self._held) - keep :]
                return pieces
            self._say(pieces, self._held[:start])
            call, close, after = self._held[start:].partition(TOOL_CLOSE)
            if not close:
                self._held = call
                return pieces
            self._held = after
            self._call(pieces, call.removeprefix(TOOL_OPEN), call + close)

    def rest(self) -> list[Piece]:
        """The remainder once no more follows. A call without its closing tag counts if its JSON is
        complete.
        """
        pieces: list[Piece] = []
        held, self._held = self._held, ""
        if held.startswith(TOOL_OPEN):
            self._call(pieces, held[len(TOOL_OPEN) :], held)
        else:
            self._say(pieces, held)
        return pieces

    def _say(self, pieces: list[Piece], text: str) -> None:
        # Line breaks between calls are not part of the response.
        if text and not (self._called and text.isspace()):
            pieces.append(Text(text))

    def _call(self, pieces: list[Piece], inner: str, whole: str) -> None:
        try:
            call = json.loads(inner)
        except ValueError:
            call = None
        if (
            isinstance(call, dict)
            and call.get("name") in self._names
            and isinstance(call.get("arguments"), dict)
        ):
            self._called = True
            pieces.append(ToolCall(call["name"], json.dumps(call["arguments"])))
        else:
            self._say(pieces, whole)


def _overlap(text: str, mark: str) -> int:
    """Length of the longest suffix of `text` that is a proper prefix of `mark`."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if mark.startswith(text[-length:]):
            return length
    return 0


class Output:
    """One response: tokens in, pieces out, and how many tokens count.

    No stop string ends it before `min_tok` tokens; without `tool_names` no tool calls are parsed.
    """

    def __init__(
        self,
        tokenizer: "Tokenizer",
        stops: Sequence[str] = (),
        tool_names: Sequence[str] | None = None,
        min_tok: int = 0,
    ) -> None:
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = StopStrings(stops)
        self._tools = ToolCalls(tool_names) if tool_names else None
        self._min_tok = min_tok
        self.tokens = 0
        self.called_tool = False

    @property
    def stopped_by(self) -> str | None:
        return self._stops.matched

    def feed(self, token_ids: Sequence[int]) -> list[Piece]:
        """Pieces that these tokens complete. Tokens after a stop string are neither counted nor
        read.
        """
        text = ""
        for token_id in token_ids:
            self.tokens += 1
            new = self._detokenizer.feed(token_id)
            text += self._stops.feed(new) if self.tokens >= self._min_tok else new
            if self._stops.matched is not None:
                break
        return self._pieces(text)

    def finish(self) -> list[Piece]:
        text = "" if self._stops.matched is not None else self._stops.feed(self._detokenizer.rest())
        if self._stops.matched is None:
            text += self._stops.rest()
        pieces = self._pieces(text)
        if self._tools is not None:
            pieces += self._note(self._tools.rest())
        return pieces

    def _pieces(self, text: str) -> list[Piece]:
        if self._tools is None:
            return [Text(text)] if text else []
        return self._note(self._tools.feed(text)) if text else []

    def _note(self, pieces: list[Piece]) -> list[Piece]:
        self.called_tool |= any(isinstance(piece, ToolCall) for piece in pieces)
        return pieces
