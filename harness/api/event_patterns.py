"""Patterns for events that differ from one that was parsed only in content, digits and ids: they
cost one match and no JSON.
"""

import json
import re
from dataclasses import dataclass

from harness.core.records import Api

_STRING = rb'[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*'
_LITERAL = re.compile(
    rb'"(?:text|thinking|partial_json|content|reasoning_content|reasoning|arguments|delta)"\s*:\s*"('
    + _STRING
    + rb')"'
)
_FINISHED = re.compile(rb'"(?:finish_reason|stop_reason)"\s*:\s*"')
_VARYING = re.compile(
    rb'"(?:id|item_id|obfuscation|request_id)"\s*:\s*"[^"\\]*"|"completion_tokens"\s*:\s*\d+|\d+'
)
_CONTENT_GROUP = b"(" + _STRING + b")"


@dataclass(frozen=True, slots=True)
class Shape:
    """A pattern for events that differ from a parsed one only in content, digits and ids.

    Attributes:
        pattern: for the whole event.
        kind: of the content.
        content: number of the group that holds the content's JSON literal.
        tok: number of the group that holds the completion tokens so far; 0 where the event does not
            tell.
    """

    pattern: re.Pattern[bytes]
    kind: str
    content: int
    tok: int


_MAX_SHAPES = 16
MAX_LEARNT_PER_STREAM = 4
"""A server whose every event differs in some other way would have a new shape learnt each time; it
is parsed as JSON instead.
"""

known: dict[Api, dict[tuple[bytes, str], Shape]] = {api: {} for api in Api}
"""Shapes seen by this process: the same server answers all its requests in the same few."""


def learn(api: Api, event: bytes, kind: str, content: str) -> Shape | None:
    """A shape from an event whose whole meaning is `content` (no stop reason, no error); None when
    its literal is not unique.
    """
    found = [match for match in _LITERAL.finditer(event) if match[1]]
    if (
        len(found) != 1
        or json.loads(b'"' + found[0][1] + b'"') != content
        or _FINISHED.search(event)
    ):
        return None
    start, end = found[0].span(1)
    before, tok_before = _generalise(event[:start])
    after, tok_after = _generalise(event[end:])
    if tok_before + tok_after > 1:
        return None
    key = (before + _CONTENT_GROUP + after, kind)
    of_api = known[api]
    shape = of_api.get(key)
    if shape is None:
        if len(of_api) >= _MAX_SHAPES:
            of_api.pop(next(iter(of_api)))
        shape = of_api[key] = Shape(
            re.compile(key[0]), kind, 1 + tok_before, 2 if tok_after else tok_before
        )
    return shape


def _generalise(piece: bytes) -> tuple[bytes, int]:
    """A piece of an event as a pattern, and the number of groups in it."""
    out: list[bytes] = []
    at = groups = 0
    for match in _VARYING.finditer(piece):
        out.append(re.escape(piece[at : match.start()]))
        text = match[0]
        if text.startswith(b'"completion_tokens"'):
            out.append(re.escape(text.rstrip(b"0123456789")) + rb"(\d+)")
            groups += 1
        elif text.startswith(b'"'):
            out.append(re.escape(text[: text.index(b":") + 1]) + rb'\s*"[^"\\]*"')
        else:
            out.append(rb"\d+")
        at = match.end()
    out.append(re.escape(piece[at:]))
    return b"".join(out), groups


def size_of(content: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(content) if content.isascii() else len(content.encode("utf-8", "surrogatepass"))


def escaped_size(literal: bytes) -> int:
    """Bytes of a JSON string literal's content; -1 when it is no valid one."""
    if b"\\" not in literal:
        return len(literal)
    try:
        return size_of(json.loads(b'"' + literal + b'"'))
    except ValueError:
        return -1
