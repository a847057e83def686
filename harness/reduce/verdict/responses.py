"""Concerns about the form of responses: deviations that were read all the same, counts that are no
counts, content that never came or came in bursts.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from harness.core.records import Concern, Note, Severity
from harness.reduce.read.requests import Requests

MOST_SHARE: Final = 0.01
"""Share of the completed requests above which a deviation degrades a measurement."""

MOST_BURSTS: Final = 0.1
LEAST_BURSTS: Final = 3
"""The same for bursts, and their least number: single ones occur on a busy machine without any
buffering.
"""

_FORMS: Final = {
    Note.NO_END_MARKER: "ended with a stop reason, but without the API's end marker",
    Note.NO_STOP_REASON: "ended with the API's end marker and usage, but without a stop reason",
    Note.UNKNOWN_STOP_REASON: "have a stop reason that is not in the API's table",
    Note.MARKER_AFTER_END: "have another API's end marker after their end",
    Note.FOREIGN_EVENT: "contain events that are not part of the API; they were ignored",
    Note.NO_BLANK_LINES: "separate their events by one newline, not by a blank line",
    Note.CONTENT_FORM: "have content as parts or objects where the API has text",
    Note.CONTENT_TYPE: "are event streams under another content type than text/event-stream",
}  # fmt: skip
"""Deviations without effect on values, and what these responses do."""


def response_concerns(requests: Requests, *, smoke: bool) -> list[Concern]:
    """Concerns about the responses of a run."""
    done = int(np.sum(requests.ok))
    if not done:
        return []
    return [
        *_forms(requests, done),
        *_usage(requests, done, smoke=smoke),
        *_timing(requests, done, smoke=smoke),
    ]


def _severity(share: float, *, smoke: bool) -> Severity:
    return Severity.NOTE if smoke or share <= MOST_SHARE else Severity.DEGRADED


def _forms(requests: Requests, done: int) -> Iterator[Concern]:
    for note, what in _FORMS.items():
        n = int(np.sum(requests.noted(note)))
        if n:
            text = f"{n} of {done} responses {what}."
            yield Concern("response_form", Severity.NOTE, text, n, 0)
    n = int(np.sum(requests.noted(Note.COMPRESSED)))
    if n:
        text = (
            f"{n} of {done} responses were compressed, but `accept-encoding: identity` was sent: a"
            " proxy compresses and may buffer them. Turn its compression off."
        )
        yield Concern("response_compressed", Severity.NOTE, text, n, 0)


def _usage(requests: Requests, done: int, *, smoke: bool) -> Iterator[Concern]:
    n = int(np.sum(requests.noted(Note.USAGE_ZERO)))
    if n:
        text = (
            f"{n} of {done} responses report 0 output or prompt tokens next to content: these"
            " counts are not used."
        )
        yield Concern("usage_zero", _severity(n / done, smoke=smoke), text, n, 0)
    n = int(np.sum(requests.noted(Note.USAGE_UNUSABLE)))
    if n:
        text = f"{n} of {done} responses report token counts that are not whole numbers."
        yield Concern("usage_unusable", _severity(n / done, smoke=smoke), text, n, 0)
    n = int(np.sum(requests.noted(Note.USAGE_DISAGREES)))
    if n:
        text = f"{n} of {done} responses contradict their own token counts; the last ones are used."
        yield Concern("usage_disagrees", _severity(n / done, smoke=smoke), text, n, 0)
    n = int(np.sum(requests.noted(Note.USAGE_REPEATED)))
    if n:
        text = (
            f"{n} of {done} responses repeat their final usage in every chunk: tokens per chunk are"
            " unknown."
        )
        yield Concern("usage_repeated", Severity.NOTE, text, n, 0)


def _timing(requests: Requests, done: int, *, smoke: bool) -> Iterator[Concern]:
    several = requests.ok & (requests.output_tok > 1)
    silent = several & np.isnan(requests.first_token)
    n = int(np.sum(silent))
    if n:
        mean = float(np.mean(requests.output_tok[silent]))
        text = (
            f"{n} of {done} responses of {mean:.0f} tokens on average carried no content: TTFT and"
            f" TPOT cover {done - n} of {done}."
        )
        yield Concern("no_content", _severity(n / done, smoke=smoke), text, n, 0)
    bursts = requests.in_bursts
    n = int(np.sum(bursts))
    if n:
        of = max(n, int(np.sum(several)))
        single = bool(np.all(requests.chunks.count[bursts] == 1))
        how = "came in one read" if single else "came with several events per read"
        many = n >= LEAST_BURSTS and n / of > MOST_BURSTS
        why = (
            "something between buffers the stream (nginx: set `proxy_buffering off`). Their TTFT"
            " includes the buffering"
            if many
            else "so few may be late reads of a busy load generator. Their TTFT includes the delay"
        )
        text = f"{n} of {of} responses of several tokens {how}: {why}; TPOT and ITL omit them."
        severity = Severity.DEGRADED if many and not smoke else Severity.NOTE
        yield Concern("stream_in_bursts", severity, text, n, 0)
    n = int(np.sum(requests.noted(Note.READ_TIMES)))
    if n:
        text = (
            "The kernel gives no arrival times of packets (SO_TIMESTAMPNS): the times of tokens are"
            " those of reads."
        )
        yield Concern("no_arrival_times", Severity.NOTE, text, n, 0)
