"""OpenAI's responses route: its request as an `Ask`, its answer as an object and as a stream of
events.

The engine keeps no state between requests: `previous_response_id`, `conversation` and `background`
are refused, `store` keeps nothing.
"""

import json
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from harness.core.clock import wall_now
from harness.server.engine import prompts
from harness.server.engine.batching import Sampling
from harness.server.engine.output import Piece, Text
from harness.server.engine.prompts import Ask, BadRequestError, Json

if TYPE_CHECKING:
    from harness.server.engine.api import Reply

_STATEFUL = ("previous_response_id", "conversation", "background", "prompt")


def from_responses(body: Json, *, default_temperature: float) -> Ask:
    """Read a body of `/v1/responses`.

    Reasoning settings are not refused: these models do not reason, so they change nothing.

    Raises:
        BadRequestError: a wrong or unsupported field.
    """
    for key in _STATEFUL:
        if body.get(key) not in (None, False):
            raise BadRequestError(
                f"{key} is not supported by this engine: it keeps nothing between requests"
            )
    form = body.get("text")
    if form is not None and (
        not isinstance(form, dict) or (form.get("format") or {"type": "text"}) != {"type": "text"}
    ):
        raise BadRequestError(
            "text.format other than text is not supported by this engine: it does not constrain"
            " answers"
        )
    if body.get("truncation") not in (None, "disabled"):
        raise BadRequestError("truncation other than disabled is not supported by this engine")
    common = prompts.common_fields(body, default_temperature=default_temperature)
    tools, names = _tools(body)
    return Ask(
        sampling=Sampling(
            prompts.whole_number(body, "max_output_tokens", 1) or 0,
            0,
            bool(body.get("ignore_eos")),
            common.temperature,
        ),
        stops=common.stops,
        stream=common.stream,
        messages=tuple(_messages(body)),
        tools=tools,
        parse_tools=() if body.get("tool_choice") == "none" else names,
    )


def _tools(body: Json) -> tuple[tuple[Json, ...], tuple[str, ...]]:
    tools = body.get("tools") or []
    out, names = [], []
    for at, tool in enumerate(tools if isinstance(tools, list) else [None]):
        if (
            not isinstance(tool, dict)
            or tool.get("type") != "function"
            or not isinstance(tool.get("name"), str)
        ):
            raise BadRequestError(
                f"tools.{at}: only functions with a name are supported by this engine"
            )
        function = {
            "name": tool["name"],
            "description": tool.get("description") or "",
            "parameters": tool.get("parameters") or {},
        }
        out.append({"type": "function", "function": function})
        names.append(tool["name"])
    return tuple(out), tuple(names)


def _messages(body: Json) -> list[dict[str, Any]]:
    """Instructions and items as chat messages: a call belongs to the assistant's message in front
    of it.
    """
    out: list[dict[str, Any]] = []
    if instructions := body.get("instructions"):
        out.append(
            {"role": "system", "content": prompts.text_parts(instructions, "instructions", ())}
        )
    items = body.get("input")
    if isinstance(items, str) and items:
        items = [{"role": "user", "content": items}]
    if not isinstance(items, list) or not items:
        raise BadRequestError("input must be a non-empty string or list of items")
    for at, item in enumerate(items):
        where = f"input.{at}"
        if not isinstance(item, dict):
            raise BadRequestError(f"{where} must be an object")
        match item.get("type", "message"):
            case "message":
                role = item.get("role")
                if role not in {"system", "developer", "user", "assistant"}:
                    raise BadRequestError(f"{where}: unknown role {role!r}")
                content = prompts.text_parts(
                    item.get("content"), f"{where}.content", ("input_text", "output_text", "text")
                )
                out.append({"role": role, "content": content})
            case "function_call":
                if out and out[-1]["role"] == "assistant":
                    out[-1].setdefault("tool_calls", []).append(prompts.parsed_call(item, where))
                else:
                    out.append(
                        {
                            "role": "assistant",
                            "content": "",
                            "tool_calls": [prompts.parsed_call(item, where)],
                        }
                    )
            case "function_call_output":
                out.append(
                    {
                        "role": "tool",
                        "content": prompts.text_parts(
                            item.get("output"), f"{where}.output", ("input_text",)
                        ),
                    }
                )
            case "reasoning":
                pass  # not part of what the model reads again
            case kind:
                raise BadRequestError(
                    f"{where}: items of type {kind!r} are not supported by this engine"
                )
    return out


def new_response(model: str) -> dict[str, Any]:
    """A response that has just begun."""
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(wall_now().timestamp()),
        "model": model,
        "status": "in_progress",
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
    }


