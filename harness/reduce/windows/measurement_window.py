"""The measurement window of each stage, and its rule in words."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from harness.core.records import RunState
from harness.profile.recorded import RecordedStage
from harness.reduce.read.run import Run, last_evidence, number
from harness.reduce.statistics.stationarity import SteadyState


@dataclass(frozen=True, slots=True)
class StageWindow:
    """One load stage and its window, in nanoseconds from the run's start. None means unknown.

    Attributes:
        kind: concurrency or arrival_rate.
        start: of the window.
        end: of the window (exclusive).
        cut: the run ended before the window did.
        bounded_by: `window_s` or `sessions`.
        concurrency: live conversations of a closed loop, else None.
        warmup_given: the profile fixes the start of the window; else the test finds it.
        steady: result of the steady-state test; None if there was none.
        untested: why there was none.
    """

    name: str
    kind: str | None
    stage_start: float | None
    stage_end: float | None
    start: float | None
    end: float | None
    cut: bool
    bounded_by: str
    concurrency: int | None
    turns_not_happened: int | None
    rule: str
    warmup_given: bool = True
    steady: SteadyState | None = None
    untested: str | None = None


_SIGNALS: Final = {
    "requests_in_flight": "requests in flight",
    "output_tok_s": "output tokens per second",
    "mean_context_tok": "mean context length",
    "prefix_hit_ratio": "prefix hit ratio",
}
RATIOS: Final = frozenset({"prefix_hit_ratio"})
"""Signals whose changes are evaluated in their own unit."""

_COUNTS = (
    " Latency, SLOs and goodput cover every request scheduled in it, whenever it ended. Tokens are"
    " those that arrived in it. Counters and energy are differences between its edges."
)


def stage_windows(run: Run) -> list[StageWindow]:
    """The stages that were started, in order; without events, those of the requests."""
    started, ended = (
        {str(e["stage"]): e for e in run.events if e["event"] == event and "stage" in e}
        for event in ("stage_started", "stage_ended")
    )
    stage, scheduled = run.requests.stage, run.requests.intended
    names = list(started) or sorted(
        stage.counts(), key=lambda name: (float(scheduled[np.argmax(stage == name)]), name)
    )
    load = run.profile.traffic.load
    by_name = {stage.name: stage for stage in load if stage.name}
    by_place = dict(zip(names, load, strict=False))  # of stages without a name
    return [
        _window(
            run,
            name,
            started.get(name, {}),
            ended.get(name, {}),
            by_name.get(name) or by_place.get(name) or RecordedStage(),
        )
        for name in names
    ]


def _window(
    run: Run,
    name: str,
    started: Mapping[str, Any],
    ended: Mapping[str, Any],
    stage: RecordedStage,
) -> StageWindow:
    def time(event: Mapping[str, Any], key: str) -> float | None:
        return None if number(event.get(key)) is None else run.at(event[key])

    mine = run.requests.stage == name
    stage_start, stage_end = time(started, "start_ns"), time(ended, "end_ns")
    start = time(started, "window_start_ns")
    planned_end, end = time(started, "window_end_ns"), time(ended, "window_end_ns")
    early = end is not None and (planned_end is None or end < planned_end)
    if end is None:
        end = planned_end
    cut = early and run.state is not RunState.COMPLETE
    # A stage may have both bounds; a complete run whose window ended early had no sessions left.
    by_sessions = planned_end is None or (early and not cut)
    words = [f"Stage {name}"]
    if start is None and np.any(mine):
        start = float(np.min(run.requests.intended[mine]))
        words.append("from its first scheduled request (the start of its window was not recorded)")
    elif start is not None:
        warmup_s = (start - stage_start) * 1e-9 if stage_start is not None else 0
        after = f"{warmup_s:g} s after its start (warmup_s)" if warmup_s else "its start"
        words.append(f"from {after}")
    if end is None and start is not None:
        done = run.requests.done[mine]
        known = done[~np.isnan(done)]
        if stage_end is not None:
            end = stage_end
        elif len(known):
            end = float(np.max(known)) + 1.0  # half-open: the last token is inside
        cut = cut or stage_end is None
        words.append("to the end of its last recorded request")
    elif end is not None and start is not None:
        if not by_sessions:
            words.append(f"for {(end - start) * 1e-9:g} s (window_s)")
        elif cut:
            words.append("as long as it lasted")
        else:
            words.append("to the end of its last session (sessions), ramp-down included")
    evidence = last_evidence(run)
    if not ended and end is not None and evidence is not None and evidence < end:
        end, cut = evidence, True
    if cut:
        words.append("cut short at the end of the run or its records")
    rule = ", ".join(words) + "." + _COUNTS
    if end is not None and start is not None and end <= start:
        end = None
    if start is None or end is None:
        rule = f"Stage {name} has no measurement window."
    turns = ended.get("turns_not_happened")
    return StageWindow(
        name=name,
        kind=stage.kind,
        stage_start=stage_start,
        stage_end=stage_end,
        start=start if end is not None else None,
        end=end,
        cut=cut,
        bounded_by="sessions" if by_sessions else "window_s",
        concurrency=stage.concurrency,
        turns_not_happened=turns if isinstance(turns, int) else None,
        rule=rule,
        warmup_given=stage.warmup_s is not None or start is None or start != stage_start,
    )


def untested(window: StageWindow, why: str) -> StageWindow:
    """The window with the reason why it has no steady-state test."""
    return replace(window, untested=why, rule=f"{window.rule} No steady-state test: {why}.")


def settled(window: StageWindow, found: SteadyState) -> StageWindow:
    """The window after the steady-state test, with the result in its rule. A warm-up that it finds
    is excluded, unless the profile fixes the start of the window.
    """
    if window.start is None:
        return window
    names = [_SIGNALS.get(name, name) for name in found.signals]
    over = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
    warmup_s = found.warmup_slices * found.slice_s
    slowest = ", ".join(
        _SIGNALS.get(name, name)
        for name, test in found.signals.items()
        if test.warmup_slices == found.warmup_slices
    )
    start = window.start
    if not found.warmup_slices:
        cut = "no further warm-up" if window.warmup_given else "no warm-up"
    elif window.warmup_given:
        cut = f"a warm-up of {warmup_s:g} s ({slowest}), not excluded because warmup_s is set"
    else:
        start += warmup_s * 1e9
        cut = f"a warm-up of {warmup_s:g} s ({slowest}), excluded"
    drifting = [
        drift_in_words(name, test.change) for name, test in found.signals.items() if test.drift
    ]
    trend = f"Drift: {'; '.join(drifting)}" if drifting else "The Mann-Kendall test finds no drift"
    words = f" Steady-state test of {over}, in slices of {found.slice_s:.3g} s: MSER-5 finds {cut}."
    return replace(window, start=start, steady=found, rule=f"{window.rule}{words} {trend}.")


def drift_in_words(name: str, change: float | None) -> str:
    """A drifting signal and its change."""
    what = _SIGNALS.get(name, name)
    if change is None:
        return what
    return f"{what} {change:+.3f}" if name in RATIOS else f"{what} {change:+.1%}"
