"""Merges the workers' reports into one event for all of them."""

from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Final

from harness.core.progress import TrafficProgress
from harness.traffic.events import StageEnded, StagePrimed, WorkerProgress

_MOST_TTFTS: Final = 20_000
_SUMMED: Final = (
    "in_flight",
    "live_sessions",
    "sent",
    "ok",
    "failed",
    "dropped",
    "judged",
    "window_judged",
)


class ProgressMerger:
    """The report of worker 0 closes a round."""

    def __init__(self) -> None:
        self._last: dict[str, WorkerProgress] = {}
        self._ttft_ms: list[float] = []

    def new_stage(self) -> None:
        self._ttft_ms = []

    def add(self, label: str, report: WorkerProgress, *, closes: bool) -> TrafficProgress | None:
        """Add a report; returns the merged one if it closes a round."""
        self._last[label] = report
        for ttft_ms in report.ttft_ms:
            insort(self._ttft_ms, ttft_ms)
        if len(self._ttft_ms) > _MOST_TTFTS:
            self._ttft_ms = self._ttft_ms[::2]  # for the display: quantiles stay, memory is bounded
        if not closes:
            return None
        reports = list(self._last.values())
        return TrafficProgress(
            t_ns=report.t_ns,
            stage=report.stage,
            **{name: sum(getattr(one, name) for one in reports) for name in _SUMMED},
            missed=_added(one.missed for one in reports),
            window_missed=_added(one.window_missed for one in reports),
            ttft_p50_s=_quantile_s(self._ttft_ms, 0.5),
            ttft_p99_s=_quantile_s(self._ttft_ms, 0.99),
            loop_lag_s=max(one.loop_lag_ms for one in reports) / 1000,
            cpu=max(one.cpu for one in reports),
        )


def all_primed(marks: Sequence[StagePrimed]) -> StagePrimed:
    """One mark for all workers."""
    return replace(
        marks[-1],
        start_ns=min(one.start_ns for one in marks),
        end_ns=max(one.end_ns for one in marks),
        primed=sum(one.primed for one in marks),
        failed=sum(one.failed for one in marks),
    )


def all_ended(marks: Sequence[StageEnded]) -> StageEnded:
    """One mark for all workers."""
    return replace(
        marks[-1],
        end_ns=max(one.end_ns for one in marks),
        window_end_ns=max(one.window_end_ns for one in marks),
        turns_not_happened=sum(one.turns_not_happened for one in marks),
        turns_cut=sum(one.turns_cut for one in marks),
        replies_not_carried=sum(one.replies_not_carried for one in marks),
    )


def _added(counts: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """Sums by position; a worker that has not begun the stage has none."""
    return tuple(map(sum, zip_longest(*counts, fillvalue=0)))


def _quantile_s(sorted_ms: list[float], share: float) -> float | None:
    """Nearest-rank quantile in seconds; for the display."""
    if not sorted_ms:
        return None
    return sorted_ms[min(len(sorted_ms) - 1, int(share * len(sorted_ms)))] / 1000
