"""Concerns of one load stage: its window, steady state, punctuality, failures and energy."""

import json
from collections.abc import Iterable
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.artifacts.run_summary import Slos
from harness.core.records import Concern, Purpose, RunState, Severity
from harness.reduce.figures.window_figures import StageFigures, intended_in
from harness.reduce.read.categorical import Bools
from harness.reduce.read.requests import Requests
from harness.reduce.read.run import Run
from harness.reduce.verdict.load_generator import bounds
from harness.reduce.windows.measurement_window import StageWindow
from harness.reduce.windows.steady_state import steady_concerns

LAG_SHARE_OF_SLO: Final = 0.05
"""Maximum schedule lag (p99) as a share of the TTFT SLO: the resolution of the SLO check."""
LAG_LIMIT_S: Final = 0.05
"""Maximum schedule lag (p99) without a TTFT SLO."""
LAG_INVALID_S: Final = 1.0
"""Schedule lag (p99) above the TTFT SLO, or above this without one, invalidates a measurement: the
load was not the planned one.
"""
ERROR_BUDGET: Final = 0.01
"""Share of failed requests above which a run or stage is degraded."""
ERROR_LIMIT: Final = 0.10
"""Share of failed requests above which a run or stage is invalid."""
MIN_WINDOW_S: Final = 600.0
"""Minimum measurement window (LoadGen's minimum duration)."""
MIN_E2E_MULTIPLE: Final = 10
"""Minimum measurement window as a multiple of the p95 E2E latency."""
MIN_COMPLETIONS_PER_SLOT: Final = 20
"""Minimum number of completed requests per concurrency slot in a measurement window."""

SEVERITIES: Final = (Severity.INVALID, Severity.DEGRADED, Severity.PRELIMINARY, Severity.NOTE)
"""From the worst."""


def worst_first(concerns: Iterable[Concern]) -> tuple[Concern, ...]:
    """Concerns in order of severity, code and message, each once."""
    unique = {(c.code, c.message): c for c in concerns}
    return tuple(
        sorted(unique.values(), key=lambda c: (SEVERITIES.index(c.severity), c.code, c.message))
    )


def stage_concerns(
    run: Run, window: StageWindow, figures: StageFigures, slos: Slos
) -> tuple[Concern, ...]:
    """All concerns of one stage, worst first."""
    smoke = run.profile.purpose == Purpose.SMOKE
    mine: Bools = run.requests.stage == window.name
    if bounds(window) is None:
        text = f"Stage {window.name} has no measurement window."
        found = [Concern("no_window", Severity.INVALID, text)]
    else:
        found = [*cut_concerns(run, [window]), *window_concerns(run, window, figures, smoke=smoke)]
    found += failure_concerns(run.requests, mine, smoke=smoke)
    found += late_sends(run, window, figures, slos, smoke=smoke)
    return worst_first([*found, *figures.energy_concerns])


def cut_concerns(run: Run, windows: Iterable[StageWindow]) -> list[Concern]:
    """Windows that the run did not reach the end of."""
    cut = [window.name for window in windows if window.cut]
    if not cut:
        return []
    text = f"The run ended before the measurement window of stage {', '.join(cut)}."
    severity = Severity.NOTE if run.state is RunState.FAILED else Severity.INVALID
    return [Concern("window_cut", severity, text)]


def window_concerns(
    run: Run, window: StageWindow, figures: StageFigures, *, smoke: bool
) -> list[Concern]:
    """Concerns of a window: empty, too short, too few requests, not steady."""
    times = bounds(window)
    if times is None:
        return []
    out = []
    if not np.any(intended_in(run.requests, window)) and len(run.requests):
        text = f"No request was scheduled in the measurement window of stage {window.name}."
        out.append(Concern("empty_window", Severity.INVALID, text, 0, 1))
    if smoke:
        return out
    out += _length(times, figures)
    out += _completions(run.requests, window, times)
    if window.bounded_by == "sessions":
        text = (
            "The window ends with the last session and so includes the ramp-down; set window_s for"
            " a `valid` result."
        )
        out.append(Concern("window_with_ramp", Severity.PRELIMINARY, text))
    return [*out, *steady_concerns(window)]


