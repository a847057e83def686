"""Reads one response: a state machine from its events to content, usage and how it ended."""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from harness.api import sse
from harness.api.errors import (
    ERROR_CHARS,
    Ending,
    ending,
    error_of,
    error_text,
    is_error,
    is_foreign_error,
    reason_of,
)
from harness.api.parts import AnswerParts, PartKind
from harness.core.records import Api, Note, Outcome

Json = Mapping[str, Any]

_PING_NAME: Final = re.compile(r"ping|pong|heart-?_?beat|keep-?_?alive", re.IGNORECASE)
_PING: Final = re.compile(
    rb"\W*(?:ping|pong|heart[-_ ]?beat|keep[-_ ]?alive|alive|ok|processing|waiting)\b[^{}<>]{0,80}",
    re.IGNORECASE,
)
_THOUGHTS: Final = frozenset({"thinking", "reasoning", "reasoning_text", "summary_text"})
_TEXT_KEYS: Final = ("text", "content", "value", "thinking", "reasoning", "refusal", "summary")
_MOST_TOK: Final = 1 << 53


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as counted by the server; None: unknown.

    Attributes:
        input_tok: the whole prompt, including cached tokens.
        cache_read_tok: of these, read from the prefix cache.
        cache_write_tok: of these, written to it.
        output_tok: generated tokens.
    """

    input_tok: int | None = None
    cache_read_tok: int | None = None
    cache_write_tok: int | None = None
    output_tok: int | None = None


def string(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """The value; TypeError if it is not a string."""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__}, not a string")
    return value


def mapping(value: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:  # noqa: ANN401 - any JSON value
    """The value if it is a list, the object itself as one, else nothing."""
    return value if isinstance(value, list) else [value] if isinstance(value, dict) else []


def count(value: Any) -> int | None:  # noqa: ANN401 - any JSON value
    """A count of tokens, also as a float or text of a whole number; None for any other value."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 16:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < _MOST_TOK else None


