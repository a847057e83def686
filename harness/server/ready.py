"""Waits until a server can serve: `/health`, then `/v1/models`, then one real request of one token.

`/health` alone is not enough: it returns 200 while vLLM's engine hangs (vllm-project/vllm #39863),
and SGLang lists its models before it is warm. One deadline bounds all of it, because the server's
own timeouts do not bound every wait (#48031).
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import httpx

from harness.api.errors import error_text
from harness.api.table import wire
from harness.core.clock import NS_PER_S, now_ns
from harness.core.errors import HarnessError
from harness.core.network import Network
from harness.core.records import Api, Endpoint
from harness.server.one_request import DIRECT, Reply, client_options, one_token_body, request_once

_POLL_S: Final = 0.1
_PROBE_TIMEOUT_S: Final = 10.0
# Statuses of a server that may still become ready.
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
_PASSING_TRIES: Final = 10
_NO_ROUTE: Final = frozenset({404, 405, 501})

T = TypeVar("T")


class NotReadyError(HarnessError):
    """The server will not become ready. `what` is a predicate: whoever waits adds the server."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a ready server reports about itself; None if it does not. `max_context_tok` is of the
    requested model.
    """

    names: tuple[str, ...]
    max_context_tok: int | None
    version: str | None


class Deadline:
    """A time after which all waiting ends."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._at_ns = now_ns() + int(timeout_s * NS_PER_S)

    def left_s(self) -> float:
        return max(0.0, (self._at_ns - now_ns()) / NS_PER_S)


def wait_ready(
    endpoint: Endpoint,
    api: Api,
    api_key: str | None,
    deadline: Deadline,
    watch: Callable[[], None],
    *,
    health_required: bool = True,
    network: Network = DIRECT,
) -> Served:
    """Wait for one replica.

    Without a model name in `endpoint`, the only listed model is used. `watch` is called ten times
    a second and raises once waiting is pointless. A foreign server may lack `/health`
    (`health_required=False`).

    Raises:
        NotReadyError: its response will not improve, or the deadline passed.
        Exception: whatever `watch` raises.
    """
    options = client_options(endpoint.base_url, network)
    with httpx.Client(
        base_url=endpoint.base_url,
        headers=wire(api).headers(api_key),
        timeout=_PROBE_TIMEOUT_S,
        **options,
    ) as client:
        _wait_health(client, deadline, watch, required=health_required)
        names, max_context_tok = _wait_models(client, endpoint, deadline, watch)
        model = endpoint.model or names[0]
        _wait_token(endpoint, model, api, api_key, deadline, watch, network)
        return Served(names, max_context_tok, _version(client))


def _status_of(answer: httpx.Response) -> str:
    return f"HTTP {answer.status_code}: {error_text(answer.content) or 'an empty body'}"


def _late(stage: str, last: str, deadline: Deadline) -> NotReadyError:
    return NotReadyError(
        f"was not ready within {deadline.timeout_s:g} s: {stage}; last response: {last}",
        cause=(
            "it is still loading or compiling (a cold start on a GPU can take half an hour), or it"
            " hangs"
        ),
        next_step="see the end of its log; if it was making progress, raise server.ready_timeout_s",
    )


def _pause(deadline: Deadline) -> None:
    threading.Event().wait(min(_POLL_S, deadline.left_s()))


def _poll(
    client: httpx.Client,
    path: str,
    stage: str,
    deadline: Deadline,
    watch: Callable[[], None],
    read: Callable[[httpx.Response], T | None],
) -> T:
    """Repeat a GET until `read` returns a result."""
    while True:
        watch()
        try:
            answer = client.get(path, timeout=max(0.1, min(_PROBE_TIMEOUT_S, deadline.left_s())))
        except httpx.HTTPError as error:
            last = f"{type(error).__name__}: {error}"
        else:
            if (found := read(answer)) is not None:
                return found
            last = _status_of(answer)
        if deadline.left_s() == 0:
            raise _late(stage, last, deadline)
        _pause(deadline)


def _wait_health(
    client: httpx.Client, deadline: Deadline, watch: Callable[[], None], *, required: bool
) -> None:
    def read(answer: httpx.Response) -> bool | None:
        ok = answer.status_code == 200 or (not required and answer.status_code in _NO_ROUTE)
        return ok or None

    _poll(client, "/health", "GET /health never returned 200", deadline, watch, read)


