"""OpenAI's responses. The embedded engine is stateless: fields that need stored state are refused,
`store` has no effect.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from harness.api import fields, openai
from harness.api.base import (
    AnswerWriter,
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
from harness.api.errors import error_of
from harness.api.parts import ContentPart, PartKind, Role, Tool
from harness.api.reader import AnswerReader, Json, Usage, items, mapping
from harness.core.records import Api

_LEAST_TOK: Final = 16
"""OpenAI's own service refuses a smaller `max_output_tokens`."""
_STATEFUL: Final = ("previous_response_id", "conversation", "background", "prompt")
_DELTAS: Final = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "text",
    "response.reasoning_text.delta": "thinking",
    "response.reasoning_summary_text.delta": "thinking",
    "response.function_call_arguments.delta": "tool_use",
    "response.custom_tool_call_input.delta": "tool_use",
    "response.mcp_call_arguments.delta": "tool_use",
    "response.code_interpreter_call_code.delta": "tool_use",
}
"""Events whose `delta` is text by the model, and its kind."""
_FAILED: Final = frozenset({"failed", "cancelled", "canceled"})
_SAID: Final = (
    b'{"id":"msg_%08x","type":"message","role":"assistant","status":"completed",'
    b'"content":[{"type":"output_text","text":%b,"annotations":[]}]}'
)
"""An earlier response's text: all fields that OpenAI's types require. llama.cpp refuses shorter
forms. The id depends on the text: equal ids in one conversation are duplicates.
"""


def _item(role: Role, part: ContentPart) -> bytes:
    match part.kind:
        case PartKind.TEXT if role is Role.ASSISTANT:
            return _SAID % (zlib.crc32(part.quoted), part.quoted)
        case PartKind.TEXT:
            return b'{"role":"%b","content":%b}' % (role.value.encode(), part.quoted)
        case PartKind.TOOL_USE:
            # `arguments` is JSON inside a JSON string: escaped twice.
            arguments = json.dumps(part.arguments, ensure_ascii=False)
            ids = f'"call_id":{json.dumps(part.tool_id)},"name":{json.dumps(part.tool_name)}'
            return f'{{"type":"function_call",{ids},"arguments":{arguments}}}'.encode()
        case _:
            ident = json.dumps(part.tool_id).encode()
            return b'{"type":"function_call_output","call_id":%b,"output":%b}' % (
                ident,
                part.quoted,
            )


class Reader(AnswerReader):
    api = Api.RESPONSES
    end_marker = "response.completed"
    _streamed = False

    def belongs(self, name: str | None, value: dict[str, Any]) -> bool:
        typed = isinstance(value.get("type", name), str)
        return typed or value.get("object") == "response" or "output" in value

    def take(self, name: str | None, value: dict[str, Any]) -> tuple[str, str] | None:
        event = str(value.get("type", name))
        if (kind := _DELTAS.get(event)) is not None:
            delta, self._streamed = value["delta"], True
            if kind == "tool_use":
                return self.add(kind, self.json_text(delta))
            return self.joined(delta, kind)
        match event:
            case "response.output_item.added":
                item = mapping(value.get("item"))
                if item.get("type") == "function_call":
                    self.begin(PartKind.TOOL_USE, item.get("call_id"), item.get("name"))
            case "response.completed" | "response.incomplete" | "response.done":
                return self._closing(value["response"], event.removeprefix("response."))
            case "response.failed" | "response.cancelled" | "response.canceled":
                self._closing(value["response"], event.removeprefix("response."))
                self.error = self.error or f"{event} without a reason"
            case "response.error":
                self.fail(value)
            case _ if value.get("object") == "response" or "output" in value:  # not a stream
                return self._closing(value, None)
            case _:  # starts and ends of items and parts repeat the deltas
                pass
        return None

    def _closing(self, response: Json, event: str | None) -> tuple[str, str] | None:
        # vLLM sends `completed` for a truncated response too; the status inside is right.
        self.merge(response.get("usage"))
        self.usage_last = "usage" in response
        status = response.get("status")
        why = mapping(response.get("incomplete_details")).get("reason")
        if status in _FAILED or response.get("error"):
            stated = f"status {status!r}, " + (f"reason: {why}" if why else "without a reason")
            self.error = self.error or error_of(response) or stated
        self.stop(why or status or event)
        self.ended = True
        # Of a stream, the response repeats the deltas, unless there were none.
        return None if self.kinds or self._streamed else self._output(response)

    def _output(self, response: Json) -> tuple[str, str] | None:
        """The first content of a response's items."""
        for item in items(response.get("output")):
            if item.get("type") == "function_call":
                return self.add("tool_use", self.json_text(item.get("arguments")))
            kind = "thinking" if item.get("type") == "reasoning" else "text"
            parts = [part.get("text") or part.get("refusal") for part in items(item.get("content"))]
            found = self.joined(parts, kind) if any(parts) else (kind, "")
            if found[1]:
                return found
        return None

    def tokens(self) -> Usage:
        return openai.usage_of(self.usage, "input_tokens", "output_tokens")


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


