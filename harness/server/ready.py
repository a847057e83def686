"""Waits until a server can serve: `/health`, then `/v1/models`, then one real request of one token.

`/health` alone is not enough: it returns 200 while vLLM's engine hangs (vllm-project/vllm #39863),
and SGLang lists its models before it is warm. One deadline bounds all of it, because the server's
own timeouts do not bound every wait (#48031).
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import httpx

from harness.api.errors import error_text
from harness.api.table import wire
from harness.core.clock import NS_PER_S, now_ns
from harness.core.errors import HarnessError
from harness.core.network import Network
from harness.core.records import AS_IT_IS, Api, BodyForm, Endpoint
from harness.server.one_request import (
    DIRECT,
    Reply,
    body_key_step,
    client_options,
    one_token_body,
    request_once,
)

_POLL_S: Final = 0.1
_PROBE_TIMEOUT_S: Final = 10.0
# Statuses of a server that may still become ready.
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
_PASSING_TRIES: Final = 10
_NO_ROUTE: Final = frozenset({404, 405, 501})
_LOADING: Final = frozenset({425, 429, 503, 529})
_ADVICE_SHARE: Final = 1 / 3
_ADVICE_S: Final = 60.0
"""How long a foreign server's `/health` and model list are waited for, at most; then the real
request decides.
"""
_LIST_KEYS: Final = ("data", "models")
_NAME_KEYS: Final = ("id", "name", "model")

T = TypeVar("T")


class NotReadyError(HarnessError):
    """The server will not become ready. `what` is a predicate: whoever waits adds the server."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a ready server reports about itself; None if it does not. `max_context_tok` is of the
    requested model. `notes`: responses that are unusual, but prevent nothing.
    """

    names: tuple[str, ...]
    max_context_tok: int | None
    version: str | None
    notes: tuple[str, ...] = ()


class Deadline:
    """A time after which all waiting ends."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._at_ns = now_ns() + int(timeout_s * NS_PER_S)

    def left_s(self) -> float:
        return max(0.0, (self._at_ns - now_ns()) / NS_PER_S)

    def part(self) -> "Deadline":
        """For something that is only advice."""
        return Deadline(min(self.left_s() * _ADVICE_SHARE, _ADVICE_S))


