"""Scraping: whole bodies, or an error that says what was wrong; in time, and out of turn when
asked.
"""

import gzip
import socket
import threading
import zlib

import pytest

from harness.core.clock import NS_PER_S
from harness.telemetry.scrape import Demand, MetricsClient, Scrape, Scraper


def test_a_whole_body_over_one_connection(metrics_server) -> None:
    client = MetricsClient("replica-0", metrics_server.url, 5.0)
    scrapes = [client.fetch() for _ in range(3)]
    client.close()
    assert [scrape.error for scrape in scrapes] == [None] * 3
    assert scrapes[0].body is not None
    assert scrapes[0].body.startswith(b"# TYPE vllm:num_requests_running")
    assert scrapes[0].content_type == "text/plain; version=0.0.4"
    assert scrapes[0].http_status == 200
    assert scrapes[0].duration_ns > 0
    assert (metrics_server.hits, metrics_server.connections) == (3, 1)


def test_a_server_that_closes_the_connection_is_no_failure(metrics_server) -> None:
    client = MetricsClient("replica-0", metrics_server.url, 5.0)
    metrics_server.mode = "close"
    assert [client.fetch().error for _ in range(3)] == [None] * 3
    client.close()
    assert metrics_server.connections == 3


@pytest.mark.parametrize(
    ("mode", "status", "error"),
    [
        ("error", 500, "HTTP 500"),
        ("half", 200, "truncated"),
        ("cut", 200, "truncated"),
        ("hang", None, "timeout"),
        ("trickle", 200, "timeout"),
    ],
)
def test_failures_are_told_and_the_next_scrape_is_fine(
    metrics_server, mode: str, status: int | None, error: str
) -> None:
    client = MetricsClient("replica-0", metrics_server.url, 0.5 if error == "timeout" else 5.0)
    metrics_server.mode = mode
    failed = client.fetch("ready")
    assert failed.error is not None
    assert error in failed.error
    assert (failed.http_status, failed.body, failed.label) == (status, None, "ready")
    assert (
        failed.duration_ns < 5 * NS_PER_S
    )  # the timeout is for the whole scrape, however the bytes trickle
    metrics_server.mode = "good"
    assert client.fetch().error is None
    client.close()


def test_nobody_listening() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    error = MetricsClient("replica-0", f"http://127.0.0.1:{port}/metrics", 1.0).fetch().error
    assert error is not None
    assert "refused" in error


def test_something_that_is_no_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"hello\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        error = (
            MetricsClient("replica-0", f"http://127.0.0.1:{server.getsockname()[1]}/metrics", 5.0)
            .fetch()
            .error
        )
        thread.join()
    assert error is not None
    assert "BadStatusLine" in error


def scraper(server, interval_s: float) -> tuple[Scraper, list[Scrape]]:
    seen: list[Scrape] = []
    thread = Scraper(MetricsClient("replica-0", server.url, 5.0), interval_s, seen.append)
    thread.start()
    return thread, seen


def test_scrapes_keep_their_rhythm_and_stop_when_told(metrics_server, until) -> None:
    thread, seen = scraper(metrics_server, 0.05)
    until(lambda: len(seen) >= 5, "five scrapes")
    thread.stop()
    thread.join(10)
    assert not thread.is_alive()
    slots = (seen[-1].t_ns - seen[0].t_ns) / 0.05e9
    assert len(seen) <= slots + 2  # slots that were missed are not made up for


def test_a_demanded_scrape_comes_at_once_and_is_recorded_before_it_counts(
    metrics_server, until
) -> None:
    thread, seen = scraper(metrics_server, 3600.0)
    until(lambda: seen, "the first scrape")
    demand = thread.demand("ready")
    assert demand.done.wait(10)
    assert demand.ok
    assert [scrape.label for scrape in seen] == [None, "ready"]
    metrics_server.mode = "error"
    refused = thread.demand("drained")
    assert refused.done.wait(10)
    assert not refused.ok
    thread.stop()
    thread.join(10)


def test_stopping_does_not_wait_for_a_server_that_hangs(metrics_server, until) -> None:
    metrics_server.mode = "hang"
    thread, seen = scraper(metrics_server, 0.05)
    until(lambda: metrics_server.hits, "a scrape that hangs")
    waiting: Demand = thread.demand("drained")
    thread.stop()
    thread.join(3)  # its timeout is 5 s
    assert not thread.is_alive()
    assert waiting.done.is_set()
    assert not waiting.ok
    assert seen == []  # our own end is no failure of the server


TEXT = b"# TYPE x counter\nx_total 1\n"


class Scripted:
    """Responses by path: status, headers, body; `seen` is what was requested."""

    def __init__(self, server, pages: dict[str, tuple[int, dict[str, str], bytes]]) -> None:
        self.pages, self.seen = pages, []
        server.answer = self.answer

    def answer(self, to) -> None:
        self.seen.append((to.path, to.headers.get("Authorization")))
        status, headers, body = self.pages[to.path]
        to.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            to.send_header(name, value)
        to.end_headers()
        to.wfile.write(body)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("location", ["/metrics/", "{origin}/metrics/", "metrics/"])
def test_redirects_are_followed_within_the_origin(
    metrics_server, status: int, location: str
) -> None:
    origin = metrics_server.url.removesuffix("/metrics")
    to = {"Location": location.format(origin=origin)}
    pages = {"/metrics": (status, to, b""), "/metrics/": (200, {}, TEXT)}
    server = Scripted(metrics_server, pages)
    client = MetricsClient("replica-0", metrics_server.url, 5.0, api_key="k")
    assert [client.fetch().body for _ in range(2)] == [TEXT, TEXT]
    client.close()
    paths = [path for path, _ in server.seen]
    assert paths == ["/metrics", "/metrics/", "/metrics/"]


def test_a_redirect_to_another_origin_is_named_and_gets_no_key(metrics_server) -> None:
    away = {"Location": "http://localhost:1/metrics"}
    server = Scripted(metrics_server, {"/metrics": (307, away, b"")})
    client = MetricsClient("replica-0", metrics_server.url, 5.0, api_key="k")
    assert "http://localhost:1/metrics" in str(client.fetch().error)
    assert len(server.seen) == 1
    client.close()


def test_a_redirect_in_a_circle_ends(metrics_server) -> None:
    Scripted(metrics_server, {"/metrics": (308, {"Location": "/metrics"}, b"")})
    client = MetricsClient("replica-0", metrics_server.url, 5.0)
    assert client.fetch().error == "HTTP 308"
    client.close()


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({}, TEXT[:-1], TEXT),
        ({}, TEXT + b"# EOF", TEXT + b"# EOF\n"),
        ({"Content-Encoding": "gzip"}, gzip.compress(TEXT, mtime=0), TEXT),
        ({"Content-Encoding": "deflate"}, zlib.compress(TEXT), TEXT),
        ({"Content-Encoding": "br"}, b"?", None),
        ({"Content-Encoding": "gzip"}, gzip.compress(TEXT, mtime=0)[:-9], None),
        ({}, b"", None),
    ],
)
def test_bodies_that_are_complete_by_their_length(
    metrics_server, headers: dict[str, str], body: bytes, expected: bytes | None
) -> None:
    Scripted(metrics_server, {"/metrics": (200, headers, body)})
    client = MetricsClient("replica-0", metrics_server.url, 5.0)
    assert client.fetch().body == expected
    client.close()
