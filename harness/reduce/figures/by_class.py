"""The headline window by class of requests: parts of a mix, subagents of a recorded trace.

Every token belongs to exactly one class, so the classes' tokens add up to the total.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from harness.artifacts.run_summary import ClassSummary, Figure, Slos
from harness.plan.types import PRIME_SUFFIX
from harness.profile.recorded import RecordedPrice
from harness.reduce.figures import window_figures as stages
from harness.reduce.figures.window_figures import StageFigures
from harness.reduce.figures.without_records import unless_counted
from harness.reduce.over_time.flows import Flows, flows_of
from harness.reduce.read.categorical import Bools, Categorical
from harness.reduce.read.requests import Requests
from harness.reduce.read.run import Run
from harness.reduce.windows.measurement_window import StageWindow

CLASS_KEYS: Final = (
    "output_tok_s",
    "output_tok_s_per_gpu",
    "input_tok_s",
    "input_computed_tok_s",
    "input_cache_read_tok_s",
    "input_cache_write_tok_s",
    "total_tok_s",
    "requests_per_s",
    "goodput_rps",
    "goodput_tok_s",
    "slo_met_ratio",
    "error_ratio",
    "interactivity_tok_s_user",
    "interactivity_p90_tok_s_user",
    "requests_in_flight",
    "mean_input_tok",
    "mean_output_tok",
    "prefix_hit_ratio",
)
"""Metrics that exist by class."""


def class_summaries(
    run: Run, window: StageWindow | None, whole: Flows, slos: Slos, headline: StageFigures
) -> tuple[ClassSummary, ...]:
    """One summary per class in the headline window, ordered by name; empty without a window.

    Estimates of unfinished streams come from `whole`, the flows of all requests, so that the
    classes add up. `headline` (metrics over all classes) is used if there is only one class.
    """
    if window is None or window.start is None or window.end is None:
        return ()
    requests = run.requests
    names = class_names(requests)
    in_stage = requests.stage == window.name
    found = list(names[in_stage & ~requests.priming].counts())
    if len(found) == 1:
        mine = in_stage & (names == found[0])
        counts = stages.count(requests, mine, None, stages.intended_in(requests, window), None)
        return (ClassSummary(str(found[0]), counts, _kept(headline.metrics), headline.latency),)
    return tuple(_one(run, window, whole, slos, str(name), names == name) for name in found)


def class_names(requests: Requests) -> Categorical:
    """The class of each request; a priming request has the class of its session."""
    return requests.workload_class.renamed(lambda name: name.removesuffix(PRIME_SUFFIX))


def _one(
    run: Run, window: StageWindow, whole: Flows, slos: Slos, name: str, mine: Bools
) -> ClassSummary:
    requests = run.requests
    flow = flows_of(run, whole, mine)
    figures = stages.window_figures(
        replace(run, samples=None, power=None), window, flow, None, slos, RecordedPrice(), mine
    )
    figures = unless_counted(figures, requests, flow, mine)
    in_stage = (requests.stage == window.name) & mine
    counts = stages.count(
        requests, in_stage, None, stages.intended_in(requests, window) & mine, None
    )
    requests.release()
    return ClassSummary(name, counts, _kept(figures.metrics), figures.latency)


def _kept(metrics: Mapping[str, Figure]) -> dict[str, Figure]:
    return {key: metrics[key] for key in CLASS_KEYS if key in metrics}
