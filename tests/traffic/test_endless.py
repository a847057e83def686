"""Servers that send without end: every reader of a response stops at a bound, and names it."""

import socket
import threading
import zlib
from collections.abc import Callable, Iterator

import pytest

from harness.api import response
from harness.api.table import wire
from harness.core.network import NONE, Network
from harness.core.records import Api, Boundary, Endpoint, Outcome
from harness.profile.traffic import Timeouts
from harness.server.one_request import one_token_body, request_once
from harness.telemetry import scrape
from harness.telemetry.prometheus.http_api import PrometheusApi, PrometheusError
from harness.telemetry.scrape import MetricsClient
from harness.telemetry.sources.promql import PromqlPowerSource
from harness.traffic._locust.answer import Answer, EndOfStream, read_answer
from harness.traffic._locust.http1 import Framing
from harness.traffic._locust.http_client import Target

MIB = 1 << 20
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
EVENT = (
    b'data: {"choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": null}]}\n\n'
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _bomb() -> bytes:
    pack = zlib.compressobj(9, wbits=31)
    zeros = b"data: " + bytes(64 * MIB)
    return pack.compress(zeros) + pack.flush(zlib.Z_SYNC_FLUSH)


FORMS = {
    "one-line": (CHUNKED + chunk(b"data: "), chunk(b"x" * 65536)),
    "events": (CHUNKED, chunk(EVENT) * 200),
    "pings": (CHUNKED, chunk(b":\n\n") * 2000),
    "events-in-crlf": (CHUNKED, chunk(EVENT.replace(b"\n", b"\r\n"))),
    "headers": (HEAD, b"x-more: " + b"y" * 4096 + b"\r\n"),
    "one-header": (HEAD + b"x-long: ", b"y" * 65536),
    "interim": (b"", b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 100),
    "trailers": (CHUNKED + chunk(EVENT) + b"0\r\n", b"x-more: " + b"y" * 4096 + b"\r\n"),
    "length": (HEAD + b"content-length: 99999999999\r\n\r\n", EVENT * 200),
    "until-close": (HEAD + b"\r\n", EVENT * 200),
    "document": (CHUNKED.replace(b"text/event-stream", b"application/json"), chunk(b"[" * 65536)),
    "refusal": (CHUNKED.replace(b"200 OK", b"500 Oh"), chunk(b"[" * 65536)),
    "gzip": (CHUNKED[:-2] + b"content-encoding: gzip\r\n\r\n", chunk(_bomb())),
}
"""What a server sends first, and then without end."""


@pytest.fixture
def serving() -> Iterator[Callable[[str], str]]:
    """Starts a server of a form; its URL. It sends at most 64 MiB, so that a failure is no harm."""
    listener = socket.create_server(("127.0.0.1", 0))
    made: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.recv(65536)
                    connection.sendall(made[0])
                    for _ in range(64 * MIB // len(made[1])):
                        connection.sendall(made[1])
                except OSError:
                    pass  # the reader has gone, as it must

    def start(form: str) -> str:
        made.extend(FORMS[form])
        thread.start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    thread = threading.Thread(target=serve, daemon=True)
    yield start
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(20)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response, "MOST_BYTES", MIB)
    monkeypatch.setattr(scrape, "_MAX_BODY_BYTES", MIB)


def load(url: str) -> tuple[Framing, Answer]:
    limits = Timeouts(connect_s=5, first_byte_s=20, idle_s=20, total_s=30)
    exchange = Target(Endpoint("replica-0", url, "m"), Api.CHAT, None, limits).send(b"{}", "r")
    answer = read_answer(
        exchange.framing,
        Api.CHAT,
        exchange.ending,
        local=exchange.local,
        error=exchange.error,
    )
    return exchange.framing, answer


@pytest.mark.parametrize("form", list(FORMS))
def test_the_load_stops_reading(serving: Callable[[str], str], form: str) -> None:
    framing, answer = load(serving(form))
    expected = Outcome.HTTP_ERROR if form == "refusal" else Outcome.MALFORMED
    assert answer.outcome is expected, answer.error
    if form in {"headers", "one-header", "interim"}:
        assert "of headers" in str(answer.error)
    elif form not in {"refusal", "document"}:
        assert f"longer than {MIB} bytes" in str(answer.error)
    assert sum(map(len, framing.reads)) + len(framing.body) < 5 * MIB
    if form == "events":
        assert answer.first_token_ns is not None


@pytest.mark.parametrize("size", [1, 3])
def test_reads_of_a_few_bytes_count_by_their_memory(size: int) -> None:
    framing, reads = Framing(), 0
    framing.add(CHUNKED, 0)
    pieces = b"1\r\n:\r\n"
    while not framing.add(pieces[reads * size % 6 :][:size], reads):
        reads += 1
        assert reads < MIB // 100
    assert len(framing.reads) == len(framing.times_ns) == len(framing.body_ends) == 64
    assert read_answer(framing, Api.CHAT, EndOfStream.COMPLETE).outcome is Outcome.MALFORMED


def test_endless_tiny_header_reads_cost_no_quadratic_time() -> None:
    framing, reads = Framing(), 0
    framing.add(HEAD + b"x-long: ", 0)
    while not framing.add(b"y", reads):
        reads += 1
    assert reads < MIB
    assert framing.error is not None


CHECKED = sorted(FORMS.keys() - {"interim"})
"""The readers of httpx and of the standard library take interim responses, and the latter
trailers, one by one, and keep none.
"""


@pytest.mark.parametrize("form", CHECKED)
def test_the_checks_stop_reading(serving: Callable[[str], str], form: str) -> None:
    endpoint = Endpoint("replica-0", serving(form), "m")
    reply = request_once(endpoint, Api.CHAT, one_token_body("m", Api.CHAT), timeout_s=20)
    assert not reply.ok
    if "header" not in form and form != "trailers":
        assert f"longer than {MIB} bytes" in str(reply.error)


@pytest.mark.parametrize("form", sorted(set(CHECKED) - {"trailers"}))
def test_the_scrapes_stop_reading(serving: Callable[[str], str], form: str) -> None:
    client = MetricsClient("t", serving(form) + "/metrics", 20, Network(proxy=NONE))
    found = client.fetch()
    client.close()
    assert found.body is None
    assert found.error is not None
    if form in {"one-line", "events", "length", "until-close"}:
        assert f"more than {MIB} bytes" in found.error


@pytest.mark.parametrize("form", ["one-line", "events", "length", "document", "gzip"])
def test_the_queries_stop_reading(serving: Callable[[str], str], form: str) -> None:
    url = serving(form)
    api = PrometheusApi(url)
    with pytest.raises(PrometheusError, match=f"longer than {MIB} bytes"):
        api.get("/api/v1/query")
    api.close()
    source = PromqlPowerSource(url, query="watts", boundary=Boundary.NODE)
    assert "larger than any meter's" in str(source.probe())
    source.close()


def test_a_good_response_below_the_bound_is_whole() -> None:
    writer = wire(Api.CHAT).writer("m", "1")
    assert len(writer.start(None)) < MIB
    assert response.joined([b"ab", b"c"], 300) == b"abc"
    with pytest.raises(response.TooLongError):
        response.joined([b"ab", b"c"], 100)
