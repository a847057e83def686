"""OpenAI's completions: plain text in, plain text out.

Without roles, a conversation is a transcript with a tag before each turn; tools, calls and results
are text in it. As on the other routes, each turn's prompt begins with the previous turn's.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from harness.api import openai
from harness.api.base import (
    SALT,
    Ask,
    BadRequestError,
    Finish,
    Piece,
    PlainAnswer,
    RequestSettings,
    Text,
    WireApi,
    compact,
)
from harness.api.parts import ContentPart, PartKind, Role, Tool
from harness.api.reader import Json, Usage
from harness.core.records import Api

CUE: Final = rb"\n\nAssistant:"
"""Ends every transcript; the recorded reply follows it in the next turn's."""


def _inside(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()


def _written(role: Role, part: ContentPart) -> bytes:
    match part.kind:
        case PartKind.TEXT:
            tag = CUE if role is Role.ASSISTANT else rb"\n\nUser:"
            # A server's text stays as generated after the cue.
            return tag + (b" " if part.planned else b"") + part.escaped
        case PartKind.TOOL_USE:
            arguments = json.loads(part.arguments)
            call = {"id": part.tool_id, "name": part.tool_name, "arguments": arguments}
            return CUE + rb" Call: " + _inside(json.dumps(call, ensure_ascii=False))
        case PartKind.TOOL_RESULT:
            return rb"\n\nResult of " + _inside(part.tool_id) + b": " + part.escaped
        case _:  # reasoning is not sent again
            return b""


class Reader(openai.ChunkReader):
    api = Api.COMPLETIONS

    def of_choice(self, choice: dict[str, Any]) -> list[tuple[str, str]]:
        delta = choice.get("delta") or choice.get("message") or choice
        content = self.contents(choice.get("text") or delta.get("content"), "text")
        return [self.add(kind, text) for kind, text in content]


class Writer(openai.ChunkWriter):
    id_kind = "cmpl"
    chunk_object = whole_object = "text_completion"
    nothing = b'"text":""'

    def start(self, usage: Usage | None, *, continuous: bool = False) -> bytes:
        return b""  # this stream begins with its first text

    def piece(self, piece: Piece, usage: Usage | None = None) -> bytes:
        assert isinstance(piece, Text), "completions offer no tools"
        return self.chunk(b'"text":' + compact(piece.text), usage)

    def whole(self, pieces: Sequence[Piece], finish: Finish, usage: Usage | None) -> dict[str, Any]:
        text = "".join(piece.text for piece in pieces if isinstance(piece, Text))
        return self.answer({"text": text}, finish, usage)


class Completions(WireApi):
    name = Api.COMPLETIONS
    title = "the OpenAI completions API"
    path = "/v1/completions"
    length_keys = ("max_completion_tokens", "max_tokens")
    logprobs = 1
    has_roles = False
    reader = Reader
    writer = Writer

    def head(
        self, model: str, system: bytes, tools: Sequence[Tool], settings: RequestSettings
    ) -> bytes:
        out = [openai.begin(model, settings), openai.STREAM_USAGE]
        out += [b',"prompt":"', rb"System: ", system[1:-1]]
        if tools:
            offered = []
            for tool in tools:
                text = json.loads(tool.description.replace(SALT, b""))
                form = {"name": tool.name, "description": text}
                offered.append(form | {"parameters": openai.TOOL_PARAMETERS})
            out += [rb"\n\nTools: ", _inside(json.dumps(offered, ensure_ascii=False))]
        return b"".join(out)

    def message(self, role: Role, parts: Sequence[ContentPart]) -> bytes:
        return b"".join(_written(role, part) for part in parts)

    def body(self, head: bytes, messages: Sequence[bytes], tail: bytes) -> bytes:
        return b"".join((head, *messages, CUE, b'"', tail))

    def plain_prompt(self, text: str) -> dict[str, Any]:
        return {"prompt": text}

    def plain_answer(self, document: Json) -> PlainAnswer:
        choice = document["choices"][0]
        logprobs = choice.get("logprobs") or {}
        return PlainAnswer(
            choice["text"], logprobs.get("tokens") or (), logprobs.get("token_logprobs") or ()
        )

    def chat(self, body: Json) -> tuple[list[Json], list[Json]]:
        raise BadRequestError(f"{self.path} has no messages")

    def ask(self, body: Json, *, default_temperature: float, counting: bool = False) -> Ask:
        # 16 tokens: OpenAI's documented default
        return replace(openai.ask(body, default_temperature, longest=16), prompt=_prompt(body))


def _prompt(body: Json) -> str | list[int]:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and prompt and all(type(i) is int for i in prompt):
        return prompt
    raise BadRequestError("prompt must be one string, or one list of token ids")


API: Final = Completions()
