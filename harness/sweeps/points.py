"""The points of a sweep's folder as a table: one row per setting of the varied keys, with the
metrics of its runs and their 95% intervals.

Metrics come from summary.json of each run. Runs of one setting (repeats) are combined; what no run
has is absent, never 0.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

import pyarrow as pa

from harness.artifacts.run_result import RunResult, load_result, number
from harness.artifacts.run_summary import BoundaryEnergy, Figure, Rung
from harness.artifacts.sweep.capacity import CAPACITY_FILE, CapacityFile, read_capacity
from harness.artifacts.sweep.index import Point, PointState, SweepIndex, Value, read_sweep
from harness.core.errors import ArtifactError
from harness.core.metrics import Better
from harness.core.records import Basis, Status
from harness.reduce.statistics.student_t import t_quantile

CONFIDENCE: Final = 0.95
_MEASURED: Final = (PointState.DONE, PointState.PARTIAL)


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric of a setting with its 95% interval.

    Attributes:
        value: of one run; of repeats the geometric mean, for shares the arithmetic mean.
        low: lower end of the interval, `high` its upper end; None if unknown. It includes the
            spread between repeats, but of a single run only the noise within it.
        boundary: what the value covers.
        sensors: device id -> 95% bound of the value's relative error from that device's power
            sensor, common to all runs on the device; not in the interval.
    """

    value: float
    low: float | None = None
    high: float | None = None
    basis: Basis = Basis.MEASURED
    boundary: str | None = None
    sensors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Column:
    """A metric of the table; `read` gives that of one run. `key` is the column's name in files."""

    key: str
    title: str
    unit: str
    better: Better
    read: Callable[[RunResult], Measured | None]


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of the varied keys.

    Attributes:
        values: of the varied keys.
        points: its entries in sweep.json, one per repeat.
        runs: those that the metrics are of: finished ones, without the invalid if any is not.
        state: the best of its points' states.
        status: the worst verdict of `runs`; None without one.
        why: why it, or one of its repeats, was not measured.
        metrics: by column; absent ones have no key.
    """

    values: Mapping[str, Value]
    points: tuple[Point, ...]
    runs: tuple[RunResult, ...]
    state: PointState
    status: Status | None
    why: str | None
    metrics: Mapping[str, Measured]

    @property
    def usable(self) -> bool:
        """Whether its metrics support a claim: measured to the end and not invalid."""
        return self.state is PointState.DONE and self.status not in {None, Status.INVALID}

    @property
    def name(self) -> str:
        """Its values, in words."""
        short = short_names(self.values)
        return ", ".join(f"{short[key]} {shown(value)}" for key, value in self.values.items())


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep's folder: `keys` are the varied ones, settings are in the order of their values.
    `capacity` is that of a search with a finished probe, else None.
    """

    path: Path
    index: SweepIndex
    keys: tuple[str, ...]
    settings: tuple[Setting, ...]
    capacity: CapacityFile | None = None

    @property
    def usable(self) -> tuple[Setting, ...]:
        return tuple(one for one in self.settings if one.usable)

    @property
    def varied(self) -> tuple[str, ...]:
        """Keys with several values."""
        return tuple(
            key for key in self.keys if len({shown(one.values[key]) for one in self.settings}) > 1
        )


def load_sweep(folder: Path) -> Sweep:
    """Read sweep.json and the summaries of its runs.

    Raises:
        ArtifactError: not a sweep, or damaged.
    """
    index = read_sweep(folder)
    keys = tuple(axis.key for axis in index.axes) or tuple(
        dict.fromkeys(key for point in index.points for key in point.values)
    )
    groups: dict[tuple[Value, ...], list[Point]] = {}
    for point in index.points:
        groups.setdefault(tuple(point.values.get(key) for key in keys), []).append(point)
    order = [list(axis.values) for axis in index.axes] or [[]] * len(keys)
    ranked = sorted(groups, key=lambda values: [*map(_rank, values, order)])
    settings = (
        _setting(folder, dict(zip(keys, values, strict=True)), groups[values]) for values in ranked
    )
    capacity = read_capacity(folder) if (folder / CAPACITY_FILE).exists() else None
    return Sweep(folder, index, keys, tuple(settings), capacity)


