"""Scenarios as data: served demand and cost with an event, compared with the same site without it,
draw by draw.

Each day of a draw has a share of the site's capacity. The simulated year gives the demand served by
a share: the mean over hours of the smaller of demand and that share of the hour's capacity. So a
small loss has little effect on a site with slack.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Annotated, Final, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from harness.checked_yaml.fields import Date, Flag, Name, Number, Strict, Text
from harness.checked_yaml.problems import Violation
from harness.core.errors import ProfileError
from harness.fleet.estimate.results import Floats
from harness.fleet.site.arithmetic import HOURS_PER_MONTH
from harness.fleet.site.load_data import load_data
from harness.fleet.site.types import MOST

Kind = Literal["lost", "delay", "heat", "bursts", "price"]
DAYS_PER_MONTH: Final = 365.25 / 12
DRAWS: Final = 1000
"""Draws of a scenario: the Monte Carlo error of its P5 and P95 is below that of its assumptions."""

_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "lost": ("share",),
    "delay": ("years",),
    "heat": ("days_per_year", "pue_more", "derate"),
    "bursts": ("per_year", "days", "share"),
    "price": ("fall_per_year",),
}
_OPTIONAL: Final[Mapping[str, tuple[str, ...]]] = {"lost": ("days",)}


class Parameter(Strict):
    """A range: uniform from low to high, or triangular around a mode."""

    low: Number = Field(ge=0, le=MOST)
    high: Number = Field(ge=0, le=MOST)
    value: Number | None = None
    """The mode."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low <= (self.low if self.value is None else self.value) <= self.high:
            raise ValueError("must have low <= value <= high")
        return self

    def draw(self, rng: np.random.Generator, n: int) -> Floats:
        if self.low == self.high:
            return np.full(n, self.low)
        return (
            rng.uniform(self.low, self.high, n)
            if self.value is None
            else rng.triangular(self.low, self.value, self.high, n)
        )

    def text(self) -> str:
        if self.low == self.high:
            return f"{self.low:g}"
        mode = "" if self.value is None else f", most often {self.value:g}"
        return f"{self.low:g} to {self.high:g}{mode}"


class Scenario(Strict):
    """One possible event."""

    key: Name
    title: Text
    kind: Kind
    parameters: dict[str, Parameter]
    source: Text
    date: Date
    notice: Flag = False
    """It happens after the site's notice."""
    from_terminable: Flag = False
    """Not before the site's term may be ended."""
    paid: Literal["all", "with_capacity"] = "all"
    """Payment for lost capacity: all of it, or only for the remaining capacity."""
    horizon_years: Number | None = Field(default=None, gt=0)
    """None: the site's term."""

    def text(self) -> str:
        ranges = ", ".join(
            f"{name.replace('_', ' ')} {parameter.text()}"
            for name, parameter in self.parameters.items()
        )
        return f"{self.title}: {ranges}; {self.source} ({self.date})"


@cache
def shipped_scenarios() -> Mapping[str, Scenario]:
    """The shipped scenarios by key."""
    return load_data("scenarios.yaml", dict[str, Scenario], scenario_rules)


def scenario_rules(scenarios: Mapping[str, Scenario]) -> Iterator[Violation]:
    """Check the parameters of each kind."""
    for key, scenario in scenarios.items():
        needed = _NEEDED[scenario.kind]
        allowed = (*needed, *_OPTIONAL.get(scenario.kind, ()))
        path = (key, "parameters")
        for name in needed:
            if name not in scenario.parameters:
                yield Violation((*path, name), "is missing", f"add `{name}`")
        for name, parameter in scenario.parameters.items():
            if name not in allowed:
                what = f"is not a parameter of `{scenario.kind}`"
                yield Violation((*path, name), what, f"parameters: {', '.join(allowed)}")
            if name in {"share", "derate", "fall_per_year"} and parameter.high > 1:
                yield Violation((*path, name, "high"), "is above 1", "write a share of at most 1")


def choose(names: Sequence[str]) -> tuple[Scenario, ...]:
    """Scenarios by name, or `all`; ProfileError if one is unknown."""
    known = shipped_scenarios()
    if unknown := [name for name in names if name not in {*known, "all"}]:
        raise ProfileError(
            f"unknown scenario {unknown[0]!r}", next_step=f"use all, or some of: {', '.join(known)}"
        )
    if "all" in names:
        return tuple(known.values())
    return tuple(known[name] for name in dict.fromkeys(names))


