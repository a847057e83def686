"""Energy breakdown: static power, computed input, output and output x context, fitted over stages
made for it, or refused with the reason.

Model of a slice: joules = W x seconds + a x computed input tokens + b x output tokens + c x output
tokens x their context, all coefficients >= 0. It is never fitted to one window: there the four
terms are collinear, and any split fits.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from harness.artifacts import run_summary as summary
from harness.reduce.over_time.flow import Flow
from harness.reduce.over_time.tokens import Output, placed
from harness.reduce.read.categorical import Bools
from harness.reduce.read.requests import Requests
from harness.reduce.statistics.intervals import Floats
from harness.reduce.statistics.student_t import t_quantile

NS: Final = 1e-9

TERMS: Final = ("time", "computed_input", "output", "output_x_context")
"""The model's terms, in the order of its columns."""
UNITS: Final = ("W", "J/tok", "J/tok", "J/tok^2")

SLICE_S: Final = 5.0
"""Minimum length of a slice: servers count a whole prompt when its prefill completes, and energy
over short times is inaccurate.
"""
MOST_SLICES: Final = 60
"""Per stage, so that a long stage does not dominate by its number of rows."""
MIN_SLICES: Final = 20
"""Five rows per coefficient."""
CONDITION_LIMIT: Final = 30.0
"""Of the columns scaled to length 1. Beyond 30 the terms are strongly collinear (Belsley, Kuh &
Welsch 1980, Regression Diagnostics).
"""
HELD_OUT_LIMIT: Final = 0.10
"""Maximum error of a stage's energy as predicted from the other stages."""
MIN_BATCHES: Final = 3
"""Distinct batch sizes of decode stages."""
BATCH_APART: Final = 1.5
"""Minimum ratio between distinct batch sizes."""
MIN_CONTEXTS: Final = 2
CONTEXT_APART: Final = 2.0
"""Minimum ratio between distinct context sizes."""
PREFILL_OUTPUT: Final = 0.05
"""Output tokens per computed input token up to which a stage is prefill only."""
DECODE_COMPUTED: Final = 2.0
"""Computed input tokens per output token up to which a stage is decode."""
CACHED_SHARE: Final = 0.5
"""Minimum share of input read from cache in a stage with a cached prefix."""


@dataclass(frozen=True, slots=True)
class StageSlices:
    """Data of one stage (or `idle`, the idle period with the model loaded) for the fit.

    Attributes:
        joules: of each slice.
        work: one row per slice; columns: seconds, computed input tokens, output tokens, output
            tokens x context.
        in_flight: mean requests in flight.
        cached_share: share of input read from cache; None if unknown.
        systematic_ratio: gain error of the energy.
    """

    name: str
    joules: Floats
    work: npt.NDArray[np.float64]
    in_flight: float
    cached_share: float | None
    systematic_ratio: float | None = None

    def _total(self, column: int) -> float:
        return float(np.sum(self.work[:, column]))

    @property
    def context_tok(self) -> float:
        """Mean context of an output token."""
        return self._total(3) / self._total(2) if self._total(2) > 0 else 0.0

    @property
    def is_idle(self) -> bool:
        return float(np.sum(self.work[:, 1:])) == 0.0

    @property
    def is_prefill(self) -> bool:
        return self._total(1) > 0 and self._total(2) <= PREFILL_OUTPUT * self._total(1)

    @property
    def is_decode(self) -> bool:
        return self._total(2) > 0 and self._total(1) <= DECODE_COMPUTED * self._total(2)


@dataclass(frozen=True, slots=True)
class Coefficient:
    """One term of the model; `error` is the half-width of the 95% confidence interval, without the
    sensors' gain error.
    """

    term: str
    value: float
    error: float
    unit: str


@dataclass(frozen=True, slots=True)
class Attribution:
    """The fit, or why there is none.

    Attributes:
        reason: why it is refused; None if it is usable.
        coefficients: empty if refused before fitting.
        slices: rows of the fit.
        stages: their names.
        condition_number: of the scaled columns.
        residual_ratio: root mean square of the rows' residuals / their mean energy.
        held_out: stage -> relative error of its energy, predicted from the other stages; without
            stages that are the only ones with a term.
        systematic_ratio: gain error of the energy, common to all coefficients.
        components: energy of the headline window by term (J), with `unexplained` for the rest.
    """

    reason: str | None
    coefficients: tuple[Coefficient, ...] = ()
    slices: int = 0
    stages: tuple[str, ...] = ()
    condition_number: float | None = None
    residual_ratio: float | None = None
    held_out: Mapping[str, float] = field(default_factory=dict)
    systematic_ratio: float | None = None
    components: Mapping[str, float] = field(default_factory=dict)

    @property
    def stands(self) -> bool:
        """Whether the coefficients may be used."""
        return self.reason is None and len(self.coefficients) == len(TERMS)

    @property
    def values(self) -> Floats:
        """Coefficients in the order of `TERMS`."""
        return np.array([c.value for c in self.coefficients])

    def summarized(self) -> summary.Attribution:
        """Block of the summary, without unusable coefficients."""
        shown = self.stands
        return summary.Attribution(
            reason=self.reason,
            coefficients={
                c.term: summary.Coefficient(
                    value=c.value if shown else None, error=c.error if shown else None, unit=c.unit
                )
                for c in self.coefficients
            },
            slices=self.slices,
            stages=self.stages,
            condition_number=self.condition_number,
            condition_limit=CONDITION_LIMIT,
            residual_ratio=self.residual_ratio,
            held_out=self.held_out,
            held_out_limit=HELD_OUT_LIMIT,
            systematic_ratio=self.systematic_ratio,
            components_j=self.components,
        )


