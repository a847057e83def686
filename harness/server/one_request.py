"""Single real requests outside Locust, for readiness and `harness check`."""

import json
from dataclasses import dataclass
from typing import Any, Final

import httpx

from harness.api.base import WireApi
from harness.api.errors import error_text
from harness.api.table import wire
from harness.core.errors import PreflightError, ServerError
from harness.core.network import NONE, Network
from harness.core.records import Api, Endpoint

_NOT_FOR_COUNTING: Final = frozenset(
    {"stream_options", "min_tokens", "ignore_eos", "max_completion_tokens", "tool_choice"}
)
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
    """Arguments for httpx that route a request to `url` as traffic is routed.

    Raises:
        PreflightError: a proxy or a certificate file cannot be used.
    """
    options: dict[str, Any] = {"trust_env": False}  # httpx sends loopback requests to proxies too
    if url.startswith("https:"):
        options["verify"] = network.tls_context()
    if (proxy := network.proxy_for(url)) is not None:
        key = proxy.authorization
        headers = {} if key is None else {"proxy-authorization": key}
        options["proxy"] = httpx.Proxy(f"http://{proxy.url_host}:{proxy.port}", headers=headers)
    return options


@dataclass(frozen=True, slots=True)
class Reply:
    """Result of one request. None is unknown.

    Attributes:
        status: HTTP status, or None if there was no response.
        error: text of the server or the network if it failed.
        input_tok: the whole prompt, including cached tokens.
        stop_reason: `end_turn`, `max_tokens`, `tool_use` (Messages), `stop`, `length`, `tool_calls`
            (chat and completions), or `completed`, `max_output_tokens` (responses).
        location: where a redirect points to; it is not followed.
    """

    status: int | None
    error: str | None = None
    input_tok: int | None = None
    cache_read_tok: int | None = None
    output_tok: int | None = None
    stop_reason: str | None = None
    location: str | None = None

    @property
    def ok(self) -> bool:
        return self.status == 200 and self.error is None


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
        response = httpx.post(
            url,
            content=body,
            headers=wire_api.headers(api_key),
            timeout=timeout_s,
            **client_options(url, network),
        )
    except httpx.HTTPError as error:
        return Reply(None, error=f"{type(error).__name__}: {error}".removesuffix(": "))
    if response.has_redirect_location:
        at = str(response.url.join(response.headers["location"]))
        return Reply(response.status_code, f"redirected to {at}", location=at)
    if response.status_code != 200:
        return Reply(response.status_code, error=error_text(response.content) or "an empty body")
    return _read(wire_api, response)


def _read(api: WireApi, response: httpx.Response) -> Reply:
    reader = api.reader()
    if response.headers.get("content-type", "").startswith(api.stream_type):
        for event, _ in api.events(response.content, whole=True):
            reader.read(event)
    else:
        reader.read_whole(response.content)
    usage = reader.tokens()
    return Reply(
        200,
        reader.error or reader.malformed,
        usage.input_tok,
        usage.cache_read_tok,
        usage.output_tok,
        reader.stop_reason,
    )


def one_token_body(model: str, api: Api) -> bytes:
    """The smallest real request of an API: a few words in, one token out (responses: 16), not
    streamed.
    """
    return json.dumps(wire(api).plain_request(model, "Say hello.", 1)).encode()


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
        value = json.loads(body) | wire(api).length(1) | {"stream": False}
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
    if reply.status == 200:
        return ServerError(f"{route} failed within its response: {text}", next_step=_SEE_LOG)
    what = f"{route} refused a request of the workload: HTTP {reply.status}: {text}"
    if reply.status >= 500:
        return ServerError(
            what, cause="the server failed, rather than the request", next_step=_SEE_LOG
        )
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
