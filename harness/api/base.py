"""Interface of a wire API: requests and responses, read and written by client and server."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from harness.api import sse
from harness.api.parts import ContentPart, Role, Tool
from harness.api.reader import AnswerReader, Json, Usage
from harness.core.records import AS_IT_IS, Api, BodyForm

SALT: Final = b"\x00"
"""Placeholder for a session's salt in a head that sessions share; never occurs in JSON text."""


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """Settings of every request, in addition to its messages.

    Attributes:
        api: a value of `core.records.Api`.
        force_output: add `ignore_eos` and, where the API has it, `min_tokens` (not on Messages).
        cache_control: mark the prompt-cache breakpoints that Claude's clients set (Messages API
            only): the last tool, the system prompt and the last two user messages.
        live: later turns carry the server's response instead of the recorded reply, so their bytes
            are known only at run time.
        thinking: how reasoning is requested: `off`, `budget`, `adaptive` or `effort`.
        effort: for `adaptive` and `effort`; None: the server's default.
        form: deviations that the server requires.
    """

    api: str
    force_output: bool
    temperature: float
    cache_control: bool = False
    live: bool = False
    thinking: str = "off"
    effort: str | None = None
    form: BodyForm = AS_IT_IS


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    """Text of a complete response, and its tokens with log-probabilities if they were returned."""

    text: str
    tokens: Sequence[str] = ()
    logprobs: Sequence[float] = ()


class BadRequestError(ValueError):
    """A request that is wrong or that the embedded engine does not support: status 400."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as the embedded engine serves it.

    Attributes:
        max_tok: most output tokens; 0: limited by the context only.
        min_tok: stop strings and the end token have no effect before this.
        stops: stop strings.
        messages: the conversation in OpenAI form (system, user, assistant with tool_calls, tool).
        tools: functions in OpenAI form.
        parse_tools: names of functions whose calls are recognized in the output.
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
    """A piece of output text."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A complete call by the model. `arguments` is a JSON object as text."""

    name: str
    arguments: str


Piece = Text | ToolCall


@dataclass(frozen=True, slots=True)
class Finish:
    """How a response ended: `stop`, `length` or `tool_calls`, and the stop string that ended it."""

    reason: str
    stop_string: str | None = None


