"""Anthropic's Messages."""

import json
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
from harness.api.parts import AnswerParts, ContentPart, PartKind, Role, Tool
from harness.api.reader import AnswerReader, Json, Usage, count, items, mapping, string
from harness.core.records import Api

ANTHROPIC_VERSION: Final = "2023-06-01"

LEAST_BUDGET_TOK: Final = 1024
"""Smallest `budget_tokens` of the API (anthropic 2.12 `ThinkingConfigEnabledParam`; also of vLLM
0.32).
"""

_CACHED: Final = frozenset({"cache_read_input_tokens", "cache_creation_input_tokens"})
_BREAKPOINT: Final = b',"cache_control":{"type":"ephemeral"}'


def _block(part: ContentPart) -> bytes:
    match part.kind:
        case PartKind.TEXT:
            return b'{"type":"text","text":' + part.quoted + b"}"
        case PartKind.TOOL_USE:
            given = b'{"input":%b}' % part.quoted if part.planned else part.arguments.encode()
            ident, name = json.dumps(part.tool_id).encode(), json.dumps(part.tool_name).encode()
            return b'{"type":"tool_use","id":%b,"name":%b,"input":%b}' % (ident, name, given)
        case PartKind.TOOL_RESULT:
            ids = json.dumps(part.tool_id).encode()
            return b'{"type":"tool_result","tool_use_id":%b,"content":%b}' % (ids, part.quoted)
        case PartKind.THINKING:
            signature = json.dumps(part.signature).encode()
            return b'{"type":"thinking","thinking":%b,"signature":%b}' % (part.quoted, signature)
        case PartKind.REDACTED_THINKING:
            return b'{"type":"redacted_thinking","data":' + part.quoted + b"}"


class Reader(AnswerReader):
    api = Api.MESSAGES
    end_marker = "message_stop"

    def __init__(self, parts: AnswerParts | None = None) -> None:
        super().__init__(parts)
        self._prompt_at_start: int | None = None
        self._output_tok: int | None = None

    def belongs(self, name: str | None, value: dict[str, Any]) -> bool:
        return isinstance(value.get("type", name), str)

    def take(self, name: str | None, value: dict[str, Any]) -> tuple[str, str] | None:
        match value.get("type", name):
            case "content_block_delta":
                return self._delta(value["delta"])
            case "content_block_start":
                return self._begin(mapping(value.get("content_block")))
            case "message_start":
                usage = mapping(value["message"].get("usage"))
                self.merge(usage)
                parts = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
                self._prompt_at_start = sum(count(usage.get(part)) or 0 for part in parts)
            case "message_delta":
                self._closing(value.get("usage"), mapping(value.get("delta")))
            case "message":  # a response that is not a stream
                self._closing(value.get("usage"), value)
                found = [self._begin(block) for block in items(value.get("content"))]
                return next((one for one in found if one is not None and one[1]), None)
            case "message_stop":
                self.ended = True
            case _:  # ping, block stops, and future types, which clients must ignore
                pass
        return None

    def _closing(self, usage: Any, delta: Json) -> None:  # noqa: ANN401 - any JSON value
        counted = mapping(usage)
        prompt = count(counted.get("input_tokens"))
        if prompt and prompt == self._prompt_at_start and not _CACHED & counted.keys():
            # The whole prompt again: at the start its cached part was separate.
            usage = {key: value for key, value in counted.items() if key != "input_tokens"}
        self.merge(usage)
        if prompt == 0 and sum(count(counted.get(part)) or 0 for part in _CACHED) == (
            self._prompt_at_start
        ):
            self.usage["input_tokens"] = 0  # a count: the whole prompt of the start was cached
        # The count in message_start does not cover the output; the one at the end does.
        if (tok := count(counted.get("output_tokens"))) is not None:
            self._output_tok = tok or self._output_tok or 0
            self.usage_last = True
        self.stop(delta.get("stop_reason"))

    def _delta(self, delta: dict[str, Any]) -> tuple[str, str] | None:
        match delta.get("type"):
            case "text_delta" | "text":
                return self.joined(delta["text"], "text")
            case "thinking_delta" | "thinking":
                return self.joined(delta["thinking"], "thinking")
            case "input_json_delta":
                return self.add("tool_use", self.json_text(delta["partial_json"]))
            case "signature_delta" if self.parts is not None:
                self.parts.sign(string(delta["signature"]))
            case _:  # signatures and citations are not output tokens
                pass
        return None

    def _begin(self, block: dict[str, Any]) -> tuple[str, str] | None:
        """Start of a block; some servers send its content with it."""
        kind = block.get("type")
        if kind == "tool_use":
            self.begin(PartKind.TOOL_USE, block.get("id"), block.get("name"))
            return self.add(kind, self.json_text(block["input"])) if block.get("input") else None
        if kind == "redacted_thinking":
            self.begin(PartKind.REDACTED_THINKING)
            self.add(kind, string(block.get("data") or ""))
        if kind not in ("thinking", "text"):  # blocks of other kinds are not sent again
            return None
        self.begin(PartKind(kind))
        return self.joined(block.get(kind) or "", kind)

    def tokens(self) -> Usage:
        read = count(self.usage.get("cache_read_input_tokens"))
        write = count(self.usage.get("cache_creation_input_tokens"))
        rest = count(self.usage.get("input_tokens"))
        # `input_tokens` excludes the cached part; servers that do not report caching put the whole
        # prompt there.
        whole = None if rest is None else rest + (read or 0) + (write or 0)
        start = self._prompt_at_start
        if start and whole is not None and whole != start:
            self.disagreement = f"prompt of {start} tokens at the start, but {whole} at the end"
        return Usage(whole, read, write, self._output_tok)


