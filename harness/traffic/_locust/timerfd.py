"""Waiting until a time to within microseconds.

The event loop's own timers are rounded up to whole milliseconds (libev polls by `epoll_wait`),
which would send every planned request half a millisecond late on average. A kernel timer with a
file descriptor (`timerfd_create(2)`) wakes the loop on time.
"""

import ctypes
import os
from contextlib import suppress
from heapq import heappop, heappush
from time import CLOCK_MONOTONIC, monotonic_ns
from typing import Any, Final, NoReturn

from gevent.hub import Waiter, get_hub

_NS: Final = 1_000_000_000
# TFD_NONBLOCK and TFD_CLOEXEC have these values (bits/timerfd.h).
_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC
_ABSTIME: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True)


class PreciseTimer:
    """Wakes greenlets at times of the monotonic clock."""

    def __init__(self) -> None:
        self._due: list[tuple[int, int, Waiter]] = []
        self._count = 0
        self._descriptor = -1
        self._io: Any = None

    def wait(self, t_ns: int) -> None:
        """Sleep until a monotonic time; not interruptible. Returns immediately if it has passed.

        Raises:
            OSError: the kernel has no timer.
        """
        if t_ns <= monotonic_ns():
            return
        if self._io is None:
            self._open()
        waiter = Waiter()
        self._count += 1  # orders equal times by their waits; waiters themselves do not compare
        heappush(self._due, (t_ns, self._count, waiter))
        if self._due[0][2] is waiter:
            self._arm()
        waiter.get()

    def _open(self) -> None:
        descriptor = _libc.timerfd_create(CLOCK_MONOTONIC, _FLAGS)
        if descriptor < 0:
            _raise_errno()
        self._descriptor = descriptor
        self._io = get_hub().loop.io(descriptor, 1)
        self._io.start(self._on_time)

    def _arm(self) -> None:
        seconds, rest = divmod(self._due[0][0], _NS)
        spec = (ctypes.c_long * 4)(0, 0, seconds, rest)  # struct itimerspec: no interval, the time
        if _libc.timerfd_settime(self._descriptor, _ABSTIME, spec, None) < 0:
            _raise_errno()

    def _on_time(self) -> None:
        with suppress(BlockingIOError):  # it was set again meanwhile
            os.read(self._descriptor, 8)
        while self._due and self._due[0][0] <= monotonic_ns():
            _, _, waiter = heappop(self._due)
            waiter.switch(None)
        if self._due:
            self._arm()


def _raise_errno() -> NoReturn:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


alarm = PreciseTimer()
