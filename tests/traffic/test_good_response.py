"""What a good response is: how servers report failures, ends and counts, over every API. The load
and the checks before it must agree on each.
"""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from harness.api.base import Finish, Text
from harness.api.errors import OWN, Ending, ending
from harness.api.event_patterns import known
from harness.api.reader import Usage, count
from harness.api.response import read_response
from harness.api.table import WIRE_APIS, wire
from harness.artifacts.tables import REQUESTS
from harness.core.records import Api, Note, Outcome
from harness.traffic._locust.answer import Answer, EndOfStream, read_answer
from harness.traffic._locust.http1 import Framing
from harness.traffic._locust.record import Record, to_batch

MS = 1_000_000
TYPE = b"content-type: text/event-stream\r\n"
TEXTS = ("Rain on ", "the roof ", "all night ", "long again")
USAGE = Usage(20, None, None, 8)
WORDS = "slot 3 ran out of memory"


@pytest.fixture(name="api", params=list(WIRE_APIS), ids=str)
def _api(request: pytest.FixtureRequest) -> Api:
    for shapes in known.values():
        shapes.clear()
    return Api(request.param)


def events(
    api: Api, texts: Sequence[str] = TEXTS, reason: str = "stop", usage: Usage | None = USAGE
) -> list[bytes]:
    """A good stream, event by event."""
    writer = wire(api).writer("m", "1")
    out = writer.start(Usage(20, None, None, 0))
    out += b"".join(writer.piece(Text(text)) for text in texts)
    out += writer.end(Finish(reason), usage)
    return [event + b"\n\n" for event in out.split(b"\n\n")[:-1]]


def sse(value: Any, name: str | None = None) -> bytes:
    head = b"" if name is None else b"event: %b\n" % name.encode()
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return head + b"data: " + data + b"\n\n"


def chunks(pieces: Sequence[bytes], end: bytes = b"0\r\n\r\n") -> list[bytes]:
    return [*(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces), end]


def load(
    api: Api,
    pieces: Sequence[bytes],
    *,
    head: bytes = TYPE,
    status: bytes = b"200 OK",
    end: bytes = b"0\r\n\r\n",
) -> Answer:
    """The load's record of a response whose pieces come 30 ms apart."""
    framing = Framing()
    first = b"HTTP/1.1 " + status + b"\r\n" + head + b"transfer-encoding: chunked\r\n\r\n"
    for i, data in enumerate([first, *chunks(pieces, end)]):
        if framing.add(data, i * 30 * MS):
            break
    ending = EndOfStream.COMPLETE if framing.complete else EndOfStream.EOF
    return read_answer(framing, api, ending)


def both(api: Api, pieces: Sequence[bytes], **how: Any) -> Answer:
    """As `load`; the checks must find the same outcome, and counts that are the same."""
    answer = load(api, pieces, **how)
    headers = dict(
        line.decode().split(": ", 1) for line in how.get("head", TYPE).split(b"\r\n") if line
    )
    status = int(how.get("status", b"200")[:3])
    seen = read_response(wire(api), status, headers, b"".join(pieces), streams=True)
    assert (seen.outcome, seen.error) == (
        answer.outcome,
        None if answer.outcome is Outcome.OK else answer.error,
    )
    usage = seen.reader.settled()
    assert (usage.input_tok, usage.output_tok) == (answer.input_tok, answer.output_tok)
    return answer


def notes(answer: Answer) -> set[str]:
    return set((answer.notes or "").split())


