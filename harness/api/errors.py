"""Error texts of servers, in any of the forms in use."""

import json
from collections.abc import Mapping
from typing import Any, Final

ERROR_CHARS: Final = 500
"""Longest error text that is kept."""

_TEXTS: Final = ("message", "detail", "msg", "error_message", "error_msg")
_KINDS: Final = ("type", "code", "error_code", "status")
_FAILED: Final = frozenset({"error", "failed", "failure", "cancelled", "canceled", "aborted"})


def error_text(body: bytes) -> str | None:
    """Type and message of a JSON error body, else its beginning; None if it is empty."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return _clean(body[:ERROR_CHARS].decode("utf-8", "replace").strip()) or None
    return error_of(value) or _clean(json.dumps(value))


def error_of(value: Any) -> str | None:  # noqa: ANN401 - any JSON value
    """`type: message` of an error object ({"error": {…}}, {"error": "…"}, {"errors": […]},
    {"message": …}, {"detail": …}, …), else None.
    """
    if not isinstance(value, dict):
        return None
    inner = value.get("error") or value.get("errors")
    if isinstance(inner, list) and inner:
        inner = inner[0]
    if isinstance(inner, str):
        return _clean(inner)
    if not isinstance(inner, dict):
        inner = value
    message = next((inner[key] for key in _TEXTS if inner.get(key) is not None), None)
    if message is None:
        return None
    kind = next((inner[key] for key in _KINDS if inner.get(key) not in (None, "error")), None)
    text = message if isinstance(message, str) else json.dumps(message)
    return _clean(f"{kind}: {text}" if isinstance(kind, str) else text)


def is_error(value: Mapping[str, Any]) -> bool:
    """Whether a document reports a failure, whatever the API."""
    if value.get("error") or value.get("errors") or value.get("object") == "error":
        return True
    kind = value.get("type")
    if isinstance(kind, str) and not kind.startswith("response."):
        kind = kind.lower()
        return "error" in kind or "exception" in kind
    return False


def is_foreign_error(value: Mapping[str, Any]) -> bool:
    """Whether a document that is no part of a response reports a failure."""
    failed = any(str(value.get(key)).lower() in _FAILED for key in ("status", "state", "event"))
    return failed or value.get("success") is False or error_of(value) is not None


def _clean(text: str) -> str:
    """Without lone surrogates, which no table can store."""
    return text[:ERROR_CHARS].encode("utf-8", "replace").decode()
