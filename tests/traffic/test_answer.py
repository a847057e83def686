"""Framing and answers: the same bytes give the same record, however they were cut; every way to end
has its outcome.
"""

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from email.utils import format_datetime
from typing import Any

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.api.table import wire
from harness.core.clock import wall_now
from harness.core.records import Api, Outcome
from harness.traffic._locust.answer import Answer, EndOfStream, read_answer
from harness.traffic._locust.http1 import Framing
from harness.traffic._locust.http_errors import retry_after_s

OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
MS = 1_000_000


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    return (
        OK
        + b"transfer-encoding: chunked\r\n\r\n"
        + b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces)
        + b"0\r\n\r\n"
    )


def by_chunks(body: bytes) -> bytes:
    return chunked(body, 37)


def with_length(body: bytes) -> bytes:
    return OK + b"content-length: %d\r\n\r\n%s" % (len(body), body)


def until_close(body: bytes) -> bytes:
    return OK + b"\r\n" + body


def feed(reads: Iterable[bytes], *, eof: bool = False) -> tuple[Framing, EndOfStream]:
    """Reads one millisecond apart, as the wire gives them: nothing is read behind the end."""
    framing = Framing()
    for i, data in enumerate(reads):
        if framing.add(data, i * MS):
            return framing, EndOfStream.COMPLETE
    if eof:
        framing.end_of_file()
    return framing, EndOfStream.COMPLETE if framing.complete else EndOfStream.EOF


def answer_of(
    api: Api, reads: Iterable[bytes], *, eof: bool = False, keep_text: bool = False
) -> Answer:
    framing, ending = feed(reads, eof=eof)
    return read_answer(framing, api, ending, keep_text=keep_text)


def cut(wire: bytes, at: Iterable[int]) -> Iterator[bytes]:
    for start, end in itertools.pairwise([0, *sorted(set(at) - {0, len(wire)}), len(wire)]):
        yield wire[start:end]


def facts(answer: Answer) -> dict[str, Any]:
    """What does not depend on how the bytes were cut into reads."""
    return {
        "outcome": answer.outcome,
        "error": answer.error,
        "status": answer.http_status,
        "stop": answer.stop_reason,
        "kinds": answer.content_kinds,
        "usage": (
            answer.input_tok,
            answer.cache_read_tok,
            answer.cache_write_tok,
            answer.output_tok,
        ),
        "response_bytes": answer.response_bytes,
        "content_bytes": sum(answer.chunk_bytes or ()),
        "chunk_tok": None if answer.chunk_tok is None else sum(answer.chunk_tok),
    }


def test_what_is_recorded_of_each_stream(streams: dict[str, tuple[Api, bytes]]) -> None:
    got = {
        name: facts(answer_of(api, [with_length(body)])) for name, (api, body) in streams.items()
    }
    assert {name: fact["outcome"] for name, fact in got.items()} == dict.fromkeys(
        streams, Outcome.OK
    )
    # whole prompt, read from cache, written to cache, output: the prompt's parts add up wherever
    # the server put them
    assert got["messages-anthropic"]["usage"] == (1015, 1000, 3, 42)
    assert got["messages-vllm"]["usage"] == (2418, 0, 2304, 7)
    assert got["chat-continuous"]["usage"] == (50, 48, None, 8)
    assert got["chat-tools"]["usage"] == (50, None, None, 9)
    assert (
        got["messages-anthropic"]["kinds"]
        == ["thinking", "text", "tool_use"]
        == got["chat-tools"]["kinds"]
    )
    assert got["messages-anthropic"]["stop"] == "tool_use"
    assert got["chat-continuous"]["stop"] == "stop"
    assert got["chat-continuous"]["chunk_tok"] == 7  # the eighth token carried no content
    assert got["chat-tools"]["chunk_tok"] is None
    assert got["completions-continuous"]["usage"] == (50, 48, None, 8)
    assert got["completions-continuous"]["chunk_tok"] == 8
    assert got["completions-plain"]["usage"] == (50, None, None, 6)
    assert got["responses-openai"]["usage"] == (1015, 1000, 3, 42)
    assert got["responses-vllm"]["usage"] == (1015, 0, None, 12)
    assert got["responses-incomplete"] | {"response_bytes": 0} == got["responses-vllm"] | {
        "response_bytes": 0
    }
    assert got["completions-vllm-0.32"]["usage"] == (19, 0, None, 10)
    assert got["completions-vllm-0.32"]["chunk_tok"] == 10
    assert got["responses-vllm-0.32"]["usage"] == (149, 128, 0, 10)
    assert got["responses-vllm-0.32-tool"]["kinds"] == ["tool_use"]
    assert got["completions-plain"]["kinds"] == ["text"]
    assert got["responses-openai"]["kinds"] == ["thinking", "text", "tool_use"]
    assert got["responses-vllm"]["kinds"] == ["thinking", "text"]
    assert [got[name]["stop"] for name in ("completions-continuous", "completions-plain")] == [
        "length",
        "stop",
    ]
    assert [got[name]["stop"] for name in ("responses-openai", "responses-vllm")] == [
        "completed",
        "max_output_tokens",
    ]


