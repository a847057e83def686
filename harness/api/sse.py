"""Server-sent events of a complete body."""

import json
import re
from typing import Final

_BOUNDARY = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_LINE = re.compile(rb"([^\r\n]*)(?:\r\n|\n|\r|\Z)")
_PAYLOAD_LINE = re.compile(rb"(?:\A|[\r\n])(?:data|error):")
_PAYLOAD: Final = frozenset({b"data", b"error"})
_BEGINS: Final = _PAYLOAD | {b"event"}
_BOM: Final = b"\xef\xbb\xbf"

DONE = re.compile(rb'\s*"?\[?DONE\]?"?\s*', re.IGNORECASE)
"""End marker of OpenAI's streams; other servers send it after their own."""


def events(body: bytes, *, whole: bool) -> list[tuple[bytes, int]]:
    """Events with the end offset of each. A last one without its blank line counts if it and the
    HTTP message are complete. An event may turn out to be `several`.
    """
    out: list[tuple[bytes, int]] = []
    at = len(_BOM) if body.startswith(_BOM) else 0
    if b"\r" in body:
        for boundary in _BOUNDARY.finditer(body, at):
            out.append((body[at : boundary.start()], boundary.end()))
            at = boundary.end()
        rest = body[at:]
    else:
        pieces = body[at:].split(b"\n\n")
        rest = pieces.pop()
        for piece in pieces:
            at += len(piece) + 2
            out.append((piece, at))
    if several(rest):
        end = max((end for _, end in split(rest, at)), default=at)
        out.append((rest[: end - at], end))
    elif whole and _is_whole(rest):
        out.append((rest, len(body)))
    return out


def several(event: bytes) -> bool:
    """Whether an event may be several that no blank line separates."""
    many = event.count(b"data:") + event.count(b"error:") > 1
    return many and len(_PAYLOAD_LINE.findall(event)) > 1


def split(event: bytes, at: int, end: int | None = None) -> list[tuple[bytes, int]]:
    """Complete events of one that is `several`: a line after complete data begins another.

    The event begins at offset `at` of the body. `end` is the offset after it; None: it is the
    body's last one, and an incomplete rest is dropped.
    """
    out: list[tuple[bytes, int]] = []
    begin, ready = 0, False
    for line in _LINE.finditer(event):
        name = line[1].partition(b":")[0]
        if ready and name in _BEGINS:
            out.append((event[begin : line.start()].rstrip(b"\r\n"), at + line.start()))
            begin, ready = line.start(), False
        if name in _PAYLOAD:
            ready = _is_whole(event[begin : line.end()])
    if ready or end is not None:
        out.append((event[begin:].rstrip(b"\r\n"), at + len(event) if end is None else end))
    return out


def _is_whole(event: bytes) -> bool:
    name, data = fields(event)
    if data is None:
        return name is None and all(line.startswith(b":") for line in event.splitlines())
    if not data.strip() or DONE.fullmatch(data):
        return True
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def fields(event: bytes) -> tuple[str | None, bytes | None]:
    """Name and data of one event; data is None for comments and events without any. A field
    `error` (llama.cpp) is the data of an event of that name.
    """
    name: str | None = None
    data: list[bytes] = []
    for line in _LINE_END.split(event):
        field_name, _, value = line.partition(b":")
        if field_name == b"data":
            data.append(value.removeprefix(b" "))
        elif field_name == b"event":
            name = value.removeprefix(b" ").decode("utf-8", "replace")
        elif field_name == b"error":
            return "error", value.strip()
    return name, b"\n".join(data) if data else None
