"""Ratios of figures between sides, with intervals and a plain word for each."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from harness.artifacts.run_result import RunResult
from harness.artifacts.run_summary import Figure
from harness.compare.hypothesis_tests import (
    ALPHA,
    Difference,
    holm,
    mean,
    outlier,
    two_samples,
    variance,
    welch,
)
from harness.core.metrics import METRICS, Better, MetricDef
from harness.core.records import Status
from harness.reduce.energy.sensor_gain import BOARD_GAIN_RATIO
from harness.reduce.statistics.student_t import t_quantile

MIN_REPEATS: Final = 2
"""Fewest runs a side before anything is said about better or worse: one run has no spread."""

BOARD_SENSOR_ERROR: Final = BOARD_GAIN_RATIO
"""Gain error of a board's power sensor that repeats do not remove, as a bound; common to runs on
one board, independent between boards.
"""

HEADLINE: Final = (
    "output_tok_s",
    "output_tok_s_per_gpu",
    "ttft_s.p50",
    "ttft_s.p99",
    "tpot_s.p50",
    "tpot_s.p99",
    "interactivity_tok_s_user",
    "goodput_rps",
    "slo_met_ratio",
    "power_w",
    "output_tok_per_j",
    "usd_per_mtok",
)
"""Figures that are asked first: they head the table, and their words are corrected for each other
alone, not for dozens of others.
"""

STATISTICS: Final = ("mean", "p50", "p90", "p95", "p99")
CLAIMING: Final = frozenset({Status.VALID, Status.PRELIMINARY})
"""Verdicts of runs from which anything may be claimed."""


class Word(StrEnum):
    """What may be said of one figure."""

    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no detectable difference"
    TOO_FEW = "too few repeats"
    NO_CLAIM = "no claim"
    NOT_JUDGED = "not judged"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure over the repeats of one side.

    Attributes:
        side: its label.
        n: its runs.
        values: by run id, in the runs' order; None where a run lacks the figure.
        mean: None when any of them lacks it.
        low: lower end of the 95 % t-interval of the mean; None with fewer than two runs.
        high: its upper end.
        cv: standard deviation / mean; None likewise, or where the mean is 0.
        outliers: ids of runs that stand apart (Grubbs' test at 1 %). They are counted all the same.
    """

    side: str
    n: int
    mean: float | None
    low: Annotated[float | None, Field(alias="ci_low")]
    high: Annotated[float | None, Field(alias="ci_high")]
    cv: float | None
    values: Mapping[str, float | None]
    outliers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of one side against the baseline.

    Attributes:
        side: its label.
        value: mean over the side's runs; None when any of them lacks it.
        ratio: value / baseline's, of geometric means where there are repeats; None when either is
            absent or the baseline's is 0.
        low: lower end of the ratio's 95 % interval, both terms included; None where there is none.
        high: its upper end.
        interval: `within-run` (two single runs: says how steady they were, not whether they
            differ), `across repeats`, or None.
        word: what may be said.
        note: why, where the word does not say it all.
        statistical: half-width of the interval by the repeats' spread, on the ratio's natural
            logarithm.
        systematic: what sensors that differ add to it, likewise; 0 on the same boards.
        detectable: the smallest relative difference that would have been found nine times in ten;
            None where nothing was tested.
    """

    side: str
    value: float | None
    ratio: float | None
    low: Annotated[float | None, Field(alias="ratio_low")]
    high: Annotated[float | None, Field(alias="ratio_high")]
    interval: str | None
    word: Word
    note: str | None = None
    statistical: Annotated[float | None, Field(alias="statistical_half_width")] = None
    systematic: Annotated[float, Field(alias="systematic_half_width")] = 0.0
    detectable: float | None = None

    def text(self) -> str:
        """The ratio with its interval, and what sensors contribute to it."""
        if self.ratio is None:
            return "—"
        if self.low is None or self.high is None:
            return f"{self.ratio:.3f}"
        sensors = f" (sensors ±{math.expm1(self.systematic):.1%})" if self.systematic else ""
        return f"{self.ratio:.3f} [{self.low:.3f}, {self.high:.3f}]{sensors}"

    def says(self) -> str:
        """The word, and how much would have been seen where none was."""
        aside = self.aside()
        return f"{self.word} ({aside})" if aside else str(self.word)

    def aside(self) -> str:
        """What belongs beside the word that no difference was found: how much would have been, and
        that the interval is of one figure.
        """
        if self.word is not Word.NO_DIFFERENCE or self.detectable is None:
            return ""
        return "; ".join(
            [
                f"≥\xa0{self.detectable * 100:.1f}\xa0% would have shown",
                *([self.note] if self.note else []),
            ]
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of all sides.

    Attributes:
        key: metric, or metric.statistic.
        baseline: A's mean; None when any of its runs lacks it.
        boundary: of the figure, as A's runs name it.
        cells: the other sides, in order.
        spreads: all sides, in order.
    """

    key: str
    title: str
    unit: str
    better: Better
    boundary: str | None
    baseline: float | None
    cells: Annotated[tuple[Cell, ...], Field(alias="sides")]
    spreads: Annotated[tuple[Spread, ...], Field(alias="repeats")]

    @property
    def name(self) -> str:
        """The key, with the boundary where a power figure may have several."""
        return (
            f"{self.key} @ {self.boundary}"
            if self.boundary and METRICS[base(self.key)].boundary == "power"
            else self.key
        )


