"""Joules of a window split over the classes of a mix. An allocation by a stated rule, no
measurement: all classes share the boards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from harness.artifacts.run_summary import ClassSummary, Figure
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
"""Joules are split second by second, so that a class pays for the power of its own time."""

IDLE: Final = "idle"
"""Stands for the seconds in which nothing was in flight."""

SERVICE_TIME: Final = "service_time"
FITTED: Final = "fitted"

RULES: Final = {
    SERVICE_TIME: (
        "an allocation: the joules of each second go to the classes by their requests in flight in"
        " that second; seconds without any request stay unallocated"
    ),
    FITTED: (
        "an allocation: computed input, output and output x context by the coefficients fitted over"
        " this run's stages, the rest (time and what the fit leaves) by requests in flight, second"
        " by second"
    ),
}
"""Rules in words."""


@dataclass(frozen=True, slots=True)
class ClassEnergy:
    """One class's part of the window.

    Attributes:
        name: the class; `idle` for seconds in which nothing was in flight.
        joules: allocated.
        share: of the window's joules.
        output_tok: in the window.
        answered: requests answered in it.
    """

    name: str
    joules: float
    share: float
    output_tok: float
    answered: int

    def figures(self) -> dict[str, float | None]:
        """By key of the metric; None without tokens or answers."""
        per_tok = per_joule(self.output_tok, self.joules) if self.output_tok > 0 else None
        return {
            "output_tok_per_j": per_tok,
            "j_per_output_tok": self.joules / self.output_tok if self.output_tok > 0 else None,
            "j_per_request": self.joules / self.answered if self.answered else None,
        }

    def to_dict(self) -> dict[str, Any]:
        """As in summary.json."""
        return {
            "class": self.name,
            "joules": self.joules,
            "share": self.share,
            "output_tok": self.output_tok,
            "answered": self.answered,
            **self.figures(),
        }


@dataclass(frozen=True, slots=True)
class Allocation:
    """All classes of the window; their joules add up to its joules.

    Attributes:
        rule: of `RULES`.
        boundary: whose joules.
        classes: by name; `idle` last where there is any.
    """

    rule: str
    boundary: str
    classes: tuple[ClassEnergy, ...]

    def to_dict(self) -> dict[str, Any]:
        """As in summary.json."""
        return {
            "rule": self.rule,
            "rule_text": RULES[self.rule],
            "boundary": self.boundary,
            "classes": [one.to_dict() for one in self.classes],
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
    """Split the joules of [start, end) over the classes of requests; None where there are none.

    Args:
        requests: all of them.
        out: output tokens over time.
        energy: of that window, with joules.
        start: of the window.
        end: of the window.
        until: requests without an end are taken to last until then.
        output_tok: of the window, by class; classes without any may be missing.
        attribution: where it stands, tokens are weighed by its coefficients.
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
        found.append(
            ClassEnergy(
                name, own, own / total if total > 0 else 0.0, output_tok.get(name, 0.0), count
            )
        )
    idle = float(np.sum(rest[~busy]))
    if idle > 0:
        found.append(ClassEnergy(IDLE, idle, idle / total if total > 0 else 0.0, 0.0, 0))
    return Allocation(rule, energy.boundary, tuple(found)) if found else None


def with_energy(
    classes: Sequence[ClassSummary], shared: Allocation | None, energy: Energy | None
) -> tuple[ClassSummary, ...]:
    """Summaries of classes with the joules that were allocated to them.

    They gain `energy_j`, `output_tok_per_j`, `j_per_output_tok` and `j_per_request`. Their basis is
    modelled, since an allocation is no measurement; of the errors they carry the gain error of the
    boards.
    """
    if shared is None or energy is None:
        return tuple(classes)
    by_name = {one.name: one for one in shared.classes}
    return tuple(
        (
            replace(
                one, metrics={**one.metrics, **_figures(one, by_name[one.name], shared, energy)}
            )
            if one.name in by_name
            else one
        )
        for one in classes
    )


def _figures(
    summary: ClassSummary, mine: ClassEnergy, shared: Allocation, energy: Energy
) -> dict[str, Figure]:
    window = next((figure.window for figure in summary.metrics.values()), None)
    values = {"energy_j": mine.joules, **mine.figures()}
    return {
        key: Figure(
            value,
            METRICS[key].unit,
            None,
            None,
            Basis.ABSENT if value is None else Basis.MODELLED,
            shared.boundary,
            window,
            RULES[shared.rule],
            None if value is None else energy.systematic_ratio,
        )
        for key, value in values.items()
    }


def _work(requests: Requests, out: Output, who: Bools, edges: Floats) -> Floats:
    """Computed input, output, output x context of some requests in each bin."""
    return np.column_stack(
        [
            spread_input(
                requests, lambda rows: requests.input_tok[rows] - requests.cache_read_tok[rows], who
            ).per_bin(edges),
            output_of(requests, out, who).flow.per_bin(edges),
            decode_context(requests, out, who).per_bin(edges),
        ]
    )
