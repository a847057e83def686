"""A pool of replicas over time, by hour: failures, spares, maintenance, demand, autoscaling,
admission, power.

Requests are not simulated: with 10^5 GPUs, the number in flight is within 0.1% of its mean, so an
hour is arithmetic on means. Only available nodes and demand vary. Failures are drawn as intervals
and summed exactly; all hours are then computed at once, except for a queue, which needs a loop.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from harness.core.errors import ProfileError
from harness.fleet.estimate.results import Floats
from harness.fleet.over_time.failures import (
    HOURS_PER_YEAR,
    FailureClass,
    Failures,
    count_by_hour,
    failure_blocks,
    failure_classes,
    mean_by_hour,
)
from harness.fleet.over_time.queueing import halfin_whitt, poisson_quantile

Policy = Literal["queue", "shed", "degrade"]
HOURS_OF_YEAR: Final = 8760
"""Hours of a simulated year: 365 days."""

LEAST_LOAD: Final = 0.09
"""Mean over peak of the sharpest wave: one busy hour above a low floor."""

TROUGH: Final = 0.25
"""Demand in the lowest hour over that in the highest: an assumption, replaced by a trace."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Nodes that serve one model, and their demand. None: unknown, unless stated otherwise.

    Attributes:
        nodes: including spares.
        spares: nodes kept ready to take over.
        gpus_per_node: GPUs that fail and are repaired together.
        gpus_per_replica: GPUs that stop together: the blast radius.
        tok_s_per_gpu: output tokens per second of a serving GPU, at the SLO.
        demand_tok_s: demand by hour, output tokens per second.
        w_per_gpu: watts at the meter per GPU under load.
        idle_power_share: power without load over that under load.
        sleep_power_share: power of a node stopped by the autoscaler, over that under load.
        slo_share: share of served tokens within the SLO if capacity suffices.
        tok_s_per_session: output of one live session.
        context_tok: mean context of a session.
        cached_share: share of a context that is read from the prefix cache.
        prefill_tok_s_per_gpu: computed input tokens per second of a GPU.
        detect_h: time to detect a failure.
        failover_h: time until a spare has the weights and serves.
        scale_delay_h: time to scale up; None: all replicas are always up.
        scale_margin: capacity kept up beyond demand.
        policy: demand beyond capacity waits, is refused, or slows all requests down.
        wait_slack: wait allowed by the SLO, over the time of a session in its slot.
        patience_h: longest wait.
        degrade_gain: additional throughput of a replica without latency limits.
        maintenance_every_h: period of each node's maintenance; None: never.
        maintenance_h: its duration.
        maintenance_hours: hours of a day used for it, those of least demand.
    """

    nodes: int
    tok_s_per_gpu: float
    demand_tok_s: Floats
    spares: int = 0
    gpus_per_node: int = 8
    gpus_per_replica: int = 8
    w_per_gpu: float | None = None
    idle_power_share: float = 0.3
    sleep_power_share: float = 0.1
    slo_share: float = 1.0
    tok_s_per_session: float | None = None
    context_tok: float | None = None
    cached_share: float | None = None
    prefill_tok_s_per_gpu: float | None = None
    detect_h: float = 5 / 60
    failover_h: float = 15 / 60
    scale_delay_h: float | None = 10 / 60
    scale_margin: float = 0.1
    policy: Policy = "shed"
    wait_slack: float = 0.01
    patience_h: float = 1.0
    degrade_gain: float = 0.15
    maintenance_every_h: float | None = 90 * 24.0
    maintenance_h: float = 4.0
    maintenance_hours: int = 8
    failures: Sequence[FailureClass] = field(default_factory=failure_classes)

    @property
    def nodes_per_replica(self) -> float:
        """Nodes of a replica; 1 if a node has several replicas."""
        return max(1.0, self.gpus_per_replica / self.gpus_per_node)

    def __post_init__(self) -> None:
        if self.nodes < 1 or not 0 <= self.spares < self.nodes:
            raise ProfileError(
                f"a pool of {self.nodes} nodes with {self.spares} spares serves nothing"
            )
        if self.gpus_per_node < 1 or self.gpus_per_replica < 1:
            raise ProfileError("a node and a replica must have at least one GPU")
        if self.gpus_per_replica > self.nodes * self.gpus_per_node:
            raise ProfileError(
                f"a replica of {self.gpus_per_replica} GPUs does not fit into"
                f" {self.nodes * self.gpus_per_node} GPUs"
            )
        if not self.tok_s_per_gpu > 0:
            raise ProfileError("a pool without throughput serves nothing")
        demand = self.demand_tok_s
        if len(demand) == 0 or not np.all(np.isfinite(demand) & (demand >= 0)):
            raise ProfileError("demand must be >= 0 and finite in every hour")


@dataclass(frozen=True, slots=True)
class Year:
    """Results by hour. Rates are means of the hour in tokens per second. None: unknown.

    Attributes:
        served_tok_s: at any latency.
        shed_tok_s: refused or given up.
        slo_ratio: served within the SLO over demand; 1 without demand.
        serving_nodes: nodes able to serve.
        online_nodes: of these, kept up by the autoscaler.
        down_nodes: failed nodes at the start of the hour, including groups.
        power_mw: at the meter.
        events: failures by class.
        moved_sessions: sessions whose replica failed.
        recomputed_tok: input tokens in lost prefix caches.
    """

    demand_tok_s: Floats
    served_tok_s: Floats
    shed_tok_s: Floats
    slo_ratio: Floats
    serving_nodes: Floats
    online_nodes: Floats
    down_nodes: Floats
    power_mw: Floats | None
    events: dict[str, int]
    moved_sessions: float | None
    recomputed_tok: float | None

    def spares_for(self, share: float = 0.999) -> int:
        """Fewest spares that replace all failed nodes in this share of hours."""
        return int(np.ceil(np.quantile(self.down_nodes, share, method="inverted_cdf")))

    def totals(self) -> dict[str, Any]:
        """Totals of the year. Shares are of the demand."""
        asked = float(self.demand_tok_s.sum()) * 3600
        served, shed = float(self.served_tok_s.sum()) * 3600, float(self.shed_tok_s.sum()) * 3600
        weights = self.demand_tok_s if asked > 0 else None
        out: dict[str, Any] = {
            "hours": len(self.demand_tok_s),
            "demand_tok": asked,
            "served_tok": served,
            "shed_tok": shed,
            "served_ratio": served / asked if asked > 0 else None,
            "slo_ratio": float(np.average(self.slo_ratio, weights=weights)),
            "worst_hour_slo_ratio": float(self.slo_ratio.min()),
            "hours_below_99_percent": int(np.sum(self.slo_ratio < 0.99)),
            "down_nodes_mean": float(self.down_nodes.mean()),
            "down_nodes_p999": float(np.quantile(self.down_nodes, 0.999)),
            "spares_for_999": self.spares_for(),
            "failures": dict(self.events),
            "moved_sessions": self.moved_sessions,
            "recomputed_tok": self.recomputed_tok,
            "power_mean_mw": None,
            "power_peak_mw": None,
            "energy_mwh": None,
        }
        if self.power_mw is not None:
            mean = float(self.power_mw.mean())
            out |= {
                "power_mean_mw": mean,
                "power_peak_mw": float(self.power_mw.max()),
                "energy_mwh": mean * len(self.power_mw),
            }
        return out


def simulate(pool: Pool, seed: int = 0) -> Year:
    """Simulate a pool over the hours of its demand. The seed is of the failures."""
    hours = len(pool.demand_tok_s)
    rng = np.random.default_rng([seed, *b"failures"])
    lost = _Lost(pool)
    for block in failure_blocks(pool.failures, pool.nodes, pool.gpus_per_node, float(hours), rng):
        lost.add(block)
    per_replica = pool.nodes_per_replica
    out = np.minimum(lost.down + _maintenance(pool), pool.nodes)
    # With spares, only the time to take over is lost; without, the failed nodes.
    serving = np.minimum(
        pool.nodes - pool.spares - lost.failing_over, pool.nodes - out - lost.stopped
    )
    if per_replica > 1:
        serving = np.floor(serving / per_replica) * per_replica
    serving = np.maximum(0.0, serving)
    node_tok_s = pool.tok_s_per_gpu * pool.gpus_per_node
    online = _autoscaled(pool, serving, node_tok_s)
    moved, recomputed, lost_nodes = _lost_caches(pool, lost.blast, node_tok_s)
    capacity = np.maximum(0.0, online - lost_nodes) * node_tok_s
    served, shed, on_time = _admitted(pool, capacity)
    return Year(
        demand_tok_s=pool.demand_tok_s,
        served_tok_s=served,
        shed_tok_s=shed,
        slo_ratio=_attained(pool, capacity, on_time),
        serving_nodes=serving,
        online_nodes=online,
        down_nodes=lost.down_at,
        power_mw=_power_mw(pool, online, served, node_tok_s, serving),
        events={
            item.key: int(count) for item, count in zip(pool.failures, lost.events, strict=True)
        },
        moved_sessions=moved,
        recomputed_tok=recomputed,
    )


class _Lost:
    """Losses from failures by hour, summed over blocks of nodes.

    Attributes:
        down: failed nodes, mean of the hour.
        down_at: failed nodes at its start.
        failing_over: nodes of stopped replicas that are not yet replaced; mean of the hour.
        stopped: of these, the nodes that did not fail.
        blast: nodes whose replicas stopped in the hour.
        events: failures by class.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool, self._hours = pool, len(pool.demand_tok_s)
        zeros = np.zeros((5, self._hours))
        self.down, self.down_at, self.failing_over, self.stopped, self.blast = zeros
        self.events = np.zeros(len(pool.failures), dtype=np.int64)

    def add(self, failures: Failures) -> None:
        start, end, nodes = failures.start_h, failures.end_h, failures.nodes
        per_replica = self._pool.nodes_per_replica
        # A failure stops every replica with a part on its nodes until another takes over.
        blast = np.maximum(nodes, np.ceil(nodes / per_replica) * per_replica)
        until = np.minimum(start + self._pool.detect_h + self._pool.failover_h, end)
        self.down += mean_by_hour(start, end, nodes, self._hours)
        self.down_at += count_by_hour(start, end, nodes, self._hours)
        self.failing_over += mean_by_hour(start, until, blast, self._hours)
        if per_replica > 1:
            self.stopped += mean_by_hour(start, until, blast - nodes, self._hours)
        inside = start >= 0
        self.blast += np.bincount(
            start[inside].astype(np.int64), weights=blast[inside], minlength=self._hours
        )
        self.events += np.bincount(failures.kind[inside], minlength=len(self.events))


