"""Failures of a pool of nodes as intervals, drawn by blocks of nodes, added up by the hour. Cost
grows with failures, not nodes x hours.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from harness.checked_yaml.fields import Date, Name, Number, Strict, Text, Whole
from harness.fleet.estimate.results import Floats
from harness.fleet.site.load_data import load_data

HOURS_PER_YEAR: Final = 8766.0
"""365.25 days."""

WARM_UP: Final = 12.0
"""Mean repairs before the first hour, so that a simulation starts with as many nodes down as it
will have.
"""


@dataclass(frozen=True, slots=True)
class FailureClass:
    """One way to fail.

    Attributes:
        per_gpu_h: rate of a GPU-hour, for what hits one node; 0 for groups.
        group_nodes: nodes that one event takes; 1 for what hits one node.
        per_group_year: rate of one group; 0 for what hits one node.
        repair_h: mean time until the nodes are back.
        repair_cv: standard deviation of that time over its mean; times are lognormal.
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

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "title": self.title,
            "per_gpu_h": self.per_gpu_h,
            "group_nodes": self.group_nodes,
            "per_group_year": self.per_group_year,
            "repair_h": self.repair_h,
            "repair_cv": self.repair_cv,
            "source": self.source,
            "date": self.date,
        }


class _Published(Strict):
    """A way to fail as data: events over exposure."""

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
    """The published and assumed ways to fail."""
    found = load_data("failures.yaml", dict[str, _Published])
    return tuple(item.failure_class() for item in found.values())


@dataclass(frozen=True, slots=True)
class Failures:
    """Events of one pool, hours from its start.

    Attributes:
        start_h: when each began.
        end_h: when its nodes were back.
        nodes: how many it took.
        kind: index of its class.
    """

    start_h: Floats
    end_h: Floats
    nodes: Floats
    kind: npt.NDArray[np.int64]


BLOCK_NODES: Final = 16_384
"""Nodes that are drawn at a time. A block's arrays stay in a processor's cache whatever the size of
the pool, so that cost grows with nodes and memory does not.
"""


def failure_blocks(
    classes: Sequence[FailureClass],
    nodes: int,
    gpus_per_node: int,
    hours: float,
    rng: np.random.Generator,
) -> Iterator[Failures]:
    """Failures of a pool over so many hours and the warm-up before them, some nodes at a time, then
    the groups.

    A node that is down does not fail again until it is back. Groups may overlap with nodes that are
    down already; what is counted twice by that is the product of two small shares.
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
    """Failures that hit one node: up for an exponential time, then down for a repair, again and
    again. Nothing is sorted or thrown away.
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
        # Which of the ways it was: shares add up to 1 but for rounding.
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
    """Failures that take a group of nodes at once."""
    groups = math.ceil(nodes / item.group_nodes)
    n = int(rng.poisson(groups * item.per_group_year / HOURS_PER_YEAR * (span_h[1] - span_h[0])))
    start, group = rng.uniform(*span_h, n), rng.integers(0, groups, n)
    size = np.minimum(
        float(item.group_nodes), nodes - group * item.group_nodes
    )  # the last group may be smaller
    mu, sigma = _lognormal([item])
    return Failures(
        start, start + np.exp(mu + sigma * rng.standard_normal(n)), size, np.full(n, index)
    )


def _lognormal(classes: Sequence[FailureClass]) -> tuple[Floats, Floats]:
    """Mean and deviation of the logarithm of repair times, by class."""
    variance = np.log1p(np.array([item.repair_cv for item in classes]) ** 2)
    return np.log([item.repair_h for item in classes]) - variance / 2, np.sqrt(variance)


def mean_by_hour(start: Floats, end: Floats, weight: Floats, hours: int) -> Floats:
    """Time-average of the number of things under way in each hour from 0 on, exactly, without
    sorting anything.

    Args:
        start: when each began, in hours.
        end: when it was over.
        weight: what each counts.
        hours: how many hours.
    """
    s, e = np.clip(start, 0, hours), np.clip(end, 0, hours)
    first, last = s.astype(np.int64), e.astype(np.int64)
    # Whole from the hour in which it begins, less what had passed of that hour, and of the last
    # hour what had.
    change = _binned(first, weight, hours) - _binned(last, weight, hours)
    edges = _binned(last, weight * (e - last), hours) - _binned(first, weight * (s - first), hours)
    mean: Floats = np.cumsum(change)[:hours] + edges[:hours]
    return mean


def count_by_hour(start: Floats, end: Floats, weight: Floats, hours: int) -> Floats:
    """How many are under way at the beginning of each hour from 0 on."""
    first = np.ceil(np.clip(start, 0, hours)).astype(np.int64)
    last = np.ceil(np.clip(end, 0, hours)).astype(np.int64)
    count: Floats = np.cumsum(_binned(first, weight, hours) - _binned(last, weight, hours))[:hours]
    return count


def _binned(hour: npt.NDArray[np.int64], weight: Floats, hours: int) -> Floats:
    found: Floats = np.bincount(hour, weights=weight, minlength=hours + 1).astype(
        np.float64, copy=False
    )
    return found
