"""Single real requests outside Locust, for readiness and `harness check`."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpcore
import httpx

from harness.api.base import WireApi
from harness.api.response import (
    CompressedError,
    Received,
    TooLongError,
    decompressed,
    encoding_of,
    good_status,
    joined,
    read_response,
)
from harness.api.table import wire
from harness.core.clock import NS_PER_S, now_ns
from harness.core.errors import PreflightError, ServerError
from harness.core.network import NONE, Network, reachable
from harness.core.records import AS_IT_IS, Api, BodyForm, Endpoint, Outcome

_NOT_FOR_COUNTING: Final = frozenset({"stream_options", "min_tokens", "ignore_eos", "tool_choice"})
_TOO_LONG: Final = (
    "maximum context",
    "max_model_len",
    "context length",
    "longer than the maximum",
    "maximum model length",
)
_SEE_LOG: Final = "see the server's log for the reason"

DIRECT: Final = Network(proxy=NONE)
"""How to reach servers that the harness starts."""


def client_options(url: str, network: Network) -> dict[str, Any]:
    """Arguments for httpx that route a request to `url` as traffic is routed, and add its headers.

    Raises:
        PreflightError: a proxy, a certificate file or a header cannot be used.
    """
    options: dict[str, Any] = {"trust_env": False}  # httpx sends loopback requests to proxies too
    if headers := network.sent_headers():
        options["auth"] = _with_headers(headers)
    verify = network.tls_context() if url.startswith("https:") else True
    client_proxy = None
    if (proxy := network.proxy_for(url)) is not None:
        key = proxy.authorization
        headers = {} if key is None else {"proxy-authorization": key}
        client_proxy = httpx.Proxy(f"http://{proxy.url_host}:{proxy.port}", headers=headers)
    transport = httpx.HTTPTransport(verify=verify, trust_env=False, proxy=client_proxy)
    if client_proxy is None:  # httpx cannot be given another way to try all addresses of a name
        transport._pool._network_backend = _Connects()
    return options | {"transport": _Bounded(transport)}


@dataclass(frozen=True, slots=True)
class _Bounded(httpx.BaseTransport):
    """Reads each response to its end, within bounds: of bytes, also decompressed, and of time. The
    timeout of a read limits the whole body, too.
    """

    inner: httpx.HTTPTransport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        limit_s = request.extensions.get("timeout", {}).get("read")
        deadline_ns = None if limit_s is None else now_ns() + round(limit_s * NS_PER_S)
        response = self.inner.handle_request(request)
        try:
            body = joined(_until(deadline_ns, response.iter_raw()))
            encoding = encoding_of(response.headers)
            if encoding is not None and request.method == "GET":  # of a POST, the reader does it
                body = b"".join(decompressed([body], encoding))
                del response.headers["content-encoding"]
        except (TooLongError, CompressedError) as error:
            raise httpx.DecodingError(str(error), request=request) from error
        finally:
            response.close()
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=httpx.ByteStream(body),
            extensions=response.extensions,
        )

    def close(self) -> None:
        self.inner.close()


def _until(deadline_ns: int | None, pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        if deadline_ns is not None and now_ns() > deadline_ns:
            raise httpx.ReadTimeout("the response did not end in time")


class _Connects(httpcore.SyncBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,  # noqa: ANN401 - of httpcore
    ) -> httpcore.NetworkStream:
        try:
            chosen = reachable(host, port, timeout)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        return super().connect_tcp(chosen, port, timeout, local_address, socket_options)


def _with_headers(headers: Mapping[str, str]) -> Callable[[httpx.Request], httpx.Request]:
    def add(request: httpx.Request) -> httpx.Request:
        request.headers.update(headers)
        return request

    return add


@dataclass(frozen=True, slots=True)
class Reply:
    """Result of one request. None is unknown.

    Attributes:
        status: HTTP status, or None if there was no response.
        error: text of the server or the network if it failed.
        input_tok: the whole prompt, including cached tokens.
        stop_reason: `end_turn`, `max_tokens`, `tool_use` (Messages), `stop`, `length`, `tool_calls`
            (chat and completions), or `completed`, `max_output_tokens` (responses).
        received: the response itself.
        location: where a redirect points to; it is not followed.
    """

    status: int | None
    error: str | None = None
    input_tok: int | None = None
    cache_read_tok: int | None = None
    output_tok: int | None = None
    stop_reason: str | None = None
    received: Received | None = None
    location: str | None = None

    @property
    def ok(self) -> bool:
        return good_status(self.status) and self.error is None


def request_once(
    endpoint: Endpoint,
    api: Api,
    body: bytes,
    api_key: str | None = None,
    *,
    timeout_s: float = 300.0,
    network: Network = DIRECT,
) -> Reply:
    """Send one body, streaming or not, and read the complete response.

    Never raises for server or network failures: those are in the reply.
    """
    wire_api = wire(api)
    url = endpoint.base_url + wire_api.path
    try:
        with httpx.Client(timeout=timeout_s, **client_options(url, network)) as client:
            return reply_of(wire_api, *post(client, url, wire_api, body, api_key), body)
    except httpx.HTTPError as error:
        return Reply(None, error=f"{type(error).__name__}: {error}".removesuffix(": "))


def post(
    client: httpx.Client, url: str, api: WireApi, body: bytes, api_key: str | None
) -> tuple[httpx.Response, bytes]:
    """Send one body with the headers of the load; the response and its body as received.

    Raises:
        httpx.HTTPError: no complete response.
    """
    headers = api.headers(api_key) | {"accept-encoding": "identity", "accept": api.stream_type}
    with client.stream("POST", url, content=body, headers=headers) as response:
        return response, b"".join(response.iter_raw())


def reply_of(api: WireApi, response: httpx.Response, content: bytes, request: bytes) -> Reply:
    """A response as the load reads it; the request shows whether it is to be a stream."""
    status = response.status_code
    headers = {name.lower(): value for name, value in response.headers.items()}
    received = read_response(api, status, headers, content, streams=_streams(request))
    usage = received.reader.settled()
    location = response.headers.get("location") if response.has_redirect_location else None
    if location is not None:
        location = str(response.url.join(location))
    error = received.error
    if received.outcome is Outcome.HTTP_ERROR and not content:
        error = "an empty body"
    return Reply(
        status,
        error if location is None else f"redirected to {location}",
        usage.input_tok,
        usage.cache_read_tok,
        usage.output_tok,
        received.reader.stop_reason,
        received,
        location,
    )


def _streams(request: bytes) -> bool:
    try:
        value = json.loads(request)
    except ValueError:
        return False
    return isinstance(value, dict) and value.get("stream") is True


def one_token_body(
    model: str, api: Api, form: BodyForm = AS_IT_IS, temperature: float | None = None
) -> bytes:
    """The smallest real request of an API: a few words in, one token out (responses: 16), not
    streamed.
    """
    body = wire(api).plain_request(model, "Say hello.", 1, temperature)
    return json.dumps(form.adapt(body)).encode()


_BODY_KEYS: Final = {
    "max_tokens": "set traffic.length_key: max_completion_tokens",
    "continuous_usage_stats": (
        "set traffic.omit: [stream_options.continuous_usage_stats], or [stream_options]"
    ),
    "stream_options": "set traffic.omit: [stream_options]",
    "temperature": "set traffic.omit: [temperature], or traffic.temperature to a valid value",
    "min_tokens": "set traffic.omit: [min_tokens]",
    "ignore_eos": "set traffic.omit: [ignore_eos]",
}


def body_key_step(reply: Reply, api: Api) -> str | None:
    """The profile's key that keeps a refused key out of request bodies."""
    text = reply.error or ""
    if reply.status not in (400, 422) or any(
        words in text.lower() for words in (*_TOO_LONG, "too large")
    ):
        return None
    renamed = "max_completion_tokens" in wire(api).length_keys
    steps = (step for key, step in _BODY_KEYS.items() if key in text)
    return next((step for step in steps if renamed or "length_key" not in step), None)