def decode_context(requests: Requests, out: Output, who: Bools | None = None) -> Flow:
    """Output tokens x their context (prompt and earlier output), at their arrival times; of the
    requests `who`, by default all.
    """
    return placed(requests, out.per_request, who, context=requests.input_tok)


def slice_edges(start: float, end: float) -> Floats:
    """Edges of equal slices (ns), each at least `SLICE_S` long; one edge if there is no slice."""
    count = min(MOST_SLICES, int((end - start) * NS / SLICE_S + 1e-9))
    return np.linspace(start, end, count + 1) if count else np.array([start])


def fit(stages: Sequence[StageSlices], *, check_design: bool = True) -> Attribution:
    """Fit the model to slices of stages and the idle period, or refuse with the reason.

    `check_design`: require the stages that the model needs to separate its terms.
    """
    names = tuple(stage.name for stage in stages)
    rows = sum(len(stage.joules) for stage in stages)

    def refused(reason: str, condition: float | None = None) -> Attribution:
        return Attribution(reason, slices=rows, stages=names, condition_number=condition)

    if len(stages) < 2:
        return refused("one window alone cannot separate time, input and output")
    broken = [
        stage.name
        for stage in stages
        if np.any(~np.isfinite(stage.joules)) or np.any(~np.isfinite(stage.work))
    ]
    if broken:
        return refused(f"stage {', '.join(broken)} has slices without energy or tokens")
    missing = _design(stages) if check_design else []
    if missing:
        return refused("missing stages: " + "; ".join(missing))
    if rows < MIN_SLICES:
        return refused(f"{rows} slices of {SLICE_S:g} s or more; {MIN_SLICES} are needed")
    work, joules = _stacked(stages)
    condition = _condition(work)
    systematic = next(
        (stage.systematic_ratio for stage in stages if stage.systematic_ratio is not None), None
    )
    if condition > CONDITION_LIMIT:
        finite = bool(np.isfinite(condition))
        return refused(
            "the terms are collinear over these stages: condition number"
            f" {f'{condition:.0f}' if finite else 'not finite'}, limit {CONDITION_LIMIT:.0f}",
            condition if finite else None,
        )
    values = _nonnegative(work, joules)
    residual = float(np.sqrt(np.mean((joules - work @ values) ** 2)) / np.mean(joules))
    held_out, jackknife = _held_out(stages)
    coefficients = tuple(
        Coefficient(term, float(value), error, unit)
        for term, value, error, unit in zip(
            TERMS, values, _errors(stages, values, jackknife), UNITS, strict=True
        )
    )
    reason: str | None = None
    worst = max(held_out, key=lambda name: abs(held_out[name]), default=None)
    if worst is None:
        reason = "no stage can be predicted from the others, so the model cannot be validated"
    elif abs(held_out[worst]) > HELD_OUT_LIMIT:
        reason = (
            f"the other stages predict {worst} with an error of {held_out[worst]:+.0%}; limit"
            f" {HELD_OUT_LIMIT:.0%}"
        )
    return Attribution(reason, coefficients, rows, names, condition, residual, held_out, systematic)


def _design(stages: Sequence[StageSlices]) -> list[str]:
    """Stages that the model needs and that are missing, in words."""
    missing = []
    if not any(stage.is_idle for stage in stages):
        missing.append("an idle period with the model loaded (energy.idle_s)")
    if not any(stage.is_prefill for stage in stages):
        missing.append(
            f"prefill only (at most {PREFILL_OUTPUT:g} output tokens per computed input token)"
        )
    decode = [stage for stage in stages if stage.is_decode]
    for words, values, needed, apart in (
        ("batch", [stage.in_flight for stage in decode], MIN_BATCHES, BATCH_APART),
        ("context", [stage.context_tok for stage in decode], MIN_CONTEXTS, CONTEXT_APART),
    ):
        found = _distinct(values, apart)
        if found < needed:
            missing.append(f"decode at {needed} {words} sizes ({found} differ by {apart:g} x)")
    if not any((stage.cached_share or 0.0) >= CACHED_SHARE for stage in stages):
        missing.append(f"a cached prefix (at least {CACHED_SHARE:.0%} of the input)")
    return missing


