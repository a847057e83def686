"""Shared by OpenAI's routes: start of bodies, usage, chunks of chat completions and completions."""

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

from harness.api import fields
from harness.api.base import (
    AnswerWriter,
    Ask,
    BadRequestError,
    Finish,
    RequestSettings,
    compact,
    error_body,
)
from harness.api.parts import Tool
from harness.api.reader import AnswerReader, Json, Usage, count, items, mapping

TOOL_PARAMETERS: Final = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
}
PARAMETERS: Final = compact(TOOL_PARAMETERS)
STREAM_USAGE: Final = b',"stream_options":{"include_usage":true,"continuous_usage_stats":true}'


def begin(model: str, settings: RequestSettings) -> bytes:
    """First fields of a body of any API."""
    return b'{"model":%b,"stream":true,"temperature":%b' % (
        json.dumps(model).encode(),
        f"{settings.temperature:g}".encode(),
    )


def offered(tools: Sequence[Tool], form: bytes) -> bytes:
    """Tools in a body, each in a form for its name, description and parameters."""
    return b",".join(
        form % (json.dumps(tool.name).encode(), tool.description, PARAMETERS) for tool in tools
    )


def usage_of(usage: Json, prompt: str, output: str) -> Usage:
    """OpenAI's usage: the prompt's count includes its details."""
    details = usage.get(f"{prompt}_details")
    details = details if isinstance(details, dict) else {}
    return Usage(
        count(usage.get(prompt)),
        count(details.get("cached_tokens")),
        count(details.get("cache_write_tokens")),
        count(usage.get(output)),
    )


class ChunkReader(AnswerReader):
    """Reads chunks with `choices`: chat completions and completions."""

    end_marker: ClassVar[str] = "[DONE]"

    def _marked(self) -> None:
        self.ended = True

    def belongs(self, name: str | None, value: dict[str, Any]) -> bool:
        return "choices" in value or "usage" in value

    def take(self, name: str | None, value: dict[str, Any]) -> tuple[str, str] | None:
        usage = value.get("usage")
        self.merge(usage)
        self.completion_tok = count(mapping(usage).get("completion_tokens"))
        found = self._content(value)
        self.usage_last = usage is not None and found is None
        return found

    def _content(self, value: dict[str, Any]) -> tuple[str, str] | None:
        found: tuple[str, str] | None = None
        choices = value.get("choices")
        for one in choices if isinstance(choices, list) else items(choices):
            choice = {"text": one} if isinstance(one, str) else one
            if choice.get("error"):
                self.fail(choice)
            self.stop(choice.get("finish_reason"))
            for kind, content in self.of_choice(choice):
                if content and found is None:
                    found = kind, content
                elif content and found is not None:
                    found = found[0], found[1] + content
                    if kind not in self.kinds and kind != found[0]:
                        self.kinds += [kind] if found[0] in self.kinds else [found[0], kind]
        return found

    @abstractmethod
    def of_choice(self, choice: dict[str, Any]) -> list[tuple[str, str]]:
        """Kinds and contents of one choice; also adds them to `parts`."""

    def tokens(self) -> Usage:
        return usage_of(self.usage, "prompt_tokens", "completion_tokens")


class ChunkWriter(AnswerWriter):
    """Writes chunks with `choices`. Everything in an event except its text is made once."""

    id_kind: ClassVar[str]
    chunk_object: ClassVar[str]
    whole_object: ClassVar[str]

    def __init__(self, model: str, ident: str, created_s: int = 0) -> None:
        super().__init__(model, ident, created_s)
        head = compact(self._head(self.chunk_object))[:-1]
        self._choice = b"data: " + head + b',"choices":[{"index":0,'
        self._no_choice = b"data: " + head + b',"choices":[]'

    def _head(self, kind: str) -> dict[str, Any]:
        ident = f"{self.id_kind}-{self.ident}"
        return {"id": ident, "object": kind, "created": self.created_s, "model": self.model}

    def chunk(self, content: bytes, usage: Usage | None, finish: str | None = None) -> bytes:
        """One event; `content` is its choice's own field."""
        counted = b"" if usage is None else b',"usage":' + compact(_usage(usage))
        reason = b"null" if finish is None else b'"%b"' % finish.encode()
        end = b',"logprobs":null,"finish_reason":%b}]%b}\n\n' % (reason, counted)
        return self._choice + content + end

    def end(self, finish: Finish, usage: Usage | None, *, continuous: bool = False) -> bytes:
        out = self.chunk(self.nothing, usage if continuous else None, finish.reason)
        if usage is not None:
            out += self._no_choice + b',"usage":' + compact(_usage(usage)) + b"}\n\n"
        return out + b"data: [DONE]\n\n"

    nothing: ClassVar[bytes]
    """The field of a choice without content."""

    def error(self, status: int, kind: str, message: str) -> bytes:
        return b"data: " + compact(error_body(status, kind, message)) + b"\n\n"

    def answer(self, choice: dict[str, Any], finish: Finish, usage: Usage | None) -> dict[str, Any]:
        full = {"index": 0} | choice | {"logprobs": None, "finish_reason": finish.reason}
        counted = {} if usage is None else {"usage": _usage(usage)}
        return self._head(self.whole_object) | {"choices": [full]} | counted


def _usage(usage: Usage) -> dict[str, Any]:
    prompt, output = usage.input_tok or 0, usage.output_tok or 0
    counts: dict[str, Any] = {
        "prompt_tokens": prompt,
        "total_tokens": prompt + output,
        "completion_tokens": output,
    }
    if usage.cache_read_tok is not None:
        counts["prompt_tokens_details"] = {"cached_tokens": usage.cache_read_tok}
    return counts


def ask(body: Json, default_temperature: float, *, longest: int = 0) -> Ask:
    """Read the fields that chat completions and completions share; `longest`: default length.

    Raises:
        BadRequestError: a wrong or unsupported field.
    """
    common = fields.common(body, default_temperature)
    most = fields.whole_number(body, "max_completion_tokens", 1)
    most = most or fields.whole_number(body, "max_tokens", 1) or longest
    least = fields.whole_number(body, "min_tokens", 0) or 0
    if most and least > most:
        raise BadRequestError(f"min_tokens {least} is over max_tokens {most}")
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise BadRequestError("stream_options must be an object")
    return replace(
        common,
        max_tok=most,
        min_tok=least,
        ignore_eos=bool(body.get("ignore_eos")),
        include_usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("continuous_usage_stats")),
    )
