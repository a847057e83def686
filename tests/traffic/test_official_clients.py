"""The reader against the official `anthropic` and `openai` clients: same blocks, same errors, same
waits, on recorded and live streams.

Texts and usage of the recorded streams are compared in test_answer.py.
"""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from harness.api.parts import ContentPart
from harness.api.table import wire
from harness.core.records import Api, Outcome
from harness.reference_server.server import MODEL, Pace, PacedServer
from harness.traffic._locust.answer import Answer, EndOfStream, read_answer
from harness.traffic._locust.http1 import Framing

Wire = Callable[[httpx2.Request], httpx2.Response]


def ours(wire: bytes, api: Api) -> Answer:
    """The record of a response, with its blocks and text."""
    framing = Framing()
    framing.add(wire, 0)
    framing.end_of_file()
    answer = read_answer(framing, api, EndOfStream.COMPLETE, keep_parts=True)
    answer.text = read_answer(framing, api, EndOfStream.COMPLETE, keep_text=True).text
    return answer


def http(
    status: str, body: bytes, content_type: str, headers: dict[str, str] | None = None
) -> tuple[bytes, Wire]:
    """A response as bytes for the reader, and as what the official clients' transport gives."""
    fields = {"content-type": content_type, "content-length": str(len(body)), **(headers or {})}
    head = (
        f"HTTP/1.1 {status}\r\n"
        + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        + "\r\n"
    )
    return head.encode() + body, lambda _request: httpx2.Response(
        int(status.split()[0]), headers=fields, content=body
    )


@contextmanager
def claude(wire: Wire) -> Iterator[Any]:
    import anthropic

    with httpx2.Client(transport=httpx2.MockTransport(wire)) as http_client:
        yield anthropic.Anthropic(
            api_key="k", base_url="http://x", http_client=http_client, max_retries=0
        )


@contextmanager
def gpt(wire: Wire) -> Iterator[Any]:
    import openai

    with httpx2.Client(transport=httpx2.MockTransport(wire)) as http_client:
        yield openai.OpenAI(
            api_key="k", base_url="http://x/v1", http_client=http_client, max_retries=0
        )


MESSAGE: Any = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}


def ask(api: Api, wire: Wire) -> None:
    """Ask an official client for a stream and read it to its end."""
    if api is Api.MESSAGES:
        with claude(wire) as client:
            for _ in client.messages.create(**MESSAGE, stream=True):
                pass
        return
    with gpt(wire) as client:
        stream: Any
        match api:
            case Api.CHAT:
                stream = client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "x"}], stream=True
                )
            case Api.COMPLETIONS:
                stream = client.completions.create(model="m", prompt="x", stream=True)
            case _:
                stream = client.responses.create(model="m", input="x", stream=True)
        for _ in stream:
            pass


# --- blocks ---


@pytest.mark.parametrize("name", ["messages-anthropic", "messages-vllm"])
def test_blocks_are_those_of_the_anthropic_client(
    streams: dict[str, tuple[Api, bytes]], name: str
) -> None:
    """Thinking with its signature, text, and a call whose input came in pieces of JSON."""
    sent, wire = http("200 OK", streams[name][1], "text/event-stream")
    with claude(wire) as client, client.messages.stream(**MESSAGE) as stream:
        message = stream.get_final_message()

    def theirs(block: Any) -> tuple[Any, ...]:
        match block.type:
            case "thinking":
                return "thinking", block.thinking, block.signature
            case "tool_use":
                return "tool_use", block.input, block.id, block.name
            case _:
                return block.type, block.text

    def same(one: ContentPart) -> tuple[Any, ...]:
        match one.kind.value:
            case "thinking":
                return "thinking", one.text, one.signature
            case "tool_use":
                return "tool_use", json.loads(one.text), one.tool_id, one.tool_name
            case kind:
                return kind, one.text

    assert [same(one) for one in ours(sent, Api.MESSAGES).parts] == [
        theirs(block) for block in message.content
    ]


def test_calls_are_those_of_the_openai_client(streams: dict[str, tuple[Api, bytes]]) -> None:
    sent, wire = http("200 OK", streams["chat-tools"][1], "text/event-stream")
    calls: dict[int, list[str]] = {}
    with gpt(wire) as client:
        for chunk in client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "x"}], stream=True
        ):
            for choice in chunk.choices:
                for call in choice.delta.tool_calls or ():
                    kept = calls.setdefault(call.index, ["", "", ""])
                    assert call.function is not None
                    for place, text in enumerate(
                        (call.id, call.function.name, call.function.arguments)
                    ):
                        kept[place] += text or ""
    found = [one for one in ours(sent, Api.CHAT).parts if one.kind == "tool_use"]
    assert [[one.tool_id, one.tool_name, one.text] for one in found] == list(calls.values())


