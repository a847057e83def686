"""Requests and sessions of every trace format, read as a stream."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from harness.core.errors import ProfileError


class Clock(StrEnum):
    """Origin of a trace's times."""

    TRACE = "trace"
    """One clock: `t_s` counts from the first request, and requests are in order of time."""
    SESSION = "session"
    """A clock per recording: `t_s` counts from the start of the session's recording, whose time is
    unknown.
    """


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One recorded request. None is unknown, never 0.

    Attributes:
        t_s: start, in seconds on the trace's clock.
        input_tok: complete prompt, at least 1.
        output_tok: response; 0 if nothing was generated.
        session_id: None: the trace has no sessions.
        turn: position in its session, from 0.
        block_hashes: an id per block of the prompt, from its start; equal ids within `hash_scope`
            are equal text. There may be fewer ids than blocks: the rest is unique text.
        block_tok: length of a block.
        hash_scope: scope of ids: empty for the complete trace, else the name of a recording.
        workload_class: the trace's own label.
        stop: stop reason; empty: recorded as blank.
        gap_s: end of the previous turn to the start of this one, at least 0.
        ttft_s: recorded TTFT.
        reasoning_share: share of the output that is reasoning.
        parent_id: session that started this one as a subagent.
        line: line of the file, from 1; 0 for a drawn request.
        where: file and place, for messages.
    """

    t_s: float
    input_tok: int
    output_tok: int
    session_id: str | None = None
    turn: int = 0
    block_hashes: tuple[int | str, ...] | None = None
    block_tok: int | None = None
    hash_scope: str = ""
    workload_class: str | None = None
    stop: str | None = None
    gap_s: float | None = None
    ttft_s: float | None = None
    reasoning_share: float | None = None
    parent_id: str | None = None
    line: int = 0
    where: str = ""


@dataclass(frozen=True, slots=True)
class TraceSession:
    """A session of at least one request.

    Attributes:
        session_id: as in its requests; made from the line number if the trace has no sessions.
        parent_id: session that started it as a subagent.
    """

    session_id: str
    parent_id: str | None
    requests: tuple[TraceRequest, ...]


@dataclass(slots=True)
class ReadTally:
    """Counts of irregular rows in one pass over a trace.

    Attributes:
        failed: rows left out because the recorded request failed (BurstGPT: no response tokens).
        reordered: rows moved to their place in time, within `order.REORDER_ROWS`.
        without_lengths: expected requests of ServeGen windows for which the client has no lengths.
    """

    failed: int = 0
    reordered: int = 0
    without_lengths: float = 0.0


class Trace(ABC):
    """A trace for reading. Every pass reads the file again; nothing is kept between passes.

    Attributes:
        kind: format, one of `open.KINDS` without `auto`.
        name: the file's or folder's name, part of the keys of its blocks.
        drawn: requests are drawn from the trace's distributions (ServeGen), by a seed.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        clock: Clock,
        *,
        drawn: bool = False,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self.kind = kind
        self.name = path.stem if path.is_file() else path.resolve().name
        self.clock = clock
        self.drawn = drawn
        self.notes = notes

    @abstractmethod
    def requests(self, *, seed: int = 0, tally: ReadTally | None = None) -> Iterator[TraceRequest]:
        """The requests, in order of time on a trace's clock, else recording by recording.

        Raises:
            ProfileError: the file has another format; with file and line.
        """

    @abstractmethod
    def sessions(self, *, seed: int = 0, tally: ReadTally | None = None) -> Iterator[TraceSession]:
        """The sessions, in order of their first requests.

        Raises:
            ProfileError: the file has another format; with file and line.
        """


def no_requests(path: Path) -> ProfileError:
    """The error for a trace that is well-formed but empty."""
    return bad(path, "has no requests", next_step="name a trace with at least one request")


def bad(
    where: object, what: str, *, cause: str | None = None, next_step: str | None = None
) -> ProfileError:
    """An error at a place in a trace: `where` is a path or `path:line`."""
    return ProfileError(f"{where}: {what}", cause=cause, next_step=next_step)
