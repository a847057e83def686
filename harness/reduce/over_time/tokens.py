"""Where and when tokens were: output at the arrival of its chunks, input spread from sent to first
token.

Everything is over all requests, or over some of them (`who`): what is over the parts of a whole
adds up to it.
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
"""Different gaps that are kept before equal ones are put together."""


@dataclass(frozen=True, slots=True)
class Output:
    """Output tokens over time.

    Attributes:
        flow: all of them.
        per_request: tokens of each request: the server's count, else what is known of its stream;
            NaN where nothing is known.
        estimated: requests whose tokens are estimated from bytes of content.
        estimated_tok: how many tokens that is.
        told: whether the stream of every answered request tells how many tokens a chunk holds.
    """

    flow: Flow
    per_request: Floats
    estimated: Bools
    estimated_tok: float
    told: bool


def _spread(requests: Requests, make: Callable[[slice], Block], who: Bools | None = None) -> Flow:
    """A flow of one piece a request; `make` gives those of consecutive rows."""
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
    """One moment for each of some requests.

    Args:
        requests: all of them.
        t: of all of them; where it is NaN there is none.
        who: whose.
        amount: of all of them; default 1 each.
    """
    return _spread(
        requests,
        lambda rows: (t[rows], t[rows], np.ones(len(t[rows])) if amount is None else amount[rows]),
        who,
    )


def output(requests: Requests) -> Output:
    """Place every output token at its arrival.

    The server's usage says how many there are. Within a request they go by the tokens that chunks
    are known to hold, else by their bytes of content. A stream that ended without usage (cancelled,
    interrupted, timed out) is counted by its chunks' tokens, else estimated from its bytes at the
    bytes per token of the answered requests.
    """
    chunks = requests.chunks
    tok_sum, bytes_sum, usage, ok = (
        chunks.tok_sum,
        chunks.bytes_sum,
        requests.output_tok,
        requests.ok,
    )
    good = ok & (usage > 0) & (bytes_sum > 0)
    bytes_per_tok = float(np.sum(bytes_sum[good]) / np.sum(usage[good])) if np.any(good) else np.nan

    tokens = column(len(requests), np.float64)
    tokens[:] = usage
    no_usage = np.isnan(tokens)
    from_stream = no_usage & ~np.isnan(tok_sum)
    tokens[from_stream] = tok_sum[from_stream]
    estimated = no_usage & ~from_stream & (bytes_sum > 0) & ~np.isnan(bytes_per_tok)
    tokens[estimated] = bytes_sum[estimated] / bytes_per_tok
    return Output(
        placed(requests, tokens),
        tokens,
        estimated,
        float(np.sum(tokens[estimated])),
        _told(requests, ok),
    )


def _told(requests: Requests, answered: Bools) -> bool:
    """Whether every one of these streams of more than one chunk tells its tokens, and there is
    one.
    """
    tok_sum = requests.chunks.tok_sum[answered & (requests.chunks.count > 1)]
    return len(tok_sum) > 0 and not bool(np.any(np.isnan(tok_sum)))


def output_of(requests: Requests, whole: Output, who: Bools) -> Output:
    """The part of some requests, as the whole run placed it: what is estimated must not depend on
    what else is looked at.
    """
    estimated = whole.estimated & who
    tokens = whole.per_request
    return Output(
        placed(requests, tokens, who),
        tokens,
        estimated,
        float(np.sum(tokens[estimated])),
        _told(requests, requests.ok & who),
    )


def placed(
    requests: Requests, tokens: Floats, who: Bools | None = None, *, context: Floats | None = None
) -> Flow:
    """Output tokens at the arrival of their chunks. Without chunks (none were kept, or they hold
    nothing): evenly from first to last token, or at the end of a response without content.

    Args:
        requests: all of them.
        tokens: output tokens of each.
        who: whose tokens; default everybody's.
        context: tokens of each prompt: then every token counts as the context that it was generated
            in, the prompt and what was generated before it.
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
        start = np.where(np.isnan(requests.first_token[rows]), done, requests.first_token[rows])[
            spread
        ]
        end = np.where(np.isnan(requests.last_token[rows]), done, requests.last_token[rows])[spread]
        return (
            np.concatenate([t, start]),
            np.concatenate([t, end]),
            np.concatenate([amount, rest[spread]]),
        )

    return Flow(len(parts), block)