class Writer(AnswerWriter):
    def __init__(self, model: str, ident: str, created_s: int = 0) -> None:
        super().__init__(model, ident, created_s)
        self._sent = 0
        self._items: tuple[dict[str, Any], ...] = ()
        self._texts: list[str] = []  # of the open message
        self._delta = b""  # its text events, up to their text

    def _response(self, status: str, **more: object) -> dict[str, Any]:
        return {
            "id": f"resp_{self.ident}",
            "object": "response",
            "created_at": self.created_s,
            "model": self.model,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "output": [],
            "parallel_tool_calls": True,
            "temperature": None,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": None,
            **more,
        }

    def _ended(
        self, finish: Finish, usage: Usage | None, output: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        cut = finish.reason == "length"
        counted = None if usage is None else _usage(usage)
        return self._response(
            "incomplete" if cut else "completed",
            incomplete_details={"reason": "max_output_tokens"} if cut else None,
            output=list(output),
            usage=counted,
        )

    def _event(self, kind: str, **more: object) -> bytes:
        value = {"type": kind, "sequence_number": self._sent, **more}
        self._sent += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), compact(value))

    def _message(self, index: int, text: str | None) -> dict[str, Any]:
        return {
            "id": f"msg_{self.ident}_{index}",
            "type": "message",
            "role": "assistant",
            "status": "in_progress" if text is None else "completed",
            "content": [] if text is None else [_part(text)],
        }

    def _call(self, index: int, name: str, arguments: str | None) -> dict[str, Any]:
        return {
            "id": f"fc_{self.ident}_{index}",
            "call_id": f"call_{self.ident}_{index}",
            "type": "function_call",
            "name": name,
            "arguments": arguments or "",
            "status": "in_progress" if arguments is None else "completed",
        }

    def start(self, usage: Usage | None, *, continuous: bool = False) -> bytes:
        response = self._response("in_progress")
        begun = self._event("response.created", response=response)
        return begun + self._event("response.in_progress", response=response)

    def piece(self, piece: Piece, usage: Usage | None = None) -> bytes:
        if isinstance(piece, Text):
            return self._text(piece.text)
        out, index = self._close(), len(self._items)
        item = self._call(index, piece.name, piece.arguments)
        begun = self._call(index, piece.name, None)
        self._items = (*self._items, item)
        at = {"item_id": item["id"], "output_index": index}
        out += self._event("response.output_item.added", output_index=index, item=begun)
        given, kind = piece.arguments, "response.function_call_arguments"
        out += self._event(f"{kind}.delta", **at, delta=given)
        out += self._event(f"{kind}.done", **at, arguments=given, name=piece.name)
        return out + self._event("response.output_item.done", output_index=index, item=item)

    def _text(self, text: str) -> bytes:
        begin, index = b"", len(self._items)
        if not self._delta:
            item = self._message(index, None)
            at = {"item_id": item["id"], "output_index": index, "content_index": 0}
            begin = self._event("response.output_item.added", output_index=index, item=item)
            begin += self._event("response.content_part.added", **at, part=_part(""))
            self._delta = compact(at | {"logprobs": []})[1:-1] + b',"delta":'
        self._texts.append(text)
        kind, number = b"response.output_text.delta", self._sent
        self._sent += 1
        return begin + (
            b'event: %b\ndata: {"type":"%b","sequence_number":%d,%b%b}\n\n'
            % (kind, kind, number, self._delta, compact(text))
        )

    def _close(self) -> bytes:
        if not self._delta:
            return b""
        text, index = "".join(self._texts), len(self._items)
        item = self._message(index, text)
        at = {"item_id": item["id"], "output_index": index, "content_index": 0}
        out = self._event("response.output_text.done", **at, text=text, logprobs=[])
        out += self._event("response.content_part.done", **at, part=_part(text))
        out += self._event("response.output_item.done", output_index=index, item=item)
        self._items, self._texts, self._delta = (*self._items, item), [], b""
        return out

    def end(self, finish: Finish, usage: Usage | None, *, continuous: bool = False) -> bytes:
        closing = self._close()
        response = self._ended(finish, usage, self._items)
        return closing + self._event(f"response.{response['status']}", response=response)

    def error(self, status: int, kind: str, message: str) -> bytes:
        code = "server_error" if kind == "api_error" else kind
        return self._event("error", code=code, message=message, param=None)

    def whole(self, pieces: Sequence[Piece], finish: Finish, usage: Usage | None) -> dict[str, Any]:
        output = [
            self._message(index, piece.text)
            if isinstance(piece, Text)
            else self._call(index, piece.name, piece.arguments)
            for index, piece in enumerate(pieces)
        ]
        return self._ended(finish, usage, output)


def _usage(usage: Usage) -> dict[str, Any]:
    prompt, output = usage.input_tok or 0, usage.output_tok or 0
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": usage.cache_read_tok or 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + output,
    }


