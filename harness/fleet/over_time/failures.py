"""Failures of a pool of nodes: intervals drawn by blocks of nodes and summed by hour. Cost grows
with failures, not nodes x hours.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from harness.checked_yaml.fields import Date, Name, Number, Strict, Text, Whole
from harness.fleet.estimate.results import Floats
from harness.fleet.site.load_data import load_data

HOURS_PER_YEAR: Final = 8766.0
"""365.25 days."""

WARM_UP: Final = 12.0
"""Warm-up in mean repair times, so that a simulation starts with the steady-state number of failed
nodes.
"""


@dataclass(frozen=True, slots=True)
class FailureClass:
    """One class of failures.

    Attributes:
        per_gpu_h: rate per GPU-hour, of failures of one node; 0 for groups.
        group_nodes: nodes that fail together.
        per_group_year: rate of one group; 0 for failures of one node.
        repair_h: mean time to repair.
        repair_cv: coefficient of variation of that time, which is lognormal.
    """

    key: str
    title: str
    per_gpu_h: float
    group_nodes: int
    per_group_year: float
    repair_h: float
    repair_cv: float
    source: str
    date: str


class _Published(Strict):
    """A class of failures as data: events over exposure."""

    key: Name
    title: Text
    unit: Literal["node", "group"]
    events: Number = Field(gt=0)
    """In `gpu_hours` of nodes, or in a year of one group."""
    gpu_hours: Number | None = Field(default=None, gt=0)
    nodes: Whole | None = Field(default=None, ge=2)
    """Of one group."""
    repair_h: Number = Field(gt=0)
    repair_cv: Number = Field(ge=0)
    source: Text
    date: Date

    @model_validator(mode="after")
    def _exposed(self) -> Self:
        if (self.unit == "node", self.unit == "group") != (bool(self.gpu_hours), bool(self.nodes)):
            raise ValueError("needs gpu_hours for the unit node, nodes for the unit group")
        return self

    def failure_class(self) -> FailureClass:
        return FailureClass(
            key=self.key,
            title=self.title,
            per_gpu_h=self.events / self.gpu_hours if self.gpu_hours else 0.0,
            group_nodes=self.nodes or 1,
            per_group_year=self.events if self.nodes else 0.0,
            repair_h=self.repair_h,
            repair_cv=self.repair_cv,
            source=self.source,
            date=self.date,
        )


@cache
def failure_classes() -> tuple[FailureClass, ...]:
    """The published and assumed classes."""
    found = load_data("failures.yaml", dict[str, _Published])
    return tuple(item.failure_class() for item in found.values())


@dataclass(frozen=True, slots=True)
class Failures:
    """Events of one pool, one element each.

    Attributes:
        start_h: start, hours from the pool's.
        end_h: end of the repair.
        nodes: failed nodes.
        kind: index of the class.
    """

    start_h: Floats
    end_h: Floats
    nodes: Floats
    kind: npt.NDArray[np.int64]


BLOCK_NODES: Final = 16_384
"""Nodes drawn at a time: a block's arrays fit in a processor's cache for any size of the pool, so
that memory does not grow with nodes.
"""


def failure_blocks(
    classes: Sequence[FailureClass],
    nodes: int,
    gpus_per_node: int,
    hours: float,
    rng: np.random.Generator,
) -> Iterator[Failures]:
    """Failures of a pool during the warm-up and `hours`, by blocks of nodes, then by groups.

    A failed node does not fail again before its repair. Groups may overlap with nodes that are
    already down; the double counting is the product of two small shares.
    """
    warm = WARM_UP * max(item.repair_h for item in classes)
    for first in range(0, nodes, BLOCK_NODES):
        yield _of_nodes(
            classes, min(BLOCK_NODES, nodes - first), gpus_per_node, (-warm, hours), rng
        )
    yield from (
        _of_groups(index, item, nodes, (-warm, hours), rng)
        for index, item in enumerate(classes)
        if item.group_nodes > 1
    )


def _of_nodes(
    classes: Sequence[FailureClass],
    nodes: int,
    gpus_per_node: int,
    span_h: tuple[float, float],
    rng: np.random.Generator,
) -> Failures:
    """Failures of one node: up for an exponential time, then down for a repair, and so on. Nothing
    is sorted or discarded.
    """
    rates = np.array(
        [item.per_gpu_h * gpus_per_node if item.group_nodes == 1 else 0.0 for item in classes]
    )
    rate = float(rates.sum())
    starts, ends, kinds = [np.empty(0)], [np.empty(0)], [np.empty(0, dtype=np.int64)]
    up_since = np.full(nodes if rate > 0 else 0, span_h[0])
    shares, (mu, sigma) = np.cumsum(rates / rate) if rate > 0 else rates, _lognormal(classes)
    while len(up_since):
        start = up_since + rng.exponential(1 / rate, len(up_since))
        start = start[start < span_h[1]]
        # The class; shares add up to 1 except for rounding.
        kind = np.minimum(
            np.searchsorted(shares, rng.random(len(start)), side="right"), np.flatnonzero(rates)[-1]
        )
        up_since = start + np.exp(mu[kind] + sigma[kind] * rng.standard_normal(len(start)))
        starts.append(start)
        ends.append(up_since)
        kinds.append(kind)
    start = np.concatenate(starts)
    return Failures(start, np.concatenate(ends), np.ones(len(start)), np.concatenate(kinds))


def _of_groups(
    index: int,
    item: FailureClass,
    nodes: int,
    span_h: tuple[float, float],
    rng: np.random.Generator,
) -> Failures:
    groups = math.ceil(nodes / item.group_nodes)
    n = int(rng.poisson(groups * item.per_group_year / HOURS_PER_YEAR * (span_h[1] - span_h[0])))
    start, group = rng.uniform(*span_h, n), rng.integers(0, groups, n)
    # The last group may be smaller.
    size = np.minimum(float(item.group_nodes), nodes - group * item.group_nodes)
    mu, sigma = _lognormal([item])
    return Failures(
        start, start + np.exp(mu + sigma * rng.standard_normal(n)), size, np.full(n, index)
    )


def _lognormal(classes: Sequence[FailureClass]) -> tuple[Floats, Floats]:
    """Mean and deviation of the logarithm of repair times, by class."""
    variance = np.log1p(np.array([item.repair_cv for item in classes]) ** 2)
    return np.log([item.repair_h for item in classes]) - variance / 2, np.sqrt(variance)


def mean_by_hour(start: Floats, end: Floats, weight: Floats, hours: int) -> Floats:
    """Exact time average of the total weight of active intervals in each hour from 0, without
    sorting. Starts and ends are in hours.
    """
    s, e = np.clip(start, 0, hours), np.clip(end, 0, hours)
    first, last = s.astype(np.int64), e.astype(np.int64)
    # Full from the first hour, less its part before the start, plus the last one's before the end.
    change = _binned(first, weight, hours) - _binned(last, weight, hours)
    edges = _binned(last, weight * (e - last), hours) - _binned(first, weight * (s - first), hours)
    mean: Floats = np.cumsum(change)[:hours] + edges[:hours]
    return mean


def count_by_hour(start: Floats, end: Floats, weight: Floats, hours: int) -> Floats:
    """Total weight of active intervals at the start of each hour from 0."""
    first = np.ceil(np.clip(start, 0, hours)).astype(np.int64)
    last = np.ceil(np.clip(end, 0, hours)).astype(np.int64)
    count: Floats = np.cumsum(_binned(first, weight, hours) - _binned(last, weight, hours))[:hours]
    return count


def _binned(hour: npt.NDArray[np.int64], weight: Floats, hours: int) -> Floats:
    found: Floats = np.bincount(hour, weights=weight, minlength=hours + 1).astype(
        np.float64, copy=False
    )
    return found
