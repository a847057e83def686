"""Gates: thresholds on sets of repeats, decided with the noise of the repeats.

A gate on a share of the baseline fails if the loss exceeds both the gate's margin and the noise,
the latter at an error of 1% for all gates together (Welch's t-test on the logarithm, one-sided,
Holm's correction). Equal systems fail a gate in at most 1 of 100 comparisons, whatever their noise.
It passes only if the repeats have enough power: a true loss of three times the margin must be found
with 90% probability, or the whole noise band must lie within the margin. Otherwise the result is
"too few repeats". A gate on a number fails if the value exceeds the limit by more than noise,
passes if it is within the limit by more than noise, and has too few repeats in between.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
from statistics import fmean
from typing import Annotated, ClassVar, Final

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator

from harness.artifacts.run_result import RunResult
from harness.artifacts.run_summary import Figure
from harness.checked_yaml.check import check
from harness.checked_yaml.fields import Correction, Strict
from harness.checked_yaml.load import expect_form, read_file
from harness.checked_yaml.source import read
from harness.compare.hypothesis_tests import (
    POWER,
    Design,
    holm,
    one_sample,
    two_samples,
    variance,
)
from harness.compare.ratios import BOARD_SENSOR_ERROR, MIN_REPEATS, log_welch, systematic_error
from harness.compare.stages import headline_difference, stage_names
from harness.compare.thresholds import value_of
from harness.core.errors import ProfileError
from harness.core.metrics import METRICS
from harness.core.units import human_number
from harness.profile.thresholds import Threshold, ThresholdText, parse_threshold
from harness.reduce.statistics.student_t import t_beyond, t_quantile

GATE_ALPHA: Final = 0.01
"""False-positive rate of all gates of one side together."""
SEEN_MARGINS: Final = 3.0
"""A gate passes only if a true loss of this many margins would be found with 90% probability."""
_MOST_REPEATS: Final = 200
_WIDE: Final = 10.0
"""From this relative change on, text shows a bound only: two repeats give intervals of
any width.
"""


class Outcome(StrEnum):
    """Result of a gate."""

    PASSED = "passed"
    FAILED = "FAILED"
    TOO_FEW = "too few repeats"
    ABSENT = "ABSENT"


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate on one side; an absent value never passes.

    Attributes:
        value: mean over the side's runs, in the metric's unit; None if any of them lacks it.
        baseline: mean of the baseline; None for a gate on a number, or if it is absent.
        ratio: value / baseline, of geometric means.
        low: lower end of the noise band: of the ratio, or of the value for a gate on a number; None
            without repeats.
        cv: coefficient of variation of the side's runs; None with one run.
        detectable: minimum detectable loss at 90% power, relative (to the limit, for a gate on a
            number).
        repeats_wanted: repeats per side for a decision; None if there is one, or no number of
            repeats is enough.
    """

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "gate",
        "side",
        "baseline",
        "value",
        "change, noise band",
        "detects",
        "result",
        "why",
    )

    side: str
    threshold: Annotated[
        Threshold,
        PlainSerializer(attrgetter("text"), return_type=str),
        PlainValidator(parse_threshold),
        Field(alias="gate"),
    ]
    outcome: Outcome
    value: float | None = None
    baseline: float | None = None
    ratio: float | None = None
    low: Annotated[float | None, Field(alias="band_low")] = None
    high: Annotated[float | None, Field(alias="band_high")] = None
    n: int = 0
    n_baseline: int = 0
    cv: float | None = None
    cv_baseline: float | None = None
    detectable: float | None = None
    repeats_wanted: int | None = None
    reason: str = ""

    def failed(self, *, strict: bool = False) -> bool:
        """Whether the command fails on this gate; with `strict`, too few repeats fail as well."""
        return self.outcome in {Outcome.FAILED, Outcome.ABSENT} or (
            strict and self.outcome is Outcome.TOO_FEW
        )

    def row(self) -> tuple[str, ...]:
        relative = self.threshold.relative
        change = band = ""
        if relative:
            change = "—" if self.ratio is None else _signed(self.ratio - 1)
        if self.low is not None and self.high is not None:
            low, high = (
                _signed(end - 1) if relative else human_number(end) for end in (self.low, self.high)
            )
            band = f" [{low}, {high}]"
        least = "—"
        if self.detectable is not None:
            wide = self.detectable >= _WIDE
            least = f"> {_WIDE:.0%}" if wide else f"≥ {self.detectable:.1%}"
        return (
            f"`{self.threshold.text}`",
            self.side,
            human_number(self.baseline) if relative else "",
            human_number(self.value),
            (change + band).strip() or "—",
            least,
            str(self.outcome),
            self.reason,
        )


