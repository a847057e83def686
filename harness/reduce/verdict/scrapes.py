"""Concerns from scrapes: server restarts, gaps, unusable samples."""

from collections import Counter
from typing import Final

import numpy as np

from harness.core.records import Concern, Severity
from harness.reduce.over_time.counters import PROCESS_START, ServerCounters, process_changes
from harness.reduce.read.run import Run

SCRAPES_MISSED: Final = 0.05
"""Maximum share of failed scrapes."""
SCRAPE_GAP_INTERVALS: Final = 5
"""More scrape intervals than this without a scrape in the window are a gap."""
_SHOWN_ERRORS: Final = 2


def scrape_concerns(
    run: Run, counters: ServerCounters, window: tuple[float, float] | None, *, smoke: bool
) -> list[Concern]:
    """Concerns from scrapes; `window` is (start, end) of the headline, ns from the run's start."""
    severity = Severity.NOTE if smoke else Severity.DEGRADED
    out = _restarts(counters)
    for target, number_of in sorted(counters.mixed.items()):
        text = (
            f"The metrics of {target} come from {number_of} processes in turn, as behind a"
            " balancer; they are not used. Name each replica's own URL in server.urls or"
            " server.metrics_urls."
        )
        out.append(Concern("metrics_mixed", severity, text, number_of, 1))
    out += _failures(run, counters, severity)
    if window is not None:
        out += _gaps(run, counters, *window, severity)
    for (target, problem), number_of in sorted(counters.samples.problems.items()):
        doubt, limit = (severity, 1) if problem.startswith("targets") else (Severity.NOTE, 0)
        text = f"Metrics of {target}: {number_of} {problem}."
        out.append(Concern("scrape_problem", doubt, text, number_of, limit))
    return out


def _restarts(counters: ServerCounters) -> list[Concern]:
    out = []
    resets = counters.resets()
    processes = {
        target: found
        for (target, metric, _), (_, values) in counters.samples.series.items()
        if metric == PROCESS_START and (found := process_changes(values))
    }
    if resets:
        text = f"The server's counters were reset {resets} time(s) during the run."
        out.append(Concern("server_restarted", Severity.INVALID, text, resets, 0))
    elif processes:
        where = ", ".join(f"{target} ({found})" for target, found in sorted(processes.items()))
        text = f"The server's process start time changed during the run: {where}."
        out.append(Concern("server_restarted", Severity.INVALID, text, sum(processes.values()), 0))
    return out


def _failures(run: Run, counters: ServerCounters, severity: Severity) -> list[Concern]:
    out = []
    scrapes = counters.samples.scrapes
    silent = sorted(
        target
        for target, failed in run.failed_scrapes.items()
        if failed and not len(scrapes.get(target, ()))
    )
    for target in silent:
        text = f"{target} never returned metrics: {_why(counters, target)}."
        out.append(Concern("target_unreachable", severity, text, run.failed_scrapes[target], 0))
    rest = {target: failed for target, failed in run.failed_scrapes.items() if target not in silent}
    failed = sum(rest.values())
    good = sum(len(times) for times in scrapes.values())
    if failed:
        share = failed / (failed + good)
        missed = share > SCRAPES_MISSED
        worst = max(rest, key=lambda target: rest[target])
        text = (
            f"{failed} of {failed + good} scrapes of server metrics failed:"
            f" {_why(counters, worst)}."
        )
        code = "scrapes_missed" if missed else "scrapes_failed"
        out.append(
            Concern(code, severity if missed else Severity.NOTE, text, share, SCRAPES_MISSED)
        )
    return out


def _why(counters: ServerCounters, target: str) -> str:
    found = Counter(
        {error: times for (of, error), times in counters.samples.errors.items() if of == target}
    )
    shown = [
        f"{error} ({times} times)" if times > 1 else error
        for error, times in found.most_common(_SHOWN_ERRORS)
    ]
    return "; ".join(shown) or "the reason was not recorded"


def _gaps(
    run: Run, counters: ServerCounters, start: float, end: float, severity: Severity
) -> list[Concern]:
    out = []
    telemetry = run.profile.telemetry
    planned_s = telemetry.scrape_interval_s or 1.0
    foreign = telemetry.prometheus not in (None, "embedded", "managed")
    for target, times in counters.samples.scrapes.items():
        # An external Prometheus has its own interval.
        interval_s = (
            float(np.median(np.diff(times))) * 1e-9 if foreign and len(times) > 2 else planned_s
        )
        inside = times[(times >= start) & (times < end)]
        gap_s = float(np.max(np.diff(np.concatenate([[start], inside, [end]])))) * 1e-9
        if gap_s > SCRAPE_GAP_INTERVALS * interval_s:
            text = f"No metrics of {target} for {gap_s:.1f} s in the window."
            limit_s = SCRAPE_GAP_INTERVALS * interval_s
            out.append(Concern("scrape_gap", severity, text, gap_s, limit_s))
    return out