def _maintenance(pool: Pool) -> Floats:
    """Nodes in maintenance by hour: in waves, in the daily hours of least demand."""
    hours = len(pool.demand_tok_s)
    out = np.zeros(hours)
    if pool.maintenance_every_h is None:
        return out
    of_day = np.arange(hours) % 24
    mean = np.array(
        [
            pool.demand_tok_s[of_day == hour].mean() if np.any(of_day == hour) else math.inf
            for hour in range(24)
        ]
    )
    quiet = np.argsort(mean, kind="stable")[: pool.maintenance_hours]
    share = pool.maintenance_h / pool.maintenance_every_h * 24 / pool.maintenance_hours
    out[np.isin(of_day, quiet)] = min(1.0, share) * pool.nodes
    return out


def _autoscaled(pool: Pool, serving: Floats, node_tok_s: float) -> Floats:
    """Nodes up: for the demand of a while ago plus a margin, at most those able to serve."""
    if pool.scale_delay_h is None:
        return serving
    hours = np.arange(len(serving), dtype=np.float64)
    then = np.interp(hours - pool.scale_delay_h, hours, pool.demand_tok_s)
    return np.minimum(serving, then / node_tok_s * (1 + pool.scale_margin))


def _lost_caches(
    pool: Pool, blast: Floats, node_tok_s: float
) -> tuple[float | None, float | None, Floats]:
    """Sessions moved by failures, tokens of their lost prefix caches, and nodes by hour for
    recomputing these.
    """
    nothing = np.zeros(len(blast))
    if pool.tok_s_per_session is None:
        return None, None, nothing
    busy = np.minimum(1.0, pool.demand_tok_s / (pool.nodes * node_tok_s))
    moved = blast * node_tok_s / pool.tok_s_per_session * busy
    if pool.context_tok is None or pool.cached_share is None:
        return float(moved.sum()), None, nothing
    tokens = moved * pool.context_tok * pool.cached_share
    if pool.prefill_tok_s_per_gpu is not None and pool.prefill_tok_s_per_gpu > 0:
        nothing = tokens / (pool.prefill_tok_s_per_gpu * pool.gpus_per_node) / 3600
    return float(moved.sum()), float(tokens.sum()), nothing