def test_content_is_counted_in_utf8_bytes(streams: dict[str, tuple[Api, bytes]]) -> None:
    api, body = streams["messages-anthropic"]
    said = ['Hm, 1 < 2 "quoted"', "\nso\\", "Grüße", " 🙂 ", "end.", '{"input": "l', 's -l"}']
    assert facts(answer_of(api, [with_length(body)]))["content_bytes"] == sum(
        len(text.encode()) for text in said
    )


def test_first_token_is_the_read_that_completed_the_first_content(
    streams: dict[str, tuple[Api, bytes]],
) -> None:
    firsts = {
        "messages-anthropic": b"Hm, 1",
        "chat-continuous": b'" a"',
        "chat-tools": b"Let me",
        "completions-plain": b" one",
        "responses-openai": b'"Hm, "',
        "responses-vllm": b'"Let me"',
    }
    for name, first_content in firsts.items():
        api, body = streams[name]
        events = [event + b"\n\n" for event in body.split(b"\n\n")[:-1]]
        reads = [OK + b"content-length: %d\r\n\r\n" % len(body), *events]
        which = next(i for i, data in enumerate(reads) if first_content in data)
        answer = answer_of(api, reads)
        assert answer.first_byte_ns == 0
        assert answer.first_token_ns == which * MS
        # cut in the middle of that event, the read with its end counts
        halves = [*reads[:which], reads[which][:-9], reads[which][-9:], *reads[which + 1 :]]
        assert answer_of(api, halves).first_token_ns == (which + 1) * MS


def test_chunk_times_add_up_without_drift() -> None:
    tokens = 1000
    events = [
        (
            b"data:"
            b' {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}}\n\n'
        )
    ] * tokens
    framing = Framing()
    framing.add(OK + b"\r\n", 0)
    times = [i * 1_234_567 + 400 * (i % 3) for i in range(1, tokens + 1)]
    for event, time_ns in zip(events, times, strict=True):
        framing.add(event, time_ns)
    answer = read_answer(framing, Api.MESSAGES, EndOfStream.EOF)
    assert answer.chunk_dt_us is not None
    assert answer.first_token_ns == times[0]
    assert answer.chunk_dt_us[0] == 0
    for so_far_us, time_ns in zip(itertools.accumulate(answer.chunk_dt_us), times, strict=True):
        assert abs(times[0] + 1000 * so_far_us - time_ns) <= 500
    assert answer.last_token_ns == times[-1]


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "framed", [by_chunks, with_length, until_close], ids=["chunked", "length", "until-close"]
)
def test_a_cut_at_any_byte_changes_nothing(
    stream: tuple[Api, bytes], framed: Any, ending: str
) -> None:
    api, body = stream
    wire = framed(body.replace(b"\n", ending.encode()))
    want = facts(answer_of(api, [wire], eof=True))
    assert want["outcome"] is Outcome.OK
    # Every byte where chunks and lines meet; elsewhere every so many.
    step = (1 if framed is by_chunks else 3) if ending == "\n" else 7
    for at in range(1, len(wire), step):
        assert facts(answer_of(api, cut(wire, [at]), eof=True)) == want, at
    assert facts(answer_of(api, cut(wire, range(len(wire))), eof=True)) == want


