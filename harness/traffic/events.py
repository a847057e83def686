"""What the workers say, merged into what the driver says of all of them.

Events are dicts with `event`:
    `stage_started` {stage, index, start_ns, window_start_ns, window_end_ns or None}: once a stage.
    `stage_ended` {stage, index, end_ns, window_end_ns, turns_not_happened, turns_cut,
    replies_not_carried}: once a stage, sums over workers.
    `progress` {t_ns, stage, in_flight, live_sessions, sent, ok, failed, dropped, output_tok,
    ttft_p50_s, ttft_p99_s (of this stage so
        far, from the intended time, None before the first), lag_p99_s (sends since the last such
        event; None without), loop_lag_s (largest since the last), cpu (largest share of a core),
        workers: {label: the same by worker}}: every half second.
    `finished` {interrupted}: once, at the end.
    `error` {message, worker}: a worker failed; `wait` and `poll` of the driver raise it.
"""

from bisect import insort
from collections.abc import Sequence
from typing import Any, Final

Event = dict[str, Any]

_MOST_TTFTS: Final = 20_000
_SUMMED: Final = (
    "in_flight",
    "live_sessions",
    "sent",
    "ok",
    "failed",
    "dropped",
    "output_tok",
)
_BY_WORKER: Final = ("in_flight", "sent", "cpu", "cpu_s", "loop_lag_ms")


class Progress:
    """Merges the workers' reports: worker 0's closes a round."""

    def __init__(self) -> None:
        self._last: dict[str, Event] = {}
        self._ttft_ms: list[float] = []

    def new_stage(self) -> None:
        """Latencies begin anew."""
        self._ttft_ms = []

    def add(self, label: str, report: Event, *, closes: bool) -> Event | None:
        """Take a report; the merged event where it closes a round."""
        self._last[label] = report
        for ttft_ms in report["ttft_ms"]:
            insort(self._ttft_ms, ttft_ms)
        if len(self._ttft_ms) > _MOST_TTFTS:
            self._ttft_ms = self._ttft_ms[::2]  # for the display: quantiles stay, memory is bounded
        if not closes:
            return None
        reports = list(self._last.values())
        lags = sorted(lag for one in reports for lag in one["lag_ms"])
        return {
            "event": "progress",
            "t_ns": report["t_ns"],
            "stage": report["stage"],
            **{key: sum(one[key] for one in reports) for key in _SUMMED},
            "ttft_p50_s": _quantile_s(self._ttft_ms, 0.5),
            "ttft_p99_s": _quantile_s(self._ttft_ms, 0.99),
            "lag_p99_s": _quantile_s(lags, 0.99),
            "loop_lag_s": max(one["loop_lag_ms"] for one in reports) / 1000,
            "cpu": max(one["cpu"] for one in reports),
            "workers": {
                name: {key: one[key] for key in _BY_WORKER} for name, one in self._last.items()
            },
        }


def primed(marks: Sequence[Event]) -> Event:
    """`stage_primed` of all workers."""
    return {
        **marks[-1],
        "start_ns": min(mark["start_ns"] for mark in marks),
        "end_ns": max(mark["end_ns"] for mark in marks),
        **{key: sum(mark[key] for mark in marks) for key in ("primed", "failed")},
    }


def ended(marks: Sequence[Event]) -> Event:
    """`stage_ended` of all workers."""
    summed = ("turns_not_happened", "turns_cut", "replies_not_carried")
    return {
        **marks[-1],
        "end_ns": max(mark["end_ns"] for mark in marks),
        "window_end_ns": max(mark["window_end_ns"] for mark in marks),
        **{key: sum(mark[key] for mark in marks) for key in summed},
    }


def _quantile_s(sorted_ms: list[float], share: float) -> float | None:
    """Nearest-rank quantile in seconds; for the display."""
    return (
        sorted_ms[min(len(sorted_ms) - 1, int(share * len(sorted_ms)))] / 1000
        if sorted_ms
        else None
    )
