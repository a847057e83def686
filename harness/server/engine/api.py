"""The HTTP side of the engine: OpenAI and Anthropic routes over one reply, health, metrics.

Streams send one event for each delivery of tokens that yields text. Everything of an event but its
text is put together once a request, because client and engine share the cores.
"""

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from importlib.metadata import version as version_of
from typing import Any, Final, TypeAlias

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from harness import __version__
from harness.core.clock import now_ns, wall_now
from harness.server.engine import metrics as exposition
from harness.server.engine import prompts, responses
from harness.server.engine.batching import (
    DoesNotFitError,
    Engine,
    EngineDeadError,
    Generation,
    Sampling,
)
from harness.server.engine.metrics import EngineMetrics
from harness.server.engine.output import Output, Piece, Text, ToolCall
from harness.server.engine.prompts import Ask, BadRequestError, Prompts

INLINE_TOKENISE_BYTES: Final = 100_000
"""Bodies above this are tokenised in a thread, so that streams do not stall meanwhile."""
WATCHDOG_S: Final = 0.5
"""How often the loop looks whether the generation thread is alive."""

log = logging.getLogger("harness.engine")

AsgiReply: TypeAlias = "Response | EventStream"
ErrorForm = Callable[[int, str, str], Response]
_HTTP_NAMES: Final = {
    400: "invalid_request_error",
    404: "not_found_error",
    500: "api_error",
    503: "overloaded_error",
}


_TEXT_DELTA: Final = (
    b'event: content_block_delta\ndata: {"type": "content_block_delta", "index": %d, "delta":'
    b' {"type": "text_delta", "text": '
)
"""Everything before the text of an event; what follows it closes both objects."""


class UnknownModelError(LookupError):
    """The request names a model that is not served."""


class GenerationFailedError(RuntimeError):
    """The engine failed a request that it had accepted."""


def openai_error(status: int, message: str, kind: str) -> Response:
    """An error in OpenAI's form."""
    return JSONResponse(_openai_failure(status, message, kind), status_code=status)


def anthropic_error(status: int, message: str, kind: str) -> Response:
    """An error in Anthropic's form."""
    return JSONResponse(
        {"type": "error", "error": {"type": kind, "message": message}}, status_code=status
    )