class AnswerReader(ABC):
    """Reads one response, event by event: content, usage, end, errors.

    States: open, ended (the end marker came) and failed (`error`, `malformed`, or a stop reason
    that is a failure). `outcome` is the final one.

    Attributes:
        parts: collects the parts of the response; None: not needed.
        ended: the end marker was seen.
        error: an error that came with status 200.
        malformed: why this is not a response of this API.
        stop_reason: in the API's terms.
        kinds: kinds of content, in order of first appearance.
        usage: fields of the server's usage, the last value of each.
        usage_last: usage came after the last content.
        completion_tok: tokens so far, if the last event has them.
        disagreement: counts that contradict each other.
        notes: deviations that were read all the same.
        cut: the body ends within an event.
        begun: the last event began a part of the response.
        texts: pieces of text, without thinking and tool calls; of `read_body` only.
    """

    api: ClassVar[Api]
    end_marker: ClassVar[str]

    def __init__(self, parts: AnswerParts | None = None) -> None:
        self.parts = parts
        self.ended = False
        self.error: str | None = None
        self.malformed: str | None = None
        self.stop_reason: str | None = None
        self.kinds: list[str] = []
        self.usage: dict[str, Any] = {}
        self.usage_last = False
        self.completion_tok: int | None = None
        self.disagreement: str | None = None
        self.notes: set[Note] = set()
        self.cut = False
        self.begun = False
        self.texts: list[str] = []

    @abstractmethod
    def take(self, name: str | None, value: dict[str, Any]) -> tuple[str, str] | None:
        """Take an event's name and data; returns kind and content, if it has content.

        Raises:
            AttributeError, TypeError, KeyError, IndexError: not in the API's form.
        """

    @abstractmethod
    def belongs(self, name: str | None, value: dict[str, Any]) -> bool:
        """Whether a document is part of a response of this API."""

    @abstractmethod
    def tokens(self) -> Usage:
        """Usage so far, as the server counts."""

    # Reading

    def read(self, event: bytes) -> tuple[str, str] | None:
        """Take one event of a stream; its kind and content, if it has content. Never raises."""
        self.completion_tok = None
        self.begun = False
        name, data = sse.fields(event)
        if data is None:
            return None
        ended = self.ended
        found = self._read(name, data)
        if found is not None and ended:
            self._doubt(f"content after {self.end_marker}")
            return None
        return found

    def read_document(self, body: bytes) -> tuple[str, str] | None:
        """Take a response that is one document; its first content. Never raises."""
        self.ended = True
        return self._read(None, body)

    def separated(self, event: bytes, at: int, end: int) -> list[tuple[bytes, int]]:
        """The events of one that may be several, with their end offsets."""
        if not sse.several(event):
            return [(event, end)]
        found = sse.split(event, at, end)
        if len(found) > 1:
            self.notes.add(Note.NO_BLANK_LINES)
        return found

    def count_again(self, event: bytes) -> None:
        """Take only an event's usage: of the last event, when every event has usage and no final
        usage followed.
        """
        self.merge(json.loads(sse.fields(event)[1] or b"{}").get("usage"))

    def merge(self, usage: Any) -> None:  # noqa: ANN401 - any JSON value
        """Usage is cumulative: later values replace earlier ones. A 0 is no count where a positive
        one came before.
        """
        if usage is None:
            return
        if not isinstance(usage, dict):
            self.notes.add(Note.USAGE_UNUSABLE)
            return
        _merge(self.usage, usage)

    def stop(self, value: Any) -> None:  # noqa: ANN401 - any JSON value
        """Take a stop reason; a failure is not replaced by a later one."""
        reason = reason_of(value)
        if reason is not None and not self._aborted():
            self.stop_reason = reason

    def fail(self, value: Json) -> None:
        self.error = self.error or error_of(value) or json.dumps(value)[:ERROR_CHARS]

    def begin(self, kind: PartKind, tool_id: Any = "", tool_name: Any = "") -> None:  # noqa: ANN401
        """Begin a part of the response.

        Raises:
            TypeError: a tool's id or name is neither text nor missing.
        """
        ident, name = string(tool_id or ""), string(tool_name or "")
        self.begun = True
        if self.parts is not None:
            self.parts.begin(kind, tool_id=ident, tool_name=name)

    def add(self, kind: str, text: str) -> tuple[str, str]:
        """Content, which is also added to `parts`."""
        if self.parts is not None:
            self.parts.add_text(kind, text)
        return kind, text

    def contents(self, value: Any, kind: str) -> list[tuple[str, str]]:  # noqa: ANN401
        """Kinds and texts of content: text, or parts or an object where text belongs.

        Raises:
            TypeError: none of these.
        """
        if isinstance(value, str):
            return [(kind, value)]
        found = list(_texts(value, kind))
        if found:
            self.notes.add(Note.CONTENT_FORM)
        return found

    def joined(self, value: Any, kind: str) -> tuple[str, str]:  # noqa: ANN401
        """Such content as one piece of one kind; also added to `parts`."""
        found = self.contents(value, kind)
        return self.add(found[0][0] if found else kind, "".join(text for _, text in found))

    def json_text(self, value: Any) -> str:  # noqa: ANN401 - any JSON value
        """Arguments of a call as JSON text; an object is written as it would have been sent."""
        if value is None or isinstance(value, str):
            return value or ""
        self.notes.add(Note.CONTENT_FORM)
        return json.dumps(value, ensure_ascii=False)

    def _doubt(self, why: str) -> None:
        self.malformed = self.malformed or why

    def _read(self, name: str | None, data: bytes) -> tuple[str, str] | None:
        text = data.strip()
        if name is not None and name.lower() in ("error", "exception"):
            self.error = self.error or error_text(data) or f"an event {name!r} without text"
            return None
        if sse.DONE.fullmatch(text):
            self._marked()
            return None
        if not text:  # a sign of life
            return None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            if _PING.fullmatch(text) or (name is not None and _PING_NAME.fullmatch(name)):
                self.notes.add(Note.FOREIGN_EVENT)
            else:
                self._doubt(f"data that is not JSON: {data[:80]!r}")
            return None
        if isinstance(value, dict):
            return self._document(name, value, data)
        if value is None or (isinstance(value, str) and _PING.fullmatch(value.encode())):
            self.notes.add(Note.FOREIGN_EVENT)
        else:
            self._doubt(f"data that is not a JSON object: {data[:80]!r}")
        return None

    def _document(
        self, name: str | None, value: dict[str, Any], data: bytes
    ) -> tuple[str, str] | None:
        if is_error(value):
            self.fail(value)
            return None
        if not self.belongs(name, value):
            if is_foreign_error(value):
                self.fail(value)
            else:
                self.notes.add(Note.FOREIGN_EVENT)
            return None
        try:
            found = self.take(name, value)
        except (AttributeError, TypeError, KeyError, IndexError, RecursionError) as error:
            self._doubt(f"event with an unexpected form ({error}): {data[:80]!r}")
            return None
        return found if found is not None and found[1] else None

    def _marked(self) -> None:
        """`[DONE]`: OpenAI's end marker, which servers also send after the end of other APIs."""
        if self.ended:
            self.notes.add(Note.MARKER_AFTER_END)

    # The result

    def _aborted(self) -> bool:
        reason = self.stop_reason
        return reason is not None and ending(self.api, reason) is Ending.FAILED

    def settled(self) -> Usage:
        """Usage without counts that cannot be: 0 output tokens next to content, prompts of none."""
        usage = self.tokens()
        if any(count(v) is None for v in _counts(self.usage)):
            self.notes.add(Note.USAGE_UNUSABLE)
        if usage.output_tok == 0 and self.kinds:
            self.notes.add(Note.USAGE_ZERO)
            usage = replace(usage, output_tok=None)
        if usage.input_tok == 0:
            self.notes.add(Note.USAGE_ZERO)
            usage = replace(usage, input_tok=None)
        if self.disagreement is not None:
            self.notes.add(Note.USAGE_DISAGREES)
        return usage

    def failure(self) -> tuple[Outcome, str] | None:
        """A failure that the response itself reports."""
        if self.error is not None:
            return Outcome.API_ERROR, self.error
        if self.malformed is not None:
            return Outcome.MALFORMED, self.malformed
        if self._aborted():
            return Outcome.ABORTED, f"stop reason {self.stop_reason!r}"
        return None

    def outcome(self) -> tuple[Outcome, str | None]:
        """How a response ended whose HTTP message is complete."""
        failed = self.failure()
        if failed is not None:
            return failed
        counted, reason = self.tokens().output_tok, self.stop_reason
        if not self.ended and (reason is None or self.cut):
            return Outcome.TRUNCATED, f"the stream ended without {self.end_marker}"
        if not self.kinds and not counted:
            return (
                Outcome.EMPTY,
                "the response is empty: no content, no output tokens; stop reason: "
                + (reason or "none"),
            )
        if reason is None and not (counted and self.usage_last):
            why = f"the stream ended with {self.end_marker}, but without a stop reason or usage"
            return Outcome.TRUNCATED, why
        if reason is None:
            self.notes.add(Note.NO_STOP_REASON)
        elif ending(self.api, reason) is Ending.UNKNOWN:
            self.notes.add(Note.UNKNOWN_STOP_REASON)
        if not self.ended:
            self.notes.add(Note.NO_END_MARKER)
        return Outcome.OK, None