@given(data=st.data())
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_many_cuts_change_nothing(
    data: st.DataObject, streams: dict[str, tuple[Api, bytes]]
) -> None:
    api, body = streams[data.draw(st.sampled_from(sorted(streams)))]
    wire = chunked(body, data.draw(st.integers(1, 400)))
    cuts = data.draw(st.lists(st.integers(1, len(wire) - 1), max_size=60))
    assert facts(answer_of(api, cut(wire, cuts))) == facts(answer_of(api, [with_length(body)]))


@given(
    texts=st.lists(st.text(max_size=12), min_size=1, max_size=30),
    ascii_only=st.booleans(),
    spaced=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_patterns_count_what_json_would(texts: list[str], ascii_only: bool, spaced: bool) -> None:
    """The shortcut for events that look alike must agree with parsing each, whatever the text and
    the server's way to write JSON.
    """
    separators = (", ", ": ") if spaced else (",", ":")

    def write(value: dict[str, Any]) -> bytes:
        text = json.dumps(value, ensure_ascii=ascii_only, separators=separators)
        return b"data: " + text.encode("utf-8", "surrogatepass") + b"\n\n"

    def messages(text: str, i: int) -> dict[str, Any]:
        return {
            "type": "content_block_delta",
            "index": i,
            "delta": {"type": "text_delta", "text": text},
        }

    def chat(text: str, i: int) -> dict[str, Any]:
        return {
            "id": f"c-{i}",
            "choices": [{"index": 0, "delta": {"content": text}}],
            "usage": {"completion_tokens": i},
        }

    for api, make in ((Api.MESSAGES, messages), (Api.CHAT, chat)):
        body = b"".join(write(make(text, i)) for i, text in enumerate(texts))
        reads = [OK + b"\r\n", *(event + b"\n\n" for event in body.split(b"\n\n")[:-1])]
        quick, slow = (
            answer_of(api, reads, eof=True),
            answer_of(api, reads, eof=True, keep_text=True),
        )
        assert quick == Answer(
            **{name: getattr(slow, name) for name in Answer.__slots__} | {"text": None}
        )
        assert slow.text == "".join(texts)


@given(data=st.binary(max_size=300), eof=st.booleans())
@settings(max_examples=300, deadline=None)
def test_no_bytes_crash_the_reader(data: bytes, eof: bool) -> None:
    beginnings = (
        b"",
        b"\r\n",
        b"\r\ndata: ",
        b'\r\nevent: error\ndata: {"type":',
        b"transfer-encoding: chunked\r\n\r\n",
    )
    for api in Api:
        for prefix in (beginning and OK + beginning for beginning in beginnings):
            answer = answer_of(api, [prefix, data] if prefix else [data], eof=eof)
            assert answer.outcome is not Outcome.OK or b"[DONE]" in data


KEYS = [
    "type",
    "delta",
    "text",
    "usage",
    "message",
    "choices",
    "content",
    "error",
    "output_tokens",
    "tool_calls",
    "function",
    "response",
]
VALUES = [
    "content_block_delta",
    "message_start",
    "message_delta",
    "error",
    "text_delta",
    "response.output_text.delta",
    "response.failed",
    "response.in_progress",
]


def _deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(KEYS), inner | st.sampled_from(VALUES), max_size=4
    )


@given(
    junk=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5), _deeper, max_leaves=12
    )
)
@settings(max_examples=300, deadline=None)
def test_no_json_crashes_the_reader(junk: Any) -> None:
    for api in Api:
        answer = answer_of(
            api, [OK + b"\r\ndata: " + json.dumps(junk).encode() + b"\n\n"], eof=True
        )
        assert answer.outcome in (Outcome.TRUNCATED, Outcome.MALFORMED, Outcome.API_ERROR)


# --- ends ---


