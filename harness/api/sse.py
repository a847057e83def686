"""Server-sent events of a complete body."""

import json
import re

_BOUNDARY = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")


def events(body: bytes, *, whole: bool) -> list[tuple[bytes, int]]:
    """Events with the end offset of each. A last one without its blank line counts if it and the
    HTTP message are complete.
    """
    out: list[tuple[bytes, int]] = []
    at = 3 if body.startswith(b"\xef\xbb\xbf") else 0
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
    if whole and _is_whole(rest):
        out.append((rest, len(body)))
    return out


def _is_whole(event: bytes) -> bool:
    data = fields(event)[1]
    if data is None or data.strip() == b"[DONE]":
        return data is not None
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


def fields(event: bytes) -> tuple[str | None, bytes | None]:
    """Name and data of one event; data is None for comments and events without any."""
    name: str | None = None
    data: list[bytes] = []
    for line in _LINE_END.split(event):
        field_name, _, value = line.partition(b":")
        if field_name == b"data":
            data.append(value.removeprefix(b" "))
        elif field_name == b"event":
            name = value.removeprefix(b" ").decode("utf-8", "replace")
    return name, b"\n".join(data) if data else None
