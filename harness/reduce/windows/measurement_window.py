"""Which stretch of time is measured, and the rule in words."""

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
    """One load stage and its window, in nanoseconds from the run's start.

    Attributes:
        name: of the stage.
        kind: concurrency or arrival_rate; None if unknown.
        stage_start: None if unknown.
        stage_end: None if unknown.
        start: of the window; None when nothing is known of it.
        end: of the window (exclusive).
        cut: the run ended before the window did.
        bounded_by: `window_s` or `sessions`.
        concurrency: live conversations of a closed loop, else None.
        turns_not_happened: None if the run did not tell.
        rule: in words.
        warmup_given: somebody said when the window opens; False where the data are to tell.
        steady: what the steady-state test found; None where it was not made.
        untested: why it was not.
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
"""Signals whose changes are judged in their own unit."""

_COUNTS = (
    " Latency, SLOs and goodput are over every request intended in it, whenever it ended; tokens"
    " are those that arrived in it; counters and energy are differenced at its edges."
)


def stage_windows(run: Run) -> list[StageWindow]:
    """The stages that were started, in order; for runs without events, the stages that requests
    name.
    """
    started = {
        str(e["stage"]): e for e in run.events if e["event"] == "stage_started" and "stage" in e
    }
    ended = {str(e["stage"]): e for e in run.events if e["event"] == "stage_ended" and "stage" in e}
    names = list(started)
    if not names:
        first: dict[str, float] = {}
        for name in run.requests.stage.counts():
            first[name] = float(run.requests.intended[np.argmax(run.requests.stage == name)])
        names = sorted(first, key=lambda name: (first[name], name))
    load = _load_by_name(run, names)
    return [
        _window(
            run, name, started.get(name, {}), ended.get(name, {}), load.get(name, RecordedStage())
        )
        for name in names
    ]


def _load_by_name(run: Run, names: list[str]) -> dict[str, RecordedStage]:
    """The profile's load stages by name; unnamed ones go by position."""
    stages = run.profile.traffic.load
    by_name = {stage.name: stage for stage in stages if stage.name}
    for position, name in enumerate(names):
        if name not in by_name and position < len(stages):
            by_name[name] = stages[position]
    return by_name


def _time(run: Run, event: Mapping[str, Any], key: str) -> float | None:
    return None if number(event.get(key)) is None else run.at(event[key])


def _window(
    run: Run,
    name: str,
    started: Mapping[str, Any],
    ended: Mapping[str, Any],
    stage: RecordedStage,
) -> StageWindow:
    requests = run.requests
    mine = requests.stage == name
    stage_start = _time(run, started, "start_ns")
    stage_end = _time(run, ended, "end_ns")
    start = _time(run, started, "window_start_ns")
    planned_end = _time(run, started, "window_end_ns")
    end = _time(run, ended, "window_end_ns")
    early = end is not None and (planned_end is None or end < planned_end)
    if end is None:
        end = planned_end
    # A stage may have both bounds; a complete run whose window ended early had no sessions left.
    bounded_by = (
        "sessions"
        if planned_end is None or (early and run.state is RunState.COMPLETE)
        else "window_s"
    )
    words = [f"Stage {name}"]
    cut = early and run.state is not RunState.COMPLETE
    if start is None and np.any(mine):
        start = float(np.min(requests.intended[mine]))
        words.append(
            "from its first intended request (the run did not record when its window opened)"
        )
    elif start is not None:
        warmup_s = (start - stage_start) * 1e-9 if stage_start is not None else None
        words.append(
            "from its start" if not warmup_s else f"from {warmup_s:g} s after its start (warmup_s)"
        )
    evidence = last_evidence(run)
    if end is None and start is not None:
        done = requests.done[mine]
        known = done[~np.isnan(done)]
        if stage_end is not None:
            end = stage_end
        elif len(known):
            end = float(np.max(known)) + 1.0  # half-open: the last token is inside
        cut = cut or stage_end is None
        words.append("to the end of its last recorded request")
    elif end is not None and start is not None:
        if bounded_by == "window_s":
            words.append(f"for {(end - start) * 1e-9:g} s (window_s)")
        else:
            words.append(
                "to the end of its last session (sessions), so that its ramp down is part of it"
                if not cut
                else "for as long as it went on"
            )
    if not ended and end is not None and evidence is not None and evidence < end:
        end, cut = evidence, True
    if cut:
        words.append("cut short where the run or its records end")
    if end is not None and start is not None and end <= start:
        end = None
    rule = (
        (", ".join(words) + "." + _COUNTS)
        if start is not None and end is not None
        else f"Stage {name} has no measured window."
    )
    turns = ended.get("turns_not_happened")
    to_find = stage.warmup_s is None and start is not None and start == stage_start
    return StageWindow(
        name=name,
        kind=stage.kind,
        stage_start=stage_start,
        stage_end=stage_end,
        start=start if end is not None else None,
        end=end,
        cut=cut,
        bounded_by=bounded_by,
        concurrency=stage.concurrency,
        turns_not_happened=turns if isinstance(turns, int) else None,
        rule=rule,
        warmup_given=not to_find,
    )


def untested(window: StageWindow, why: str) -> StageWindow:
    """The window as it is, saying that the steady-state test was not made."""
    return replace(
        window, untested=why, rule=f"{window.rule} No steady-state test was made: {why}."
    )


def settled(window: StageWindow, found: SteadyState) -> StageWindow:
    """The window after the steady-state test, with what was done in its rule.

    A warm-up that was found is left out, unless the profile says when the window opens; then the
    test only tells.
    """
    if window.start is None:
        return window
    names = [_SIGNALS.get(name, name) for name in found.signals]
    over = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
    warmup_s = found.warmup_slices * found.slice_s
    slowest = [
        _SIGNALS.get(name, name)
        for name, test in found.signals.items()
        if test.warmup_slices == found.warmup_slices
    ]
    start = window.start
    if not found.warmup_slices:
        cut = (
            "MSER-5 finds no warm-up" if not window.warmup_given else "MSER-5 finds no warm-up left"
        )
    elif window.warmup_given:
        cut = (
            f"MSER-5 finds that the first {warmup_s:g} s still warm up ({', '.join(slowest)}),"
            " which are left in since warmup_s was given"
        )
    else:
        start += warmup_s * 1e9
        cut = f"MSER-5 finds a warm-up of {warmup_s:g} s ({', '.join(slowest)}), which is left out"
    drifting = [
        drift_in_words(name, test.change) for name, test in found.signals.items() if test.drift
    ]
    trend = (
        f"Drift: {'; '.join(drifting)}" if drifting else "Mann and Kendall's test finds no drift"
    )
    words = f" Steady-state test over {over}, in slices of {found.slice_s:.3g} s: {cut}. {trend}."
    return replace(window, start=start, steady=found, rule=window.rule + words)


def drift_in_words(name: str, change: float | None) -> str:
    """A signal that drifts, and by how much."""
    what = _SIGNALS.get(name, name)
    if change is None:
        return what
    return f"{what} {change:+.3f}" if name in RATIOS else f"{what} {change:+.1%}"