def http(status: str, body: bytes, headers: str = "content-type: application/json\r\n") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}content-length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (
            b'{"type":"error","error":{"type":"rate_limit_error","message":"slow"}}',
            "rate_limit_error: slow",
        ),
        (
            b'{"object":"error","message":"too long","type":"BadRequestError","code":400}',
            "BadRequestError: too long",
        ),
        (b'{"error":"queue full"}', "queue full"),
        (b'{"detail":"Not Found"}', "Not Found"),
        (b"<h1>no</h1>", "<h1>no</h1>"),
        (b"", "HTTP 429"),
        (b"[1]", "[1]"),
    ],
)
def test_an_error_status_keeps_the_servers_words(body: bytes, error: str) -> None:
    answer = answer_of(Api.MESSAGES, [http("429 Too Many Requests", body, "retry-after: 7\r\n")])
    assert (answer.outcome, answer.http_status, answer.error, answer.retry_after_s) == (
        Outcome.HTTP_ERROR,
        429,
        error,
        7.0,
    )
    assert answer.first_token_ns is None


def test_retry_after_in_its_forms() -> None:
    assert retry_after_s({"retry-after": "2", "retry-after-ms": "1500"}) == 1.5
    assert retry_after_s({"retry-after": "0.5"}) == 0.5
    assert (
        retry_after_s(
            {
                "date": "Sat, 21 Nov 2026 10:00:00 GMT",
                "retry-after": "Sat, 21 Nov 2026 10:01:30 GMT",
            }
        )
        == 90
    )
    soon = retry_after_s(
        {
            "retry-after": format_datetime(
                wall_now().replace(year=wall_now().year + 1, day=1), usegmt=True
            )
        }
    )
    assert soon is not None
    assert soon > 86400
    assert retry_after_s({"retry-after": "tomorrow"}) is None
    assert retry_after_s({"retry-after": "-3"}) == 0
    assert retry_after_s({}) is None


