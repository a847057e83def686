"""Ends the load of a search's probe as soon as its outcome is certain or the server saturates.

A probe is lost for a tier if the share of requests that meet one of its conditions stays below the
condition's own share by `MARGIN`. It is ended when it is lost for every tier.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from harness.core.clock import NS_PER_S
from harness.core.progress import TelemetryProgress, TrafficProgress
from harness.plan.build import RunPlan
from harness.profile.search import Condition
from harness.reduce.statistics.stationarity import trend

MARGIN: Final = 0.2
"""A probe below a tier's share by less than this is measured to its end: it narrows the interval
of the capacity.
"""

P_RISING: Final = 0.001
"""Mann-Kendall's two-sided p-value below which a series rises."""

RISE: Final = 0.2
"""Smallest rise of the series from its first to its last quarter, as a share."""

EXCESS: Final = 3.0
"""Saturation: arrivals exceed departures by so many standard deviations of their difference."""

LEAST_ENDED: Final = 20
"""Requests on whose misses saturation may be decided, and the rate of a closed loop."""

_LEAST_READINGS: Final = 8
_MOST_READINGS: Final = 64
_FASTER: Final = 2.0
"""A closed loop may schedule requests this much faster in the rest of its window than so far."""


@dataclass(frozen=True, slots=True)
class LoadState:
    """A load in progress.

    Attributes:
        traffic: latest report of the load generator.
        telemetry: latest of the servers.
        window_start_ns: of the current stage.
        window_end_ns: None in a stage that ends with its sessions.
        scheduled: requests scheduled in the window, if that is known before it.
    """

    traffic: TrafficProgress
    telemetry: TelemetryProgress
    window_start_ns: int
    window_end_ns: int | None
    scheduled: int | None = None


@dataclass(frozen=True, slots=True)
class _Reading:
    t_ns: int
    in_flight: int
    waiting: float | None
    judged: int
    missed: tuple[int, ...]


@dataclass(slots=True)
class EarlyEnd:
    """Decides whether to end a probe; one for each run. `tiers`: conditions of each tier."""

    tiers: Sequence[Sequence[Condition]]
    _readings: list[_Reading] = field(default_factory=list)

    def __call__(self, state: LoadState) -> str | None:
        """The reason to end the load now, as a sentence; None to continue.

        Reports of the load generator that were seen before change nothing.
        """
        traffic = state.traffic
        if traffic.t_ns is None or traffic.window_judged is None or state.window_end_ns is None:
            return None
        if not state.window_start_ns <= traffic.t_ns < state.window_end_ns:
            return None
        if self._readings and self._readings[-1].t_ns == traffic.t_ns:
            return None
        self._readings.append(
            _Reading(
                traffic.t_ns,
                traffic.in_flight or 0,
                state.telemetry.waiting,
                traffic.judged or 0,
                traffic.missed,
            )
        )
        return self._certain(state) or self._saturated()

    def _lost(self, missed: Sequence[int], of: float) -> bool:
        """Whether so many misses of so many requests lose every tier."""
        counts = iter(missed)
        lost = [
            [next(counts, 0) > (1 - one.share + MARGIN) * of for one in tier] for tier in self.tiers
        ]
        return all(map(any, lost))

    def _certain(self, state: LoadState) -> str | None:
        total = _scheduled(state)
        if total is None or not self._lost(state.traffic.window_missed, total):
            return None
        misses = max(state.traffic.window_missed)
        return (
            f"The load was ended after {misses:,} misses: even if all the rest of the window's"
            f" {total:,.0f} requests met the SLOs, every tier would miss its share by more than"
            f" {MARGIN:.0%}."
        )

    def _saturated(self) -> str | None:
        first, last = self._readings[0], self._readings[-1]
        ended = last.judged - first.judged
        misses = [now - then for now, then in zip(last.missed, first.missed, strict=True)]
        if len(self._readings) < _LEAST_READINGS or ended < LEAST_ENDED:
            return None
        grown = last.in_flight - first.in_flight
        exceeds = grown > EXCESS * math.sqrt(2 * ended + max(grown, 0))
        if not exceeds or not self._lost(misses, ended):
            return None
        in_flight = [float(one.in_flight) for one in self._readings]
        waiting = [one.waiting for one in self._readings if one.waiting is not None]
        queues = [in_flight, waiting] if len(waiting) == len(in_flight) else [in_flight]
        if not all(_rises(one) for one in queues):
            return None
        seconds = (last.t_ns - first.t_ns) / NS_PER_S
        return (
            f"The load was ended because the server saturated: requests in flight rose from"
            f" {first.in_flight:,} to {last.in_flight:,} within {seconds:.1f} s, and"
            f" {max(misses):,} of {ended:,} missed the SLOs."
        )


def _rises(values: Sequence[float]) -> bool:
    blocks = np.array_split(np.asarray(values, dtype=np.float64), min(len(values), _MOST_READINGS))
    means = np.array([float(np.mean(one)) for one in blocks])
    quarter = max(1, len(means) // 4)
    if np.mean(means[-quarter:]) <= (1 + RISE) * np.mean(means[:quarter]):
        return False
    found = trend(means)
    return found.z > 0 and found.p_value < P_RISING


def _scheduled(state: LoadState) -> float | None:
    """Requests scheduled in the window; of a closed loop an upper estimate."""
    if state.scheduled is not None:
        return state.scheduled
    traffic = state.traffic
    assert traffic.t_ns is not None
    assert traffic.window_judged is not None
    assert state.window_end_ns is not None
    if traffic.window_judged < LEAST_ENDED:
        return None
    so_far = traffic.window_judged + (traffic.in_flight or 0)
    passed = traffic.t_ns - state.window_start_ns
    left = state.window_end_ns - traffic.t_ns
    return so_far * (1 + _FASTER * left / passed) if passed > 0 else None


def scheduled_in_window(plan: RunPlan, index: int) -> int | None:
    """Requests scheduled in a stage's window, if the plan decides that: an open loop of sessions
    with one request each.
    """
    stage = plan.stages[index]
    if not stage.single or stage.concurrency is not None or stage.window_ns is None:
        return None
    end_ns = stage.warmup_ns + stage.window_ns
    offsets = (session.intended_offset_ns for session in plan.horizon(index))
    return sum(one is not None and stage.warmup_ns <= one < end_ns for one in offsets)
