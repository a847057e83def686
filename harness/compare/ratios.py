"""Ratios of metrics between sides, with confidence intervals and a verdict for each."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import fmean
from typing import Annotated, Final

from pydantic import Field

from harness.artifacts.run_result import RunResult
from harness.artifacts.run_summary import Figure
from harness.compare.hypothesis_tests import (
    ALPHA,
    Difference,
    holm,
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
"""Fewest runs per side for a verdict of better or worse: one run has no spread."""

BOARD_SENSOR_ERROR: Final = BOARD_GAIN_RATIO
"""Bound of the gain error of a GPU's power sensor, which repeats do not reduce. It is common to all
runs on one GPU and independent between GPUs.
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
"""Metrics that head the table. They are corrected for multiple comparisons among each other only,
not for dozens of other metrics.
"""

STATISTICS: Final = ("mean", "p50", "p90", "p95", "p99")
CLAIMING: Final = frozenset({Status.VALID, Status.PRELIMINARY})
"""Verdicts of runs that support a claim."""


class Word(StrEnum):
    """Verdict on one metric."""

    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no detectable difference"
    TOO_FEW = "too few repeats"
    NO_CLAIM = "no claim"
    NOT_JUDGED = "not judged"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Spread:
    """One metric over the repeats of one side.

    Attributes:
        values: by run id; None where a run lacks the metric.
        mean: None if any run lacks the metric.
        low: lower end of the mean's 95% t-interval; None with fewer than two runs.
        cv: standard deviation / mean; None with fewer than two runs or a mean of 0.
        outliers: ids of outlying runs (Grubbs' test at 1%); they count all the same.
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
    """One metric of one side compared with the baseline.

    Attributes:
        value: mean over the side's runs; None if any of them lacks the metric.
        ratio: to the baseline, of geometric means with repeats; None if either is absent or the
            baseline is 0.
        low: lower end of the ratio's 95% interval, both terms included.
        interval: `within-run` (two single runs: their stability, not their difference), `across
            repeats`, or None.
        note: the reason, where the verdict does not explain itself.
        statistical: half-width from the spread of the repeats, on the ratio's natural logarithm.
        systematic: what different sensors add to it; 0 on the same GPUs.
        detectable: minimum detectable effect, relative, at 90% power.
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
        if self.ratio is None:
            return "—"
        if self.low is None or self.high is None:
            return f"{self.ratio:.3f}"
        sensors = f" (sensors ±{math.expm1(self.systematic):.1%})" if self.systematic else ""
        return f"{self.ratio:.3f} [{self.low:.3f}, {self.high:.3f}]{sensors}"

    def says(self) -> str:
        return f"{self.word} ({aside})" if (aside := self.aside()) else str(self.word)

    def aside(self) -> str:
        """Details of "no detectable difference": the minimum detectable effect, and that the
        interval is of one metric alone.
        """
        if self.word is not Word.NO_DIFFERENCE or self.detectable is None:
            return ""
        minimum = f"minimum detectable: {self.detectable:.1%}"
        return f"{minimum}; {self.note}" if self.note else minimum


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of all sides. `key` is metric or metric.statistic; `baseline` is the mean of A,
    and `boundary` that of A's runs. `cells` has the other sides, `spreads` all.
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
        """The key, with the boundary for power metrics, which may have several."""
        return (
            f"{self.key} @ {self.boundary}"
            if self.boundary and METRICS[base(self.key)].boundary == "power"
            else self.key
        )


Reader = Callable[[RunResult], Figure]