def ended(
    response: dict[str, Any], reply: "Reply", output: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The response with its answer, status and counts."""
    whole = reply.finish == "length"
    usage = {
        "input_tokens": reply.prompt_tok,
        "input_tokens_details": {"cached_tokens": reply.cached_tok},
        "output_tokens": reply.output.tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": reply.prompt_tok + reply.output.tokens,
    }
    return response | {
        "status": "incomplete" if whole else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if whole else None,
        "output": list(output),
        "usage": usage,
    }


def items_of(pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    """A whole answer as items of `output`."""
    return [
        (
            _message_item(_item_id("msg"), piece.text)
            if isinstance(piece, Text)
            else _call_item(_item_id("fc"), piece.name, piece.arguments)
        )
        for piece in pieces
    ]


def _item_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def _message_item(item_id: str, text: str | None) -> dict[str, Any]:
    """A message; without text, one that has begun."""
    content, status = ([], "in_progress") if text is None else ([_part(text)], "completed")
    return {
        "id": item_id,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def _call_item(item_id: str, name: str, arguments: str | None) -> dict[str, Any]:
    """A call; without arguments, one that has begun."""
    status = "in_progress" if arguments is None else "completed"
    ids = {"id": item_id, "call_id": item_id.replace("fc", "call", 1)}
    return ids | {
        "type": "function_call",
        "name": name,
        "arguments": arguments or "",
        "status": status,
    }


class Events:
    """The events of one answer.

    Args:
        reply: the answer on its way.
        model: name of the model.
    """

    def __init__(self, reply: "Reply", model: str) -> None:
        self._reply = reply
        self._response = new_response(model)
        self._sent = 0
        self._items: list[dict[str, Any]] = []
        self._said: list[str] = []  # of the message that is open
        self._open = ""  # its id
        self._delta = ""  # what its text events have before their text

    async def stream(self) -> AsyncIterator[bytes]:
        """All of them, encoded, from `response.created` to the last."""
        started = False
        async for pieces in self._reply.steps():
            if not started:
                started = True
                yield self._event("response.created", response=self._response) + self._event(
                    "response.in_progress", response=self._response
                )
            for piece in pieces:
                if isinstance(piece, Text):
                    yield self._text(piece.text)
                else:
                    yield self._close() + self._call(piece.name, piece.arguments)
        if self._reply.finish == "abort":
            return
        closing = self._close()
        response = ended(self._response, self._reply, self._items)
        yield closing + self._event(f"response.{response['status']}", response=response)

    def error(self, text: str) -> bytes:
        """The event for a failure after the start."""
        return self._event("error", code="server_error", message=text, param=None)

    def _event(self, kind: str, **fields: object) -> bytes:
        value = {"type": kind, "sequence_number": self._sent, **fields}
        self._sent += 1
        return f"event: {kind}\ndata: {json.dumps(value)}\n\n".encode()

    def _text(self, text: str) -> bytes:
        begin = b""
        if not self._open:
            self._open = _item_id("msg")
            self._delta = (
                f'"item_id": "{self._open}", "output_index": {len(self._items)}, "content_index":'
                ' 0, "logprobs": [], "delta": '
            )
            at = {"item_id": self._open, "output_index": len(self._items), "content_index": 0}
            begin = self._event(
                "response.output_item.added",
                output_index=len(self._items),
                item=_message_item(self._open, None),
            )
            begin += self._event("response.content_part.added", **at, part=_part(""))
        self._said.append(text)
        kind, number = "response.output_text.delta", self._sent
        self._sent += 1
        data = f'{{"type": "{kind}", "sequence_number": {number}, {self._delta}{json.dumps(text)}}}'
        return begin + f"event: {kind}\ndata: {data}\n\n".encode()

    def _close(self) -> bytes:
        """End the message that is open, if one is."""
        if not self._open:
            return b""
        text = "".join(self._said)
        item = _message_item(self._open, text)
        at = {"item_id": self._open, "output_index": len(self._items), "content_index": 0}
        out = self._event("response.output_text.done", **at, text=text, logprobs=[])
        out += self._event("response.content_part.done", **at, part=_part(text))
        out += self._event("response.output_item.done", output_index=len(self._items), item=item)
        self._items.append(item)
        self._open, self._said = "", []
        return out

    def _call(self, name: str, arguments: str) -> bytes:
        item_id, index = _item_id("fc"), len(self._items)
        at = {"item_id": item_id, "output_index": index}
        item = _call_item(item_id, name, arguments)
        self._items.append(item)
        out = self._event(
            "response.output_item.added",
            output_index=index,
            item=_call_item(item_id, name, None) | {"call_id": item["call_id"]},
        )
        out += self._event("response.function_call_arguments.delta", **at, delta=arguments)
        out += self._event(
            "response.function_call_arguments.done", **at, arguments=arguments, name=name
        )
        return out + self._event("response.output_item.done", output_index=index, item=item)