def _rank(value: Value, listed: Sequence[Value]) -> tuple[float, float, str]:
    """Sorts numbers by size, other values in the order given."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 0, value, ""
    return 1, listed.index(value) if value in listed else len(listed), str(value)


def shown(value: Value) -> str:
    """A value as YAML writes it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Last parts of dotted keys, as many as distinguish them."""
    listed = list(keys)
    found: dict[str, str] = {}
    for key in listed:
        parts = key.split(".")
        tails = (".".join(parts[-n:]) for n in range(1, len(parts) + 1))
        found[key] = next(
            (t for t in tails if sum(one == t or one.endswith(f".{t}") for one in listed) == 1), key
        )
    return found


def _setting(folder: Path, values: Mapping[str, Value], points: Sequence[Point]) -> Setting:
    runs: list[tuple[Point, RunResult]] = []
    whys = [point.error for point in points if point.error]
    for point in points:
        if point.run is None or point.state not in _MEASURED:
            continue
        try:
            runs.append((point, load_result(folder / point.run)))
        except ArtifactError as error:
            whys.append(error.what)
    states = {point.state for point, _ in runs} or {
        point.state for point in points if point.state not in _MEASURED
    }
    state = next((one for one in _BEST_FIRST if one in states), PointState.FAILED)
    kept = [run for point, run in runs if point.state is state]
    good = [run for run in kept if run.status is not Status.INVALID] or kept
    if len(good) < len(kept):
        whys.append(f"{len(kept) - len(good)} of {len(kept)} repeats are invalid and left out")
    return Setting(
        values=values,
        points=tuple(points),
        runs=tuple(good),
        state=state,
        status=max((run.status for run in good), key=list(Status).index, default=None),
        why="; ".join(dict.fromkeys(whys)) or None,
        metrics=dict(_metrics(good)),
    )


_BEST_FIRST: Final = (
    PointState.DONE,
    PointState.PARTIAL,
    PointState.FAILED,
    PointState.SKIPPED,
    PointState.PLANNED,
)


def _metrics(runs: Sequence[RunResult]) -> Iterator[tuple[str, Measured]]:
    for column in COLUMNS:
        read = [column.read(run) for run in runs]
        known = [one for one in read if one is not None]
        if known and len(known) == len(read) and (found := combine(known, column.unit == "1")):
            yield column.key, found


def combine(repeats: Sequence[Measured], share: bool = False) -> Measured | None:
    """The mean of independent runs of one setting.

    The interval is Student's t over the runs, on logarithms (shares: as they are, within 0 to 1),
    and never narrower than what the runs' own intervals give, which two runs that agree by chance
    would be. None for runs at different power boundaries.

    Args:
        repeats: one per run, at least one.
        share: of requests; its mean is arithmetic.
    """
    if len({one.boundary for one in repeats}) > 1:
        return None
    if len(repeats) == 1:
        return repeats[0]
    plain = share or min(one.value for one in repeats) <= 0
    into, out = (_same, _same) if plain else (math.log, math.exp)
    values, n = [into(one.value) for one in repeats], len(repeats)
    middle = fmean(values)
    half = t_quantile(CONFIDENCE, n - 1) * stdev(values) / math.sqrt(n)
    own = [_half(one, into) for one in repeats]
    if all(one is not None for one in own):
        half = max(half, math.hypot(*(one or 0.0 for one in own)) / n)
    low, high = out(middle - half), out(middle + half)
    devices = dict.fromkeys(device for one in repeats for device in one.sensors)
    return Measured(
        out(middle),
        max(0.0, low) if share else low,
        min(1.0, high) if share else high,
        Basis.MODELLED if any(one.basis is Basis.MODELLED for one in repeats) else Basis.MEASURED,
        repeats[0].boundary,
        {device: fmean(one.sensors.get(device, 0.0) for one in repeats) for device in devices},
    )


def _same(value: float) -> float:
    return value


def _half(one: Measured, into: Callable[[float], float]) -> float | None:
    """Half the width of an interval, on logarithms if `into` is that; None if it has none."""
    if one.low is None or one.high is None or (into is math.log and one.low <= 0):
        return None
    return (into(one.high) - into(one.low)) / 2


# --- metrics of one run ---


def _figure(key: str) -> Callable[[RunResult], Measured | None]:
    def read(run: RunResult) -> Measured | None:
        return _measured(found := run.figure(key), _sensors(run, found))

    return read


def _measured(found: Figure, sensors: Mapping[str, float] | None = None) -> Measured | None:
    if (value := number(found.value)) is None:
        return None
    low, high = number(found.ci_low), number(found.ci_high)
    return Measured(value, low, high, found.basis, found.boundary, sensors or {})


def _sensors(run: RunResult, found: Figure) -> dict[str, float]:
    """Error of a value at a power boundary by device: share of the energy x error of its gain."""
    if not found.systematic_ratio or found.boundary is None:
        return {}
    energy = run.summary.energy.boundaries.get(found.boundary, BoundaryEnergy(boundary=""))
    joules = {one.device_id: number(one.joules) or 0.0 for one in energy.devices}
    total = math.fsum(joules.values())
    if total <= 0:
        return {found.boundary: float(found.systematic_ratio)}
    return {
        one.device_id: joules[one.device_id] / total * float(one.systematic_ratio)
        for one in energy.devices
        if one.systematic_ratio
    }


def _percentile(key: str, quantile: str) -> Callable[[RunResult], Measured | None]:
    def read(run: RunResult) -> Measured | None:
        value = run.statistic(key, quantile).value
        if value is None:
            return None
        low, high = run.summary.latency[key].ci.get(quantile) or (None, None)
        return Measured(float(value), number(low), number(high), boundary="client")

    return read


def live_sessions(run: RunResult) -> Measured | None:
    """Live sessions of the headline stage: its concurrency in a closed loop over sessions, which is
    exact; else the mean number of requests in flight.
    """
    names = [stage.name for stage in run.summary.stages]
    load = run.profile.traffic.load
    if run.headline_stage in names and len(load) == len(names):
        stage = load[names.index(run.headline_stage)]
        if stage.kind == "concurrency" and stage.concurrency and stage.over != "requests":
            exact = float(stage.concurrency)
            return Measured(exact, exact, exact, boundary="client")
    return _measured(run.figure("requests_in_flight"))


def gpu_count(run: RunResult) -> int | None:
    """GPUs of the deployment; None on CPU or if unknown."""
    return len(run.gpus) or run.profile.server.gpu_count or None


def _per_gpu(run: RunResult) -> Measured | None:
    sessions, gpus = live_sessions(run), gpu_count(run)
    return None if sessions is None or gpus is None else _divided(sessions, float(gpus))


def _divided(one: Measured, by: float) -> Measured:
    low, high = (None if end is None else end / by for end in (one.low, one.high))
    return Measured(one.value / by, low, high, one.basis, one.boundary, one.sensors)


def outermost(run: RunResult) -> Rung | None:
    """The outermost power boundary of the window with known power, measured or modeled."""
    known = [rung for rung in run.summary.energy.ladder if number(rung.watts)]
    return known[-1] if known else None


def _per_mw(run: RunResult) -> Measured | None:
    """Live sessions per megawatt at the outermost boundary. Its interval is that of the measured
    power; the range of modeled factors is common to all points.
    """
    sessions, rung = live_sessions(run), outermost(run)
    power = run.figure("power_w")
    if sessions is None or rung is None or not sessions.value or not power.value:
        return None
    value = sessions.value / (float(rung.watts or 0) / 1e6)
    own = _log_half(sessions), _log_half(_measured(power))
    half = None if None in own else math.hypot(*(one or 0.0 for one in own))
    low, high = (None, None) if half is None else (value * math.exp(-half), value * math.exp(half))
    return Measured(value, low, high, rung.basis, rung.boundary, _sensors(run, power))


def _log_half(one: Measured | None) -> float | None:
    return None if one is None else _half(one, math.log)


COLUMNS: Final = (
    Column("output_tok_s", "Output tok/s", "tok/s", "higher", _figure("output_tok_s")),
    Column(
        "output_tok_s_per_gpu",
        "Output tok/s/GPU",
        "tok/s/GPU",
        "higher",
        _figure("output_tok_s_per_gpu"),
    ),
    Column(
        "interactivity_tok_s_user",
        "Tok/s per user",
        "tok/s",
        "higher",
        _figure("interactivity_tok_s_user"),
    ),
    Column("ttft_p50_s", "TTFT p50", "s", "lower", _percentile("ttft_s", "p50")),
    Column("ttft_p99_s", "TTFT p99", "s", "lower", _percentile("ttft_s", "p99")),
    Column("tpot_p99_s", "TPOT p99", "s", "lower", _percentile("tpot_s", "p99")),
    Column("slo_met_ratio", "SLOs met", "1", "higher", _figure("slo_met_ratio")),
    Column("power_w", "Power W", "W", "lower", _figure("power_w")),
    Column("output_tok_per_j", "Output tok/J", "tok/J", "higher", _figure("output_tok_per_j")),
    Column("usd_per_mtok", "USD per Mtok", "USD/Mtok", "lower", _figure("usd_per_mtok")),
    Column("live_sessions", "Live sessions", "", "neither", live_sessions),
    Column("sessions_per_gpu", "Sessions per GPU", "1/GPU", "higher", _per_gpu),
    Column("sessions_per_mw", "Sessions per MW", "1/MW", "higher", _per_mw),
)
"""Metrics of the table, with their column in points.csv."""

COLUMN: Final[Mapping[str, Column]] = {column.key: column for column in COLUMNS}


# --- table ---


def points_table(sweep: Sweep) -> pa.Table:
    """points.csv and points.parquet: one row per setting.

    Columns: the varied keys; `points` and `runs` (ids and folders, joined by a space), `repeats`
    (finished runs), `state`, `verdict`, `why`; each metric with `_low` and `_high`, the ends of its
    95% interval; for metrics at a power boundary also `_boundary` and `_basis`. Null is absent.
    """
    settings = sweep.settings
    columns: dict[str, pa.Array] = {key: _column(key, settings) for key in sweep.keys}
    texts: Mapping[str, Callable[[Setting], str | None]] = {
        "points": lambda one: " ".join(str(point.id) for point in one.points),
        "runs": lambda one: " ".join(point.run for point in one.points if point.run),
        "state": lambda one: one.state.value,
        "verdict": lambda one: None if one.status is None else one.status.value,
        "why": lambda one: one.why,
    }
    for name, text in texts.items():
        columns[name] = pa.array([text(one) for one in settings], pa.string())
    columns["repeats"] = pa.array([len(one.runs) for one in settings], pa.int64())
    for column in COLUMNS:
        found = [one.metrics.get(column.key) for one in settings]
        for suffix, attribute in (("", "value"), ("_low", "low"), ("_high", "high")):
            ends = [getattr(one, attribute, None) for one in found]
            columns[column.key + suffix] = pa.array(ends, pa.float64())
        if column.key in AT_POWER:
            for name in ("boundary", "basis"):
                words = [None if one is None else getattr(one, name) for one in found]
                columns[f"{column.key}_{name}"] = pa.array(words, pa.string())
    return pa.table(columns)


AT_POWER: Final = ("power_w", "output_tok_per_j", "sessions_per_mw")
"""Columns at a power boundary."""


def _column(key: str, settings: Sequence[Setting]) -> pa.Array:
    """Values of a varied key: numbers or truth values if all are, else text."""
    values: list[Any] = [one.values[key] for one in settings]
    kinds = {bool if isinstance(v, bool) else type(v) for v in values if v is not None}
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds and kinds <= {int, float}:
        return pa.array(values, pa.int64() if kinds == {int} else pa.float64())
    return pa.array([None if v is None else shown(v) for v in values], pa.string())
