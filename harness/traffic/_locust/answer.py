"""From the reads of a response to its record: arrival times of content, usage, how it ended.

Runs once, after the last byte. A pattern made from an already parsed event matches others of the
same form, so most events cost one match and no JSON; anything else (first events, usage, stop
reasons, escapes, surprises) is parsed as JSON.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from itertools import accumulate, pairwise
from typing import Final

from harness.api.base import WireApi
from harness.api.event_patterns import MAX_LEARNT_PER_STREAM, escaped_size, known, learn, size_of
from harness.api.parts import AnswerParts, ContentPart
from harness.api.reader import AnswerReader
from harness.api.response import (
    CompressedError,
    decompressed,
    encoding_of,
    good_status,
    is_stream,
    no_stream,
    refused,
)
from harness.api.sse import several
from harness.api.table import wire
from harness.core.records import Api, Note, Outcome
from harness.traffic._locust.http1 import Framing
from harness.traffic._locust.http_errors import retry_after_s

PAUSE_EVENTS: Final = 200
"""Events between two calls of `pause`: about half a millisecond, so that a long response does not
delay the timestamps of others.
"""

_UINT32_MAX: Final = 2**32 - 1


class EndOfStream(Enum):
    """Why reading stopped."""

    COMPLETE = "complete"  # the HTTP message is complete, or its bytes are not HTTP
    EOF = "eof"  # the server closed its side
    RESET = "reset"  # the connection broke
    LOCAL = "local"  # our side stopped: a timeout, the user, the end of the run


@dataclass(slots=True)
class Answer:
    """Content of a response. Fields are those of `artifacts.tables.REQUESTS`; None: unknown, or did
    not happen.
    """

    outcome: Outcome
    error: str | None = None
    http_status: int | None = None
    retry_after_s: float | None = None
    first_byte_ns: int | None = None
    first_token_ns: int | None = None
    last_token_ns: int | None = None
    stop_reason: str | None = None
    content_kinds: list[str] = field(default_factory=list)
    input_tok: int | None = None
    cache_read_tok: int | None = None
    cache_write_tok: int | None = None
    output_tok: int | None = None
    response_bytes: int | None = None
    chunk_dt_us: "array[int] | None" = None
    chunk_bytes: "array[int] | None" = None
    chunk_tok: "array[int] | None" = None
    text: str | None = None
    parts: tuple[ContentPart, ...] = ()
    notes: str | None = None


def read_answer(
    framing: Framing,
    api: Api,
    ending: EndOfStream,
    *,
    local: Outcome | None = None,
    error: str | None = None,
    pause: Callable[[], None] | None = None,
    keep_text: bool = False,
    keep_parts: bool = False,
) -> Answer:
    """Read a complete response. Never raises for anything that a server can send.

    `local` is the outcome if `ending` is LOCAL; `error` is for the record if reading stopped for
    another reason than the message's end; `pause` is called periodically within a long response.
    `keep_text` collects the content as text (tests): every event is then parsed as JSON.
    `keep_parts` collects the `parts` for later turns to include.
    """
    framing.finish()
    answer = Answer(
        Outcome.OK,
        http_status=framing.status,
        response_bytes=len(framing.body) if framing.reads else None,
    )
    if framing.times_ns:
        answer.first_byte_ns = framing.times_ns[0]
    if framing.status is not None:
        answer.retry_after_s = retry_after_s(framing.headers)
    wire_api = wire(api)
    stream = _Stream(wire_api, keep_text=keep_text, keep_parts=keep_parts)
    found = _read(framing, wire_api, stream, pause)
    stream.fill(answer)
    if ending is EndOfStream.LOCAL:
        assert local is not None
        answer.outcome, answer.error = local, error
    elif framing.status is None:
        answer.outcome, answer.error = _no_status(framing, ending, error)
    elif found is not None:
        answer.outcome, answer.error = found
    else:
        answer.outcome, answer.error = _stream_outcome(framing, stream.reader, ending, error)
        if answer.outcome is Outcome.OK and stream.reader.disagreement is not None:
            # complete all the same; its last usage counts
            answer.error = f"usage disagrees: {stream.reader.disagreement}"
    notes = stream.reader.notes | ({Note.READ_TIMES} if framing.read_times else set())
    answer.notes = " ".join(sorted(notes)) or None
    return answer


def _read(
    framing: Framing, api: WireApi, stream: "_Stream", pause: Callable[[], None] | None
) -> tuple[Outcome, str | None] | None:
    """Read the stream; the outcome of a response that has none."""
    status, headers = framing.status, framing.headers
    if status is None:
        return None
    body, ends, reader = framing.body, framing.body_ends, stream.reader
    if (encoding := encoding_of(headers)) is not None:
        try:
            pieces = decompressed((body[a:b] for a, b in pairwise([0, *ends])), encoding)
        except CompressedError as error:
            return Outcome.MALFORMED, str(error)
        body, ends = b"".join(pieces), list(accumulate(map(len, pieces)))
        reader.notes.add(Note.COMPRESSED)
    if not good_status(status):
        return Outcome.HTTP_ERROR, refused(status, body)
    if not is_stream(api, headers, body, reader):
        return no_stream(status, headers, body)
    stream.read(body, ends, framing.times_ns, whole=framing.complete, pause=pause)
    return None


def _no_status(framing: Framing, ending: EndOfStream, error: str | None) -> tuple[Outcome, str]:
    if framing.error is not None:
        return Outcome.MALFORMED, framing.error
    if framing.reads:
        return Outcome.TRUNCATED, "the connection closed within the headers"
    what = "the connection broke before a response"
    if ending is EndOfStream.EOF:
        what = "the server closed the connection without a response"
    return Outcome.CONNECTION_ERROR, error or what


def _stream_outcome(
    framing: Framing, reader: AnswerReader, ending: EndOfStream, error: str | None
) -> tuple[Outcome, str | None]:
    if reader.error is not None:
        return Outcome.API_ERROR, reader.error
    if framing.error is not None:
        return Outcome.MALFORMED, framing.error
    if (failed := reader.failure()) is not None:
        return failed
    if not framing.complete:
        cut = "the connection broke" if ending is EndOfStream.RESET else "the connection closed"
        return Outcome.TRUNCATED, error or f"{cut} before the HTTP message was complete"
    if framing.extra and not reader.ended:
        why = f"the stream ended without {reader.end_marker}"
        return Outcome.TRUNCATED, f"{why}; bytes followed the end of the HTTP message"
    return reader.outcome()


class _Stream:
    """Arrival times of the content of an event stream; the reader interprets it."""

    def __init__(self, api: WireApi, *, keep_text: bool, keep_parts: bool) -> None:
        self._api = api
        self._parts = AnswerParts() if keep_parts else None
        self.reader = api.reader(self._parts)
        self._keep_text = keep_text
        self._text: list[str] = []
        # One entry per read with content: its time, content bytes, and the tokens so far.
        self._times_ns: list[int] = []
        self._bytes: list[int] = []
        self._tok: list[int | None] = []

    def read(
        self,
        body: bytes,
        ends: list[int],
        times: list[int],
        *,
        whole: bool,
        pause: Callable[[], None] | None,
    ) -> None:
        """Read a body; `ends` are its lengths after each read, `times` those of the reads."""
        reader, parts = self.reader, self._parts
        tok: int | None = None  # so far, if the stream includes counts
        shapes = [] if self._keep_text else list(known[self._api.name].values())
        shape = shapes[-1] if shapes else None
        match = shape.pattern.fullmatch if shape else None
        learnt = 0
        which = 0  # the read that completed the event
        counted = -1  # the read of the last entry
        last_counted: bytes | None = None
        together = 0  # events with content that came in the read of the one before
        events = self._api.events(body, whole=whole)
        end = 0
        for number, (event, end) in enumerate(events):
            if pause is not None and number % PAUSE_EVENTS == PAUSE_EVENTS - 1:
                pause()
            hit = match(event) if match is not None else None
            if hit is None:
                for other in shapes:
                    if other is not shape and (hit := other.pattern.fullmatch(event)) is not None:
                        shape, match = other, other.pattern.fullmatch
                        break
                else:
                    if several(event):
                        # Further ones are next in the list that is being read.
                        before = events[number - 1][1] if number else 0
                        events[number : number + 1] = reader.separated(event, before, end)
                        event, end = events[number]  # noqa: PLW2901
            while which < len(ends) - 1 and ends[which] < end:
                which += 1
            size = -1
            kind = ""
            if hit is not None and not reader.ended:
                assert shape is not None
                start, stop = hit.span(shape.content)
                size = stop - start
                if b"\\" in event:
                    size = escaped_size(hit[shape.content])
                kind = shape.kind
                if parts is not None and size >= 0:
                    parts.add(kind, hit[shape.content])
                if shape.tok and size >= 0:
                    tok = int(hit[shape.tok])
                    last_counted = event
            if size < 0:
                found = reader.read(event)
                if reader.completion_tok is not None:
                    tok = reader.completion_tok
                if found is None:
                    continue
                kind, content = found
                if self._keep_text:
                    self._text.append(content)
                size = size_of(content)
                if (
                    learnt < MAX_LEARNT_PER_STREAM
                    and not self._keep_text
                    and not reader.ended
                    and not reader.begun
                    and Note.CONTENT_FORM not in reader.notes
                    and (new := learn(self._api.name, event, kind, content)) is not None
                ):
                    learnt += 1
                    shape, match = new, new.pattern.fullmatch
                    if new not in shapes:
                        shapes.append(new)
            if not size:
                continue
            if kind not in reader.kinds:
                reader.kinds.append(kind)
            if which == counted:
                together += 1
                self._bytes[-1] += size
                self._tok[-1] = tok
            else:
                counted = which
                self._times_ns.append(times[which])
                self._bytes.append(size)
                self._tok.append(tok)
        reader.cut = bool(body[end:].strip())
        if together and together >= len(self._times_ns):
            reader.notes.add(Note.BURST)
        if last_counted is not None and reader.tokens().output_tok != tok:
            # No final usage (the stream was cut short, or its server sends none): the last event's
            # count stands.
            reader.count_again(last_counted)
            reader.usage_last = False  # that event has content

    def fill(self, answer: Answer) -> None:
        """Set what the stream contains; without one, nothing."""
        answer.stop_reason = self.reader.stop_reason
        answer.content_kinds = self.reader.kinds
        if self._keep_text:
            answer.text = "".join(self._text)
        if self._parts is not None:
            answer.parts = self._parts.parts()
        if self._times_ns:
            first = self._times_ns[0]
            answer.first_token_ns, answer.last_token_ns = first, self._times_ns[-1]
            # rounded cumulatively, so that no error adds up
            so_far_us = [(time - first + 500) // 1000 for time in self._times_ns]
            gaps_us = (min(b - a, _UINT32_MAX) for a, b in pairwise(so_far_us))
            answer.chunk_dt_us = array("I", [0, *gaps_us])
            answer.chunk_bytes = array("I", self._bytes)
            counts = [tok for tok in self._tok if tok is not None]
            if len(counts) == len(self._tok):
                answer.chunk_tok = self._chunk_tok(counts)
        usage = self.reader.settled()
        answer.input_tok, answer.output_tok = usage.input_tok, usage.output_tok
        answer.cache_read_tok, answer.cache_write_tok = usage.cache_read_tok, usage.cache_write_tok

    def _chunk_tok(self, counts: list[int]) -> "array[int] | None":
        """Tokens per chunk, if the counts that came with them are consistent with each other and
        with the final usage.
        """
        closing = self.reader.tokens().output_tok
        if counts[0] == counts[-1] != 1 and len(counts) > 1:
            if counts[0]:
                self.reader.notes.add(Note.USAGE_REPEATED)
        elif any(b < a for a, b in pairwise(counts)):
            self.reader.disagreement = "the token counts decrease within the stream"
        elif closing is not None and counts[-1] > closing:
            self.reader.disagreement = (
                f"{counts[-1]} tokens came with the chunks; the final usage is {closing}"
            )
        else:
            return array("I", [b - a for a, b in pairwise([0, *counts])])
        return None