def test_two_calls_in_one_answer_stay_apart() -> None:
    pieces: list[dict[str, Any]] = [
        {
            "index": 0,
            "id": "a",
            "type": "function",
            "function": {"name": "Read", "arguments": '{"p"'},
        },
        {"index": 0, "function": {"arguments": ": 1"}},
        {"index": 0, "function": {"arguments": "}"}},
        {"index": 1, "id": "b", "type": "function", "function": {"name": "Grep", "arguments": ""}},
        {"index": 1, "function": {"arguments": "{}"}},
    ]
    body = b"".join(
        b"data: "
        + json.dumps({"choices": [{"index": 0, "delta": {"tool_calls": [one]}}]}).encode()
        + b"\n\n"
        for one in pieces
    )
    for _ in range(2):
        found = ours(
            http("200 OK", body + b"data: [DONE]\n\n", "text/event-stream")[0], Api.CHAT
        ).parts
        assert [(one.tool_id, one.tool_name, one.text) for one in found] == [
            ("a", "Read", '{"p": 1}'),
            ("b", "Grep", "{}"),
        ]


@pytest.mark.parametrize("name", ["responses-openai", "responses-vllm"])
def test_items_are_those_of_the_openai_client(
    streams: dict[str, tuple[Api, bytes]], name: str
) -> None:
    sent, wire = http("200 OK", streams[name][1], "text/event-stream")
    theirs: list[tuple[str, ...]] = []
    with gpt(wire) as client:
        for event in client.responses.create(model="m", input="x", stream=True):
            if event.type == "response.output_item.done":
                item = event.item
                if item.type == "function_call":
                    theirs.append(("tool_use", item.arguments, item.call_id, item.name))
                elif item.type == "message":
                    theirs.append(
                        (
                            "text",
                            "".join(getattr(part, "text", "") for part in item.content),
                            "",
                            "",
                        )
                    )
                elif item.type == "reasoning":
                    theirs.append(
                        (
                            "thinking",
                            "".join(part.text for part in (*item.summary, *(item.content or ()))),
                            "",
                            "",
                        )
                    )
    assert [
        (one.kind.value, one.text, one.tool_id, one.tool_name)
        for one in ours(sent, Api.RESPONSES).parts
    ] == theirs


# --- errors ---

BEFORE = {
    Api.MESSAGES: ("messages-anthropic", b"event: message_delta"),
    Api.CHAT: ("chat-tools", b"data: [DONE]"),
    Api.COMPLETIONS: ("completions-plain", b"data: [DONE]"),
    Api.RESPONSES: ("responses-openai", b"event: response.completed"),
}
OVERLOADED = {"type": "overloaded_error", "message": "Overloaded"}
MID_STREAM = {
    Api.MESSAGES: (
        b"event: error\ndata: "
        + json.dumps({"type": "error", "error": OVERLOADED}).encode()
        + b"\n\n"
    ),
    Api.CHAT: b"data: " + json.dumps({"error": OVERLOADED}).encode() + b"\n\n",
    Api.COMPLETIONS: b"data: " + json.dumps({"error": OVERLOADED}).encode() + b"\n\n",
    Api.RESPONSES: (
        b"event: error\ndata: "
        + json.dumps({"type": "error", "error": OVERLOADED}).encode()
        + b"\n\n"
    ),
}


@pytest.mark.parametrize("api", list(Api))
def test_an_error_in_mid_stream_is_an_error_to_both(
    streams: dict[str, tuple[Api, bytes]], api: Api
) -> None:
    import anthropic
    import openai

    name, end = BEFORE[api]
    body = streams[name][1]
    sent, wire = http("200 OK", body[: body.index(end)] + MID_STREAM[api], "text/event-stream")
    with pytest.raises((anthropic.APIError, openai.APIError)) as caught:
        ask(api, wire)
    answer = ours(sent, api)
    assert (answer.outcome, answer.error) == (Outcome.API_ERROR, "overloaded_error: Overloaded")
    assert "Overloaded" in str(caught.value)
    assert answer.first_token_ns is not None


