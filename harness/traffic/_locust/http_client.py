"""Requests over raw sockets: a keep-alive pool per endpoint, and a reader that never switches
greenlets while a stream runs.

The event loop calls back when a socket has bytes (`readiness`); the callback reads them and their
arrival time. The waiting greenlet is woken once: at the end of the message, on an error, or by the
stream's one timer.
"""

import errno
import logging
import socket as plain_socket
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic_ns
from types import MappingProxyType
from typing import Any, Final

import gevent
import httpx
from gevent import socket, ssl
from gevent.hub import Waiter, get_hub

from harness import __version__
from harness.api.table import wire
from harness.core.errors import TrafficError
from harness.core.network import NONE, Network, Proxy, attempts
from harness.core.records import Api, Endpoint, Outcome
from harness.profile.traffic import Timeouts
from harness.traffic._locust.answer import EndOfStream
from harness.traffic._locust.http1 import Framing
from harness.traffic._locust.stamped_reads import (
    READ_SIZE,
    Handler,
    Receive,
    readiness,
    stamped,
    unstamped,
)

_log = logging.getLogger(__name__)

KEEP_IDLE_S: Final = 3.0
"""Idle connections are reused up to this age: servers close theirs after 5 s (uvicorn's default),
and a request that crosses that close would fail through no fault of the server.
"""

_OWN_LIMITS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
)
"""Failures of this machine: descriptors, memory, ports. They are not the server's."""
_AVOIDED_S: Final = 30.0
"""How long an address that failed is tried only after the others."""
DIRECT: Final = Network(proxy=NONE)
_TLS_READS: Final = 64
"""Records that are read at once: a fast endless stream would never be read to its end."""
_TUNNEL_HEAD_BYTES: Final = 64 * 1024
"""Limit of a proxy's response before a tunnel."""

REQUEST_ID_HEADER: Final = "x-harness-request-id"
"""Lets a server's log, and the paced server's true times, be paired with the records."""

_NS: Final = 1_000_000_000


class Cancelled(Exception):  # noqa: N818 - thrown into a greenlet to end its request; no error
    """Our side ends the request, with an outcome and error for the record."""

    def __init__(self, outcome: Outcome, error: str | None = None) -> None:
        super().__init__(outcome, error)
        self.outcome = outcome
        self.error = error


class _Turns:
    """Wakes greenlets whose stream has ended, one per iteration of the loop.

    What they do then (reading the response, building the next body) takes up to a millisecond. If a
    hundred of them were woken in one iteration, bytes that arrive meanwhile would be timed a tenth
    of a second late; so the loop polls its sockets between any two.
    """

    def __init__(self) -> None:
        self._waiting: deque[Waiter] = deque()
        self._timer: Any = None

    def put(self, waiter: Waiter) -> None:
        self._waiting.append(waiter)
        if len(self._waiting) == 1:
            self._arm()

    def wait(self) -> None:
        """Let the loop poll, and all other waiters have their turn, before the calling greenlet
        continues.
        """
        waiter = Waiter()
        self.put(waiter)
        waiter.get()

    def _arm(self) -> None:
        # A timer of 0 fires in the next iteration, after its poll; `gevent.sleep(0)` can return
        # within the same one.
        if self._timer is None:
            self._timer = get_hub().loop.timer(0.0)
        self._timer.start(self._next)

    def _next(self) -> None:
        self._timer.stop()
        waiter = self._waiting[0]
        try:
            waiter.switch(None)
        finally:
            self._waiting.popleft()
            if self._waiting:
                self._arm()


turns = _Turns()


@dataclass(slots=True)
class Exchange:
    """One request and the reads of its response."""

    framing: Framing = field(default_factory=Framing)
    sent_ns: int | None = None
    done_ns: int = 0
    ending: EndOfStream = EndOfStream.COMPLETE
    local: Outcome | None = None
    error: str | None = None


