"""What a wire API consists of: requests, answers, and what a server of it reads and writes."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from harness.api import sse
from harness.api.errors import ERROR_CHARS, error_of
from harness.api.parts import AnswerParts, ContentPart, Role, Tool
from harness.core.records import Api

Json = Mapping[str, Any]

SALT: Final = b"\x00"
"""Stands in a head that sessions share for the salt of one of them; no JSON text has it."""


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """What every request carries beside its messages.

    Attributes:
        api: a value of `core.records.Api`.
        force_output: add `ignore_eos` and, where the API has it, `min_tokens` (not on Messages).
        temperature: sampling temperature.
        cache_control: mark the prompt-cache breakpoints that Claude's clients set (Messages API
            only): the last tool, the system prompt and the last two user messages.
        live: later turns carry what the server answered in place of the recorded reply, so their
            bytes are known at run time only.
        thinking: how requests of classes that reason ask for it: `off`, or `budget`, `adaptive` or
            `effort` as in the profile.
        effort: for `adaptive` and `effort`; None: the server's own.
    """

    api: str
    force_output: bool
    temperature: float
    cache_control: bool = False
    live: bool = False
    thinking: str = "off"
    effort: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens by the server's count. None is unknown.

    Attributes:
        input_tok: the whole prompt, cached tokens included.
        cache_read_tok: of these, read from a prefix cache.
        cache_write_tok: of these, written to it.
        output_tok: tokens that were produced.
    """

    input_tok: int | None = None
    cache_read_tok: int | None = None
    cache_write_tok: int | None = None
    output_tok: int | None = None


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    """A whole answer's text, and its tokens with their log-probabilities where they were asked for
    and told.
    """

    text: str
    tokens: Sequence[str] = ()
    logprobs: Sequence[float] = ()


