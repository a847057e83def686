"""State of a stage while the dispatcher runs it."""

from dataclasses import dataclass, field

from gevent.event import Event

from harness.plan.bodies import Conversation
from harness.plan.types import Session, StagePlan
from harness.traffic._locust.http_client import Target


@dataclass(slots=True)
class Counts:
    """Since the start of this worker; `judged` and below: ended requests of the current stage.

    Attributes:
        missed: of `judged`, those that missed each of the profile's conditions.
        window_judged: of `judged`, those scheduled in the window; `window_missed` is of them.
    """

    sent: int = 0
    ok: int = 0
    failed: int = 0
    dropped: int = 0
    in_flight: int = 0
    live_sessions: int = 0
    judged: int = 0
    missed: list[int] = field(default_factory=list)
    window_judged: int = 0
    window_missed: list[int] = field(default_factory=list)

    def new_stage(self, conditions: int) -> None:
        """No request of the stage has ended yet."""
        self.judged = self.window_judged = 0
        self.missed, self.window_missed = [0] * conditions, [0] * conditions

    def judge(self, met: list[bool], *, in_window: bool) -> None:
        """Count one request that met these conditions."""
        self.judged += 1
        self.window_judged += in_window
        for index, one in enumerate(met):
            self.missed[index] += not one
            self.window_missed[index] += in_window and not one


@dataclass(frozen=True, slots=True)
class Primed:
    """A conversation that starts in the middle, with its history already in a server's cache."""

    session: Session
    target: Target
    conversation: Conversation


@dataclass(slots=True)
class StageRun:
    """One stage of one worker while it runs.

    Attributes:
        window_end_ns: planned; None if sessions end the window.
        pending_window: unfinished requests scheduled in the window.
        walked_ns: an open loop has started all sessions due before this.
        open_sources: greenlets that may still start sessions.
        turns_not_happened, turns_cut, replies_not_carried: as in `StageEnded`.
        closing: no new turns.
        progress: set whenever something ended.
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
        walked = (
            self.plan.concurrency is not None
            or self.window_end_ns is None
            or self.walked_ns >= self.window_end_ns
        )
        return walked and self.pending_window == 0

    def in_window(self, t_ns: int) -> bool:
        return self.window_end_ns is not None and self.window_start_ns <= t_ns < self.window_end_ns