@pytest.mark.parametrize("api", list(Api))
@pytest.mark.parametrize(
    ("status", "headers", "wait_s", "error"),
    [
        ("429 Too Many Requests", {"retry-after": "7"}, 7.0, "RateLimitError"),
        (
            "429 Too Many Requests",
            {"retry-after-ms": "1500", "retry-after": "9"},
            1.5,
            "RateLimitError",
        ),
        ("529 Site Overloaded", {"retry-after": "2.5"}, 2.5, None),
        ("503 Service Unavailable", {}, None, None),
        ("400 Bad Request", {}, None, "BadRequestError"),
    ],
)
def test_a_refusal_has_the_status_the_words_and_the_wait_that_the_clients_find(
    api: Api, status: str, headers: dict[str, str], wait_s: float | None, error: str | None
) -> None:
    import anthropic
    import openai

    body = json.dumps(
        {"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}
    ).encode()
    sent, wire = http(status, body, "application/json", headers)
    with pytest.raises((anthropic.APIStatusError, openai.APIStatusError)) as caught:
        ask(api, wire)
    answer = ours(sent, api)
    assert error in (None, type(caught.value).__name__)
    assert answer.http_status == caught.value.status_code
    assert (answer.outcome, answer.error, answer.retry_after_s) == (
        Outcome.HTTP_ERROR,
        "rate_limit_error: slow down",
        wait_s,
    )
    client: Any = (
        anthropic.Anthropic(api_key="k") if api is Api.MESSAGES else openai.OpenAI(api_key="k")
    )
    assert client._parse_retry_after_header(httpx2.Headers(headers)) == wait_s
    client.close()


# --- live ---


@pytest.fixture(scope="module")
def paced() -> Iterator[PacedServer]:
    with PacedServer(Pace(ttft_ms=1, gap_ms=1)) as server:
        yield server


def raw(server: PacedServer, api: Api, fields: dict[str, Any]) -> bytes:
    """Everything that a server answers to one request."""
    body = json.dumps(fields).encode()
    parts = urlsplit(server.url)
    head = (
        f"POST {wire(api).path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length:"
        f" {len(body)}\r\n\r\n"
    )
    framing, got = Framing(), b""
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as connection:
        connection.settimeout(10)
        connection.sendall(head.encode() + body)
        while data := connection.recv(65536):
            got += data
            if framing.add(data, 0):
                break
    return got


@pytest.mark.parametrize("api", list(Api))
def test_a_live_stream_says_the_same_to_both(paced: PacedServer, api: Api) -> None:
    import anthropic
    import openai

    said, counts = "", None
    if api is Api.MESSAGES:
        fields: dict[str, Any] = {**MESSAGE, "model": MODEL, "max_tokens": 40, "stream": True}
        with (
            anthropic.Anthropic(api_key="k", base_url=paced.url, max_retries=0) as client,
            client.messages.stream(
                model=MODEL, max_tokens=40, messages=MESSAGE["messages"]
            ) as stream,
        ):
            said = "".join(stream.text_stream)
            counts = stream.get_final_message().usage.output_tokens
    else:
        with openai.OpenAI(api_key="k", base_url=f"{paced.url}/v1", max_retries=0) as client:
            options: Any = {"include_usage": True}
            if api is Api.CHAT:
                fields = {
                    "model": MODEL,
                    "messages": MESSAGE["messages"],
                    "max_tokens": 40,
                    "stream": True,
                    "stream_options": options,
                }
                for chunk in client.chat.completions.create(**fields):
                    said += "".join(choice.delta.content or "" for choice in chunk.choices)
                    counts = chunk.usage.completion_tokens if chunk.usage else counts
            elif api is Api.COMPLETIONS:
                fields = {
                    "model": MODEL,
                    "prompt": "x",
                    "max_tokens": 40,
                    "stream": True,
                    "stream_options": options,
                }
                for part in client.completions.create(**fields):
                    said += "".join(choice.text for choice in part.choices)
                    counts = part.usage.completion_tokens if part.usage else counts
            else:
                fields = {"model": MODEL, "input": "x", "max_output_tokens": 40, "stream": True}
                for event in client.responses.create(**fields):
                    said += event.delta if event.type == "response.output_text.delta" else ""
                    if event.type in ("response.completed", "response.incomplete"):
                        counts = event.response.usage.output_tokens
    answer = ours(raw(paced, api, fields), api)
    assert (answer.outcome, answer.text, answer.output_tok) == (Outcome.OK, said, counts)
    assert counts == 40
