"""Joules attributed to time, computed input, output and output x context: fitted over stages made
for it, or refused with the reason.

The model of a slice of time: joules = W x seconds + a x computed input tokens + b x output tokens +
c x output tokens x their context. All four coefficients are at least 0. It is never fitted from one
window alone: there the four go together, and any split fits.
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
from harness.reduce.statistics.intervals import Floats, t_quantile

NS: Final = 1e-9

TERMS: Final = ("time", "computed_input", "output", "output_x_context")
"""The model's terms, in the order of its columns."""
UNITS: Final = ("W", "J/tok", "J/tok", "J/tok^2")
"""Units of their coefficients."""

SLICE_S: Final = 5.0
"""Least length of a slice: servers book a whole prompt when its prefill completes, and short
energies are wrong.
"""
MOST_SLICES: Final = 60
"""Of one stage, so that a long one weighs no more than the others by the number of its rows alone.
"""
MIN_SLICES: Final = 20
"""Five rows for each coefficient."""
CONDITION_LIMIT: Final = 30.0
"""Of the columns, each scaled to length 1. Beyond 30 the terms are strongly collinear (Belsley, Kuh
& Welsch 1980, Regression Diagnostics) and coefficients take each other's share.
"""
HELD_OUT_LIMIT: Final = 0.10
"""Error of a stage's joules, predicted from the other stages, beyond which the model does not
describe this machine.
"""
MIN_BATCHES: Final = 3
"""Batch sizes of decoding stages that must differ."""
BATCH_APART: Final = 1.5
"""Ratio from one batch size to the next that counts as another."""
MIN_CONTEXTS: Final = 2
CONTEXT_APART: Final = 2.0
"""Ratio from one context size to the next that counts as another."""
PREFILL_OUTPUT: Final = 0.05
"""Output tokens for each computed input token below which a stage is prefill only."""
DECODE_COMPUTED: Final = 2.0
"""Computed input tokens for each output token up to which a stage is one of decoding."""
CACHED_SHARE: Final = 0.5
"""Share of the input read from cache from which a stage is one with a cached prefix."""


@dataclass(frozen=True, slots=True)
class StageSlices:
    """What one stage (or the idle stretch with the model loaded) adds to the fit.

    Attributes:
        name: of the stage; `idle`.
        joules: of each slice.
        work: one row a slice: seconds, computed input tokens, output tokens, output tokens x
            context.
        in_flight: mean requests in flight.
        cached_share: share of the input that was read from cache; None where nobody tells.
        systematic_ratio: gain error of the joules.
    """

    name: str
    joules: Floats
    work: npt.NDArray[np.float64]
    in_flight: float
    cached_share: float | None
    systematic_ratio: float | None = None

    @property
    def context_tok(self) -> float:
        """Mean context of an output token."""
        output = float(np.sum(self.work[:, 2]))
        return float(np.sum(self.work[:, 3])) / output if output > 0 else 0.0

    @property
    def is_idle(self) -> bool:
        """No work at all."""
        return float(np.sum(self.work[:, 1:])) == 0.0

    @property
    def is_prefill(self) -> bool:
        """Next to no output."""
        computed, output = float(np.sum(self.work[:, 1])), float(np.sum(self.work[:, 2]))
        return computed > 0 and output <= PREFILL_OUTPUT * computed

    @property
    def is_decode(self) -> bool:
        """More output than computed input, nearly."""
        computed, output = float(np.sum(self.work[:, 1])), float(np.sum(self.work[:, 2]))
        return output > 0 and computed <= DECODE_COMPUTED * output


@dataclass(frozen=True, slots=True)
class Coefficient:
    """One term of the model.

    Attributes:
        value: in `unit`.
        error: half-width of its 95 % interval, gain error of the sensors not included.
    """

    term: str
    value: float
    error: float
    unit: str