Reader = Callable[[RunResult], Figure]


def rows(
    sides: Mapping[str, Sequence[RunResult]], sensor_error: float = BOARD_SENSOR_ERROR
) -> Iterator[Row]:
    """Rows of every figure that at least one run has: the headline's, then the others in the order
    of their definitions.

    Args:
        sides: runs by label; the first is the baseline.
        sensor_error: bound of a board's gain error, relative.
    """
    runs = [run for members in sides.values() for run in members]
    baseline = next(iter(sides.values()))
    wanted = list(_wanted(runs))
    drafts: dict[str, list[Cell]] = {key: [] for key, _, _ in wanted}
    for label, members in list(sides.items())[1:]:
        found = {
            key: _cell(label, definition, read, baseline, members, sensor_error)
            for key, definition, read in wanted
        }
        tests = {
            key: difference.p_value
            for key, (_, difference) in found.items()
            if difference is not None and difference.p_value is not None
        }
        for asked in (
            [key for key in tests if key in HEADLINE],
            [key for key in tests if key not in HEADLINE],
        ):
            standing = holm({key: tests[key] for key in asked})
            for key in asked:
                cell, difference = found[key]
                assert difference is not None
                counts = (len(baseline), len(members))
                cell = _judged(
                    cell,
                    METRICS[base(key)].better,
                    difference,
                    len(asked),
                    counts,
                    stands=key in standing,
                )
                found[key] = cell, difference
        for key, (cell, _) in found.items():
            drafts[key].append(cell)
    for key, definition, read in wanted:
        spreads = tuple(spread(label, members, read) for label, members in sides.items())
        yield Row(
            key=key,
            title=definition.title,
            unit=definition.unit,
            better=definition.better,
            boundary=read(baseline[0]).boundary,
            baseline=spreads[0].mean,
            cells=tuple(drafts[key]),
            spreads=spreads,
        )


def spread(label: str, members: Sequence[RunResult], read: Reader) -> Spread:
    """One figure over one side's repeats, with the t-interval of its mean."""
    values = {run.run_id: read(run).value for run in members}
    known = [value for value in values.values() if value is not None]
    if len(known) < len(values):
        return Spread(label, len(values), None, None, None, None, values)
    middle = mean(known)
    if len(known) < 2:
        return Spread(label, len(values), middle, None, None, None, values)
    deviation = math.sqrt(variance(known))
    half = t_quantile(1 - ALPHA, len(known) - 1) * deviation / math.sqrt(len(known))
    ids = list(values)
    position = outlier(known)
    apart = () if position is None else (ids[position],)
    return Spread(
        label,
        len(values),
        middle,
        middle - half,
        middle + half,
        deviation / abs(middle) if middle else None,
        values,
        apart,
    )


def base(key: str) -> str:
    """The metric of a row's key."""
    return key.partition("@")[0].partition(".")[0]


def reader(key: str) -> Reader:
    """How a row's figure is read from a run: `output_tok_s`, `power_w@node`, `ttft_s.p99`."""
    metric, dot, statistic = key.partition(".")
    return (lambda run: run.statistic(metric, statistic)) if dot else (lambda run: run.figure(key))


def systematic_error(
    definition: MetricDef,
    runs_a: Sequence[RunResult],
    runs_b: Sequence[RunResult],
    sensor_error: float,
) -> float:
    """Bound of the ratio's error (on its logarithm) from the boards' sensors.

    Each board has a gain of its own, independent of the others', that is in all its readings. A
    side's figure takes the mean over its boards and runs, so what both sides have in common
    cancels: none is left where both used the same boards. A meter calibration replaces a board's
    error by what it leaves of it; readings with and without one, or with two different ones, have
    no gain in common.
    """
    if definition.boundary != "power":
        return 0.0
    weights: dict[tuple[str, float | None], float] = {}
    errors: dict[tuple[str, float | None], float] = {}
    for sign, runs in ((-1.0, runs_a), (1.0, runs_b)):
        measured = [run for run in runs if run.gpus]
        if not measured:
            return 0.0
        for run in measured:
            for gpu in run.gpus:
                gain, error = run.calibrated_boards.get(gpu.uuid, (None, sensor_error))
                weights[gpu.uuid, gain] = weights.get((gpu.uuid, gain), 0.0) + sign / len(
                    run.gpus
                ) / len(measured)
                errors[gpu.uuid, gain] = error
    total = math.sqrt(math.fsum((weight * errors[key]) ** 2 for key, weight in weights.items()))
    return 0.0 if total < 1e-12 else total


