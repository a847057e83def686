"""Patterns for events that differ from a parsed one only in content, digits and ids: one match
instead of JSON.
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
    """One pattern.

    Attributes:
        pattern: for the whole event.
        kind: of the content.
        content: group of the content's JSON literal.
        tok: group of the completion tokens so far; 0 if the event has none.
    """

    pattern: re.Pattern[bytes]
    kind: str
    content: int
    tok: int


_MAX_SHAPES = 16
MAX_LEARNT_PER_STREAM = 4
"""Limit for a server whose events all differ in some other way: they are parsed as JSON instead."""

known: dict[Api, dict[tuple[bytes, str], Shape]] = {api: {} for api in Api}
"""Shapes seen by this process: one server uses the same few for all its responses."""


def learn(api: Api, event: bytes, kind: str, content: str) -> Shape | None:
    """A shape from an event that has nothing but `content` (no stop reason, no error, no start of a
    part); None if its literal is not unique.
    """
    found = [match for match in _LITERAL.finditer(event) if match[1]]
    if (
        len(found) != 1
        or json.loads(b'"' + found[0][1] + b'"') != content
        or _FINISHED.search(event)
    ):
        return None
    start, end = found[0].span(1)
    before, tok_before = _generalize(event[:start])
    after, tok_after = _generalize(event[end:])
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


def _generalize(piece: bytes) -> tuple[bytes, int]:
    """A piece of an event as a pattern, and its number of groups."""
    out: list[bytes] = []
    at = groups = 0
    for match in _VARYING.finditer(piece):
        out.append(re.escape(piece[at : match.start()]))
        text = match[0]
        if text.startswith(b'"completion_tokens"'):
            out.append(re.escape(text.rstrip(b"0123456789")) + rb"(\d{1,15})")
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
    """Bytes of a JSON string literal's content; -1 if it is invalid."""
    if b"\\" not in literal:
        return len(literal)
    try:
        return size_of(json.loads(b'"' + literal + b'"'))
    except ValueError:
        return -1