def _distinct(values: Sequence[float], apart: float) -> int:
    count, last = 0, 0.0
    for value in sorted(value for value in values if value > 0):
        if count == 0 or value >= apart * last:
            count, last = count + 1, value
    return count


def _condition(work: npt.NDArray[np.float64]) -> float:
    lengths = np.sqrt(np.sum(work**2, axis=0))
    if np.any(lengths == 0):
        return float("inf")
    return float(np.linalg.cond(work / lengths))


def _stacked(stages: Sequence[StageSlices]) -> tuple[npt.NDArray[np.float64], Floats]:
    """Rows of all stages per second: errors of watts do not depend on a slice's length."""
    work = np.vstack([stage.work for stage in stages])
    joules = np.concatenate([stage.joules for stage in stages])
    return work / work[:, :1], joules / work[:, 0]


def _nonnegative(work: npt.NDArray[np.float64], joules: Floats) -> Floats:
    """Exact non-negative least squares: the best of the 15 subsets of terms whose unconstrained
    solution has no negative coefficient.
    """
    scale = np.sqrt(np.sum(work**2, axis=0))
    scaled = work / np.where(scale > 0, scale, 1.0)
    best, least = np.zeros(work.shape[1]), float(np.sum(joules**2))
    columns = range(work.shape[1])
    for count in range(1, work.shape[1] + 1):
        for chosen in itertools.combinations(columns, count):
            found, *_ = np.linalg.lstsq(scaled[:, chosen], joules, rcond=None)
            if np.any(found < 0):
                continue
            error = float(np.sum((joules - scaled[:, chosen] @ found) ** 2))
            if error < least:
                least = error
                best = np.zeros(work.shape[1])
                best[list(chosen)] = found / scale[list(chosen)]
    return best


def _held_out(stages: Sequence[StageSlices]) -> tuple[dict[str, float], list[Floats]]:
    """Relative error of each stage's energy as predicted from the others, if those still separate
    the terms; and their coefficients.
    """
    errors: dict[str, float] = {}
    fits = []
    for left_out in range(len(stages)):
        others = [stage for index, stage in enumerate(stages) if index != left_out]
        if _condition(_stacked(others)[0]) > CONDITION_LIMIT:
            continue
        values = _nonnegative(*_stacked(others))
        fits.append(values)
        mine = stages[left_out]
        errors[mine.name] = float(np.sum(mine.work @ values) / np.sum(mine.joules) - 1)
    return errors, fits


def _errors(stages: Sequence[StageSlices], values: Floats, fits: Sequence[Floats]) -> list[float]:
    """Half-widths: the largest of three estimates.

    - Scatter of the rows.
    - Jackknife over the stages that can be left out.
    - Scatter of whole stages (temperature and clocks differ between them).

    The first two miss the error of a term that only one stage has: the fit follows that stage.
    """
    work, joules = _stacked(stages)
    rows, terms = work.shape
    scale = np.sqrt(np.sum(work**2, axis=0))
    scaled = work / scale
    residual = joules - work @ values
    variance = float(np.sum(residual**2)) / (rows - terms)
    half = (
        t_quantile(0.95, rows - terms)
        * np.sqrt(variance * np.diag(np.linalg.inv(scaled.T @ scaled)))
        / scale
    )
    if len(fits) >= 3:
        table = np.array(fits)
        spread = np.sqrt(
            (len(fits) - 1) / len(fits) * np.sum((table - table.mean(axis=0)) ** 2, axis=0)
        )
        half = np.maximum(half, t_quantile(0.95, len(fits) - 1) * spread)
    free = len(stages) - terms
    if free > 0:
        ends = np.cumsum([len(stage.joules) for stage in stages])
        parts = [
            slice(int(end) - len(stage.joules), int(end))
            for end, stage in zip(ends, stages, strict=True)
        ]
        off = [float(np.mean(residual[part]) / np.mean(joules[part])) for part in parts]
        ratio = float(np.sqrt(np.sum(np.square(off)) / free))
        solve = np.linalg.pinv(scaled)
        moved = [solve[:, part] @ joules[part] * ratio / scale for part in parts]
        half = np.maximum(half, t_quantile(0.95, free) * np.sqrt(np.sum(np.square(moved), axis=0)))
    return [float(value) for value in half]


def components(attribution: Attribution, work: Floats, joules: float) -> dict[str, float]:
    """Energy of a window by term (J), with `unexplained` for the rest; they add up to `joules`.

    `work` has one amount per term: seconds and tokens as in `StageSlices.work`.
    """
    parts = dict(zip(TERMS, (attribution.values * work).tolist(), strict=True))
    return {**parts, "unexplained": joules - sum(parts.values())}