def read_body(reader: AnswerReader, body: bytes, *, streams: bool) -> None:
    """Take a complete body: of an event stream, or of one document."""
    if not streams:
        _keep(reader, reader.read_document(body))
        return
    at = 0
    for joined, end in sse.events(body, whole=True):
        for event, _ in reader.separated(joined, at, end):
            _keep(reader, reader.read(event))
        at = end
    reader.cut = bool(body[at:].strip())


def _keep(reader: AnswerReader, found: tuple[str, str] | None) -> None:
    if found is not None:
        reader.texts += [found[1]] if found[0] == "text" else []
        reader.kinds += [] if found[0] in reader.kinds else [found[0]]


def _merge(old: dict[str, Any], new: Json) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            old[key] = dict(old[key])
            _merge(old[key], value)
        elif value is not None and (value or not count(old.get(key))):
            old[key] = value


def _counts(usage: Json) -> Iterator[Any]:
    """Values of a usage that should be counts."""
    return (v for key, v in usage.items() if key.endswith("_tokens") and v is not None)


def _texts(value: Any, kind: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - any JSON value
    if value is None or value == "":
        return
    if isinstance(value, str):
        yield kind, value
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, kind)
    elif isinstance(value, dict):
        own = str(value.get("type", "")).removeprefix("reasoning.")
        inner = "thinking" if own in _THOUGHTS or "reasoning" in own else kind
        key = next((key for key in _TEXT_KEYS if value.get(key)), None)
        if key is not None:
            yield from _texts(value[key], "thinking" if key in _THOUGHTS else inner)
    else:
        raise TypeError(f"{type(value).__name__} where text belongs")
