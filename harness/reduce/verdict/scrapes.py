"""What the scrapes themselves say against a run: servers that started again or were silent, samples
that cannot be used.
"""

from collections import Counter
from typing import Final

import numpy as np

from harness.core.records import Concern, Severity
from harness.reduce.over_time.counters import PROCESS_START, ServerCounters
from harness.reduce.read.run import Run
from harness.reduce.statistics.intervals import Floats

SCRAPES_MISSED: Final = 0.05
"""Share of failed scrapes above which the server's counters are in doubt."""
SCRAPE_GAP_INTERVALS: Final = 5
"""A silence longer than this many scrape intervals within the window is a gap."""
_RESTART_S: Final = 1.0
"""A process start time that moves by more than this is another process's; clocks are corrected by
less.
"""
_SHOWN_ERRORS: Final = 2


def scrape_concerns(
    run: Run, counters: ServerCounters, window: tuple[float, float] | None, *, smoke: bool
) -> list[Concern]:
    """Concerns of scraping.

    Args:
        run: the run.
        counters: its server metrics.
        window: start and end of the headline's window, in nanoseconds from the run's start.
        smoke: whether silences are notes only.
    """
    severity = Severity.NOTE if smoke else Severity.DEGRADED
    out = _restarts(counters)
    out += _failures(run, counters, severity)
    if window is not None:
        out += _gaps(run, counters, *window, severity)
    for (target, problem), number_of in sorted(counters.samples.problems.items()):
        wide = problem.startswith("targets")
        text = f"Metrics of {target}: {number_of} {problem}."
        out.append(
            Concern(
                "scrape_problem",
                severity if wide else Severity.NOTE,
                text,
                number_of,
                1 if wide else 0,
            )
        )
    return out


def _restarts(counters: ServerCounters) -> list[Concern]:
    out = []
    resets = counters.resets()
    processes = {
        target: found
        for target, values in _starts(counters)
        if (found := int(np.sum(np.abs(np.diff(values)) > _RESTART_S)))
    }
    if resets:
        text = f"The server's counters started again {resets} time(s) during the run."
        out.append(Concern("server_restarted", Severity.INVALID, text, resets, 0))
    elif processes:
        where = ", ".join(f"{target} ({found})" for target, found in sorted(processes.items()))
        text = (
            "The server's process was another one in the course of the run, by its start time:"
            f" {where}."
        )
        out.append(Concern("server_restarted", Severity.INVALID, text, sum(processes.values()), 0))
    return out


def _starts(counters: ServerCounters) -> list[tuple[str, Floats]]:
    return [
        (target, values)
        for (target, metric, _), (_, values) in counters.samples.series.items()
        if metric == PROCESS_START
    ]


def _failures(run: Run, counters: ServerCounters, severity: Severity) -> list[Concern]:
    out = []
    scrapes = counters.samples.scrapes
    silent = sorted(
        target
        for target, failed in run.failed_scrapes.items()
        if failed and not len(scrapes.get(target, ()))
    )
    for target in silent:
        text = f"{target} never gave metrics: {_why(counters, target)}."
        out.append(Concern("target_unreachable", severity, text, run.failed_scrapes[target], 0))
    rest = {target: failed for target, failed in run.failed_scrapes.items() if target not in silent}
    failed = sum(rest.values())
    good = sum(len(times) for times in scrapes.values())
    if failed:
        share = failed / (failed + good)
        missed = share > SCRAPES_MISSED
        worst = max(rest, key=lambda target: rest[target])
        text = (
            f"{failed} of {failed + good} scrapes of the server's metrics failed:"
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
    wanted_s = telemetry.scrape_interval_s or 1.0
    foreign = telemetry.prometheus not in (None, "embedded", "managed")
    for target, times in counters.samples.scrapes.items():
        # A Prometheus of somebody else's keeps its own interval.
        interval_s = (
            float(np.median(np.diff(times))) * 1e-9 if foreign and len(times) > 2 else wanted_s
        )
        inside = times[(times >= start) & (times < end)]
        gap_s = float(np.max(np.diff(np.concatenate([[start], inside, [end]])))) * 1e-9
        if gap_s > SCRAPE_GAP_INTERVALS * interval_s:
            text = f"Metrics of {target} were silent for {gap_s:.1f} s within the window."
            out.append(
                Concern("scrape_gap", severity, text, gap_s, SCRAPE_GAP_INTERVALS * interval_s)
            )
    return out