@dataclass(slots=True)
class Reply:
    """One answer on its way: takes deliveries, counts, and says how it ended.

    Attributes:
        finish: `stop`, `length`, `abort`, `error`, None before the end.
    """

    generation: Generation
    output: Output
    metrics: EngineMetrics
    page_tok: int
    finish: str | None = None
    _last_ns: int | None = None

    async def steps(self) -> AsyncIterator[list[Piece]]:
        """The pieces of each delivery (often one, none while text is held back). Ends with the
        answer.

        Raises:
            GenerationFailedError: the engine gave up on it.
        """
        while True:
            delivery = await self.generation.next()
            if delivery.finish == "abort":
                self._end("abort")
                return
            if delivery.finish == "error":
                self._end("error")
                raise GenerationFailedError(delivery.error or "the engine failed this request")
            before = self.output.tokens
            pieces = self.output.feed(delivery.token_ids)
            self._count(self.output.tokens - before, delivery.at_ns)
            finish = delivery.finish
            if self.output.stopped_by is not None:
                self.generation.cancel()
                finish = "stop"
            if finish is not None:
                self._end(finish)
                pieces += self.output.finish()
            yield pieces
            if finish is not None:
                return

    def abandon(self) -> None:
        """The client is gone: free what the request holds."""
        if self.finish is None:
            self.generation.cancel()
            self._end("abort")

    def _count(self, tokens: int, at_ns: int) -> None:
        if not tokens:
            return
        if self._last_ns is None:
            self.metrics.prefilled(
                self.prompt_tok, self.cached_tok, at_ns - self.generation.created_ns
            )
            gaps = tokens - 1
            self._last_ns = self.generation.created_ns if gaps else at_ns
        else:
            gaps = tokens
        self.metrics.generation_tokens.inc(tokens)
        for _ in range(gaps):
            self.metrics.itl.observe((at_ns - self._last_ns) / gaps / 1e9)
        self._last_ns = at_ns

    def _end(self, finish: str) -> None:
        if self.finish is not None:
            return  # abandoned while its last tokens were being read
        self.finish = finish
        self.metrics.ended(finish, now_ns() - self.generation.created_ns)

    @property
    def prompt_tok(self) -> int:
        """Tokens of the prompt."""
        return self.generation.prompt_tok

    @property
    def cached_tok(self) -> int:
        """Prompt tokens that the prefix cache held."""
        return self.generation.cached_tok or 0

    def openai_usage(self) -> dict[str, Any]:
        """Usage so far in OpenAI's form."""
        return {
            "prompt_tokens": self.prompt_tok,
            "completion_tokens": self.output.tokens,
            "total_tokens": self.prompt_tok + self.output.tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tok},
        }

    def anthropic_usage(self) -> dict[str, int]:
        """Usage so far in Anthropic's form. Whole blocks of the prompt that were computed are in
        the cache from now on: written.
        """
        whole_blocks = self.prompt_tok // self.page_tok * self.page_tok
        created = max(0, whole_blocks - self.cached_tok)
        return {
            "input_tokens": self.prompt_tok - self.cached_tok - created,
            "cache_creation_input_tokens": created,
            "cache_read_input_tokens": self.cached_tok,
            "output_tokens": self.output.tokens,
        }

    def openai_reason(self) -> str:
        """finish_reason."""
        if self.finish == "stop" and self.output.called_tool:
            return "tool_calls"
        return self.finish or "stop"

    def anthropic_reason(self) -> tuple[str, str | None]:
        """stop_reason and stop_sequence."""
        if self.output.stopped_by is not None:
            return "stop_sequence", self.output.stopped_by
        if self.finish == "length":
            return "max_tokens", None
        return ("tool_use" if self.output.called_tool else "end_turn"), None