def test_ends_of_a_stream_and_their_outcomes(stream: tuple[Api, bytes]) -> None:
    api, body = stream
    ends = {Api.MESSAGES: b"event: message_stop", Api.RESPONSES: b"event: response.completed"}
    without_end = body[: body.index(ends.get(api, b"data: [DONE]"))]
    stop = re.search(rb"\n\n[^\n]*\n?[^\n]*_reason\":\s*\"|\n\nevent: response.completed", body)
    assert stop is not None
    without_stop = body[: stop.start() + 2]
    failed = (
        b"event: error\ndata:"
        b' {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    )
    delta: Any = "x" if api is Api.RESPONSES else {"type": "text_delta", "text": "x"}
    kind = "response.output_text.delta" if api is Api.RESPONSES else "content_block_delta"
    choice = {"delta": {"content": "x"}, "text": "x"}
    more = (
        b"data: "
        + json.dumps({"type": kind, "delta": delta, "choices": [choice]}).encode()
        + b"\n\n"
    )
    incomplete = "HTTP message"
    marker = wire(api).reader().end_marker
    broken = without_end + b"data: {oops\n\n" + body[len(without_end) :]
    cases = {
        # A stop reason and a complete message end a response; the reason of `responses` is in its end.
        "no end marker": (
            [with_length(without_end)],
            Outcome.TRUNCATED if api is Api.RESPONSES else Outcome.OK,
            marker if api is Api.RESPONSES else "",
        ),
        "no stop reason": ([with_length(without_stop)], Outcome.TRUNCATED, marker),
        "ends within an event": (
            [with_length(body[: len(without_end) - 10])],
            Outcome.TRUNCATED,
            marker,
        ),
        "closed within chunks": ([chunked(body, 50)[:-5]], Outcome.TRUNCATED, incomplete),
        "closed within the length": (
            [OK + b"content-length: 99999\r\n\r\n" + body],
            Outcome.TRUNCATED,
            incomplete,
        ),
        "length too short": (
            [OK + b"content-length: %d\r\n\r\n" % (len(body) - 30) + body],
            Outcome.TRUNCATED,
            marker,
        ),
        "error event": (
            [with_length(without_end + failed)],
            Outcome.API_ERROR,
            "overloaded_error: Overloaded",
        ),
        "error event before all": (
            [with_length(failed)],
            Outcome.API_ERROR,
            "overloaded_error: Overloaded",
        ),
        "broken event in the middle": ([with_length(broken)], Outcome.MALFORMED, "JSON"),
        "data that is no object": (
            [with_length(b"data: 17\n\n" + body)],
            Outcome.MALFORMED,
            "JSON object",
        ),
        "content after the end": ([with_length(body + more)], Outcome.MALFORMED, "content"),
        "no stream": ([http("200 OK", b'{"id":1}')], Outcome.MALFORMED, "content-type"),
        "an error with status 200": (
            [http("200 OK", b'{"error":{"message":"no"}}')],
            Outcome.API_ERROR,
            "no",
        ),
        "closed within headers": ([OK], Outcome.TRUNCATED, "headers"),
        "closed at once": ([], Outcome.CONNECTION_ERROR, "connection"),
        "no HTTP": ([b"SSH-2.0-OpenSSH_9.9\r\n"], Outcome.MALFORMED, "SSH-2.0"),
        "HTTP that breaks off its own rules": (
            [OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n"],
            Outcome.MALFORMED,
            "HTTP/1.1",
        ),
    }
    for name, (reads, outcome, words) in cases.items():
        answer = answer_of(api, reads, eof=True)
        assert answer.outcome is outcome, (name, answer)
        assert words in (answer.error or ""), (name, answer)


def test_a_cut_stream_keeps_what_it_told(streams: dict[str, tuple[Api, bytes]]) -> None:
    api, body = streams["chat-continuous"]
    for _ in range(2):  # the second time every event is recognised by its shape
        framing, _ = feed([until_close(body[: body.index(b'"content":" c"')])])
        answer = read_answer(
            framing, api, EndOfStream.LOCAL, local=Outcome.INTERRUPTED, error="the run was stopped"
        )
        assert (answer.outcome, answer.error) == (Outcome.INTERRUPTED, "the run was stopped")
        assert (answer.input_tok, answer.output_tok) == (50, 6)
        assert list(answer.chunk_tok or ()) == [6]


def test_messages_output_is_unknown_until_the_server_says_it(
    streams: dict[str, tuple[Api, bytes]],
) -> None:
    api, body = streams["messages-anthropic"]
    answer = answer_of(api, [until_close(body[: body.index(b"event: message_delta")])], eof=True)
    assert answer.output_tok is None
    assert answer.input_tok == 1015


@pytest.mark.parametrize("tail", [b"\x00\x01", b"HTTP/1.1 200 OK\r\n\r\n", b"x"])
def test_bytes_behind_a_complete_message_only_cost_the_connection(
    stream: tuple[Api, bytes], tail: bytes
) -> None:
    api, body = stream
    framing, ending = feed([with_length(body) + tail])
    assert framing.extra
    assert not framing.keep_alive
    assert read_answer(framing, api, ending).outcome is Outcome.OK


def test_an_informational_answer_comes_before_the_real_one(stream: tuple[Api, bytes]) -> None:
    api, body = stream
    assert (
        answer_of(api, [b"HTTP/1.1 100 Continue\r\n\r\n" + chunked(body, 99)]).outcome is Outcome.OK
    )


def test_trailers_end_a_message_too(stream: tuple[Api, bytes]) -> None:
    api, body = stream
    wire = (
        chunked(body, 99).replace(b"transfer-encoding", b"trailer: x-sum\r\ntransfer-encoding", 1)[
            :-2
        ]
        + b"x-sum: 1\r\n\r\n"
    )
    for at in range(len(wire) - 20, len(wire)):
        assert answer_of(api, cut(wire, [at])).outcome is Outcome.OK


# --- usage that disagrees ---


def test_usage_that_disagrees_is_said_and_the_last_word_counts(
    streams: dict[str, tuple[Api, bytes]],
) -> None:
    """The answer itself is whole. Counts that contradict each other are not spread over its chunks."""
    api, body = streams["messages-vllm"]
    answer = answer_of(
        api, [with_length(body.replace(b'"input_tokens":2418', b'"input_tokens":2000'))]
    )
    assert (answer.outcome, answer.input_tok, answer.output_tok) == (Outcome.OK, 2418, 7)
    assert "2000" in str(answer.error)
    assert "2418" in str(answer.error)
    unknown = answer_of(
        api, [with_length(body.replace(b'"input_tokens":2418', b'"input_tokens":0'))]
    )
    assert (unknown.outcome, unknown.error, unknown.input_tok) == (
        Outcome.OK,
        None,
        2418,
    )  # 0 at the start: not known yet

    api, body = streams["chat-continuous"]
    for old, new, words, output_tok in (
        (
            b'"completion_tokens":8',
            b'"completion_tokens":5',
            r"\b7\b.*\b5\b",
            5,
        ),
        (
            b'"completion_tokens":3',
            b'"completion_tokens":30',
            "token counts",
            8,
        ),
    ):
        for _ in range(2):  # the second time events are recognised by their shapes
            events = [event + b"\n\n" for event in body.replace(old, new).split(b"\n\n")[:-1]]
            answer = answer_of(api, [OK + b"\r\n", *events], eof=True)
            assert (answer.outcome, answer.output_tok, answer.chunk_tok) == (
                Outcome.OK,
                output_tok,
                None,
            )
            assert re.search(words, str(answer.error))


# --- against the official clients ---


class Recorded(httpx2.MockTransport):
    """Answers every request with one recorded stream, in pieces of 11 bytes."""

    def __init__(self, body: bytes) -> None:
        pieces = [body[i : i + 11] for i in range(0, len(body), 11)]
        super().__init__(
            lambda _request: httpx2.Response(
                200, headers={"content-type": "text/event-stream"}, content=iter(pieces)
            )
        )


@pytest.mark.parametrize("name", ["messages-anthropic", "messages-vllm"])
def test_agrees_with_the_anthropic_client(streams: dict[str, tuple[Api, bytes]], name: str) -> None:
    import anthropic

    api, body = streams[name]
    with httpx2.Client(transport=Recorded(body)) as http_client:
        client = anthropic.Anthropic(
            api_key="k", base_url="http://x", http_client=http_client, max_retries=0
        )
        with client.messages.stream(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]
        ) as their_stream:
            said = ""
            for event in their_stream:
                if event.type == "content_block_delta":
                    delta = event.delta
                    said += (
                        getattr(delta, "text", "")
                        or getattr(delta, "thinking", "")
                        or getattr(delta, "partial_json", "")
                    )
            message = their_stream.get_final_message()
    answer = answer_of(api, [with_length(body)], keep_text=True)
    usage = message.usage
    assert answer.text == said
    assert answer.stop_reason == message.stop_reason
    assert answer.output_tok == usage.output_tokens
    assert answer.input_tok == usage.input_tokens + (usage.cache_read_input_tokens or 0) + (
        usage.cache_creation_input_tokens or 0
    )
    assert (answer.cache_read_tok, answer.cache_write_tok) == (
        usage.cache_read_input_tokens,
        usage.cache_creation_input_tokens,
    )
    assert answer.content_kinds == [block.type for block in message.content]


@pytest.mark.parametrize(
    "name", ["completions-continuous", "completions-plain", "completions-vllm-0.32"]
)
def test_agrees_with_the_openai_client_on_completions(
    streams: dict[str, tuple[Api, bytes]], name: str
) -> None:
    import openai

    api, body = streams[name]
    said, usage, finish = "", None, None
    with httpx2.Client(transport=Recorded(body)) as http_client:
        client = openai.OpenAI(
            api_key="k", base_url="http://x/v1", http_client=http_client, max_retries=0
        )
        for chunk in client.completions.create(model="m", prompt="x", stream=True):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                finish = choice.finish_reason or finish
                said += choice.text
    answer = answer_of(api, [with_length(body)], keep_text=True)
    assert usage is not None
    assert (answer.text, answer.stop_reason) == (said, finish)
    assert (answer.input_tok, answer.output_tok) == (usage.prompt_tokens, usage.completion_tokens)
    details = usage.prompt_tokens_details
    assert answer.cache_read_tok == (details.cached_tokens if details else None)


@pytest.mark.parametrize(
    "name",
    [
        "responses-openai",
        "responses-vllm",
        "responses-incomplete",
        "responses-vllm-0.32",
        "responses-vllm-0.32-tool",
    ],
)
def test_agrees_with_the_openai_client_on_responses(
    streams: dict[str, tuple[Api, bytes]], name: str
) -> None:
    import openai

    api, body = streams[name]
    said, kinds, final = "", [], None
    with httpx2.Client(transport=Recorded(body)) as http_client:
        client = openai.OpenAI(
            api_key="k", base_url="http://x/v1", http_client=http_client, max_retries=0
        )
        for event in client.responses.create(model="m", input="x", stream=True):
            if event.type.endswith(".delta"):
                said += event.delta
            if event.type == "response.output_item.added":
                kinds.append(
                    {"reasoning": "thinking", "message": "text", "function_call": "tool_use"}[
                        event.item.type
                    ]
                )
            if event.type in ("response.completed", "response.incomplete"):
                final = event.response
    assert final is not None
    assert final.usage is not None
    answer = answer_of(api, [with_length(body)], keep_text=True)
    assert (answer.text, answer.content_kinds) == (said, kinds)
    assert answer.stop_reason == (
        final.incomplete_details.reason if final.incomplete_details else final.status
    )
    assert (answer.input_tok, answer.output_tok) == (
        final.usage.input_tokens,
        final.usage.output_tokens,
    )
    assert answer.cache_read_tok == final.usage.input_tokens_details.cached_tokens


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (
            {"type": "error", "code": "server_error", "message": "gone", "param": None},
            "server_error: gone",
        ),
        (
            {"type": "error", "error": {"type": "internal_error", "message": "dead"}},
            "internal_error: dead",
        ),
        (
            {"error": {"message": "dead", "type": "InternalServerError", "code": 500}},
            "InternalServerError: dead",
        ),
        (
            {
                "type": "response.failed",
                "response": {"error": {"code": "server_error", "message": "no"}},
            },
            "server_error: no",
        ),
        ({"type": "response.failed", "response": {"error": None}}, " "),
    ],
)
def test_ways_to_fail_within_a_responses_stream(
    streams: dict[str, tuple[Api, bytes]], event: dict[str, Any], words: str
) -> None:
    _, body = streams["responses-openai"]
    cut_off = body[: body.index(b"event: response.completed")]
    answer = answer_of(
        Api.RESPONSES, [with_length(cut_off + b"data: " + json.dumps(event).encode() + b"\n\n")]
    )
    assert answer.outcome is Outcome.API_ERROR
    assert words in (answer.error or "")
    assert answer.first_token_ns is not None