def check_request(
    endpoint: Endpoint,
    api: Api,
    body: bytes,
    api_key: str | None = None,
    *,
    timeout_s: float = 300.0,
    network: Network = DIRECT,
) -> Reply:
    """Send one request of the workload, and if it carries tools check that the model sees them.
    `timeout_s` limits each of the requests.

    Raises:
        ServerError: there was no response.
        PreflightError: the server refused the request (the missing setting is named if it is
            known), or its chat template drops tools.
    """
    reply = request_once(endpoint, api, body, api_key, timeout_s=timeout_s, network=network)
    if not reply.ok:
        raise _refused(endpoint, api, body, reply)
    tools = _tools_in(body)
    if not tools:
        return reply

    def prompt_tok(dropped: frozenset[str]) -> int | None:
        """Input tokens of the body with one token of output, without the dropped keys."""
        value = json.loads(body) | {"stream": False}
        least = next(iter(wire(api).length(1).values()))
        value |= {key: least for key in wire(api).length_keys if key in value}
        short = json.dumps({key: item for key, item in value.items() if key not in dropped})
        return request_once(
            endpoint, api, short.encode(), api_key, timeout_s=timeout_s, network=network
        ).input_tok

    with_tools = prompt_tok(_NOT_FOR_COUNTING)
    without = prompt_tok(_NOT_FOR_COUNTING | {"tools"})
    if with_tools is not None and with_tools == without:
        raise PreflightError(
            f"the server counts {with_tools} input tokens with and without the request's {tools}"
            " tools: the model does not see them",
            cause="the model's chat template drops tools silently",
            next_step=(
                "use a template that renders tools (vLLM: server.extra_args: ['--chat-template',"
                " FILE]), a model whose template does, or a workload without tools"
            ),
        )
    return reply


