"""One real request, its answer in both APIs, and what a refusal means."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx
import pytest

from harness.api.errors import error_text
from harness.api.table import wire
from harness.core.errors import HarnessError, PreflightError, ServerError
from harness.core.network import Network
from harness.core.records import Api, Endpoint, ModelFacts
from harness.profile.schema import Profile
from harness.reference_server.faults import Fault
from harness.reference_server.server import MODEL, Pace, PacedServer
from harness.server.attach import AttachServerRunner
from harness.server.base import Needs, RunContext
from harness.server.one_request import (
    check_request,
    one_token_body,
    reply_of,
    request_once,
)
from harness.server.select import choose_server

REPLIES = Path(__file__).with_name("fixtures") / "vllm-replies"
TOOLS = [{"name": "read_file", "description": "Reads a file", "input_schema": {"type": "object"}}]


def body(*, tools: bool = False, stream: bool = True, model: str = "builtin:tiny") -> bytes:
    made = {
        "model": model,
        "max_tokens": 3,
        "stream": stream,
        "messages": [{"role": "user", "content": "one two three"}],
    }
    return json.dumps(made | ({"tools": TOOLS} if tools else {})).encode()


@pytest.fixture
def endpoint(
    profile: Callable[..., Profile], facts: ModelFacts, fake_python: str, context: RunContext
) -> Iterator[Callable[..., Endpoint]]:
    """Starts a server and gives its endpoint."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(fault: str = "", *, tools: bool = False, **settings: object) -> Endpoint:
            server = {
                "kind": "vllm",
                "python": fake_python,
                "device": "cpu",
                "env": {"FAKE_FAULT": fault},
            } | settings
            chosen = choose_server(profile(server), facts, needs=Needs(tools=tools)).server
            return stack.enter_context(chosen.start(context)).endpoints[0]

        yield start


@pytest.mark.parametrize(
    ("api", "stream"), [(Api.MESSAGES, True), (Api.MESSAGES, False), (Api.CHAT, False)]
)
def test_usage_is_read_from_streams_and_documents(
    endpoint: Callable[..., Endpoint], api: Api, stream: bool
) -> None:
    reply = request_once(endpoint(), api, body(stream=stream))
    assert reply.ok
    assert (reply.input_tok, reply.cache_read_tok, reply.output_tok) == (6, 2, 3)
    assert reply.stop_reason == ("length" if api is Api.CHAT else "max_tokens")


@pytest.mark.parametrize("api", list(Api))
def test_every_api_is_asked_for_one_token_and_read(api: Api) -> None:
    with PacedServer(Pace(ttft_ms=1, gap_ms=0.1)) as server:
        at = Endpoint("replica-0", server.url, MODEL)
        short = one_token_body(MODEL, api)
        reply = request_once(at, api, short)
        streamed = request_once(at, api, json.dumps(json.loads(short) | {"stream": True}).encode())
    tokens = 16 if api is Api.RESPONSES else 1  # OpenAI's service answers no less on that route
    stop = {Api.MESSAGES: "max_tokens", Api.RESPONSES: "max_output_tokens"}.get(api, "length")
    assert reply.ok
    assert (
        (reply.output_tok, reply.stop_reason)
        == (tokens, stop)
        == (streamed.output_tok, streamed.stop_reason)
    )
    assert reply.input_tok == len(short) // 4


@pytest.mark.parametrize("api", list(Api))
def test_an_error_within_a_stream_is_read_in_every_api(api: Api) -> None:
    with PacedServer(Pace(ttft_ms=1, gap_ms=0.1, faults=(Fault.ERROR_EVENT,))) as server:
        reply = request_once(
            Endpoint("replica-0", server.url, MODEL), api, one_token_body(MODEL, api)
        )
    assert not reply.ok
    assert str(reply.error).endswith("Overloaded")


