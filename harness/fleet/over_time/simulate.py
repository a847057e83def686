"""A pool of replicas over time, by the hour: failures, spares, maintenance, demand, autoscaling,
admission, power.

Requests are not simulated: at 10^5 GPUs the number in flight is its mean to within a tenth of a
percent, so an hour is arithmetic on means. What varies is how many nodes are up and how much is
asked. Failures are drawn as intervals and added up exactly; hours then follow from them, all at
once except for a queue, which is carried from hour to hour.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
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
"""Demand in the quietest hour over that in the busiest: an assumption of this harness; a trace of
one's own replaces the wave.
"""


@dataclass(frozen=True, slots=True)
class Pool:
    """Nodes that serve one model, and what is asked of them.

    Attributes:
        nodes: all of them, spares included.
        spares: nodes kept ready to take over.
        gpus_per_node: GPUs that fail and are repaired together.
        gpus_per_replica: GPUs that stop together: the blast radius.
        tok_s_per_gpu: output tokens per second of a serving GPU, at the SLO.
        demand_tok_s: output tokens per second asked, by hour.
        w_per_gpu: watts at the meter of a GPU under load; None where power is not known.
        idle_power_share: power without load over that under load.
        sleep_power_share: power of a node that the autoscaler has put down, over that under load.
        slo_share: share of served tokens within the SLO when nothing is short.
        tok_s_per_session: output of one live session; None where sessions are not known.
        context_tok: mean context of a session.
        cached_share: share of a context that is read from the prefix cache.
        prefill_tok_s_per_gpu: input tokens per second that a GPU computes; None where that is not
            known.
        detect_h: until a failure is noticed.
        failover_h: until a spare has the weights and serves.
        scale_delay_h: until more replicas serve after demand has grown; None keeps all of them up.
        scale_margin: replicas kept up beyond demand.
        policy: what happens to demand beyond capacity: it waits, is refused, or all of it is served
            slower.
        wait_slack: wait that the SLO allows, over the time that a session holds its slot.
        patience_h: how long what waits will wait.
        degrade_gain: throughput beyond the SLO's that a replica gives when latency is let go.
        maintenance_every_h: each node is taken out once in so many hours; None for never.
        maintenance_h: for how long.
        maintenance_hours: hours of a day in which that is done, those of least demand.
        failures: ways to fail.
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
        """Nodes that a replica is spread over; 1 where several are on a node."""
        return max(1.0, self.gpus_per_replica / self.gpus_per_node)

    def __post_init__(self) -> None:
        if self.nodes < 1 or not 0 <= self.spares < self.nodes:
            raise ProfileError(
                f"a pool of {self.nodes} nodes with {self.spares} spares serves nothing"
            )
        if self.gpus_per_node < 1 or self.gpus_per_replica < 1:
            raise ProfileError("a node and a replica have at least one GPU")
        if self.gpus_per_replica > self.nodes * self.gpus_per_node:
            raise ProfileError(
                f"a replica of {self.gpus_per_replica} GPUs does not fit into"
                f" {self.nodes * self.gpus_per_node}: zero replicas"
            )
        if not self.tok_s_per_gpu > 0:
            raise ProfileError("a pool that gives no tokens serves nothing")
        if (
            len(self.demand_tok_s) == 0
            or not np.all(np.isfinite(self.demand_tok_s))
            or np.any(self.demand_tok_s < 0)
        ):
            raise ProfileError(
                "a demand is a number of tokens per second, 0 or more, for every hour"
            )