def insert(events: list[bytes], *more: bytes) -> list[bytes]:
    """Events within a stream, after its second content."""
    at = 0 if len(events) == 3 else max(2, len(events) // 2)
    return [*events[:at], *more, *events[at:]]


# --- control ---


def test_a_good_stream_has_nothing_to_note(api: Api) -> None:
    answer = both(api, events(api))
    assert (answer.outcome, answer.error, answer.notes) == (Outcome.OK, None, None)
    assert (answer.input_tok, answer.output_tok) == (20, 8)
    assert sum(answer.chunk_bytes or ()) == len("".join(TEXTS))


# --- errors within a stream ---

ERRORS = {
    "field": b'error: {"code": 500, "message": "%b"}\n\n',
    "field-text": b"error: %b\n\n",
    "event": b'event: error\ndata: {"message": "%b"}\n\n',
    "event-text": b"event: error\ndata: %b\n\n",
    "event-nested": b'event: error\ndata: {"error": {"type": "t", "message": "%b"}}\n\n',
    "key": b'data: {"error": {"message": "%b", "code": 500}}\n\n',
    "key-text": b'data: {"error": "%b"}\n\n',
    "key-list": b'data: {"errors": [{"message": "%b"}]}\n\n',
    "object": b'data: {"object": "error", "message": "%b", "code": 50002}\n\n',
    "type": b'data: {"type": "error", "error": {"type": "x", "message": "%b"}}\n\n',
    "exception": b'data: {"type": "internal_server_exception", "message": "%b"}\n\n',
    "detail": b'data: {"detail": "%b"}\n\n',
    "message": b'data: {"code": 500, "msg": "%b"}\n\n',
    "status": b'data: {"status": "failed", "message": "%b"}\n\n',
}


@pytest.mark.parametrize("form", list(ERRORS))
@pytest.mark.parametrize("place", ["alone", "within", "twice-seen"])
def test_an_error_in_any_form_is_an_api_error(api: Api, form: str, place: str) -> None:
    error = ERRORS[form] % WORDS.encode()
    stream = [error, b"data: [DONE]\n\n"] if place == "alone" else insert(events(api), error)
    if place == "twice-seen":  # the content of the second one is matched by patterns
        assert load(api, events(api)).outcome is Outcome.OK
    answer = both(api, stream)
    assert answer.outcome is Outcome.API_ERROR
    assert WORDS in str(answer.error)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_failed_status_within_the_closing_event_is_an_api_error(status: str) -> None:
    inner = {
        "status": status,
        "error": {"code": "server_error", "message": WORDS},
        "usage": {"input_tokens": 20, "output_tokens": 4},
    }
    for kind in ("response.completed", "response.failed", f"response.{status}"):
        stream = [*events(Api.RESPONSES)[:-1], sse({"type": kind, "response": inner}, kind)]
        answer = both(Api.RESPONSES, stream)
        assert (answer.outcome, answer.error) == (Outcome.API_ERROR, f"server_error: {WORDS}")
    bare = sse({"type": "response.completed", "response": {"status": status}})
    assert both(Api.RESPONSES, [*events(Api.RESPONSES)[:-1], bare]).outcome is Outcome.API_ERROR


def test_a_choice_with_an_error_is_an_api_error() -> None:
    choice = {"delta": {}, "text": "", "finish_reason": "error", "error": {"message": WORDS}}
    for api in (Api.CHAT, Api.COMPLETIONS):
        answer = both(api, insert(events(api), sse({"choices": [choice]})))
        assert (answer.outcome, answer.error) == (Outcome.API_ERROR, WORDS)


# --- stop reasons ---


def with_reason(api: Api, reason: Any) -> list[bytes]:
    """A stream that ends with this stop reason."""
    text = json.dumps(reason).encode()
    keys = {Api.MESSAGES: b"stop_reason", Api.RESPONSES: b"reason"}
    key = b'"' + keys.get(api, b"finish_reason") + b'":'
    stream = b"".join(events(api, reason="length"))
    changed = re.sub(re.escape(key) + rb'"[a-z_]+"', lambda _: key + text, stream)
    return [event + b"\n\n" for event in changed.split(b"\n\n")[:-1]]


@pytest.mark.parametrize(
    "reason", ["abort", "aborted", "error", "cancelled", "timeout", "network_error", "ABORT"]
)
def test_a_stop_reason_that_is_a_failure_is_aborted(api: Api, reason: str) -> None:
    answer = both(api, with_reason(api, reason))
    assert (answer.outcome, answer.stop_reason) == (Outcome.ABORTED, reason)
    assert reason in str(answer.error)


@pytest.mark.parametrize(
    "reason", ["stop", "length", "tool_calls", "end_turn", "max_tokens", "content_filter"]
)
def test_the_models_own_stop_reasons_are_good(api: Api, reason: str) -> None:
    answer = both(api, with_reason(api, reason))
    assert (answer.outcome, answer.stop_reason, answer.notes) == (Outcome.OK, reason, None)


def test_every_listed_stop_reason_is_an_end_of_the_models_own(api: Api) -> None:
    assert {ending(api, reason) for reason in OWN[api]} == {Ending.OWN}


def test_an_unknown_stop_reason_is_noted(api: Api) -> None:
    answer = both(api, with_reason(api, "moonrise"))
    assert (answer.outcome, notes(answer)) == (Outcome.OK, {Note.UNKNOWN_STOP_REASON})


def test_a_stop_reason_as_an_object_is_its_type(api: Api) -> None:
    answer = both(api, with_reason(api, {"type": "stop", "matched": 2}))
    assert (answer.outcome, answer.stop_reason) == (Outcome.OK, "stop")


# --- ends ---


def test_nothing_but_the_end_marker_is_empty(api: Api) -> None:
    last = events(api)[-1]
    if api is Api.RESPONSES:
        last = sse({"type": "response.completed", "response": {"status": "completed"}})
    assert both(api, [last]).outcome is Outcome.EMPTY


@pytest.mark.parametrize("usage", [None, Usage(20, None, None, 0)])
def test_an_end_without_content_and_tokens_is_empty(api: Api, usage: Usage | None) -> None:
    assert both(api, events(api, (), usage=usage)).outcome is Outcome.EMPTY


def test_tokens_without_content_are_good(api: Api) -> None:
    answer = both(api, events(api, (), usage=Usage(20, None, None, 64)))
    assert (answer.outcome, answer.output_tok, answer.first_token_ns) == (Outcome.OK, 64, None)


def test_a_marker_behind_the_end_is_noted(api: Api) -> None:
    answer = both(api, [*events(api), b"data: [DONE]\n\n"])
    repeated = api in (Api.CHAT, Api.COMPLETIONS)  # their own marker, twice
    assert answer.outcome is Outcome.OK
    assert notes(answer) == (set() if repeated else {Note.MARKER_AFTER_END})


def test_a_stop_reason_ends_a_complete_message_without_its_marker(api: Api) -> None:
    answer = both(api, events(api)[:-1])
    if api is Api.RESPONSES:  # the reason is in the closing event
        assert answer.outcome is Outcome.TRUNCATED
    else:
        assert (answer.outcome, notes(answer)) == (Outcome.OK, {Note.NO_END_MARKER})
        assert answer.output_tok == 8


def test_a_marker_without_a_stop_reason_needs_final_usage() -> None:
    for api in (Api.CHAT, Api.COMPLETIONS):
        *content, reason, usage, marker = events(api)
        assert b"finish_reason" in reason
        answer = both(api, [*content, usage, marker])
        assert (answer.outcome, notes(answer)) == (Outcome.OK, {Note.NO_STOP_REASON})
        assert both(api, [*content, marker]).outcome is Outcome.TRUNCATED


def test_an_incomplete_http_message_is_truncated(api: Api) -> None:
    assert load(api, events(api)[:-1], end=b"").outcome is Outcome.TRUNCATED


# --- signs of life ---

PINGS = {
    "comment": b": ping\n\n",
    "empty": b"data:\n\n",
    "blank": b"data: \n\n",
    "word": b"data: ping\n\n",
    "colon": b"data: : keep-alive\n\n",
    "upper": b"data: HEARTBEAT 17\n\n",
    "event": b"event: ping\ndata: 2026-11-30T22:00:00Z\n\n",
    "name-only": b"event: keep-alive\n\n",
    "json": b'data: {"type": "ping"}\n\n',
    "object": b"data: {}\n\n",
    "null": b"data: null\n\n",
    "id": b"id: 7\nretry: 100\n\n",
}


@pytest.mark.parametrize("ping", list(PINGS))
def test_a_sign_of_life_is_no_part_of_a_response(api: Api, ping: str) -> None:
    plain = both(api, events(api))
    for stream in (insert(events(api), PINGS[ping]), [PINGS[ping], *events(api)]):
        answer = both(api, stream)
        assert answer.outcome is Outcome.OK
        assert answer.output_tok == 8
        assert list(answer.chunk_bytes or ()) == list(plain.chunk_bytes or ())


@pytest.mark.parametrize("data", [b"{oops", b"Internal Server Error", b"17", b"[1]"])
def test_other_data_that_is_no_document_is_malformed(api: Api, data: bytes) -> None:
    assert both(api, insert(events(api), sse(data))).outcome is Outcome.MALFORMED


# --- framing ---


def one_newline(event: bytes) -> bytes:
    return event[:-1]


def crlf(event: bytes) -> bytes:
    return event.replace(b"\n", b"\r\n")


@pytest.mark.parametrize("change", [one_newline, crlf], ids=["one-newline", "crlf"])
def test_other_line_ends_keep_content_and_times(api: Api, change: Callable[[bytes], bytes]) -> None:
    plain = both(api, events(api))
    answer = both(api, [change(event) for event in events(api)])
    assert answer.outcome is Outcome.OK
    assert notes(answer) == ({Note.NO_BLANK_LINES} if change is one_newline else set())
    for name in ("first_token_ns", "last_token_ns", "chunk_bytes", "chunk_dt_us", "output_tok"):
        assert getattr(answer, name) == getattr(plain, name), name


def test_an_error_between_single_newlines_is_seen(api: Api) -> None:
    stream = insert([one_newline(event) for event in events(api)], b'error: {"message": "no"}\n')
    assert both(api, stream).outcome is Outcome.API_ERROR


def test_data_over_several_lines_is_one_event() -> None:
    value = {"choices": [{"delta": {"content": "Rain"}, "finish_reason": None}]}
    lines = json.dumps(value, indent=1).encode().split(b"\n")
    event = b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"
    answer = both(Api.CHAT, [event, *events(Api.CHAT, ())])
    assert (answer.outcome, notes(answer)) == (Outcome.OK, set())
    assert sum(answer.chunk_bytes or ()) == 4


@pytest.mark.parametrize(
    "end",
    [
        b"0\r\nx-checksum: 1\r\n\r\n",
        b"0;last\r\n\r\n",
        b"0\r\n\r\n\r\n",
        b"000\r\n\r\n",
        b'0;a="b"\r\nx: 1\r\ny: 2\r\n\r\n',
    ],
)
def test_every_end_of_a_chunked_message_is_one(api: Api, end: bytes) -> None:
    stream = b"".join([b"HTTP/1.1 200 OK\r\n", TYPE, b"transfer-encoding: chunked\r\n\r\n"])
    wire_bytes = stream + b"".join(chunks(events(api), end))
    for at in range(len(wire_bytes) - len(end) - 3, len(wire_bytes)):
        framing = Framing()
        over = framing.add(wire_bytes[:at], 0) or framing.add(wire_bytes[at:], MS)
        assert over, at
        assert read_answer(framing, api, EndOfStream.COMPLETE).outcome is Outcome.OK


def packed(body: list[bytes], encoding: str) -> list[bytes]:
    """Events compressed one by one, as a proxy that flushes does."""
    bits = {"gzip": 31, "x-gzip": 31, "deflate": 15, "raw": -15}[encoding]
    pack = zlib.compressobj(wbits=bits)
    return [
        *(pack.compress(event) + pack.flush(zlib.Z_SYNC_FLUSH) for event in body),
        pack.flush(),
    ]


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "raw"])
def test_compression_is_undone_read_by_read(api: Api, encoding: str) -> None:
    head = TYPE + f"content-encoding: {encoding.replace('raw', 'deflate')}\r\n".encode()
    answer = both(api, packed(events(api), encoding), head=head)
    assert (answer.outcome, notes(answer)) == (Outcome.OK, {Note.COMPRESSED})
    assert list(answer.chunk_bytes or ()) == [len(text) for text in TEXTS]
    assert list(answer.chunk_dt_us or ())[1:] == [30_000] * (len(TEXTS) - 1)
    if encoding == "gzip":
        members = [gzip.compress(event) for event in events(api)]
        assert both(api, members, head=head).outcome is Outcome.OK


