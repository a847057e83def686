"""Fetching `/metrics`: a thread a target, on its own clock, so that one slow server does not delay
the others.
"""

import http.client
import math
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from harness.core.clock import NS_PER_S, now_ns
from harness.core.network import Network

_MAX_BODY_BYTES: Final = (
    64 * 1024**2
)  # a real exposition is some 55 kB a replica; more than this is no exposition
# The classic text format is asked for since every server has it; what comes back is told by its
# content type.
_HEADERS: Final = {
    "Accept": "text/plain;version=0.0.4;q=1,application/openmetrics-text;q=0.5,*/*;q=0.1",
    "User-Agent": "colossus-harness",
}


@dataclass(frozen=True, slots=True)
class Scrape:
    """One scrape. `error` is None when the body is whole; else there is no body."""

    target: str
    t_ns: int  # just before the request was sent
    duration_ns: int
    http_status: int | None = None
    error: str | None = None
    content_type: str | None = None
    body: bytes | None = None
    label: str | None = None


class _FetchError(Exception):
    """The server's answer cannot be used; the text says why."""


class MetricsClient:
    """Fetches one URL over a kept connection.

    Args:
        target: name in the records.
        url: http or https.
        timeout_s: limit of one scrape as a whole, from connecting to the last byte.
        network: certificates to trust; a scrape passes no proxy.
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
        self._headers = (
            _HEADERS if api_key is None else {**_HEADERS, "Authorization": f"Bearer {api_key}"}
        )
        parts = urlsplit(url)
        if parts.scheme == "https":
            tls = (network or Network()).tls_context()
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.hostname or "", parts.port, timeout=timeout_s, context=tls
            )
        else:
            self._connection = http.client.HTTPConnection(
                parts.hostname or "", parts.port, timeout=timeout_s
            )
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def fetch(self, label: str | None = None) -> Scrape:
        """One scrape; what goes wrong is in its `error`."""
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
                # the server closed the idle connection: that is no failure of it
                self._connection.close()
                response = self._ask(deadline_ns)
            status, content_type = response.status, response.headers.get("Content-Type")
            body = self._read(response, deadline_ns)
            if status != http.HTTPStatus.OK:
                raise _FetchError(f"HTTP {status}")
            if not body.endswith(b"\n"):
                raise _FetchError("cut off: the last line has no end" if body else "empty body")
        except TimeoutError:
            error = f"timeout after {self._timeout_s:g} s"
        except _FetchError as refused:
            error = str(refused)
        except (OSError, http.client.HTTPException) as broken:
            error = f"{type(broken).__name__}: {broken}"
        if error is not None:
            body = None
            self._connection.close()
        return Scrape(self.target, t_ns, now_ns() - t_ns, status, error, content_type, body, label)

    def _ask(self, deadline_ns: int) -> http.client.HTTPResponse:
        self._connection.timeout = _left_s(deadline_ns)
        if self._connection.sock is not None:
            self._connection.sock.settimeout(_left_s(deadline_ns))
        self._connection.request("GET", self._path, headers=self._headers)
        self._connection.sock.settimeout(_left_s(deadline_ns))
        self._socket = self._connection.sock
        return self._connection.getresponse()

    def _read(self, response: http.client.HTTPResponse, deadline_ns: int) -> bytes:
        parts = []
        size_bytes = 0
        while part := response.read1(1 << 18):
            parts.append(part)
            size_bytes += len(part)
            if size_bytes > _MAX_BODY_BYTES:
                raise _FetchError(f"body of more than {_MAX_BODY_BYTES} bytes")
            self._socket.settimeout(_left_s(deadline_ns))
        if response.length:  # read1 takes the end of the connection for the end of the body
            raise _FetchError(f"cut off: {response.length} bytes are missing")
        # read1 leaves a response of known length open, and the connection could not be used again
        response.close()
        return b"".join(parts)

    def abort(self) -> None:
        """End a fetch that another thread is waiting in."""
        sock = self._connection.sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # already closed

    def close(self) -> None:
        self._connection.close()


def _left_s(deadline_ns: int) -> float:
    left_s = (deadline_ns - now_ns()) / NS_PER_S
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _is_exposition(scrape: Scrape) -> bool:
    """Whether a whole body is what it should be: token counts will rest on scrapes that were asked
    for, so they are parsed at once.
    """
    # The parser takes memory and time to load, and most scrapes are parsed after the run.
    from harness.artifacts.prometheus.text import ExpositionError, parse

    try:
        parse(scrape.body or b"", scrape.content_type)
    except ExpositionError:
        return False
    return True


@dataclass(slots=True)
class Demand:
    """A scrape that was asked for out of turn."""

    label: str
    done: threading.Event = field(default_factory=threading.Event)
    ok: bool = False


class Scraper(threading.Thread):
    """Scrapes one target at an interval, and at once when asked.

    Slots that were missed (the server took longer than the interval) are left out, never made up
    for.

    Args:
        client: the target.
        interval_s: between the starts of two scrapes.
        on_scrape: called with each scrape, on this thread, before a demand counts as done.
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
        """Ask for a scrape now; its `done` is set when it is recorded."""
        demand = Demand(label)
        with self._wake:
            self._demands.append(demand)
            self._wake.notify()
        return demand

    def run(self) -> None:
        """The loop; ends after `stop`."""
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
            if not (
                self._stopping.is_set() and scrape.error is not None
            ):  # our own end is no failure of the target
                self._on_scrape(scrape)
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
        """Ask the thread to end, a fetch that is under way included."""
        with self._wake:
            self._stopping.set()
            self._wake.notify()
        self._client.abort()
