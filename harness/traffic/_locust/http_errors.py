"""What a server says when it refuses: its words, and how long it asks to wait."""

import json
from email.utils import parsedate_to_datetime
from typing import Any, Final

from harness.core.clock import wall_now

ERROR_CHARS: Final = 500
"""Most characters of a server's error text that a record keeps."""


def retry_after_s(headers: dict[str, str]) -> float | None:
    """Seconds that the server asks to wait: `retry-after-ms`, else `retry-after` in seconds or as a
    date; None without a usable one.
    """
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
    except ValueError:
        pass  # an unusable retry-after-ms leaves retry-after
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass  # then it is a date
    try:
        then = parsedate_to_datetime(value)
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else wall_now()
        return max(0.0, (then - now).total_seconds())
    except (ValueError, TypeError):
        return None


def error_text(body: bytes) -> str | None:
    """Type and message of a JSON error body in any of the forms that servers use, else the body's
    beginning; None when it is empty.
    """
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
