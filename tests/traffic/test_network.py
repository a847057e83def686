"""Proxies and private certificates, over a real proxy and a real TLS server in front of the paced
one.
"""

import errno
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from harness.core.errors import TrafficError
from harness.core.records import Api, Endpoint, Outcome
from harness.profile.traffic import Timeouts
from harness.reference_server.server import Pace, PacedServer
from harness.traffic._locust.http_client import Target

NAME = "models.example"  # resolves nowhere: only a proxy can know it
PACE = Pace(ttft_ms=5, gap_ms=1)


def one_session(**more: Any) -> dict[str, Any]:
    return {"kind": "concurrency", "concurrency": 1, "sessions": 2} | more


def relay(source: socket.socket, sink: socket.socket) -> None:
    """All bytes from one side to the other, then the end."""
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port whose connections are served in threads."""
    listener = socket.create_server(("127.0.0.1", 0))

    def one(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            serve(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


class Proxy:
    """A proxy that takes every authority to one port, and notes what it was asked.

    Args:
        upstream: the port.
        refusal: status line with which it refuses everything.
    """

    def __init__(self, upstream: int, refusal: str | None = None) -> None:
        self.upstream = upstream
        self.refusal = refusal
        self.lines: list[str] = []
        self.headers: list[dict[str, str]] = []

    def __call__(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = client.recv(4096)
            if not data:
                return
            head += data
        head, _, rest = head.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        self.lines.append(line)
        self.headers.append(dict(field.lower().split(": ", 1) for field in fields))
        if self.refusal is not None:
            client.sendall(f"HTTP/1.1 {self.refusal}\r\ncontent-length: 0\r\n\r\n".encode())
            return
        with socket.create_connection(("127.0.0.1", self.upstream)) as server:
            if line.startswith("CONNECT "):
                client.sendall(b"HTTP/1.1 200 Connection established\r\nvia: test\r\n\r\n")
            else:
                method, url, version = line.split(" ")
                kept = [field for field in fields if not field.lower().startswith("proxy-")]
                changed = [
                    f"{method} {urlsplit(url).path} {version}",
                    *kept,
                    "connection: close",
                ]  # one request a connection
                server.sendall("\r\n".join(changed).encode() + b"\r\n\r\n" + rest)
            up = threading.Thread(target=relay, args=(client, server), daemon=True)
            up.start()
            if not line.startswith("CONNECT "):  # it closes after one answer, and says so
                client.sendall(server.recv(65536).replace(b"\r\n", b"\r\nconnection: close\r\n", 1))
            relay(server, client)
            client.shutdown(socket.SHUT_RDWR)
            up.join(5)


@contextmanager
def proxy_before(upstream_url: str, refusal: str | None = None) -> Iterator[tuple[Proxy, str]]:
    proxy = Proxy(urlsplit(upstream_url).port or 0, refusal)
    with listening(proxy) as port:
        yield proxy, f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Certificate and key of `NAME` and localhost, its own authority."""
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            f"/CN={NAME}",
            "-addext",
            f"subjectAltName=DNS:{NAME},DNS:localhost",
            "-keyout",
            str(key),
            "-out",
            str(cert),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


