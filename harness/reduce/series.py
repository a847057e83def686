"""The run on a common time grid, for charts and export. Rates are means; NaN is unknown."""

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
from harness.reduce.windows.figure_set import NS
from harness.reduce.windows.steady_state import prefix_hit_ratio, quotient

if TYPE_CHECKING:
    import pandas as pd

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
"""Columns of every exported series, in this order, also if unknown; those per boundary follow."""
_RENAMED: Final = {
    "server_running": "server_running_requests",
    "server_waiting": "server_waiting_requests",
    "kv_usage": "kv_usage_ratio",
}
_MOST_EXPORTED_STEPS: Final = 100_000
"""About a day of seconds."""


@dataclass(frozen=True, slots=True)
class Series:
    """Values per time step.

    Attributes:
        t_s: starts of the steps, from the run's start.
        columns: name -> one value per step, if known: those of `EXPORTED`, some with the names in
            `_RENAMED`, and `<boundary>_w` (from the energy of each step, at each boundary of the
            headline's window). `power_w` is GPU board power, the mean of its readings.
        boundary: of `output_tok_per_j`; None without energy.
    """

    step_s: int
    t_s: Floats
    columns: dict[str, Floats]
    boundary: str | None = None


def series(reduction: Reduction, most_steps: int = 240) -> Series:
    """The time of the load on a grid of whole seconds."""
    run, flow, counters = reduction.run, reduction.flows, reduction.counters
    requests = run.requests
    starts = [w.stage_start for w in reduction.windows if w.stage_start is not None]
    ends = [w.stage_end for w in reduction.windows if w.stage_end is not None]
    starts += [float(np.min(requests.intended))] if len(requests) else []
    ended = requests.done[~np.isnan(requests.done)]
    ends += [float(np.max(ended))] if len(ended) else []
    evidence = last_evidence(run)
    if not ends and evidence is not None:
        ends.append(evidence)
    if not starts or not ends or max(ends) <= min(starts):
        return Series(1, np.zeros(0), {})
    first = float(np.floor(min(starts) * NS))
    length_s = max(ends) * NS - first
    step_s = max(1, int(np.ceil(length_s / most_steps)))
    steps = max(1, int(np.ceil(length_s / step_s)))
    edges_s: Floats = first + step_s * np.arange(steps + 1, dtype=np.float64)
    edges: Floats = edges_s * 1e9

    def rate(what: Flow) -> Floats:
        return what.per_bin(edges) / step_s

    tokens, known = context(requests, evidence or 0.0)
    columns = {
        "output_tok_s": rate(flow.output.flow),
        "input_tok_s": rate(flow.input),
        "requests_in_flight": np.maximum(rate(flow.in_flight) * NS, 0.0),
        "live_conversations": np.maximum(rate(flow.live) * NS, 0.0),
        "requests_per_s": rate(moments(requests, requests.done, requests.ok)),
        "failed_per_s": rate(moments(requests, requests.done, requests.failed)),
        "mean_context_tok": quotient(
            tokens.per_bin(edges), known.per_bin(edges), least=1e3 * step_s
        ),
    }
    if flow.computed is not None and flow.cache_read is not None:
        columns["input_computed_tok_s"] = np.maximum(rate(flow.computed), 0.0)
        columns["input_cache_read_tok_s"] = np.maximum(rate(flow.cache_read), 0.0)
    hits = prefix_hit_ratio(flow, counters, edges)
    if hits is not None:
        columns["prefix_hit_ratio"] = hits
    for name, concept in (
        ("server_running", Concept.RUNNING),
        ("server_waiting", Concept.WAITING),
        ("kv_usage", Concept.KV_USAGE),
    ):
        gauge = counters.gauge(concept, share=name == "kv_usage") if counters is not None else None
        if gauge is not None:
            columns[name] = _mean_per_step(*gauge, edges)
    watts = _power(run.power, expected_gpus(run), edges) if run.power is not None else None
    if watts is not None:
        columns["power_w"] = watts
    boundary = _energy(reduction, edges, step_s, columns)
    if lost(run.concerns):
        kept = [name for name in columns if name in OTHERS or name.endswith("_w")]
        columns = {name: columns[name] for name in kept}
    return Series(step_s, edges_s[:-1], columns, boundary)


def _energy(
    reduction: Reduction, edges: Floats, step_s: int, columns: dict[str, Floats]
) -> str | None:
    """Add power per boundary, and tokens per joule at the plain one; returns that boundary."""
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
    """The series as a table for export: one row per step, units as suffixes, NaN if unknown.

    Columns: `t_s` (start of the step, seconds from the run's start), `step_s`, `stage` (in which
    the step begins, or None), `in_window` (the step lies entirely in its measurement window),
    `EXPORTED`, and `<boundary>_w`. The boundary of `output_tok_per_j` is in `attrs["boundary"]`.
    """
    import pandas as pd  # slow, and only export needs it

    grid = series(reduction, most_steps)
    columns = {_RENAMED.get(name, name): values for name, values in grid.columns.items()}
    stage = np.full(len(grid.t_s), None, dtype=object)
    in_window = np.zeros(len(grid.t_s), dtype=bool)
    begin, end = grid.t_s, grid.t_s + grid.step_s
    for window in reduction.windows:
        if window.stage_start is not None:
            until = window.stage_end if window.stage_end is not None else np.inf
            stage[(begin >= window.stage_start * NS) & (begin < until * NS)] = window.name
        if window.start is not None and window.end is not None:
            in_window |= (begin >= window.start * NS) & (end <= window.end * NS)
    table = pd.DataFrame(
        {
            "t_s": grid.t_s,
            "step_s": float(grid.step_s),
            "stage": pd.Series(stage, dtype="str"),
            "in_window": in_window,
            **{name: columns.get(name, np.nan) for name in EXPORTED},
            **{name: values for name, values in sorted(columns.items()) if name not in EXPORTED},
        }
    )
    table.attrs = {"boundary": grid.boundary}
    return table


def _mean_per_step(t: Floats, values: Floats, edges: Floats) -> Floats:
    """Mean of the readings in each step; NaN without readings."""
    step = np.searchsorted(edges, t, side="right") - 1
    inside = (step >= 0) & (step < len(edges) - 1) & ~np.isnan(values)
    count, total = (
        np.bincount(step[inside], weights, len(edges) - 1) for weights in (None, values[inside])
    )
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _power(power: Columns, gpus: ExpectedGpus, edges: Floats) -> Floats | None:
    """GPU board power per step, summed over devices; None if any is missing."""
    rows = (power["boundary"] == Boundary.GPU_BOARD) & ~np.isnan(power["power_w"])
    devices = gpus.mine(set(power["device_id"][rows]))
    if not devices or gpus.why_not(devices):
        return None
    found = (rows & (power["device_id"] == device) for device in devices)
    means = (_mean_per_step(power["t_ns"][mine], power["power_w"][mine], edges) for mine in found)
    return sum(means, np.zeros(len(edges) - 1))
