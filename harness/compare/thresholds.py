"""Whether a summary meets a profile's thresholds. The grammar is `harness.profile.thresholds`; an
absent figure never passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from harness.artifacts.run_result import figure_of, statistic_of
from harness.artifacts.run_summary import Figure, Summary
from harness.core.errors import ProfileError
from harness.core.units import human_number
from harness.profile.thresholds import Threshold, parse_threshold

COLUMNS: Final = ("threshold", "value", "limit", "result", "reason")
"""Headings of `ThresholdResult.row`."""


@dataclass(frozen=True, slots=True)
class ThresholdResult:
    """One threshold held against a summary.

    Attributes:
        threshold: what was asked.
        value: the figure, in the metric's unit; None when it is absent.
        passed: False whenever the figure is absent.
        reason: why it is absent, or not judged; None where there is a value.
        judged: whether one run can answer it: not a share of a baseline, which takes repeats
            (`harness.compare.gates`).
    """

    threshold: Threshold
    value: float | None
    passed: bool
    reason: str | None = None
    judged: bool = True

    def row(self) -> tuple[str, ...]:
        """As text, under `COLUMNS`."""
        return (
            self.threshold.text,
            human_number(self.value),
            f"{self.threshold.operator} {human_number(self.threshold.limit)}"
            + (" * baseline" if self.threshold.relative else ""),
            "not judged" if not self.judged else "passed" if self.passed else "FAILED",
            self.reason or "",
        )


def evaluate_thresholds(thresholds: Sequence[str], summary: Summary) -> list[ThresholdResult]:
    """Hold a summary against thresholds, in their order.

    Args:
        thresholds: as the profile writes them,
            `METRIC[@BOUNDARY][.STATISTIC] OPERATOR NUMBER[UNIT]`.
        summary: of one run.

    Raises:
        ProfileError: a threshold is not in the grammar.
    """
    return [_evaluate(text, summary) for text in thresholds]


def _evaluate(text: str, summary: Summary) -> ThresholdResult:
    try:
        threshold = parse_threshold(text)
    except ValueError as error:
        raise ProfileError(
            f"threshold {text!r}: {error}", next_step="write it like 'ttft_s.p99 < 1.5'"
        ) from error
    found = _lookup(threshold, summary)
    if threshold.relative:
        reason = (
            "a share of a baseline takes repeats of both: harness repeat, or harness compare --gate"
        )
        return ThresholdResult(threshold, found.value, passed=False, reason=reason, judged=False)
    if found.value is None:
        return ThresholdResult(
            threshold, None, passed=False, reason=f"{threshold.figure} is absent: {found.note}"
        )
    return ThresholdResult(threshold, found.value, passed=threshold.met_by(found.value))


def _lookup(threshold: Threshold, summary: Summary) -> Figure:
    """The figure that a threshold means; the grammar has seen to it that distributions come with a
    statistic and nothing else does.
    """
    if threshold.statistic is not None:
        return statistic_of(summary, threshold.metric, threshold.statistic)
    plain = figure_of(summary, threshold.metric)
    if threshold.boundary is None or plain.boundary == threshold.boundary:
        return plain
    return figure_of(summary, f"{threshold.metric}@{threshold.boundary}")
