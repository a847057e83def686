"""OpenAI's chat completions."""

import json
from collections.abc import Sequence
from typing import Any, Final

from harness.api import fields, openai
from harness.api.base import (
    Ask,
    BadRequestError,
    Finish,
    Piece,
    PlainAnswer,
    RequestSettings,
    Text,
    ToolCall,
    WireApi,
    compact,
)
from harness.api.parts import ContentPart, PartKind, Role, Tool
from harness.api.reader import Json, Usage, items, string
from harness.core.records import Api


def _user(part: ContentPart) -> bytes:
    if part.kind is PartKind.TOOL_RESULT:
        ids = b'{"role":"tool","tool_call_id":%b' % json.dumps(part.tool_id).encode()
    else:
        ids = b'{"role":"user"'
    return b'%b,"content":"%b"}' % (ids, part.escaped)


def _call(part: ContentPart) -> str:
    # `arguments` is JSON inside a JSON string: escaped twice.
    arguments = json.dumps(part.arguments, ensure_ascii=False)
    return (
        f'{{"id":{json.dumps(part.tool_id)},"type":"function","function":'
        f'{{"name":{json.dumps(part.tool_name)},"arguments":{arguments}}}}}'
    )


class Reader(openai.ChunkReader):
    api = Api.CHAT

    def of_choice(self, choice: dict[str, Any]) -> list[tuple[str, str]]:
        delta = choice.get("delta") or choice.get("message") or choice
        # A server that sends reasoning under several names is counted once.
        names = ("reasoning_content", "reasoning", "reasoning_details")
        thought = next((delta[name] for name in names if delta.get(name)), "")
        text = delta.get("content") or delta.get("refusal") or choice.get("text")
        out = [*self.contents(thought, "thinking"), *self.contents(text, "text")]
        for kind, content in out:
            self.add(kind, content)
        calls = items(delta.get("tool_calls"))
        out += [self._call(call, call.get("function") or {}) for call in calls]
        if delta.get("function_call"):
            out.append(self._call({}, delta["function_call"]))
        return out

    def _call(self, call: dict[str, Any], function: dict[str, Any]) -> tuple[str, str]:
        name = string(function.get("name") or "")
        arguments = self.json_text(function.get("arguments"))
        if name:
            self.begin(PartKind.TOOL_USE, call.get("id"), name)
        self.add(PartKind.TOOL_USE, arguments)
        return "tool_use", name + arguments


class Writer(openai.ChunkWriter):
    id_kind = "chatcmpl"
    chunk_object, whole_object = "chat.completion.chunk", "chat.completion"
    nothing = b'"delta":{}'

    def __init__(self, model: str, ident: str, created_s: int = 0) -> None:
        super().__init__(model, ident, created_s)
        self._calls = 0

    def start(self, usage: Usage | None, *, continuous: bool = False) -> bytes:
        begun = b'"delta":{"role":"assistant","content":""}'
        return self.chunk(begun, usage if continuous else None)

    def piece(self, piece: Piece, usage: Usage | None = None) -> bytes:
        if isinstance(piece, Text):
            return self.chunk(b'"delta":{"content":%b}' % compact(piece.text), usage)
        call = self._written(piece, self._calls) | {"index": self._calls}
        self._calls += 1
        return self.chunk(b'"delta":{"tool_calls":%b}' % compact([call]), usage)

    def _written(self, call: ToolCall, index: int) -> dict[str, Any]:
        function = {"name": call.name, "arguments": call.arguments}
        return {"id": f"call_{self.ident}_{index}", "type": "function", "function": function}

    def whole(self, pieces: Sequence[Piece], finish: Finish, usage: Usage | None) -> dict[str, Any]:
        text = "".join(piece.text for piece in pieces if isinstance(piece, Text))
        calls = [piece for piece in pieces if isinstance(piece, ToolCall)]
        content = text if text or not calls else None
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if calls:
            message["tool_calls"] = [self._written(call, i) for i, call in enumerate(calls)]
        return self.answer({"message": message}, finish, usage)


class Chat(WireApi):
    name = Api.CHAT
    title = "the OpenAI chat completions API"
    path = "/v1/chat/completions"
    length_keys = ("max_completion_tokens", "max_tokens")
    logprobs = True
    thinking = ("effort",)
    reader = Reader
    writer = Writer

    def head(
        self, model: str, system: bytes, tools: Sequence[Tool], settings: RequestSettings
    ) -> bytes:
        out = [openai.begin(model, settings)]
        if tools:
            form = b'{"type":"function","function":{"name":%b,"description":%b,"parameters":%b}}'
            out += [b',"tools":[', openai.offered(tools, form), b"]"]
        out += [openai.STREAM_USAGE, b',"messages":[{"role":"system","content":', system, b"},"]
        return b"".join(out)

    def message(self, role: Role, parts: Sequence[ContentPart]) -> bytes:
        if role is Role.USER:
            return b",".join(map(_user, parts))
        said = next((part.quoted for part in parts if part.kind is PartKind.TEXT), b"null")
        calls = ",".join(_call(part) for part in parts if part.kind is PartKind.TOOL_USE)
        called = f',"tool_calls":[{calls}]'.encode() if calls else b""
        return b'{"role":"assistant","content":' + said + called + b"}"

    def asked(self, settings: RequestSettings, thinking_tok: int, output_tok: int) -> bytes:
        return b',"reasoning_effort":' + json.dumps(settings.effort).encode()

    def plain_answer(self, document: Json) -> PlainAnswer:
        choice = document["choices"][0]
        message = choice["message"]
        thought = message.get("reasoning_content") or message.get("reasoning") or ""
        listed = (choice.get("logprobs") or {}).get("content") or ()
        return PlainAnswer(
            thought + (message.get("content") or ""),
            [one["token"] for one in listed],
            [one["logprob"] for one in listed],
        )

    def chat(self, body: Json) -> tuple[list[Json], list[Json]]:
        return _messages(body), _tools(body)

    def ask(self, body: Json, *, default_temperature: float, counting: bool = False) -> Ask:
        return fields.with_chat(openai.ask(body, default_temperature), body, *self.chat(body))


def _tools(body: Json) -> list[Json]:
    tools = body.get("tools") or []
    for tool in tools if isinstance(tools, list) else [None]:
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRequestError(
                "each of tools must have type function and a function with a name"
            )
    return list(tools)


def _messages(body: Json) -> list[Json]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequestError("messages must be a non-empty list")
    out: list[Json] = []
    for at, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in {"system", "developer", "user", "assistant", "tool"}:
            raise BadRequestError(f"messages.{at}: unknown role {role!r}")
        content = fields.text_parts(message.get("content"), f"messages.{at}.content", ("text",))
        if role == "tool":
            out.append(fields.result(content, message.get("tool_call_id")))
            continue
        plain = {"role": role, "content": content}
        if message.get("tool_calls"):
            plain["tool_calls"] = [_earlier(call, at) for call in message["tool_calls"]]
        out.append(plain)
    return out


def _earlier(call: object, at: int) -> Json:
    function, ident = (
        (call.get("function"), call.get("id")) if isinstance(call, dict) else (None, None)
    )
    return fields.call(function, ident, f"messages.{at}.tool_calls")


API: Final = Chat()
