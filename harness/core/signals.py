"""SIGINT, SIGTERM and SIGHUP of a command that starts things and must stop them."""

import signal
from types import FrameType
from typing import Any, Self


class Signals:
    """A context manager. The first signal raises KeyboardInterrupt while things are being started;
    from `only_count` on, when load runs and when everything is being stopped, signals are counted.

    Attributes:
        count: signals so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._raises = True
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def only_count(self) -> None:
        """From now on nothing is raised."""
        self._raises = False

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        # Raised once: a second signal while everything is being stopped must not cut that short.
        if self._raises and self.count == 1:
            raise KeyboardInterrupt
