"""Compares the capacities of two searches tier by tier, and evaluates gates on them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from harness.artifacts.sweep.capacity import Capacity
from harness.compare.gates import GateResult, Outcome
from harness.core.errors import NotComparableError, ProfileError
from harness.core.units import human_number
from harness.profile.search import DEFAULT_SHARE, Search
from harness.profile.thresholds import CAPACITY, Threshold
from harness.sweeps.points import Sweep
from harness.sweeps.threshold import Found

_WHY_NONE: Final[Mapping[str, str]] = {
    Found.INTERVAL: "no interval",
    Found.BELOW: "no probe met the tier",
    Found.BEYOND: "every probe met the tier",
    Found.UNKNOWN: "no valid probe",
}


@dataclass(frozen=True, slots=True)
class CapacityRatio:
    """The capacity at one tier, B over A.

    Attributes:
        a: capacity of A, in sessions or session starts per second; None if it is unknown.
        b: that of B.
        ratio: b / a.
        low: lower end of the ratio's 95% interval, `high` its upper end. The logarithms' half
            intervals of two independent searches add as squares.
        note: why there is no ratio.
    """

    tier: str
    a: float | None
    b: float | None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    note: str | None = None


def capacity_ratios(a: Sweep, b: Sweep) -> tuple[CapacityRatio, ...]:
    """Ratios of the tiers that both searches have; empty for sweeps.

    Raises:
        NotComparableError: the searches vary different loads, or a tier means something else.
    """
    if a.capacity is None or b.capacity is None:
        return ()
    if a.capacity.load != b.capacity.load:
        raise NotComparableError(
            f"{a.path} searches by {a.capacity.load}, {b.path} by {b.capacity.load}",
            next_step="search both by the same kind of load (--load)",
        )
    both = [name for name in a.capacity.tiers if name in b.capacity.tiers]
    for name in both:
        _check_meaning(name, a, b)
    return tuple(_ratio(name, a.capacity.tiers[name], b.capacity.tiers[name]) for name in both)


def _check_meaning(tier: str, a: Sweep, b: Sweep) -> None:
    first, second = (_meaning(tier, one) for one in (a, b))
    if first != second:
        raise NotComparableError(
            f"tier {tier!r} differs: {first} in {a.path}, {second} in {b.path}",
            cause="capacities at different SLOs answer different questions",
            next_step="search both with the same `search.tiers` and `slos`",
        )


def _meaning(tier: str, search: Sweep) -> str:
    """The tier's conditions, with the SLOs behind them."""
    search_section = Search.model_validate(search.index.search or {}, strict=False)
    stated = next((one for one in search_section.tiers if one.name == tier), None)
    if stated is None:
        return "unknown conditions"
    if stated.conditions:
        return ", ".join(stated.conditions)
    runs = [run for setting in search.settings for run in setting.runs]
    slos = runs[0].slos if runs else {}
    return f"{stated.share or DEFAULT_SHARE:g} of " + ", ".join(
        f"{key} <= {at:g}" for key, at in slos.items()
    )


def _ratio(tier: str, a: Capacity, b: Capacity) -> CapacityRatio:
    if not (a.load and a.low and a.high) or a.found != Found.INTERVAL:
        return CapacityRatio(tier, a.load, b.load, note=f"A: {_WHY_NONE[a.found]}")
    if not (b.load and b.low and b.high) or b.found != Found.INTERVAL:
        return CapacityRatio(tier, a.load, b.load, note=f"B: {_WHY_NONE[b.found]}")
    ratio = b.load / a.load
    down = math.hypot(math.log(b.load / b.low), math.log(a.high / a.load))
    up = math.hypot(math.log(b.high / b.load), math.log(a.load / a.low))
    return CapacityRatio(tier, a.load, b.load, ratio, ratio * math.exp(-down), ratio * math.exp(up))


def capacity_gates(
    gates: Sequence[Threshold], ratios: Sequence[CapacityRatio], b: Sweep
) -> tuple[GateResult, ...]:
    """Evaluate gates on the capacities of B.

    A gate fails if the capacity, or its ratio to that of A, is beyond the limit by more than its
    95% interval; for a share of the baseline, if it is beyond the limit and the loss is
    significant. It passes if the whole interval is within the limit.

    Raises:
        ProfileError: a gate on something else, or on a tier that the searches do not have.
    """
    found = {one.tier: one for one in ratios}
    return tuple(_gate(gate, found, b) for gate in gates)


def _gate(gate: Threshold, ratios: Mapping[str, CapacityRatio], b: Sweep) -> GateResult:
    tier = gate.statistic
    if gate.metric != CAPACITY or b.capacity is None or tier is None:
        raise ProfileError(
            f"the gate {gate.text!r} cannot be evaluated on a sweep or search",
            cause="sweeps have many values of a metric; searches have capacities",
            next_step="write it as in 'capacity.slo >= 0.95 * baseline', and name two searches",
        )
    if tier not in ratios:
        raise ProfileError(
            f"the gate {gate.text!r} is on a tier that the searches do not share",
            next_step=f"use one of: {', '.join(ratios) or 'none in common'}",
        )
    found, own = ratios[tier], b.capacity.tiers[tier]
    value, low, high = (found.ratio, found.low, found.high) if gate.relative else _band(own)
    if value is None or low is None or high is None:
        why = (found.note if gate.relative else None) or _WHY_NONE[own.found]
        return GateResult("B", gate, Outcome.ABSENT, own.load, reason=why)
    outcome, reason = _decided(gate, value, low, high)
    return GateResult(
        "B",
        gate,
        outcome,
        own.load,
        found.a if gate.relative else None,
        found.ratio if gate.relative else None,
        low,
        high if math.isfinite(high) else None,
        n=own.probes,
        reason=reason,
    )


def _band(own: Capacity) -> tuple[float | None, float | None, float | None]:
    """Value and interval of a capacity; open at the end that was not reached."""
    if own.found == Found.BEYOND:
        return own.low, own.low, math.inf
    if own.found == Found.BELOW:
        return own.high, 0.0, own.high
    return own.load, own.low, own.high


def _decided(gate: Threshold, value: float, low: float, high: float) -> tuple[Outcome, str]:
    within = [gate.met_by(one) for one in (low, high)]
    if all(within):
        return Outcome.PASSED, "the 95% interval is within the limit"
    lost = high < 1 if gate.at_least else low > 1
    if not any(within) or (gate.relative and lost and not gate.met_by(value)):
        return Outcome.FAILED, "beyond the limit by more than noise"
    reason = f"the 95% interval, {human_number(low)} to {human_number(high)}, includes the limit"
    return Outcome.TOO_FEW, f"{reason}: search with a finer --precision"