# --- a site over its term ---


@dataclass(frozen=True, slots=True)
class Outlook:
    """A site as input of scenarios. None: unknown.

    Attributes:
        asked_tok_per_day: mean demand.
        served_of: share of the demand served at each share of capacity in `capacity_grid`.
        capacity: the site's capacity in each draw, over the central one.
        gpus: powered GPUs.
        notice_days: of a termination or reclaim.
        terminable_days: until the term may be ended.
        power: PUE, uncapped megawatts and cap, for heat.
        market_usd_per_gpu_h: published market price of the same GPU.
    """

    asked_tok_per_day: float
    capacity_grid: Floats
    served_of: Floats
    capacity: Floats
    gpus: float
    horizon_days: int
    monthly_usd: float | None = None
    notice_days: float = 0.0
    terminable_days: float = 0.0
    power: tuple[float, float, float | None] | None = None
    market_usd_per_gpu_h: float | None = None


@dataclass(frozen=True, slots=True)
class Range:
    """P5, median and P95."""

    p5: float
    p50: float
    p95: float

    @classmethod
    def of(cls, draws: Floats) -> "Range":
        return cls(*(float(q) for q in np.quantile(draws, (0.05, 0.5, 0.95))))


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """Results of a scenario over its horizon; `base_…`: without it, with the same draws. None:
    unknown.

    Attributes:
        served_ratio: served demand over demand.
        lost_tok: tokens served only without the scenario.
        capacity_months: lost capacity in months of the whole site.
        cost_usd: paid for the site.
        elsewhere_usd: market price of the lost GPU-hours.
        market_usd: market price of all GPU-hours, if the market changes.
        months: ends of months from now, and served share of demand in each: P5, median, P95.
    """

    key: Annotated[str, Field(exclude=True)]
    title: str
    text: str
    horizon_days: int
    served_ratio: Range
    base_served_ratio: Range
    lost_tok: Range
    capacity_months: Range
    cost_usd: Range | None
    base_cost_usd: Range | None
    usd_per_mtok: Range | None
    base_usd_per_mtok: Range | None
    elsewhere_usd: Range | None
    market_usd: Range | None
    months: tuple[tuple[float, float, float, float], ...] = field(default=())


@dataclass(frozen=True, slots=True)
class ScenarioTask:
    """One scenario with all inputs, for another process or machine."""

    scenario: Scenario
    outlook: Outlook
    seed: int


