"""One response on its way from the engine to its client, for every API."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from harness.api.base import AnswerWriter, Ask, Finish, Piece, Text
from harness.api.reader import Usage
from harness.core.clock import now_ns
from harness.server.engine.batching import Generation
from harness.server.engine.metrics import EngineMetrics
from harness.server.engine.output import Output


class GenerationFailedError(RuntimeError):
    """The engine failed a request that it had accepted."""


@dataclass(slots=True)
class Reply:
    """Turns deliveries into pieces, and counts. `finish` is `stop`, `length`, `abort` or `error`;
    None before the end.
    """

    generation: Generation
    output: Output
    metrics: EngineMetrics
    page_tok: int
    finish: str | None = None
    _last_ns: int | None = None

    async def steps(self) -> AsyncIterator[list[Piece]]:
        """The pieces of each delivery (often one, none while text is held back), until the end.

        Raises:
            GenerationFailedError: the engine failed the request.
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
        if self.finish is None:
            self.generation.cancel()
            self._end("abort")

    def _count(self, tokens: int, at_ns: int) -> None:
        if not tokens:
            return
        if self._last_ns is None:
            ttft_ns = at_ns - self.generation.created_ns
            self.metrics.prefilled(self.generation.prompt_tok, self.cached_tok, ttft_ns)
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
            return  # abandoned while its last tokens were read
        self.finish = finish
        self.metrics.ended(finish, now_ns() - self.generation.created_ns)

    @property
    def cached_tok(self) -> int:
        return self.generation.cached_tok or 0

    @property
    def usage(self) -> Usage:
        """Usage so far. The computed whole blocks of the prompt are now in the cache: written."""
        prompt_tok = self.generation.prompt_tok
        written = max(0, prompt_tok // self.page_tok * self.page_tok - self.cached_tok)
        return Usage(prompt_tok, self.cached_tok, written, self.output.tokens)

    @property
    def ending(self) -> Finish:
        called = self.finish == "stop" and self.output.called_tool
        return Finish("tool_calls" if called else self.finish or "stop", self.output.stopped_by)


class EventStream:
    """An event stream that reports a disconnect of the client to the engine."""

    def __init__(self, reply: Reply, ask: Ask, writer: AnswerWriter, content_type: str) -> None:
        self._reply, self._ask, self._writer = reply, ask, writer
        self._content_type = content_type

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        headers = [
            (b"content-type", f"{self._content_type}; charset=utf-8".encode()),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        watcher = asyncio.create_task(_abandon_on_disconnect(self._reply, receive))

        async def write(body: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": more})

        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            try:
                async for event in self._events():
                    await write(event)
            except GenerationFailedError as error:
                await write(self._writer.error(500, "api_error", str(error)))
            await write(b"", more=False)
        finally:
            watcher.cancel()
            self._reply.abandon()

    async def _events(self) -> AsyncIterator[bytes]:
        reply, writer, continuous = self._reply, self._writer, self._ask.continuous_usage
        started = False
        async for pieces in reply.steps():
            if not started:
                # Not before the first token, when the number of cached prompt tokens is known.
                started = True
                if begin := writer.start(reply.usage, continuous=continuous):
                    yield begin
            for piece in pieces:
                yield writer.piece(piece, reply.usage if continuous else None)
        if reply.finish != "abort":
            usage = reply.usage if self._ask.include_usage else None
            yield writer.end(reply.ending, usage, continuous=continuous)


async def _abandon_on_disconnect(reply: Reply, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    reply.abandon()


async def whole(reply: Reply, request: Request) -> list[Piece]:
    """All pieces of a response that is not streamed, adjacent texts joined."""
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