def test_a_done_line_ends_no_responses_stream(streams: dict[str, tuple[Api, bytes]]) -> None:
    _, body = streams["responses-openai"]
    assert answer_of(Api.RESPONSES, [with_length(body + b"data: [DONE]\n\n")]).outcome is Outcome.OK
    cut_off = body[: body.index(b"event: response.completed")]
    assert (
        answer_of(Api.RESPONSES, [with_length(cut_off + b"data: [DONE]\n\n")]).outcome
        is Outcome.TRUNCATED
    )


@pytest.mark.parametrize("name", ["chat-continuous", "chat-tools"])
def test_agrees_with_the_openai_client(streams: dict[str, tuple[Api, bytes]], name: str) -> None:
    import openai

    api, body = streams[name]
    said, usage, finish = "", None, None
    with httpx2.Client(transport=Recorded(body)) as http_client:
        client = openai.OpenAI(
            api_key="k", base_url="http://x/v1", http_client=http_client, max_retries=0
        )
        for chunk in client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "x"}], stream=True
        ):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                finish = choice.finish_reason or finish
                said += getattr(choice.delta, "reasoning_content", None) or ""
                said += choice.delta.content or ""
                for call in choice.delta.tool_calls or ():
                    said += (call.function.name or "") + (call.function.arguments or "")
    answer = answer_of(api, [with_length(body)], keep_text=True)
    assert usage is not None
    assert (answer.text, answer.stop_reason) == (said, finish)
    assert (answer.input_tok, answer.output_tok) == (usage.prompt_tokens, usage.completion_tokens)
    details = usage.prompt_tokens_details
    assert answer.cache_read_tok == (details.cached_tokens if details else None)
