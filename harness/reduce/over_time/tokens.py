"""Tokens over time: output at the arrival of its chunks, input spread from send to first token.

Everything covers all requests or some of them (`who`); disjoint parts add up to the whole.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from harness.core.latency import tpot_s
from harness.core.records import Outcome
from harness.reduce.over_time.flow import Block, Flow
from harness.reduce.read.categorical import Bools
from harness.reduce.read.requests import Requests
from harness.reduce.read.spill import column, release
from harness.reduce.statistics.intervals import Floats

_MOST_VALUES: Final = 4_000_000
"""Gaps that are kept before equal ones are merged."""


@dataclass(frozen=True, slots=True)
class Output:
    """Output tokens over time.

    Attributes:
        flow: of all of them.
        per_request: tokens of each request: the server's count, else from its stream; NaN if
            unknown.
        estimated: requests whose tokens are estimated from bytes of content.
        estimated_tok: number of those tokens.
    """

    flow: Flow
    per_request: Floats
    estimated: Bools
    estimated_tok: float
    told: bool
    """The stream of every complete response reports the tokens of each chunk."""


def _spread(requests: Requests, make: Callable[[slice], Block], who: Bools | None = None) -> Flow:
    """A flow of one piece per request; `make` returns those of consecutive rows."""
    parts = requests.parts()

    def block(number: int) -> Block:
        rows = parts[number]
        start, end, amount = make(rows)
        if who is None:
            return start, end, amount
        mine = who[rows]
        return start[mine], end[mine], amount[mine]

    return Flow(len(parts), block)


def moments(requests: Requests, t: Floats, who: Bools, amount: Floats | None = None) -> Flow:
    """An `amount` (default 1) at time `t` (NaN: none) of some requests; arrays cover all."""
    return _spread(
        requests,
        lambda rows: (t[rows], t[rows], np.ones(len(t[rows])) if amount is None else amount[rows]),
        who,
    )


def output(requests: Requests) -> Output:
    """Place every output token at its arrival.

    The number of tokens is the server's usage. Within a request they are distributed by the tokens
    of its chunks, else by their bytes of content. A stream that ended without usage (canceled,
    interrupted, timed out) counts the tokens of its chunks. Without those it is estimated from its
    bytes, at the bytes per token of the complete responses.
    """
    tok_sum, bytes_sum = requests.chunks.tok_sum, requests.chunks.bytes_sum
    usage, ok = requests.output_tok, requests.ok
    good = ok & (usage > 0) & (bytes_sum > 0)
    bytes_per_tok = float(np.sum(bytes_sum[good]) / np.sum(usage[good])) if np.any(good) else np.nan

    tokens = column(len(requests), np.float64)
    tokens[:] = usage
    no_usage = np.isnan(tokens)
    from_stream = no_usage & ~np.isnan(tok_sum)
    tokens[from_stream] = tok_sum[from_stream]
    estimated = no_usage & ~from_stream & (bytes_sum > 0) & ~np.isnan(bytes_per_tok)
    tokens[estimated] = bytes_sum[estimated] / bytes_per_tok
    return _output(requests, tokens, estimated, None)


def output_of(requests: Requests, whole: Output, who: Bools) -> Output:
    """The part of some requests, with the whole run's estimates: they must not depend on what is
    selected.
    """
    return _output(requests, whole.per_request, whole.estimated & who, who)


def _output(requests: Requests, tokens: Floats, estimated: Bools, who: Bools | None) -> Output:
    complete = requests.ok if who is None else requests.ok & who
    tok_sum = requests.chunks.tok_sum[complete & (requests.chunks.count > 1)]
    return Output(
        placed(requests, tokens, who),
        tokens,
        estimated,
        float(np.sum(tokens[estimated])),
        len(tok_sum) > 0 and not np.any(np.isnan(tok_sum)),
    )


def placed(
    requests: Requests, tokens: Floats, who: Bools | None = None, *, context: Floats | None = None
) -> Flow:
    """Output tokens (of each request in `tokens`) at the arrival of their chunks.

    Without chunks, or if they are empty: evenly from first to last token, or at the end of a
    response without content. With `context` (the prompt tokens of each request), every token counts
    as its context length: the prompt and all tokens generated before it.
    """
    chunks, parts = requests.chunks, requests.parts()

    def block(number: int) -> Block:
        chunks.release()  # of the part before
        rows = parts[number]
        at, lengths = chunks.of(rows)
        by_tok = chunks.tok_sum[rows] > 0
        total = np.where(by_tok, chunks.tok_sum[rows], chunks.bytes_sum[rows])
        own = tokens[rows]
        weight = np.where(np.repeat(by_tok, lengths), chunks.tok[at], chunks.content_bytes[at])
        with np.errstate(invalid="ignore", divide="ignore"):
            amount = weight * np.repeat(own / total, lengths)
        spread = ~(total > 0) & (own > 0)
        rest = own
        if context is not None:
            rest = own * (context[rows] + own / 2)
            known = np.where(np.isfinite(amount), amount, 0.0)
            running = np.cumsum(known)
            before = np.concatenate([np.zeros(1), running])[chunks.start[rows] - at.start]
            amount = amount * (np.repeat(context[rows] - before, lengths) + running - known / 2)
        t = chunks.t[at]
        if who is not None:
            mine = np.repeat(who[rows], lengths)
            t, amount = t[mine], amount[mine]
            spread &= who[rows]
        if not np.any(spread):
            return t, t, amount
        done = requests.done[rows]
        start, end = (
            np.concatenate([t, np.where(np.isnan(edge[rows]), done, edge[rows])[spread]])
            for edge in (requests.first_token, requests.last_token)
        )
        return start, end, np.concatenate([amount, rest[spread]])

    return Flow(len(parts), block)


def spread_input(
    requests: Requests, tokens: Callable[[slice], Floats], who: Bools | None = None
) -> Flow:
    """Prompt tokens (`tokens` of consecutive rows), each spread evenly from send to first token (to
    the end of a response without content).
    """
    ok = requests.ok

    def make(rows: slice) -> Block:
        first = requests.first_token[rows]
        return (
            requests.sent[rows],
            np.where(np.isnan(first) & ok[rows], requests.done[rows], first),
            tokens(rows),
        )

    return _spread(requests, make, who)


def _until(requests: Requests, rows: slice, until: float) -> Block:
    """Times of send and end (`until` at the latest), and the time between."""
    done, sent = requests.done[rows], requests.sent[rows]
    end = np.where(np.isnan(done), until, done)
    return sent, end, np.maximum(end - sent, 0.0)


def in_flight(requests: Requests, until: float, who: Bools | None = None) -> Flow:
    """Requests in flight, integrated over time: request-nanoseconds. Requests without an end are
    taken to last `until` then.
    """
    return _spread(requests, lambda rows: _until(requests, rows, until), who)


def context(requests: Requests, until: float) -> tuple[Flow, Flow]:
    """Input tokens of requests in flight (token-nanoseconds), and requests in flight whose input is
    known (request-nanoseconds). Their ratio is the time-weighted mean context length.
    """

    def tokens(rows: slice) -> Block:
        sent, end, lasted = _until(requests, rows, until)
        return sent, end, requests.input_tok[rows] * lasted

    def known(rows: slice) -> Block:
        sent, end, lasted = _until(requests, rows, until)
        return sent, end, np.where(np.isnan(requests.input_tok[rows]), np.nan, lasted)

    return _spread(requests, tokens), _spread(requests, known)


def live_conversations(requests: Requests, until: float, who: Bools | None = None) -> Flow:
    """Conversation-nanoseconds: from a conversation's first scheduled time to the end of its last
    request (`until` if it has no end).
    """
    sessions = int(requests.session.max()) + 1 if len(requests) else 0
    start, end = np.full(sessions, np.inf), np.full(sessions, -np.inf)
    dropped = requests.outcome == Outcome.DROPPED
    for rows in requests.parts():
        mine = slice(None) if who is None else who[rows]
        session, scheduled = requests.session[rows][mine], requests.intended[rows][mine]
        done = requests.done[rows][mine]
        last = np.where(dropped[rows][mine], scheduled, until)
        np.fmin.at(start, session, scheduled)
        np.fmax.at(end, session, np.where(np.isnan(done), last, done))
    start[np.isinf(start)] = np.nan
    return Flow.of(start, end, np.maximum(end - start, 0.0))


def gaps(
    requests: Requests, counted: Bools, *, told: bool, by_tok: bool = True
) -> tuple[Floats, Floats | None]:
    """Gaps between chunks of the counted requests in seconds, and how many equal gaps each one
    represents (None: one).

    Gaps are recorded in whole microseconds. Equal ones are merged, so that their number is bounded.
    `told`: the streams report tokens per chunk. A chunk without tokens then extends the next gap;
    with `by_tok`, a gap before a chunk of k tokens counts as k gaps of 1/k of its length.
    """
    found: list[tuple[Floats, Floats | None]] = []
    parts = requests.parts()
    kept = 0
    for rows in parts:
        requests.chunks.release()  # of the part before
        values, weight = _gaps(requests, rows, counted, told=told, by_tok=by_tok)
        if len(parts) > 1:
            values, weight = _together([(values, weight)])
        found.append((values, weight))
        kept += len(values)
        if kept > _MOST_VALUES:
            found = [_together(found)]
            kept = len(found[0][0])
    if len(found) == 1:
        return found[0]
    return _together(found) if found else (np.zeros(0), None)


def _gaps(
    requests: Requests, rows: slice, counted: Bools, *, told: bool, by_tok: bool
) -> tuple[Floats, Floats | None]:
    chunks = requests.chunks
    at, lengths = chunks.of(rows)
    if not np.any(counted[rows]):
        return np.zeros(0), None
    t, owner = chunks.t[at], np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    keep = np.repeat(counted[rows], lengths) & ~np.isnan(t)
    tok = chunks.tok[at]
    if told:
        keep &= tok > 0
    if not np.all(keep):
        t, owner, tok = t[keep], owner[keep], tok[keep]
    same = owner[1:] == owner[:-1]
    gap_s = np.diff(t)[same] * 1e-9
    if not told or not by_tok:
        return gap_s, None
    weight = tok[1:][same].astype(np.float64)
    return (gap_s, None) if np.all(weight == 1) else (gap_s / weight, weight)


def _together(parts: list[tuple[Floats, Floats | None]]) -> tuple[Floats, Floats]:
    """Distinct values in ascending order, and the count of each."""
    values = np.concatenate([np.zeros(0), *(part[0] for part in parts)])
    if all(part[1] is None for part in parts):
        found, count = np.unique(values, return_counts=True)
        return found, count.astype(np.float64)
    weight = np.concatenate(
        [np.ones(len(part[0])) if part[1] is None else part[1] for part in parts]
    )
    order = np.argsort(values)
    values = values[order]
    first = np.flatnonzero(np.diff(values, prepend=np.nan) != 0)
    return values[first], np.add.reduceat(weight[order], first) if len(first) else np.zeros(0)


def tpot(requests: Requests) -> Floats:
    """TPOT of each request, as defined in `harness.core.latency`; NaN where undefined (one token,
    one chunk, no count, a response in bursts).
    """
    chunks, blurred = requests.chunks, requests.in_bursts
    pace = column(len(requests), np.float64)
    for rows in requests.parts():
        after = np.where(
            ~np.isnan(chunks.tok_sum[rows]),
            chunks.tok_sum[rows] - chunks.first_tok[rows],
            requests.output_tok[rows] - 1,
        )
        span = requests.last_token[rows] - requests.first_token[rows]
        seen = (after > 0) & (span > 0) & ~blurred[rows]
        own = np.full(len(span), np.nan)
        own[seen] = tpot_s(span[seen], after[seen])
        pace[rows] = own
    release(pace)
    return pace