def rows(
    sides: Mapping[str, Sequence[RunResult]],
    sensor_error: float = BOARD_SENSOR_ERROR,
    *,
    only: Sequence[str] | None = None,
    stages: int = 1,
) -> Iterator[Row]:
    """Rows of every metric that at least one run has: the headline first, then in the order of
    definition.

    Args:
        sides: runs by label; the first is the baseline.
        sensor_error: bound of a GPU sensor's gain error, relative.
        only: keys of the rows; default: all.
        stages: how many load stages are compared together; each gets an equal part of the
            false-positive rate.
    """
    runs = [run for members in sides.values() for run in members]
    baseline = next(iter(sides.values()))
    known = [row for row in _known(runs) if only is None or row[0] in only]
    drafts: dict[str, list[Cell]] = {key: [] for key, _, _ in known}
    for label, members in list(sides.items())[1:]:
        found = {
            key: _cell(label, definition, read, baseline, members, sensor_error)
            for key, definition, read in known
        }
        tests = {
            key: difference.p_value
            for key, (_, difference) in found.items()
            if difference is not None and difference.p_value is not None
        }
        for asked in (tests.keys() & HEADLINE, tests.keys() - HEADLINE):
            standing = holm({key: tests[key] for key in asked}, ALPHA / stages)
            for key in asked:
                cell, difference = found[key]
                assert difference is not None
                counts = (len(baseline), len(members))
                better, significant = METRICS[base(key)].better, key in standing
                cell = _judged(
                    cell, better, difference, len(asked) * stages, counts, significant=significant
                )
                found[key] = cell, difference
        for key, (cell, _) in found.items():
            drafts[key].append(cell)
    for key, definition, read in known:
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
    """One metric over one side's repeats, with the t-interval of its mean."""
    values = {run.run_id: read(run).value for run in members}
    known = [value for value in values.values() if value is not None]
    middle = fmean(known) if len(known) == len(values) else None
    if middle is None or len(known) < 2:
        return Spread(label, len(values), middle, None, None, None, values)
    deviation = math.sqrt(variance(known))
    half = t_quantile(1 - ALPHA, len(known) - 1) * deviation / math.sqrt(len(known))
    position = outlier(known)
    outliers = () if position is None else (list(values)[position],)
    return Spread(
        label,
        len(values),
        middle,
        middle - half,
        middle + half,
        deviation / abs(middle) if middle else None,
        values,
        outliers,
    )


def base(key: str) -> str:
    """The metric of a row's key."""
    return key.partition("@")[0].partition(".")[0]


def reader(key: str) -> Reader:
    """Reads a row's value from a run: `output_tok_s`, `power_w@node`, `ttft_s.p99`."""
    metric, dot, statistic = key.partition(".")
    return (lambda run: run.statistic(metric, statistic)) if dot else (lambda run: run.figure(key))


def systematic_error(
    definition: MetricDef,
    runs_a: Sequence[RunResult],
    runs_b: Sequence[RunResult],
    sensor_error: float,
) -> float:
    """Bound of the ratio's error (on its logarithm) from the GPUs' power sensors.

    Each GPU has its own gain error in all its readings, independent of the others. A side's value
    is the mean over its GPUs and runs, so what both sides share cancels. A meter calibration
    replaces a GPU's error by its residual. Readings with and without calibration, or with two
    different ones, share no gain.
    """
    if definition.boundary != "power":
        return 0.0
    weights: dict[tuple[str, float | None], float] = defaultdict(float)
    errors: dict[tuple[str, float | None], float] = {}
    for sign, runs in ((-1.0, runs_a), (1.0, runs_b)):
        measured = [run for run in runs if run.gpus]
        if not measured:
            return 0.0
        for run in measured:
            for gpu in run.gpus:
                gain, error = run.calibrated_boards.get(gpu.uuid, (None, sensor_error))
                weights[gpu.uuid, gain] += sign / len(run.gpus) / len(measured)
                errors[gpu.uuid, gain] = error
    total = math.sqrt(math.fsum((weight * errors[key]) ** 2 for key, weight in weights.items()))
    return 0.0 if total < 1e-12 else total


def log_welch(a: Sequence[float], b: Sequence[float], systematic: float) -> tuple[Difference, bool]:
    """Welch's test of b - a on logarithms, and whether it was: not if a value is 0 or negative. The
    systematic error, which is relative, does not apply then.
    """
    if min(*a, *b) <= 0:
        return welch(a, b), False
    return welch([math.log(x) for x in a], [math.log(x) for x in b], systematic=systematic), True