@contextmanager
def tls_before(upstream_url: str, certificate: tuple[Path, Path]) -> Iterator[int]:
    """A port that speaks TLS and passes on what is said."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    upstream = urlsplit(upstream_url).port

    def serve(connection: socket.socket) -> None:
        with (
            socket.create_connection(("127.0.0.1", upstream)) as server,
            context.wrap_socket(connection, server_side=True) as client,
        ):
            up = threading.Thread(target=relay, args=(client, server), daemon=True)
            up.start()
            relay(server, client)

    with listening(serve) as port:
        yield port


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_plain_requests_go_through_the_proxy_of_the_environment(
    traffic: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        PacedServer(Pace(ttft_ms=5, gap_ms=30), tmp_path / "truth") as server,
        proxy_before(server.url) as (proxy, url),
    ):
        monkeypatch.setenv("HTTP_PROXY", url.replace("http://", "http://user:secret@"))
        one = traffic([f"http://{NAME}:8123"], [one_session()])
        rows = one.run()
        server.stop()
        truth = {line["request_id"]: line for line in server.truth()}
    assert [row["outcome"] for row in rows] == ["ok", "ok"], rows
    assert proxy.lines == [f"POST http://{NAME}:8123/v1/messages HTTP/1.1"] * 2
    assert [head["host"] for head in proxy.headers] == [f"{NAME}:8123"] * 2
    assert all(head["proxy-authorization"].startswith("basic ") for head in proxy.headers)
    for row in rows:
        assert row["first_token_ns"] >= truth[row["request_id"]]["content_ns"][0]
    assert max(len(row["chunk_bytes"]) for row in rows) > 1  # as it was written, not at the end
    assert "secret" not in one.log()


def test_loopback_is_not_proxied_unless_the_profile_says_so(
    traffic: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with PacedServer(PACE) as server, proxy_before(server.url) as (proxy, url):
        monkeypatch.setenv("HTTP_PROXY", url)
        rows = traffic([server.url], [one_session()]).run()
        assert [row["outcome"] for row in rows] == ["ok", "ok"]
        assert proxy.lines == []
        rows = traffic([server.url], [one_session()], proxy=url).run()
    assert [row["outcome"] for row in rows] == ["ok", "ok"]
    assert len(proxy.lines) == 2


def test_a_name_in_no_proxy_is_asked_directly(
    traffic: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "other.example,example")
    with pytest.raises(TrafficError, match=f"cannot resolve {NAME}"):
        traffic([f"http://{NAME}:8123"], [one_session()]).run()


def test_https_goes_through_a_tunnel_and_its_connection_is_kept(
    traffic: Callable[..., Any], certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        PacedServer(PACE) as server,
        tls_before(server.url, certificate) as port,
        proxy_before(f"http://x:{port}") as (proxy, url),
    ):
        monkeypatch.setenv("HTTPS_PROXY", url)
        rows = traffic(
            [f"https://{NAME}"], [one_session()], tls={"ca_file": str(certificate[0])}
        ).run()
    assert [row["outcome"] for row in rows] == ["ok", "ok"], rows
    assert proxy.lines == [f"CONNECT {NAME}:443 HTTP/1.1"]


@pytest.mark.parametrize(
    ("tls", "outcome"),
    [({}, "connection_error"), ({"verify": False}, "ok"), ({"ca_file": "the certificate"}, "ok")],
)
def test_certificates_of_a_private_authority(
    traffic: Callable[..., Any], certificate: tuple[Path, Path], tls: dict[str, Any], outcome: str
) -> None:
    tls = {key: str(certificate[0]) if key == "ca_file" else value for key, value in tls.items()}
    with PacedServer(PACE) as server, tls_before(server.url, certificate) as port:
        rows = traffic([f"https://localhost:{port}"], [one_session()], tls=tls).run()
    assert [row["outcome"] for row in rows] == [outcome] * 2
    if outcome != "ok":
        assert all("certificate verify failed" in row["error"].lower() for row in rows), rows


@pytest.mark.parametrize(
    ("scheme", "outcome", "status", "words"),
    [
        ("https", "connection_error", None, "127.0.0.1:"),
        ("http", "http_error", 407, "HTTP 407"),
    ],
)
def test_a_proxy_that_refuses_is_named(
    traffic: Callable[..., Any], scheme: str, outcome: str, status: int | None, words: str
) -> None:
    with proxy_before("http://x:9", refusal="407 Proxy Authentication Required") as (_, url):
        rows = traffic([f"{scheme}://{NAME}"], [one_session()], proxy=url).run()
    assert [(row["outcome"], row["http_status"]) for row in rows] == [(outcome, status)] * 2
    assert all(words in row["error"] for row in rows), rows


def target(url: str, **more: Any) -> Target:
    return Target(Endpoint("replica-0", url, "m"), Api.CHAT, None, Timeouts(**more))


@pytest.mark.parametrize(
    ("url", "request_line", "host"),
    [
        ("http://127.0.0.1:80", "/v1/chat/completions", "127.0.0.1"),
        ("http://127.0.0.1:81", "/v1/chat/completions", "127.0.0.1:81"),
        ("https://127.0.0.1:443", "/v1/chat/completions", "127.0.0.1"),
        ("https://127.0.0.1:80", "/v1/chat/completions", "127.0.0.1:80"),
        ("http://[::1]", "/v1/chat/completions", "[::1]"),
        ("http://127.0.0.1/my model", "/my%20model/v1/chat/completions", "127.0.0.1"),
        ("http://127.0.0.1/a%20b/", "/a%20b/v1/chat/completions", "127.0.0.1"),
        ("http://127.0.0.1/模", "/%E6%A8%A1/v1/chat/completions", "127.0.0.1"),
    ],
)
def test_the_head_of_a_request(url: str, request_line: str, host: str) -> None:
    lines = target(url)._head.decode("ascii").split("\r\n")
    assert lines[:2] == [f"POST {request_line} HTTP/1.1", f"host: {host}"]


def test_connections_take_addresses_in_turn_and_avoid_those_that_fail(monkeypatch) -> None:
    with listening(lambda connection: connection.recv(1)) as port:
        found = target(f"http://127.0.0.1:{port}", connect_s=2.0)
        (info,) = found._addresses
        found._addresses = [(*info[:4], (f"127.0.0.{n}", port)) for n in (1, 2)]
        opened: list[str] = []
        real = found._open

        def opening(_: Target, one: Any, limit_s: float | None) -> Any:
            opened.append(one[4][0])
            if one[4][0] == "127.0.0.2":
                raise OSError("no route")
            return real(one, limit_s)

        monkeypatch.setattr(Target, "_open", opening)
        for _ in range(4):
            found._connect().close()
    assert opened == ["127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.1", "127.0.0.1"]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS])
def test_a_limit_of_this_machine_is_not_the_servers(monkeypatch, number: int) -> None:
    def fails(_self: Target, _info: Any, _limit_s: float | None) -> None:
        raise OSError(number, "limit")

    monkeypatch.setattr(Target, "_open", fails)
    exchange = target("http://127.0.0.1:9").send(b"{}", "r")
    assert exchange.local is Outcome.CLIENT_LIMIT
