"""What the run of a probe shows of the server, the load generator, and the next one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from harness.artifacts.run_summary import Summary
from harness.core.concerns import GROUPS
from harness.core.records import Severity
from harness.profile.schema import Profile
from harness.reduce.figures.window_figures import intended_in
from harness.reduce.read.categorical import Bools
from harness.reduce.reduction import Reduction, reduce_fully
from harness.reduce.windows.figure_set import NS
from harness.sweeps.capacity import ProbeRun, Tier, probe_run

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
class Probe:
    """One run of a search.

    Attributes:
        load: sessions, or session starts per second.
        run: requests for each tier; None without a request in its window.
        stopped: it was ended early because its load misses every tier.
        invalid: why it shows nothing of the server; None if it does.
        requests_per_s: scheduled in the window / its length; None without a request.
        e2e_p95_s: of completed requests; None if unknown.
        output_tok: mean of a request; None if unknown.
        wall_s: of the run; None if unknown.
    """

    load: float
    run: ProbeRun | None = None
    stopped: bool = False
    invalid: str | None = None
    requests_per_s: float | None = None
    e2e_p95_s: float | None = None
    output_tok: float | None = None
    wall_s: float | None = None

    def misses(self, tiers: Sequence[Tier], number: int) -> bool:
        """Whether it missed tier `number`."""
        if self.stopped:
            return True
        assert self.run is not None
        return any(
            tally.good < condition.share * tally.n
            for condition, tally in zip(
                tiers[number].conditions, self.run.tallies[number], strict=True
            )
        )


def tiers_of(profile: Profile) -> tuple[Tier, ...]:
    """The tiers of a profile's search."""
    assert profile.search is not None
    return tuple(Tier(one.name, profile.conditions_of(one)) for one in profile.search.tiers)


def read_probe(folder: Path, load: float, tiers: Sequence[Tier]) -> Probe:
    """Read the run of a probe.

    Raises:
        ArtifactError: it is not a run directory.
    """
    reduction = reduce_fully(folder)
    summary = reduction.summary
    stopped = any(one.code == STOPPED_EARLY for one in summary.verdict.concerns)
    probe = Probe(load, None, stopped, _invalid(summary, stopped=stopped))
    run = probe_run(reduction, load, tiers, at_most=stopped)
    if run is None:
        return replace(probe, invalid=probe.invalid or "no request was scheduled in its window")
    counted = _counted(reduction)
    n, duration_s = int(np.sum(counted)), summary.window.duration_s
    mean = summary.metrics.get("mean_output_tok")
    e2e = summary.latency.get("e2e_s")
    return replace(
        probe,
        run=_only_lost(run, tiers) if stopped else run,
        invalid=probe.invalid or _late(reduction, counted, tiers),
        requests_per_s=n / duration_s if n and duration_s else None,
        e2e_p95_s=None if e2e is None else e2e.p95,
        output_tok=None if mean is None else mean.value,
    )


def _only_lost(run: ProbeRun, tiers: Sequence[Tier]) -> ProbeRun:
    """A probe that was ended early: only for conditions that it missed, its share is an upper
    bound of what the whole window would have had.
    """
    tallies = tuple(
        tuple(
            replace(tally, at_most=tally.good < condition.share * tally.n)
            for condition, tally in zip(tier.conditions, mine, strict=True)
        )
        for tier, mine in zip(tiers, run.tallies, strict=True)
    )
    return replace(run, tallies=tallies)


def _counted(reduction: Reduction) -> Bools:
    assert reduction.headline is not None
    requests = reduction.run.requests
    mine: Bools = intended_in(requests, reduction.headline)
    return mine & ~requests.cancelled & ~requests.priming


def _late(reduction: Reduction, counted: Bools, tiers: Sequence[Tier]) -> str | None:
    """Why the load generator was too late to judge a condition, whatever the run's purpose."""
    requests = reduction.run.requests
    lag_s = (requests.sent - requests.intended)[counted] * NS
    lag_s = lag_s[~np.isnan(lag_s)]
    for one in (condition for tier in tiers for condition in tier.conditions):
        limits = (one.ttft_s, one.e2e_s)
        limit_s = min((limit for limit in limits if limit), default=None)
        if limit_s is None or not len(lag_s):
            continue
        late = float(np.mean(lag_s > LATE * limit_s))
        if late > MOST_LATE * (1 - one.share):
            return (
                f"late_sends: {late:.1%} of the requests were sent more than"
                f" {LATE * limit_s * 1000:.3g} ms late, {LATE:.0%} of the limit in {one.text}"
            )
    return None


def _invalid(summary: Summary, *, stopped: bool) -> str | None:
    """Why a run shows nothing of the server: the load generator or the machine was at fault."""
    for concern in summary.verdict.concerns:
        if concern.severity is not Severity.INVALID or concern.code in _OF_OVERLOAD:
            continue
        if stopped and concern.code not in _OF_LOAD_GENERATOR:
            continue  # a window cut short has few requests
        return f"{concern.code}: {concern.message}"
    return None
