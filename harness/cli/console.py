"""stdout and stderr that cannot end a command: a closed pipe, a full device, a dead terminal."""

import io
import os
import sys
from contextlib import suppress
from typing import Any, TextIO


class SteadyStream(io.TextIOBase):
    """Writes to a stream until that fails; from then on the text is dropped, and `lost` is why."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        if self.lost is None:
            try:
                return self._stream.write(text)
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        if self.lost is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._lose(error)

    def _lose(self, error: OSError) -> None:
        """Python flushes the stream again at its end, so its descriptor leads nowhere now."""
        self.lost = error
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def isatty(self) -> bool:
        with suppress(OSError, ValueError):
            return self._stream.isatty()
        return False

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def __getattribute__(self, name: str) -> Any:  # noqa: ANN401 - of the stream
        if name in ("encoding", "errors", "newlines", "buffer", "name", "mode"):
            return getattr(object.__getattribute__(self, "_stream"), name, None)
        return super().__getattribute__(name)


def make_steady() -> None:
    """Replace `sys.stdout` and `sys.stderr`. Closed descriptors are opened on /dev/null, so that no
    other file gets their numbers. Characters that an encoding lacks are replaced.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - kept open
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
        setattr(sys, name, SteadyStream(stream))


def output_lost() -> bool:
    """Whether stdout failed and later text was dropped."""
    if not isinstance(sys.stdout, SteadyStream):
        return False
    sys.stdout.flush()  # a short output is still in the buffer
    return sys.stdout.lost is not None