def wait_ready(
    endpoint: Endpoint,
    api: Api,
    api_key: str | None,
    deadline: Deadline,
    watch: Callable[[], None],
    *,
    health_required: bool = True,
    network: Network = DIRECT,
    form: BodyForm = AS_IT_IS,
    temperature: float | None = None,
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
        steps = _Steps(client, endpoint, deadline, watch, ours=health_required)
        steps.wait_health()
        names, max_context_tok = steps.wait_models()
        model = endpoint.model or names[0]
        # a server that may be loading is not given up on
        tries = None if steps.late else _PASSING_TRIES
        body = one_token_body(model, api, form, temperature)
        _wait_token(endpoint, body, api, api_key, deadline, watch, network, tries)
        return Served(names, max_context_tok, _version(client), tuple(steps.notes))


@dataclass(slots=True)
class _Steps:
    """The GETs before the real request. For a foreign server (not `ours`) they are advice: only an
    unknown model name makes its list necessary.
    """

    client: httpx.Client
    endpoint: Endpoint
    deadline: Deadline
    watch: Callable[[], None]
    ours: bool
    notes: list[str] = field(default_factory=list)
    late: bool = False

    def wait_health(self) -> None:
        def read(answer: httpx.Response) -> bool | None:
            serves = answer.status_code == 200 or (
                not self.ours and answer.status_code not in _PASSING
            )
            return serves or None

        stage = "GET /health never returned 200"
        self._advised("/health", stage, read)

    def wait_models(self) -> tuple[tuple[str, ...], int | None]:
        tries = 0
        model = self.endpoint.model
        is_advice = not self.ours and bool(model)

        def read(answer: httpx.Response) -> tuple[tuple[str, ...], int | None] | None:
            nonlocal tries
            if answer.is_success:
                return self._listed(answer)
            if answer.status_code in _NO_ROUTE and model:
                return (model,), None  # a server without a list; the real request decides
            if is_advice and answer.status_code not in _PASSING:
                self.notes.append(f"GET /v1/models: {_status_of(answer)}")
                return (model,), None
            tries += 1
            if answer.status_code not in _PASSING or (not is_advice and tries >= _PASSING_TRIES):
                raise _no_list(answer)
            return None

        stage = "GET /v1/models never listed the model"
        return self._advised("/v1/models", stage, read) or ((model,), None)

    def _advised(
        self, path: str, stage: str, read: Callable[[httpx.Response], T | None]
    ) -> T | None:
        """What `read` finds; None with a note, if it is only advice and does not come."""
        must = self.ours or (path == "/v1/models" and not self.endpoint.model)
        deadline = self.deadline if must else self.deadline.part()
        try:
            return _poll(self.client, path, stage, deadline, self.watch, read)
        except _LateError as late:
            if must or self.deadline.left_s() == 0:
                raise
            self.notes.append(f"GET {path}: {late.last}")
            self.late = True
            return None

    def _listed(self, answer: httpx.Response) -> tuple[tuple[str, ...], int | None]:
        found, model = listed_models(answer), self.endpoint.model
        if model and model not in found and not self.ours:
            names = ", ".join(map(repr, found)) or "no model"
            self.notes.append(f"GET /v1/models lists {names}, not {model!r}")
            return (model,), None
        return _of_listed(found, model)


def _status_of(answer: httpx.Response) -> str:
    return f"HTTP {answer.status_code}: {error_text(answer.content) or 'an empty body'}"


class _LateError(NotReadyError):
    """The deadline passed. `last`: the last response, or why there was none."""

    def __init__(self, stage: str, last: str, deadline: Deadline, status: int | None) -> None:
        loading = status is None or status in _LOADING
        super().__init__(
            f"was not ready within {deadline.timeout_s:g} s: {stage}; last response: {last}",
            cause=(
                "it may be loading, compiling (a cold start on a GPU can take half an hour) or"
                " hanging"
                if loading
                else None
            ),
            next_step="see the end of its log; if it was making progress, raise"
            " server.ready_timeout_s",
        )
        self.last = last


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
        status: int | None = None
        try:
            answer = client.get(path, timeout=max(0.1, min(_PROBE_TIMEOUT_S, deadline.left_s())))
        except httpx.HTTPError as error:
            last = f"{type(error).__name__}: {error}"
        else:
            if (found := read(answer)) is not None:
                return found
            last, status = _status_of(answer), answer.status_code
        if deadline.left_s() == 0:
            raise _LateError(stage, last, deadline, status)
        _pause(deadline)


def _no_list(answer: httpx.Response) -> NotReadyError:
    what = f"GET /v1/models: {_status_of(answer)}"
    if answer.status_code in (401, 403):
        return NotReadyError(
            what,
            cause="the API key is missing or wrong",
            next_step="set server.api_key_env or server.api_key_file",
        )
    if (at := answer.headers.get("location")) is not None:
        return _moved(what, at, "/v1/models")
    step = "check that the server has the OpenAI or Anthropic API; set model.served_name"
    return NotReadyError(what, next_step=step)


def _moved(what: str, location: str, path: str) -> NotReadyError:
    """For a redirect, which is not followed: the key would go to another address."""
    return NotReadyError(
        f"{what}: redirected to {location}",
        next_step=f"put that URL into server.urls: {location.partition(path)[0]}",
    )


def _of_listed(found: dict[str, int | None], model: str) -> tuple[tuple[str, ...], int | None]:
    if model and model not in found:
        raise NotReadyError(
            f"does not serve {model!r}; it serves: {', '.join(map(repr, found)) or 'nothing'}",
            cause="the URL is of another server, or the model has another name",
            next_step="set model.served_name to a name that it serves",
        )
    if not found:
        raise NotReadyError(
            "lists no model", next_step="load a model on the server, or set model.served_name"
        )
    if not model and len(found) > 1:
        raise NotReadyError(
            f"lists {len(found)} models: {', '.join(map(repr, found))}",
            next_step="set model.served_name to the model to measure",
        )
    return tuple(found), found.get(model or next(iter(found)))


def listed_models(answer: httpx.Response) -> dict[str, int | None]:
    """Name -> longest context, of every model in a response of `/v1/models`; {} without a list.

    Lists may be bare, under `data` or `models`, or objects by name; a row may be a name.
    """
    try:
        body: Any = answer.json()
    except (ValueError, RecursionError):
        return {}
    if isinstance(body, dict):
        body = next((body[key] for key in _LIST_KEYS if isinstance(body.get(key), list | dict)), ())
    rows = (
        [{"id": name} | (row if isinstance(row, dict) else {}) for name, row in body.items()]
        if isinstance(body, dict)
        else body
    )
    found: dict[str, int | None] = {}
    for row in rows if isinstance(rows, list) else ():
        value = row if isinstance(row, dict) else {"id": row}
        name = next((value[key] for key in _NAME_KEYS if isinstance(value.get(key), str)), None)
        if name:
            limit = value.get("max_model_len")
            found[name] = limit if type(limit) is int else None
    return found


def _wait_token(
    endpoint: Endpoint,
    body: bytes,
    api: Api,
    api_key: str | None,
    deadline: Deadline,
    watch: Callable[[], None],
    network: Network,
    most_tries: int | None,
) -> None:
    """The first request may compile kernels for minutes, so the process is watched meanwhile."""
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
            raise _LateError(stage, last, deadline, None if reply is None else reply.status)
        if reply.ok:
            return
        tries += 1
        watch()
        given_up = most_tries is not None and tries >= most_tries
        if reply.status is not None and (reply.status not in _PASSING or given_up):
            raise _refused(reply, api)
        _pause(deadline)


def _refused(reply: Reply, api: Api) -> NotReadyError:
    path = wire(api).path
    what = f"refused a one-token request: POST {path}: HTTP {reply.status}: {reply.error}"
    if reply.location is not None:
        return _moved(f"refused a one-token request: POST {path}", reply.location, path)
    if reply.status in (401, 403):
        return NotReadyError(
            what,
            cause="the API key is missing or wrong",
            next_step="set server.api_key_env or server.api_key_file",
        )
    if reply.status in _NO_ROUTE:
        return NotReadyError(
            what,
            cause="the server has no such route, or no such model",
            next_step="set traffic.api to an API of the server, or model.served_name",
        )
    step = body_key_step(reply, api)
    return NotReadyError(
        what,
        cause="the server does not accept this key" if step else None,
        next_step=step or "see its log for the reason",
    )


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
        except Exception as error:  # noqa: BLE001 - reported as the failure of this step
            box.append(Reply(None, f"the response could not be read: {error!r}"))
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
    except (httpx.HTTPError, ValueError, RecursionError):
        return None
    version = body.get("version") if isinstance(body, dict) else None
    return version if isinstance(version, str) else None