@pytest.mark.parametrize("encoding", [b"br", b"zstd", b"gzip"])
def test_compression_that_cannot_be_undone_is_named(api: Api, encoding: bytes) -> None:
    answer = both(api, events(api), head=TYPE + b"content-encoding: " + encoding + b"\r\n")
    assert answer.outcome is Outcome.MALFORMED
    assert f"({encoding.decode()})" in str(answer.error)


@pytest.mark.parametrize("status", [b"200 OK", b"201 Created", b"202 Accepted", b"206 Partial"])
def test_every_good_status_with_a_stream_is_good(api: Api, status: bytes) -> None:
    answer = both(api, events(api), status=status)
    assert (answer.outcome, answer.http_status) == (Outcome.OK, int(status[:3]))


@pytest.mark.parametrize("status", [b"302 Found", b"400 Bad", b"503 Busy"])
def test_other_statuses_are_http_errors(api: Api, status: bytes) -> None:
    assert both(api, events(api), status=status).outcome is Outcome.HTTP_ERROR


def test_a_stream_under_another_content_type_is_noted(api: Api) -> None:
    for kind in (b"text/plain", b"application/octet-stream"):
        answer = both(api, events(api), head=b"content-type: " + kind + b"\r\n")
        assert (answer.outcome, notes(answer)) == (Outcome.OK, {Note.CONTENT_TYPE})


