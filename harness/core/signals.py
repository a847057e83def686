"""SIGINT, SIGTERM and SIGHUP for a command that starts processes and must stop them."""

import signal
from types import FrameType
from typing import Any, Self


class Signals:
    """Context manager. During startup the first signal raises KeyboardInterrupt; after
    `only_count`, during load and shutdown, signals are only counted.
    """

    def __init__(self) -> None:
        self.count = 0
        self._raises = True
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup: the run outlives its terminal
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def only_count(self) -> None:
        self._raises = False

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        # Raised once: a second signal must not cut the shutdown short.
        if self._raises and self.count == 1:
            raise KeyboardInterrupt
