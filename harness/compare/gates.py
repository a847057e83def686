"""Gates: thresholds on sets of repeats, decided with the noise that the repeats show.

A gate on a share of the baseline fails where the loss is both beyond the gate's own margin and more
than noise, the latter at an error of 1 % for all gates together (Welch's t-test on the logarithm,
one-sided, Holm's correction): systems that are equal fail a gate in at most 1 of 100 comparisons,
whatever their noise. It passes only where the repeats could have told: a true loss of three times
the margin has to be found nine times in ten, or the whole noise band lies within the margin; else
the answer is "too few repeats". A gate on a number fails where the figure lies beyond the number by
more than noise, passes where it lies within it by more than noise, and has too few repeats in
between.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from operator import attrgetter
from pathlib import Path
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
    mean,
    one_sample,
    two_samples,
    variance,
    welch,
)
from harness.compare.ratios import BOARD_SENSOR_ERROR, MIN_REPEATS, systematic_error
from harness.core.errors import ProfileError
from harness.core.metrics import METRICS
from harness.core.units import human_number
from harness.profile.thresholds import Threshold, parse_threshold
from harness.reduce.statistics.student_t import t_beyond, t_quantile

GATE_ALPHA: Final = 0.01
"""How often a gate may fail although nothing is worse, over all gates of one side together."""
SEEN_MARGINS: Final = 3.0
"""A gate passes only where a true loss of so many margins would have been found nine times in ten.
"""
_MOST_REPEATS: Final = 200
_WIDE: Final = 10.0
"""Two repeats can leave intervals of any width: beyond this the digits say nothing."""


class Outcome(StrEnum):
    """What a gate says."""

    PASSED = "passed"
    FAILED = "FAILED"
    TOO_FEW = "too few repeats"
    ABSENT = "ABSENT"


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate on one side.

    Attributes:
        side: label of the side that was held against it.
        threshold: the gate.
        outcome: what it says; an absent figure never passes.
        value: mean of the side's runs, in the metric's unit; None when any of them lacks it.
        baseline: the baseline's mean; None for a gate on a number, or where it is absent.
        ratio: value / baseline's, of geometric means; None likewise.
        low: lower end of the noise band: of the ratio, or of the value for a gate on a number; None
            without repeats.
        high: its upper end.
        n: runs of the side.
        n_baseline: runs of the baseline.
        cv: coefficient of variation of the side's runs; None with one run.
        cv_baseline: of the baseline's.
        detectable: smallest true change for the worse that this gate finds nine times in ten,
            relative (to the limit, for a gate on a number); None where the spread is not known.
        repeats_wanted: repeats a side after which it could tell; None where it can, or no number of
            repeats would do.
        reason: in words.
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
        PlainSerializer(attrgetter("text")),
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
        """Whether the command fails on it.

        Args:
            strict: whether too few repeats are a failure as well.
        """
        return self.outcome in {Outcome.FAILED, Outcome.ABSENT} or (
            strict and self.outcome is Outcome.TOO_FEW
        )

    def row(self) -> tuple[str, ...]:
        """As text, under `COLUMNS`."""
        if self.threshold.relative:
            change = "—" if self.ratio is None else _signed(self.ratio - 1)
            band = (
                ""
                if self.low is None or self.high is None
                else f" [{_signed(self.low - 1)}, {_signed(self.high - 1)}]"
            )
        else:
            change = ""
            band = (
                ""
                if self.low is None or self.high is None
                else f"[{human_number(self.low)}, {human_number(self.high)}]"
            )
        least = (
            "—"
            if self.detectable is None
            else f"≥ {self.detectable:.1%}"
            if self.detectable < _WIDE
            else f"> {_WIDE:.0%}"
        )
        return (
            f"`{self.threshold.text}`",
            self.side,
            human_number(self.baseline) if self.threshold.relative else "",
            human_number(self.value),
            (change + band).strip() or "—",
            least,
            str(self.outcome),
            self.reason,
        )


def _signed(change: float) -> str:
    """A change in percent."""
    return f"{change:+.1%}" if change < _WIDE else f"> {_WIDE:+.0%}"


def _in_grammar(text: str) -> str:
    parse_threshold(text)
    return text


_GateText = Annotated[
    str, AfterValidator(_in_grammar), Correction("write it as in `output_tok_s >= 0.95 * baseline`")
]


class _Gates(Strict):
    """A file of gates that names its list."""

    thresholds: tuple[_GateText, ...] = Field(min_length=1)


def read_gates(path: Path) -> tuple[Threshold, ...]:
    """The gates of a YAML file: a list of thresholds, or a mapping with the one key `thresholds`.

    Raises:
        ProfileError: no such file, no YAML, or not in the grammar; every mistake has its place.
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
    """Hold every side but the first against the gates; the only side where there is one.

    Args:
        gates: conditions, in the order of the results.
        sides: runs by label; the first is the baseline.
        sensor_error: bound of a board's gain error, relative.

    Raises:
        ProfileError: a gate on a share of the baseline where there is none.
    """
    listed = list(sides.items())
    baseline = listed[0][1] if len(listed) > 1 else None
    relative = [gate for gate in gates if gate.relative]
    if baseline is None and relative:
        raise ProfileError(
            f"the gate {relative[0].text!r} needs a baseline, and there is one side only",
            next_step="name the baseline's runs first, or pass --baseline NAME",
        )
    results = []
    for label, runs in listed[1:] if baseline is not None else listed:
        results += _side(gates, label, baseline, runs, sensor_error)
    return tuple(results)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A gate before Holm's correction. Losses are counted in the direction that the gate forbids,
    on the logarithm where there is one.

    Attributes:
        result: what is known so far.
        loss: estimate; None where nothing can be tested.
        margin: loss that the gate allows; below 0 where it asks for a gain.
        error: standard error of the loss.
        df: its degrees of freedom.
        systematic: bound of an error that repeats do not remove.
        logs: whether losses are differences of logarithms.
        deviation: standard deviation of one run's value, both sides taken together, on the losses'
            scale.
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
        """Of a loss beyond nothing at all (beyond the margin, where the gate asks for a gain)."""
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
    return [_figure(gate, run) for run in runs]


