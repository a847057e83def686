"""An estimate over time: simulated years of the site, and scenarios."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from pydantic import Field, InstanceOf, PlainSerializer

from harness.artifacts.run_result import RunResult, load_result
from harness.core.errors import ProfileError
from harness.fleet.estimate.measured import work_of
from harness.fleet.estimate.results import FleetEstimate, Floats
from harness.fleet.over_time.failures import failure_classes
from harness.fleet.over_time.parallel import spread
from harness.fleet.over_time.scenarios import (
    DRAWS,
    Outlook,
    Range,
    ScenarioResult,
    ScenarioTask,
    choose,
    play,
)
from harness.fleet.over_time.simulate import (
    Policy,
    Pool,
    Year,
    closed_forms,
    diurnal,
    read_trace,
    simulate,
)
from harness.fleet.site.arithmetic import HOURS_PER_MONTH
from harness.fleet.site.catalog import gpus

YEARS: Final = 4
"""Default of simulated years: enough for the P99.9 of failed nodes, whose repairs take days."""

MOST_YEARS: Final = 500
"""Hours of that many years need 0.25 GB of memory; more do not improve results."""

HORIZON_DAYS: Final = 3 * 365
"""Horizon of scenarios if the site's term is not stated."""

POLICIES: Final[dict[str, Policy]] = {"shed": "shed", "queue": "queue", "degrade": "degrade"}

GPUS_PER_NODE: Final = {"GB200": 4, "GB300": 4}
"""GPUs of a compute tray of NVL72; all other types here have eight in a node."""

_GRID: Final = np.concatenate((np.linspace(0, 1.2, 49), np.linspace(1.3, 4.0, 10)))


@dataclass(frozen=True, slots=True)
class TimeOptions:
    """Inputs of a forecast.

    Attributes:
        years: simulated years, one seed each.
        scenarios: names, or all.
        policy: for demand beyond capacity.
        demand_trace: file of demand by hour; None: a daily wave with the load factor.
        processes: on this machine.
        ray_address: of a Ray cluster.
        seed: gives the same results wherever it runs.
    """

    years: int = YEARS
    scenarios: Sequence[str] = ()
    policy: Policy = "shed"
    demand_trace: Path | None = None
    processes: int = 1
    ray_address: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.years <= MOST_YEARS:
            raise ProfileError(
                f"simulated years must be from 1 to {MOST_YEARS}, not {self.years:,}"
            )


def _by_key(played: tuple[ScenarioResult, ...]) -> dict[str, ScenarioResult]:
    return {one.key: one for one in played}


@dataclass(frozen=True, slots=True)
class Forecast:
    """The site over simulated years, and in scenarios.

    Attributes:
        nodes: of the pool, including spares.
        node_tok_s: output tokens per second of a serving node.
        totals: P5, median and P95 over the years.
        closed: M/G/infinity, for comparison.
        day: means over all years by hour of the day: demand, capacity, served (tok/s), MW, share
            within the SLO.
        worst: the week around the worst hour of the first year, in the same columns.
        scenarios: in the requested order.
        assumptions: with source and date.
        horizon_days: of scenarios.
        hours: the first year by hour, in the columns of `day`.
    """

    nodes: int
    spares: int
    gpus_per_node: int
    gpus_per_replica: int
    node_tok_s: float
    years: int
    policy: str
    totals: dict[str, Range | None]
    closed: Annotated[dict[str, float], Field(alias="closed_forms")]
    events: Annotated[dict[str, float], Field(alias="failures_per_year")]
    day: dict[str, list[float] | None]
    worst: Annotated[dict[str, list[float] | None], Field(alias="worst_week")]
    scenarios: Annotated[tuple[ScenarioResult, ...], PlainSerializer(_by_key)]
    assumptions: tuple[str, ...]
    horizon_days: int
    hours: Annotated[dict[str, Annotated[Floats, InstanceOf()] | None], Field(exclude=True)]


def policy_of(text: str) -> Policy:
    """A policy by its name; ProfileError if it is unknown."""
    if text not in POLICIES:
        next_step = f"use {', '.join(POLICIES)}"
        raise ProfileError(f"--policy {text}: unknown policy", next_step=next_step)
    return POLICIES[text]