def spread_input(
    requests: Requests, tokens: Callable[[slice], Floats], who: Bools | None = None
) -> Flow:
    """Tokens of prompts, each spread evenly from sent to first token (to the end of a response
    without content).

    Args:
        requests: all of them.
        tokens: of consecutive rows.
        who: whose; default everybody's.
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
    """When requests were sent, when they ended at the latest, and how long they lasted."""
    done, sent = requests.done[rows], requests.sent[rows]
    end = np.where(np.isnan(done), until, done)
    return sent, end, np.maximum(end - sent, 0.0)


def in_flight(requests: Requests, until: float, who: Bools | None = None) -> Flow:
    """Requests in flight: the amount of a stretch of time is the integral of their number over it,
    in request-nanoseconds.

    Args:
        requests: all of them.
        until: requests without an end are taken to last until then.
        who: which of them; default all.
    """
    return _spread(requests, lambda rows: _until(requests, rows, until), who)


def context(requests: Requests, until: float) -> tuple[Flow, Flow]:
    """Input tokens of requests in flight, in token-nanoseconds, and the requests whose input is
    known, in request-nanoseconds.

    Over a stretch of time the one over the other is the mean context length: that of the requests
    in flight, weighted by time.
    """

    def tokens(rows: slice) -> Block:
        sent, end, lasted = _until(requests, rows, until)
        return sent, end, requests.input_tok[rows] * lasted

    def known(rows: slice) -> Block:
        sent, end, lasted = _until(requests, rows, until)
        return sent, end, np.where(np.isnan(requests.input_tok[rows]), np.nan, lasted)

    return _spread(requests, tokens), _spread(requests, known)


def live_conversations(requests: Requests, until: float, who: Bools | None = None) -> Flow:
    """Conversations from the intended start of their first to the end of their last request, in
    conversation-nanoseconds.

    Args:
        requests: all of them.
        until: requests without an end are taken to last until then.
        who: whose conversations; default everybody's.
    """
    sessions = int(requests.session.max()) + 1 if len(requests) else 0
    start, end = np.full(sessions, np.inf), np.full(sessions, -np.inf)
    dropped = requests.outcome == Outcome.DROPPED
    for rows in requests.parts():
        mine = slice(None) if who is None else who[rows]
        session, intended, done = (
            requests.session[rows][mine],
            requests.intended[rows][mine],
            requests.done[rows][mine],
        )
        np.fmin.at(start, session, intended)
        np.fmax.at(
            end,
            session,
            np.where(np.isnan(done), np.where(dropped[rows][mine], intended, until), done),
        )
    start[np.isinf(start)] = np.nan
    return Flow.of(start, end, np.maximum(end - start, 0.0))


def gaps(
    requests: Requests, counted: Bools, *, told: bool, by_tok: bool = True
) -> tuple[Floats, Floats | None]:
    """Gaps between chunks in seconds, of the counted requests, and how many equal ones each stands
    for (None: one each).

    Gaps are recorded in whole microseconds: of many, equal ones are put together, so that their
    number is bounded.

    Args:
        requests: all of them.
        counted: which of them count.
        told: the streams tell tokens per chunk: a chunk without tokens then makes the next gap
            longer.
        by_tok: where they tell, a gap before a chunk of k tokens stands for k gaps of a k-th of its
            length.
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
    """Values in ascending order, each once, and how many there are of it."""
    values = np.concatenate([np.zeros(0), *(part[0] for part in parts)])
    if all(part[1] is None for part in parts):
        values.sort()
        first = np.flatnonzero(
            np.concatenate([np.ones(1, bool), values[1:] != values[:-1]])[: len(values)]
        )
        return values[first], np.diff(np.append(first, len(values))).astype(np.float64)
    weight = np.concatenate(
        [np.ones(len(part[0])) if part[1] is None else part[1] for part in parts]
    )
    order = np.argsort(values)
    values, weight = values[order], weight[order]
    first = np.flatnonzero(
        np.concatenate([np.ones(1, bool), values[1:] != values[:-1]])[: len(values)]
    )
    return values[first], np.add.reduceat(weight, first) if len(first) else np.zeros(0)


def tpot(requests: Requests) -> Floats:
    """Time per output token of each request, as `harness.core.latency` defines it; NaN where there
    is no pace to see (one token, one chunk, no count).
    """
    chunks = requests.chunks
    pace = column(len(requests), np.float64)
    for rows in requests.parts():
        after = np.where(
            ~np.isnan(chunks.tok_sum[rows]),
            chunks.tok_sum[rows] - chunks.first_tok[rows],
            requests.output_tok[rows] - 1,
        )
        span = requests.last_token[rows] - requests.first_token[rows]
        seen = (after > 0) & (span > 0)
        own = np.full(len(span), np.nan)
        own[seen] = tpot_s(span[seen], after[seen])
        pace[rows] = own
    release(pace)
    return pace