def _figure(gate: Threshold, run: RunResult) -> Figure:
    if gate.statistic is not None:
        return run.statistic(gate.metric, gate.statistic)
    plain = run.figure(gate.metric)
    return (
        plain
        if gate.boundary is None or plain.boundary == gate.boundary
        else run.figure(f"{gate.metric}@{gate.boundary}")
    )


def _absent(gate: Threshold, label: str, values: Sequence[Figure], whose: str) -> GateResult | None:
    missing = next((value for value in values if value.value is None), None)
    if missing is None:
        return None
    return GateResult(
        label,
        gate,
        Outcome.ABSENT,
        n=len(values),
        reason=f"{gate.figure} is absent in {whose}: {missing.note}",
    )


def _relative(
    gate: Threshold,
    label: str,
    baseline: Sequence[RunResult],
    runs: Sequence[RunResult],
    sensor_error: float,
) -> _Draft:
    a, b = _values(gate, baseline), _values(gate, runs)
    if (
        absent := _absent(gate, label, a, "the baseline") or _absent(gate, label, b, label)
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
    mean_a, mean_b = mean(known_a), mean(known_b)
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
        return _Draft(
            replace(
                result,
                reason=(
                    f"{len(a)} against {len(b)} runs: noise is not known from fewer than"
                    f" {MIN_REPEATS} a side"
                ),
            )
        )
    logs = min(*known_a, *known_b) > 0
    sign = -1.0 if gate.at_least else 1.0
    scaled_a, scaled_b = (
        [math.log(x) for x in known] if logs else known for known in (known_a, known_b)
    )
    systematic = (
        systematic_error(METRICS[gate.metric], baseline, runs, sensor_error) if logs else 0.0
    )
    difference = welch(scaled_a, scaled_b, systematic=systematic)
    if logs:
        result = replace(result, ratio=math.exp(difference.difference))
    return _Draft(
        result,
        loss=sign * difference.difference,
        margin=sign * (math.log(gate.limit) if logs else (gate.limit - 1) * mean_a),
        error=difference.error,
        df=difference.df or 1.0,
        systematic=systematic,
        logs=logs,
        deviation=difference.error / math.sqrt(1 / len(a) + 1 / len(b)),
    )


def _absolute(gate: Threshold, label: str, runs: Sequence[RunResult]) -> _Draft:
    values = _values(gate, runs)
    if (absent := _absent(gate, label, values, label)) is not None:
        return _Draft(absent)
    known = [value.value for value in values if value.value is not None]
    result = GateResult(label, gate, Outcome.TOO_FEW, mean(known), n=len(known), cv=_cv(known))
    if len(known) < MIN_REPEATS:
        met = gate.met_by(known[0])
        outcome = Outcome.PASSED if met else Outcome.FAILED
        return _Draft(
            replace(result, outcome=outcome, reason="one run: how far runs differ is not known")
        )
    logs = min(known) > 0 and gate.limit > 0
    sign = -1.0 if gate.at_least else 1.0
    scaled = [math.log(x) if logs else x for x in known]
    limit = math.log(gate.limit) if logs else gate.limit
    return _Draft(
        result,
        loss=sign * (mean(scaled) - limit),
        error=math.sqrt(variance(scaled) / len(scaled)),
        df=len(scaled) - 1,
        logs=logs,
        deviation=math.sqrt(variance(scaled)),
    )


def _cv(values: Sequence[float]) -> float | None:
    middle = mean(values)
    return math.sqrt(variance(values)) / abs(middle) if len(values) > 1 and middle else None


def _decided(draft: _Draft, tests: int, *, worse: bool) -> GateResult:
    """The outcome, with the noise band and the smallest loss that would have been found."""
    result, loss = draft.result, draft.loss
    if loss is None:
        return result
    gate = result.threshold
    at = result.ratio if gate.relative and result.ratio is not None else result.value
    met = at is not None and gate.met_by(
        at, 1.0 if result.ratio is not None else result.baseline or 0.0
    )
    if draft.error <= 0:
        same = "the repeats do not differ at all"
        if not met and 0 < loss <= draft.systematic:
            return replace(
                result,
                reason=(
                    f"{same}, but the boards' sensors may, by"
                    f" {_relative_loss(draft.systematic, gate):.1%}"
                ),
            )
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
        return replace(
            result, outcome=Outcome.FAILED, reason="beyond the limit, and more than noise"
        )
    if not met and by_margin:
        text = "beyond the limit, but no more than noise"
    elif by_margin:
        if draft.margin == 0 or least <= SEEN_MARGINS * margin or loss + half <= margin:
            return replace(result, outcome=Outcome.PASSED, reason="")
        text = (
            f"within the limit, but a loss of {_relative_loss(SEEN_MARGINS * margin, gate):.1%}"
            " could have been missed"
        )
    elif met and abs(loss - (draft.margin if gate.relative else 0.0)) > half:
        return replace(result, outcome=Outcome.PASSED, reason="")
    else:
        text = "the noise band holds the limit"
    wanted = _wanted(draft, margin, tests) if by_margin and margin > 0 else None
    more = (
        f"; about {wanted} repeats a side would do"
        if wanted is not None and wanted > min(result.n, result.n_baseline)
        else ""
    )
    return replace(result, outcome=Outcome.TOO_FEW, reason=text + more, repeats_wanted=wanted)


def _relative_loss(loss: float, gate: Threshold) -> float:
    """A loss on the logarithm as a share: what is lost of a figure that should be high, what is
    added to one that should be low.
    """
    return -math.expm1(-loss) if gate.at_least else math.expm1(loss)


def _with_band(draft: _Draft, result: GateResult, half: float) -> GateResult:
    if result.threshold.relative:
        if result.ratio is None:
            return result
        if draft.logs:
            return replace(
                result, low=result.ratio * math.exp(-half), high=result.ratio * math.exp(half)
            )
        assert result.baseline is not None
        return replace(
            result,
            low=result.ratio - half / abs(result.baseline),
            high=result.ratio + half / abs(result.baseline),
        )
    assert result.value is not None
    if draft.logs:
        return replace(
            result, low=result.value * math.exp(-half), high=result.value * math.exp(half)
        )
    return replace(result, low=result.value - half, high=result.value + half)


def _design(draft: _Draft, tests: int, margin: float, n_a: int, n_b: int) -> Design:
    """The test that the gate makes, with Holm's first and hardest step."""
    alpha = GATE_ALPHA / tests
    if draft.result.threshold.relative:
        return two_samples(
            draft.deviation, n_a, n_b, alpha, margin=margin, systematic=draft.systematic
        )
    return one_sample(draft.deviation, n_b, alpha, margin=margin, systematic=draft.systematic)


def _wanted(draft: _Draft, margin: float, tests: int) -> int | None:
    """Repeats a side, of the spread that was seen, after which a loss of `SEEN_MARGINS` would be
    found.
    """
    if SEEN_MARGINS * margin <= draft.systematic:
        return None
    for n in [*range(MIN_REPEATS, 20), *range(20, _MOST_REPEATS + 1, 10)]:
        if _design(draft, tests, margin, n, n).detection(SEEN_MARGINS * margin) >= POWER:
            return int(n)
    return None
