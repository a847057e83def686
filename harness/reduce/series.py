"""The run on a common time grid, for charts and export. Rates are means over a step; NaN is not known."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from harness.core.metric_names import Concept
from harness.core.records import Boundary
from harness.reduce.energy import Columns
from harness.reduce.reduction import Reduction
from harness.reduce.stage import gpu_uuids
from harness.reduce.stats import Floats
from harness.reduce.tokens import Flow
from harness.reduce.windows import last_evidence

_NS: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Series:
    """What happened in each step of time.

    Attributes:
        step_s: length of a step, a whole number of seconds.
        t_s: starts of the steps, from the run's start.
        columns: name -> one value a step. `output_tok_s`, `requests_in_flight`, `live_conversations`, `failed_per_s` always; where known
            `input_computed_tok_s`, `input_cache_read_tok_s`, `input_tok_s`, `server_running`, `server_waiting`, `kv_usage`, `power_w`.
    """

    step_s: int
    t_s: Floats
    columns: dict[str, Floats]


def series(reduction: Reduction, most_steps: int = 240) -> Series:
    """The load's time on a grid of whole seconds, of at most so many steps."""
    run, flow = reduction.run, reduction.flows
    requests = run.requests
    starts = [w.stage_start for w in reduction.windows if w.stage_start is not None]
    if len(requests):
        starts.append(float(np.min(requests.intended)))
    ended = requests.done[~np.isnan(requests.done)]
    ends = [w.stage_end for w in reduction.windows if w.stage_end is not None]
    if len(ended):
        ends.append(float(np.max(ended)))
    evidence = last_evidence(run)
    if not ends and evidence is not None:
        ends.append(evidence)
    if not starts or not ends or max(ends) <= min(starts):
        return Series(1, np.zeros(0), {})
    first = float(np.floor(min(starts) * _NS))
    last = max(ends) * _NS
    step_s = max(1, int(np.ceil((last - first) / most_steps)))
    steps = max(1, int(np.ceil((last - first) / step_s)))
    edges_s: Floats = first + step_s * np.arange(steps + 1, dtype=np.float64)
    edges: Floats = edges_s * 1e9

    def rate(what: Flow) -> Floats:
        return what.per_bin(edges) / step_s

    none = np.zeros(0)
    failures = requests.done[requests.failed]
    columns = {
        "output_tok_s": rate(flow.output.flow),
        "input_tok_s": rate(flow.input),
        "requests_in_flight": np.maximum(rate(flow.in_flight) * _NS, 0.0),
        "live_conversations": np.maximum(rate(flow.live) * _NS, 0.0),
        "failed_per_s": rate(Flow.of(failures, np.ones(len(failures)), none, none, none)),
    }
    if flow.computed is not None and flow.cache_read is not None:
        columns["input_computed_tok_s"] = np.maximum(rate(flow.computed), 0.0)
        columns["input_cache_read_tok_s"] = np.maximum(rate(flow.cache_read), 0.0)
    if reduction.counters is not None:
        for name, concept in (("server_running", Concept.RUNNING), ("server_waiting", Concept.WAITING), ("kv_usage", Concept.KV_USAGE)):
            gauge = reduction.counters.gauge(concept, share=concept is Concept.KV_USAGE)
            if gauge is not None:
                columns[name] = _mean_per_step(*gauge, edges)
    if run.power is not None:
        watts = _power(run.power, gpu_uuids(run), edges)
        if watts is not None:
            columns["power_w"] = watts
    return Series(step_s, edges_s[:-1], columns)


def _mean_per_step(t: Floats, values: Floats, edges: Floats) -> Floats:
    """Mean of the readings in each step; NaN in steps without one."""
    step = np.searchsorted(edges, t, side="right") - 1
    inside = (step >= 0) & (step < len(edges) - 1) & ~np.isnan(values)
    count = np.bincount(step[inside], minlength=len(edges) - 1)
    total = np.bincount(step[inside], weights=values[inside], minlength=len(edges) - 1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _power(power: Columns, uuids: list[str], edges: Floats) -> Floats | None:
    """Watts of the GPU boards per step, summed over devices; None when none was read."""
    rows = (power["boundary"] == Boundary.GPU_BOARD) & ~np.isnan(power["power_w"])
    devices = [device for device in sorted(set(power["device_id"][rows])) if not uuids or device in uuids]
    if not devices:
        return None
    summed = np.zeros(len(edges) - 1)
    for device in devices:
        mine = rows & (power["device_id"] == device)
        summed += _mean_per_step(power["t_ns"][mine], power["power_w"][mine], edges)
    return summed
