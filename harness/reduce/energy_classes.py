"""Joules of a window split over the classes of a mix. An allocation by a stated rule, no measurement: all classes share the boards."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from harness.plan.types import PRIME_SUFFIX
from harness.reduce.energy import Energy
from harness.reduce.energy_attribution import Attribution, decode_context
from harness.reduce.labels import Bools
from harness.reduce.requests import Requests
from harness.reduce.stats import Floats
from harness.reduce.tokens import Flow, Output, spread_input

BIN_S: Final = 1.0
"""Joules are split second by second, so that a class pays for the power of its own time."""

SERVICE_TIME: Final = "service_time"
FITTED: Final = "fitted"

RULES: Final = {
    SERVICE_TIME: (
        "an allocation: the joules of each second go to the classes by their requests in flight in that second; seconds without any"
        " request stay unallocated"
    ),
    FITTED: (
        "an allocation: computed input, output and output x context by the coefficients fitted over this run's stages, the rest (time and"
        " what the fit leaves) by requests in flight, second by second"
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

    def to_dict(self) -> dict[str, Any]:
        """As in summary.json."""
        return {
            "class": self.name,
            "joules": self.joules,
            "share": self.share,
            "output_tok": self.output_tok,
            "answered": self.answered,
            "output_tok_per_j": self.output_tok / self.joules if self.joules > 0 and self.output_tok > 0 else None,
            "j_per_output_tok": self.joules / self.output_tok if self.output_tok > 0 else None,
            "j_per_request": self.joules / self.answered if self.answered else None,
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
    requests: Requests, out: Output, energy: Energy, start: float, end: float, until: float, attribution: Attribution | None = None
) -> Allocation | None:
    """Split the joules of [start, end) over the classes of requests; None where there are none.

    Args:
        requests: all of them.
        out: output tokens over time.
        energy: of that window, with joules.
        start: of the window.
        end: of the window.
        until: requests without an end are taken to last until then.
        attribution: where it stands, tokens are weighed by its coefficients.
    """
    if energy.joules is None or end <= start:
        return None
    edges = np.append(np.arange(start, end - 1e-3, BIN_S * 1e9), end)
    joules = energy.per_bin(edges)
    if np.any(np.isnan(joules)):
        return None
    labels = requests.workload_class.renamed(lambda name: name.removesuffix(PRIME_SUFFIX))
    names = list(labels.counts())
    masks = {name: labels == name for name in names}
    in_service = {name: _service(requests, mask, until).per_bin(edges) for name, mask in masks.items()}
    everyone = np.sum(list(in_service.values()), axis=0) if names else np.zeros(len(joules))
    rule, direct = SERVICE_TIME, dict.fromkeys(names, np.zeros(len(joules)))
    if attribution is not None and attribution.stands:
        weighed = {name: _work(requests, out, mask, edges) @ attribution.values[1:] for name, mask in masks.items()}
        if all(np.all(np.isfinite(value)) for value in weighed.values()):
            rule, direct = FITTED, weighed
    rest = joules - np.sum(list(direct.values()), axis=0) if names else joules
    busy = everyone > 0
    found = []
    total = energy.joules
    for name, mask in masks.items():
        share = np.divide(in_service[name], everyone, out=np.zeros(len(joules)), where=busy)
        mine = float(np.sum(direct[name]) + np.sum(rest * share))
        answered = mask & requests.ok & (requests.done >= start) & (requests.done < end)
        tokens = _only(out.flow, requests, out, mask).between(start, end)
        if mine == 0 and not np.any(answered):
            continue
        found.append(ClassEnergy(name, mine, mine / total if total > 0 else 0.0, tokens, int(np.sum(answered))))
    idle = float(np.sum(rest[~busy]))
    if idle > 0:
        found.append(ClassEnergy("idle", idle, idle / total if total > 0 else 0.0, 0.0, 0))
    return Allocation(rule, energy.boundary, tuple(found)) if found else None


def _service(requests: Requests, mask: Bools, until: float) -> Flow:
    end = np.where(np.isnan(requests.done), until, requests.done)[mask]
    sent = requests.sent[mask]
    none = np.zeros(0)
    return Flow.of(none, none, sent, end, np.maximum(end - sent, 0.0))


def _only(whole: Flow, requests: Requests, out: Output, mask: Bools) -> Flow:
    """Output tokens of some of the requests."""
    if np.all(mask):
        return whole
    return _chunks_of(requests, out, mask)


def _chunks_of(requests: Requests, out: Output, mask: Bools) -> Flow:
    """Tokens of the masked requests at their chunks, by tokens where told, else by bytes; else evenly from first to last token."""
    chunks = requests.chunks
    n = len(requests)
    tok_sum = np.bincount(chunks.request, weights=chunks.tok, minlength=n)
    weight = np.where((tok_sum > 0)[chunks.request], chunks.tok, chunks.content_bytes)
    weight = np.where(np.isnan(weight), 0.0, weight)
    total = np.bincount(chunks.request, weights=weight, minlength=n)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = weight * (out.per_request / total)[chunks.request]
    placed = (total > 0)[chunks.request] & mask[chunks.request]
    rest = mask & ~(total > 0) & (out.per_request > 0)
    first = np.where(np.isnan(requests.first_token), requests.done, requests.first_token)[rest]
    last = np.where(np.isnan(requests.last_token), requests.done, requests.last_token)[rest]
    return Flow.of(chunks.t[placed], share[placed], first, last, out.per_request[rest])


def _work(requests: Requests, out: Output, mask: Bools, edges: Floats) -> Floats:
    """Computed input, output, output x context of the masked requests in each bin."""
    computed = np.where(mask, requests.input_tok - requests.cache_read_tok, 0.0)
    context = decode_context(requests, out, mask)
    return np.column_stack(
        [spread_input(requests, computed).per_bin(edges), _chunks_of(requests, out, mask).per_bin(edges), context.per_bin(edges)]
    )