def string(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """The value, which must be text.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where text belongs")
    return value


def count(value: Any) -> int | None:  # noqa: ANN401 - any JSON value
    """A count of tokens; None for anything that is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


class AnswerReader(ABC):
    """What one answer says, event by event: content, usage, end, errors.

    Args:
        parts: collects the answer's parts; None: they are not wanted.

    Attributes:
        ended: the end marker was seen.
        error: the error that came with status 200.
        malformed: what is no answer of this API.
        stop_reason: in the API's words.
        kinds: kinds of content, in the order of their first appearance.
        usage: the fields of the server's usage, the last value of each.
        completion_tok: tokens so far, where the event that was read last counts them.
        disagreement: counts that contradict each other.
    """

    end_marker: ClassVar[str]

    def __init__(self, parts: AnswerParts | None = None) -> None:
        self.parts = parts
        self.ended = False
        self.error: str | None = None
        self.malformed: str | None = None
        self.stop_reason: str | None = None
        self.kinds: list[str] = []
        self.usage: dict[str, Any] = {}
        self.completion_tok: int | None = None
        self.disagreement: str | None = None

    @abstractmethod
    def take(self, name: str | None, value: dict[str, Any]) -> tuple[str, str] | None:
        """Take an event's JSON object.

        Args:
            name: of the event.
            value: its data.

        Returns:
            Kind and content, where it has content.

        Raises:
            AttributeError, TypeError, KeyError, IndexError: it has another form than the API's.
        """

    @abstractmethod
    def tokens(self) -> Usage:
        """The usage so far."""

    def fields(self, event: bytes) -> tuple[str | None, bytes | None]:
        """Name and data of an event; data is None where there is nothing to read."""
        return sse.fields(event)

    def read(self, event: bytes) -> tuple[str, str] | None:
        """Take one event of a stream; its kind and content, where it has content. Never raises."""
        self.completion_tok = None
        name, data = self.fields(event)
        if data is None:
            return None
        ended = self.ended
        found = self._read(name, data)
        if found is not None and ended:
            self._doubt(f"content after {self.end_marker}")
            return None
        return found

    def read_whole(self, body: bytes) -> None:
        """Take an answer that is not a stream. Never raises."""
        self._read(None, body)

    def count_again(self, event: bytes) -> None:
        """Take an event's usage alone: that of the last one of a stream whose every event counts,
        where no closing usage followed.
        """
        usage = json.loads(self.fields(event)[1] or b"{}").get("usage")
        self.merge(usage if isinstance(usage, dict) else {})

    def merge(self, usage: Json) -> None:
        """Usage is cumulative: later values replace earlier ones, absent ones leave them."""
        for key, value in usage.items():
            if value is not None:
                self.usage[key] = value

    def fail(self, value: Json) -> None:
        """The server says that it failed."""
        self.error = error_of(value) or json.dumps(value)[:ERROR_CHARS]

    def _doubt(self, why: str) -> None:
        self.malformed = self.malformed or why

    def _read(self, name: str | None, data: bytes) -> tuple[str, str] | None:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            self._doubt(f"an event's data is no JSON: {data[:80]!r}")
            return None
        if not isinstance(value, dict):
            self._doubt(f"an event's data is no JSON object: {data[:80]!r}")
            return None
        try:
            found = self.take(name, value)
        except (AttributeError, TypeError, KeyError, IndexError) as error:
            self._doubt(f"an event has an unexpected form ({error}): {data[:80]!r}")
            return None
        return found if found is not None and found[1] else None


class BadRequestError(ValueError):
    """The request is wrong or asks for what the embedded engine does not do; told to the client as
    status 400.
    """


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as the embedded engine serves it.

    Attributes:
        max_tok: longest answer; 0: as long as there is room.
        min_tok: no stop string or end token ends the answer before.
        ignore_eos: the end token does not end it.
        temperature: sampling temperature.
        stops: stop strings.
        stream: whether events are wanted.
        messages: the conversation in OpenAI form (system, user, assistant with tool_calls, tool).
        tools: functions in OpenAI form.
        parse_tools: names of functions whose calls are to be recognized in the answer.
        prompt: text or token ids instead of messages (completions).
        include_usage: the stream ends with usage.
        continuous_usage: usage in every event.
    """

    max_tok: int
    min_tok: int = 0
    ignore_eos: bool = False
    temperature: float = 1.0
    stops: tuple[str, ...] = ()
    stream: bool = False
    messages: tuple[Json, ...] = ()
    tools: tuple[Json, ...] = ()
    parse_tools: tuple[str, ...] = ()
    prompt: str | list[int] | None = None
    include_usage: bool = True
    continuous_usage: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of answer text."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A complete call that the model wrote. `arguments` is a JSON object as text."""

    name: str
    arguments: str


Piece = Text | ToolCall


@dataclass(frozen=True, slots=True)
class Finish:
    """How an answer ended: `stop`, `length` or `tool_calls`, and the stop string that ended it."""

    reason: str
    stop_string: str | None = None


def error_body(status: int, kind: str, message: str) -> dict[str, Any]:
    """An error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def compact(value: object) -> bytes:
    """JSON as servers write it; half of a surrogate pair, which UTF-8 has not, becomes `?`."""
    return _encode(value).encode("utf-8", "replace")


class AnswerWriter(ABC):
    """What a server of the API writes for one answer.

    Args:
        model: its name.
        ident: unique part of the answer's ids.
        created_s: when it began, Unix time.
    """

    def __init__(self, model: str, ident: str, created_s: int = 0) -> None:
        self.model = model
        self.ident = ident
        self.created_s = created_s

    @abstractmethod
    def start(self, usage: Usage | None, *, continuous: bool = False) -> bytes:
        """The events in front of the first content.

        Args:
            usage: so far; None: the server does not count.
            continuous: every event has usage, where the API has that.
        """

    @abstractmethod
    def piece(self, piece: Piece, usage: Usage | None = None) -> bytes:
        """The events of one piece, with usage so far where it is given and the API has that."""

    @abstractmethod
    def end(self, finish: Finish, usage: Usage | None, *, continuous: bool = False) -> bytes:
        """The events behind the last content. May be called again on a copy."""

    @abstractmethod
    def error(self, status: int, kind: str, message: str) -> bytes:
        """The event for a failure after the start."""

    @abstractmethod
    def whole(self, pieces: Sequence[Piece], finish: Finish, usage: Usage | None) -> dict[str, Any]:
        """The whole answer to a request that does not stream."""


class WireApi(ABC):
    """One API. Bodies are joins of JSON fragments that were escaped before: `json.dumps` of half a
    megabyte takes milliseconds of a load generator's core, a join a tenth of that.

    Attributes:
        name: in the profile.
        title: in sentences of reports.
        path: route below the base URL.
        stream_type: content type of its streams.
        ping: what a server may send between events.
        length_keys: fields that bound the answer's length.
        logprobs: value of the field `logprobs` that asks for them; None: it tells none.
        thinking: ways of `traffic.thinking` to ask for reasoning that it has.
        forces_output: a request can ask for exactly so many tokens, by `ignore_eos`, a field that
            vLLM has on its OpenAI routes (on `/v1/responses` since vllm-project/vllm #32609, early
            2026), and SGLang on chat completions and completions.
        cache_breakpoints: requests can mark prompt-cache breakpoints.
        counts_tokens: has a route `count_tokens` below its own.
        has_roles: conversations go through the model's chat template.
        reader: of its answers.
        writer: of its answers.
    """

    name: ClassVar[Api]
    title: ClassVar[str]
    path: ClassVar[str]
    stream_type: ClassVar[str] = "text/event-stream"
    ping: ClassVar[bytes] = b": keep-alive\n\n"
    length_keys: ClassVar[tuple[str, ...]] = ("max_tokens",)
    logprobs: ClassVar[bool | int | None] = None
    thinking: ClassVar[tuple[str, ...]] = ()
    forces_output: ClassVar[bool] = True
    cache_breakpoints: ClassVar[bool] = False
    counts_tokens: ClassVar[bool] = False
    has_roles: ClassVar[bool] = True
    reader: ClassVar[type[AnswerReader]]
    writer: ClassVar[type[AnswerWriter]]

    # As a client

    def headers(self, api_key: str | None) -> dict[str, str]:
        """Headers of a request with this key. vLLM reads `Authorization` on every route."""
        key = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        return {"content-type": "application/json"} | key

    @abstractmethod
    def head(
        self, model: str, system: bytes, tools: Sequence[Tool], settings: RequestSettings
    ) -> bytes:
        """A body up to its first message.

        Args:
            model: its name.
            system: the system prompt as a JSON string that may begin with `SALT`.
            tools: offered tools; the first one's description may begin with `SALT`.
            settings: of every request.
        """

    @abstractmethod
    def message(self, role: Role, parts: Sequence[ContentPart]) -> bytes:
        """One message of a body."""

    def mark(self, message: bytes) -> bytes:
        """The message with a cache breakpoint, where the API has them."""
        return message

    def tail(self, settings: RequestSettings, output_tok: int) -> bytes:
        """What follows the messages in a body: the answer's length."""
        forced = f',"min_tokens":{output_tok},"ignore_eos":true' if settings.force_output else ""
        return f',"max_tokens":{output_tok}{forced}}}'.encode()

    def asked(self, settings: RequestSettings, thinking_tok: int, output_tok: int) -> bytes:
        """How a request asks for reasoning, in front of the tail; nothing where it does not.

        Args:
            settings: whose `thinking` is one of the API's ways.
            thinking_tok: planned length of the reasoning.
            output_tok: longest answer.
        """
        return b""

    def body(self, head: bytes, messages: Sequence[bytes], tail: bytes) -> bytes:
        """A whole body."""
        return b"".join((head, b",".join(messages), b"]", tail))

    def length(self, output_tok: int) -> dict[str, Any]:
        """The field that bounds the answer's length."""
        return {self.length_keys[-1]: output_tok}

    def plain_request(
        self, model: str, text: str, output_tok: int, temperature: float | None = None
    ) -> dict[str, Any]:
        """A small request that does not stream: one text from the user."""
        said = {"messages": [{"role": "user", "content": text}]}
        warmth = {} if temperature is None else {"temperature": temperature}
        return {"model": model, "stream": False} | said | warmth | self.length(output_tok)

    def events(self, body: bytes, *, whole: bool) -> Sequence[tuple[bytes, int]]:
        """Events of a stream that is over, with the offset behind each; `whole`: so is the HTTP
        message.
        """
        return sse.events(body, whole=whole)

    @abstractmethod
    def plain_answer(self, document: Json) -> PlainAnswer:
        """The text of an answer that is not a stream.

        Raises:
            KeyError, TypeError, IndexError, AttributeError: it has another form than the API's.
        """

    # As a server

    @abstractmethod
    def chat(self, body: Json) -> tuple[list[Json], list[Json]]:
        """A request's messages and tools in the form that chat templates take: OpenAI's, with the
        arguments of calls as objects.

        Raises:
            BadRequestError: it has another form than the API's.
        """

    @abstractmethod
    def ask(self, body: Json, *, default_temperature: float, counting: bool = False) -> Ask:
        """Read a request.

        Args:
            body: the JSON object.
            default_temperature: where the body names none.
            counting: the prompt is to be counted only; the answer's length may be missing.

        Raises:
            BadRequestError: a wrong or unsupported field.
        """

    def error_body(self, status: int, kind: str, message: str) -> dict[str, Any]:
        """An error that is not inside a stream."""
        return error_body(status, kind, message)
