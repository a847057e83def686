"""Energy details of a run for its report, in addition to the metrics."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from harness.artifacts.run_summary import AboveIdle, ClassSummary, Idle, RunEnergy
from harness.core.records import Boundary
from harness.profile.recorded import RecordedEnergy
from harness.reduce.energy.attribution import (
    Attribution,
    StageSlices,
    components,
    decode_context,
    fit,
    slice_edges,
)
from harness.reduce.energy.devices import Energy
from harness.reduce.energy.idle import BEFORE_SERVER, READY, WithoutLoad, above
from harness.reduce.energy.window import WindowEnergy, carbon
from harness.reduce.figures.energy_by_class import allocate
from harness.reduce.over_time.flow import Flow
from harness.reduce.over_time.tokens import Output
from harness.reduce.read.requests import Requests
from harness.reduce.read.run import Run
from harness.reduce.statistics.intervals import Floats

NS: Final = 1e-9


@dataclass(frozen=True, slots=True)
class StageEnergy:
    """Energy of one stage."""

    name: str
    found: WindowEnergy | None


@dataclass(frozen=True, slots=True)
class Flowing:
    """Work over the run's time; `computed` and `cache_read` are None if unknown."""

    output: Output
    input: Flow
    computed: Flow | None
    cache_read: Flow | None
    in_flight: Flow


def run_energy(
    run: Run,
    headline: str | None,
    stages: Sequence[StageEnergy],
    flow: Flowing,
    until: float,
    classes: Sequence[ClassSummary],
) -> RunEnergy:
    """Energy of a run. `headline`: name of a stage; `until`: end of requests without one;
    `classes`: of the headline window.
    """
    top = next((stage.found for stage in stages if stage.name == headline), None)
    settings = run.profile.energy
    if top is None:
        return RunEnergy(attribution=Attribution("there is no measurement window").summarized())
    attribution = _attribution(run.requests, settings, stages, flow, headline)
    plain = top.plain
    shared = None
    if plain is not None:
        length_s = (top.end - top.start) * NS
        rates = {one.name: one.metrics["output_tok_s"].value for one in classes}
        tokens = {name: rate * length_s for name, rate in rates.items() if rate is not None}
        shared = allocate(
            run.requests, flow.output, plain, top.start, top.end, until, tokens, attribution
        )
    before, ready = top.idle.get(BEFORE_SERVER), top.idle.get(READY)
    return RunEnergy(
        window=headline,
        boundaries={energy.boundary: energy.summarized() for energy in top.energies},
        idle=Idle(
            before_server=None if before is None else before.summarized(),
            ready=None if ready is None else ready.summarized(),
            above={energy.boundary: _above(energy, before, ready) for energy in top.energies},
        ),
        ladder=top.rungs,
        attribution=attribution.summarized(),
        classes=shared,
        boards=top.boards,
        carbon=carbon(top.rungs, settings),
    )


def _above(energy: Energy, before: WithoutLoad | None, ready: WithoutLoad | None) -> AboveIdle:
    active, above_ready = (
        above(energy, None if idle is None else idle.at(energy.boundary))
        for idle in (before, ready)
    )
    return AboveIdle(
        total_w=energy.watts,
        active_w=None if active is None else active.watts,
        active_error_w=None if active is None else active.error_w,
        above_ready_w=None if above_ready is None else above_ready.watts,
        above_ready_error_w=None if above_ready is None else above_ready.error_w,
    )


def _attribution(
    requests: Requests,
    settings: RecordedEnergy,
    stages: Sequence[StageEnergy],
    flow: Flowing,
    headline: str | None,
) -> Attribution:
    if not settings.attribute:
        return Attribution("not requested (energy.attribute)")
    if flow.computed is None:
        return Attribution("the computed part of the input is unknown")
    context = decode_context(requests, flow.output)
    gathered: list[StageSlices] = []
    boundary: str | None = None
    ready: WithoutLoad | None = None
    for stage in stages:
        if stage.found is None or stage.found.plain is None:
            return Attribution(f"stage {stage.name} has no energy")
        plain = stage.found.plain
        if plain.joules is None:
            return Attribution(f"stage {stage.name} has no energy: {plain.reason}")
        if plain.boundary == Boundary.FACILITY or (
            boundary is not None and plain.boundary != boundary
        ):
            return Attribution("the stages' energy is not all from the same GPUs")
        boundary = plain.boundary
        ready = stage.found.idle.get(READY)
        gathered.append(
            _slices(stage.name, plain, stage.found.start, stage.found.end, flow, context)
        )
    idle = None if ready is None or boundary is None else ready.at(boundary)
    if ready is None or idle is None or idle.joules is None:
        why = "" if idle is None or idle.reason is None else f": {idle.reason}"
        return Attribution(f"no idle power with the model loaded (energy.idle_s){why}")
    if not idle.parts:
        return Attribution("idle power is that of the run for which the server was started")
    gathered.insert(0, _slices("idle", idle, ready.start, ready.end, flow, context))
    found = fit(gathered)
    top = next((stage.found for stage in stages if stage.name == headline), None)
    energy = None if top is None else top.plain
    if not found.stands or top is None or energy is None or energy.joules is None:
        return found
    work = _work(flow, context, np.array([top.start, top.end]))[0]
    return replace(found, components=components(found, work, energy.joules))


def _work(flow: Flowing, context: Flow, edges: Floats) -> Floats:
    assert flow.computed is not None
    return np.column_stack(
        [
            np.diff(edges) * NS,
            flow.computed.per_bin(edges),
            flow.output.flow.per_bin(edges),
            context.per_bin(edges),
        ]
    )


def _slices(
    name: str, energy: Energy, start: float, end: float, flow: Flowing, context: Flow
) -> StageSlices:
    edges = slice_edges(start, end)
    read = flow.cache_read.between(start, end) if flow.cache_read is not None else None
    whole = flow.input.between(start, end)
    return StageSlices(
        name,
        energy.per_bin(edges),
        _work(flow, context, edges),
        flow.in_flight.between(start, end) / (end - start),
        read / whole if read is not None and whole > 0 else None,
        energy.systematic_ratio,
    )
