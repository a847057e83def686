"""Where and when tokens were: output at the arrival of its chunks, input spread from sent to first token."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from harness.core.records import Outcome
from harness.reduce.labels import Bools
from harness.reduce.requests import Requests, Singles
from harness.reduce.stats import Floats

_FEW_EDGES: Final = 64


@dataclass(frozen=True, slots=True)
class Flow:
    """An amount spread over time: some of it at moments, some of it evenly over stretches.

    Attributes:
        t: moments, ascending.
        cumulative: amount up to and including each moment.
        start: beginnings of the stretches.
        end: their ends, after the beginnings.
        amount: of each stretch.
    """

    t: Floats
    cumulative: Floats
    start: Floats
    end: Floats
    amount: Floats

    @classmethod
    def of(cls, t: Floats, weight: Floats, start: Floats, end: Floats, amount: Floats) -> "Flow":
        """Moments with weights and stretches with amounts, in any order. Stretches of no length become moments; NaN ones are left out."""
        # Copies are made only where something has to be left out or put in order: there may be a hundred million of them.
        good = ~(np.isnan(start) | np.isnan(end) | np.isnan(amount))
        if not np.all(good):
            start, end, amount = start[good], end[good], amount[good]
        flat = end <= start
        if np.any(flat):
            t = np.concatenate([t, end[flat]])
            weight = np.concatenate([weight, amount[flat]])
            start, end, amount = start[~flat], end[~flat], amount[~flat]
        good = ~(np.isnan(t) | np.isnan(weight))
        if not np.all(good):
            t, weight = t[good], weight[good]
        if np.any(t[1:] < t[:-1]):
            order = np.argsort(t)
            t, weight = t[order], weight[order]
        return cls(t, np.cumsum(weight), start, end, amount)

    def between(self, start: float, end: float) -> float:
        """The amount in [start, end): adjacent windows add up."""
        return float(self.per_bin(np.array([start, end]))[0]) if end > start else 0.0

    def per_bin(self, edges: Floats) -> Floats:
        """The amount in each of the half-open stretches between ascending edges."""
        upto = np.concatenate([np.zeros(1), self.cumulative])[np.searchsorted(self.t, edges, side="left")]
        return np.diff(upto) + self._spread(edges)

    def _spread(self, edges: Floats) -> Floats:
        if len(self.start) == 0:
            return np.zeros(len(edges) - 1)
        if len(edges) <= _FEW_EDGES:  # exact to rounding
            first_inside = np.searchsorted(edges, self.start, side="right")  # the edges that cut a stretch: from this one
            first_after = np.searchsorted(edges, self.end, side="left")  # to the one before this; here and later it counts in full
            upto = np.cumsum(np.bincount(first_after, weights=self.amount, minlength=len(edges) + 1))[: len(edges)]
            cut = first_inside < first_after
            start, amount, length = self.start[cut], self.amount[cut], (self.end - self.start)[cut]
            begins, ends = first_inside[cut], first_after[cut]
            for number, edge in enumerate(edges):
                here = (begins <= number) & (number < ends)
                upto[number] += np.sum(amount[here] * ((edge - start[here]) / length[here]))
            return np.diff(upto)
        # For long grids: the rate changes only where a stretch begins or ends, so the running total is linear in between.
        rate = self.amount / (self.end - self.start)
        moments = np.concatenate([self.start, self.end])
        order = np.argsort(moments)
        moments = moments[order]
        slope = np.cumsum(np.concatenate([rate, -rate])[order])
        running = np.concatenate([np.zeros(1), np.cumsum(slope[:-1] * np.diff(moments))])
        return np.diff(np.interp(edges, moments, running))


@dataclass(frozen=True, slots=True)
class Together:
    """Several amounts as one."""

    flows: tuple[Flow, ...]

    def between(self, start: float, end: float) -> float:
        """The amount in [start, end)."""
        return sum(flow.between(start, end) for flow in self.flows)

    def per_bin(self, edges: Floats) -> Floats:
        """The amount in each of the half-open stretches between ascending edges."""
        return np.asarray(np.sum([flow.per_bin(edges) for flow in self.flows], axis=0), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Output:
    """Output tokens over time.

    Attributes:
        flow: all of them.
        per_request: tokens of each request: the server's count, else what is known of its stream; NaN where nothing is known.
        estimated: requests whose tokens are estimated from bytes of content.
        estimated_tok: how many tokens that is.
        told: whether the stream of every answered request tells how many tokens a chunk holds.
    """

    flow: Flow
    per_request: Floats
    estimated: Bools
    estimated_tok: float
    told: bool


def output(requests: Requests) -> Output:
    """Place every output token at its arrival.

    The server's usage says how many there are. Within a request they go by the tokens that chunks are known to hold, else by their bytes of
    content. A stream that ended without usage (cancelled, interrupted, timed out) is counted by its chunks' tokens, else estimated from its
    bytes at the bytes per token of the answered requests.
    """
    chunks = requests.chunks
    n = len(requests)

    def per_request(values: Floats | Singles) -> Floats:
        return np.asarray(np.bincount(chunks.request, weights=values, minlength=n), dtype=np.float64)

    count = np.diff(chunks.start).astype(np.float64)
    tok_sum = per_request(chunks.tok)  # NaN where any chunk's is unknown
    tok_sum[count == 0] = np.nan
    byte_sum = per_request(chunks.content_bytes)
    usage = requests.output_tok
    ok = requests.ok
    good = ok & (usage > 0) & (byte_sum > 0)
    bytes_per_tok = float(np.sum(byte_sum[good]) / np.sum(usage[good])) if np.any(good) else np.nan

    tokens = usage.copy()
    no_usage = np.isnan(tokens)
    from_stream = no_usage & ~np.isnan(tok_sum)
    tokens[from_stream] = tok_sum[from_stream]
    estimated = no_usage & ~from_stream & (byte_sum > 0) & ~np.isnan(bytes_per_tok)
    tokens[estimated] = byte_sum[estimated] / bytes_per_tok

    by_tok = (tok_sum > 0)[chunks.request]
    weight = np.where(by_tok, chunks.tok, chunks.content_bytes)
    total = per_request(np.where(np.isnan(weight), 0.0, weight))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = weight * (tokens / total)[chunks.request]
    # Without chunks (none were kept, or they hold no bytes): evenly from first to last token, or at the end of a response without content.
    rest = ~(total > 0) & (tokens > 0)
    start = np.where(np.isnan(requests.first_token), requests.done, requests.first_token)[rest]
    end = np.where(np.isnan(requests.last_token), requests.done, requests.last_token)[rest]
    t = chunks.t
    empty = (total <= 0) & (count > 0)
    if np.any(empty):
        placed = ~empty[chunks.request]
        t, share = t[placed], share[placed]
    flow = Flow.of(t, share, start, end, tokens[rest])
    streamed = ok & (count > 1)
    told = bool(np.any(streamed)) and not bool(np.any(np.isnan(tok_sum[streamed])))
    return Output(flow, tokens, estimated, float(np.sum(tokens[estimated])), told)


def spread_input(requests: Requests, tokens: Floats) -> Flow:
    """Tokens of prompts, each spread evenly from sent to first token (to the end of a response without content)."""
    end = np.where(np.isnan(requests.first_token) & requests.ok, requests.done, requests.first_token)
    none = np.zeros(0)
    return Flow.of(none, none, requests.sent, end, tokens)


def in_flight(requests: Requests, until: float) -> Flow:
    """Requests in flight: the amount of a stretch of time is the integral of their number over it, in request-nanoseconds.

    Args:
        requests: all of them.
        until: requests without an end are taken to last until then.
    """
    end = np.where(np.isnan(requests.done), until, requests.done)
    none = np.zeros(0)
    return Flow.of(none, none, requests.sent, end, np.maximum(end - requests.sent, 0.0))


def context(requests: Requests, until: float) -> tuple[Flow, Flow]:
    """Input tokens of requests in flight, in token-nanoseconds, and the requests whose input is known, in request-nanoseconds.

    Over a stretch of time the one over the other is the mean context length: that of the requests in flight, weighted by time.
    """
    end = np.where(np.isnan(requests.done), until, requests.done)
    lasted = np.maximum(end - requests.sent, 0.0)
    none = np.zeros(0)
    known = np.where(np.isnan(requests.input_tok), np.nan, lasted)
    return Flow.of(none, none, requests.sent, end, requests.input_tok * lasted), Flow.of(none, none, requests.sent, end, known)


def live_conversations(requests: Requests, until: float) -> Flow:
    """Conversations from the intended start of their first to the end of their last request, in conversation-nanoseconds."""
    none = np.zeros(0)
    if len(requests) == 0:
        return Flow.of(none, none, none, none, none)
    sessions = int(requests.session.max()) + 1
    start = np.full(sessions, np.inf)
    end = np.full(sessions, -np.inf)
    np.minimum.at(start, requests.session, requests.intended)
    done = np.where(np.isnan(requests.done), np.where(requests.outcome == Outcome.DROPPED, requests.intended, until), requests.done)
    np.maximum.at(end, requests.session, done)
    return Flow.of(none, none, start, end, np.maximum(end - start, 0.0))


def gaps(requests: Requests, counted: Bools, *, told: bool) -> tuple[Floats, Floats | None]:
    """Gaps between chunks in seconds, of the counted requests, and how many equal ones each stands for (None: one each).

    Args:
        requests: all of them.
        counted: which of them count.
        told: the streams tell tokens per chunk: a gap before a chunk of k tokens then stands for k gaps of a k-th of its length, and
            a chunk without tokens makes the next gap longer.
    """
    chunks = requests.chunks
    keep = counted[chunks.request] & ~np.isnan(chunks.t)
    if told:
        keep &= chunks.tok > 0
    t, owner, tok = chunks.t[keep], chunks.request[keep], chunks.tok[keep]
    same = owner[1:] == owner[:-1]
    gap_s = np.diff(t)[same] * 1e-9
    if not told:
        return gap_s, None
    weight = tok[1:][same].astype(np.float64)
    return gap_s / weight, weight


def tpot(requests: Requests) -> Floats:
    """Seconds per output token of each request; NaN where there is no pace to see (one token, one chunk, no count)."""
    chunks = requests.chunks
    n = len(requests)
    count = np.diff(chunks.start)
    tok_sum = np.bincount(chunks.request, weights=chunks.tok, minlength=n)
    first = np.full(n, np.nan)
    has = count > 0
    first[has] = chunks.tok[chunks.start[:-1][has]]
    after = np.where(has & ~np.isnan(tok_sum), tok_sum - first, requests.output_tok - 1)
    span = requests.last_token - requests.first_token
    pace = np.full(n, np.nan)
    seen = (after > 0) & (span > 0)
    pace[seen] = span[seen] * 1e-9 / after[seen]
    return pace
