"""What an HTTP response is to the harness: an event stream, one document, or a failure. The load,
the checks before it and the quality check all read with this module.
"""

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from harness.api.base import WireApi
from harness.api.errors import error_of, error_text, is_error, is_foreign_error
from harness.api.reader import AnswerReader, read_body
from harness.core.records import Note, Outcome

MOST_BYTES: Final = 128 * 1024 * 1024
"""Memory of the longest response that is kept, before and after decompression. One of 200,000
tokens, with an event and a read each, takes three quarters of it.
"""
PIECE_BYTES: Final = 128
"""Memory of a piece as it was received, in addition to its bytes."""

_BEGINNINGS: Final = (b"data:", b"event:", b":", b"id:", b"retry:", b"error:")
_ZLIB: Final = frozenset({"gzip", "x-gzip", "deflate"})


class CompressedError(ValueError):
    """A body in a compression that cannot be read."""


class TooLongError(ValueError):
    """A body of more bytes than are kept."""


def too_long() -> str:
    """Why a response is not read further."""
    return f"the response is longer than {MOST_BYTES} bytes, the most that is kept"


def joined(pieces: Iterable[bytes], most_bytes: int | None = None) -> bytes:
    """A body of these pieces.

    Raises:
        TooLongError: it is longer than `most_bytes` (`MOST_BYTES`); no further piece is taken.
    """
    kept: list[bytes] = []
    left = MOST_BYTES if most_bytes is None else most_bytes
    for piece in pieces:
        left -= len(piece) + PIECE_BYTES
        if left < 0:
            raise TooLongError(too_long())
        kept.append(piece)
    return b"".join(kept)


def good_status(status: int | None) -> bool:
    """Whether a status is a success."""
    return status is not None and 200 <= status < 300


def encoding_of(headers: Mapping[str, str]) -> str | None:
    """Compression of a body; None for none."""
    named = headers.get("content-encoding", "").strip().lower()
    return None if named in ("", "identity") else named


def decompressed(pieces: Iterable[bytes], encoding: str) -> list[bytes]:
    """The pieces of a body without their compression, each as far as it can be read.

    Raises:
        CompressedError: another compression than gzip or deflate, a damaged or a huge one.
    """
    if encoding not in _ZLIB:
        raise CompressedError(_compressed(encoding))
    out: list[bytes] = []
    total, decoder = 0, None
    for piece in pieces:
        if decoder is None and piece:
            # `deflate` comes with and without the header of zlib (RFC 9110, 8.4.1.2)
            header = encoding != "deflate" or piece[0] & 0x0F == 8
            decoder = zlib.decompressobj(zlib.MAX_WBITS | 32 if header else -zlib.MAX_WBITS)
        found = b""
        try:
            rest = piece
            while rest and decoder is not None:
                found += decoder.decompress(rest, MOST_BYTES - total + 1)
                rest = decoder.unused_data
                if rest:  # the next member of a gzip file
                    decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)
        except zlib.error as error:
            raise CompressedError(f"{_compressed(encoding)}, and damaged ({error})") from error
        total += len(found)
        if total > MOST_BYTES:
            raise CompressedError(f"{_compressed(encoding)}; decompressed, {too_long()}")
        out.append(found)
    return out


def _compressed(encoding: str) -> str:
    return (
        f"the response is compressed ({encoding[:40]}) although `accept-encoding: identity` was"
        " sent: something in front of the server does it; turn it off there"
    )


def is_stream(api: WireApi, headers: Mapping[str, str], body: bytes, reader: AnswerReader) -> bool:
    """Whether a body without compression is an event stream, by its type, else by its beginning."""
    kind = headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == api.stream_type:
        return True
    found = body[:64].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_BEGINNINGS)
    if found:
        reader.notes.add(Note.CONTENT_TYPE)
    return found


def refused(status: int, body: bytes) -> str:
    """Error text of a response with another status than 2xx."""
    return error_text(body) or f"HTTP {status}"


def no_stream(status: int, headers: Mapping[str, str], body: bytes) -> tuple[Outcome, str]:
    """Outcome of a good status without an event stream where one was requested."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict) and (
        is_error(value) or ("choices" not in value and is_foreign_error(value))
    ):
        return Outcome.API_ERROR, error_of(value) or str(error_text(body))
    kind = headers.get("content-type") or "none"
    return Outcome.MALFORMED, f"status {status} with content-type {kind!r}, not an event stream"


@dataclass(frozen=True, slots=True)
class Received:
    """A complete response.

    Attributes:
        body: without compression.
        stream: it is an event stream, not one document.
    """

    reader: AnswerReader
    outcome: Outcome
    error: str | None
    body: bytes = b""
    stream: bool = False


def read_response(
    api: WireApi, status: int, headers: Mapping[str, str], body: bytes, *, streams: bool
) -> Received:
    """Read a complete response. A document in place of a stream is an error, while a stream in
    place of a document is read.

    Args:
        api: of the request.
        status: HTTP status.
        headers: lower-case name -> value.
        body: as received.
        streams: an event stream was requested.
    """
    reader = api.reader()
    try:
        if (encoding := encoding_of(headers)) is not None:
            body = b"".join(decompressed([body], encoding))
            reader.notes.add(Note.COMPRESSED)
    except CompressedError as error:
        return Received(reader, Outcome.MALFORMED, str(error))
    if not good_status(status):
        return Received(reader, Outcome.HTTP_ERROR, refused(status, body), body)
    stream = is_stream(api, headers, body, reader)
    if streams and not stream:
        return Received(reader, *no_stream(status, headers, body), body)
    read_body(reader, body, streams=stream)
    # A document is complete, and one token may have no text.
    outcome, why = reader.outcome() if stream else reader.failure() or (Outcome.OK, None)
    return Received(reader, outcome, why, body, stream)
