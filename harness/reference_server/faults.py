"""What the paced server can do to a request, good or bad. The client must turn each into its own
outcome, never into a hang or a crash.
"""

from enum import StrEnum


class Fault(StrEnum):
    """One way to answer a request."""

    NONE = "none"

    # Right answers in unusual clothes: the record must be the same as for NONE.
    CRLF = "crlf"  # lines end with CR LF
    SPLIT_BYTES = "split_bytes"  # every byte of the stream is a write of its own
    SEVERAL_PER_WRITE = "several_per_write"  # four events a write
    COMMENTS = "comments"  # comments and pings between events
    EVENT_OVER_WRITES = "event_over_writes"  # each event is cut in two writes, half a gap apart
    CONTENT_LENGTH = "content_length"  # a plain body of known length instead of chunks
    UNTIL_CLOSE = "until_close"  # neither: the body ends with the connection
    NO_USAGE = "no_usage"  # the stream tells no token counts
    CACHE_USAGE = "cache_usage"  # the prompt's count is split into read, written and computed

    # Errors before the stream.
    RATE_LIMITED = "rate_limited"  # 429 with retry-after in seconds
    OVERLOADED = "overloaded"  # 529 with retry-after-ms
    UNAVAILABLE = "unavailable"  # 503 with retry-after as a date
    PLAIN_ERROR = "plain_error"  # 500 with a body that is no JSON
    NOT_A_STREAM = "not_a_stream"  # 200 with a JSON body
    RESET = "reset"  # the connection is reset before an answer
    CLOSE_AT_ONCE = "close_at_once"  # the connection is closed before an answer
    GARBAGE = "garbage"  # bytes that are no HTTP
    STALL_FIRST = "stall_first"  # no answer at all

    # Errors within the stream, after half of its tokens.
    ERROR_EVENT = "error_event"
    TRUNCATED = "truncated"  # the connection closes
    RESET_IN_STREAM = "reset_in_stream"  # the connection is reset
    NO_END_MARKER = "no_end_marker"  # the HTTP message ends, the stream's end marker is missing
    HALF_EVENT = "half_event"  # the HTTP message ends within an event
    BAD_JSON = "bad_json"  # an event's data is no JSON; the stream goes on
    LENGTH_TOO_LONG = "length_too_long"  # content-length promises more than comes
    LENGTH_TOO_SHORT = "length_too_short"  # content-length ends the message within the stream
    AFTER_THE_END = "after_the_end"  # content after the end marker
    STALL = "stall"  # nothing more comes
    ENDLESS_PINGS = "endless_pings"  # nothing but pings comes, for ever
