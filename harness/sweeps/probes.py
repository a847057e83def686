"""What a probe of a search measured: of how many requests each condition of its tiers was met."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from harness.artifacts.run_summary import Slos, Summary
from harness.core.concerns import GROUPS
from harness.core.records import Severity
from harness.profile.search import Condition
from harness.reduce.figures.window_figures import good, intended_in
from harness.reduce.read.categorical import Bools
from harness.reduce.reduction import Reduction, reduce_fully
from harness.reduce.statistics.intervals import Floats, mean_error
from harness.reduce.windows.figure_set import NS

BATCHES: Final = 20
"""Batches of consecutive requests, from whose scatter the design effect is estimated."""

STOPPED_EARLY: Final = "stopped_early"

LATE: Final = 0.1
"""A request sent later than this share of a limit is late: the delay counts as the server's."""

MOST_LATE: Final = 0.5
"""Late requests, as a share of the misses that a condition allows, above which the load generator
and not the server decides whether it is met.
"""

_OF_OVERLOAD: Final = frozenset({"requests_failed", "not_reconciled"})
"""Invalid for a claim about performance, but a load that is too high has exactly these."""
_OF_LOAD_GENERATOR: Final = frozenset(one.code for one in GROUPS["Load generator"])


@dataclass(frozen=True, slots=True)
class Share:
    """Requests scheduled in the window that met a condition.

    Attributes:
        met: of `n`; failed, dropped and unfinished requests did not.
        n: without those that the plan canceled.
        design_effect: variance of the share over that of independent requests, at least 1.
    """

    met: int
    n: int
    design_effect: float = 1.0


@dataclass(frozen=True, slots=True)
class Probe:
    """One run of a search.

    Attributes:
        load: sessions, or session starts per second.
        shares: of each condition, tier by tier.
        stopped: it was ended early because its load misses every tier; its shares are incomplete.
        invalid: why it says nothing about the server; None if it does.
        requests_per_s: scheduled in the window / its length; None without a request.
        e2e_p95_s: of completed requests; None if unknown.
        output_tok: mean of a request; None if unknown.
        wall_s: of the run; None if unknown.
    """

    load: float
    shares: tuple[Share, ...]
    stopped: bool = False
    invalid: str | None = None
    requests_per_s: float | None = None
    e2e_p95_s: float | None = None
    output_tok: float | None = None
    wall_s: float | None = None


def read_probe(folder: Path, load: float, conditions: Sequence[Condition]) -> Probe:
    """Read the run of a probe.

    Raises:
        ArtifactError: it is not a run directory.
    """
    reduction = reduce_fully(folder)
    summary = reduction.summary
    stopped = any(one.code == STOPPED_EARLY for one in summary.verdict.concerns)
    probe = Probe(load, (), stopped, _invalid(summary, stopped=stopped))
    if not reduction.windows:
        return replace(probe, invalid=probe.invalid or "it has no measurement window")
    counted = _counted(reduction)
    n, duration_s = int(np.sum(counted)), summary.window.duration_s
    mean = summary.metrics.get("mean_output_tok")
    e2e = summary.latency.get("e2e_s")
    return replace(
        probe,
        shares=tuple(_share(reduction, counted, one) for one in conditions),
        invalid=probe.invalid
        or (None if n else "no request was scheduled in its window")
        or _late(reduction, counted, conditions),
        requests_per_s=n / duration_s if n and duration_s else None,
        e2e_p95_s=None if e2e is None else e2e.p95,
        output_tok=None if mean is None else mean.value,
    )


def _counted(reduction: Reduction) -> Bools:
    requests = reduction.run.requests
    mine: Bools = intended_in(requests, reduction.windows[0])
    return mine & ~requests.cancelled & ~requests.priming


def _share(reduction: Reduction, counted: Bools, condition: Condition) -> Share:
    slos = Slos(ttft_s=condition.ttft_s, tpot_s=condition.tpot_s, e2e_s=condition.e2e_s)
    met = good(reduction.run.requests, counted, reduction.flows, slos)[counted]
    return Share(int(np.sum(met)), len(met), design_effect(met.astype(np.float64)))


def _late(reduction: Reduction, counted: Bools, conditions: Sequence[Condition]) -> str | None:
    """Why the load generator was too late to judge a condition, whatever the run's purpose."""
    requests = reduction.run.requests
    lag_s = (requests.sent - requests.intended)[counted] * NS
    lag_s = lag_s[~np.isnan(lag_s)]
    for one in conditions:
        limit_s = min((limit for limit in (one.ttft_s, one.e2e_s) if limit), default=None)
        if limit_s is None or not len(lag_s):
            continue
        late = float(np.mean(lag_s > LATE * limit_s))
        if late > MOST_LATE * (1 - one.share):
            return (
                f"late_sends: {late:.1%} of the requests were sent more than"
                f" {LATE * limit_s * 1000:.3g} ms late, {LATE:.0%} of the limit in {one.text}"
            )
    return None


def design_effect(met: Floats) -> float:
    """Variance of the mean of 0s and 1s in time order over that of independent ones, from batch
    means; at least 1, and 1 if there are too few or nothing varies.
    """
    n = len(met)
    share = float(np.mean(met)) if n else 0.0
    if n < 2 * BATCHES or not 0 < share < 1:
        return 1.0
    means = np.array([float(np.mean(one)) for one in np.array_split(met, BATCHES)])
    error = mean_error(means)
    return 1.0 if error is None else max(1.0, error.variance / (share * (1 - share) / n))


def _invalid(summary: Summary, *, stopped: bool) -> str | None:
    """Why a run says nothing about the server: the load generator or the machine was at fault."""
    for concern in summary.verdict.concerns:
        if concern.severity is not Severity.INVALID or concern.code in _OF_OVERLOAD:
            continue
        if stopped and concern.code not in _OF_LOAD_GENERATOR:
            continue  # a window cut short has few requests
        return f"{concern.code}: {concern.message}"
    return None
