"""What a Locust process reports to its supervisor, one line of JSON each, and the driver's events
for all workers. Plain Python: both sides import it.

`stage` is the name of a load stage, `index` its position in the plan; times are monotonic.
"""

from dataclasses import asdict, dataclass
from typing import ClassVar, get_args

from harness.core.progress import TrafficProgress
from harness.processes import lines


@dataclass(frozen=True, slots=True)
class Ready:
    """A process can start. `plan_sha256` is of the plan that a worker made, None for the master."""

    event: ClassVar[str] = "ready"
    plan_sha256: str | None


@dataclass(frozen=True, slots=True)
class WorkerProgress:
    """One worker's part of a `TrafficProgress`; `ttft_ms`, `loop_lag_ms` and `cpu` cover the time
    since its last report.
    """

    event: ClassVar[str] = "progress"
    t_ns: int
    stage: str | None
    in_flight: int
    live_sessions: int
    sent: int
    ok: int
    failed: int
    dropped: int
    judged: int
    missed: list[int]
    window_judged: int
    window_missed: list[int]
    ttft_ms: list[float]
    loop_lag_ms: float
    cpu: float


@dataclass(frozen=True, slots=True)
class StagePrimed:
    """The histories of conversations that start in the middle are cached by the servers. `failed`
    of the `primed` conversations got no response.
    """

    event: ClassVar[str] = "stage_primed"
    stage: str
    index: int
    start_ns: int
    end_ns: int
    primed: int
    failed: int


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage begins, at the same time in all workers. The window starts at the end of the warm-up
    and has no end (None) in a stage that ends with its sessions.
    """

    event: ClassVar[str] = "stage_started"
    stage: str
    index: int
    start_ns: int
    window_start_ns: int
    window_end_ns: int | None


@dataclass(frozen=True, slots=True)
class WindowDone:
    """Every request scheduled in a worker's part of a window has ended; its load goes on until the
    other workers reach that point.
    """

    event: ClassVar[str] = "window_done"
    stage: str
    index: int


@dataclass(frozen=True, slots=True)
class StageEnded:
    """Every request of a stage has been recorded.

    Attributes:
        window_end_ns: at most `end_ns`.
        turns_not_happened: turns after a failed or dropped one.
        turns_cut: turns not sent because the stage had ended.
        replies_not_carried: responses that the next turn could not include.
    """

    event: ClassVar[str] = "stage_ended"
    stage: str
    index: int
    end_ns: int
    window_end_ns: int
    turns_not_happened: int
    turns_cut: int
    replies_not_carried: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The plan has ended, or was interrupted."""

    event: ClassVar[str] = "finished"
    interrupted: bool


@dataclass(frozen=True, slots=True)
class Failed:
    """A worker failed; the driver adds the label of its process."""

    event: ClassVar[str] = "error"
    message: str
    worker: str | None = None


StageMark = StagePrimed | StageStarted | WindowDone | StageEnded
WorkerEvent = Ready | WorkerProgress | StageMark | Finished | Failed
"""What a process reports."""

TrafficEvent = TrafficProgress | StagePrimed | StageStarted | StageEnded | Finished | Failed
"""What the driver announces; each kind of mark once per stage."""

_KINDS: dict[str, type[WorkerEvent]] = {kind.event: kind for kind in get_args(WorkerEvent)}


def to_line(event: WorkerEvent) -> bytes:
    """One line of JSON."""
    return lines.encode({"event": event.event, **asdict(event)})


def from_line(line: bytes) -> WorkerEvent:
    """The event of one line.

    Raises:
        KeyError: unknown event.
        TypeError: missing or unknown fields.
        LineError: not JSON.
    """
    fields = lines.decode(line)
    return _KINDS[fields.pop("event")](**fields)
