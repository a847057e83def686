"""Reports which streams have bytes, and when the kernel received them.

All streams of a worker share one epoll set. While bytes are rare, each arrival wakes the process at
once. If they come more often than once per `PERIOD_S`, the process wakes once per period and reads
everything: a wake-up costs as much as several reads. A read is timed by the kernel's arrival
timestamp, not by the wake-up, so a late wake-up does not make the time late.
"""

import select
from collections.abc import Callable
from struct import Struct
from time import CLOCK_REALTIME, clock_gettime_ns, monotonic_ns
from typing import Any, Final

from gevent.hub import get_hub
from gevent.monkey import get_original

PERIOD_S: Final = 0.001
"""How often busy streams are read; also the resolution of the loop's timers."""

SO_TIMESTAMPNS: Final = 35
"""Socket option of Linux (asm-generic/socket.h): each `recvmsg` returns when the last segment in it
arrived.
"""

ANCILLARY_BYTES: Final = 64
"""For that one message: a header of 16 bytes and a timespec of 16."""

READ_SIZE: Final = 16 * 1024
"""Maximum bytes per read; the rest is available at once."""

_EMPTY_LOOKS: Final = 5  # this many in a row: the streams are no longer busy
_VIEW: Final = memoryview(bytearray(READ_SIZE))
_BUFFERS: Final = [_VIEW]
_PERIOD_NS: Final = 1_000_000
_NS: Final = 1_000_000_000
_TIMESPEC: Final = Struct("@qq")
_SOL_SOCKET: Final = 1

Handler = Callable[[int], None]
"""Called with the offset to subtract from the kernel's timestamps to get monotonic time, in ns."""


class Readiness:
    """One epoll set. Its handlers run in the event loop, never in their own greenlet."""

    def __init__(self) -> None:
        self._epoll = get_original("select", "epoll")()
        self._handlers: dict[int, Handler] = {}
        self._io: Any = None
        self._timer: Any = None
        self._last_ns = 0
        self._empty = 0

    def add(self, descriptor: int, handler: Handler) -> None:
        """Call the handler whenever the descriptor has bytes or has been closed, until `remove`."""
        if self._io is None:
            loop = get_hub().loop
            self._io = loop.io(self._epoll.fileno(), 1)
            self._timer = loop.timer(PERIOD_S, PERIOD_S)
            self._io.start(self._on_event)
        self._handlers[descriptor] = handler
        self._epoll.register(descriptor, select.POLLIN)

    def remove(self, descriptor: int) -> None:
        """Stop watching a descriptor. Must be called before it is closed, since another connection
        may get its number.
        """
        if self._handlers.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def _on_event(self) -> None:
        now_ns = monotonic_ns()
        busy = now_ns - self._last_ns < _PERIOD_NS
        self._look(now_ns)
        if busy:
            self._io.stop()
            self._timer.start(self._on_period)

    def _on_period(self) -> None:
        self._empty = 0 if self._look(monotonic_ns()) else self._empty + 1
        if self._empty == _EMPTY_LOOKS:
            self._empty = 0
            self._timer.stop()
            self._io.start(self._on_event)

    def _look(self, now_ns: int) -> int:
        ready = self._epoll.poll(0)
        self._last_ns = now_ns
        # Recomputed each time, so that a clock adjustment shifts times by at most its change within
        # a period.
        offset_ns = clock_gettime_ns(CLOCK_REALTIME) - monotonic_ns()
        handlers = self._handlers
        for descriptor, _ in ready:
            handler = handlers.get(descriptor)
            if handler is not None:
                handler(offset_ns)
        return len(ready)


readiness = Readiness()


Receive = Callable[[int, int], tuple[bytes, int]]
"""Returns the bytes of one read and their arrival time. Arguments: the offset to subtract from the
kernel's timestamps, and the earliest possible time (the previous read, or the end of the request).
Raises BlockingIOError if there are no bytes, OSError if the connection broke.
"""


def stamped(sock: Any) -> Receive | None:  # noqa: ANN401 - a plain socket
    """Have the kernel timestamp a socket's segments, and read it with these times; None if it
    cannot (gVisor and other kernels without SO_TIMESTAMPNS).
    """
    try:
        sock.setsockopt(_SOL_SOCKET, SO_TIMESTAMPNS, 1)
    except OSError:
        return None
    recvmsg_into = sock.recvmsg_into

    def receive(offset_ns: int, earliest_ns: int) -> tuple[bytes, int]:
        size, ancillary, _, _ = recvmsg_into(_BUFFERS, ANCILLARY_BYTES)
        now_ns = monotonic_ns()
        # timestamps begin shortly after the first socket enables them; the end of a stream has none
        if not ancillary:
            return _VIEW[:size].tobytes(), now_ns
        seconds, rest = _TIMESPEC.unpack(ancillary[0][2])
        at_ns = seconds * _NS + rest - offset_ns
        if at_ns < earliest_ns:
            at_ns = earliest_ns
        return _VIEW[:size].tobytes(), min(now_ns, at_ns)

    return receive


def unstamped(sock: Any) -> Receive:  # noqa: ANN401 - a plain socket
    """Read a socket with the time of the read, as with TLS; calibration and canaries of a run over
    TLS do the same.
    """
    recv = sock.recv

    def receive(_: int, __: int) -> tuple[bytes, int]:
        data = recv(READ_SIZE)
        return data, monotonic_ns()

    return receive
