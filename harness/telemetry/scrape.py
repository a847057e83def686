"""Fetches `/metrics`: one thread per target, so that a slow server does not delay the others."""

import http.client
import math
import socket
import threading
import zlib
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, urljoin, urlsplit

from harness.api.response import PIECE_BYTES
from harness.core.clock import NS_PER_S, now_ns
from harness.core.network import Network

# A real exposition is about 55 kB per replica.
_MAX_BODY_BYTES: Final = 64 * 1024**2
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS: Final = 5
# Every server has the classic text format; the response's content type shows what it is.
_HEADERS: Final = {
    "Accept": "text/plain;version=0.0.4;q=1,application/openmetrics-text;q=0.5,*/*;q=0.1",
    "User-Agent": "colossus-harness",
}


@dataclass(frozen=True, slots=True)
class Scrape:
    """One scrape. `error` is None if the body is complete; else there is no body."""

    target: str
    t_ns: int  # just before the request was sent
    duration_ns: int
    http_status: int | None = None
    error: str | None = None
    content_type: str | None = None
    body: bytes | None = None
    label: str | None = None


class _FetchError(Exception):
    """The response cannot be used; the text is the reason."""


class MetricsClient:
    """Fetches one URL over a persistent connection, without a proxy.

    Args:
        timeout_s: limit of one scrape, from connecting to the last byte.
        network: certificates to trust.
        api_key: sent as a bearer token.
    """

    def __init__(
        self,
        target: str,
        url: str,
        timeout_s: float,
        network: Network | None = None,
        *,
        api_key: str | None = None,
    ) -> None:
        self.target = target
        self._timeout_s = timeout_s
        key = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._headers = _HEADERS | key
        self._url = url
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
        if parts.scheme == "https":
            tls = (network or Network()).tls_context()
            self._connection = http.client.HTTPSConnection(
                parts.hostname or "", parts.port, context=tls
            )

    def fetch(self, label: str | None = None) -> Scrape:
        """One scrape; failures are in its `error`."""
        t_ns = now_ns()
        deadline_ns = t_ns + int(self._timeout_s * NS_PER_S)
        status: int | None = None
        content_type: str | None = None
        body: bytes | None = None
        error: str | None = None
        try:
            reused = self._connection.sock is not None
            try:
                response = self._ask(deadline_ns)
            except (ConnectionError, http.client.BadStatusLine):
                if not reused:
                    raise
                # the server closed the idle connection, which is not a failure
                self._connection.close()
                response = self._ask(deadline_ns)
            response = self._followed(response, deadline_ns)
            status, content_type = response.status, response.headers.get("Content-Type")
            framed = response.chunked or response.length is not None
            body = self._read(response, deadline_ns)
            if status != http.HTTPStatus.OK:
                raise _FetchError(f"HTTP {status}")
            body = _decoded(body, response.headers.get("Content-Encoding"))
            if body and framed and not body.endswith(b"\n"):
                body += b"\n"  # complete by its length, so only the last line's end is missing
            if not body.endswith(b"\n"):
                raise _FetchError("truncated: the last line has no end" if body else "empty body")
        except TimeoutError:
            error = f"timeout after {self._timeout_s:g} s"
        except _FetchError as refused:
            error = str(refused)
        except Exception as broken:  # noqa: BLE001 - the scrape failed, and the next is due
            error = f"{type(broken).__name__}: {broken}"
        if error is not None:
            body = None
            self._connection.close()
        return Scrape(self.target, t_ns, now_ns() - t_ns, status, error, content_type, body, label)

    def _followed(
        self, response: http.client.HTTPResponse, deadline_ns: int
    ) -> http.client.HTTPResponse:
        """The response behind redirects, which are followed within the origin: the key must go
        nowhere else. Later scrapes ask there at once.
        """
        for _ in range(_MOST_REDIRECTS):
            location = response.headers.get("Location")
            if location is None or response.status not in _REDIRECTS:
                break
            at = urljoin(self._url, location)
            if urlsplit(at)[:2] != urlsplit(self._url)[:2]:
                raise _FetchError(f"HTTP {response.status}: redirected to another origin: {at}")
            self._read(response, deadline_ns)
            self._url = at
            response = self._ask(deadline_ns)
        return response

    def _ask(self, deadline_ns: int) -> http.client.HTTPResponse:
        self._connection.timeout = _left_s(deadline_ns)
        if self._connection.sock is not None:
            self._connection.sock.settimeout(_left_s(deadline_ns))
        self._connection.request("GET", _target(self._url), headers=self._headers)
        self._connection.sock.settimeout(_left_s(deadline_ns))
        self._socket = self._connection.sock
        return self._connection.getresponse()

    def _read(self, response: http.client.HTTPResponse, deadline_ns: int) -> bytes:
        parts = []
        size_bytes = 0
        while part := response.read1(1 << 18):
            parts.append(part)
            size_bytes += len(part) + PIECE_BYTES
            if size_bytes > _MAX_BODY_BYTES:
                raise _FetchError(f"body of more than {_MAX_BODY_BYTES} bytes")
            self._socket.settimeout(_left_s(deadline_ns))
        if response.length:  # read1 takes the end of the connection for the end of the body
            raise _FetchError(f"truncated: {response.length} bytes are missing")
        response.close()  # read1 leaves it open, and the connection could not be reused
        return b"".join(parts)

    def abort(self) -> None:
        """Interrupt another thread's fetch."""
        sock = self._connection.sock
        if sock is not None:
            with suppress(OSError):  # already closed
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._connection.close()


