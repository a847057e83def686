"""What every trace format becomes: requests and sessions, read as a stream."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from harness.core.errors import ProfileError


class Clock(StrEnum):
    """What the times of a trace count from."""

    TRACE = "trace"
    """One clock: `t_s` counts from the trace's first request, and requests come in order of time.
    """
    SESSION = "session"
    """A clock a recording: `t_s` counts from the start of the recording that the session is in;
    when that was is not known.
    """


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request as it was recorded. None is unknown, never 0.

    Attributes:
        t_s: start, in seconds on the trace's clock.
        input_tok: whole prompt, at least 1.
        output_tok: answer; 0 where nothing was generated.
        session_id: conversation that it belongs to; None: the trace knows no conversations.
        turn: position in its conversation, from 0.
        block_hashes: one id for each block of the prompt, from its start; equal ids within
            `hash_scope` are equal text. There may be fewer than blocks: what is behind the last id
            is shared with nobody.
        block_tok: length of a block.
        hash_scope: within which ids mean the same: the empty text is the whole trace, otherwise the
            name of a recording.
        workload_class: the trace's own label.
        stop: why the answer ended; empty text: recorded as blank.
        gap_s: end of the turn before to the start of this one, at least 0.
        ttft_s: time to the first token as recorded.
        reasoning_share: share of the output that is reasoning.
        parent_id: session that started this one as a subagent.
        line: line of the file, from 1; 0 where the trace is drawn, not recorded.
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
    """One conversation: at least one request.

    Attributes:
        session_id: as in its requests; made from the line's number where the trace knows no
            conversations.
        parent_id: session that started it as a subagent.
        requests: in order.
    """

    session_id: str
    parent_id: str | None
    requests: tuple[TraceRequest, ...]


@dataclass(slots=True)
class ReadTally:
    """What a pass over a trace met beside the requests that it gave.

    Attributes:
        failed: rows left out because the recorded request had failed (BurstGPT: no response
            tokens).
        reordered: rows that were moved to their place in time, within the window of
            `order.REORDER_ROWS`.
        without_lengths: expected requests of ServeGen windows for which the client has no lengths.
    """

    failed: int = 0
    reordered: int = 0
    without_lengths: float = 0.0


class Trace(ABC):
    """A trace that is open for reading. Every pass reads the file anew; nothing is kept between
    passes.

    Attributes:
        path: file or folder.
        kind: format, one of `open.KINDS` without `auto`.
        name: the file's or folder's name, part of the keys of its blocks.
        clock: what times count from.
        drawn: requests are drawn from distributions that the trace holds (ServeGen), so they depend
            on a seed.
        notes: what a reader of the trace should know.
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
        """The requests: in order of time on a trace's clock, recording by recording otherwise.

        Raises:
            ProfileError: the file is not of its format; names file and line.
        """

    @abstractmethod
    def sessions(self, *, seed: int = 0, tally: ReadTally | None = None) -> Iterator[TraceSession]:
        """The conversations, in order of their first requests.

        Raises:
            ProfileError: the file is not of its format; names file and line.
        """


def no_requests(path: Path) -> ProfileError:
    """An error about a trace that is well-formed and empty."""
    return bad(path, "holds no requests", next_step="name a trace with at least one request")


def bad(
    where: object, what: str, *, cause: str | None = None, next_step: str | None = None
) -> ProfileError:
    """An error about a place in a trace: `where` is a path or `path:line`."""
    return ProfileError(f"{where}: {what}", cause=cause, next_step=next_step)
