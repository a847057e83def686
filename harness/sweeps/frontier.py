"""Pareto frontiers of a sweep, with each setting's probability of being on them.

A setting is on the frontier of two metrics if no other dominates it: is at least as good in both
and better in one. Every metric is drawn from a lognormal distribution with its interval, 2,000
times; a setting's probability is the share of draws in which it is not dominated. Errors of power
sensors are common to all runs on a GPU, so they are drawn once per draw.

Where settings are close together, every one of them has a small probability, also those that are
truly on the frontier, since the best of many noisy values are too good. So a setting counts as
dominated only if another one also dominates it significantly (5%, corrected by Bonferroni for the
number of others). `benchmarks/bench_sweeps.py` measures how often that is right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from harness.artifacts.sweep.index import Value
from harness.core.metrics import Better
from harness.core.records import Basis
from harness.sweeps.points import AT_POWER, COLUMN, Measured, Setting, Sweep

DRAWS: Final = 2000
SEED: Final = 20_260
ON_FRONTIER: Final = 0.5
"""Smallest probability of a setting on the frontier."""
POSSIBLE: Final = 0.05
"""Smallest probability or p-value of a setting that cannot be distinguished from the frontier."""
Z95: Final = 1.959964

Numbers: TypeAlias = npt.NDArray[np.float64]
Place: TypeAlias = Literal["frontier", "indistinguishable", "dominated"]

PAIRS: Final = (
    ("output_tok_s_per_gpu", "interactivity_tok_s_user"),
    ("output_tok_s", "interactivity_tok_s_user"),
    ("output_tok_per_j", "ttft_p99_s"),
    ("usd_per_mtok", "interactivity_tok_s_user"),
    ("sessions_per_gpu", "slo_met_ratio"),
    ("sessions_per_mw", "slo_met_ratio"),
)
"""Metrics of each frontier: of the operator (y), then of the user (x). The total throughput is that
of sweeps without GPUs.
"""


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """A setting with both metrics.

    Attributes:
        points: its ids in sweep.json.
        probability: of being on the frontier.
        p_value: of its being dominated by none, against the setting that most likely dominates it.
    """

    points: tuple[int, ...]
    values: Mapping[str, Value]
    x: float
    y: float
    probability: float
    p_value: float
    place: Place


@dataclass(frozen=True, slots=True)
class Frontier:
    """One pair of metrics, by column of points.csv.

    Attributes:
        points: settings with both metrics, in the order of the sweep.
        absent: why there is no frontier; None if there is one.
        exact: metrics for which no setting has an interval; the probabilities ignore their error.
        boundary: power boundary of y; None for other metrics.
        basis: of y; `modelled` if it is of any point.
    """

    y: str
    x: str
    y_better: Better
    x_better: Better
    points: tuple[FrontierPoint, ...]
    absent: str | None = None
    exact: tuple[str, ...] = ()
    boundary: str | None = None
    basis: Basis = Basis.MEASURED

    @property
    def key(self) -> str:
        return f"{self.y}-{self.x}"


def frontiers(sweep: Sweep) -> tuple[Frontier, ...]:
    """The frontier of each pair, over the settings that support a claim."""
    has_gpus = any("output_tok_s_per_gpu" in one.metrics for one in sweep.usable)
    unused = "output_tok_s" if has_gpus else "output_tok_s_per_gpu"
    return tuple(_frontier(y, x, sweep.usable) for y, x in PAIRS if y != unused)


def _frontier(y: str, x: str, settings: Sequence[Setting]) -> Frontier:
    better = COLUMN[y].better, COLUMN[x].better
    having = [one for one in settings if y in one.metrics and x in one.metrics]
    if (why := _absent(y, x, settings, having)) is not None:
        return Frontier(y, x, *better, (), why)
    drawn = [signed(draw(_of(key, having), key), COLUMN[key].better) for key in (y, x)]
    shares = non_dominated(*drawn).mean(axis=0)
    chances = 1 - dominance(*(at_least_as_good(_of(key, having), key) for key in (y, x))).max(
        axis=0
    )
    points = [
        FrontierPoint(
            points=tuple(point.id for point in one.points),
            values=one.values,
            x=one.metrics[x].value,
            y=one.metrics[y].value,
            probability=round(float(share), 4),
            p_value=round(float(p_value), 4),
            place=place(float(share), float(p_value)),
        )
        for one, share, p_value in zip(
            having, shares, np.minimum(1, chances * (len(having) - 1)), strict=True
        )
    ]
    exact = [key for key in (y, x) if all(one.metrics[key].low is None for one in having)]
    return Frontier(y, x, *better, tuple(points), None, tuple(exact), *_where(y, having))


def _absent(y: str, x: str, settings: Sequence[Setting], having: Sequence[Setting]) -> str | None:
    for key in (y, x):
        if not any(key in one.metrics for one in settings):
            return f"no point has {COLUMN[key].title}"
    if len(having) < 2:
        return f"{len(having)} point{'' if len(having) == 1 else 's'} with both metrics"
    boundaries = sorted({one.metrics[y].boundary or "unknown" for one in having})
    if len(boundaries) > 1:
        return f"{COLUMN[y].title} is at different boundaries: {', '.join(boundaries)}"
    return None


def _where(y: str, having: Sequence[Setting]) -> tuple[str | None, Basis]:
    """Power boundary and basis of a metric."""
    found = _of(y, having)
    modelled = any(one.basis is Basis.MODELLED for one in found)
    basis = Basis.MODELLED if modelled else Basis.MEASURED
    return (found[0].boundary if y in AT_POWER else None), basis


def _of(key: str, settings: Sequence[Setting]) -> list[Measured]:
    return [one.metrics[key] for one in settings]


def place(probability: float, p_value: float) -> Place:
    """What a probability of being on the frontier, and the p-value of it, mean."""
    if probability >= ON_FRONTIER:
        return "frontier"
    return "indistinguishable" if max(probability, p_value) >= POSSIBLE else "dominated"


def signed(values: Numbers, better: Better) -> Numbers:
    """Values of which more is better."""
    return -values if better == "lower" else values


def non_dominated(y: Numbers, x: Numbers) -> npt.NDArray[np.bool_]:
    """Which points no other point dominates, in each row.

    Args:
        y: (rows, points), more is better. A point without a value (NaN) in either is not on the
            frontier and dominates none.
        x: the same shape, more is better.
    """
    missing = np.isnan(y) | np.isnan(x)
    y, x = (np.where(missing, -np.inf, one) for one in (y, x))
    order = np.lexsort((-y, -x), axis=-1)  # best x first; of equal x, best y first
    ys, xs = (np.take_along_axis(one, order, axis=-1) for one in (y, x))
    before = np.full_like(ys, -np.inf)
    before[:, 1:] = np.maximum.accumulate(ys, axis=-1)[:, :-1]
    on = ys > before
    for i in range(1, ys.shape[-1]):  # equals of a point on the frontier are on it too
        on[:, i] |= on[:, i - 1] & (ys[:, i] == ys[:, i - 1]) & (xs[:, i] == xs[:, i - 1])
    result = np.empty_like(on)
    np.put_along_axis(result, order, on, axis=-1)
    return result & ~missing


def at_least_as_good(measured: Sequence[Measured], key: str) -> Numbers:
    """Probability that the row's setting is at least as good as the column's in one metric."""
    from scipy.special import ndtr

    variance, sensors = _spread(measured) ** 2, _sensors(measured)
    gains = ((sensors[:, :, None] - sensors[:, None, :]) ** 2).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = signed(np.log([one.value for one in measured]), COLUMN[key].better)
        scaled = (logs[:, None] - logs[None]) / np.sqrt(variance[:, None] + variance[None] + gains)
    return np.where(np.isnan(scaled), 1.0, ndtr(scaled))  # 0 / 0: equal, without any error


def dominance(y: Numbers, x: Numbers) -> Numbers:
    """Probability that the row's setting dominates the column's, from `at_least_as_good` of two
    metrics.
    """
    equal = (y == 1) & (y.T == 1) & (x == 1) & (x.T == 1)
    return np.where(equal, 0.0, y * x)


def draw(measured: Sequence[Measured], key: str, draws: int = DRAWS) -> Numbers:
    """Draws of one metric, (draws, settings).

    Lognormal around the value, with the interval as its central 95%. A value without an interval
    has the widest relative one of the others. Shares stay at most 1. Values of 0 or less are exact.
    The result depends on metric and settings only.
    """
    rng = np.random.default_rng([SEED, *key.encode()])
    values = np.array([one.value for one in measured])
    noise = _spread(measured) * rng.standard_normal((draws, len(measured)))
    drawn = np.where(values > 0, values * np.exp(noise + _sensor_error(measured, draws)), values)
    return np.minimum(drawn, np.maximum(values, 1.0)) if COLUMN[key].unit == "1" else drawn


def _spread(measured: Sequence[Measured]) -> Numbers:
    """Standard deviations of the values' logarithms."""
    found = np.array([_sigma(one) for one in measured])
    known = found[~np.isnan(found)]
    return np.where(np.isnan(found), known.max() if len(known) else 0.0, found)


