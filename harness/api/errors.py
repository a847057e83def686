"""Error texts of servers, in any of the forms in use."""

import json
from typing import Any, Final

ERROR_CHARS: Final = 500
"""Longest error text that is kept."""


def error_text(body: bytes) -> str | None:
    """Type and message of a JSON error body, else its beginning; None if it is empty."""
    try:
        value = json.loads(body)
    except ValueError:
        return body[:ERROR_CHARS].decode("utf-8", "replace").strip() or None
    return error_of(value) or json.dumps(value)[:ERROR_CHARS]


def error_of(value: Any) -> str | None:  # noqa: ANN401 - any JSON value
    """`type: message` of an error object ({"error": {…}}, {"error": "…"}, {"message": …},
    {"detail": …}), else None.
    """
    if not isinstance(value, dict):
        return None
    inner = value.get("error")
    if isinstance(inner, str):
        return inner[:ERROR_CHARS]
    if not isinstance(inner, dict):
        inner = value
    message = inner.get("message", inner.get("detail"))
    if message is None:
        return None
    kind = inner.get("type")
    if kind in (None, "error"):  # OpenAI's responses name the kind in `code`
        kind = inner.get("code")
    return (f"{kind}: {message}" if isinstance(kind, str) else str(message))[:ERROR_CHARS]
