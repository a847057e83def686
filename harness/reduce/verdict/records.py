"""Whether the records of requests agree with themselves: times in their order, counts that can be,
chunks that are those of the answer.
"""

from typing import Final

import numpy as np

from harness.core.records import Concern, Severity
from harness.reduce.read.categorical import Bools
from harness.reduce.read.requests import Requests

EARLY_NS: Final = 1e6
"""A request is sent at its intended time or later; both are read from the same clock."""
CHUNK_NS: Final = 1e3
"""Gaps between chunks are recorded in whole microseconds."""
SLACK_NS: Final = 1e6
"""What the last chunk may lie beside the last token, beyond the rounding of gaps."""
COUNT_SHARE: Final = 0.02
"""Tokens that chunks hold and tokens of the usage may differ by this share, and by one: some
servers count the end of the text.
"""


def record_concerns(requests: Requests, *, smoke: bool) -> list[Concern]:
    """What the records say against themselves.

    Args:
        requests: all of them.
        smoke: whether what blurs figures only is a note.
    """
    found = np.zeros(4, dtype=np.int64)
    told = chunked = 0
    ok, count = requests.ok, requests.chunks.count
    for rows in requests.parts():  # there may be ten million
        known = (
            ok[rows]
            & ~np.isnan(requests.chunks.tok_sum[rows])
            & ~np.isnan(requests.output_tok[rows])
        )
        with_chunks = count[rows] > 0
        odd = (
            _times(requests, rows),
            _counts(requests, rows),
            _chunk_tokens(requests, rows) & known,
            _chunk_times(requests, rows),
        )
        found += [int(np.sum(one)) for one in odd]
        told, chunked = told + int(np.sum(known)), chunked + int(np.sum(with_chunks))
    blurred = Severity.NOTE if smoke else Severity.DEGRADED
    times, counts, tokens, ends = found.tolist()
    out = []
    if times:
        text = (
            f"{times} records have times that run backwards: the clock jumped or records are"
            " damaged."
        )
        out.append(Concern("times_backwards", Severity.INVALID, text, times, 0))
    if counts:
        text = (
            f"{counts} answers came with counts of tokens that cannot be: less than none, or more"
            " of the prompt from the cache than it has."
        )
        out.append(Concern("usage_impossible", Severity.INVALID, text, counts, 0))
    if tokens:
        text = (
            f"The chunks of {tokens} of {told} answers hold another number of tokens than their"
            " usage says: their pace is not known well."
        )
        out.append(Concern("chunk_tokens_disagree", blurred, text, tokens, 0))
    if ends:
        text = (
            f"The chunks of {ends} of {chunked} answers do not end with their last token: gaps are"
            " in another unit, or records are damaged."
        )
        out.append(Concern("chunk_times_disagree", blurred, text, ends, 0))
    return out


def _times(requests: Requests, rows: slice) -> Bools:
    intended, sent, first, last, done = (
        column[rows]
        for column in (
            requests.intended,
            requests.sent,
            requests.first_token,
            requests.last_token,
            requests.done,
        )
    )
    with np.errstate(invalid="ignore"):
        odd: Bools = (first < sent) | (last < first) | (done < sent) | (done < last)
        odd |= (sent < intended - EARLY_NS) | (done < intended - 1e9)
    return odd


def _counts(requests: Requests, rows: slice) -> Bools:
    read, wrote = (
        np.nan_to_num(requests.cache_read_tok[rows]),
        np.nan_to_num(requests.cache_write_tok[rows]),
    )
    whole = requests.input_tok[rows]
    with np.errstate(invalid="ignore"):
        odd: Bools = (
            (whole < read)
            | (whole < wrote)
            | (requests.output_tok[rows] < 0)
            | (read < 0)
            | (wrote < 0)
        )
    return odd


def _chunk_tokens(requests: Requests, rows: slice) -> Bools:
    usage = requests.output_tok[rows]
    with np.errstate(invalid="ignore"):
        odd: Bools = np.abs(requests.chunks.tok_sum[rows] - usage) > np.maximum(
            1.0, COUNT_SHARE * usage
        )
    return odd


def _chunk_times(requests: Requests, rows: slice) -> Bools:
    at, lengths = requests.chunks.of(rows)
    odd: Bools = np.zeros(len(lengths), dtype=bool)
    there = lengths > 0
    last = requests.chunks.t[at][np.cumsum(lengths)[there] - 1]
    with np.errstate(invalid="ignore"):
        odd[there] = (
            np.abs(last - requests.last_token[rows][there]) > SLACK_NS + CHUNK_NS * lengths[there]
        )
    return odd