def _wait_models(
    client: httpx.Client, endpoint: Endpoint, deadline: Deadline, watch: Callable[[], None]
) -> tuple[tuple[str, ...], int | None]:
    tries = 0

    def read(answer: httpx.Response) -> tuple[tuple[str, ...], int | None] | None:
        nonlocal tries
        if answer.status_code == 200:
            return _listed(answer, endpoint.model)
        if answer.status_code in _NO_ROUTE and endpoint.model:
            return (endpoint.model,), None  # a server without a list; the real request decides
        what = f"GET /v1/models: {_status_of(answer)}"
        if answer.status_code in (401, 403):
            raise NotReadyError(
                what,
                cause="the API key is missing or wrong",
                next_step="set server.api_key_env or server.api_key_file",
            )
        tries += 1
        if answer.status_code not in _PASSING or tries >= _PASSING_TRIES:
            raise NotReadyError(
                what,
                next_step=(
                    "check that the server has the OpenAI or Anthropic API; set model.served_name"
                ),
            )
        return None

    stage = "GET /v1/models never listed the model"
    return _poll(client, "/v1/models", stage, deadline, watch, read)


def _listed(answer: httpx.Response, model: str) -> tuple[tuple[str, ...], int | None]:
    found = listed_models(answer)
    if model and model not in found:
        raise NotReadyError(
            f"does not serve {model!r}; it serves: {', '.join(map(repr, found)) or 'nothing'}",
            cause="the URL is of another server, or the model has another name",
            next_step="set model.served_name to a name that it serves",
        )
    if not found:
        raise NotReadyError("lists no model", next_step="load a model on the server")
    if not model and len(found) > 1:
        raise NotReadyError(
            f"lists {len(found)} models: {', '.join(map(repr, found))}",
            next_step="set model.served_name to the model to measure",
        )
    return tuple(found), found.get(model or next(iter(found)))


def listed_models(answer: httpx.Response) -> dict[str, int | None]:
    """Name -> longest context, of every model in a response of `/v1/models`; {} without a list."""
    try:
        body: Any = answer.json()
    except ValueError:
        return {}
    rows = body.get("data") if isinstance(body, dict) else None
    found: dict[str, int | None] = {}
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and isinstance(row.get("id"), str):
            limit = row.get("max_model_len")
            found[row["id"]] = limit if isinstance(limit, int) else None
    return found


def _wait_token(
    endpoint: Endpoint,
    model: str,
    api: Api,
    api_key: str | None,
    deadline: Deadline,
    watch: Callable[[], None],
    network: Network,
) -> None:
    """The first request may compile kernels for minutes, so the process is watched meanwhile."""
    body = one_token_body(model, api)
    tries = 0
    while True:
        reply = _watched(
            lambda: request_once(
                endpoint, api, body, api_key, timeout_s=max(0.1, deadline.left_s()), network=network
            ),
            deadline,
            watch,
        )
        if reply is None or (deadline.left_s() == 0 and not reply.ok):
            last = "none"
            if reply is not None:
                last = f"HTTP {reply.status}: {reply.error}" if reply.status else f"{reply.error}"
            stage = f"a request of one token to {wire(api).path} got no response"
            raise _late(stage, last, deadline)
        if reply.ok:
            return
        tries += 1
        watch()
        if reply.status is not None and (reply.status not in _PASSING or tries >= _PASSING_TRIES):
            no_route = reply.status in _NO_ROUTE
            raise NotReadyError(
                f"refused a request of one token: POST {wire(api).path}: HTTP {reply.status}:"
                f" {reply.error}",
                cause="the server has no such route" if no_route else None,
                next_step=(
                    "set traffic.api to an API of the server"
                    if no_route
                    else "see its log for the reason"
                ),
            )
        _pause(deadline)


def _watched(
    call: Callable[[], Reply], deadline: Deadline, watch: Callable[[], None]
) -> Reply | None:
    """Run the call in a thread; None if the deadline passed first. The thread ends with the server
    or with the call's own timeout.
    """
    done = threading.Event()
    box: list[Reply] = []

    def work() -> None:
        try:
            box.append(call())
        finally:
            done.set()

    threading.Thread(target=work, name="first-request", daemon=True).start()
    while not done.wait(min(_POLL_S, deadline.left_s())):
        watch()
        if deadline.left_s() == 0:
            break
    return box[0] if box else None


def _version(client: httpx.Client) -> str | None:
    try:
        answer = client.get("/version")
        body: Any = answer.json() if answer.status_code == 200 else {}
    except (httpx.HTTPError, ValueError):
        return None
    version = body.get("version") if isinstance(body, dict) else None
    return version if isinstance(version, str) else None
