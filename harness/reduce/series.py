"""The run on a common time grid, for charts and export. Rates are means over a step; NaN is not
known.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from harness.core.metric_names import Concept
from harness.core.records import Boundary
from harness.reduce.figures.without_records import OTHERS, lost
from harness.reduce.over_time.flow import Flow
from harness.reduce.over_time.tokens import context, moments
from harness.reduce.read.expected_gpus import ExpectedGpus, expected_gpus
from harness.reduce.read.run import Columns, last_evidence
from harness.reduce.reduction import Reduction
from harness.reduce.statistics.intervals import Floats
from harness.reduce.windows.steady_state import prefix_hit_ratio, quotient

if TYPE_CHECKING:
    import pandas as pd

_NS: Final = 1e-9

EXPORTED: Final = (
    "output_tok_s",
    "input_tok_s",
    "input_computed_tok_s",
    "input_cache_read_tok_s",
    "requests_per_s",
    "failed_per_s",
    "requests_in_flight",
    "live_conversations",
    "mean_context_tok",
    "prefix_hit_ratio",
    "server_running_requests",
    "server_waiting_requests",
    "kv_usage_ratio",
    "power_w",
    "output_tok_per_j",
)
"""Columns of every exported series, in this order and whether anything is known of them or not;
those of single boundaries follow.
"""
_RENAMED: Final = {
    "server_running": "server_running_requests",
    "server_waiting": "server_waiting_requests",
    "kv_usage": "kv_usage_ratio",
}
_MOST_EXPORTED_STEPS: Final = 100_000
"""A bit more than a day of seconds."""


@dataclass(frozen=True, slots=True)
class Series:
    """What happened in each step of time.

    Attributes:
        step_s: length of a step, a whole number of seconds.
        t_s: starts of the steps, from the run's start.
        columns: name -> one value a step. `output_tok_s`, `input_tok_s`, `requests_per_s`,
            `requests_in_flight`, `live_conversations`, `failed_per_s`, `mean_context_tok` always;
            where known `input_computed_tok_s`, `input_cache_read_tok_s`, `prefix_hit_ratio`,
            `server_running`, `server_waiting`, `kv_usage`, `power_w` (GPU boards, means of their
            readings), `output_tok_per_j` and `<boundary>_w` (by the energy of each step, at each
            boundary of the headline's window).
        boundary: that `output_tok_per_j` is taken at; None without energy.
    """

    step_s: int
    t_s: Floats
    columns: dict[str, Floats]
    boundary: str | None = None


def series(reduction: Reduction, most_steps: int = 240) -> Series:
    """The load's time on a grid of whole seconds, of at most so many steps; what it is made from
    lies in the run directory.
    """
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

    tokens, known = context(requests, evidence or 0.0)
    columns = {
        "output_tok_s": rate(flow.output.flow),
        "input_tok_s": rate(flow.input),
        "requests_in_flight": np.maximum(rate(flow.in_flight) * _NS, 0.0),
        "live_conversations": np.maximum(rate(flow.live) * _NS, 0.0),
        "requests_per_s": rate(moments(requests, requests.done, requests.ok)),
        "failed_per_s": rate(moments(requests, requests.done, requests.failed)),
        "mean_context_tok": quotient(
            tokens.per_bin(edges), known.per_bin(edges), least=1e3 * step_s
        ),
    }
    if flow.computed is not None and flow.cache_read is not None:
        columns["input_computed_tok_s"] = np.maximum(rate(flow.computed), 0.0)
        columns["input_cache_read_tok_s"] = np.maximum(rate(flow.cache_read), 0.0)
    hits = prefix_hit_ratio(flow, reduction.counters, edges)
    if hits is not None:
        columns["prefix_hit_ratio"] = hits
    if reduction.counters is not None:
        for name, concept in (
            ("server_running", Concept.RUNNING),
            ("server_waiting", Concept.WAITING),
            ("kv_usage", Concept.KV_USAGE),
        ):
            gauge = reduction.counters.gauge(concept, share=concept is Concept.KV_USAGE)
            if gauge is not None:
                columns[name] = _mean_per_step(*gauge, edges)
    if run.power is not None:
        watts = _power(run.power, expected_gpus(run), edges)
        if watts is not None:
            columns["power_w"] = watts
    boundary = _energy(reduction, edges, step_s, columns)
    if lost(reduction.run.concerns):
        columns = {
            name: values
            for name, values in columns.items()
            if name in OTHERS or name.endswith("_w")
        }
    return Series(step_s, edges_s[:-1], columns, boundary)


def _energy(
    reduction: Reduction, edges: Floats, step_s: int, columns: dict[str, Floats]
) -> str | None:
    """Add watts of each boundary and tokens per joule of the plain one; returns that boundary."""
    headline = reduction.headline
    energy = reduction.figures[headline.name].energy if headline is not None else None
    if energy is None:
        return None
    for one in energy.energies:
        if one.joules is not None:
            columns[f"{one.boundary}_w"] = one.per_bin(edges) / step_s
    plain = energy.plain
    if plain is None or plain.joules is None:
        return None
    columns["output_tok_per_j"] = quotient(
        columns["output_tok_s"], np.nan_to_num(columns[f"{plain.boundary}_w"])
    )
    return str(plain.boundary)


def frame(reduction: Reduction, most_steps: int = _MOST_EXPORTED_STEPS) -> "pd.DataFrame":
    """The series as a table for export: one row a step, units as suffixes, NaN where nothing is
    known.

    Columns: `t_s` (start of the step, seconds from the run's start), `step_s`, `stage` (that the
    step begins in; None before, between and after), `in_window` (the whole step lies in that
    stage's measured window), those of `EXPORTED`, and `<boundary>_w` of every boundary. The
    boundary of `output_tok_per_j` is in `attrs["boundary"]`.
    """
    import pandas as pd  # here, so that reductions without export do not wait for it

    grid = series(reduction, most_steps)
    columns = {_RENAMED.get(name, name): values for name, values in grid.columns.items()}
    unknown = np.full(len(grid.t_s), np.nan)
    stage = np.full(len(grid.t_s), None, dtype=object)
    in_window = np.zeros(len(grid.t_s), dtype=bool)
    for window in reduction.windows:
        if window.stage_start is not None:
            until = window.stage_end if window.stage_end is not None else np.inf
            stage[(grid.t_s >= window.stage_start * _NS) & (grid.t_s < until * _NS)] = window.name
        if window.start is not None and window.end is not None:
            in_window |= (grid.t_s >= window.start * _NS) & (
                grid.t_s + grid.step_s <= window.end * _NS
            )
    table = pd.DataFrame(
        {
            "t_s": grid.t_s,
            "step_s": float(grid.step_s),
            "stage": pd.Series(stage, dtype="str"),
            "in_window": in_window,
            **{name: columns.get(name, unknown) for name in EXPORTED},
            **{name: values for name, values in sorted(columns.items()) if name not in EXPORTED},
        }
    )
    table.attrs = {"boundary": grid.boundary}
    return table


def _mean_per_step(t: Floats, values: Floats, edges: Floats) -> Floats:
    """Mean of the readings in each step; NaN in steps without one."""
    step = np.searchsorted(edges, t, side="right") - 1
    inside = (step >= 0) & (step < len(edges) - 1) & ~np.isnan(values)
    count = np.bincount(step[inside], minlength=len(edges) - 1)
    total = np.bincount(step[inside], weights=values[inside], minlength=len(edges) - 1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _power(power: Columns, gpus: ExpectedGpus, edges: Floats) -> Floats | None:
    """Watts of the GPU boards per step, summed over devices; None when not all were read."""
    rows = (power["boundary"] == Boundary.GPU_BOARD) & ~np.isnan(power["power_w"])
    devices = gpus.mine(set(power["device_id"][rows]))
    if not devices or gpus.why_not(devices) is not None:
        return None
    summed = np.zeros(len(edges) - 1)
    for device in devices:
        mine = rows & (power["device_id"] == device)
        summed += _mean_per_step(power["t_ns"][mine], power["power_w"][mine], edges)
    return summed