@pytest.mark.parametrize(
    ("document", "outcome"),
    [
        ({"object": "error", "message": WORDS}, Outcome.API_ERROR),
        ({"detail": WORDS}, Outcome.API_ERROR),
        ({"error": WORDS}, Outcome.API_ERROR),
        ({"choices": [], "usage": {}}, Outcome.MALFORMED),
    ],
)
def test_a_document_in_place_of_a_stream_fails(
    api: Api, document: dict[str, Any], outcome: Outcome
) -> None:
    body = json.dumps(document).encode()
    assert both(api, [body], head=b"content-type: application/json\r\n").outcome is outcome


# --- content in other forms ---

FORMS: dict[str, Callable[[str], Any]] = {
    "parts": lambda text: [{"type": "text", "text": text}],
    "texts": lambda text: [text],
    "object": lambda text: {"type": "text", "text": text},
    "nested": lambda text: [{"type": "text", "text": {"value": text}}],
}


def delta(api: Api, content: Any) -> bytes:
    """One event of content."""
    match api:
        case Api.CHAT:
            return sse({"choices": [{"index": 0, "delta": {"content": content}}]})
        case Api.COMPLETIONS:
            return sse({"choices": [{"index": 0, "text": content}]})
        case Api.MESSAGES:
            inner = {"type": "text_delta", "text": content}
            return sse({"type": "content_block_delta", "index": 0, "delta": inner})
        case Api.RESPONSES:
            return sse({"type": "response.output_text.delta", "delta": content})


