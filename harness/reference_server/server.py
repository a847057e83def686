"""The paced test double: a server that streams at a set pace and records each token's write time.

It is not a model: its text is a fixed list of words and its prompt counts are body bytes / 4. Its
name, a `server` header and `/v1/models` show this. It tests the load generator and measures the
error of its clocks, so it must be lighter than what it tests: one thread, epoll, a heap of due
writes, bytes made in advance, and only a few request fields parsed.

    python -m harness.reference_server.server --port 0 --ttft-ms 100 --gap-ms 20 --truth truth.jsonl

prints one line, `{"url": "http://127.0.0.1:40123", "pid": 4711}`, and serves until SIGTERM. The
truth file has one JSON line per request, with `request_id` from the client's `x-harness-request-id`
header, `content_ns`, the monotonic time just before each write that completed content events, and
`content_bytes`, the content of each (`harness.artifacts.canary_truth` pairs it with a client's
records). These are times of writes, not of the schedule, so they are right even if a write is late.

With `--slots` it is an M/M/c queue instead of a fixed pace: a request waits for a free slot
(`wait_ns` in the truth), sends its first token at once and the others evenly over its service time
(`service_ns`), which is exponential. With one token, that token ends the service.
"""

import argparse
import copy
import hashlib
import heapq
import json
import os
import re
import resource
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from email.utils import format_datetime
from enum import Enum
from functools import cache, lru_cache
from itertools import chain
from pathlib import Path
from typing import IO, Any, Final, Self

import httptools

from harness.api.base import AnswerWriter, Finish, Text, WireApi, compact
from harness.api.reader import Usage
from harness.api.table import WIRE_APIS
from harness.core.clock import now_ns, wall_now
from harness.processes import lines
from harness.processes.child import Child, ChildSpec
from harness.processes.registry import RunRegistry
from harness.processes.start import own_environment, own_module
from harness.reference_server.faults import Fault
from harness.reference_server.slots import Slots

MODEL: Final = "paced-test-double"
SERVER: Final = "harness-paced-test-double"
REQUEST_ID_HEADER: Final = "x-harness-request-id"
BYTES_PER_TOK: Final = 4
"""Prompt counts are body bytes over this: fictitious, but known to client and server."""

_TEXT: Final = ' the load is paced by a clock; every write has its time.\n Überholt nichts "so"'
_WORDS: Final[list[str]] = re.findall(r" ?[^ ;.\n]+|[;.\n]", _TEXT)
_MS = 1_000_000


class _Do(Enum):
    """A step that is not a write."""

    CLOSE = "close"
    RESET = "reset"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Pace:
    """How to answer.

    Attributes:
        ttft_ms: from the request's last byte to the first token.
        gap_ms: between tokens.
        tokens: output tokens, limited by a request's max_tokens. None: max_tokens.
        faults: request k gets faults[k % len(faults)].
        hash_bodies: record each body's sha256 in the truth.
        slots: requests in service at once, each for an exponential time in place of `ttft_ms` and
            `gap_ms`; None: all at once, at that pace.
        service_ms: mean service time in a slot.
        seed: of the service times.
    """

    ttft_ms: float = 100.0
    gap_ms: float = 20.0
    tokens: int | None = None
    faults: tuple[Fault, ...] = (Fault.NONE,)
    hash_bodies: bool = False
    slots: int | None = None
    service_ms: float = 100.0
    seed: int = 1


@dataclass(slots=True)
class _Request:
    api: WireApi
    request_id: str | None
    fault: Fault
    input_tok: int
    output_tok: int
    capped: bool
    continuous_usage: bool
    received_ns: int
    body_bytes: int
    body_sha256: str | None
    service_ns: int | None = None
    started_ns: int | None = None
    content_ns: list[int] = field(default_factory=list)
    sent_tok: int = 0


# A step: pause before it (ns); bytes, a function that makes them from the request, or a `_Do`;
# number of tokens that it completes.
_Data = bytes | _Do | Callable[[_Request], bytes]
_Step = tuple[int, _Data, int]


