"""Energy of a window split over the classes of a mix: an allocation by a stated rule, not a
measurement, since all classes share the GPUs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from harness.artifacts.run_summary import Allocation, ClassEnergy, ClassSummary, Figure, RunEnergy
from harness.core.metrics import METRICS
from harness.core.records import Basis
from harness.reduce.energy.attribution import Attribution, decode_context
from harness.reduce.energy.devices import Energy, per_joule
from harness.reduce.figures.by_class import class_names
from harness.reduce.over_time.tokens import Output, in_flight, output_of, spread_input
from harness.reduce.read.categorical import Bools
from harness.reduce.read.requests import Requests
from harness.reduce.statistics.intervals import Floats

BIN_S: Final = 1.0
"""Energy is split second by second, so that a class pays for the power of its own time."""

IDLE: Final = "idle"
"""Class of the seconds in which nothing was in flight."""

SERVICE_TIME: Final = "service_time"
FITTED: Final = "fitted"

RULES: Final = {
    SERVICE_TIME: (
        "an allocation: energy of each second by requests in flight; seconds without requests stay"
        " unallocated"
    ),
    FITTED: (
        "an allocation: computed input, output and output x context by the coefficients fitted over"
        " this run's stages, the rest (static and unexplained energy) by requests in flight, second"
        " by second"
    ),
}


def allocate(
    requests: Requests,
    out: Output,
    energy: Energy,
    start: float,
    end: float,
    until: float,
    output_tok: Mapping[str, float],
    attribution: Attribution | None = None,
) -> Allocation | None:
    """Split the energy of [start, end) over the classes of requests; None if it is unknown.

    Args:
        requests: all of them.
        out: output tokens over time.
        energy: of that window.
        start: nanoseconds, as `end`.
        end: of the window.
        until: end of requests without one.
        output_tok: of the window, by class.
        attribution: if usable, its coefficients weight tokens.
    """
    if energy.joules is None or end <= start:
        return None
    edges = np.append(np.arange(start, end - 1e-3, BIN_S * 1e9), end)
    joules = energy.per_bin(edges)
    if np.any(np.isnan(joules)):
        return None
    labels = class_names(requests)
    rows = {name: labels == name for name in labels.counts()}
    in_service = {
        name: in_flight(requests, until, mine).per_bin(edges) for name, mine in rows.items()
    }
    everyone = np.sum(list(in_service.values()), axis=0) if rows else np.zeros(len(joules))
    rule, direct = SERVICE_TIME, dict.fromkeys(rows, np.zeros(len(joules)))
    if attribution is not None and attribution.stands:
        weighed = {
            name: _work(requests, out, mine, edges) @ attribution.values[1:]
            for name, mine in rows.items()
        }
        if all(np.all(np.isfinite(value)) for value in weighed.values()):
            rule, direct = FITTED, weighed
    rest = joules - np.sum(list(direct.values()), axis=0) if rows else joules
    busy = everyone > 0
    answered = requests.ok & (requests.done >= start) & (requests.done < end)
    found = []
    total = energy.joules
    for name, mine in rows.items():
        share = np.divide(in_service[name], everyone, out=np.zeros(len(joules)), where=busy)
        own = float(np.sum(direct[name]) + np.sum(rest * share))
        count = int(np.sum(answered & mine))
        if own == 0 and count == 0:
            continue
        found.append(_class_energy(name, own, total, output_tok.get(name, 0.0), count))
    idle = float(np.sum(rest[~busy]))
    if idle > 0:
        found.append(_class_energy(IDLE, idle, total, 0.0, 0))
    if not found:
        return None
    return Allocation(
        rule=rule, rule_text=RULES[rule], boundary=energy.boundary, classes=tuple(found)
    )


def _class_energy(
    name: str, joules: float, total: float, output_tok: float, answered: int
) -> ClassEnergy:
    return ClassEnergy(
        name=name,
        joules=joules,
        share=joules / total if total > 0 else 0.0,
        output_tok=output_tok,
        answered=answered,
        output_tok_per_j=per_joule(output_tok, joules) if output_tok > 0 else None,
        j_per_output_tok=joules / output_tok if output_tok > 0 else None,
        j_per_request=joules / answered if answered else None,
    )


def with_energy(classes: Sequence[ClassSummary], energy: RunEnergy) -> tuple[ClassSummary, ...]:
    """Class summaries with their allocated energy: `energy_j`, `output_tok_per_j`,
    `j_per_output_tok` and `j_per_request`.

    Their basis is `modelled`, since an allocation is not a measurement; their error is the gain
    error of the sensors.
    """
    shared = energy.classes
    if shared is None:
        return tuple(classes)
    systematic = energy.boundaries[shared.boundary].systematic_ratio
    by_name = {one.name: one for one in shared.classes}

    def added(one: ClassSummary) -> ClassSummary:
        mine = by_name.get(one.name)
        if mine is None:
            return one
        return replace(one, metrics={**one.metrics, **_figures(one, mine, shared, systematic)})

    return tuple(added(one) for one in classes)


def _figures(
    summary: ClassSummary, mine: ClassEnergy, shared: Allocation, systematic: float | None
) -> dict[str, Figure]:
    window = next((figure.window for figure in summary.metrics.values()), None)
    values = {
        "energy_j": mine.joules,
        "output_tok_per_j": mine.output_tok_per_j,
        "j_per_output_tok": mine.j_per_output_tok,
        "j_per_request": mine.j_per_request,
    }
    return {
        key: Figure(
            value,
            METRICS[key].unit,
            None,
            None,
            Basis.ABSENT if value is None else Basis.MODELLED,
            shared.boundary,
            window,
            shared.rule_text,
            None if value is None else systematic,
        )
        for key, value in values.items()
    }


def _work(requests: Requests, out: Output, who: Bools, edges: Floats) -> Floats:
    """Computed input, output, output x context of some requests: one row per bin."""
    return np.column_stack(
        [
            spread_input(
                requests, lambda rows: requests.input_tok[rows] - requests.cache_read_tok[rows], who
            ).per_bin(edges),
            output_of(requests, out, who).flow.per_bin(edges),
            decode_context(requests, out, who).per_bin(edges),
        ]
    )