@pytest.mark.parametrize("form", list(FORMS))
def test_content_as_parts_or_objects_is_counted(api: Api, form: str) -> None:
    for _ in range(2):
        pieces = [delta(api, FORMS[form](text)) for text in TEXTS]
        answer = both(api, insert(events(api, ()), *pieces))
        assert (answer.outcome, answer.content_kinds) == (Outcome.OK, ["text"])
        assert list(answer.chunk_bytes or ()) == [len(text) for text in TEXTS]
        assert notes(answer) == {Note.CONTENT_FORM}


def test_thinking_parts_keep_their_kind() -> None:
    part = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}
    answer = both(Api.CHAT, insert(events(Api.CHAT), delta(Api.CHAT, [part])))
    assert set(answer.content_kinds) == {"thinking", "text"}


def test_tool_arguments_as_an_object_count_as_their_json() -> None:
    given, size = {"path": "/x"}, len('{"path": "/x"}')
    call = {"function": {"name": "read", "arguments": given}}
    start = {"type": "tool_use", "id": "t", "name": "read", "input": given}
    kind = "response.function_call_arguments.delta"
    block = "content_block_delta"
    cases = [
        (Api.CHAT, sse({"choices": [{"delta": {"tool_calls": [call]}}]}), size + 4),
        (Api.CHAT, sse({"choices": [{"delta": {"function_call": call["function"]}}]}), size + 4),
        (Api.MESSAGES, sse({"type": "content_block_start", "content_block": start}), size),
        (
            Api.MESSAGES,
            sse({"type": block, "delta": {"type": "input_json_delta", "partial_json": given}}),
            size,
        ),
        (Api.RESPONSES, sse({"type": kind, "delta": given}), size),
    ]
    for api, event, expected in cases:
        answer = both(api, insert(events(api, ()), event))
        assert (answer.outcome, answer.content_kinds) == (Outcome.OK, ["tool_use"])
        assert list(answer.chunk_bytes or ()) == [expected]


