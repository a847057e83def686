"""JSON lines between the supervisor and a child, over two pipes.

These are not the standard streams, so that output of libraries does not mix with them. The child
finds them by `HARNESS_LINES` in its environment.
"""

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

VARIABLE: Final = "HARNESS_LINES"
"""Environment variable of the child's ends of both pipes: `<commands>,<events>`."""

LONGEST_BYTES: Final = 64 << 20
"""A longer line is an error: the largest valid ones are a profile and half a second of TTFTs."""

_SHOWN: Final = 200

Message = dict[str, Any]


class LineError(ValueError):
    """Data from a pipe is not a line of this protocol."""


class Readable(Protocol):
    """A binary file."""

    def readline(self, limit: int, /) -> bytes:
        """One line, at most so many bytes of it; empty at the end."""


def inherited() -> tuple[int, int]:
    """The child's ends, for reading commands and writing events; not inherited by its children.
    Without a supervisor: the standard streams.
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
    """The JSON object of one line; LineError if it is not one."""
    try:
        message = json.loads(line)
    except ValueError as error:
        raise LineError(f"not JSON ({error}): {line[:_SHOWN]!r}") from error
    if not isinstance(message, dict):
        raise LineError(f"not an object: {line[:_SHOWN]!r}")
    return message


def split(file: Readable) -> Iterator[bytes]:
    """Complete lines until the end, without a last partial one: its writer was killed.

    Raises:
        LineError: a line is longer than 64 MiB.
    """
    while (line := file.readline(LONGEST_BYTES)).endswith(b"\n"):
        yield line
    if len(line) >= LONGEST_BYTES:
        raise LineError(f"a line of more than {LONGEST_BYTES:,} bytes: {line[:_SHOWN]!r}")