def _known(runs: Sequence[RunResult]) -> Iterator[tuple[str, MetricDef, Reader]]:
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
    names.sort(key=lambda name: HEADLINE.index(name) if name in HEADLINE else len(HEADLINE))
    for name in names:
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
    """The cell, and the test if there was one."""
    a, b = [read(run) for run in runs_a], [read(run) for run in runs_b]
    known_a = [value.value for value in a if value.value is not None]
    known_b = [value.value for value in b if value.value is not None]
    mean_a = fmean(known_a) if len(known_a) == len(a) else None
    mean_b = fmean(known_b) if len(known_b) == len(b) else None
    if mean_a is None or mean_b is None:
        missing, values = ("A", a) if mean_a is None else (label, b)
        why = next(value.note for value in values if value.value is None)
        note = f"absent in {missing}: {why}"
        return Cell(label, mean_b, None, None, None, None, Word.ABSENT, note), None
    plain = Cell(
        label, mean_b, mean_b / mean_a if mean_a != 0 else None, None, None, None, Word.NOT_JUDGED
    )
    if len(a) < MIN_REPEATS or len(b) < MIN_REPEATS:
        low = high = None
        if plain.ratio is not None and len(a) == len(b) == 1:
            low, high = _within_run(plain.ratio, a[0], b[0])
        word = Word.NOT_JUDGED if definition.better == "neither" else Word.TOO_FEW
        interval = "within-run" if low is not None else None
        return replace(plain, low=low, high=high, interval=interval, word=word), None
    systematic = systematic_error(definition, runs_a, runs_b, sensor_error)
    difference, logs = log_welch(known_a, known_b, systematic)
    cell, half = plain, difference.half_width
    if logs:
        middle = difference.difference
        cell = replace(
            plain,
            ratio=math.exp(middle),
            statistical=difference.statistical,
            systematic=systematic,
        )
        if half is not None:
            low, high = math.exp(middle - half), math.exp(middle + half)
            cell = replace(cell, low=low, high=high, interval="across repeats")
    if definition.better == "neither":
        return cell, None
    silent = sorted({str(run.status) for run in (*runs_a, *runs_b) if run.status not in CLAIMING})
    if silent:
        return replace(cell, word=Word.NO_CLAIM, note=f"runs are {', '.join(silent)}"), None
    boundaries = sorted({value.boundary for value in (*a, *b) if value.boundary})
    if len(boundaries) > 1:
        note = f"boundaries differ: {', '.join(boundaries)}"
        return replace(cell, word=Word.NO_CLAIM, note=note), None
    if difference.p_value is None:
        same = difference.difference == 0
        why = None if same else "no interval: the repeats of each side are identical"
        return replace(cell, word=Word.NO_DIFFERENCE if same else Word.TOO_FEW, note=why), None
    return replace(cell, word=Word.NO_DIFFERENCE), difference


def _judged(
    cell: Cell,
    better: Better,
    difference: Difference,
    tests: int,
    runs: tuple[int, int],
    *,
    significant: bool,
) -> Cell:
    if cell.statistical is not None:
        deviation = difference.error / math.sqrt(1 / runs[0] + 1 / runs[1])
        design = two_samples(deviation, *runs, ALPHA / 2 / tests, systematic=difference.systematic)
        cell = replace(cell, detectable=math.expm1(design.detectable()))
    if not significant:
        if difference.p_value is None or difference.p_value > ALPHA:
            return cell
        note = f"significant alone, but not after correction for {tests} metrics"
        return replace(cell, note=note)
    improved = (difference.difference > 0) == (better == "higher")
    return replace(cell, word=Word.BETTER if improved else Word.WORSE)


def _within_run(ratio: float, *values: Figure) -> tuple[float, float] | tuple[None, None]:
    """Interval of the ratio of independent values, from their relative half-widths on the log
    scale.
    """
    half = 0.0
    for value in values:
        if value.ci_low is None or value.ci_high is None or value.ci_low <= 0:
            return None, None
        half = math.hypot(half, math.log(value.ci_high / value.ci_low) / 2)
    return ratio * math.exp(-half), ratio * math.exp(half)