def error_body(status: int, kind: str, message: str) -> dict[str, Any]:
    """An error in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def compact(value: object) -> bytes:
    """JSON as servers write it; a lone surrogate, which UTF-8 cannot encode, becomes `?`."""
    return _encode(value).encode("utf-8", "replace")


class AnswerWriter(ABC):
    """Writes one response as a server of the API.

    Args:
        model: its name.
        ident: unique part of the response's ids.
        created_s: its start, Unix time.
    """

    def __init__(self, model: str, ident: str, created_s: int = 0) -> None:
        self.model = model
        self.ident = ident
        self.created_s = created_s

    @abstractmethod
    def start(self, usage: Usage | None, *, continuous: bool = False) -> bytes:
        """The events before the first content.

        Args:
            usage: so far; None: the server does not count.
            continuous: usage in every event, if the API has that.
        """

    @abstractmethod
    def piece(self, piece: Piece, usage: Usage | None = None) -> bytes:
        """The events of one piece, with usage so far if given and the API has that."""

    @abstractmethod
    def end(self, finish: Finish, usage: Usage | None, *, continuous: bool = False) -> bytes:
        """The events after the last content. May be called again on a copy."""

    @abstractmethod
    def error(self, status: int, kind: str, message: str) -> bytes:
        """The event for a failure after the start."""

    @abstractmethod
    def whole(self, pieces: Sequence[Piece], finish: Finish, usage: Usage | None) -> dict[str, Any]:
        """The complete response to a request that does not stream."""


class WireApi(ABC):
    """One API. Bodies are joins of JSON fragments that are already escaped: `json.dumps` of 0.5 MB
    takes milliseconds of a load generator's core, a join a tenth of that.

    Attributes:
        name: in the profile.
        title: in report text.
        path: route below the base URL.
        ping: what a server may send between events.
        length_keys: fields that limit the output length.
        logprobs: value of the field `logprobs` that requests them; None: not available.
        thinking: values of `traffic.thinking` that it supports.
        forces_output: a request can force an exact output length by `ignore_eos`, a field that
            vLLM has on its OpenAI routes (on `/v1/responses` since vllm-project/vllm #32609, early
            2026), and SGLang on chat completions and completions.
        cache_breakpoints: requests can mark prompt-cache breakpoints.
        counts_tokens: has a route `count_tokens` below its own.
        has_roles: conversations go through the model's chat template.
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

    # Client side

    def headers(self, api_key: str | None) -> dict[str, str]:
        """Headers of a request. vLLM reads `Authorization` on every route."""
        key = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        return {"content-type": "application/json"} | key

    @abstractmethod
    def head(
        self, model: str, system: bytes, tools: Sequence[Tool], settings: RequestSettings
    ) -> bytes:
        """A body up to its first message. `system` is a JSON string; it and the first tool's
        description may begin with `SALT`.
        """

    @abstractmethod
    def message(self, role: Role, parts: Sequence[ContentPart]) -> bytes:
        """One message of a body."""

    def mark(self, message: bytes) -> bytes:
        """The message with a cache breakpoint, if the API has them."""
        return message

    def tail(self, settings: RequestSettings, output_tok: int) -> bytes:
        """The end of a body, after its messages: the output length."""
        forced = f',"min_tokens":{output_tok},"ignore_eos":true' if settings.force_output else ""
        return f',"max_tokens":{output_tok}{forced}}}'.encode()

    def asked(self, settings: RequestSettings, thinking_tok: int, output_tok: int) -> bytes:
        """The field that requests reasoning, before the tail; empty for none.

        Args:
            settings: `thinking` is one of the API's.
            thinking_tok: planned length of the reasoning.
            output_tok: most output tokens.
        """
        return b""

    def body(self, head: bytes, messages: Sequence[bytes], tail: bytes) -> bytes:
        return b"".join((head, b",".join(messages), b"]", tail))

    def length(self, output_tok: int) -> dict[str, Any]:
        return {self.length_keys[-1]: output_tok}

    def plain_request(
        self, model: str, text: str, output_tok: int, temperature: float | None = None
    ) -> dict[str, Any]:
        """A small request that does not stream: one text from the user."""
        sampling = {} if temperature is None else {"temperature": temperature}
        settings = {"model": model, "stream": False} | sampling | self.length(output_tok)
        return settings | self.plain_prompt(text)

    def plain_prompt(self, text: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": text}]}

    def events(self, body: bytes, *, whole: bool) -> list[tuple[bytes, int]]:
        """Events of a stream that has ended, with the end offset of each; `whole`: the HTTP message
        is complete.
        """
        return sse.events(body, whole=whole)

    @abstractmethod
    def plain_answer(self, document: Json) -> PlainAnswer:
        """The text of a response that is not a stream.

        Raises:
            KeyError, TypeError, IndexError, AttributeError: not in the API's form.
        """

    # Server side

    @abstractmethod
    def chat(self, body: Json) -> tuple[list[Json], list[Json]]:
        """A request's messages and tools in the form of chat templates: OpenAI's, with arguments
        of calls as objects.

        Raises:
            BadRequestError: not in the API's form.
        """

    @abstractmethod
    def ask(self, body: Json, *, default_temperature: float, counting: bool = False) -> Ask:
        """Read a request. `counting`: to count its prompt only; the output length may be missing.

        Raises:
            BadRequestError: a wrong or unsupported field.
        """

    def error_body(self, status: int, kind: str, message: str) -> dict[str, Any]:
        return error_body(status, kind, message)