def _length(times: tuple[float, float], figures: StageFigures) -> list[Concern]:
    length_s = (times[1] - times[0]) * 1e-9
    p95_s = figures.latency["e2e_s"].p95
    least_s, rule = MIN_WINDOW_S, "minimum for any run"
    if p95_s is not None and p95_s * MIN_E2E_MULTIPLE > least_s:
        least_s, rule = p95_s * MIN_E2E_MULTIPLE, f"{MIN_E2E_MULTIPLE} x p95 of E2E latency"
    if length_s >= least_s:
        return []
    text = (
        f"The measurement window is {length_s:.0f} s; a `valid` result needs at least"
        f" {least_s:.0f} s ({rule})."
    )
    return [Concern("window_short", Severity.PRELIMINARY, text, length_s, least_s)]


def _completions(
    requests: Requests, window: StageWindow, times: tuple[float, float]
) -> list[Concern]:
    if not window.concurrency:
        return []
    done = requests.done
    completed = int(np.sum(requests.ok & (done >= times[0]) & (done < times[1])))
    per_slot, least = completed / window.concurrency, MIN_COMPLETIONS_PER_SLOT
    if per_slot >= least:
        return []
    text = (
        f"{per_slot:.1f} completed requests per concurrency slot in the window; a `valid`"
        f" result needs {least}."
    )
    return [Concern("few_completions", Severity.PRELIMINARY, text, per_slot, least)]


def failure_concerns(requests: Requests, mine: Bools, *, smoke: bool) -> list[Concern]:
    """Failed requests among those of `mine`."""
    failed = int(np.sum(requests.failed & mine))
    if not failed:
        return []
    tried = int(np.sum(mine & ~requests.dropped))
    share = failed / tried
    counts = requests.outcome[requests.failed & mine].counts()
    kinds = ", ".join(f"{count} {name}" for name, count in counts.items())
    if smoke or share > ERROR_LIMIT:
        severity = Severity.INVALID
    else:
        severity = Severity.DEGRADED if share > ERROR_BUDGET else Severity.NOTE
    text = (
        f"{failed} of {tried} attempted requests failed ({kinds}){_most_frequent(requests, mine)}."
    )
    return [Concern("requests_failed", severity, text, share, 0.0 if smoke else ERROR_BUDGET)]


def _most_frequent(requests: Requests, mine: Bools) -> str:
    """The most frequent error text of failed requests, quoted."""
    texts = pc.value_counts(requests.error.filter(pa.array(requests.failed & mine)).drop_null())
    if not len(texts):
        return ""
    counts = ((-row["counts"], row["values"]) for row in texts.to_pylist())
    return f"; most frequent error: {json.dumps(min(counts)[1][:160], ensure_ascii=False)}"


def late_sends(
    run: Run, window: StageWindow, figures: StageFigures, slos: Slos, *, smoke: bool
) -> list[Concern]:
    """Requests that the load generator sent or dropped late."""
    lag, slo = figures.latency["schedule_lag_s"], slos.ttft_s
    limit = LAG_SHARE_OF_SLO * slo if slo else LAG_LIMIT_S
    worst = lag.p99 if lag.p99 is not None else lag.max
    what = "sent"
    overdue = _overdue_p99_s(run, window)
    if overdue is not None and overdue > (worst or 0.0):
        worst, what = overdue, "sent or dropped"
    if worst is None or worst <= limit:
        return []
    text = f"Requests were {what} up to {worst * 1e3:.0f} ms late (p99 of schedule lag)."
    severity = Severity.NOTE if smoke else Severity.DEGRADED
    if not smoke and worst > (slo or LAG_INVALID_S):
        severity = Severity.INVALID
        text += " The load generator, not the server, was the limit."
    return [Concern("late_sends", severity, text, worst, limit)]


def _overdue_p99_s(run: Run, window: StageWindow) -> float | None:
    """p99 of the delay from scheduled time to send or drop, over the window; None without drops.

    Drops at max_in_flight happen on time; drops by a late load generator do not.
    """
    requests = run.requests
    mine = intended_in(requests, window)
    if not np.any(mine & requests.dropped):
        return None
    acted = np.where(requests.dropped, requests.done, requests.sent)[mine]
    late_s = (acted - requests.intended[mine]) * 1e-9
    late_s = late_s[np.isfinite(late_s)]
    return float(np.quantile(late_s, 0.99)) if len(late_s) else None