# --- bytes ---


def _chunk(data: bytes) -> bytes:
    # An empty chunk would end the message.
    return b"%x\r\n%s\r\n" % (len(data), data) if data else b""


def _stream_head(api: WireApi, framing: bytes) -> bytes:
    return _head(framing, f"{api.stream_type}; charset=utf-8".encode(), b"200 OK")


def _head(framing: bytes, content_type: bytes, status: bytes) -> bytes:
    server = SERVER.encode()
    head = b"HTTP/1.1 %s\r\nserver: %s\r\ncontent-type: %s\r\n%s\r\n"
    return head % (status, server, content_type, framing)


def _start(request: _Request) -> bytes:
    usage = None if request.fault is Fault.NO_USAGE else Usage(request.input_tok, output_tok=0)
    return _writer(request.api).start(usage, continuous=request.continuous_usage)


def _writer(api: WireApi) -> AnswerWriter:
    return api.writer(MODEL, "paced")


def _word(index: int) -> str:
    return _WORDS[index % len(_WORDS)]


@lru_cache(maxsize=256)
def _writer_after(api: WireApi, tokens: int) -> AnswerWriter:
    writer = _writer(api)
    writer.start(None)
    for index in range(tokens):
        writer.piece(Text(_word(index)))
    return writer


def _end(request: _Request) -> bytes:
    writer = copy.copy(_writer_after(request.api, request.output_tok))
    return writer.end(_finish(request), _usage(request))


def _finish(request: _Request) -> Finish:
    return Finish("length" if request.capped else "stop")


