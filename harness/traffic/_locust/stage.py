"""What a dispatcher keeps of a stage while it runs."""

from dataclasses import dataclass, field

from gevent.event import Event

from harness.plan.bodies import Conversation
from harness.plan.types import Session, StagePlan
from harness.traffic._locust.http_client import Target


@dataclass(slots=True)
class Counts:
    """What happened since the start of this worker."""

    sent: int = 0
    ok: int = 0
    failed: int = 0
    dropped: int = 0
    in_flight: int = 0
    live_sessions: int = 0


@dataclass(frozen=True, slots=True)
class Primed:
    """A conversation that starts in its middle, its history already in a server's cache."""

    session: Session
    target: Target
    conversation: Conversation


@dataclass(slots=True)
class StageRun:
    """One stage of one worker while it runs.

    Attributes:
        plan: the stage.
        start_ns: its start, the same in all workers.
        window_start_ns: start of its window.
        window_end_ns: planned end of its window; None when sessions end it.
        pending_window: requests whose intended time lies in the window and that have not ended.
        walked_ns: an open loop has started all sessions that are due before this.
        open_sources: greenlets that may still start sessions.
        turns_not_happened: planned turns behind a failed or dropped one.
        turns_cut: planned turns that the end of the stage cut off.
        replies_not_carried: answers (`assistant: live`) that hold nothing that a later turn could
            carry; the recorded ones stay.
        closing: no new turns.
        progress: set whenever something ended, for whoever waits for the stage to end.
    """

    plan: StagePlan
    start_ns: int
    window_start_ns: int
    window_end_ns: int | None
    pending_window: int = 0
    walked_ns: int = 0
    open_sources: int = 0
    turns_not_happened: int = 0
    turns_cut: int = 0
    replies_not_carried: int = 0
    closing: Event = field(default_factory=Event)
    progress: Event = field(default_factory=Event)

    @property
    def window_is_done(self) -> bool:
        """Every request intended in the window has ended."""
        walked = (
            self.plan.concurrency is not None
            or self.window_end_ns is None
            or self.walked_ns >= self.window_end_ns
        )
        return walked and self.pending_window == 0

    def in_window(self, t_ns: int) -> bool:
        """Whether a time lies in the window."""
        return self.window_end_ns is not None and self.window_start_ns <= t_ns < self.window_end_ns
