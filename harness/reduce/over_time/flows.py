"""What a run spread over time: tokens, requests in flight and live conversations, for the whole run
or a part of its requests.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from harness.reduce.over_time.flow import Flow
from harness.reduce.over_time.tokens import (
    Output,
    in_flight,
    live_conversations,
    output,
    output_of,
    spread_input,
    tpot,
)
from harness.reduce.read.categorical import Bools
from harness.reduce.read.run import Run, last_evidence
from harness.reduce.statistics.intervals import Floats

MOST_UNSPLIT: Final = 0.05
"""Share of a class's input tokens whose split into computed and cached may be unknown (cancelled
requests end before they tell it).
"""


@dataclass(frozen=True, slots=True)
class Flows:
    """Everything that is spread over the whole run's time, made once and asked per window.

    Attributes:
        output: output tokens.
        input: whole prompts.
        computed: the part of prompts that was computed, None where usage does not split it.
        cache_read: the part that was read from cache, likewise.
        split: whole prompts of the requests whose split is known.
        unsplit: how many requests' is not, where `computed` goes without them.
        cache_write: the part that was written to cache, None where no answer tells.
        in_flight: request-nanoseconds.
        live: conversation-nanoseconds.
        tpot_s: per request.
    """

    output: Output
    input: Flow
    computed: Flow | None
    cache_read: Flow | None
    split: Flow
    unsplit: int
    cache_write: Flow | None
    in_flight: Flow
    live: Flow
    tpot_s: Floats


def flows(run: Run) -> Flows:
    """Spread tokens and requests of a run over time."""
    return _flows(run, output(run.requests), tpot(run.requests), None)


def flows_of(run: Run, whole: Flows, who: Bools) -> Flows:
    """The part of some requests, as the whole run placed it."""
    return _flows(run, output_of(run.requests, whole.output, who), whole.tpot_s, who)


def _flows(run: Run, out: Output, tpot_s: Floats, who: Bools | None) -> Flows:
    requests = run.requests
    counted = ~np.isnan(requests.input_tok)
    wrote = ~np.isnan(requests.cache_write_tok)
    if who is not None:
        counted, wrote = counted & who, wrote & who
    unsplit = counted & np.isnan(requests.cache_read_tok)
    untold_tok, all_tok = (
        float(np.sum(requests.input_tok[unsplit])),
        float(np.sum(requests.input_tok[counted])),
    )
    # The server's counters tell the whole run's split to the token; nobody tells that of a part of
    # it.
    split = (
        bool(np.any(counted))
        and untold_tok <= (0.0 if who is None else MOST_UNSPLIT * all_tok)
        and not np.all(unsplit[counted])
    )
    until = last_evidence(run) or 0.0

    def read(rows: slice) -> Floats:
        return requests.cache_read_tok[rows]

    return Flows(
        output=out,
        input=spread_input(requests, lambda rows: requests.input_tok[rows], who),
        computed=(
            spread_input(requests, lambda rows: requests.input_tok[rows] - read(rows), who)
            if split
            else None
        ),
        cache_read=spread_input(requests, read, who) if split else None,
        split=spread_input(
            requests,
            lambda rows: np.where(np.isnan(read(rows)), np.nan, requests.input_tok[rows]),
            who,
        ),
        unsplit=int(np.sum(unsplit)) if split else 0,
        cache_write=(
            spread_input(requests, lambda rows: requests.cache_write_tok[rows], who)
            if np.any(wrote)
            else None
        ),
        in_flight=in_flight(requests, until, who),
        live=live_conversations(requests, until, who),
        tpot_s=tpot_s,
    )