@dataclass(frozen=True, slots=True)
class Year:
    """What came of it, by hour. Rates are means of the hour in tokens per second.

    Attributes:
        demand_tok_s: asked.
        served_tok_s: served, whatever their latency.
        shed_tok_s: refused or given up.
        slo_ratio: served within the SLO over asked; 1 where nothing was asked.
        serving_nodes: nodes that could have served.
        online_nodes: those that the autoscaler had up.
        down_nodes: failed nodes at the beginning of the hour, groups included.
        power_mw: at the meter; None where power is not known.
        events: failures by class.
        moved_sessions: sessions whose replica failed under them.
        recomputed_tok: input tokens that were in a lost prefix cache.
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
        """Fewest spares that cover all failed nodes in this share of hours."""
        return int(np.ceil(np.quantile(self.down_nodes, share, method="inverted_cdf")))

    def totals(self) -> dict[str, Any]:
        """The year in a few numbers. Tokens are totals; shares are of what was asked."""
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
    """One pool over the hours of its demand.

    Args:
        pool: nodes and what is asked of them.
        seed: of the failures; the same seed gives the same year.
    """
    hours = len(pool.demand_tok_s)
    rng = np.random.default_rng([seed, *b"failures"])
    lost = _Lost(pool)
    for block in failure_blocks(pool.failures, pool.nodes, pool.gpus_per_node, float(hours), rng):
        lost.add(block)
    per_replica = pool.nodes_per_replica
    out = np.minimum(lost.down + _maintenance(pool), pool.nodes)
    # While spares last, what is lost is the time of taking over; beyond them, the failed nodes
    # themselves.
    serving = np.minimum(
        pool.nodes - pool.spares - lost.failing_over, pool.nodes - out - lost.beside
    )
    serving = np.maximum(
        0.0, np.floor(serving / per_replica) * per_replica if per_replica > 1 else serving
    )
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
    """What failures take, by hour, added up over blocks of nodes.

    Attributes:
        down: failed nodes, mean of the hour.
        down_at: failed nodes at its beginning.
        failing_over: nodes whose replicas another has yet to take over, failed ones and those
            beside them; mean of the hour.
        beside: of these, the nodes that did not fail.
        blast: nodes whose replicas stopped in the hour.
        events: failures by class.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool, self._hours = pool, len(pool.demand_tok_s)
        self.down, self.down_at, self.failing_over, self.beside, self.blast = np.zeros(
            (5, self._hours)
        )
        self.events = np.zeros(len(pool.failures), dtype=np.int64)

    def add(self, failures: Failures) -> None:
        """Add those of a block."""
        start, end, nodes = failures.start_h, failures.end_h, failures.nodes
        per_replica = self._pool.nodes_per_replica
        # A failure stops every replica that has a part on its nodes until another has taken over.
        blast = np.maximum(nodes, np.ceil(nodes / per_replica) * per_replica)
        until = np.minimum(start + self._pool.detect_h + self._pool.failover_h, end)
        self.down += mean_by_hour(start, end, nodes, self._hours)
        self.down_at += count_by_hour(start, end, nodes, self._hours)
        self.failing_over += mean_by_hour(start, until, blast, self._hours)
        if per_replica > 1:
            self.beside += mean_by_hour(start, until, blast - nodes, self._hours)
        inside = start >= 0
        self.blast += np.bincount(
            start[inside].astype(np.int64), weights=blast[inside], minlength=self._hours
        )
        self.events += np.bincount(failures.kind[inside], minlength=len(self.events))


def _maintenance(pool: Pool) -> Floats:
    """Nodes out for maintenance by hour: in waves, in the hours of a day in which least is
    asked.
    """
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
    """Nodes up: those that demand needed a while ago, and a margin; never more than there are."""
    if pool.scale_delay_h is None:
        return serving
    hours = np.arange(len(serving), dtype=np.float64)
    then = np.interp(hours - pool.scale_delay_h, hours, pool.demand_tok_s)
    return np.minimum(serving, then / node_tok_s * (1 + pool.scale_margin))