class EventStream:
    """An event stream that notices a client's leaving and tells the engine.

    Args:
        reply: the answer that is streamed.
        events: its events, encoded.
        error_event: makes the event for a failure after the start.
    """

    def __init__(
        self, reply: Reply, events: AsyncIterator[bytes], error_event: Callable[[str], bytes]
    ) -> None:
        self._reply, self._events, self._error_event = reply, events, error_event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        watcher = asyncio.create_task(_abandon_on_disconnect(self._reply, receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            try:
                async for event in self._events:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
            except GenerationFailedError as error:
                await send(
                    {
                        "type": "http.response.body",
                        "body": self._error_event(str(error)),
                        "more_body": True,
                    }
                )
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            watcher.cancel()
            self._reply.abandon()


async def _abandon_on_disconnect(reply: Reply, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    reply.abandon()


async def _whole(reply: Reply, request: Request) -> list[Piece]:
    """All pieces of an answer that is not streamed, neighbouring texts joined."""
    watcher = asyncio.create_task(_abandon_on_disconnect(reply, request.receive))
    whole: list[Piece] = []
    try:
        async for pieces in reply.steps():
            for piece in pieces:
                if isinstance(piece, Text) and whole and isinstance(whole[-1], Text):
                    whole[-1] = Text(whole[-1].text + piece.text)
                else:
                    whole.append(piece)
    finally:
        watcher.cancel()
        reply.abandon()
    return whole


def _sse(data: str) -> bytes:
    return b"data: " + data.encode() + b"\n\n"


@dataclass(slots=True)
class Api:
    """Routes over one engine."""

    engine: Engine
    prompts: Prompts
    model_name: str
    metrics: EngineMetrics = field(init=False)
    _created_s: int = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = EngineMetrics(
            self.model_name, self.engine.running, self.engine.waiting, self.engine.kv_usage
        )
        self._created_s = int(wall_now().timestamp())

    def app(self) -> Starlette:
        """The ASGI application; the generation thread starts and ends with it."""

        @contextlib.asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncIterator[None]:
            self.engine.start(asyncio.get_running_loop())
            watchdog = asyncio.create_task(self._watch())
            log.info("ready")
            yield
            watchdog.cancel()

        return Starlette(
            lifespan=lifespan,
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route("/v1/responses", self._responses, methods=["POST"]),
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/v1/messages/count_tokens", self._count_tokens, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/health", self._health),
                Route("/metrics", self._metrics),
                Route("/version", self._version),
            ],
        )

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCHDOG_S)
            self.engine.fail_live_if_dead()

    # Requests

    async def _start(
        self, request: Request, read: Callable[[dict[str, Any]], Ask]
    ) -> tuple[Ask, Reply]:
        ask, ids = await self._read(request, read)
        sampling = ask.sampling
        if sampling.max_tok == 0:  # chat or response without a length: all the room there is
            room = min(self.engine.max_context_tok, self.engine.capacity_tok) - len(ids)
            if room < max(1, sampling.min_tok):
                self.engine.check_fits(len(ids), max(1, sampling.min_tok))
            sampling = Sampling(room, sampling.min_tok, sampling.ignore_eos, sampling.temperature)
        generation = self.engine.submit(ids, sampling)
        output = Output(self.prompts.fast, ask.stops, ask.parse_tools or None, sampling.min_tok)
        return ask, Reply(generation, output, self.metrics, self.engine.page_tok)

    async def _read(
        self, request: Request, read: Callable[[dict[str, Any]], Ask]
    ) -> tuple[Ask, list[int]]:
        raw = await request.body()
        body = prompts.read_json(raw)
        model = body.get("model")
        if not isinstance(model, str):
            raise BadRequestError("model: Field required")
        if model != self.model_name:
            raise UnknownModelError(
                f"The model `{model}` does not exist; this server has `{self.model_name}`."
            )
        ask = read(body)
        if len(raw) > INLINE_TOKENISE_BYTES:
            ids = await asyncio.to_thread(self.prompts.tokens, ask)
        else:
            ids = self.prompts.tokens(ask)
        if isinstance(ask.prompt, list) and not all(0 <= i < self.engine.vocab_size for i in ids):
            raise BadRequestError(
                f"prompt: token ids must be from 0 to {self.engine.vocab_size - 1}"
            )
        return ask, ids

    async def _guarded(self, form: ErrorForm, work: Awaitable[AsgiReply]) -> AsgiReply:
        try:
            return await work
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it; the request never began
        except (BadRequestError, DoesNotFitError) as error:
            return form(400, str(error), _HTTP_NAMES[400])
        except UnknownModelError as error:
            return form(404, str(error), _HTTP_NAMES[404])
        except EngineDeadError as error:
            return form(503, f"the engine is not generating: {error}", _HTTP_NAMES[503])
        except GenerationFailedError as error:
            return form(500, str(error), _HTTP_NAMES[500])

    # OpenAI

    async def _chat(self, request: Request) -> AsgiReply:
        return await self._guarded(openai_error, self._openai(request, chat=True))

    async def _completions(self, request: Request) -> AsgiReply:
        return await self._guarded(openai_error, self._openai(request, chat=False))

    async def _openai(self, request: Request, *, chat: bool) -> AsgiReply:
        temperature = self.engine.default_temperature
        ask, reply = await self._start(
            request,
            lambda body: prompts.from_openai(
                body, default_temperature=temperature, room_tok=0, chat=chat
            ),
        )
        head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": (
                ("chat.completion" if chat else "text_completion")
                + (".chunk" if chat and ask.stream else "")
            ),
            "created": int(wall_now().timestamp()),
            "model": self.model_name,
        }
        if ask.stream:
            events = self._openai_events(ask, reply, head, chat=chat)
            return EventStream(
                reply,
                events,
                lambda text: _sse(json.dumps(_openai_failure(500, text, "api_error"))),
            )
        pieces = await _whole(reply, request)
        text = "".join(piece.text for piece in pieces if isinstance(piece, Text))
        choice: dict[str, Any] = {
            "index": 0,
            "logprobs": None,
            "finish_reason": reply.openai_reason(),
        }
        if chat:
            calls = [_openai_call(piece) for piece in pieces if isinstance(piece, ToolCall)]
            message: dict[str, Any] = {
                "role": "assistant",
                "content": text if text or not calls else None,
            }
            choice["message"] = message | ({"tool_calls": calls} if calls else {})
        else:
            choice["text"] = text
        return JSONResponse(head | {"choices": [choice], "usage": reply.openai_usage()})

    async def _openai_events(
        self, ask: Ask, reply: Reply, head: dict[str, Any], *, chat: bool
    ) -> AsyncIterator[bytes]:
        start = json.dumps(head)[:-1] + ', "choices": [{"index": 0, "logprobs": null, '
        started, calls = not chat, 0

        def event(fields: str, finish: str | None = None) -> bytes:
            usage = f', "usage": {json.dumps(reply.openai_usage())}' if ask.continuous_usage else ""
            return _sse(f'{start}{fields}, "finish_reason": {json.dumps(finish)}}}]{usage}}}')

        async for pieces in reply.steps():
            if not started:
                started = True
                yield event('"delta": {"role": "assistant", "content": ""}')
            for piece in pieces:
                if isinstance(piece, ToolCall):
                    call = _openai_call(piece) | {"index": calls}
                    calls += 1
                    yield event(f'"delta": {{"tool_calls": {json.dumps([call])}}}')
                elif chat:
                    yield event(f'"delta": {{"content": {json.dumps(piece.text)}}}')
                else:
                    yield event(f'"text": {json.dumps(piece.text)}')
        if reply.finish == "abort":
            return
        yield event('"delta": {}' if chat else '"text": ""', reply.openai_reason())
        if ask.include_usage:
            yield _sse(json.dumps(head | {"choices": [], "usage": reply.openai_usage()}))
        yield b"data: [DONE]\n\n"

    async def _responses(self, request: Request) -> AsgiReply:
        return await self._guarded(openai_error, self._response(request))

    async def _response(self, request: Request) -> AsgiReply:
        temperature = self.engine.default_temperature
        ask, reply = await self._start(
            request, lambda body: responses.from_responses(body, default_temperature=temperature)
        )
        if ask.stream:
            events = responses.Events(reply, self.model_name)
            return EventStream(reply, events.stream(), events.error)
        pieces = await _whole(reply, request)
        return JSONResponse(
            responses.ended(
                responses.new_response(self.model_name), reply, responses.items_of(pieces)
            )
        )

    # Anthropic

    async def _messages(self, request: Request) -> AsgiReply:
        return await self._guarded(anthropic_error, self._anthropic(request))

    async def _anthropic(self, request: Request) -> AsgiReply:
        temperature = self.engine.default_temperature
        ask, reply = await self._start(
            request, lambda body: prompts.from_anthropic(body, default_temperature=temperature)
        )
        message_id = f"msg_{uuid.uuid4().hex}"
        if ask.stream:
            return EventStream(
                reply,
                self._anthropic_events(reply, message_id),
                lambda text: _event(
                    "error", {"type": "error", "error": {"type": "api_error", "message": text}}
                ),
            )
        pieces = await _whole(reply, request)
        content = [
            (
                {"type": "text", "text": piece.text}
                if isinstance(piece, Text)
                else {
                    "type": "tool_use",
                    "id": f"toolu_{uuid.uuid4().hex}",
                    "name": piece.name,
                    "input": json.loads(piece.arguments),
                }
            )
            for piece in pieces
        ]
        reason, sequence = reply.anthropic_reason()
        return JSONResponse(
            self._message(message_id, content, reason, sequence, reply.anthropic_usage())
        )

    def _message(
        self,
        message_id: str,
        content: list[Any],
        reason: str | None,
        sequence: str | None,
        usage: dict[str, int],
    ) -> dict[str, Any]:
        return {
            "id": message_id,
            "type": "message",
            "role": "assistant",
            "model": self.model_name,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": usage,
        }

    async def _anthropic_events(self, reply: Reply, message_id: str) -> AsyncIterator[bytes]:
        index, in_text, started = 0, False, False
        delta = b""
        async for pieces in reply.steps():
            if not started:
                # At the first token, not before: only then is it known how much of the prompt was
                # cached.
                started = True
                usage = reply.anthropic_usage() | {"output_tokens": 0}
                yield _event(
                    "message_start",
                    {
                        "type": "message_start",
                        "message": self._message(message_id, [], None, None, usage),
                    },
                )
            for piece in pieces:
                if isinstance(piece, Text):
                    if not in_text:
                        in_text = True
                        yield _event(
                            "content_block_start", _block_start(index, {"type": "text", "text": ""})
                        )
                        delta = _TEXT_DELTA % index
                    yield b"%b%b}}\n\n" % (delta, json.dumps(piece.text).encode())
                    continue
                if in_text:
                    in_text = False
                    yield _event(
                        "content_block_stop", {"type": "content_block_stop", "index": index}
                    )
                    index += 1
                block = {
                    "type": "tool_use",
                    "id": f"toolu_{uuid.uuid4().hex}",
                    "name": piece.name,
                    "input": {},
                }
                yield _event("content_block_start", _block_start(index, block))
                arguments = {"type": "input_json_delta", "partial_json": piece.arguments}
                yield _event(
                    "content_block_delta",
                    {"type": "content_block_delta", "index": index, "delta": arguments},
                )
                yield _event("content_block_stop", {"type": "content_block_stop", "index": index})
                index += 1
        if reply.finish == "abort":
            return
        if in_text:
            yield _event("content_block_stop", {"type": "content_block_stop", "index": index})
        reason, sequence = reply.anthropic_reason()
        ended = {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": sequence},
            "usage": reply.anthropic_usage(),
        }
        yield _event("message_delta", ended)
        yield _event("message_stop", {"type": "message_stop"})

    async def _count_tokens(self, request: Request) -> AsgiReply:
        async def count() -> Response:
            _ask, ids = await self._read(
                request,
                lambda body: prompts.from_anthropic(body, default_temperature=1.0, counting=True),
            )
            return JSONResponse({"input_tokens": len(ids)})

        return await self._guarded(anthropic_error, count())

    # About the server

    async def _models(self, _request: Request) -> Response:
        longest = min(self.engine.max_context_tok, self.engine.capacity_tok)
        card = {
            "id": self.model_name,
            "object": "model",
            "created": self._created_s,
            "owned_by": "colossus-harness",
            "max_model_len": longest,
        }
        return JSONResponse({"object": "list", "data": [card]})

    async def _health(self, _request: Request) -> Response:
        error = self.engine.fatal_error()
        if error is not None:
            return JSONResponse(
                {"status": "dead", "error": f"{type(error).__name__}: {error}"}, status_code=503
            )
        return JSONResponse({"status": "ok"})

    async def _metrics(self, _request: Request) -> Response:
        return Response(self.metrics.exposition(), media_type=exposition.CONTENT_TYPE)

    async def _version(self, _request: Request) -> Response:
        return JSONResponse(
            {
                "version": __version__,
                "torch": version_of("torch"),
                "transformers": version_of("transformers"),
            }
        )


def _openai_failure(status: int, message: str, kind: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def _openai_call(call: ToolCall) -> dict[str, Any]:
    return {
        "id": f"call_{uuid.uuid4().hex}",
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def _block_start(index: int, block: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}
