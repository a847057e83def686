"""The steady-state test of a stage."""

from typing import Final

import numpy as np

from harness.core.metric_names import Concept
from harness.core.records import Concern, Severity
from harness.reduce.over_time.counters import ServerCounters
from harness.reduce.over_time.flows import Flows
from harness.reduce.over_time.tokens import context
from harness.reduce.read.run import Run, last_evidence
from harness.reduce.statistics.intervals import Floats
from harness.reduce.statistics.stationarity import (
    DRIFT_RATIO,
    DRIFT_SHARE,
    MIN_SLICE_S,
    MIN_SLICES,
    SLICES,
    examine_all,
)
from harness.reduce.windows.measurement_window import (
    RATIOS,
    StageWindow,
    drift_in_words,
    settled,
    untested,
)

MOST_UNKNOWN: Final = 0.1
"""Maximum share of slices without a value for a signal to be tested; gaps are interpolated."""


def settle(
    run: Run, window: StageWindow, flow: Flows, counters: ServerCounters | None
) -> StageWindow:
    """Test a stage's window for steady state; exclude the warm-up if the profile does not set it.
    The window then starts with the stage.
    """
    if window.start is None or window.end is None:
        return window
    if window.bounded_by == "sessions":
        return untested(window, "the window includes the ramp-down to the last session")
    if window.cut:
        return untested(window, "the window was cut short")
    length_s = (window.end - window.start) * 1e-9
    slices = min(SLICES, int(length_s / MIN_SLICE_S))
    if slices < MIN_SLICES:
        why = f"{length_s:g} s is less than {MIN_SLICES} slices of {MIN_SLICE_S:g} s"
        return untested(window, why)
    edges = np.linspace(window.start, window.end, slices + 1)
    found = examine_all(signals(run, flow, counters, edges), length_s / slices, RATIOS)
    return settled(window, found)


def steady_concerns(window: StageWindow | None) -> list[Concern]:
    """Concerns from the steady-state test of a measurement's headline window."""
    if window is None or window.start is None:
        return []
    if window.steady is None:
        text = f"Steady state is unknown: {window.untested or 'it was not tested'}."
        return [Concern("steady_state_untested", Severity.PRELIMINARY, text)]
    out = []
    for name, test in window.steady.signals.items():
        if test.drift:
            text = (
                f"Drift within the window: {drift_in_words(name, test.change)}. Use a longer"
                " warm-up or a different load."
            )
            limit = DRIFT_RATIO if name in RATIOS else DRIFT_SHARE
            change = abs(test.change) if test.change is not None else None
            out.append(Concern("not_stationary", Severity.DEGRADED, text, change, limit))
    if window.steady.warmup_slices and window.warmup_given:
        warmup_s = window.steady.warmup_slices * window.steady.slice_s
        text = (
            f"The first {warmup_s:.0f} s of the window are still warm-up. Increase warmup_s by this"
            " time."
        )
        out.append(Concern("warmup_in_window", Severity.DEGRADED, text, warmup_s, 0))
    return out


def signals(
    run: Run, flow: Flows, counters: ServerCounters | None, edges: Floats
) -> dict[str, Floats]:
    """The signals to test, per slice between edges, that are known in enough of the slices."""
    widths = np.diff(edges)
    tokens, known = context(run.requests, last_evidence(run) or 0.0)
    found: dict[str, Floats] = {
        "requests_in_flight": flow.in_flight.per_bin(edges) / widths,
        "output_tok_s": flow.output.flow.per_bin(edges) / (widths * 1e-9),
        "mean_context_tok": quotient(
            tokens.per_bin(edges), known.per_bin(edges), least=1e-6 * widths
        ),
    }
    hits = prefix_hit_ratio(flow, counters, edges)
    if hits is not None:
        found["prefix_hit_ratio"] = hits
    whole = {}
    for name, values in found.items():
        there = ~np.isnan(values)
        if np.sum(~there) <= MOST_UNKNOWN * len(values):
            at = np.arange(len(values))
            whole[name] = np.interp(at, at[there], values[there])
    return whole


def quotient(top: Floats, bottom: Floats, least: Floats | float = 0.0) -> Floats:
    """NaN where the denominator is not above `least`: sums of zero have rounding errors."""
    good = bottom > least
    return np.where(good, top / np.where(good, bottom, 1.0), np.nan)


def prefix_hit_ratio(flow: Flows, counters: ServerCounters | None, edges: Floats) -> Floats | None:
    """Share of input tokens read from cache per slice, from the responses' usage, else from the
    server's counters; None if unknown.
    """
    if flow.cache_read is not None:
        read, whole = flow.cache_read.per_bin(edges), flow.input.per_bin(edges)
    elif counters is None:
        return None
    else:
        cached = counters.cumulative(Concept.CACHED_TOKENS)
        prompts = counters.cumulative(Concept.PROMPT_TOKENS)
        if cached is None or prompts is None:
            return None
        read, whole = (
            np.diff(np.interp(edges, *series, left=np.nan, right=np.nan))
            for series in (cached, prompts)
        )
    return np.clip(quotient(read, whole, least=1e-3), 0.0, 1.0)
