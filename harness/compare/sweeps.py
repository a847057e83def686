"""Compares two sweeps: settings pair by equal values of the varied keys, each pair like two runs,
and frontiers by the area below them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from harness.artifacts.run_result import RunResult
from harness.artifacts.sweep.index import Value, is_sweep
from harness.compare.capacities import CapacityRatio, capacity_gates, capacity_ratios
from harness.compare.comparability import (
    Mismatch,
    check_keys,
    identities,
    output_lengths,
)
from harness.compare.gates import GateResult
from harness.compare.groups import Member, RunSet, Treatment, treatments
from harness.compare.ratios import BOARD_SENSOR_ERROR, CLAIMING, HEADLINE, MIN_REPEATS, Row, rows
from harness.core.errors import ArtifactError, NotComparableError, ProfileError
from harness.core.records import Status
from harness.profile.thresholds import Threshold
from harness.sweeps.frontier import (
    PAIRS,
    SEED,
    Frontier,
    Numbers,
    draw,
    frontiers,
    hypervolume,
)
from harness.sweeps.points import COLUMN, Setting, Sweep, load_sweep

_LABELS: Final = ("A", "B")


@dataclass(frozen=True, slots=True)
class SweepSide:
    """A sweep: A is the baseline."""

    label: str
    name: str
    path: str
    frontiers: tuple[Frontier, ...]

    @property
    def title(self) -> str:
        return f"{self.label}: {self.name}"


@dataclass(frozen=True, slots=True)
class PointPair:
    """One setting of both sweeps.

    Attributes:
        name: the values, in words.
        metrics: the headline metrics, B compared with A.
    """

    name: str
    values: Mapping[str, Value]
    metrics: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class FrontierRatio:
    """The areas below the frontiers of the paired points, B over A.

    A metric of which less is better enters as its reciprocal, so the area starts at 0 in both.

    Attributes:
        y, x: columns of points.csv, as in frontier.json.
        ratio: of the areas by the measured values; None if there is no such frontier.
        low: lower end of its 95% interval, from 2,000 draws of all metrics.
        points: pairs with both metrics.
    """

    y: str
    x: str
    ratio: float | None
    low: float | None
    high: float | None
    points: int
    note: str | None = None


@dataclass(frozen=True, slots=True)
class SweepComparison:
    """Two sweeps.

    Attributes:
        treatments: properties in which the sweeps may differ on purpose; the varied keys do not
            count.
        only: points that only one side has, or only one has with a result, by label.
        capacities: of two searches, by tier.
        gates: on capacities.
    """

    sides: tuple[SweepSide, SweepSide]
    treatments: tuple[Treatment, ...]
    allowed_mismatches: tuple[Mismatch, ...]
    pairs: tuple[PointPair, ...]
    areas: tuple[FrontierRatio, ...]
    only: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]
    capacities: tuple[CapacityRatio, ...] = ()
    gates: tuple[GateResult, ...] = ()


def are_sweeps(paths: Sequence[Path]) -> bool:
    """Whether all of some paths are sweeps.

    Raises:
        ProfileError: some are and some are not, or there are not exactly two.
    """
    found = [is_sweep(path) for path in paths]
    if not any(found):
        return False
    if not all(found) or len(paths) != 2:
        raise ProfileError(
            f"{sum(found)} of {len(paths)} arguments are sweeps",
            cause="a sweep is compared with one other sweep, point by point",
            next_step="harness compare SWEEP SWEEP, or name runs in the sweep's folder",
        )
    return True


def compare_sweeps(
    paths: Sequence[Path],
    allow_mismatch: Sequence[str] = (),
    *,
    gates: Sequence[Threshold] = (),
    sensor_error: float = BOARD_SENSOR_ERROR,
) -> SweepComparison:
    """Compare a sweep with the first one.

    Args:
        paths: folders of two sweeps.
        allow_mismatch: identity keys that may differ within a pair.
        gates: on the capacities of the second, which are then of searches.
        sensor_error: bound of a GPU sensor's gain error, relative.

    Raises:
        ProfileError: an unknown key, one sweep twice, or a gate on no capacity of both.
        ArtifactError: not a sweep, or one without a result.
        NotComparableError: no setting is in both, or an identity key of a pair differs.
    """
    check_keys(allow_mismatch)
    sweeps = [load_sweep(path) for path in paths]
    if sweeps[0].path.resolve() == sweeps[1].path.resolve():
        raise ProfileError(f"{paths[0]} is given twice", next_step="name two sweeps")
    for sweep in sweeps:
        if not sweep.usable:
            raise ArtifactError(
                f"{sweep.path} has no point with a result",
                next_step=f"harness report {sweep.path} lists the reasons",
            )
    capacities = capacity_ratios(*sweeps)
    paired = _paired(*sweeps)
    sides = [{label: one.runs for label, one in zip(_LABELS, pair, strict=True)} for pair in paired]
    allowed = [
        mismatch
        for side in sides
        for mismatch in (
            *identities([run for runs in side.values() for run in runs], allow_mismatch),
            *output_lengths(side, allow_mismatch),
        )
    ]
    return SweepComparison(
        sides=_sides(sweeps),
        treatments=_treatments(sweeps, paired),
        allowed_mismatches=tuple(dict.fromkeys(allowed)),
        pairs=tuple(
            PointPair(
                pair[0].name,
                pair[0].values,
                tuple(rows(side, sensor_error, only=HEADLINE, stages=len(paired))),
            )
            for pair, side in zip(paired, sides, strict=True)
        ),
        areas=tuple(frontier_ratio(y, x, paired) for y, x in _axes(sweeps)),
        only=_only(sweeps, paired),
        notes=tuple(_notes(sweeps, sides)),
        capacities=capacities,
        gates=capacity_gates(gates, capacities, sweeps[1]),
    )


def _paired(a: Sweep, b: Sweep) -> list[tuple[Setting, Setting]]:
    theirs = {frozenset(one.values.items()): one for one in b.usable}
    paired = [
        (one, theirs[key]) for one in a.usable if (key := frozenset(one.values.items())) in theirs
    ]
    if not paired:
        raise NotComparableError(
            f"no setting is measured in both {a.path} and {b.path}",
            cause=f"the first varies {', '.join(a.keys)}; the second {', '.join(b.keys)}",
            next_step="sweep the same values, or compare single runs of the folders",
        )
    return paired


def _sides(sweeps: Sequence[Sweep]) -> tuple[SweepSide, SweepSide]:
    first, second = (
        SweepSide(label, sweep.path.resolve().name, str(sweep.path), frontiers(sweep))
        for label, sweep in zip(_LABELS, sweeps, strict=True)
    )
    return first, second


def _treatments(
    sweeps: Sequence[Sweep], paired: Sequence[tuple[Setting, Setting]]
) -> tuple[Treatment, ...]:
    """Treatments of the paired runs. What the sweeps vary has many values on both sides."""
    members = {
        label: [
            Member(run, RunSet(sweep.path, sweep.path.name, (), several=True))
            for pair in paired
            for run in pair[position].runs
        ]
        for position, (label, sweep) in enumerate(zip(_LABELS, sweeps, strict=True))
    }
    return treatments(members)


def _axes(sweeps: Sequence[Sweep]) -> list[tuple[str, str]]:
    """Axes of the frontiers of both sweeps."""
    found = [{(one.y, one.x) for one in frontiers(sweep)} for sweep in sweeps]
    return [pair for pair in PAIRS if all(pair in axes for axes in found)]


def frontier_ratio(y: str, x: str, paired: Sequence[tuple[Setting, Setting]]) -> FrontierRatio:
    """The ratio of the areas below two frontiers.

    Both ends of its interval are of the basic bootstrap on logarithms: the area below the best of
    several noisy values is too large, and by this method that error has no effect on the ratio. The
    noise of two metrics of a point is drawn independently; where both are of the same noise, as of
    throughput and speed, the interval is too narrow by a factor of sqrt(2) at most.
    """
    having = [pair for pair in paired if all(key in one.metrics for one in pair for key in (y, x))]
    note = _why_none(y, having)
    if note is not None:
        return FrontierRatio(y, x, None, None, None, len(having), note)
    measured = [[pair[n].metrics for pair in having] for n in (0, 1)]
    both = {key: [one[key] for side in measured for one in side] for key in (y, x)}
    values = {key: np.array([[one.value for one in both[key]]]) for key in (y, x)}
    ratio = float(_area_ratio(values[y], values[x], y, x)[0])
    drawn = _area_ratio(draw(both[y], y), draw(both[x], x), y, x)
    low, high = (float(end) for end in np.quantile(drawn, [0.025, 0.975]))
    if all(one.low is None for key in (y, x) for one in both[key]):
        return FrontierRatio(y, x, ratio, None, None, len(having))
    return FrontierRatio(y, x, ratio, ratio**2 / high, ratio**2 / low, len(having))


def _why_none(y: str, having: Sequence[tuple[Setting, Setting]]) -> str | None:
    if len(having) < 2:
        return f"{len(having)} pair{'' if len(having) == 1 else 's'} of points with both metrics"
    boundaries = sorted({one.metrics[y].boundary or "" for pair in having for one in pair})
    if len(boundaries) > 1:
        return f"{COLUMN[y].title} is at different boundaries: {', '.join(boundaries)}"
    return None


def _area_ratio(ys: Numbers, xs: Numbers, y: str, x: str) -> Numbers:
    """Area of the second half of the columns over that of the first half, by row."""
    ys, xs = (
        1 / values if COLUMN[key].better == "lower" else values
        for values, key in ((ys, y), (xs, x))
    )
    half = ys.shape[-1] // 2
    ratio: Numbers = hypervolume(ys[:, half:], xs[:, half:]) / hypervolume(
        ys[:, :half], xs[:, :half]
    )
    return ratio


def _only(
    sweeps: Sequence[Sweep], paired: Sequence[tuple[Setting, Setting]]
) -> dict[str, tuple[str, ...]]:
    """Usable points without a partner, by label; sides without any are left out."""
    names = {frozenset(pair[0].values.items()) for pair in paired}
    found = {
        label: tuple(one.name for one in sweep.usable if frozenset(one.values.items()) not in names)
        for label, sweep in zip(_LABELS, sweeps, strict=True)
    }
    return {label: listed for label, listed in found.items() if listed}


def _notes(
    sweeps: Sequence[Sweep], sides: Sequence[Mapping[str, Sequence[RunResult]]]
) -> Iterator[str]:
    if any(len(runs) < MIN_REPEATS for side in sides for runs in side.values()):
        yield (
            f"Points with fewer than {MIN_REPEATS} runs per side have ratios without a verdict:"
            " intervals of single runs show how steady a run was, not whether runs differ."
        )
    if len(sides) > 1:
        yield (
            "Better and worse are significant after correction for all headline metrics of all"
            f" {len(sides)} pairs of points, at 5%."
        )
    yield (
        "Areas below frontiers are of the paired points, from 0 in both metrics; a metric of which"
        f" less is better enters as its reciprocal. Intervals: 2,000 draws (seed {SEED})."
    )
    for label, sweep in zip(_LABELS, sweeps, strict=True):
        left = [one.name for one in sweep.settings if one.status is Status.INVALID]
        if left:
            yield f"Invalid points of {label} are left out: {'; '.join(left)}."
    silent = sorted(
        {str(run.status) for side in sides for runs in side.values() for run in runs} - CLAIMING
    )
    if silent:
        yield f"Some runs are {', '.join(silent)}: no claim is made from them."


def ratio_text(one: FrontierRatio | CapacityRatio) -> str:
    """The ratio with its interval."""
    if one.ratio is None:
        return f"— ({one.note})"
    if one.low is None or one.high is None:
        return f"{one.ratio:.3f}"
    return f"{one.ratio:.3f} [{one.low:.3f}, {one.high:.3f}]"