def _wanted(runs: Sequence[RunResult]) -> Iterator[tuple[str, MetricDef, Reader]]:
    keys = dict.fromkeys(
        key for run in runs for key in (*run.latencies, *run.metrics) if base(key) in METRICS
    )
    order = list(METRICS)
    names: list[str] = []
    for key in sorted(keys, key=lambda key: (order.index(base(key)), key)):
        names += (
            [f"{key}.{statistic}" for statistic in STATISTICS]
            if METRICS[base(key)].kind == "distribution"
            else [key]
        )
    for name in [
        *(name for name in HEADLINE if name in names),
        *(name for name in names if name not in HEADLINE),
    ]:
        read = reader(name)
        if any(read(run).value is not None for run in runs):
            yield name, METRICS[base(name)], read


def _cell(
    label: str,
    definition: MetricDef,
    read: Reader,
    runs_a: Sequence[RunResult],
    runs_b: Sequence[RunResult],
    sensor_error: float,
) -> tuple[Cell, Difference | None]:
    """The cell, and what was tested where anything was."""
    a, b = [read(run) for run in runs_a], [read(run) for run in runs_b]
    known_a = [value.value for value in a if value.value is not None]
    known_b = [value.value for value in b if value.value is not None]
    mean_a = mean(known_a) if len(known_a) == len(a) else None
    mean_b = mean(known_b) if len(known_b) == len(b) else None
    if mean_a is None or mean_b is None:
        missing, values = ("A", a) if mean_a is None else (label, b)
        why = next(value.note for value in values if value.value is None)
        return (
            Cell(label, mean_b, None, None, None, None, Word.ABSENT, f"absent in {missing}: {why}"),
            None,
        )
    plain = Cell(
        label, mean_b, mean_b / mean_a if mean_a != 0 else None, None, None, None, Word.NOT_JUDGED
    )
    if len(a) < MIN_REPEATS or len(b) < MIN_REPEATS:
        low, high = _within_run(a, b) if len(a) == len(b) == 1 else (None, None)
        word = Word.NOT_JUDGED if definition.better == "neither" else Word.TOO_FEW
        return (
            replace(
                plain,
                low=low,
                high=high,
                interval="within-run" if low is not None else None,
                word=word,
            ),
            None,
        )
    logs = min(*known_a, *known_b) > 0
    systematic = systematic_error(definition, runs_a, runs_b, sensor_error) if logs else 0.0
    scaled_a, scaled_b = (
        [math.log(x) for x in known] if logs else known for known in (known_a, known_b)
    )
    difference = welch(scaled_a, scaled_b, systematic=systematic)
    cell = replace(
        plain, systematic=systematic, statistical=difference.statistical if logs else None
    )
    if logs:
        cell = replace(cell, ratio=math.exp(difference.difference))
        if difference.half_width is not None:
            low, high = (
                math.exp(difference.difference + sign * difference.half_width) for sign in (-1, 1)
            )
            cell = replace(cell, low=low, high=high, interval="across repeats")
    if definition.better == "neither":
        return cell, None
    silent = sorted({str(run.status) for run in (*runs_a, *runs_b) if run.status not in CLAIMING})
    if silent:
        return replace(cell, word=Word.NO_CLAIM, note=f"runs are {', '.join(silent)}"), None
    boundaries = sorted({value.boundary for value in (*a, *b) if value.boundary})
    if len(boundaries) > 1:
        return (
            replace(cell, word=Word.NO_CLAIM, note=f"boundaries differ: {', '.join(boundaries)}"),
            None,
        )
    if difference.p_value is None:
        same = difference.difference == 0
        note = (
            None if same else "the repeats do not differ at all, so no interval follows from them"
        )
        return replace(cell, word=Word.NO_DIFFERENCE if same else Word.TOO_FEW, note=note), None
    return replace(cell, word=Word.NO_DIFFERENCE), difference


def _judged(
    cell: Cell,
    better: Better,
    difference: Difference,
    tests: int,
    runs: tuple[int, int],
    *,
    stands: bool,
) -> Cell:
    if cell.statistical is not None:
        deviation = difference.error / math.sqrt(1 / runs[0] + 1 / runs[1])
        design = two_samples(deviation, *runs, ALPHA / 2 / tests, systematic=difference.systematic)
        cell = replace(cell, detectable=math.expm1(design.detectable()))
    if not stands:
        alone = difference.p_value is not None and difference.p_value <= ALPHA
        return (
            replace(cell, note=f"it would stand alone, not among {tests} figures")
            if alone
            else cell
        )
    improved = (difference.difference > 0) == (better == "higher")
    return replace(cell, word=Word.BETTER if improved else Word.WORSE)


def _within_run(
    a: Sequence[Figure], b: Sequence[Figure]
) -> tuple[float, float] | tuple[None, None]:
    """Interval of a ratio of two independent figures by propagating their relative half-widths on
    the logarithm.
    """
    half = 0.0
    for value in (a[0], b[0]):
        if (
            value.value is None
            or value.ci_low is None
            or value.ci_high is None
            or value.ci_low <= 0
        ):
            return None, None
        half = math.hypot(half, math.log(value.ci_high / value.ci_low) / 2)
    assert a[0].value is not None
    assert b[0].value is not None
    ratio = b[0].value / a[0].value
    return ratio * math.exp(-half), ratio * math.exp(half)
