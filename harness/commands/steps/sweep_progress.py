"""Progress of a sweep in the terminal: a line for each point, the time left, and the load curve."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from harness.artifacts.run_result import RunResult, load_result
from harness.artifacts.sweep.index import Point, PointState, Value
from harness.commands.steps.sweep_plan import in_words
from harness.core.errors import ArtifactError
from harness.core.units import human_duration, human_number
from harness.sweeps.curve import Curve, load_curves, throughput
from harness.sweeps.points import COLUMN, Sweep, load_sweep, short_names, shown

COLUMNS: Final = ("state", "tok/s", "tok/s/user", "TTFT p99", "SLOs met", "W", "verdict")
"""Of the table of points, after the varied keys. The second is `tok/s/GPU` with GPUs."""

BAR: Final = 40
"""Characters of the longest bar of the curve."""


@dataclass(frozen=True, slots=True)
class SweepProgress:
    """Lines about a sweep that is running.

    Attributes:
        folder: of the sweep.
        points: as at the start of this process.
    """

    folder: Path
    points: Sequence[Point]

    def title(self, point: Point) -> str:
        """Before a point starts."""
        runs = [one for one in self.points if one.state is not PointState.SKIPPED]
        again = f", try {point.tries}" if point.tries > 1 else ""
        return (
            f"point {point.id + 1} of {len(runs)}: {in_words(point.values)}, repeat"
            f" {point.repeat}, seed {point.seed}{again}"
        )

    def line(self, points: Sequence[Point], point: Point) -> str:
        """After a point has ended."""
        run = _run(self.folder, point)
        names = ("", *_names(run)[1:-1], "")
        cells = zip(names, _cells(point, run), strict=True)
        told = [" ".join(filter(None, (name, cell))) for name, cell in cells if cell]
        left_s = time_left_s(points)
        left = [f"about {human_duration(left_s)} left"] if left_s else []
        return " · ".join((f"point {point.id + 1}: {in_words(point.values)}", *told, *left))


def time_left_s(points: Sequence[Point]) -> float | None:
    """From the medians of the finished points, by server; None before the first one has ended. Of
    points on a kept server, if there are any: most are.
    """
    ended = [one for one in points if one.wall_s is not None]
    if not ended:
        return None
    left_s = 0.0
    for point in points:
        if point.state is PointState.PLANNED:
            own = [one for one in ended if one.variant == point.variant] or ended
            like = [one for one in own if one.kept_server] or own
            left_s += median(one.wall_s or 0.0 for one in like)
    return left_s


def _cells(point: Point, run: RunResult | None) -> tuple[str, ...]:
    """The cells of a point under `COLUMNS`; empty where a value is not available."""
    if run is None:
        return (point.state.value, *[""] * (len(COLUMNS) - 1))
    ttft, met = COLUMN["ttft_p99_s"].read(run), COLUMN["slo_met_ratio"].read(run)
    return (
        point.state.value,
        _number(run, _rate(run)),
        _number(run, "interactivity_tok_s_user"),
        "" if ttft is None else human_duration(ttft.value),
        "" if met is None else f"{met.value:.1%}",
        _number(run, "power_w"),
        run.status.value,
    )


def _names(run: RunResult | None) -> tuple[str, ...]:
    """`COLUMNS` of a run, with GPUs or without."""
    per_gpu = run is not None and _rate(run) == "output_tok_s_per_gpu"
    return tuple("tok/s/GPU" if per_gpu and one == "tok/s" else one for one in COLUMNS)


def _rate(run: RunResult) -> str:
    per_gpu = "output_tok_s_per_gpu"
    return "output_tok_s" if COLUMN[per_gpu].read(run) is None else per_gpu


def table(folder: Path, points: Sequence[Point]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings and rows of all points, by their values."""
    keys = list(dict.fromkeys(key for point in points for key in point.values))
    ordered = sorted(points, key=lambda one: (*map(_rank, one.values.values()), one.repeat))
    runs = [_run(folder, point) for point in ordered]
    some = next((run for run in runs if run is not None), None)
    columns = (*short_names(keys).values(), "repeat", *_names(some))
    rows = [
        (
            *(shown(point.values.get(key)) for key in keys),
            str(point.repeat),
            *(cell or "—" for cell in _cells(point, run)),
        )
        for point, run in zip(ordered, runs, strict=True)
    ]
    return columns, rows


def curve_lines(folder: Path) -> Iterator[str]:
    """The load curve as bars, with peak and knee; nothing for a sweep without a load axis."""
    sweep = load_sweep(folder)
    for curve in load_curves(sweep):
        if len(curve.settings) > 1:
            yield from _bars(sweep, curve)


def _bars(sweep: Sweep, curve: Curve) -> Iterator[str]:
    name = short_names(sweep.keys)[curve.key]
    others = f" ({in_words(curve.others)})" if curve.others else ""
    yield f"output tokens/s over {name}{others}"
    width = max(len(shown(one.values[curve.key])) for one in curve.settings)
    for one in curve.settings:
        rate = throughput(one)
        bar = "█" * max(1, round(BAR * rate / throughput(curve.peak)))
        marks = [word for word, at in (("peak", curve.peak), ("knee", curve.knee)) if at is one]
        ttft = one.metrics.get("ttft_p99_s")
        told = [f"{human_number(rate)} tok/s"]
        told += [] if ttft is None else [f"TTFT p99 {human_duration(ttft.value)}"]
        yield f"  {shown(one.values[curve.key]):>{width}} {bar} {', '.join((*told, *marks))}"


def _run(folder: Path, point: Point) -> RunResult | None:
    if point.run is None or point.state not in {PointState.DONE, PointState.PARTIAL}:
        return None
    try:
        return load_result(folder / point.run)
    except ArtifactError:  # a run that was removed by hand
        return None


def _number(run: RunResult, key: str) -> str:
    found = COLUMN[key].read(run)
    return "" if found is None else human_number(found.value)


def _rank(value: Value) -> tuple[int, float, str]:
    """Numbers by size, then other values."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 0, value, ""
    return 1, 0.0, str(value)