def play(task: ScenarioTask) -> ScenarioResult:
    """Simulate one scenario over its horizon, with one draw per capacity of the outlook."""
    scenario, outlook = task.scenario, task.outlook
    n = len(outlook.capacity)
    days = (
        round(scenario.horizon_years * 365.25)
        if scenario.horizon_years is not None
        else outlook.horizon_days
    )
    rng = np.random.default_rng([task.seed, *scenario.key.encode()])
    # Steps of a day, or longer over long horizons, at most a five-hundredth of which matters.
    step = max(1, days // 1500)
    at = np.arange(0, days, step, dtype=np.float64)
    drawn = {name: parameter.draw(rng, n) for name, parameter in scenario.parameters.items()}
    share = _capacity(scenario, outlook, drawn, at, days, rng)
    served = _served(outlook, share)
    base = _served(outlook, np.ones((n, 1)))[:, 0]
    ratio = served.mean(axis=1)
    asked = outlook.asked_tok_per_day * days
    missing = 1 - share.mean(axis=1)
    months = days / DAYS_PER_MONTH
    cost = base_cost = per_mtok = base_per_mtok = None
    if outlook.monthly_usd is not None:
        base_cost = np.full(n, outlook.monthly_usd * months)
        partly = scenario.paid == "with_capacity" or scenario.kind == "delay"
        cost = base_cost * (share.mean(axis=1) if partly else np.ones(n))
        with np.errstate(divide="ignore", invalid="ignore"):
            per_mtok = np.where(ratio > 0, cost / (ratio * asked / 1e6), np.nan)
            base_per_mtok = base_cost / (base * asked / 1e6)
    market = outlook.market_usd_per_gpu_h
    gpu_hours = outlook.gpus * months * HOURS_PER_MONTH
    elsewhere = falling = None
    if market is not None and scenario.kind == "price":
        years = days / 365.25
        fall = -np.log1p(-np.minimum(drawn["fall_per_year"], 0.999))
        mean = np.where(fall > 0, -np.expm1(-fall * years) / np.maximum(fall * years, 1e-12), 1.0)
        falling = Range.of(gpu_hours * market * mean)
    elif market is not None:
        elsewhere = Range.of(missing * gpu_hours * market)
    return ScenarioResult(
        key=scenario.key,
        title=scenario.title,
        text=scenario.text(),
        horizon_days=days,
        served_ratio=Range.of(ratio),
        base_served_ratio=Range.of(base),
        lost_tok=Range.of((base - ratio) * asked),
        capacity_months=Range.of(missing * months),
        cost_usd=_range(cost),
        base_cost_usd=_range(base_cost),
        usd_per_mtok=_range(per_mtok),
        base_usd_per_mtok=_range(base_per_mtok),
        elsewhere_usd=elsewhere,
        market_usd=falling,
        months=_by_month(served, at, days),
    )


def _range(draws: Floats | None) -> Range | None:
    """Range of finite draws; None if there are none."""
    if draws is None:
        return None
    known = draws[np.isfinite(draws)]
    return Range.of(known) if len(known) else None


def _served(outlook: Outlook, share: Floats) -> Floats:
    """Served share of demand by share of the site's capacity (draws x days)."""
    return np.interp(share * outlook.capacity[:, None], outlook.capacity_grid, outlook.served_of)


def _capacity(
    scenario: Scenario,
    outlook: Outlook,
    drawn: Mapping[str, Floats],
    at: Floats,
    days: int,
    rng: np.random.Generator,
) -> Floats:
    """Available share of the site's capacity, draws x steps."""
    n = len(outlook.capacity)
    match scenario.kind:
        case "lost":
            earliest = min(outlook.terminable_days, days) if scenario.from_terminable else 0.0
            notice = outlook.notice_days if scenario.notice else 0.0
            start = rng.uniform(earliest, days, n) + notice
            end = start + drawn["days"] if "days" in drawn else np.full(n, math.inf)
            gone = (at >= start[:, None]) & (at < end[:, None])
            return 1 - gone * drawn["share"][:, None]
        case "delay":
            return (at >= drawn["years"][:, None] * 365.25).astype(np.float64)
        case "heat":
            kept = 1 - drawn["derate"]
            if outlook.power is not None:
                pue, uncapped_mw, cap_mw = outlook.power
                hot_mw = uncapped_mw * (pue + drawn["pue_more"]) / pue * kept
                if cap_mw is not None:  # relative to the capacity under the cap without heat
                    kept = kept * np.minimum(1.0, cap_mw / hot_mw) / min(1.0, cap_mw / uncapped_mw)
            of_year = at % 365.25
            first = rng.uniform(150, 200, n)  # day of the year: early June to late July
            last = first + drawn["days_per_year"]
            hot = (of_year >= first[:, None]) & (of_year < last[:, None])
            cool: Floats = 1 - hot * (1 - np.minimum(kept, 1.0))[:, None]
            return cool
        case "bursts":
            share = np.ones((n, len(at)))
            counts = rng.poisson(drawn["per_year"] * days / 365.25)
            for draw in range(n):
                for start in rng.uniform(0, days, counts[draw]):
                    taken = (at >= start) & (at < start + drawn["days"][draw])
                    share[draw, taken] = 1 - drawn["share"][draw]  # one burst at a time
            return share
        case "price":
            return np.ones((n, len(at)))


def _by_month(
    served: Floats, at: Floats, days: int
) -> tuple[tuple[float, float, float, float], ...]:
    """Served share by month, or longer periods over long horizons."""
    parts = min(60, max(1, round(days / DAYS_PER_MONTH)))
    edges = np.linspace(0, days, parts + 1)
    found = []
    for low, high in pairwise(edges):
        inside = (at >= low) & (at < high)
        if inside.any():
            p5, p50, p95 = np.quantile(served[:, inside].mean(axis=1), (0.05, 0.5, 0.95))
            found.append((float(high / DAYS_PER_MONTH), float(p5), float(p50), float(p95)))
    return tuple(found)
