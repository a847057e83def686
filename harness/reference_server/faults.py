"""Ways for the paced server to answer a request. The client must record an outcome for each, and
never hang or crash.
"""

from enum import StrEnum


class Fault(StrEnum):
    """One way."""

    NONE = "none"

    # Valid responses in unusual forms: the record must be the same as for NONE.
    CRLF = "crlf"  # lines end with CR LF
    SPLIT_BYTES = "split_bytes"  # one write per byte of the stream
    SEVERAL_PER_WRITE = "several_per_write"  # four events per write
    COMMENTS = "comments"  # comments and pings between events
    EVENT_OVER_WRITES = "event_over_writes"  # each event in two writes, half a gap apart
    CONTENT_LENGTH = "content_length"  # a plain body of known length instead of chunks
    UNTIL_CLOSE = "until_close"  # neither: the body ends with the connection
    NO_USAGE = "no_usage"  # no token counts
    CACHE_USAGE = "cache_usage"  # prompt count split into read, written and computed

    # Errors before the stream.
    RATE_LIMITED = "rate_limited"  # 429 with retry-after in seconds
    OVERLOADED = "overloaded"  # 529 with retry-after-ms
    UNAVAILABLE = "unavailable"  # 503 with retry-after as a date
    PLAIN_ERROR = "plain_error"  # 500 with a body that is not JSON
    NOT_A_STREAM = "not_a_stream"  # 200 with a JSON body
    RESET = "reset"  # connection reset before a response
    CLOSE_AT_ONCE = "close_at_once"  # connection closed before a response
    GARBAGE = "garbage"  # bytes that are not HTTP
    STALL_FIRST = "stall_first"  # no response

    # Errors within the stream, after half of its tokens.
    ERROR_EVENT = "error_event"
    TRUNCATED = "truncated"  # connection closed
    RESET_IN_STREAM = "reset_in_stream"  # connection reset
    NO_END_MARKER = "no_end_marker"  # the HTTP message ends without the stream's end marker
    HALF_EVENT = "half_event"  # the HTTP message ends within an event
    BAD_JSON = "bad_json"  # one event's data is not JSON; the stream continues
    LENGTH_TOO_LONG = "length_too_long"  # content-length beyond the end of the stream
    LENGTH_TOO_SHORT = "length_too_short"  # content-length ends within the stream
    AFTER_THE_END = "after_the_end"  # content after the end marker
    STALL = "stall"  # nothing more is sent
    ENDLESS_PINGS = "endless_pings"  # only pings, forever