def test_content_that_comes_with_the_closing_event_only_is_counted() -> None:
    output = [{"type": "message", "content": [{"type": "output_text", "text": "Rain"}]}]
    inner = {"status": "completed", "output": output, "usage": {"output_tokens": 2}}
    for _ in range(2):
        stream = [sse({"type": "response.completed", "response": inner})]
        answer = both(Api.RESPONSES, stream)
        assert (answer.outcome, list(answer.chunk_bytes or ())) == (Outcome.OK, [4])


# --- usage ---


def with_usage(api: Api, output: Any, prompt: Any = 20) -> list[bytes]:
    """A stream whose final usage has these counts."""
    stream = b"".join(events(api, usage=Usage(77001, None, None, 77002)))
    stream = stream.replace(b"77001", json.dumps(prompt).encode())
    stream = stream.replace(b"77002", json.dumps(output).encode())
    return [event + b"\n\n" for event in stream.split(b"\n\n")[:-1]]


@pytest.mark.parametrize(
    ("value", "found", "note"),
    [
        (8, 8, None),
        (8.0, 8, None),
        ("8", 8, None),
        (0, None, Note.USAGE_ZERO),
        (7.5, None, Note.USAGE_UNUSABLE),
        (-3, None, Note.USAGE_UNUSABLE),
        (True, None, Note.USAGE_UNUSABLE),
        (1 << 70, None, Note.USAGE_UNUSABLE),
        (None, None, None),
    ],
)
def test_a_count_of_output_tokens_is_a_whole_number_or_unknown(
    api: Api, value: Any, found: int | None, note: Note | None
) -> None:
    answer = both(api, with_usage(api, value))
    assert (answer.outcome, answer.output_tok) == (Outcome.OK, found)
    assert notes(answer) == ({note} if note else set())