def forecast(estimated: FleetEstimate, options: TimeOptions | None = None) -> Forecast:
    """Simulate an estimated site over years, and in scenarios.

    Raises:
        ProfileError: unknown scenario, or a pool without capacity.
        PreflightError: Ray was requested and is not available.
    """
    options = options or TimeOptions()
    chosen = choose(options.scenarios)
    pool = pool_of(estimated, load_result(Path(estimated.run)), options)
    tasks = [(pool, options.seed + year) for year in range(options.years)]
    where = {"processes": options.processes, "ray_address": options.ray_address}
    years = spread(simulate_task, tasks, **where)  # type: ignore[arg-type]
    outlook = outlook_of(estimated, pool, years[0])
    played: list[ScenarioResult] = []
    if chosen:
        scenes = [ScenarioTask(item, outlook, options.seed) for item in chosen]
        played = spread(play, scenes, **where)  # type: ignore[arg-type]
    return Forecast(
        nodes=pool.nodes,
        spares=pool.spares,
        gpus_per_node=pool.gpus_per_node,
        gpus_per_replica=pool.gpus_per_replica,
        node_tok_s=pool.tok_s_per_gpu * pool.gpus_per_node,
        years=len(years),
        policy=pool.policy,
        totals=_totals(years),
        closed=closed_forms(pool),
        events={
            key: float(np.mean([year.events[key] for year in years])) for key in years[0].events
        },
        day=_day(years),
        worst=_worst_week(years[0]),
        scenarios=tuple(played),
        assumptions=_assumptions(pool, options),
        horizon_days=outlook.horizon_days,
        hours=_columns(years[0]),
    )


def simulate_task(task: tuple[Pool, int]) -> Year:
    """`simulate` for `spread`."""
    return simulate(*task)