def _tools_in(body: bytes) -> int:
    try:
        value = json.loads(body)
    except ValueError:
        return 0
    return len(value.get("tools") or ()) if isinstance(value, dict) else 0


def _refused(
    endpoint: Endpoint, api: Api, body: bytes, reply: Reply
) -> ServerError | PreflightError:
    text = reply.error or ""
    route = f"{endpoint.base_url}{wire(api).path}"
    if reply.status is None:
        return ServerError(
            f"no response from {route}: {text}",
            next_step="check that the server is running, and see its log",
        )
    if good_status(reply.status):
        return ServerError(f"{route} failed while responding: {text}", next_step=_SEE_LOG)
    what = f"{route} refused a request of the workload: HTTP {reply.status}: {text}"
    if reply.status >= 500:
        return ServerError(
            what, cause="the server failed, rather than the request", next_step=_SEE_LOG
        )
    if (step := body_key_step(reply, api)) is not None:
        return PreflightError(what, cause="the server does not accept this key", next_step=step)
    cause, next_step = _why_refused(endpoint, api, body, reply.status, text.lower())
    return PreflightError(what, cause=cause, next_step=next_step)


def _why_refused(
    endpoint: Endpoint, api: Api, body: bytes, status: int, text: str
) -> tuple[str | None, str]:
    if "enable-auto-tool-choice" in text or ("tool" in text and "parser" in text):
        return (
            "vLLM serves tools only with --enable-auto-tool-choice and --tool-call-parser",
            "set server.tool_call_parser, or start an attached server with both flags",
        )
    if status in (401, 403):
        return ("the API key is missing or wrong", "set server.api_key_env or server.api_key_file")
    if status == 404 and "model" in text:
        return (
            f"the server does not serve {endpoint.model!r}",
            "set model.served_name to a name that it serves",
        )
    if status in (404, 405):
        other = "chat" if api is Api.MESSAGES else "messages"
        return (
            "the server has no such route",
            f"set traffic.api: {other}, or use a server that has the route",
        )
    if any(words in text for words in _TOO_LONG):
        return (
            "the request is longer than the context that the server was started with",
            "raise model.max_context_tok if the model supports it, or lower traffic.context_scale",
        )
    if _tools_in(body) and "tool" in text:
        return (
            "the server cannot handle the request's tools",
            "see the server's log; try without tools",
        )
    return None, _SEE_LOG
