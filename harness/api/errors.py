"""Failures and ends of responses: error texts and stop reasons, in any of the forms in use.

Stop reasons are those of OpenAI's API reference (`finish_reason`, `incomplete_details.reason`),
Anthropic's (`stop_reason`), vLLM's `FinishReason`, SGLang, TGI, llama.cpp, DeepSeek, Z.ai and
Mistral. Gateways pass the reasons of one API through another, so every API's table contains all of
them.
"""

import json
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from harness.core.records import Api

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
    kinds = (inner.get(key) for key in _KINDS)
    kind = next((one for one in kinds if isinstance(one, str) and one not in ("", "error")), None)
    return _clean(f"{kind}: {message}" if kind else str(message))


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


class Ending(Enum):
    """Who ended a response."""

    OWN = "own"  # the model, its length limit, or a filter of its output
    FAILED = "failed"
    UNKNOWN = "unknown"


_STOP: Final = {"stop", "eos", "eos_token", "end", "stop_sequence", "stop_str", "end_turn"}
_LENGTH: Final = {"length", "max_tokens", "max_output_tokens", "model_length", "max_length"}
_CONTEXT: Final = {"model_context_window_exceeded", "context_length_exceeded", "context_limit"}
_TOOL: Final = {"tool_calls", "function_call", "tool_use", "tool_call", "pause_turn"}
_REFUSAL: Final = {"refusal", "content_filter", "safety", "sensitive", "guardrail_intervened"}
_OTHER: Final = {"repetition", "compaction"}
_ALL: Final = frozenset(_STOP | _LENGTH | _CONTEXT | _TOOL | _REFUSAL | _OTHER)

OWN: Final[Mapping[Api, frozenset[str]]] = {
    Api.CHAT: _ALL,
    Api.COMPLETIONS: _ALL,
    Api.MESSAGES: _ALL,
    Api.RESPONSES: _ALL | {"completed"},
}
"""Reasons in lower case that are an end of the model's own."""

_FAILURE: Final = re.compile(
    r"abort|err|fail|cancel|time_?out|timed|interrupt|preempt|kill|dead|died|disconnect|evict"
    r"|insufficient|malformed|shut_?down|unspecified|unavailable|overload|in_progress|queued"
)


def ending(api: Api, reason: str) -> Ending:
    """Who ended a response with this stop reason."""
    reason = reason.strip().lower()
    if reason in OWN[api]:
        return Ending.OWN
    return Ending.FAILED if _FAILURE.search(reason) else Ending.UNKNOWN


def reason_of(value: Any) -> str | None:  # noqa: ANN401 - any JSON value
    """A stop reason: text, or an object with its `type` (SGLang); None for nothing.

    Raises:
        TypeError: anything else.
    """
    if isinstance(value, dict):
        value = value.get("type") or value.get("reason")
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise TypeError(f"stop reason {value!r}")
    return value[:80].encode("utf-8", "replace").decode()