@dataclass(frozen=True, slots=True)
class Attribution:
    """The fit, or why there is none.

    Attributes:
        reason: why it is refused; None when it stands.
        coefficients: empty when refused before fitting.
        slices: rows of the fit.
        stages: their names.
        condition_number: of the scaled columns.
        residual_ratio: root mean square of the rows' residuals over their mean joules.
        held_out: stage -> relative error of its joules, predicted from the others; stages that
            alone carry a term are left out.
        systematic_ratio: gain error of the joules, which all coefficients share.
        components: joules of the headline's window by term, with `unexplained`: they add up to the
            window's.
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
        """As in a summary: without coefficients that may not be used."""
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
    """Output tokens x the context that each was generated in (prompt and what was generated before
    it), at their arrivals.

    Args:
        requests: all of them.
        out: their output.
        who: whose; default everybody's.
    """
    return placed(requests, out.per_request, who, context=requests.input_tok)


def slice_edges(start: float, end: float) -> Floats:
    """Edges of equal slices of a stretch, each at least `SLICE_S` long; one edge only where it is
    too short for any.
    """
    count = min(MOST_SLICES, int((end - start) * NS / SLICE_S + 1e-9))
    return np.linspace(start, end, count + 1) if count else np.array([start])


def fit(stages: Sequence[StageSlices], *, check_design: bool = True) -> Attribution:
    """Fit the model to slices of stages, or say why that would mean nothing.

    Args:
        stages: the idle stretch with the model loaded among them.
        check_design: demand the stages that the model needs to tell its terms apart.
    """
    names = tuple(stage.name for stage in stages)
    rows = sum(len(stage.joules) for stage in stages)
    if len(stages) < 2:
        return Attribution(
            "one window alone cannot tell time, input and output apart", slices=rows, stages=names
        )
    broken = [
        stage.name
        for stage in stages
        if np.any(~np.isfinite(stage.joules)) or np.any(~np.isfinite(stage.work))
    ]
    if broken:
        return Attribution(
            f"stage {', '.join(broken)} has slices without joules or tokens",
            slices=rows,
            stages=names,
        )
    missing = _design(stages) if check_design else []
    if missing:
        return Attribution("the stages lack " + "; ".join(missing), slices=rows, stages=names)
    if rows < MIN_SLICES:
        return Attribution(
            f"{rows} slices of {SLICE_S:g} s or more; {MIN_SLICES} are needed",
            slices=rows,
            stages=names,
        )
    condition = _condition(_stacked(stages)[0])
    systematic = next(
        (stage.systematic_ratio for stage in stages if stage.systematic_ratio is not None), None
    )
    if condition > CONDITION_LIMIT:
        what = "not finite" if not np.isfinite(condition) else f"{condition:.0f}"
        collinear = (
            f"the terms go together over these stages: condition number {what}, at most"
            f" {CONDITION_LIMIT:.0f} is usable"
        )
        return Attribution(
            collinear,
            slices=rows,
            stages=names,
            condition_number=condition if np.isfinite(condition) else None,
        )
    work, joules = _stacked(stages)
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
        reason = "no stage can be predicted from the others, so nothing shows that the model holds"
    elif abs(held_out[worst]) > HELD_OUT_LIMIT:
        reason = (
            f"the other stages predict {worst} {held_out[worst]:+.0%} off; at most"
            f" {HELD_OUT_LIMIT:.0%} is usable"
        )
    return Attribution(reason, coefficients, rows, names, condition, residual, held_out, systematic)


def _design(stages: Sequence[StageSlices]) -> list[str]:
    """Stages that the model needs and that are not there, in words."""
    missing = []
    if not any(stage.is_idle for stage in stages):
        missing.append("a stretch without load with the model loaded (energy.idle_s)")
    if not any(stage.is_prefill for stage in stages):
        missing.append(
            f"one with prefill only (at most {PREFILL_OUTPUT:g} output tokens for each computed"
            " input token)"
        )
    decode = [stage for stage in stages if stage.is_decode]
    batches = _distinct([stage.in_flight for stage in decode], BATCH_APART)
    if batches < MIN_BATCHES:
        missing.append(
            f"decoding at {MIN_BATCHES} batch sizes (there are {batches} that differ by"
            f" {BATCH_APART:g} x)"
        )
    contexts = _distinct([stage.context_tok for stage in decode], CONTEXT_APART)
    if contexts < MIN_CONTEXTS:
        missing.append(
            f"decoding at {MIN_CONTEXTS} context sizes (there are {contexts} that differ by"
            f" {CONTEXT_APART:g} x)"
        )
    told = [stage.cached_share for stage in stages if stage.cached_share is not None]
    if not any(share >= CACHED_SHARE for share in told):
        missing.append(f"one with a cached prefix (at least {CACHED_SHARE:.0%} of its input)")
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
    """Rows of all stages, divided by their length in time: watts err alike, whatever a slice's
    length.
    """
    work = np.vstack([stage.work for stage in stages])
    joules = np.concatenate([stage.joules for stage in stages])
    return work / work[:, :1], joules / work[:, 0]


def _nonnegative(work: npt.NDArray[np.float64], joules: Floats) -> Floats:
    """Least squares with coefficients of at least 0, exactly: the best of the 15 sets of terms
    whose own solution has no negative one.
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
    """Each stage's joules predicted from the others, where those still tell the terms apart; and
    their coefficients.
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
    """Half-widths: the largest of three.

    What the rows' scatter gives; the jackknife over those stages that can be left out; and what
    follows when each stage is off as a whole by as much as the stages are (temperature and clocks
    differ from one to the next). The first two know nothing of a term that one stage alone carries:
    that stage is fitted whatever its joules are.
    """
    work, joules = _stacked(stages)
    rows, terms = work.shape
    scale = np.sqrt(np.sum(work**2, axis=0))
    scaled = work / scale
    residual = joules - work @ values
    variance = float(np.sum(residual**2)) / (rows - terms)
    half = (
        t_quantile(rows - terms)
        * np.sqrt(variance * np.diag(np.linalg.inv(scaled.T @ scaled)))
        / scale
    )
    if len(fits) >= 3:
        table = np.array(fits)
        spread = np.sqrt(
            (len(fits) - 1) / len(fits) * np.sum((table - table.mean(axis=0)) ** 2, axis=0)
        )
        half = np.maximum(half, t_quantile(len(fits) - 1) * spread)
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
        half = np.maximum(half, t_quantile(free) * np.sqrt(np.sum(np.square(moved), axis=0)))
    return [float(value) for value in half]


def components(attribution: Attribution, work: Floats, joules: float) -> dict[str, float]:
    """Joules of a window by term, with `unexplained` for what is left: they add up to its joules.

    Args:
        attribution: one that stands.
        work: of the window: seconds, computed input tokens, output tokens, output tokens x context.
        joules: of the window.
    """
    parts = dict(zip(TERMS, (attribution.values * work).tolist(), strict=True))
    return {**parts, "unexplained": joules - sum(parts.values())}
