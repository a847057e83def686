"""One real request at a time, outside Locust: for readiness and for `harness check`."""

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

DIRECT: Final = Network(proxy=NONE)
"""The way to servers that the harness starts."""


def client_options(url: str, network: Network) -> dict[str, Any]:
    """Arguments for httpx that take a request to `url` the way that traffic takes.

    Raises:
        PreflightError: a proxy or a file of certificates cannot be used.
    """
    options: dict[str, Any] = {"trust_env": False}  # httpx sends loopback requests to proxies too
    if url.startswith("https:"):
        options["verify"] = network.tls_context()
    proxy = network.proxy_for(url)
    if proxy is not None:
        headers = (
            {} if proxy.authorization is None else {"proxy-authorization": proxy.authorization}
        )
        options["proxy"] = httpx.Proxy(f"http://{proxy.url_host}:{proxy.port}", headers=headers)
    return options


@dataclass(frozen=True, slots=True)
class Reply:
    """What one request came to. None is unknown.

    Attributes:
        status: HTTP status, or None when there was no response.
        error: the server's or the network's words when it failed.
        input_tok: the whole prompt, cached tokens included.
        cache_read_tok: of these, read from a prefix cache.
        output_tok: tokens that were produced.
        stop_reason: `end_turn`, `max_tokens`, `tool_use` (Messages), `stop`, `length`, `tool_calls`
            (chat and completions), or `completed`, `max_output_tokens` (responses).
    """

    status: int | None
    error: str | None = None
    input_tok: int | None = None
    cache_read_tok: int | None = None
    output_tok: int | None = None
    stop_reason: str | None = None

    @property
    def ok(self) -> bool:
        """Answered with 200 and without an error in the stream."""
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
    """Send one body, streaming or not, and read the whole answer.

    Never raises for what the server or the network does: that is in the reply.
    """
    spoken = wire(api)
    url = endpoint.base_url + spoken.path
    try:
        response = httpx.post(
            url,
            content=body,
            headers=spoken.headers(api_key),
            timeout=timeout_s,
            **client_options(url, network),
        )
    except httpx.HTTPError as error:
        return Reply(
            None, error=f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        )
    if response.status_code != 200:
        return Reply(response.status_code, error=error_text(response.content) or "an empty body")
    return _read(spoken, response)


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
    """The smallest real request of an API: a few words in, one token out (responses: 16), no
    stream.
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
    """Send one request of the workload, and where it carries tools see to it that the model is
    shown them.

    Args:
        endpoint: a server that is ready.
        api: the API of the body.
        body: a whole request as traffic would send it.
        api_key: the key, if the server wants one.
        timeout_s: limit of each of the two requests.
        network: the way to the server.

    Raises:
        ServerError: there was no answer.
        PreflightError: the server refused the request (the missing setting is named where it is
            known), or its chat template drops tools.
    """
    reply = request_once(endpoint, api, body, api_key, timeout_s=timeout_s, network=network)
    if not reply.ok:
        raise _refused(endpoint, api, body, reply)
    tools = _tools_in(body)
    if not tools:
        return reply
    with_tools, without = (
        _prompt_tok(endpoint, api, body, api_key, True, timeout_s, network),
        _prompt_tok(endpoint, api, body, api_key, False, timeout_s, network),
    )
    if with_tools is not None and with_tools == without:
        raise PreflightError(
            f"the server counts {with_tools} input tokens with and without the request's {tools}"
            " tools: the model is not shown them",
            cause="the model's chat template drops tools silently",
            next_step=(
                "give a template that renders tools (vLLM: server.extra_args: ['--chat-template',"
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


def _prompt_tok(
    endpoint: Endpoint,
    api: Api,
    body: bytes,
    api_key: str | None,
    tools: bool,
    timeout_s: float,
    network: Network,
) -> int | None:
    """Input tokens of the body with one token of output, with or without its tools."""
    value = json.loads(body) | wire(api).length(1) | {"stream": False}
    dropped = {
        "stream_options",
        "min_tokens",
        "ignore_eos",
        "max_completion_tokens",
        "tool_choice",
    } | (set() if tools else {"tools"})
    shortened = json.dumps(
        {key: item for key, item in value.items() if key not in dropped}
    ).encode()
    return request_once(
        endpoint, api, shortened, api_key, timeout_s=timeout_s, network=network
    ).input_tok


def _refused(
    endpoint: Endpoint, api: Api, body: bytes, reply: Reply
) -> ServerError | PreflightError:
    text = reply.error or ""
    route = f"{endpoint.base_url}{wire(api).path}"
    if reply.status is None:
        return ServerError(
            f"no answer from {route}: {text}",
            next_step="check that the server is up and look at its log",
        )
    if reply.status == 200:
        return ServerError(
            f"{route} began to answer and broke off with an error: {text}",
            next_step="see the server's log for its reason",
        )
    what = f"{route} refused a request of the workload: HTTP {reply.status}: {text}"
    if reply.status >= 500:
        return ServerError(
            what,
            cause="the server failed, rather than the request",
            next_step="see the server's log for its reason",
        )
    low = text.lower()
    if (
        "tool-call-parser" in low
        or "enable-auto-tool-choice" in low
        or ("tool" in low and "parser" in low)
    ):
        return PreflightError(
            what,
            cause=(
                "the request carries tools, and vLLM serves them only with"
                " --enable-auto-tool-choice and --tool-call-parser"
            ),
            next_step=(
                "set server.tool_call_parser for a server that the harness starts; start an"
                " attached one with both flags"
            ),
        )
    if reply.status in (401, 403):
        return PreflightError(
            what,
            cause="the API key is missing or wrong",
            next_step="set server.api_key_env or server.api_key_file",
        )
    if reply.status == 404 and "model" in low:
        return PreflightError(
            what,
            cause=f"the server does not serve {endpoint.model!r}",
            next_step="set model.served_name to a name that it serves",
        )
    if reply.status in (404, 405):
        other = "chat" if api is Api.MESSAGES else "messages"
        return PreflightError(
            what,
            cause="the server has no such route",
            next_step=f"set traffic.api: {other}, or use a server that has the route",
        )
    if any(
        words in low
        for words in (
            "maximum context",
            "max_model_len",
            "context length",
            "longer than the maximum",
            "maximum model length",
        )
    ):
        return PreflightError(
            what,
            cause="the request is longer than the context that the server was started with",
            next_step=(
                "raise model.max_context_tok if the model takes it, or lower traffic.context_scale"
            ),
        )
    if _tools_in(body) and "tool" in low:
        return PreflightError(
            what,
            cause="the server cannot handle the request's tools",
            next_step="see the server's log; try without tools",
        )
    return PreflightError(what, next_step="see the server's log for its reason")