def _admitted(pool: Pool, capacity: Floats) -> tuple[Floats, Floats, Floats]:
    """Served, shed, and served without a long wait, by hour."""
    asked = pool.demand_tok_s
    if pool.policy == "shed":
        served = np.minimum(asked, capacity)
        return served, asked - served, served
    if pool.policy == "degrade":
        served = np.minimum(asked, capacity * (1 + pool.degrade_gain))
        # All requests slow down: with demand above capacity, none meets the SLO.
        return served, asked - served, np.where(asked <= capacity, served, 0.0)
    waiting = 0.0
    served, shed, on_time = np.empty_like(asked), np.empty_like(asked), np.empty_like(asked)
    for hour, (demand, room) in enumerate(zip(asked.tolist(), capacity.tolist(), strict=True)):
        done = min(room, waiting + demand)
        # First come, first served: with a backlog, all wait longer than an SLO allows.
        on_time[hour] = demand if waiting + demand <= room else 0.0
        left = waiting + demand - done
        waiting = min(left, pool.patience_h * room)
        served[hour], shed[hour] = done, left - waiting
    shed[-1] += waiting  # not served by the end
    return served, shed, on_time


def _attained(pool: Pool, capacity: Floats, on_time: Floats) -> Floats:
    asked = pool.demand_tok_s
    ratio = np.divide(on_time, asked, out=np.ones_like(asked), where=asked > 0) * pool.slo_share
    if pool.policy == "queue" and pool.tok_s_per_session is not None:
        load, slots = asked / pool.tok_s_per_session, capacity / pool.tok_s_per_session
        beta = np.divide(
            slots - load, np.sqrt(load), out=np.full_like(load, math.inf), where=load > 0
        )
        # Above 6, no session waits; below 0, capacity is short and none is on time.
        near = (beta > 0) & (beta < 6)
        waits = np.array([halfin_whitt(float(value)) for value in beta[near]])
        # Most waits are short: they are exponential, with the spare slots over the time in a slot
        # as their rate.
        ratio[near] *= 1 - waits * np.exp(-beta[near] * np.sqrt(load[near]) * pool.wait_slack)
    return ratio