def pool_of(estimated: FleetEstimate, run: RunResult, options: TimeOptions) -> Pool:
    """The site as one pool. Simulated failures replace the estimate's assumed availability."""
    per_node = GPUS_PER_NODE.get(estimated.gpu, 8)
    nodes = int(estimated.central["gpus_powered"] // per_node)
    if nodes < 1:
        raise ProfileError(
            f"{estimated.central['gpus_powered']:.0f} powered GPUs are not one node of {per_node}"
            " to simulate",
            next_step="estimate the site without simulation: --years 0",
        )
    spares = min(round(nodes * estimated.factors["reserved_spares"].value), nodes - 1)
    per_replica = max(1, len(run.gpus) // (run.replicas or 1)) if run.gpus else per_node
    peak = estimated.stated.demand_tok_s
    if peak is None:
        peak = estimated.central["output_tok_s_peak"]
    if options.demand_trace is not None:
        curve = read_trace(options.demand_trace)
    else:
        curve = diurnal(estimated.factors["load_factor"].value, seed=options.seed)
    idle = estimated.factors.get("idle_power_share")
    computed = run.figure("input_computed_tok_s").value
    return Pool(
        nodes=nodes,
        spares=spares,
        gpus_per_node=per_node,
        gpus_per_replica=per_replica,
        tok_s_per_gpu=estimated.central["tok_s_per_gpu"],
        demand_tok_s=curve * peak,
        w_per_gpu=estimated.central.get("w_per_gpu"),
        idle_power_share=idle.value if idle is not None else 0.3,
        tok_s_per_session=estimated.stated.tok_s_per_session,
        context_tok=work_of(run).context_tok,
        cached_share=run.figure("prefix_hit_ratio").value,
        prefill_tok_s_per_gpu=computed / len(run.gpus) if computed and run.gpus else None,
        policy=options.policy,
    )


def outlook_of(estimated: FleetEstimate, pool: Pool, year: Year) -> Outlook:
    """Inputs of scenarios."""
    site, today = estimated.site, estimated.as_of.day
    up = year.serving_nodes * pool.gpus_per_node * pool.tok_s_per_gpu
    asked = pool.demand_tok_s
    total = float(asked.sum())
    served = np.ones(len(_GRID))
    if total > 0:
        served = np.array([float(np.minimum(asked, share * up).sum()) / total for share in _GRID])
    watts, pue = estimated.central.get("w_per_gpu"), estimated.factors.get("pue")
    power = None
    if watts is not None and pue is not None:
        stated = estimated.stated
        power = pue.value, watts * stated.gpus / 1e6, stated.cap_mw
    per_h = estimated.stated.usd_per_h
    market = gpus()[estimated.gpu].usd_per_gpu_h.get("rental_3_years")
    return Outlook(
        asked_tok_per_day=float(asked.mean()) * 86400,
        capacity_grid=_GRID,
        served_of=served,
        capacity=estimated.peak_draws[:DRAWS] / estimated.central["output_tok_s_peak"],
        gpus=estimated.central["gpus_powered"],
        horizon_days=_days_until(site.until, today) or HORIZON_DAYS,
        monthly_usd=None if per_h is None else per_h * HOURS_PER_MONTH,
        notice_days=site.notice_days.value if site.notice_days is not None else 0.0,
        terminable_days=float(_days_until(site.terminable_after, today) or 0),
        power=power,
        market_usd_per_gpu_h=market.value if market is not None else None,
    )


def _days_until(text: str | None, today: date) -> int | None:
    """Days to the end of a month or to a day; None if not stated or past."""
    if text is None:
        return None
    parts = [int(part) for part in text.split("-")]
    if len(parts) == 3:
        then = date(*parts)
    else:
        year, month = (parts[0] + 1, 1) if parts[1] == 12 else (parts[0], parts[1] + 1)
        then = date(year, month, 1)
    return (then - today).days if then > today else None


def _totals(years: Sequence[Year]) -> dict[str, Range | None]:
    rows = [year.totals() for year in years]
    found: dict[str, Range | None] = {}
    for key, value in rows[0].items():
        if key not in {"failures", "hours"}:
            values = None if value is None else np.array([row[key] for row in rows], dtype=float)
            found[key] = None if values is None else Range.of(values)
    pooled = np.concatenate([year.down_nodes for year in years])
    spares = float(np.quantile(pooled, 0.999, method="inverted_cdf"))
    found["spares_for_999_pooled"] = Range(spares, spares, spares)
    return found


_COLUMNS: Final = (
    *("demand_tok_s", "served_tok_s", "shed_tok_s", "slo_ratio", "power_mw"),
    *("serving_nodes", "online_nodes", "down_nodes"),
)


def _columns(year: Year) -> dict[str, Floats | None]:
    return {key: getattr(year, key) for key in _COLUMNS}


def _day(years: Sequence[Year]) -> dict[str, list[float] | None]:
    found: dict[str, list[float] | None] = {}
    for key in _columns(years[0]):
        columns = [column for year in years if (column := _columns(year)[key]) is not None]
        if len(columns) < len(years):
            found[key] = None
            continue
        pooled = np.concatenate([column[: len(column) // 24 * 24] for column in columns])
        found[key] = pooled.reshape(-1, 24).mean(axis=0).tolist() if len(pooled) else []
    return found


def _worst_week(year: Year) -> dict[str, list[float] | None]:
    hours = len(year.demand_tok_s)
    worst = int(np.argmin(year.slo_ratio))
    start = max(0, min(worst - 84, hours - 168))
    found: dict[str, list[float] | None] = {
        key: None if column is None else column[start : start + 168].tolist()
        for key, column in _columns(year).items()
    }
    found["hour"] = [float(hour) for hour in range(start, min(start + 168, hours))]
    return found


def _assumptions(pool: Pool, options: TimeOptions) -> tuple[str, ...]:
    failures = [
        f"{item.title}: "
        + (
            f"one in {1 / item.per_gpu_h:,.0f} GPU-hours"
            if item.group_nodes == 1
            else f"{item.per_group_year:g} per year and {item.group_nodes} nodes"
        )
        + f", {item.repair_h:g} h to repair; {item.source} ({item.date})"
        for item in failure_classes()
    ]
    shape = "a daily wave with the estimate's load factor and an error of 2%"
    if options.demand_trace is not None:
        shape = f"the trace {options.demand_trace}"
    scaling = "none, all replicas are up: as stated"
    if pool.scale_delay_h is not None:
        late, margin = 60 * pool.scale_delay_h, 100 * pool.scale_margin
        scaling = f"{late:.0f} minutes behind demand, with a margin of {margin:.0f}%; {_OURS}"
    maintenance = "none"
    if pool.maintenance_every_h is not None:
        maintenance = (
            f"{pool.maintenance_h:g} h per node every {pool.maintenance_every_h / 24:g} days, in"
            f" the {pool.maintenance_hours} hours of least demand; {_OURS}"
        )
    detect, failover = pool.detect_h * 60, pool.failover_h * 60
    return (
        *failures,
        f"Failover: {detect:.0f} minutes to detect, {failover:.0f} until a spare serves; {_OURS}",
        f"Maintenance: {maintenance}",
        f"Demand: {shape}; beyond capacity: {pool.policy}",
        f"Autoscaling: {scaling}",
    )


_OURS: Final = "assumption of this harness (2026-11)"