def _target(url: str) -> str:
    parts = urlsplit(url)
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~")
    return f"{path}?{parts.query}" if parts.query else path


def _decoded(body: bytes, encoding: str | None) -> bytes:
    """A body that is compressed although that was not requested."""
    if encoding in (None, "", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise _FetchError(f"compressed with {encoding}, which was not requested")
    unpacker = zlib.decompressobj(wbits=47)  # gzip or zlib, by its header
    unpacked = unpacker.decompress(body, _MAX_BODY_BYTES)
    if not unpacker.eof:
        raise _FetchError(f"the {encoding} body is truncated or too large")
    return unpacked


def _left_s(deadline_ns: int) -> float:
    left_s = (deadline_ns - now_ns()) / NS_PER_S
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _is_exposition(scrape: Scrape) -> bool:
    """Whether a complete body is valid: token counts rely on requested scrapes, so they are parsed
    at once.
    """
    # Imported here: it takes memory and time to load, and most scrapes are parsed after the run.
    from harness.artifacts.prometheus.text import ExpositionError, parse

    try:
        parse(scrape.body or b"", scrape.content_type)
    except ExpositionError:
        return False
    return True


@dataclass(slots=True)
class Demand:
    """A requested scrape, out of turn."""

    label: str
    done: threading.Event = field(default_factory=threading.Event)
    ok: bool = False


class Scraper(threading.Thread):
    """Scrapes one target at an interval, and at once on request.

    Missed slots (the server took longer than the interval) are skipped.

    Args:
        interval_s: between the starts of two scrapes.
        on_scrape: called with each scrape, on this thread, before a demand is done.
    """

    def __init__(
        self, client: MetricsClient, interval_s: float, on_scrape: Callable[[Scrape], None]
    ) -> None:
        super().__init__(name=f"scrape-{client.target}", daemon=True)
        self._client = client
        self._interval_ns = int(interval_s * NS_PER_S)
        self._on_scrape = on_scrape
        self._wake = threading.Condition()
        self._demands: deque[Demand] = deque()
        self._stopping = threading.Event()

    def demand(self, label: str) -> Demand:
        """Request a scrape now; its `done` is set when it is recorded."""
        demand = Demand(label)
        with self._wake:
            self._demands.append(demand)
            self._wake.notify()
        return demand

    def run(self) -> None:
        due_ns = now_ns()
        while True:
            with self._wake:
                while (
                    not self._stopping.is_set()
                    and not self._demands
                    and (left_ns := due_ns - now_ns()) > 0
                ):
                    self._wake.wait(left_ns / NS_PER_S)
                if self._stopping.is_set():
                    break
                demand = self._demands.popleft() if self._demands else None
            scrape = self._client.fetch(demand.label if demand is not None else None)
            if not (self._stopping.is_set() and scrape.error is not None):
                self._on_scrape(scrape)  # an error caused by stopping is not the target's
            if demand is not None:
                demand.ok = scrape.error is None and _is_exposition(scrape)
                demand.done.set()
            late_ns = now_ns() - due_ns
            if late_ns >= 0:
                due_ns += self._interval_ns * max(1, math.ceil(late_ns / self._interval_ns))
        for left in self._demands:
            left.done.set()
        self._client.close()

    def stop(self) -> None:
        """Stop the thread, and interrupt its fetch."""
        with self._wake:
            self._stopping.set()
            self._wake.notify()
        self._client.abort()
