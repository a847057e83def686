"""Which streams have bytes, and when the kernel took those bytes in.

All streams of a worker share one epoll set. While bytes come seldom, each wakes the process at
once. While they come more often than once in `PERIOD_S`, the process wakes once a period and reads
everything that has come: a wake-up costs as much as several reads. What a read brings does not get
the time of the wake-up but the kernel's own stamp of its arrival, so a late look, whatever its
cause, makes no late time.
"""

import select
from collections.abc import Callable
from struct import Struct
from time import CLOCK_REALTIME, clock_gettime_ns, monotonic_ns
from typing import Any, Final

from gevent.hub import get_hub
from gevent.monkey import get_original

PERIOD_S: Final = 0.001
"""Busy streams are looked at this often; also the resolution of the loop's timers."""

SO_TIMESTAMPNS: Final = 35
"""Socket option of Linux (asm-generic/socket.h): each `recvmsg` tells when the last segment that it
returns had arrived.
"""

ANCILLARY_BYTES: Final = 64
"""Room for that one message: a header of 16 bytes and a timespec of 16."""

READ_SIZE: Final = 16 * 1024
"""Most bytes of one read; more is there at once on the next."""

_EMPTY_LOOKS: Final = 5  # so many in a row, and the streams are no longer busy
_VIEW: Final = memoryview(bytearray(READ_SIZE))
_BUFFERS: Final = [_VIEW]
_PERIOD_NS: Final = 1_000_000
_NS: Final = 1_000_000_000
_TIMESPEC: Final = Struct("@qq")
_SOL_SOCKET: Final = 1

Handler = Callable[[int], None]
"""Called with what is to be taken off the kernel's stamps to get monotonic time, in ns."""


class Readiness:
    """One epoll set; its handlers run in the event loop, never in a greenlet of their own."""

    def __init__(self) -> None:
        self._epoll = get_original("select", "epoll")()
        self._handlers: dict[int, Handler] = {}
        self._io: Any = None
        self._timer: Any = None
        self._last_ns = 0
        self._empty = 0

    def add(self, descriptor: int, handler: Handler) -> None:
        """Call a handler whenever a descriptor has bytes or has been closed, until `remove`."""
        if self._io is None:
            loop = get_hub().loop
            self._io = loop.io(self._epoll.fileno(), 1)
            self._timer = loop.timer(PERIOD_S, PERIOD_S)
            self._io.start(self._on_event)
        self._handlers[descriptor] = handler
        self._epoll.register(descriptor, select.POLLIN)

    def remove(self, descriptor: int) -> None:
        """Leave a descriptor alone from here on; to be called before it is closed, since another
        connection may get its number.
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
        # Anew at each look, so that a clock that is being set cannot bend the times by more than
        # what happens within a period.
        offset_ns = clock_gettime_ns(CLOCK_REALTIME) - monotonic_ns()
        handlers = self._handlers
        for descriptor, _ in ready:
            handler = handlers.get(descriptor)
            if handler is not None:
                handler(offset_ns)
        return len(ready)


readiness = Readiness()


Receive = Callable[[int, int], tuple[bytes, int]]
"""Bytes of one read and the time at which they were there. Arguments: what is to be taken off the
kernel's stamps, and the earliest time that can be true (the read before it, or the end of the
request). Raises BlockingIOError when there are no bytes, OSError when the connection broke.
"""


def stamped(sock: Any) -> Receive:  # noqa: ANN401 - a plain socket
    """Have a socket's segments stamped by the kernel, and read it so."""
    sock.setsockopt(_SOL_SOCKET, SO_TIMESTAMPNS, 1)
    recvmsg_into = sock.recvmsg_into

    def receive(offset_ns: int, earliest_ns: int) -> tuple[bytes, int]:
        size, ancillary, _, _ = recvmsg_into(_BUFFERS, ANCILLARY_BYTES)
        now_ns = monotonic_ns()
        # the kernel begins to stamp a moment after the first socket asked for it; the end of a
        # stream has no stamp
        if not ancillary:
            return _VIEW[:size].tobytes(), now_ns
        seconds, rest = _TIMESPEC.unpack(ancillary[0][2])
        at_ns = seconds * _NS + rest - offset_ns
        if at_ns < earliest_ns:
            at_ns = earliest_ns
        return _VIEW[:size].tobytes(), min(now_ns, at_ns)

    return receive


def unstamped(sock: Any) -> Receive:  # noqa: ANN401 - a plain socket
    """Read a socket by the time of the read, which is what TLS leaves: calibration and canaries of
    a run over TLS read so too.
    """
    recv = sock.recv

    def receive(_: int, __: int) -> tuple[bytes, int]:
        data = recv(READ_SIZE)
        return data, monotonic_ns()

    return receive