class _Connection:
    """One connection. Plain ones provide the kernel's arrival time of bytes; TLS only the time of
    the read.
    """

    __slots__ = ("_watcher", "idle_since_ns", "read_times", "receive", "sock")

    def __init__(self, sock: Any, *, arrival_stamps: bool) -> None:  # noqa: ANN401 - gevent's socket or SSLSocket
        self.sock = sock
        self.idle_since_ns = 0
        self.read_times = False  # arrival times were requested, but the kernel has none
        self._watcher: Any = None
        if isinstance(sock, ssl.SSLSocket):
            self.receive = _tls_receive(sock)
        else:
            found = stamped(sock._sock) if arrival_stamps else None
            if found is not None:
                self.receive = found
                return
            self.receive = unstamped(sock._sock)
            self.read_times = arrival_stamps
        # Watched separately and read at once: without kernel timestamps a late read has a late
        # time.
        self._watcher = get_hub().loop.io(sock.fileno(), 1)

    def watch(self, handler: Handler) -> None:
        if self._watcher is not None:
            self._watcher.start(handler, 0)
        else:
            readiness.add(self.sock.fileno(), handler)

    def unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
        else:
            readiness.remove(self.sock.fileno())

    def usable(self) -> bool:
        if monotonic_ns() - self.idle_since_ns > KEEP_IDLE_S * _NS:
            return False
        # on the raw descriptor: bytes, a close_notify or a FIN all mean that it is not reusable
        try:
            self.sock._sock.recv(1, plain_socket.MSG_PEEK | plain_socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        if self._watcher is not None:
            self._watcher.close()
        self.sock.close()


def _tls_receive(sock: Any) -> Receive:  # noqa: ANN401 - gevent's SSLSocket
    """Read everything the TLS layer has buffered, which raises no further event on the descriptor.
    Its time is that of the read.
    """
    read, pending = sock._sslobj.read, sock._sslobj.pending

    def receive(_: int, __: int) -> tuple[bytes, int]:
        pieces: list[bytes] = []
        try:
            while data := read(READ_SIZE):
                pieces.append(data)
                if len(pieces) >= _TLS_READS and not pending():
                    break  # more is on the descriptor, which raises the next event
        except ssl.SSLWantReadError:
            if not pieces:
                raise BlockingIOError from None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            pass  # the end: an empty read, now or at the next event
        return b"".join(pieces), monotonic_ns()

    return receive


@dataclass(slots=True, eq=False)
class _Reader:
    """Reads one response: callbacks of the loop until the end, then one switch back."""

    exchange: Exchange
    connection: _Connection
    limits: Timeouts
    started_ns: int
    sent_ns: int
    cancel_after_ns: int | None
    _framing: Framing = field(init=False)
    _receive: Receive = field(init=False)
    _last_ns: int = field(init=False)
    _waiter: Waiter = field(init=False, default_factory=Waiter)
    _timer: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._framing = self.exchange.framing
        self._receive = self.connection.receive
        self._last_ns = self.sent_ns
        self._framing.read_times = self.connection.read_times

    def run(self) -> None:
        self.connection.watch(self._on_readable)
        self._arm(monotonic_ns())
        try:
            self._waiter.get()
        finally:
            self.connection.unwatch()
            self._timer.close()

    def _on_readable(self, offset_ns: int) -> None:
        try:
            data, now_ns = self._receive(offset_ns, self._last_ns)
            self._last_ns = now_ns
            if data:
                if self._framing.add(data, now_ns):
                    self._end(EndOfStream.COMPLETE, now_ns)
            else:
                self._framing.end_of_file()
                self._end(
                    EndOfStream.COMPLETE if self._framing.complete else EndOfStream.EOF, now_ns
                )
        except BlockingIOError:
            return
        except OSError as error:
            self._end(EndOfStream.RESET, monotonic_ns(), error=error.strerror or str(error))
        except Exception as error:  # noqa: BLE001 - a defect here must cost one record's detail, not the worker
            _log.exception("the reader failed")
            why = f"the reader failed: {error!r}"
            self._end(EndOfStream.LOCAL, monotonic_ns(), Outcome.MALFORMED, why)

    def _end(
        self,
        ending: EndOfStream,
        now_ns: int,
        local: Outcome | None = None,
        error: str | None = None,
    ) -> None:
        exchange = self.exchange
        if exchange.done_ns:
            return
        exchange.ending, exchange.done_ns = ending, now_ns
        exchange.local, exchange.error = local, error
        turns.put(self._waiter)

    def _limit(self) -> tuple[int, Outcome, str]:
        limits, times = self.limits, self._framing.times_ns
        if times:
            at_ns = times[-1] + round(limits.idle_s * _NS)
            found = at_ns, Outcome.TIMEOUT_IDLE, f"no bytes for {limits.idle_s:g} s"
        else:
            at_ns = self.sent_ns + round(limits.first_byte_s * _NS)
            words = f"no response within {limits.first_byte_s:g} s"
            found = at_ns, Outcome.TIMEOUT_FIRST_BYTE, words
        total_ns = self.started_ns + round(limits.total_s * _NS)
        if total_ns < found[0]:
            words = f"not finished within {limits.total_s:g} s"
            found = total_ns, Outcome.TIMEOUT_TOTAL, words
        if self.cancel_after_ns is not None:
            at_ns = self.sent_ns + self.cancel_after_ns
            if at_ns < found[0]:
                words = f"the user gave up after {self.cancel_after_ns / _NS:.3g} s"
                found = at_ns, Outcome.CANCELLED, words
        return found

    def _arm(self, now_ns: int) -> None:
        """One timer per stream, at the earliest limit, and at least once per `idle_s`: the limit
        moves closer with the first read. Reads do not reset it: it considers them when it fires.
        """
        if self._timer is not None:
            self._timer.close()
        left_s = min((self._limit()[0] - now_ns) / _NS, self.limits.idle_s)
        self._timer = get_hub().loop.timer(max(0.001, left_s))
        self._timer.start(self._on_timer)

    def _on_timer(self) -> None:
        now_ns = monotonic_ns()
        at_ns, outcome, words = self._limit()
        if now_ns >= at_ns:
            self._end(EndOfStream.LOCAL, now_ns, outcome, words)
        else:
            self._arm(now_ns)


class Target:
    """One endpoint and its idle connections.

    Args:
        api_key: sent with every request.
        headers: additional ones, with their values.
        arrival_stamps: use the kernel's arrival time if available; else the time of the read, as
            over TLS.

    Attributes:
        model: name to send as `model`.
        live: its conversations that have not ended.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        api: Api,
        api_key: str | None,
        limits: Timeouts,
        network: Network = DIRECT,
        *,
        headers: Mapping[str, str] = MappingProxyType({}),
        arrival_stamps: bool = True,
    ) -> None:
        wire_api = wire(api)
        url = httpx.URL(endpoint.base_url.rstrip("/") + wire_api.path)  # written as by the checks
        self._arrival_stamps = arrival_stamps
        self.name = endpoint.name
        self.model = endpoint.model
        self.live = 0
        self._limits = limits
        self._host = url.raw_host.decode() or "127.0.0.1"
        self._tls = network.tls_context() if url.scheme == "https" else None
        port = url.port or (443 if self._tls else 80)
        self._proxy = network.proxy_for(endpoint.base_url, started=endpoint.pid is not None)
        self._addresses = _addresses(self._host, port, self._proxy)
        self._next = 0
        self._failed_ns: dict[str, int] = {}
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._authority = f"{host}:{port}"
        forwarded = self._proxy is not None and self._tls is None
        target = str(url) if forwarded else url.raw_path.decode("ascii")
        lines = [
            f"POST {target} HTTP/1.1",
            f"host: {url.netloc.decode('ascii')}",  # without the scheme's default port
            f"user-agent: colossus-harness/{__version__}",
            f"accept: {wire_api.stream_type}",
            "accept-encoding: identity",
            *(
                f"{name}: {value}"
                for name, value in {**wire_api.headers(api_key), **headers}.items()
            ),
        ]
        if self._proxy is not None and forwarded:
            lines += _authorized(self._proxy)
        self._head = "\r\n".join(lines).encode("latin-1") + f"\r\n{REQUEST_ID_HEADER}: ".encode()
        self._idle: list[_Connection] = []

    def send(self, body: bytes, request_id: str, *, cancel_after_ns: int | None = None) -> Exchange:
        """Send one request and read its complete response. Never raises for network or server
        failures.

        `request_id` is sent in a header; the simulated user gives up `cancel_after_ns` after
        sending.
        """
        exchange = Exchange()
        started_ns = monotonic_ns()
        connection: _Connection | None = None
        try:
            connection = self._take()
            self._exchange(exchange, connection, body, request_id, started_ns, cancel_after_ns)
        except Cancelled as stop:
            if not exchange.done_ns:  # a finished response stays as it is
                exchange.ending = EndOfStream.LOCAL
                exchange.local, exchange.error = stop.outcome, stop.error
        except OSError as error:
            exchange.ending = EndOfStream.RESET
            exchange.error = f"cannot connect to {self.name}: {error.strerror or error}"
            if error.errno in _OWN_LIMITS:
                exchange.ending, exchange.local = EndOfStream.LOCAL, Outcome.CLIENT_LIMIT
                exchange.error = f"the load generator's own limit: {error.strerror or error}"
        finally:
            exchange.done_ns = exchange.done_ns or monotonic_ns()
            if connection is not None:
                self._give(connection, exchange)
        return exchange

    def _exchange(
        self,
        exchange: Exchange,
        connection: _Connection,
        body: bytes,
        request_id: str,
        started_ns: int,
        cancel_after_ns: int | None,
    ) -> None:
        head = self._head + f"{request_id}\r\ncontent-length: {len(body)}\r\n\r\n".encode("latin-1")
        left_s = self._limits.total_s - (monotonic_ns() - started_ns) / _NS
        try:
            with gevent.Timeout(max(0.001, left_s)):
                connection.sock.sendall(head + body)
            exchange.sent_ns = monotonic_ns()
        except gevent.Timeout:
            raise Cancelled(
                Outcome.TIMEOUT_TOTAL,
                f"the request was not taken within {self._limits.total_s:g} s",
            ) from None
        except OSError:
            pass  # a server that refuses early responds before it closes; else the read fails
        sent_ns = exchange.sent_ns or monotonic_ns()
        _Reader(exchange, connection, self._limits, started_ns, sent_ns, cancel_after_ns).run()

    def _take(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable():
                return connection
            connection.close()
        try:
            with gevent.Timeout(self._limits.connect_s):
                return _Connection(self._connect(), arrival_stamps=self._arrival_stamps)
        except gevent.Timeout:
            raise Cancelled(
                Outcome.TIMEOUT_CONNECT, f"no connection within {self._limits.connect_s:g} s"
            ) from None

    def _connect(self) -> Any:  # noqa: ANN401 - gevent's socket or SSLSocket
        """Over the next address; of several, those that failed lately come last."""
        failure: OSError | None = None
        for info, limit_s in attempts(self._in_turn(), self._limits.connect_s):
            try:
                found = self._open(info, limit_s)
            except OSError as error:
                failure = error
                if error.errno in _OWN_LIMITS:
                    raise
                self._failed_ns[info[4][0]] = monotonic_ns()
            else:
                self._failed_ns.pop(info[4][0], None)
                return found
        assert failure is not None
        raise failure

    def _in_turn(self) -> list[Any]:
        at, self._next = self._next % len(self._addresses), self._next + 1
        turned = self._addresses[at:] + self._addresses[:at]
        oldest_ns = monotonic_ns() - round(_AVOIDED_S * _NS)
        return sorted(turned, key=lambda one: self._failed_ns.get(one[4][0], 0) > oldest_ns)

    def _open(self, info: Any, limit_s: float | None) -> Any:  # noqa: ANN401 - gevent's sockets
        """A connection to one address; `limit_s` is for TCP alone, as in RFC 8305."""
        sock = socket.socket(info[0], info[1], info[2])
        try:
            with gevent.Timeout(limit_s, TimeoutError("no connection in time")):
                sock.connect(info[4])
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is None:
                return sock
            if self._proxy is not None:
                _tunnel(sock, self._proxy, self._authority)
            return self._tls.wrap_socket(sock, server_hostname=self._host)
        except BaseException:
            sock.close()
            raise

    def _give(self, connection: _Connection, exchange: Exchange) -> None:
        framing = exchange.framing
        if (
            exchange.ending is EndOfStream.COMPLETE
            and exchange.sent_ns is not None
            and framing.complete
            and framing.keep_alive
        ):
            connection.idle_since_ns = monotonic_ns()
            self._idle.append(connection)
        else:
            connection.close()


def _addresses(host: str, port: int, proxy: Proxy | None) -> list[Any]:
    at = (host, port) if proxy is None else (proxy.host, proxy.port)
    try:
        found = socket.getaddrinfo(*at, type=socket.SOCK_STREAM)
    except OSError as error:
        whose = "endpoint" if proxy is None else "proxy"
        raise TrafficError(
            f"cannot resolve {at[0]}: {error}", next_step=f"check the {whose}'s URL"
        ) from error
    return list({info[4]: info for info in found}.values())


def _authorized(proxy: Proxy) -> list[str]:
    return [] if proxy.authorization is None else [f"proxy-authorization: {proxy.authorization}"]


def _tunnel(sock: Any, proxy: Proxy, authority: str) -> None:  # noqa: ANN401 - gevent's socket
    """Have a proxy open a tunnel to an authority.

    Raises:
        OSError: it does not.
    """
    lines = [f"CONNECT {authority} HTTP/1.1", f"host: {authority}", *_authorized(proxy)]
    sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    head = b""
    while b"\r\n\r\n" not in head:
        data = sock.recv(4096)
        head += data
        if not data:
            raise OSError(f"the proxy {proxy.name} closed the connection without a response")
        if len(head) > _TUNNEL_HEAD_BYTES:
            raise OSError(f"{proxy.name} is not a proxy")
    status = head.split(b"\r\n", 1)[0].decode("latin-1")
    if status.split(" ")[1:2] != ["200"]:
        raise OSError(f"the proxy {proxy.name} responded {status[:100]!r}")