def _signed(change: float) -> str:
    return f"{change:+.1%}" if change < _WIDE else f"> {_WIDE:+.0%}"


def _in_grammar(text: str) -> str:
    parse_threshold(text)
    return text


_GateText = Annotated[
    ThresholdText,
    AfterValidator(_in_grammar),
    Correction("write it as in `output_tok_s >= 0.95 * baseline`"),
]


class _Gates(Strict):
    """A file of gates with the key `thresholds`."""

    thresholds: tuple[_GateText, ...] = Field(min_length=1)


def read_gates(path: Path) -> tuple[Threshold, ...]:
    """The gates of a YAML file: a list of thresholds, or a mapping with the one key `thresholds`.

    Raises:
        ProfileError: no such file, invalid YAML, or thresholds outside the grammar, each with its
            place.
    """
    document = read(read_file(path, "a YAML file of thresholds"), str(path))
    example = "write a list such as `- output_tok_s >= 0.95 * baseline`"
    if isinstance(document.data, list):
        expect_form(document, tuple[_GateText, ...], example)
        texts = check(document, tuple[_GateText, ...])
    else:
        expect_form(document, _Gates, example)
        texts = check(document, _Gates).thresholds
    return tuple(parse_threshold(text) for text in texts)


def evaluate_gates(
    gates: Sequence[Threshold],
    sides: Mapping[str, Sequence[RunResult]],
    *,
    sensor_error: float = BOARD_SENSOR_ERROR,
) -> tuple[GateResult, ...]:
    """Evaluate the gates on every side but the first (the baseline), or on the only side.
    `sensor_error` bounds a GPU sensor's gain error, relative.

    Raises:
        ProfileError: a gate on a share of the baseline without a baseline.
    """
    listed = list(sides.items())
    baseline = listed[0][1] if len(listed) > 1 else None
    relative = [gate for gate in gates if gate.relative]
    if baseline is None and relative:
        raise ProfileError(
            f"the gate {relative[0].text!r} needs a baseline, but there is only one side",
            next_step="name the baseline's runs first, or pass --baseline NAME",
        )
    results = []
    for label, runs in listed[1:] if baseline is not None else listed:
        both = [*(baseline or ()), *runs]
        expanded = [one for gate in gates for one in _at_stages(gate, runs, both)]
        results += _side(expanded, label, baseline, runs, sensor_error)
    return tuple(results)