def _sigma(one: Measured) -> float:
    """Standard deviation of the value's logarithm; NaN if unknown."""
    if one.value <= 0 or one.low is None or one.high is None or one.high < one.value:
        return float("nan")
    if one.low > 0:
        return float(np.log(one.high / one.low) / (2 * Z95))
    return float(np.log(one.high / one.value) / Z95)


def _devices(measured: Sequence[Measured]) -> list[str]:
    return sorted({device for one in measured for device in one.sensors})


def _sensors(measured: Sequence[Measured]) -> Numbers:
    """Standard deviations of the values' logarithms from each power sensor, (devices, settings)."""
    rows = [
        [one.sensors.get(device, 0.0) / Z95 for one in measured] for device in _devices(measured)
    ]
    return np.array(rows).reshape(len(rows), len(measured))


def _sensor_error(measured: Sequence[Measured], draws: int) -> Numbers:
    """Logarithms of the errors of power sensors, (draws, settings): one number per device and draw,
    so that two sweeps on one GPU share it. For tokens per joule its sign is the opposite, which
    changes nothing, since the distribution is symmetric.
    """
    gains = [
        np.random.default_rng([SEED, *device.encode()]).standard_normal(draws)
        for device in _devices(measured)
    ]
    return np.array(gains).reshape(len(gains), draws).T @ _sensors(measured)


def hypervolume(y: Numbers, x: Numbers) -> Numbers:
    """Area between 0 and the frontier, per row, of values >= 0 of which more is better."""
    order = np.argsort(-x, axis=-1)
    xs, ys = (np.take_along_axis(one, order, axis=-1) for one in (x, y))
    height = np.maximum.accumulate(ys, axis=-1)
    width = xs - np.concatenate([xs[:, 1:], np.zeros_like(xs[:, :1])], axis=-1)
    area: Numbers = (height * width).sum(axis=-1)
    return area


@dataclass(frozen=True, slots=True)
class FrontierFile:
    """frontier.json.

    Attributes:
        draws: of every metric, with `seed`.
        on_frontier: smallest probability of a point on a frontier.
        possible: smallest probability or p-value of one that cannot be distinguished from it.
    """

    sweep_id: str
    frontiers: tuple[Frontier, ...]
    draws: int = DRAWS
    seed: int = SEED
    on_frontier: float = ON_FRONTIER
    possible: float = POSSIBLE
    schema_version: int = 1


def frontier_file(sweep: Sweep) -> FrontierFile:
    """The frontiers of a sweep with how they were made."""
    return FrontierFile(sweep.index.sweep_id, frontiers(sweep))
