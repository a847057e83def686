"""The HTTP side of the engine: every wire API over one reply, health, metrics.

Streams send one event for each delivery of tokens that yields text.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version as version_of
from typing import Final, TypeAlias

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from harness import __version__
from harness.api.base import Ask, BadRequestError, WireApi
from harness.api.table import WIRE_APIS
from harness.core.clock import wall_now
from harness.server.engine import metrics as exposition
from harness.server.engine.batching import DoesNotFitError, Engine, EngineDeadError, Sampling
from harness.server.engine.metrics import EngineMetrics
from harness.server.engine.output import Output
from harness.server.engine.prompts import Prompts, read_json
from harness.server.engine.reply import EventStream, GenerationFailedError, Reply, whole

INLINE_TOKENISE_BYTES: Final = 100_000
"""Larger bodies are tokenized in a thread, so that streams do not stall meanwhile."""
WATCHDOG_S: Final = 0.5
"""How often the loop checks that the generation thread is alive."""

log = logging.getLogger("harness.engine")

AsgiReply: TypeAlias = "Response | EventStream"
Work = Callable[[WireApi, Request], Awaitable[AsgiReply]]
_KINDS: Final = {
    400: "invalid_request_error",
    404: "not_found_error",
    500: "api_error",
    503: "overloaded_error",
}


class UnknownModelError(LookupError):
    """The request names a model that is not served."""


@dataclass(slots=True)
class EngineApp:
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

        routes = [_route(api.path, api, self._answer) for api in WIRE_APIS.values()]
        routes += [
            _route(f"{api.path}/count_tokens", api, self._count_tokens)
            for api in WIRE_APIS.values()
            if api.counts_tokens
        ]
        return Starlette(
            lifespan=lifespan,
            routes=[
                *routes,
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

    async def _answer(self, api: WireApi, request: Request) -> AsgiReply:
        ask, ids = await self._read(api, request)
        most = ask.max_tok
        if most == 0:  # no length requested: all that fits
            most = min(self.engine.max_context_tok, self.engine.capacity_tok) - len(ids)
            if most < max(1, ask.min_tok):
                self.engine.check_fits(len(ids), max(1, ask.min_tok))
        sampling = Sampling(most, ask.min_tok, ask.ignore_eos, ask.temperature)
        generation = self.engine.submit(ids, sampling)
        output = Output(self.prompts.fast, ask.stops, ask.parse_tools or None, ask.min_tok)
        reply = Reply(generation, output, self.metrics, self.engine.page_tok)
        writer = api.writer(self.model_name, uuid.uuid4().hex, int(wall_now().timestamp()))
        if ask.stream:
            return EventStream(reply, ask, writer, api.stream_type)
        pieces = await whole(reply, request)
        return JSONResponse(writer.whole(pieces, reply.ending, reply.usage))

    async def _count_tokens(self, api: WireApi, request: Request) -> AsgiReply:
        _ask, ids = await self._read(api, request, counting=True)
        return JSONResponse({"input_tokens": len(ids)})

    async def _read(
        self, api: WireApi, request: Request, *, counting: bool = False
    ) -> tuple[Ask, list[int]]:
        raw = await request.body()
        body = read_json(raw)
        model = body.get("model")
        if not isinstance(model, str):
            raise BadRequestError("model: Field required")
        if model != self.model_name:
            raise UnknownModelError(
                f"The model `{model}` does not exist; this server has `{self.model_name}`."
            )
        temperature = self.engine.default_temperature
        ask = api.ask(body, default_temperature=temperature, counting=counting)
        if len(raw) > INLINE_TOKENISE_BYTES:
            ids = await asyncio.to_thread(self.prompts.tokens, ask)
        else:
            ids = self.prompts.tokens(ask)
        if isinstance(ask.prompt, list) and not all(0 <= i < self.engine.vocab_size for i in ids):
            raise BadRequestError(
                f"prompt: token ids must be from 0 to {self.engine.vocab_size - 1}"
            )
        return ask, ids

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


def _route(path: str, api: WireApi, work: Work) -> Route:
    async def endpoint(request: Request) -> AsgiReply:
        return await guarded(api, partial(work, api, request))

    return Route(path, endpoint, methods=["POST"])


async def guarded(api: WireApi, work: Callable[[], Awaitable[AsgiReply]]) -> AsgiReply:
    """Run the work; its failures become errors in the API's form."""
    try:
        return await work()
    except ClientDisconnect:
        return Response(status_code=499)  # the client is gone; the request never began
    except (BadRequestError, DoesNotFitError) as error:
        status, text = 400, str(error)
    except UnknownModelError as error:
        status, text = 404, str(error)
    except EngineDeadError as error:
        status, text = 503, f"the engine is not generating: {error}"
    except GenerationFailedError as error:
        status, text = 500, str(error)
    return JSONResponse(api.error_body(status, _KINDS[status], text), status_code=status)
