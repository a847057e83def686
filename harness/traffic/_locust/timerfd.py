"""Waiting for a moment to within microseconds.

The event loop's own timers are rounded up to whole milliseconds (libev polls by `epoll_wait`), so
every planned request would be sent half a millisecond late in the mean. A timer of the kernel that
is a file descriptor (`timerfd_create(2)`) wakes the loop at the moment itself.
"""

import ctypes
import os
from contextlib import suppress
from heapq import heappop, heappush
from time import CLOCK_MONOTONIC, monotonic_ns
from typing import Any, Final

from gevent.hub import Waiter, get_hub

_NS: Final = 1_000_000_000
_FLAGS: Final = (
    os.O_NONBLOCK | os.O_CLOEXEC
)  # TFD_NONBLOCK and TFD_CLOEXEC have these values (bits/timerfd.h)
_ABSTIME: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True)


class PreciseTimer:
    """Wakes greenlets at moments of the monotonic clock."""

    def __init__(self) -> None:
        self._due: list[tuple[int, int, Waiter]] = []
        self._count = 0
        self._descriptor = -1
        self._io: Any = None

    def wait(self, t_ns: int) -> None:
        """Let others run until a moment; nothing but its time ends the wait. Returns at once when
        it is over.

        Raises:
            OSError: the kernel gives no timer.
        """
        if t_ns <= monotonic_ns():
            return
        if self._io is None:
            self._open()
        waiter = Waiter()
        self._count += (
            1  # equal times go in the order of their waits; waiters themselves do not compare
        )
        heappush(self._due, (t_ns, self._count, waiter))
        if self._due[0][2] is waiter:
            self._arm()
        waiter.get()

    def _open(self) -> None:
        descriptor = _libc.timerfd_create(CLOCK_MONOTONIC, _FLAGS)
        if descriptor < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._descriptor = descriptor
        self._io = get_hub().loop.io(descriptor, 1)
        self._io.start(self._on_time)

    def _arm(self) -> None:
        seconds, rest = divmod(self._due[0][0], _NS)
        spec = (ctypes.c_long * 4)(
            0, 0, seconds, rest
        )  # struct itimerspec: no interval, then the moment
        if _libc.timerfd_settime(self._descriptor, _ABSTIME, spec, None) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def _on_time(self) -> None:
        with suppress(BlockingIOError):  # it was set anew meanwhile
            os.read(self._descriptor, 8)
        while self._due and self._due[0][0] <= monotonic_ns():
            _, _, waiter = heappop(self._due)
            waiter.switch(None)
        if self._due:
            self._arm()


alarm = PreciseTimer()