def _lost_caches(
    pool: Pool, blast: Floats, node_tok_s: float
) -> tuple[float | None, float | None, Floats]:
    """Sessions moved by failures, tokens of their lost prefix caches, and nodes by hour that
    recomputing them takes.
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
    """Served, shed, and served without a wait of hours, by hour."""
    asked = pool.demand_tok_s
    if pool.policy == "shed":
        served = np.minimum(asked, capacity)
        return served, asked - served, served
    if pool.policy == "degrade":
        served = np.minimum(asked, capacity * (1 + pool.degrade_gain))
        # All share the slower service: an hour beyond the SLO's capacity keeps none of it.
        return served, asked - served, np.where(asked <= capacity, served, 0.0)
    waiting = 0.0
    served, shed, on_time = np.empty_like(asked), np.empty_like(asked), np.empty_like(asked)
    for hour, (demand, room) in enumerate(zip(asked.tolist(), capacity.tolist(), strict=True)):
        done = min(room, waiting + demand)
        # First come, first served: where anything was left over, all wait longer than an SLO
        # allows.
        on_time[hour] = demand if waiting + demand <= room else 0.0
        left = waiting + demand - done
        waiting = min(left, pool.patience_h * room)
        served[hour], shed[hour] = done, left - waiting
    shed[-1] += waiting  # what still waits at the end was not served
    return served, shed, on_time


def _attained(pool: Pool, capacity: Floats, on_time: Floats) -> Floats:
    """Served within the SLO over asked."""
    asked = pool.demand_tok_s
    ratio = np.divide(on_time, asked, out=np.ones_like(asked), where=asked > 0) * pool.slo_share
    if (
        pool.policy == "queue" and pool.tok_s_per_session is not None
    ):  # who is refused does not wait
        load, slots = asked / pool.tok_s_per_session, capacity / pool.tok_s_per_session
        beta = np.divide(
            slots - load, np.sqrt(load), out=np.full_like(load, math.inf), where=load > 0
        )
        near = (beta > 0) & (
            beta < 6
        )  # beyond, nobody waits; below, hours are short of capacity: none is on time
        waits = np.array([halfin_whitt(float(value)) for value in beta[near]])
        # Of those that wait, few wait long: the wait is exponential with the spare slots over the
        # time that a slot is held.
        ratio[near] *= 1 - waits * np.exp(-beta[near] * np.sqrt(load[near]) * pool.wait_slack)
    return ratio


def _power_mw(
    pool: Pool, online: Floats, served: Floats, node_tok_s: float, serving: Floats
) -> Floats | None:
    if pool.w_per_gpu is None:
        return None
    idle = pool.idle_power_share
    used = np.minimum(
        1.0, np.divide(served, online * node_tok_s, out=np.zeros_like(served), where=online > 0)
    )
    asleep = np.maximum(0.0, serving - online)
    at_load = (
        online * (idle + (1 - idle) * used) + asleep * pool.sleep_power_share + pool.spares * idle
    )
    power: Floats = at_load * pool.gpus_per_node * pool.w_per_gpu / 1e6
    return power


# --- demand ---


def diurnal(
    load_factor: float, hours: int = HOURS_OF_YEAR, *, noise: float = 0.02, seed: int = 0
) -> Floats:
    """Demand by hour over its peak: one wave a day whose mean is the load factor, with a slowly
    changing error.

    Args:
        load_factor: mean over peak of the wave.
        hours: how many.
        noise: standard deviation of the error, which forgets itself within hours.
        seed: of the error.

    Raises:
        ProfileError: the load factor is more than 1, or less than one busy hour a day leaves.
    """
    if not LEAST_LOAD <= load_factor <= 1:
        raise ProfileError(
            f"a load factor of {load_factor:g}: a wave a day has from {LEAST_LOAD:g} to 1; less"
            " needs a trace (--demand-trace)"
        )
    wave = (1 - np.cos(2 * np.pi * np.arange(24) / 24)) / 2
    floor = min(TROUGH, load_factor / 2)
    mean = (load_factor - floor) / (1 - floor)
    low, high = 0.0, 4000.0
    for _ in range(80):  # the exponent that gives the mean; it falls from 1 at exponent 0
        middle = (low + high) / 2
        low, high = (middle, high) if float(np.mean(wave**middle)) > mean else (low, middle)
    curve = np.tile(floor + (1 - floor) * wave**low, math.ceil(hours / 24))[:hours]
    if noise > 0:
        rng = np.random.default_rng([seed, *b"demand"])
        keep = math.exp(-1 / 6)
        error = np.empty(hours)
        now = 0.0
        for hour, step in enumerate(
            rng.normal(0.0, noise * math.sqrt(1 - keep * keep), hours).tolist()
        ):
            now = keep * now + step
            error[hour] = now
        curve = curve * np.exp(error)
    return curve


def read_trace(path: Path, hours: int = HOURS_OF_YEAR) -> Floats:
    """Demand by hour over its peak, from a file of one number a line (a heading is passed over),
    repeated as often as needed.

    Raises:
        ProfileError: it cannot be read, or holds no demand.
    """
    try:
        lines = [
            line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
        ]
    except (OSError, UnicodeDecodeError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        step = "give a file of one number a line: demand by hour"
        raise ProfileError(
            f"{path} cannot be read as a trace of demand", cause=cause, next_step=step
        ) from error
    values: list[float] = []
    for number, line in enumerate(lines, 1):
        try:
            values.append(float(line.split(",")[-1]))
        except ValueError:
            if number > 1:
                raise ProfileError(f"{path}: line {number} is no number: {line[:40]!r}") from None
    if (
        not values
        or not all(math.isfinite(value) and value >= 0 for value in values)
        or max(values) == 0
    ):
        raise ProfileError(f"{path} holds no demand: one number a line, 0 or more and not all 0")
    curve: Floats = np.resize(np.array(values) / max(values), hours)
    return curve


def closed_forms(pool: Pool) -> dict[str, float]:
    """What M/G/infinity says of the classes that hit one node: mean and P99.9 of failed nodes."""
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
