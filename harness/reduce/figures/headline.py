"""Which load stage heads the summary."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from harness.artifacts.run_summary import Headline, Slos
from harness.core.records import HeadlineRule
from harness.core.units import human_number
from harness.reduce.figures.window_figures import StageFigures
from harness.reduce.windows.measurement_window import StageWindow

SLO_SHARE: Final = 0.90
"""Minimum share of a stage's requests that meet every SLO. DistServe (Zhong et al., OSDI 2024)
defines goodput as the highest request rate with such a share, and uses 90%.
"""

_Figures = Mapping[str, StageFigures]


def choose(
    asked: str | None, windows: Sequence[StageWindow], results: _Figures, slos: Slos
) -> Headline | None:
    """The headline stage; None if no stage was started.

    Stages without a window cannot be chosen. A rule chooses a stage whose window was cut short
    only if no other has a window. The first of equal stages is chosen.

    Args:
        asked: a `HeadlineRule` or a stage's name; None: `best_under_slo` if there are SLOs, else
            `highest_throughput`.
        windows: of the stages, in order.
        results: their metrics, by name.
        slos: those of the profile.
    """
    if not windows:
        return None
    default = HeadlineRule.HIGHEST_THROUGHPUT if slos == Slos() else HeadlineRule.BEST_UNDER_SLO
    rule = asked or default
    measured = [one for one in windows if one.start is not None and one.end is not None]
    named = next((one for one in measured if one.name == rule), None)
    if not measured:
        stage, reason = windows[-1], "no stage has a measurement window"
    elif named is not None and rule not in set(HeadlineRule):
        stage, reason = named, "named by the profile"
    elif len(measured) == 1:
        stage = measured[0]
        reason = "the only stage" + (" with a measurement window" if len(windows) > 1 else "")
    elif rule == HeadlineRule.LAST:
        stage, reason = measured[-1], "the last stage with a measurement window"
    else:
        stage, reason = _best(rule, measured, results)
    return Headline(stage=stage.name, rule=rule, reason=reason)


def _best(rule: str, measured: Sequence[StageWindow], results: _Figures) -> tuple[StageWindow, str]:
    """The stage by a rule of values, of those that ran to the end of their window if there are
    any.
    """
    complete = [one for one in measured if not one.cut] or measured
    of = f"of {len(complete)} {'stage' if len(complete) == 1 else 'stages'}" + (
        "" if len(complete) == len(measured) else " whose window is complete"
    )

    def value(window: StageWindow, key: str) -> float | None:
        return _value(results[window.name], key)

    if rule == HeadlineRule.BEST_UNDER_SLO:
        good = [one for one in complete if (value(one, "slo_met_ratio") or 0.0) >= SLO_SHARE]
        best = _highest(good, lambda one: value(one, "output_tok_s"))
        if best is not None:
            text = (
                f"highest output throughput ({human_number(value(best, 'output_tok_s'))} tok/s)"
                f" among stages where at least {SLO_SHARE:.0%} of requests met every SLO"
                f" ({len(good)} {of})"
            )
            return best, text
        ranked = sorted(good or complete, key=lambda one: -(value(one, "slo_met_ratio") or 0.0))
        best = _highest(ranked, lambda one: value(one, "goodput_rps"))
        if best is not None:
            met = value(best, "slo_met_ratio") or 0.0
            why = f"in none did {SLO_SHARE:.0%} of requests meet every SLO (here {met:.0%})"
            if good:
                why = "stages that meet the SLOs have no output throughput"
            rate = human_number(value(best, "goodput_rps"))
            return best, f"highest goodput ({rate} requests/s) {of}: {why}"
    best = _highest(complete, lambda one: value(one, "output_tok_s"))
    if best is None:
        return complete[-1], "the last stage: no stage has an output throughput"
    text = f"highest output throughput ({human_number(value(best, 'output_tok_s'))} tok/s) {of}"
    if rule == HeadlineRule.BEST_UNDER_SLO:
        text += ": no stage has a goodput"
    elif rule != HeadlineRule.HIGHEST_THROUGHPUT:
        text += f": stage {rule} has no measurement window"
    return best, text


def _highest(
    stages: Sequence[StageWindow], value: Callable[[StageWindow], float | None]
) -> StageWindow | None:
    """The first stage with the highest value; None if no stage has one."""
    known = [(one, found) for one in stages if (found := value(one)) is not None]
    return max(known, key=lambda pair: pair[1])[0] if known else None


def _value(results: StageFigures, key: str) -> float | None:
    figure = results.metrics.get(key)
    return None if figure is None else figure.value