class Responses(WireApi):
    name = Api.RESPONSES
    title = "the OpenAI Responses API"
    path = "/v1/responses"
    length_keys = ("max_output_tokens",)
    thinking = ("effort",)
    reader = Reader
    writer = Writer

    def head(
        self, model: str, system: bytes, tools: Sequence[Tool], settings: RequestSettings
    ) -> bytes:
        form = b'{"type":"function","name":%b,"description":%b,"parameters":%b,"strict":false}'
        listed = openai.offered(tools, form)
        # Not stored: a load test does not read stored responses.
        out = openai.begin(model, settings) + b',"store":false,"tools":[' + listed
        return out + b'],"instructions":' + system + b',"input":['

    def message(self, role: Role, parts: Sequence[ContentPart]) -> bytes:
        kinds = (PartKind.THINKING, PartKind.REDACTED_THINKING)  # reasoning is not sent again
        return b",".join(_item(role, part) for part in parts if part.kind not in kinds)

    def tail(self, settings: RequestSettings, output_tok: int) -> bytes:
        # vLLM's responses route has no `min_tokens`; `ignore_eos` alone forces the whole length.
        forced = ',"ignore_eos":true' if settings.force_output else ""
        return f',"max_output_tokens":{output_tok}{forced}}}'.encode()

    def asked(self, settings: RequestSettings, thinking_tok: int, output_tok: int) -> bytes:
        return b',"reasoning":{"effort":%b}' % json.dumps(settings.effort).encode()

    def length(self, output_tok: int) -> dict[str, Any]:
        return {"max_output_tokens": max(_LEAST_TOK, output_tok)}

    def plain_prompt(self, text: str) -> dict[str, Any]:
        return {"input": text, "store": False}

    def plain_answer(self, document: Json) -> PlainAnswer:
        parts = [part for item in document["output"] for part in item.get("content") or ()]
        return PlainAnswer("".join(part.get("text") or "" for part in parts))

    def chat(self, body: Json) -> tuple[list[Json], list[Json]]:
        return _messages(body), _tools(body)

    def ask(self, body: Json, *, default_temperature: float, counting: bool = False) -> Ask:
        """Reasoning settings are accepted and have no effect: the engine's models do not reason."""
        for key in _STATEFUL:
            if body.get(key) not in (None, False):
                raise BadRequestError(f"{key} is not supported: this engine is stateless")
        form, plain = body.get("text", {}), {"type": "text"}
        if form is not None and (
            not isinstance(form, dict) or (form.get("format") or plain) != plain
        ):
            raise BadRequestError(
                "text.format must be text: this engine does not constrain its output"
            )
        if body.get("truncation") not in (None, "disabled"):
            raise BadRequestError("truncation must be disabled: this engine does not truncate")
        asked = replace(
            fields.common(body, default_temperature),
            max_tok=fields.whole_number(body, "max_output_tokens", 1) or 0,
            ignore_eos=bool(body.get("ignore_eos")),
        )
        return fields.with_chat(asked, body, *self.chat(body))


def _tools(body: Json) -> list[Json]:
    tools = body.get("tools") or []
    out = []
    for at, tool in enumerate(tools if isinstance(tools, list) else [None]):
        named = isinstance(tool, dict) and isinstance(tool.get("name"), str)
        if not named or tool.get("type") != "function":
            raise BadRequestError(f"tools.{at} must be a function with a name")
        parameters = tool.get("parameters") or {}
        out.append(fields.function(tool["name"], tool.get("description"), parameters))
    return out


def _messages(body: Json) -> list[Json]:
    """Instructions and items; a call is part of the assistant's message before it."""
    out: list[Json] = []
    if instructions := body.get("instructions"):
        text = fields.text_parts(instructions, "instructions", ())
        out.append({"role": "system", "content": text})
    items = body.get("input")
    if isinstance(items, str) and items:
        items = [{"role": "user", "content": items}]
    if not isinstance(items, list) or not items:
        raise BadRequestError("input must be a non-empty string or list of items")
    for at, item in enumerate(items):
        _add(out, item, f"input.{at}")
    return out


def _add(out: list[Json], item: object, where: str) -> None:
    if not isinstance(item, dict):
        raise BadRequestError(f"{where} must be an object")
    match item.get("type", "message"):
        case "message":
            role = item.get("role")
            if role not in {"system", "developer", "user", "assistant"}:
                raise BadRequestError(f"{where}: unknown role {role!r}")
            kinds = ("input_text", "output_text", "text")
            content = fields.text_parts(item.get("content"), f"{where}.content", kinds)
            out.append({"role": role, "content": content})
        case "function_call":
            call = fields.call(item, item.get("call_id"), where)
            if out and out[-1]["role"] == "assistant":
                out[-1] = {**out[-1], "tool_calls": [*out[-1].get("tool_calls", ()), call]}
            else:
                out.append({"role": "assistant", "content": "", "tool_calls": [call]})
        case "function_call_output":
            content = fields.text_parts(item.get("output"), f"{where}.output", ("input_text",))
            out.append(fields.result(content, item.get("call_id")))
        case "reasoning":
            pass  # not read by the model again
        case kind:
            raise BadRequestError(
                f"{where}: items of type {kind!r} are not supported by this engine"
            )


API: Final = Responses()
