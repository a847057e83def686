"""State of the load for view and exporter, from load generator, telemetry and plan."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Final

from harness.artifacts.events import EventLog
from harness.commands.display import Progress, View
from harness.core.clock import now_ns, seconds
from harness.core.progress import TelemetryProgress, TrafficProgress
from harness.plan.types import StagePlan
from harness.telemetry.exporter import Exporter
from harness.traffic.events import StageStarted, TrafficEvent

LOOP_LAG_KEPT_S: Final = 0.005
"""Timer lag of the load generator above which it is recorded as an event."""

_RATE_READINGS: Final = 5


class LiveDisplay:
    """Receives events of the load generator, from its threads, and shows progress on request.

    Attributes:
        traffic: latest report of the load generator.
        started: the latest stage that started; None before the first.

    Args:
        stages: stages of the plan.
        events: records events for the reduction.
        view: receives progress.
        exporter: receives the same; None for no exporter.
        clock: monotonic nanoseconds.
    """

    def __init__(
        self,
        stages: Sequence[StagePlan],
        events: EventLog,
        view: View,
        exporter: Exporter | None = None,
        *,
        clock: Callable[[], int] = now_ns,
    ) -> None:
        self._stages = {stage.name: stage for stage in stages}
        self._first = stages[0].name
        self._events = events
        self._view = view
        self._exporter = exporter
        self._clock = clock
        self.traffic = TrafficProgress()
        self.started: StageStarted | None = None
        self._started_ns: dict[str, int] = {}
        self._generated = Rate()

    def on_traffic_event(self, event: TrafficEvent) -> None:
        """Keep progress for the next `show`; record everything else as events."""
        if isinstance(event, TrafficProgress):
            self.traffic = event
            if event.loop_lag_s is not None and event.loop_lag_s > LOOP_LAG_KEPT_S:
                self._events.append("loop_lag", t_ns=event.t_ns, lag_s=event.loop_lag_s)
            return
        self._events.append(event.event, **asdict(event))
        if isinstance(event, StageStarted):
            self.started = event
            self._started_ns[event.stage] = event.start_ns
            self._view.note(f"stage {event.stage}")

    def show(self, telemetry: TelemetryProgress) -> None:
        """Pass the current state to view and exporter."""
        now, traffic = self._clock(), self.traffic
        stage = self._stages[traffic.stage or self._first]
        elapsed_s = max(0.0, seconds(now - self._started_ns.get(stage.name, now)))
        progress = Progress(
            stage=stage.name,
            phase=phase_of(stage, elapsed_s),
            elapsed_s=elapsed_s,
            total_s=_total_s(stage),
            run_left_s=self._run_left_s(stage, elapsed_s),
            output_tok_s=self._generated.of(telemetry.generated_tokens, now),
            traffic=traffic,
            telemetry=telemetry,
        )
        self._view.progress(progress)
        if self._exporter is not None:
            self._exporter.update(progress.stage, progress.phase, traffic, telemetry)

    def _run_left_s(self, stage: StagePlan, elapsed_s: float) -> float:
        """Minimum: stages that end with their sessions count with their warm-up only."""
        later = (one for one in self._stages.values() if one.index > stage.index)
        rest_s = max(0.0, least_s(stage) - elapsed_s)
        return rest_s + sum(map(least_s, later))


def phase_of(stage: StagePlan, elapsed_s: float) -> str:
    """`warm-up`, `sessions` (a stage that ends with them), `window` or `draining`."""
    total_s = _total_s(stage)
    if elapsed_s < seconds(stage.warmup_ns):
        return "warm-up"
    if total_s is None:
        return "sessions"
    return "window" if elapsed_s <= total_s else "draining"


def _total_s(stage: StagePlan) -> float | None:
    """Warm-up and window; None for a stage that ends with its sessions."""
    return None if stage.window_ns is None else seconds(stage.warmup_ns + stage.window_ns)


def least_s(stage: StagePlan) -> float:
    """Shortest time of a stage: one with a number of sessions may end before its window."""
    if stage.sessions is not None:
        return 0.0
    total_s = _total_s(stage)
    return seconds(stage.warmup_ns) if total_s is None else total_s


class Rate:
    """Tokens per second over the last few readings of a counter. It decreases once the counter has
    not risen for longer than between any two of them: llama.cpp counts when a request ends.
    """

    def __init__(self) -> None:
        self._seen: list[tuple[int, float]] = []

    def of(self, counter: float | None, t_ns: int) -> float | None:
        """Add a reading; None if the counter is unknown, has not risen yet or fell."""
        if counter is None:
            return None
        if not self._seen or counter != self._seen[-1][1]:
            self._seen.append((t_ns, counter))
        self._seen = self._seen[-_RATE_READINGS:]
        (t0, c0), (t1, c1) = self._seen[0], self._seen[-1]
        longest_ns = max((b - a for (a, _), (b, _) in pairwise(self._seen)), default=0)
        if t_ns - t1 > longest_ns > 0:
            t1 = t_ns
        return (c1 - c0) / seconds(t1 - t0) if t1 > t0 and c1 >= c0 else None