def test_a_prompt_of_no_tokens_is_unknown() -> None:
    for api in (Api.CHAT, Api.COMPLETIONS, Api.RESPONSES):
        answer = both(api, with_usage(api, 8, 0))
        assert (answer.input_tok, notes(answer)) == (None, {Note.USAGE_ZERO})


def test_a_zero_never_replaces_a_positive_count() -> None:
    answer = both(Api.MESSAGES, with_usage(Api.MESSAGES, 8, 0))
    assert (answer.input_tok, answer.notes) == (20, None)
    for api in (Api.CHAT, Api.COMPLETIONS):
        zero = sse({"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}})
        *rest, marker = events(api)
        answer = both(api, [*rest, zero, marker])
        assert (answer.input_tok, answer.output_tok) == (20, 8)


@pytest.mark.parametrize(
    "end", [{"input_tokens": 0}, {}, {"input_tokens": 20}, {"cache_read_input_tokens": 0}]
)
def test_a_cached_prompt_stays_whole_at_the_end(end: dict[str, int]) -> None:
    start = {"input_tokens": 4, "cache_read_input_tokens": 16, "output_tokens": 0}
    first = sse({"type": "message_start", "message": {"usage": start}})
    stream = events(Api.MESSAGES)
    closing = {"delta": {"stop_reason": "end_turn"}, "usage": end | {"output_tokens": 8}}
    last = sse({"type": "message_delta", **closing})
    answer = both(Api.MESSAGES, [first, *stream[1:-2], last, stream[-1]])
    assert (answer.input_tok, answer.cache_read_tok, answer.output_tok) == (20, 16, 8)


@pytest.mark.parametrize("parts", [(16, 4), (20, 0), (0, 20)])
def test_a_prompt_of_whole_blocks_is_not_counted_twice(parts: tuple[int, int]) -> None:
    """vLLM states the whole prompt at the start, and its cached parts at the end."""
    read, write = parts
    first = sse({"type": "message_start", "message": {"usage": {"input_tokens": 20}}})
    cached = {"cache_read_input_tokens": read, "cache_creation_input_tokens": write}
    usage = {"input_tokens": 0, "output_tokens": 8, **cached}
    last = sse({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage})
    stream = events(Api.MESSAGES)
    answer = both(Api.MESSAGES, [first, *stream[1:-2], last, stream[-1]])
    assert (answer.input_tok, answer.cache_read_tok, answer.notes) == (20, read, None)


@pytest.mark.parametrize("usage", [[], "none", [{"completion_tokens": 8}]])
def test_usage_that_is_no_object_is_no_count(api: Api, usage: Any) -> None:
    text = b"".join(events(api))
    changed = re.sub(
        rb'"usage":\{(?:[^{}]|\{[^{}]*\})*\}', b'"usage":' + json.dumps(usage).encode(), text
    )
    answer = both(api, [event + b"\n\n" for event in changed.split(b"\n\n")[:-1]])
    assert (answer.outcome, answer.output_tok) == (Outcome.OK, None)
    assert notes(answer) == {Note.USAGE_UNUSABLE}


def test_details_that_are_a_list_are_no_count() -> None:
    for details in ([], [{"cached_tokens": 1}], "x"):
        usage = {"prompt_tokens": 20, "completion_tokens": 8, "prompt_tokens_details": details}
        stream = [*events(Api.CHAT, usage=None)[:-1], sse({"choices": [], "usage": usage})]
        answer = both(Api.CHAT, [*stream, b"data: [DONE]\n\n"])
        assert (answer.input_tok, answer.cache_read_tok, answer.output_tok) == (20, None, 8)


def test_the_final_usage_in_every_chunk_is_no_count_of_chunks() -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 8}
    for api in (Api.CHAT, Api.COMPLETIONS):
        for counts in ([8] * 4, [2, 4, 6, 8]):
            content = [
                sse({**json.loads(delta(api, text)[6:]), "usage": usage | {"completion_tokens": n}})
                for text, n in zip(TEXTS, counts, strict=True)
            ]
            answer = both(api, [*content, *events(api, ())])
            assert answer.output_tok == 8
            if counts[0] == 8:
                assert (answer.chunk_tok, notes(answer)) == (None, {Note.USAGE_REPEATED})
            else:
                assert (list(answer.chunk_tok or ()), answer.notes) == ([2, 2, 2, 2], None)


def test_counts() -> None:
    values = (3, 3.0, "3", 3.5, -1, True, None, "x", 1 << 53, [3], "9" * 40)
    assert [count(value) for value in values] == [3, 3, 3, *[None] * 8]


# --- bursts ---


def test_several_events_per_read_are_a_burst(api: Api) -> None:
    stream = events(api)
    half = len(stream) // 2
    for reads in ([b"".join(stream)], [b"".join(stream[:half]), b"".join(stream[half:])]):
        assert Note.BURST in notes(both(api, reads))
    assert Note.BURST not in notes(both(api, [stream[0] + stream[1], *stream[2:]]))
    assert Note.BURST not in notes(both(api, [b"".join(events(api, TEXTS[:1]))]))


# --- records ---


def test_whatever_a_server_sends_can_be_stored() -> None:
    error = b'{"error":{"message":"bad \\ud83d"}}'
    bad = load(Api.CHAT, [error], status=b"500 No", head=b"content-type: application/json\r\n")
    odd = load(Api.CHAT, with_reason(Api.CHAT, "x\ud800"))
    huge = load(Api.CHAT, with_usage(Api.CHAT, 1 << 64))
    records = [
        Record(f"s{i}", 0, "chat", "main", 0, 0, 0, 0, answer)
        for i, answer in enumerate((bad, odd, huge, Answer(Outcome.MALFORMED, "\udfff")))
    ]
    batch = to_batch(records)
    assert batch.schema == REQUESTS
    assert batch["output_tok"].to_pylist() == [None, 8, None, None]


def test_a_stream_cut_after_counted_content_is_truncated_on_both_paths() -> None:
    """The second stream matches shapes learned from the first, so its content is not parsed."""

    def chunk(delta: dict[str, str], tok: int) -> bytes:
        usage = {"usage": {"prompt_tokens": 20, "completion_tokens": tok}}
        return sse({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} | usage)

    for shapes in known.values():
        shapes.clear()
    role = chunk({"role": "assistant", "content": ""}, 0)
    content = [chunk({"content": f"word{i} "}, i + 1) for i in range(6)]
    cut = [role, *content, b"data: [DONE]\n\n"]
    assert load(Api.CHAT, cut).outcome is Outcome.TRUNCATED
    assert known[Api.CHAT]
    assert load(Api.CHAT, cut).outcome is Outcome.TRUNCATED


def test_a_part_that_begins_with_content_begins_once_its_form_is_known() -> None:
    """No shape is learned from it: its match would add to the part before."""
    block = {"type": "text", "text": "one two "}
    start = sse({"type": "content_block_start", "index": 1, "content_block": block})
    known[Api.MESSAGES].clear()
    stream = b"".join(insert(events(Api.MESSAGES), start, start, start))
    for _ in range(2):
        framing = Framing()
        framing.add(b"HTTP/1.1 200 OK\r\n" + TYPE + b"\r\n" + stream, 0)
        framing.end_of_file()
        found = read_answer(framing, Api.MESSAGES, EndOfStream.COMPLETE, keep_parts=True)
        assert found.outcome is Outcome.OK
        assert len(found.parts) == 4
    assert len(known[Api.MESSAGES]) == 1


def test_the_kind_of_an_error_is_its_text_even_next_to_a_numeric_code(api: Api) -> None:
    error = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": WORDS}}
    answer = both(api, insert(events(api), sse(error)))
    assert answer.outcome is Outcome.API_ERROR
    assert answer.error == f"RESOURCE_EXHAUSTED: {WORDS}"
