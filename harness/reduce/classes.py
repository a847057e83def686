"""The headline's window by class of requests: the parts of a mix, the subagents of a recorded trace.

Every token belongs to exactly one class, so the classes' tokens add up to the whole's.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import pyarrow as pa

from harness.plan.types import PRIME_SUFFIX
from harness.reduce import stage as stages
from harness.reduce.labels import Bools, Labels
from harness.reduce.load import Run
from harness.reduce.requests import Ints, Requests
from harness.reduce.stage import Flows, StageFigures
from harness.reduce.summary import ClassSummary, Figure
from harness.reduce.windows import StageWindow

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
"""Metrics that can be told apart by class."""


def class_summaries(
    run: Run, window: StageWindow | None, whole: Flows, slos: Mapping[str, float | None], headline: StageFigures
) -> tuple[ClassSummary, ...]:
    """One summary a class, in the order of their names; empty without a measured window.

    Args:
        run: the run.
        window: the one that heads the summary.
        whole: flows of all requests; estimates of unfinished streams are taken from them, so that the classes add up.
        slos: of the profile.
        headline: figures of the window over all classes: where there is one class, they are its own.
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


def class_names(requests: Requests) -> Labels:
    """The class of each request; a priming request is of the class of its conversation."""
    return requests.workload_class.renamed(lambda name: name.removesuffix(PRIME_SUFFIX))


def _one(run: Run, window: StageWindow, whole: Flows, slos: Mapping[str, float | None], name: str, mine: Bools) -> ClassSummary:
    rows = np.flatnonzero(mine)
    requests = taken(run.requests, rows)
    # Tokens as the whole run placed them: the estimate of an unfinished stream must not depend on what else is looked at.
    flow = stages.flows(replace(run, requests=replace(requests, output_tok=whole.output.per_request[rows])))
    estimated = whole.output.estimated[rows]
    output = replace(flow.output, estimated=estimated, estimated_tok=float(np.sum(flow.output.per_request[estimated])))
    flow = replace(flow, output=output, tpot_s=whole.tpot_s[rows])
    part = replace(run, requests=requests, samples=None, power=None)
    figures = stages.figures(part, window, flow, None, slos, {})
    in_stage = requests.stage == window.name
    counts = stages.count(requests, in_stage, None, stages.intended_in(requests, window), None)
    return ClassSummary(name, counts, _kept(figures.metrics), figures.latency)


def _kept(metrics: Mapping[str, Figure]) -> dict[str, Figure]:
    return {key: metrics[key] for key in CLASS_KEYS if key in metrics}


def taken(requests: Requests, rows: Ints) -> Requests:
    """Some of the requests, with their chunks, in the same order."""
    names = [name for name in Requests.__dataclass_fields__ if name not in ("request_id", "error", "chunks")]
    columns = {name: getattr(requests, name)[rows] for name in names}
    arrow = {name: getattr(requests, name).take(pa.array(rows)) for name in ("request_id", "error")}
    return Requests(**columns, **arrow, chunks=requests.chunks.of_requests(rows))