def _usage(usage: Usage | None, output_tok: int | None) -> dict[str, Any]:
    if usage is None:
        return {"input_tokens": None, "output_tokens": None}
    whole, read, write = usage.input_tok or 0, usage.cache_read_tok, usage.cache_write_tok
    cached = {"cache_creation_input_tokens": write or 0, "cache_read_input_tokens": read or 0}
    rest = {"input_tokens": whole - (read or 0) - (write or 0)}
    return rest | ({} if read is None else cached) | {"output_tokens": output_tok}


_STOP_REASONS: Final = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def _event(value: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (value["type"].encode(), compact(value))


class Writer(AnswerWriter):
    def __init__(self, model: str, ident: str, created_s: int = 0) -> None:
        super().__init__(model, ident, created_s)
        self._index = 0
        self._delta = b""  # an event of the open text block, up to its text

    def _message(
        self, content: list[dict[str, Any]], finish: Finish | None, usage: dict[str, Any]
    ) -> dict[str, Any]:
        ids = {"id": f"msg_{self.ident}", "type": "message", "role": "assistant"}
        return ids | {"model": self.model, "content": content} | _stop(finish) | {"usage": usage}

    def start(self, usage: Usage | None, *, continuous: bool = False) -> bytes:
        message = self._message([], None, _usage(usage, 0))
        return _event({"type": "message_start", "message": message})

    def piece(self, piece: Piece, usage: Usage | None = None) -> bytes:
        if isinstance(piece, Text):
            begin = b""
            if not self._delta:
                begin = self._start({"type": "text", "text": ""})
                self._delta = (
                    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
                    b'"delta":{"type":"text_delta","text":' % self._index
                )
            return begin + self._delta + compact(piece.text) + b"}}\n\n"
        out = self._close()
        out += self._start(self._tool(piece.name, {}))
        delta = {"type": "input_json_delta", "partial_json": piece.arguments}
        out += _event({"type": "content_block_delta", "index": self._index, "delta": delta})
        return out + self._stopped()

    def _tool(self, name: str, given: dict[str, Any], index: int | None = None) -> dict[str, Any]:
        ident = f"toolu_{self.ident}_{self._index if index is None else index}"
        return {"type": "tool_use", "id": ident, "name": name, "input": given}

    def _start(self, block: dict[str, Any]) -> bytes:
        return _event({"type": "content_block_start", "index": self._index, "content_block": block})

    def _stopped(self) -> bytes:
        self._index += 1
        return _event({"type": "content_block_stop", "index": self._index - 1})

    def _close(self) -> bytes:
        if not self._delta:
            return b""
        self._delta = b""
        return self._stopped()

    def end(self, finish: Finish, usage: Usage | None, *, continuous: bool = False) -> bytes:
        counted = _usage(usage, None if usage is None else usage.output_tok)
        ended = {"type": "message_delta", "delta": _stop(finish), "usage": counted}
        return self._close() + _event(ended) + _event({"type": "message_stop"})

    def error(self, status: int, kind: str, message: str) -> bytes:
        return _event(API.error_body(status, kind, message))

    def whole(self, pieces: Sequence[Piece], finish: Finish, usage: Usage | None) -> dict[str, Any]:
        content = [
            {"type": "text", "text": piece.text}
            if isinstance(piece, Text)
            else self._tool(piece.name, json.loads(piece.arguments), index)
            for index, piece in enumerate(pieces)
        ]
        counted = _usage(usage, None if usage is None else usage.output_tok)
        return self._message(content, finish, counted)


def _stop(finish: Finish | None) -> dict[str, str | None]:
    reason = None if finish is None else _STOP_REASONS[finish.reason]
    stop = None if finish is None else finish.stop_string
    return {"stop_reason": reason if stop is None else "stop_sequence", "stop_sequence": stop}


class Messages(WireApi):
    name = Api.MESSAGES
    title = "the Anthropic Messages API"
    path = "/v1/messages"
    ping = _event({"type": "ping"})
    thinking = ("budget", "adaptive")
    forces_output = False  # vLLM drops `ignore_eos` silently on this route
    cache_breakpoints = True
    counts_tokens = True
    reader = Reader
    writer = Writer

    def headers(self, api_key: str | None) -> dict[str, str]:
        key = {} if api_key is None else {"x-api-key": api_key}
        return super().headers(api_key) | {"anthropic-version": ANTHROPIC_VERSION} | key

    def head(
        self, model: str, system: bytes, tools: Sequence[Tool], settings: RequestSettings
    ) -> bytes:
        mark = _BREAKPOINT if settings.cache_control else b""
        out = [openai.begin(model, settings)]
        if tools:
            listed = openai.offered(tools, b'{"name":%b,"description":%b,"input_schema":%b}')
            out += [b',"tools":[', listed[:-1], mark, b"}]"]
        out += [b',"system":[{"type":"text","text":', system, mark, b'}],"messages":[']
        return b"".join(out)

    def message(self, role: Role, parts: Sequence[ContentPart]) -> bytes:
        blocks = b",".join(map(_block, parts))
        return b'{"role":"%b","content":[%b]}' % (role.value.encode(), blocks)

    def mark(self, message: bytes) -> bytes:
        return message[:-3] + _BREAKPOINT + message[-3:]

    def asked(self, settings: RequestSettings, thinking_tok: int, output_tok: int) -> bytes:
        if settings.thinking == "adaptive":
            effort = json.dumps(settings.effort).encode()
            config = b"" if settings.effort is None else b',"output_config":{"effort":%b}' % effort
            return b',"thinking":{"type":"adaptive"}' + config
        budget = max(LEAST_BUDGET_TOK, thinking_tok)
        # The API refuses a budget that is not below max_tokens.
        if not thinking_tok or budget >= output_tok:
            return b""
        return b',"thinking":{"type":"enabled","budget_tokens":%d}' % budget

    def plain_answer(self, document: Json) -> PlainAnswer:
        blocks = document["content"]
        return PlainAnswer(
            "".join(block.get("text") or block.get("thinking") or "" for block in blocks)
        )

    def chat(self, body: Json) -> tuple[list[Json], list[Json]]:
        return _messages(body), _tools(body)

    def ask(self, body: Json, *, default_temperature: float, counting: bool = False) -> Ask:
        """Thinking is accepted and has no effect: the engine's models do not think."""
        common = fields.common(body, default_temperature, hottest=1.0, stop_key="stop_sequences")
        most = 1 if counting else fields.whole_number(body, "max_tokens", 1)
        if most is None:
            raise BadRequestError("max_tokens: Field required")
        return fields.with_chat(replace(common, max_tok=most), body, *self.chat(body))

    def error_body(self, status: int, kind: str, message: str) -> dict[str, Any]:
        return {"type": "error", "error": {"type": kind, "message": message}}


def _tools(body: Json) -> list[Json]:
    tools = body.get("tools") or []
    out = []
    for at, tool in enumerate(tools if isinstance(tools, list) else [None]):
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
            raise BadRequestError(f"tools.{at} must be an object with name and input_schema")
        if not isinstance(tool.get("input_schema"), dict):
            raise BadRequestError(
                f"tools.{at}.input_schema: Field required (server-side tools are not supported by"
                " this engine)"
            )
        out.append(fields.function(tool["name"], tool.get("description"), tool["input_schema"]))
    return out


def _messages(body: Json) -> list[Json]:
    """System text and turns. Tool results become separate messages before their turn's text."""
    out: list[Json] = []
    if system := fields.text_parts(body.get("system"), "system", ("text",)):
        out.append({"role": "system", "content": system})
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequestError("messages must be a non-empty list")
    for at, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in {"user", "assistant", "system"}:
            raise BadRequestError(f"messages.{at}.role: {role!r} is not user or assistant")
        content = message.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(blocks, list):
            raise BadRequestError(f"messages.{at}.content must be a string or a list of blocks")
        out += _turn(role, blocks, f"messages.{at}.content")
    return out


def _turn(role: str, blocks: Sequence[object], where: str) -> list[Json]:
    texts: list[object] = []
    calls: list[Json] = []
    results: list[Json] = []
    for block in blocks:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind in {"thinking", "redacted_thinking"}:
            continue  # not read by the model again
        if kind == "tool_use" and role == "assistant" and isinstance(block, dict):
            call = {"name": block.get("name"), "arguments": block.get("input") or {}}
            calls.append(fields.call(call, block.get("id"), where))
        elif kind == "tool_result" and role == "user" and isinstance(block, dict):
            content = fields.text_parts(block.get("content"), where, ("text",))
            results.append(fields.result(content, block.get("tool_use_id")))
        else:
            texts.append(block)
    turn: Json = {"role": role, "content": fields.text_parts(texts, where, ("text",))}
    if role == "assistant":
        return [{**turn, "tool_calls": calls} if calls else turn]
    return [*results, turn] if texts or not results else results


API: Final = Messages()