def _power_mw(
    pool: Pool, online: Floats, served: Floats, node_tok_s: float, serving: Floats
) -> Floats | None:
    if pool.w_per_gpu is None:
        return None
    idle = pool.idle_power_share
    used = np.divide(served, online * node_tok_s, out=np.zeros_like(served), where=online > 0)
    active = online * (idle + (1 - idle) * np.minimum(1.0, used))
    asleep = np.maximum(0.0, serving - online)
    at_load = active + asleep * pool.sleep_power_share + pool.spares * idle
    power: Floats = at_load * pool.gpus_per_node * pool.w_per_gpu / 1e6
    return power


# --- demand ---


def diurnal(
    load_factor: float, hours: int = HOURS_OF_YEAR, *, noise: float = 0.02, seed: int = 0
) -> Floats:
    """Demand by hour over its peak: a daily wave with the load factor as mean, and an error.

    Args:
        load_factor: mean over peak of the wave.
        hours: length.
        noise: standard deviation of the error, which is autocorrelated over hours.
        seed: of the error.

    Raises:
        ProfileError: the load factor is above 1, or below that of one busy hour a day.
    """
    if not LEAST_LOAD <= load_factor <= 1:
        raise ProfileError(
            f"a load factor of {load_factor:g} is not from {LEAST_LOAD:g} to 1, as in a daily wave",
            next_step="use a trace (--demand-trace)",
        )
    wave = (1 - np.cos(2 * np.pi * np.arange(24) / 24)) / 2
    floor = min(TROUGH, load_factor / 2)
    mean = (load_factor - floor) / (1 - floor)
    low, high = 0.0, 4000.0
    for _ in range(80):  # find the exponent for the mean, which falls from 1 at exponent 0
        middle = (low + high) / 2
        low, high = (middle, high) if float(np.mean(wave**middle)) > mean else (low, middle)
    curve = np.tile(floor + (1 - floor) * wave**low, math.ceil(hours / 24))[:hours]
    if noise > 0:
        rng = np.random.default_rng([seed, *b"demand"])
        keep = math.exp(-1 / 6)
        steps = rng.normal(0.0, noise * math.sqrt(1 - keep * keep), hours).tolist()
        error = list(accumulate(steps, lambda now, step: keep * now + step))
        curve = curve * np.exp(error)
    return curve


def read_trace(path: Path, hours: int = HOURS_OF_YEAR) -> Floats:
    """Demand by hour over its peak, repeated as needed, from a file of one number per line, with or
    without a heading.

    Raises:
        ProfileError: it cannot be read, or has no demand.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        step = "give a file of demand by hour, one number per line"
        raise ProfileError(
            f"{path} cannot be read as a trace of demand", cause=cause, next_step=step
        ) from error
    lines = [line.strip() for line in lines if line.strip()]
    values: list[float] = []
    for number, line in enumerate(lines, 1):
        try:
            values.append(float(line.split(",")[-1]))
        except ValueError:
            if number > 1:
                what = f"{path}: line {number} is not a number: {line[:40]!r}"
                raise ProfileError(what) from None
    if not any(values) or not all(math.isfinite(value) and value >= 0 for value in values):
        raise ProfileError(f"{path} has no demand: numbers must be >= 0 and not all 0")
    curve: Floats = np.resize(np.array(values) / max(values), hours)
    return curve


def closed_forms(pool: Pool) -> dict[str, float]:
    """M/G/infinity for failures of one node: mean and P99.9 of failed nodes; mean of groups."""
    mean = math.fsum(
        item.per_gpu_h * pool.gpus_per_node * item.repair_h * pool.nodes
        for item in pool.failures
        if item.group_nodes == 1
    )
    groups = math.fsum(
        item.per_group_year / HOURS_PER_YEAR * item.repair_h * pool.nodes
        for item in pool.failures
        if item.group_nodes > 1
    )
    return {"mean": mean, "p999": float(poisson_quantile(mean, 0.999)), "mean_of_groups": groups}
