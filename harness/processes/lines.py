"""Lines of JSON between the supervisor and a child of its own: one object a line, over two pipes.

The pipes are not the standard streams: what a library prints goes to the log and garbles nothing.
The child finds them by `HARNESS_LINES` in its environment.
"""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

VARIABLE: Final = "HARNESS_LINES"
"""Environment variable of the child's ends of both pipes: `<commands>,<events>`."""

LONGEST_BYTES: Final = 64 << 20
"""A longer line is a defect: the largest honest ones are a profile and half a second of TTFTs."""

_SHOWN: Final = 200

Message = dict[str, Any]


class LineError(ValueError):
    """What came over a pipe is no line of this protocol."""


class Readable(Protocol):
    """A binary file."""

    def readline(self, limit: int, /) -> bytes:
        """One line, at most so many bytes of it; empty at the end."""


def inherited() -> tuple[int, int]:
    """The child's ends, for reading commands and writing events. They are closed in what this
    process starts. Without a supervisor: the standard streams.
    """
    commands, events = (int(fd) for fd in os.environ.pop(VARIABLE, "0,1").split(","))
    if commands > 2:
        os.set_inheritable(commands, False)
        os.set_inheritable(events, False)
    return commands, events


def encode(message: Mapping[str, Any]) -> bytes:
    """One line."""
    return json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The object of one line.

    Raises:
        LineError: it is not one object in JSON.
    """
    try:
        message = json.loads(line)
    except ValueError as error:
        raise LineError(f"not JSON ({error}): {line[:_SHOWN]!r}") from error
    if not isinstance(message, dict):
        raise LineError(f"not an object: {line[:_SHOWN]!r}")
    return message


def split(file: Readable) -> Iterator[bytes]:
    """Whole lines until the end. What follows the last line end is left out: the writer was killed
    in the middle of it.

    Raises:
        LineError: a line is longer than 64 MiB.
    """
    while (line := file.readline(LONGEST_BYTES)).endswith(b"\n"):
        yield line
    if len(line) >= LONGEST_BYTES:
        raise LineError(f"a line of more than {LONGEST_BYTES:,} bytes: {line[:_SHOWN]!r}")