def test_a_request_takes_the_way_that_traffic_takes(
    foreign: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy here answers itself: that it was asked for the whole URL is what counts."""
    usage = {"prompt_tokens": 3, "completion_tokens": 1}
    proxy = foreign(
        {
            "http://models.example/v1/chat/completions": (
                200,
                {"choices": [{"finish_reason": "length"}], "usage": usage},
            )
        }
    )
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("http_proxy", proxy)
    far = Endpoint("replica-0", "http://models.example", "m")
    assert (
        request_once(far, Api.CHAT, one_token_body("m", Api.CHAT), network=Network()).input_tok == 3
    )
    assert (
        request_once(
            far, Api.CHAT, one_token_body("m", Api.CHAT), network=Network(proxy=proxy)
        ).input_tok
        == 3
    )
    assert (
        request_once(far, Api.CHAT, one_token_body("m", Api.CHAT)).status is None
    )  # straight, and the name resolves nowhere


def test_tools_that_are_shown_to_the_model_pass(endpoint: Callable[..., Endpoint]) -> None:
    reply = check_request(endpoint(tools=True), Api.MESSAGES, body(tools=True))
    assert reply.input_tok is not None
    assert reply.input_tok > 6


def test_the_missing_flag_for_tools_is_named(endpoint: Callable[..., Endpoint]) -> None:
    with pytest.raises(PreflightError) as caught:
        check_request(endpoint(tools=False), Api.MESSAGES, body(tools=True))
    assert "--tool-call-parser" in str(caught.value.cause)
    assert "server.tool_call_parser" in str(caught.value.next_step)


def test_a_template_that_drops_tools_is_found_by_counting(
    endpoint: Callable[..., Endpoint],
) -> None:
    with pytest.raises(PreflightError, match=r"\b6\b.*\b1\b"):
        check_request(endpoint("drops_tools", tools=True), Api.MESSAGES, body(tools=True))


def test_a_wrong_key_is_named(
    endpoint: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "right")
    at = endpoint(api_key_env="KEY")
    assert check_request(at, Api.MESSAGES, body(), "right").ok
    with pytest.raises(PreflightError, match="HTTP 401") as caught:
        check_request(at, Api.MESSAGES, body(), "wrong")
    assert "api_key_env" in str(caught.value.next_step)


def test_a_wrong_model_is_named(endpoint: Callable[..., Endpoint]) -> None:
    with pytest.raises(PreflightError, match="`other` does not exist") as caught:
        check_request(endpoint(), Api.MESSAGES, body(model="other"))
    assert "model.served_name" in str(caught.value.next_step)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("messages-tools-without-parser", "server.tool_call_parser"),
        ("messages-any-without-parser", "server.tool_call_parser"),
        ("messages-forced-without-parser", "server.tool_call_parser"),
        ("chat-tools-without-parser", "server.tool_call_parser"),
        ("messages-over-context", "model.max_context_tok"),
        ("messages-model-unknown", "model.served_name"),
    ],
)
def test_real_refusals_of_vllm_name_the_setting(
    foreign: Callable[..., str], name: str, step: str
) -> None:
    answer = json.loads((REPLIES / f"{name}.json").read_text())
    url = foreign(
        dict.fromkeys(
            ["/v1/messages", "/v1/chat/completions"], (404 if "unknown" in name else 400, answer)
        )
    )
    with pytest.raises(PreflightError) as caught:
        check_request(
            Endpoint("replica-0", url, "m"),
            Api.CHAT if "chat" in name else Api.MESSAGES,
            body(tools="tools" in name),
        )
    assert step in str(caught.value.next_step)


@pytest.mark.parametrize("status", [200, 500])
def test_a_server_that_fails_under_a_request_is_not_the_requests_fault(
    foreign: Callable[..., str], status: int
) -> None:
    url = foreign(
        {
            "/v1/messages": (
                status,
                {
                    "type": "error",
                    "error": {"type": "internal_error", "message": "EngineDeadError"},
                },
            )
        }
    )
    with pytest.raises(ServerError, match="EngineDeadError"):
        check_request(Endpoint("replica-0", url, "m"), Api.MESSAGES, body())


def test_a_stream_that_ends_in_an_error_is_an_error() -> None:
    response = httpx.Response(
        200,
        headers={"content-type": "text/event-stream"},
        content=(REPLIES / "messages-engine-killed.sse").read_bytes(),
    )
    reply = reply_of(wire(Api.MESSAGES), response, response.content, body())
    assert "validation errors" in str(reply.error)


def test_no_answer_is_a_server_error() -> None:
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:9"):
        check_request(Endpoint("replica-0", "http://127.0.0.1:9", "m"), Api.CHAT, body())


def test_both_apis_carry_the_key_in_headers_that_servers_read() -> None:
    assert wire(Api.CHAT).headers("k")["authorization"] == "Bearer k"
    assert wire(Api.MESSAGES).headers("k")["x-api-key"] == "k"
    assert "authorization" not in wire(Api.MESSAGES).headers(None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type":"error","error":{"type":"x","message":"m"}}', "x: m"),
        ('{"error":{"message":"m","code":400}}', "m"),
        ('{"detail":[{"loc":["body"]}]}', "[{'loc': ['body']}]"),
        ('{"message":"m"}', "m"),
        ("plain", "plain"),
        ("", None),
        ("{}", "{}"),
    ],
)
def test_the_message_inside_an_error_body(text: str, message: str | None) -> None:
    assert error_text(text.encode()) == message


# --- attaching to foreign servers ---


class Foreign(BaseHTTPRequestHandler):
    """A server without /health, /version or /metrics, with a model of its own name."""

    answers: ClassVar[dict[str, tuple[int, object]]] = {}

    def log_message(self, *args: object) -> None:
        pass

    def reply(self) -> None:
        status, value = self.answers.get(self.path, (404, {"error": "no route"}))
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.reply()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.reply()


@pytest.fixture
def foreign() -> Iterator[Callable[[dict[str, tuple[int, object]]], str]]:
    servers: list[ThreadingHTTPServer] = []

    def start(answers: dict[str, tuple[int, object]]) -> str:
        server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("One", (Foreign,), {"answers": answers})
        )
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def attach(profile: Profile) -> AttachServerRunner:
    found = choose_server(profile, ModelFacts(profile.model.id)).server
    assert isinstance(found, AttachServerRunner)
    return found


def attach_error(runner: AttachServerRunner, context: RunContext) -> HarnessError:
    with pytest.raises(HarnessError) as caught, runner.start(context):
        pass
    return caught.value


LISTS_M = {"/v1/models": (200, {"data": [{"id": "m"}]})}
CHATS = {
    "/v1/chat/completions": (
        200,
        {
            "choices": [{"finish_reason": "length"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1},
        },
    )
}


def test_a_foreign_server_is_taken_as_it_is(
    profile: Callable[..., Profile], foreign: Callable[..., str], context: RunContext
) -> None:
    url = foreign(LISTS_M | CHATS)
    with attach(profile({"kind": "attach", "urls": [url]}, api="chat")).start(context) as running:
        (endpoint,) = running.endpoints
        assert (endpoint.model, endpoint.metrics_url, endpoint.pid) == ("m", None, None)
        assert running.info.version is None
        assert running.info.settings["max_model_len"] is None


def test_of_two_models_none_is_guessed(
    profile: Callable[..., Profile], foreign: Callable[..., str], context: RunContext
) -> None:
    url = foreign({"/v1/models": (200, {"data": [{"id": "a"}, {"id": "b"}]})} | CHATS)
    error = attach_error(attach(profile({"kind": "attach", "urls": [url]}, api="chat")), context)
    assert "'a', 'b'" in error.what
    assert "model.served_name" in str(error.next_step)


def test_metrics_urls_of_the_profile_are_taken_without_asking(
    profile: Callable[..., Profile], foreign: Callable[..., str], context: RunContext
) -> None:
    url = foreign(LISTS_M | CHATS)
    with attach(
        profile({"kind": "attach", "urls": [url], "metrics_urls": ["http://x/m"]}, api="chat")
    ).start(context) as running:
        assert running.endpoints[0].metrics_url == "http://x/m"


def test_an_address_where_nothing_answers(
    profile: Callable[..., Profile], context: RunContext
) -> None:
    error = attach_error(
        attach(profile({"kind": "attach", "urls": ["http://127.0.0.1:9"]})), context
    )
    assert isinstance(error, PreflightError)
    assert "http://127.0.0.1:9" in error.what


def test_a_model_that_is_not_listed_is_decided_by_the_request(
    profile: Callable[..., Profile], foreign: Callable[..., str], context: RunContext
) -> None:
    runner = attach(
        profile(
            {"kind": "attach", "urls": [foreign(LISTS_M)]},
            model={"id": "m", "served_name": "other"},
        )
    )
    error = attach_error(runner, context)
    assert isinstance(error, ServerError)
    assert "HTTP 404" in error.what  # LISTS_M has no route for requests


def test_a_server_without_the_route_of_the_traffic(
    profile: Callable[..., Profile], foreign: Callable[..., str], context: RunContext
) -> None:
    error = attach_error(
        attach(profile({"kind": "attach", "urls": [foreign(LISTS_M | CHATS)]}, api="messages")),
        context,
    )
    assert "POST /v1/messages: HTTP 404" in error.what
    assert "traffic.api" in str(error.next_step)


def test_two_servers_have_to_serve_the_same_model(
    profile: Callable[..., Profile], foreign: Callable[..., str], context: RunContext
) -> None:
    urls = [
        foreign(LISTS_M | CHATS),
        foreign({"/v1/models": (200, {"data": [{"id": "n"}]})} | CHATS),
    ]
    assert (
        "m, n"
        in attach_error(attach(profile({"kind": "attach", "urls": urls}, api="chat")), context).what
    )


def test_a_server_that_stays_busy_is_given_up_at_the_deadline(
    profile: Callable[..., Profile], foreign: Callable[..., str], context: RunContext
) -> None:
    url = foreign({"/health": (503, {}), "/v1/models": (503, {})})
    error = attach_error(
        attach(profile({"kind": "attach", "urls": [url], "ready_timeout_s": 0.5})), context
    )
    assert "0.5 s" in error.what
    assert "HTTP 503" in error.what
