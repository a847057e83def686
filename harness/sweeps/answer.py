"""The answer of a search so far: the capacity at each tier, and the load of the next probe.

A pure function of the probes that have ended.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from harness.artifacts.capacity import TierCapacity
from harness.artifacts.run_result import figure_of, load_result
from harness.profile.search import Condition, Search
from harness.sweeps.grid import Observation, Posterior, posterior
from harness.sweeps.probes import Share

QUANTILES: Final = (0.5, 0.8, 0.35)
"""Where the probes after the climb are placed, in turn, in the posterior of the widest tier."""

_LOW, _MIDDLE, _HIGH = 0.025, 0.5, 0.975
_LEAST_BELOW: Final = 2
"""Probes at `from` that must miss a tier before the search gives up."""


@dataclass(frozen=True, slots=True)
class TierProbe:
    """What a probe says about one tier.

    Attributes:
        point: id in sweep.json.
        stopped: it was ended early because its load misses every tier.
        shares: of each of the tier's conditions.
    """

    point: int
    load: float
    stopped: bool
    shares: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class TierShares:
    """A tier with all probes."""

    name: str
    conditions: tuple[Condition, ...]
    probes: tuple[TierProbe, ...]

    def missed(self, probe: TierProbe) -> bool:
        """Whether a probe missed the tier."""
        return probe.stopped or any(
            share.met < one.share * share.n
            for one, share in zip(self.conditions, probe.shares, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """Attributes:
    tiers: capacities so far.
    next_load: of the next probe; None if there is none.
    why: why there is none.
    """

    tiers: tuple[TierCapacity, ...]
    next_load: float | None
    why: str | None = None


def answer(tiers: Sequence[TierShares], search: Search) -> Answer:
    """Capacities and the next load, from all probes that have ended."""
    solved = [_Solved.of(tier, search) for tier in tiers]
    found = tuple(one.capacity for one in solved)
    open_tiers = [one for one in solved if not one.over]
    if not open_tiers:
        return Answer(found, None, _why(found))
    highest = max((probe.load for tier in tiers for probe in tier.probes), default=None)
    if highest is None:
        return Answer(found, search.lowest)
    if any(not one.any_missed for one in open_tiers):
        return Answer(found, min(2 * highest, search.to))
    widest = max(open_tiers, key=lambda one: one.half_width)
    first_missed = min(
        index for index, probe in enumerate(widest.tier.probes) if widest.tier.missed(probe)
    )
    turn = len(widest.tier.probes) - first_missed - 1
    load = widest.quantile(QUANTILES[turn % len(QUANTILES)])
    load = min(max(load, search.lowest), search.to)
    return Answer(found, float(max(1, round(load))) if search.whole else load)


def _why(found: Sequence[TierCapacity]) -> str:
    limits = {one.limit for one in found}
    if limits == {"at_least"}:
        return "every load meets every tier: raise `to`"
    if limits == {"below"}:
        return "no load meets any tier: lower `from`, or loosen the tiers"
    return "every tier is known to the precision"


@dataclass(frozen=True, slots=True)
class _Solved:
    """A tier with its posterior."""

    tier: TierShares
    search: Search
    posteriors: tuple[Posterior, ...]

    @classmethod
    def of(cls, tier: TierShares, search: Search) -> "_Solved":
        if not tier.probes:
            return cls(tier, search, ())
        posteriors = []
        for at, condition in enumerate(tier.conditions):
            seen = [_observation(tier, probe, at) for probe in tier.probes]
            found = [one for one in seen if one is not None]
            posteriors.append(posterior(found, condition.share, search.lowest / 4, search.to * 4))
        return cls(tier, search, tuple(posteriors))

    @property
    def any_missed(self) -> bool:
        return any(map(self.tier.missed, self.tier.probes))

    def quantile(self, share: float) -> float:
        """Of the smallest capacity of the tier's conditions."""
        low, high = self.search.lowest / 4, self.search.to * 4
        for _ in range(60):
            middle = math.sqrt(low * high)
            above = math.prod(1 - one.below(middle) for one in self.posteriors)
            low, high = (middle, high) if 1 - above < share else (low, middle)
        return math.sqrt(low * high)

    @property
    def half_width(self) -> float:
        """Half of the 95% interval, as a share."""
        return math.log(self.quantile(_HIGH) / self.quantile(_LOW)) / 2

    @property
    def over(self) -> bool:
        """Whether no further probe is needed."""
        if not self.posteriors:
            return False
        if self.capacity.limit is not None:
            return True
        narrow = self.half_width <= self.search.precision
        if self.search.whole and not narrow:  # no whole number between
            narrow = self.quantile(_HIGH) - self.quantile(_LOW) < 1
        return self.any_missed and narrow

    @property
    def capacity(self) -> TierCapacity:
        conditions = tuple(one.text for one in self.tier.conditions)
        if not self.posteriors:
            return TierCapacity(self.tier.name, conditions)
        middle = self.quantile(_MIDDLE)
        binding = max(range(len(conditions)), key=lambda at: self.posteriors[at].below(middle))
        outliers = {point for one in self.posteriors for point in one.outliers}
        return TierCapacity(
            self.tier.name,
            conditions,
            load=middle,
            low=self.quantile(_LOW),
            high=self.quantile(_HIGH),
            limit=self._limit(),
            binding=conditions[binding],
            spread=self.posteriors[binding].spread,
            outliers=tuple(sorted(outliers)),
        )

    def _limit(self) -> str | None:
        probes, search = self.tier.probes, self.search
        if not self.any_missed and any(one.load >= search.to for one in probes):
            return "at_least"
        at_lowest = [one for one in probes if one.load <= search.lowest]
        if not at_lowest or not all(map(self.tier.missed, at_lowest)):
            return None
        certain = self.quantile(_HIGH) < search.lowest
        return "below" if certain or len(at_lowest) >= _LEAST_BELOW else None


def _observation(tier: TierShares, probe: TierProbe, at: int) -> Observation | None:
    """What a probe says about one condition. Of one that was ended early, only the condition that
    was missed most is known to be lost.
    """
    share = probe.shares[at]
    if not probe.stopped:
        return Observation(probe.point, probe.load, share.met, share.n, share.design_effect)
    lack = [
        one.share - (other.met / other.n if other.n else 0.0)
        for one, other in zip(tier.conditions, probe.shares, strict=True)
    ]
    return Observation.lost(probe.point, probe.load) if lack[at] == max(lack) else None


def delivered(tier: TierCapacity, run: Path, load: float, *, sessions: bool) -> TierCapacity:
    """A tier with throughput and sessions per GPU and per megawatt, from the run at a load that
    meets it.

    Args:
        tier: its capacity.
        run: run directory.
        load: of that run.
        sessions: whether the load is a number of live sessions.

    Raises:
        ArtifactError: the run cannot be read.
    """
    summary = load_result(run).summary
    tok_s = figure_of(summary, "output_tok_s").value
    per_gpu = figure_of(summary, "output_tok_s_per_gpu").value
    power = figure_of(summary, "power_w")
    known = sessions and tok_s and per_gpu
    return replace(
        tier,
        run=run.name,
        output_tok_s=tok_s,
        output_tok_s_per_gpu=per_gpu,
        sessions_per_gpu=load * per_gpu / tok_s if known and tok_s and per_gpu else None,
        sessions_per_mw=load / power.value * 1e6 if sessions and power.value else None,
        power_boundary=power.boundary if power.value else None,
        power_basis=None if power.value is None or power.basis is None else str(power.basis),
    )