def _usage(request: _Request) -> Usage | None:
    prompt, output = request.input_tok, request.output_tok
    if request.fault is Fault.NO_USAGE:
        return None
    if request.fault is Fault.CACHE_USAGE:
        return Usage(prompt, prompt // 2, prompt // 4, output)
    return Usage(prompt, output_tok=output)


_PROMPT_MARK: Final = 10**15
"""Placeholder for the prompt count in events that are made before their request."""


@cache
def _events(api: WireApi, counted: bool) -> tuple[AnswerWriter, list[bytes]]:  # noqa: ARG001
    """A writer of tokens, and their events so far; one per value of `counted`."""
    writer = _writer(api)
    writer.start(None)
    return writer, []


def _token_event(api: WireApi, index: int, *, counted: bool = False) -> bytes:
    """The event of a token; `counted`: with usage, if the API has that in every event."""
    writer, events = _events(api, counted)
    while len(events) <= index:
        usage = Usage(_PROMPT_MARK, output_tok=len(events) + 1) if counted else None
        events.append(writer.piece(Text(_word(len(events))), usage))
    return events[index]


@lru_cache(maxsize=4096)
def _token_template(api: WireApi, index: int) -> bytes:
    """An event with usage; `%(prompt)d` and `%(total)d` are filled in for a request."""
    event = _token_event(api, index, counted=True).replace(b"%", b"%%")
    event = event.replace(b"%d" % (_PROMPT_MARK + index + 1), b"%(total)d")
    return event.replace(b"%d" % _PROMPT_MARK, b"%(prompt)d")


def _filled(api: WireApi, index: int) -> Callable[[_Request], bytes]:
    template = _token_template(api, index)

    def fill(request: _Request) -> bytes:
        prompt = request.input_tok
        return template % {b"prompt": prompt, b"total": prompt + index + 1}

    return fill


@lru_cache(maxsize=256)
def text_of(tokens: int) -> str:
    """The text of a response of so many tokens."""
    return "".join(map(_word, range(tokens)))


def token_bytes(index: int) -> int:
    """UTF-8 bytes of token `index` of any response."""
    return len(_word(index).encode())


@lru_cache(maxsize=4096)
def _all_token_bytes(tokens: int) -> tuple[int, ...]:
    return tuple(map(token_bytes, range(tokens)))


# --- scripts ---

_CHUNKED: Final = b"transfer-encoding: chunked\r\n"
_BREAKS: Final = {
    Fault.TRUNCATED: _Do.CLOSE,
    Fault.RESET_IN_STREAM: _Do.RESET,
    Fault.STALL: _Do.HOLD,
}
_LENGTH_ERRORS: Final = {
    Fault.CONTENT_LENGTH: 0,
    Fault.LENGTH_TOO_LONG: 100,
    Fault.LENGTH_TOO_SHORT: -10,
}
"""Bytes by which content-length is wrong."""


def _paced_script(
    api: WireApi, tokens: int, ttft_ns: int, gap_ns: int, *, usage: bool
) -> tuple[_Step, ...]:
    """The normal response: headers and start at once, one paced write per token, then the end."""

    def framed(make: Callable[[_Request], bytes]) -> Callable[[_Request], bytes]:
        return lambda request: _chunk(make(request))

    head = _stream_head(api, _CHUNKED)
    _writer_after(api, tokens)  # cached now, not between two writes
    steps: list[_Step] = [(0, lambda request: head + _chunk(_start(request)), 0)]
    for index in range(tokens):
        data: _Data = framed(_filled(api, index)) if usage else _chunk(_token_event(api, index))
        steps.append((gap_ns if index else ttft_ns, data, 1))
    steps.append((0, lambda request: _chunk(_end(request)) + b"0\r\n\r\n", 0))
    return tuple(steps)


_repeated_script = lru_cache(maxsize=256)(_paced_script)


def _response(
    body: bytes,
    status: bytes = b"200 OK",
    headers: bytes = b"",
    content_type: bytes = b"application/json",
) -> bytes:
    return _head(b"content-length: %d\r\n%s" % (len(body), headers), content_type, status) + body


def _error(kind: str, message: str, status: bytes, headers: bytes = b"") -> bytes:
    body = {"type": "error", "error": {"type": kind, "message": message}}
    return _response(compact(body), status, headers)


_OVERLOADED: Final = ("overloaded_error", "Overloaded")
_EARLY: Final[dict[Fault, tuple[bytes | _Do, ...]]] = {
    Fault.RATE_LIMITED: (
        _error("rate_limit_error", "Slow down", b"429 Too Many Requests", b"retry-after: 2\r\n"),
    ),
    Fault.OVERLOADED: (_error(*_OVERLOADED, b"529 Overloaded", b"retry-after-ms: 1500\r\n"),),
    Fault.PLAIN_ERROR: (
        _response(b"<h1>It broke</h1>", b"500 Internal Server Error", content_type=b"text/html"),
    ),
    Fault.NOT_A_STREAM: (_response(b'{"hello":"there"}'),),
    Fault.RESET: (_Do.RESET,),
    Fault.CLOSE_AT_ONCE: (_Do.CLOSE,),
    Fault.GARBAGE: (b"\x16\x03\x01 this is no HTTP\r\n\r\n", _Do.CLOSE),
    Fault.STALL_FIRST: (_Do.HOLD,),
}
"""What is done instead of a stream."""


def _unavailable() -> bytes:
    now = wall_now().replace(microsecond=0)
    dates = (
        format_datetime(date, usegmt=True).encode()
        for date in (now, now.replace(year=now.year + 1, day=1))
    )
    headers = b"date: %s\r\nretry-after: %s\r\n" % tuple(dates)
    return _error(*_OVERLOADED, b"503 Service Unavailable", headers)


def _pauses(request: _Request, pace: Pace) -> tuple[int, int]:
    """Time to the first token, from the request or its slot, and between tokens."""
    if request.service_ns is None:
        return round(pace.ttft_ms * _MS), round(pace.gap_ms * _MS)
    gaps = request.output_tok - 1
    return (0, request.service_ns // gaps) if gaps else (request.service_ns, 0)


def _script(request: _Request, pace: Pace) -> tuple[_Step, ...]:
    ttft_ns, gap_ns = _pauses(request, pace)
    if request.fault is Fault.NONE:
        # in slots every request has its own gap
        make = _repeated_script if request.service_ns is None else _paced_script
        return make(
            request.api, request.output_tok, ttft_ns, gap_ns, usage=request.continuous_usage
        )
    if request.fault is Fault.UNAVAILABLE:
        return ((0, _unavailable(), 0),)
    if request.fault in _EARLY:
        return tuple((0, data, 0) for data in _EARLY[request.fault])
    return tuple(_odd_stream(request, ttft_ns, gap_ns))


def _odd_stream(request: _Request, ttft_ns: int, gap_ns: int) -> list[_Step]:
    api, fault, tokens = request.api, request.fault, request.output_tok
    usage = request.continuous_usage and fault is not Fault.NO_USAGE
    # The stream's body in pieces: (pause, bytes, tokens).
    pieces: list[tuple[int, bytes, int]] = [(0, _start(request), 0)]
    for index in range(tokens):
        data = _filled(api, index)(request) if usage else _token_event(api, index)
        pieces.append((gap_ns if index else ttft_ns, data, 1))
    half = 1 + (tokens + 1) // 2
    end = (0, _end(request), 0)
    last: list[_Step] = []
    framing = _CHUNKED
    match fault:
        case Fault.ERROR_EVENT:
            error = _writer(api).error(529, "overloaded_error", "Overloaded")
            pieces = [*pieces[:half], (0, error, 0)]
        case Fault.TRUNCATED | Fault.RESET_IN_STREAM | Fault.STALL:
            pieces = pieces[:half]
            last = [(gap_ns, _BREAKS[fault], 0)]
        case Fault.NO_END_MARKER:
            pieces = pieces[:half]
        case Fault.HALF_EVENT:
            torn = pieces[half][1][:25] if half < len(pieces) else b"data: {"
            pieces = [*pieces[:half], (gap_ns, torn, 0)]
        case Fault.BAD_JSON:
            bad = (0, b'data: {"type": oops}\n\n', 0)
            pieces = [*pieces[:half], bad, *pieces[half:], end]
        case Fault.AFTER_THE_END:
            pieces = [*pieces, end, (0, _token_event(api, 0), 0)]
        case Fault.ENDLESS_PINGS:
            pieces = pieces[:half]
            last = [(max(gap_ns, _MS), _chunk(api.ping), 0)] * 100_000
        case Fault.COMMENTS:
            pairs = [
                ((pause, b": comment\n\n", 0), (0, api.ping + data, tok))
                for pause, data, tok in pieces
            ]
            pieces = [*chain.from_iterable(pairs), end]
        case Fault.SEVERAL_PER_WRITE:
            grouped = [pieces[i : i + 4] for i in range(1, len(pieces), 4)]
            joined = [
                (group[0][0], b"".join(piece[1] for piece in group), len(group))
                for group in grouped
            ]
            pieces = [pieces[0], *joined, end]
        case Fault.EVENT_OVER_WRITES:
            pairs = [
                ((pause, data[: len(data) // 2], 0), (gap_ns // 2, data[len(data) // 2 :], tok))
                for pause, data, tok in pieces
            ]
            pieces = [*chain.from_iterable(pairs), end]
        case _:
            pieces = [*pieces, end]
    if fault is Fault.CRLF:
        pieces = [(pause, data.replace(b"\n", b"\r\n"), tok) for pause, data, tok in pieces]
    if fault in _LENGTH_ERRORS:
        length = sum(len(data) for _, data, _ in pieces) + _LENGTH_ERRORS[fault]
        framing = b"content-length: %d\r\n" % length
    elif fault is Fault.UNTIL_CLOSE:
        framing = b"connection: close\r\n"
    chunked = framing is _CHUNKED
    steps: list[_Step] = [(0, _stream_head(api, framing), 0)]
    for pause, data, tok in pieces:
        wire = _chunk(data) if chunked else data
        if fault is Fault.SPLIT_BYTES:
            steps += [
                (pause if i == 0 else 0, wire[i : i + 1], tok if i == len(wire) - 1 else 0)
                for i in range(len(wire))
            ]
        else:
            steps.append((pause, wire, tok))
    if last:
        return steps + last
    if chunked:
        return [*steps, (0, b"0\r\n\r\n", 0)]
    return steps if fault is Fault.CONTENT_LENGTH else [*steps, (0, _Do.CLOSE, 0)]


# --- server ---

_LENGTH_KEYS = "|".join(sorted({key for api in WIRE_APIS.values() for key in api.length_keys}))
_MAX_TOKENS = re.compile(rb'"(?:%b)"\s*:\s*(\d+)' % _LENGTH_KEYS.encode())
_STREAM = re.compile(rb'"stream"\s*:\s*true')
_CONTINUOUS = re.compile(rb'"continuous_usage_stats"\s*:\s*true')
_ROUTES = {api.path.encode(): api for api in WIRE_APIS.values()}
_READ_SIZE = 1 << 18


class _Connection:
    """One client connection: reads requests, plays scripts."""

    def __init__(self, server: "_Server", sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.closed = False
        self.keep_alive = True
        self.out = b""
        self.request: _Request | None = None
        self.script: tuple[_Step, ...] = ()
        self.step = 0
        self._reset()

    def _reset(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.url = b""
        self.headers: dict[bytes, bytes] = {}
        self.body: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self.headers.get(b"expect", b"").lower() == b"100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self.body.append(data)

    def on_message_complete(self) -> None:
        self.keep_alive = bool(self.parser.should_keep_alive())
        self.server.answer(
            self, self.parser.get_method(), self.url.partition(b"?")[0], b"".join(self.body)
        )
        self._reset()

    def readable(self) -> None:
        try:
            data = self.sock.recv(_READ_SIZE)
            if data:
                self.parser.feed_data(data)
                return
        except BlockingIOError:
            return
        except (OSError, httptools.HttpParserError):
            pass  # closed, as if the client had disconnected
        self.close()

    def send(self, data: bytes) -> None:
        """Write to the socket; the rest when it is writable again."""
        if self.out:
            self.out += data
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(data):
            self.out = data[sent:]
            self.server.epoll.modify(self.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def writable(self) -> None:
        data, self.out = self.out, b""
        self.server.epoll.modify(self.sock.fileno(), select.EPOLLIN)
        self.send(data)

    def close(self, *, reset: bool = False) -> None:
        """Close it. A request in progress is recorded as aborted unless its script closes."""
        if self.closed:
            return
        self.closed = True
        if self.request is not None:
            self.server.finished(self, aborted=self.step < len(self.script))
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.server.forget(self)
        self.sock.close()


class _Server:
    """The event loop."""

    def __init__(self, pace: Pace, host: str, port: int, truth: IO[str] | None) -> None:
        self.pace = pace
        self.truth = truth
        self.epoll = select.epoll()
        self.listener = socket.create_server((host, port), backlog=4096, reuse_port=False)
        self.listener.setblocking(False)
        self.epoll.register(self.listener.fileno(), select.EPOLLIN)
        self.connections: dict[int, _Connection] = {}
        self.due: list[tuple[int, int, _Connection, _Request]] = []
        self.sequence = 0
        self.slots: Slots[tuple[_Connection, _Request]] | None = (
            None if pace.slots is None else Slots(pace.slots, pace.service_ms / 1000, pace.seed)
        )
        self.stopping = False
        self.accepted = self.running = self.generated_tok = self.prompt_tok = 0
        self.by_reason = {"stop": 0, "length": 0, "abort": 0}
        self.routes: dict[bytes, Callable[[], bytes]] = {
            b"/health": lambda: b"",
            b"/v1/models": self._models,
            b"/metrics": self._metrics,
        }

    @property
    def url(self) -> str:
        host, port = self.listener.getsockname()[:2]
        return f"http://{host}:{port}"

    def serve(self) -> None:
        listener = self.listener.fileno()
        poll, due, connections = self.epoll.poll, self.due, self.connections
        while not self.stopping:
            timeout = max(0, (due[0][0] - now_ns()) / 1e9) if due else 1.0
            for fd, mask in poll(min(timeout, 1.0)):
                if fd == listener:
                    self._accept()
                    continue
                connection = connections.get(fd)
                if connection is None:
                    continue
                if mask & select.EPOLLOUT:
                    connection.writable()
                if mask & ~select.EPOLLOUT and not connection.closed:
                    connection.readable()
            now = now_ns()
            while due and due[0][0] <= now:
                at, _, connection, request = heapq.heappop(due)
                if connection.request is request and not connection.closed:
                    self._play(connection, request, at)
        for connection in list(connections.values()):
            connection.close()
        if self.truth is not None:
            self.truth.flush()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self.listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections[sock.fileno()] = _Connection(self, sock)
            self.epoll.register(sock.fileno(), select.EPOLLIN)

    def forget(self, connection: _Connection) -> None:
        fd = connection.sock.fileno()
        self.connections.pop(fd, None)
        self.epoll.unregister(fd)

    def answer(self, connection: _Connection, method: bytes, path: bytes, body: bytes) -> None:
        if method == b"GET" and path in self.routes:
            content_type = (
                b"text/plain; version=0.0.4" if path == b"/metrics" else b"application/json"
            )
            connection.send(_response(self.routes[path](), content_type=content_type))
            return
        if path == b"/v1/messages/count_tokens":
            count = {"input_tokens": max(1, len(body) // BYTES_PER_TOK)}
            connection.send(_response(compact(count)))
            return
        if method != b"POST" or path not in _ROUTES:
            message = f"no route {path.decode(errors='replace')}"
            connection.send(_error("not_found_error", message, b"404 Not Found"))
            return
        request = self._request(_ROUTES[path], connection.headers, body)
        connection.request = request
        self.running += 1
        if _STREAM.search(body) or request.fault is not Fault.NONE:
            connection.script = _script(request, self.pace)
        else:
            ttft_ns, gap_ns = _pauses(request, self.pace)
            wait_ns = ttft_ns + gap_ns * (request.output_tok - 1)
            connection.script = ((wait_ns, _whole_answer(request), request.output_tok),)
        connection.step = 0
        if self.slots is None or self.slots.enter((connection, request)):
            self._start(connection, request, request.received_ns)

    def _start(self, connection: _Connection, request: _Request, at: int) -> None:
        request.started_ns = at
        if pause := connection.script[0][0]:
            self._wait(connection, request, at + pause)
        else:
            self._play(connection, request, at)

    def _leave(self, connection: _Connection, request: _Request) -> None:
        """The slot of a request that has ended goes to the next in the queue, from the loop."""
        if self.slots is None:
            return
        if request.started_ns is None:
            self.slots.abandon((connection, request))
        elif (following := self.slots.leave()) is not None:
            other, its = following
            its.started_ns = now_ns()
            self._wait(other, its, its.started_ns + other.script[0][0])

    def _request(self, api: WireApi, headers: dict[bytes, bytes], body: bytes) -> _Request:
        fault = self.pace.faults[self.accepted % len(self.pace.faults)]
        self.accepted += 1
        # The harness writes max_tokens after the messages: search the end first, not 0.5 MB.
        asked = _MAX_TOKENS.search(body, max(0, len(body) - 512)) or _MAX_TOKENS.search(body)
        most = int(asked[1]) if asked else None
        limits = [limit for limit in (self.pace.tokens, most) if limit is not None]
        output_tok = max(1, min(limits, default=16))
        input_tok = max(1, len(body) // BYTES_PER_TOK)
        self.prompt_tok += input_tok
        request_id = headers.get(REQUEST_ID_HEADER.encode())
        return _Request(
            api=api,
            request_id=request_id.decode("latin-1") if request_id else None,
            fault=fault,
            input_tok=input_tok,
            output_tok=output_tok,
            capped=output_tok == most,
            continuous_usage=_CONTINUOUS.search(body) is not None,
            received_ns=now_ns(),
            body_bytes=len(body),
            body_sha256=hashlib.sha256(body).hexdigest() if self.pace.hash_bodies else None,
            service_ns=None if self.slots is None else self.slots.service_ns(),
        )

    def _wait(self, connection: _Connection, request: _Request, at: int) -> None:
        self.sequence += 1
        heapq.heappush(self.due, (at, self.sequence, connection, request))

    def _play(self, connection: _Connection, request: _Request, at: int) -> None:
        """Do the step that is due and the following ones without pause; then wait for the next."""
        script = connection.script
        while True:
            _, data, tokens = script[connection.step]
            connection.step += 1
            self._do(connection, request, data, tokens)
            if connection.closed or data is _Do.HOLD:
                return
            if connection.step == len(script):
                break
            if pause := script[connection.step][0]:
                self._wait(connection, request, at + pause)
                return
        self.finished(connection, aborted=False)
        if not connection.keep_alive:
            connection.close()

    def _do(self, connection: _Connection, request: _Request, data: _Data, tokens: int) -> None:
        if data is _Do.CLOSE or data is _Do.RESET:
            connection.close(reset=data is _Do.RESET)
            return
        if isinstance(data, _Do):
            return
        wire = data if isinstance(data, bytes) else data(request)
        written_ns = now_ns()
        connection.send(wire)
        if tokens:
            request.content_ns.append(written_ns)
            request.sent_tok += tokens
            self.generated_tok += tokens

    def finished(self, connection: _Connection, *, aborted: bool) -> None:
        """Record the truth about a request that has ended."""
        request, connection.request = connection.request, None
        if request is None:
            return
        self.running -= 1
        self.by_reason["abort" if aborted else "length" if request.capped else "stop"] += 1
        if self.truth is not None:
            line = {
                "request_id": request.request_id,
                "api": request.api.name,
                "fault": request.fault,
                "received_ns": request.received_ns,
                "content_ns": request.content_ns,
                "done_ns": now_ns(),
                "tokens": request.sent_tok,
                "input_tok": request.input_tok,
                # Known if every write had one token: with several, gaps have no ground truth.
                "content_bytes": (
                    _all_token_bytes(request.sent_tok)
                    if len(request.content_ns) == request.sent_tok
                    else None
                ),
                "aborted": aborted,
                "body_bytes": request.body_bytes,
                "body_sha256": request.body_sha256,
            }
            if request.service_ns is not None:
                started_ns = request.started_ns
                line |= {
                    "wait_ns": None if started_ns is None else started_ns - request.received_ns,
                    "service_ns": request.service_ns,
                }
            self.truth.write(json.dumps(line) + "\n")
        self._leave(connection, request)

    def _models(self) -> bytes:
        model = {"id": MODEL, "object": "model", "created": 0, "owned_by": SERVER}
        return compact({"object": "list", "data": [model]})

    def _metrics(self) -> bytes:
        label = f'engine="0",model_name="{MODEL}"'
        ends = {f'finished_reason="{why}",{label}': count for why, count in self.by_reason.items()}
        waiting = 0 if self.slots is None else self.slots.waiting
        out = ""
        for name, kind, text, samples in (
            ("num_requests_running", "gauge", "Running requests.", {label: self.running - waiting}),
            ("num_requests_waiting", "gauge", "Requests without a slot.", {label: waiting}),
            ("prompt_tokens_total", "counter", "Body bytes over four.", {label: self.prompt_tok}),
            ("generation_tokens_total", "counter", "Words written.", {label: self.generated_tok}),
            ("request_success_total", "counter", "Requests that ended, by reason.", ends),
        ):
            out += f"# HELP vllm:{name} {text}\n# TYPE vllm:{name} {kind}\n"
            for labels, value in samples.items():
                out += f"vllm:{name}{{{labels}}} {value}\n"
        return out.encode()


def _whole_answer(request: _Request) -> bytes:
    text = Text(text_of(request.output_tok))
    value = _writer(request.api).whole([text], _finish(request), _usage(request))
    return _response(compact(value))


# --- as a child process ---

_STOP_TIMEOUT_S: Final = 10.0


class PacedServer:
    """The paced server as a child process, for tests and calibration.

    It writes a file `truth` in blocks, which is light, or with `live_truth` at each request's end.
    `url` and `pid` are known after the start.
    """

    def __init__(
        self,
        pace: Pace,
        truth: Path | None = None,
        *,
        live_truth: bool = False,
        cores: Collection[int] | None = None,
        registry: RunRegistry | None = None,
    ) -> None:
        options = ["--port", "0", "--ttft-ms", str(pace.ttft_ms), "--gap-ms", str(pace.gap_ms)]
        options += [] if pace.tokens is None else ["--tokens", str(pace.tokens)]
        options += ["--hash-bodies"] if pace.hash_bodies else []
        if pace.slots is not None:
            options += ["--slots", str(pace.slots), "--service-ms", str(pace.service_ms)]
            options += ["--seed", str(pace.seed)]
        options += [arg for fault in pace.faults for arg in ("--fault", fault.value)]
        options += ["--truth", str(truth)] if truth else []
        options += ["--live-truth"] if live_truth else []
        self._spec = ChildSpec(
            name="paced",
            argv=own_module("harness.reference_server.server", *options),
            env=own_environment(),
            speaks=True,
            cores=cores,
        )
        self._truth = truth
        self._registry = registry
        self._child: Child | None = None
        self.url = ""
        self.pid = 0

    def __enter__(self) -> Self:
        self._child = child = Child.start(self._spec, self._registry)
        line = next(child.lines(), None)
        if line is None:
            status = child.wait()
            child.stop(0)
            raise RuntimeError(f"the paced server did not start (exit {status})")
        self.url, self.pid = lines.decode(line)["url"], child.pid
        return self

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop(_STOP_TIMEOUT_S)

    def __exit__(self, *_: object) -> None:
        self.stop()

    def truth(self) -> list[dict[str, Any]]:
        """Lines of the truth file so far, ordered by end of request."""
        assert self._truth is not None
        return [json.loads(line) for line in self._truth.read_text(encoding="utf-8").splitlines()]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.reference_server.server",
        description="Paced test double, not a real engine.",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--ttft-ms", type=float, default=100.0)
    parser.add_argument("--gap-ms", type=float, default=20.0)
    parser.add_argument(
        "--tokens", type=int, help="output tokens, at most max_tokens (the default)"
    )
    parser.add_argument(
        "--fault",
        action="append",
        choices=[fault.value for fault in Fault],
        help="repeatable; requests cycle through them",
    )
    parser.add_argument("--truth", type=Path, help="JSON lines with the time of every write")
    parser.add_argument("--live-truth", action="store_true", help="write truth at once, unbuffered")
    parser.add_argument("--hash-bodies", action="store_true")
    parser.add_argument("--slots", type=int, help="requests in service at once; others wait")
    parser.add_argument("--service-ms", type=float, default=100.0, help="mean time in a slot")
    parser.add_argument("--seed", type=int, default=1, help="of the service times")
    args = parser.parse_args(argv)
    pace = Pace(
        ttft_ms=args.ttft_ms,
        gap_ms=args.gap_ms,
        tokens=args.tokens,
        faults=tuple(Fault(name) for name in args.fault or ["none"]),
        hash_bodies=args.hash_bodies,
        slots=args.slots,
        service_ms=args.service_ms,
        seed=args.seed,
    )
    # Every stream is a descriptor, and the default limit is often 1,024.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    truth = (
        args.truth.open("w", encoding="utf-8", buffering=1 if args.live_truth else 1 << 20)
        if args.truth
        else None
    )
    server = _Server(pace, args.host, args.port, truth)

    def stop(_signal: int, _frame: object) -> None:
        server.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    # A signal makes the pipe readable and so ends the poll, which Python would otherwise resume.
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    server.epoll.register(woken, select.EPOLLIN)
    os.write(lines.inherited()[1], lines.encode({"url": server.url, "pid": os.getpid()}))
    try:
        server.serve()
    finally:
        if truth is not None:
            truth.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
