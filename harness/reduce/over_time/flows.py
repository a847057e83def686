"""Tokens, requests in flight and live conversations over time, of a run or some of its requests."""

from collections.abc import Callable
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
"""Share of a class's input tokens whose split into computed and cached may be unknown (canceled
requests end before they report it).
"""


@dataclass(frozen=True, slots=True)
class Flows:
    """Amounts over the whole run's time, made once and queried per window.

    Attributes:
        output: output tokens.
        input: prompt tokens.
        computed: prompt tokens that were computed; None if usage does not split them.
        cache_read: prompt tokens read from cache; None if usage does not split them.
        split: prompt tokens of the requests whose split is known.
        unsplit: number of requests that `computed` omits because their split is unknown.
        cache_write: prompt tokens written to cache; None if no response reports them.
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
    """Of all requests."""
    return _flows(run, output(run.requests), tpot(run.requests), None)


def flows_of(run: Run, whole: Flows, who: Bools) -> Flows:
    """Of some requests, with output tokens where the whole run placed them."""
    return _flows(run, output_of(run.requests, whole.output, who), whole.tpot_s, who)


def _flows(run: Run, out: Output, tpot_s: Floats, who: Bools | None) -> Flows:
    requests = run.requests
    counted = ~np.isnan(requests.input_tok)
    wrote = ~np.isnan(requests.cache_write_tok)
    if who is not None:
        counted, wrote = counted & who, wrote & who
    unsplit = counted & np.isnan(requests.cache_read_tok)
    unsplit_tok = float(np.sum(requests.input_tok[unsplit]))
    all_tok = float(np.sum(requests.input_tok[counted]))
    # The server's counters have the exact split of the whole run, but not of a part of it.
    split = (
        bool(np.any(counted))
        and unsplit_tok <= (0.0 if who is None else MOST_UNSPLIT * all_tok)
        and not np.all(unsplit[counted])
    )
    until = last_evidence(run) or 0.0
    prompt, read, write = requests.input_tok, requests.cache_read_tok, requests.cache_write_tok

    def spread(tokens: Callable[[slice], Floats]) -> Flow:
        return spread_input(requests, tokens, who)

    return Flows(
        output=out,
        input=spread(lambda rows: prompt[rows]),
        computed=spread(lambda rows: prompt[rows] - read[rows]) if split else None,
        cache_read=spread(lambda rows: read[rows]) if split else None,
        split=spread(lambda rows: np.where(np.isnan(read[rows]), np.nan, prompt[rows])),
        unsplit=int(np.sum(unsplit)) if split else 0,
        cache_write=spread(lambda rows: write[rows]) if np.any(wrote) else None,
        in_flight=in_flight(requests, until, who),
        live=live_conversations(requests, until, who),
        tpot_s=tpot_s,
    )
