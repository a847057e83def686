"""Consistency of request records: order of times, possible token counts, chunks that match the
response.
"""

from typing import Final

import numpy as np

from harness.core.records import Concern, Severity
from harness.reduce.read.categorical import Bools
from harness.reduce.read.requests import Requests

EARLY_NS: Final = 1e6
"""How much earlier than scheduled a request may be sent; both times are from the same clock."""
CHUNK_NS: Final = 1e3
"""Gaps between chunks are recorded in whole microseconds."""
SLACK_NS: Final = 1e6
"""Tolerance between last chunk and last token, in addition to the rounding of gaps."""
COUNT_SHARE: Final = 0.02
"""Tolerance between tokens of chunks and of usage, at least 1: some servers count the end of text.
"""


def record_concerns(requests: Requests, *, smoke: bool) -> list[Concern]:
    """Concerns about inconsistent records; those that only affect accuracy are notes if `smoke`."""
    found = np.zeros(4, dtype=np.int64)
    known_tok = chunked = 0
    ok, count = requests.ok, requests.chunks.count
    for rows in requests.parts():  # there may be ten million
        known = ok[rows] & ~np.isnan(requests.chunks.tok_sum[rows] + requests.output_tok[rows])
        odd = (
            _times(requests, rows),
            _counts(requests, rows),
            _chunk_tokens(requests, rows) & known,
            _chunk_times(requests, rows),
        )
        found += [int(np.sum(one)) for one in odd]
        known_tok += int(np.sum(known))
        chunked += int(np.sum(count[rows] > 0))
    blurred = Severity.NOTE if smoke else Severity.DEGRADED
    times, counts, tokens, ends = found.tolist()
    out = []
    if times:
        text = f"{times} records have times out of order: the clock jumped or records are damaged."
        out.append(Concern("times_backwards", Severity.INVALID, text, times, 0))
    if counts:
        text = (
            f"{counts} responses have impossible token counts: negative, or more cached than"
            " prompt tokens."
        )
        out.append(Concern("usage_impossible", Severity.INVALID, text, counts, 0))
    if tokens:
        text = (
            f"The chunks of {tokens} of {known_tok} responses have another number of tokens than"
            " their usage reports: TPOT and ITL are inaccurate."
        )
        out.append(Concern("chunk_tokens_disagree", blurred, text, tokens, 0))
    if ends:
        text = (
            f"The chunks of {ends} of {chunked} responses do not end at the last token: gaps are in"
            " another unit, or records are damaged."
        )
        out.append(Concern("chunk_times_disagree", blurred, text, ends, 0))
    return out


def _times(requests: Requests, rows: slice) -> Bools:
    intended, sent, done = requests.intended[rows], requests.sent[rows], requests.done[rows]
    first, last = requests.first_token[rows], requests.last_token[rows]
    with np.errstate(invalid="ignore"):
        odd: Bools = (first < sent) | (last < first) | (done < sent) | (done < last)
        odd |= (sent < intended - EARLY_NS) | (done < intended - 1e9)
    return odd


def _counts(requests: Requests, rows: slice) -> Bools:
    read = np.nan_to_num(requests.cache_read_tok[rows])
    wrote = np.nan_to_num(requests.cache_write_tok[rows])
    whole = requests.input_tok[rows]
    with np.errstate(invalid="ignore"):
        odd: Bools = (whole < np.maximum(read, wrote)) | (np.minimum(read, wrote) < 0)
        odd |= requests.output_tok[rows] < 0
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
