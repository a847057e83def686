"""Failures of a pool of nodes as intervals: drawn all at once, added up by sorting. Cost grows with failures, not with nodes x hours."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from harness.fleet.reading import Reader
from harness.fleet.records import Floats

HOURS_PER_YEAR: Final = 8766.0
"""365.25 days."""

WARM_UP: Final = 12.0
"""Mean repairs before the first hour, so that a simulation starts with as many nodes down as it will have."""


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
            "title": self.title, "per_gpu_h": self.per_gpu_h, "group_nodes": self.group_nodes, "per_group_year": self.per_group_year,
            "repair_h": self.repair_h, "repair_cv": self.repair_cv, "source": self.source, "date": self.date,
        }  # fmt: skip


@cache
def failure_classes() -> tuple[FailureClass, ...]:
    """The published and assumed ways to fail."""
    reader = Reader("failures.yaml")
    text = (resources.files("harness.fleet") / "data" / "failures.yaml").read_text(encoding="utf-8")
    found = tuple(_read(reader, key, raw) for key, raw in reader.top(text).items())
    reader.finish()
    return found


def _read(reader: Reader, key: str, raw: Mapping[str, Any]) -> FailureClass:
    group = raw.get("unit") == "group"
    if raw.get("unit") not in {"node", "group"}:
        reader.fault(f"{key}.unit", "must be node or group")
    reader.known(key, raw, ("title", "unit", "nodes" if group else "gpu_hours", "events", "repair_h", "repair_cv", "source", "date"))
    events = reader.number(key, raw, "events")
    return FailureClass(
        key=key,
        title=reader.text(key, raw, "title", required=True) or key,
        per_gpu_h=0.0 if group else events / reader.number(key, raw, "gpu_hours"),
        group_nodes=int(reader.number(key, raw, "nodes")) if group else 1,
        per_group_year=events if group else 0.0,
        repair_h=reader.number(key, raw, "repair_h"),
        repair_cv=reader.number(key, raw, "repair_cv", inclusive=True),
        source=reader.text(key, raw, "source", required=True) or "",
        date=reader.date(key, raw, "date", required=True) or "",
    )


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


def draw_failures(classes: Sequence[FailureClass], nodes: int, gpus_per_node: int, hours: float, rng: np.random.Generator) -> Failures:
    """Failures of a pool over so many hours and the warm-up before them.

    A node that is down does not fail again until it is back. Groups may overlap with nodes that are down already; what is counted twice
    by that is the product of two small shares.
    """
    starts, ends, sizes, kinds, owners = [], [], [], [], []
    warm = WARM_UP * max(item.repair_h for item in classes)
    for index, item in enumerate(classes):
        if item.group_nodes == 1:
            units, rate = nodes, item.per_gpu_h * gpus_per_node
        else:
            units, rate = math.ceil(nodes / item.group_nodes), item.per_group_year / HOURS_PER_YEAR
        n = int(rng.poisson(units * rate * (hours + warm)))
        begin = rng.uniform(-warm, hours, n)
        unit = rng.integers(0, units, n)
        size = np.full(n, float(item.group_nodes))
        if item.group_nodes > 1:
            size = np.minimum(size, nodes - unit * item.group_nodes)  # the last group may be smaller
        starts.append(begin)
        ends.append(begin + _times(item, n, rng))
        sizes.append(size)
        kinds.append(np.full(n, index))
        owners.append(unit if item.group_nodes == 1 else np.full(n, -1))
    start, end, size, kind, owner = (np.concatenate(part) for part in (starts, ends, sizes, kinds, owners))
    kept = _up_when_they_fail(start, end, owner)
    return Failures(start[kept], end[kept], size[kept], kind[kept].astype(np.int64))


def _times(item: FailureClass, n: int, rng: np.random.Generator) -> Floats:
    if item.repair_cv == 0:
        return np.full(n, item.repair_h)
    variance = math.log(1 + item.repair_cv**2)
    return rng.lognormal(math.log(item.repair_h) - variance / 2, math.sqrt(variance), n)


def _up_when_they_fail(start: Floats, end: Floats, owner: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which events hit a node that was up."""
    kept = np.ones(len(start), dtype=np.bool_)
    single = np.flatnonzero(owner >= 0)  # groups have no one owner
    # One key for both, sorted once: starts lie closer together than owners.
    width = float(np.ptp(start)) + 1.0 if len(start) else 1.0
    order = single[np.argsort(owner[single] * width + (start[single] - start.min()))] if len(single) else single
    while True:
        alive = order[kept[order]]
        again = (owner[alive[1:]] == owner[alive[:-1]]) & (start[alive[1:]] < end[alive[:-1]])
        # Of a chain only the second falls now: what it would have covered may be up again for the third.
        again[1:] &= ~again[:-1]
        if not again.any():
            return kept
        kept[alive[1:][again]] = False


def mean_by_hour(start: Floats, end: Floats, weight: Floats, hours: int) -> Floats:
    """Time-average of the number of things under way in each hour from 0 on, exactly, without sorting anything.

    Args:
        start: when each began, in hours.
        end: when it was over.
        weight: what each counts.
        hours: how many hours.
    """
    s, e = np.clip(start, 0, hours), np.clip(end, 0, hours)
    first, last = s.astype(np.int64), e.astype(np.int64)
    # Whole from the hour in which it begins, less what had passed of that hour, and of the last hour what had.
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
    found: Floats = np.bincount(hour, weights=weight, minlength=hours + 1).astype(np.float64, copy=False)
    return found
