"""Evaluates a profile's thresholds on a summary. The grammar is `harness.profile.thresholds`; an
absent value never passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from harness.artifacts.run_result import figure_of, statistic_of
from harness.artifacts.run_summary import Figure, Summary
from harness.core.errors import ProfileError
from harness.core.records import Basis, Severity
from harness.core.units import human_number
from harness.profile.thresholds import CAPACITY, EVERY_STAGE, Threshold, parse_threshold

COLUMNS: Final = ("threshold", "value", "limit", "result", "reason")
"""Headings of `ThresholdResult.row`."""


@dataclass(frozen=True, slots=True)
class ThresholdResult:
    """One threshold evaluated on a summary.

    Attributes:
        value: in the metric's unit; None if it is absent.
        passed: False whenever the value is absent.
        reason: why the value is absent or not judged, else None.
        judged: False for a share of a baseline, which needs repeats (`harness.compare.gates`).
    """

    threshold: Threshold
    value: float | None
    passed: bool
    reason: str | None = None
    judged: bool = True

    def row(self) -> tuple[str, ...]:
        return (
            self.threshold.text,
            human_number(self.value),
            f"{self.threshold.operator} {human_number(self.threshold.limit)}"
            + (" * baseline" if self.threshold.relative else ""),
            "not judged" if not self.judged else "passed" if self.passed else "FAILED",
            self.reason or "",
        )


def evaluate_thresholds(thresholds: Sequence[str], summary: Summary) -> list[ThresholdResult]:
    """Evaluate thresholds such as `METRIC[@BOUNDARY][.STATISTIC] OPERATOR NUMBER[UNIT]`, in their
    order; those on every stage (`*: …`) for each stage. Those on a capacity are of a search and
    left out.

    Raises:
        ProfileError: a threshold is not in the grammar.
    """
    names = [stage.name for stage in summary.stages]
    return [
        _evaluate(one, summary)
        for text in thresholds
        if (threshold := _parsed(text)).metric != CAPACITY
        for one in threshold.at_stages(names) or (threshold,)
    ]


def _parsed(text: str) -> Threshold:
    try:
        return parse_threshold(text)
    except ValueError as error:
        raise ProfileError(
            f"threshold {text!r}: {error}", next_step="write it as in 'ttft_s.p99 < 1.5'"
        ) from error


def _evaluate(threshold: Threshold, summary: Summary) -> ThresholdResult:
    found = value_of(threshold, summary)
    if threshold.relative:
        reason = "needs repeats of both sides: use harness repeat or harness compare --gate"
        return ThresholdResult(threshold, found.value, passed=False, reason=reason, judged=False)
    if found.value is None:
        reason = threshold.figure + f" is absent: {found.note}"
        return ThresholdResult(threshold, None, passed=False, reason=reason)
    if invalid := _invalid(threshold, summary):
        reason = f"stage {threshold.stage} supports no claim: {', '.join(invalid)}"
        return ThresholdResult(threshold, found.value, passed=False, reason=reason)
    return ThresholdResult(threshold, found.value, passed=threshold.met_by(found.value))


def value_of(threshold: Threshold, summary: Summary) -> Figure:
    """The value that a threshold names. By the grammar, distributions and only they have a
    statistic.
    """
    if threshold.metric == CAPACITY:
        return Figure(None, "", basis=Basis.ABSENT, note="capacities are of searches, not of runs")
    source = summary if threshold.stage is None else summary.stage(threshold.stage)
    if source is None:
        missing = "any stage" if threshold.stage == EVERY_STAGE else f"a stage {threshold.stage}"
        return Figure(None, "", basis=Basis.ABSENT, note=f"the run does not have {missing}")
    if threshold.statistic is not None:
        return statistic_of(source, threshold.metric, threshold.statistic)
    plain = figure_of(source, threshold.metric)
    if threshold.boundary is None or plain.boundary == threshold.boundary:
        return plain
    return figure_of(source, f"{threshold.metric}@{threshold.boundary}")


def _invalid(threshold: Threshold, summary: Summary) -> list[str]:
    """Codes of concerns for which the stage of a threshold supports no claim."""
    stage = summary.stage(threshold.stage)
    concerns = stage.concerns if stage is not None else ()
    return [one.code for one in concerns if one.severity is Severity.INVALID]
