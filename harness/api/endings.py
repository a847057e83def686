"""Stop reasons of responses: which are the model's own end, and which are a failure.

Sources: OpenAI's API reference (`finish_reason`, `incomplete_details.reason`), Anthropic's
(`stop_reason`), vLLM's `FinishReason`, SGLang, TGI, llama.cpp, DeepSeek, Z.ai and Mistral.
Gateways pass the reasons of one API through another, so every API's table contains all of them.
"""

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from harness.core.records import Api


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