def _at_stages(
    gate: Threshold, runs: Sequence[RunResult], both: Sequence[RunResult]
) -> tuple[Threshold, ...]:
    """A gate on every stage as one gate per stage; one on the baseline covers its stages too."""
    return gate.at_stages(stage_names(both if gate.relative else runs)) or (gate,)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A gate before Holm's correction. A loss is a change in the direction that the gate forbids,
    on the logarithm if `logs`.

    Attributes:
        loss: estimate; None if nothing can be tested.
        margin: allowed loss; negative if the gate requires a gain.
        error: standard error of the loss.
        systematic: bound of an error that repeats do not reduce.
        deviation: standard deviation of one run's value, pooled over both sides.
    """

    result: GateResult
    loss: float | None = None
    margin: float = 0.0
    error: float = 0.0
    df: float = 1.0
    systematic: float = 0.0
    logs: bool = True
    deviation: float = 0.0

    @property
    def p_value(self) -> float | None:
        """Of a loss greater than 0 (greater than the margin, if the gate requires a gain)."""
        if self.loss is None or self.error <= 0:
            return None
        return t_beyond((self.loss - min(0.0, self.margin) - self.systematic) / self.error, self.df)


def _side(
    gates: Sequence[Threshold],
    label: str,
    baseline: Sequence[RunResult] | None,
    runs: Sequence[RunResult],
    sensor_error: float,
) -> list[GateResult]:
    drafts = [
        (
            _relative(gate, label, baseline, runs, sensor_error)
            if gate.relative and baseline is not None
            else _absolute(gate, label, runs)
        )
        for gate in gates
    ]
    tests = {
        str(i): p_value for i, draft in enumerate(drafts) if (p_value := draft.p_value) is not None
    }
    standing = holm(tests, GATE_ALPHA)
    return [_decided(draft, len(tests), worse=str(i) in standing) for i, draft in enumerate(drafts)]


def _values(gate: Threshold, runs: Sequence[RunResult]) -> list[Figure]:
    return [value_of(gate, run.summary) for run in runs]


def _of_several_stages(
    gate: Threshold, label: str, sides: Mapping[str, Sequence[RunResult]]
) -> GateResult | None:
    """The result of a gate on the headline if the runs have different headline stages."""
    if gate.stage is not None or (found := headline_difference(sides)) is None:
        return None
    reason = f"headline stages differ ({found}); write STAGE: in front of the gate"
    return GateResult(label, gate, Outcome.ABSENT, n=len(sides[label]), reason=reason)


def _absent(gate: Threshold, label: str, values: Sequence[Figure], whose: str) -> GateResult | None:
    missing = next((value for value in values if value.value is None), None)
    if missing is None:
        return None
    reason = gate.figure + f" is absent in {whose}: {missing.note}"
    return GateResult(label, gate, Outcome.ABSENT, n=len(values), reason=reason)


def _relative(
    gate: Threshold,
    label: str,
    baseline: Sequence[RunResult],
    runs: Sequence[RunResult],
    sensor_error: float,
) -> _Draft:
    a, b = _values(gate, baseline), _values(gate, runs)
    if (
        absent := _of_several_stages(gate, label, {"baseline": baseline, label: runs})
        or _absent(gate, label, a, "the baseline")
        or _absent(gate, label, b, label)
    ) is not None:
        return _Draft(absent)
    boundaries = sorted({value.boundary for value in (*a, *b) if value.boundary})
    if len(boundaries) > 1:
        text = f"boundaries differ: {', '.join(boundaries)}"
        return _Draft(
            GateResult(label, gate, Outcome.ABSENT, n=len(b), n_baseline=len(a), reason=text)
        )
    known_a, known_b = (
        [value.value for value in values if value.value is not None] for values in (a, b)
    )
    mean_a, mean_b = fmean(known_a), fmean(known_b)
    result = GateResult(
        label,
        gate,
        Outcome.TOO_FEW,
        mean_b,
        mean_a,
        mean_b / mean_a if mean_a else None,
        n=len(b),
        n_baseline=len(a),
        cv=_cv(known_b),
        cv_baseline=_cv(known_a),
    )
    if len(a) < MIN_REPEATS or len(b) < MIN_REPEATS:
        counts = f"{len(a)} baseline and {len(b)} candidate runs"
        reason = f"{counts}: noise needs at least {MIN_REPEATS} runs per side"
        return _Draft(replace(result, reason=reason))
    sign = -1.0 if gate.at_least else 1.0
    systematic = systematic_error(METRICS[gate.metric], baseline, runs, sensor_error)
    difference, logs = log_welch(known_a, known_b, systematic)
    if logs:
        result = replace(result, ratio=math.exp(difference.difference))
    return _Draft(
        result,
        loss=sign * difference.difference,
        margin=sign * (math.log(gate.limit) if logs else (gate.limit - 1) * mean_a),
        error=difference.error,
        df=difference.df or 1.0,
        systematic=difference.systematic,
        logs=logs,
        deviation=difference.error / math.sqrt(1 / len(a) + 1 / len(b)),
    )


def _absolute(gate: Threshold, label: str, runs: Sequence[RunResult]) -> _Draft:
    values = _values(gate, runs)
    if (
        absent := _of_several_stages(gate, label, {label: runs})
        or _absent(gate, label, values, label)
    ) is not None:
        return _Draft(absent)
    known = [value.value for value in values if value.value is not None]
    result = GateResult(label, gate, Outcome.TOO_FEW, fmean(known), n=len(known), cv=_cv(known))
    if len(known) < MIN_REPEATS:
        outcome = Outcome.PASSED if gate.met_by(known[0]) else Outcome.FAILED
        return _Draft(replace(result, outcome=outcome, reason="one run: the noise is unknown"))
    logs = min(known) > 0 and gate.limit > 0
    sign = -1.0 if gate.at_least else 1.0
    scaled = [math.log(x) if logs else x for x in known]
    limit = math.log(gate.limit) if logs else gate.limit
    return _Draft(
        result,
        loss=sign * (fmean(scaled) - limit),
        error=math.sqrt(variance(scaled) / len(scaled)),
        df=len(scaled) - 1,
        logs=logs,
        deviation=math.sqrt(variance(scaled)),
    )


def _cv(values: Sequence[float]) -> float | None:
    middle = fmean(values)
    return math.sqrt(variance(values)) / abs(middle) if len(values) > 1 and middle else None


def _decided(draft: _Draft, tests: int, *, worse: bool) -> GateResult:
    result, loss = draft.result, draft.loss
    if loss is None:
        return result
    gate = result.threshold
    at = result.ratio if gate.relative and result.ratio is not None else result.value
    met = at is not None and gate.met_by(
        at, 1.0 if result.ratio is not None else result.baseline or 0.0
    )
    if draft.error <= 0:
        same = "all repeats of a side are identical"
        if not met and 0 < loss <= draft.systematic:
            sensors = _relative_loss(draft.systematic, gate)
            reason = f"{same}, but the loss is within the sensor error of {sensors:.1%}"
            return replace(result, reason=reason)
        return replace(
            result, outcome=Outcome.PASSED if met else Outcome.FAILED, low=at, high=at, reason=same
        )
    critical = t_quantile(1 - 2 * GATE_ALPHA / tests, draft.df)
    half = critical * draft.error + draft.systematic
    result = _with_band(draft, result, half)
    by_margin = gate.relative and draft.margin >= 0
    margin = draft.margin if by_margin else 0.0
    least = _design(draft, tests, margin, result.n_baseline, result.n).detectable()
    if draft.logs:
        result = replace(result, detectable=_relative_loss(least, gate))
    if not met and worse:
        return replace(result, outcome=Outcome.FAILED, reason="beyond the limit by more than noise")
    if not met and by_margin:
        text = "beyond the limit, but within noise"
    elif by_margin:
        if draft.margin == 0 or least <= SEEN_MARGINS * margin or loss + half <= margin:
            return replace(result, outcome=Outcome.PASSED, reason="")
        missed = _relative_loss(SEEN_MARGINS * margin, gate)
        text = f"within the limit, but a loss of {missed:.1%} could go undetected"
    elif met and abs(loss - (draft.margin if gate.relative else 0.0)) > half:
        return replace(result, outcome=Outcome.PASSED, reason="")
    else:
        text = "the limit is within the noise band"
    needed = _needed(draft, margin, tests) if by_margin and margin > 0 else None
    if needed is not None and needed > min(result.n, result.n_baseline):
        text += f"; about {needed} repeats per side are enough"
    return replace(result, outcome=Outcome.TOO_FEW, reason=text, repeats_wanted=needed)


def _relative_loss(loss: float, gate: Threshold) -> float:
    """A loss on the logarithm as a share: the decrease of a metric that should be high, the
    increase of one that should be low.
    """
    return -math.expm1(-loss) if gate.at_least else math.expm1(loss)


def _with_band(draft: _Draft, result: GateResult, half: float) -> GateResult:
    at = result.ratio if result.threshold.relative else result.value
    if at is None:
        return result
    if draft.logs:
        return replace(result, low=at * math.exp(-half), high=at * math.exp(half))
    if result.threshold.relative:
        assert result.baseline is not None
        half /= abs(result.baseline)
    return replace(result, low=at - half, high=at + half)


def _design(draft: _Draft, tests: int, margin: float, n_a: int, n_b: int) -> Design:
    """The test of this gate at the first and strictest step of Holm's correction."""
    alpha = GATE_ALPHA / tests
    if draft.result.threshold.relative:
        return two_samples(
            draft.deviation, n_a, n_b, alpha, margin=margin, systematic=draft.systematic
        )
    return one_sample(draft.deviation, n_b, alpha, margin=margin, systematic=draft.systematic)


def _needed(draft: _Draft, margin: float, tests: int) -> int | None:
    """Repeats per side at which a loss of `SEEN_MARGINS` would be found, given the
    observed spread.
    """
    if SEEN_MARGINS * margin <= draft.systematic:
        return None
    for n in [*range(MIN_REPEATS, 20), *range(20, _MOST_REPEATS + 1, 10)]:
        if _design(draft, tests, margin, n, n).detection(SEEN_MARGINS * margin) >= POWER:
            return int(n)
    return None
