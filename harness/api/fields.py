"""Fields of requests as the embedded engine reads them; what it does not do is refused, so that
nothing that changes an answer is ignored silently.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.api.base import BadRequestError, Json


def number(body: Json, key: str, default: float, low: float, high: float) -> float:
    """A number from `low` to `high`."""
    value = body.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BadRequestError(f"{key} must be a number from {low:g} to {high:g}")
    return float(value)


def whole_number(body: Json, key: str, low: int) -> int | None:
    """A whole number of at least `low`; None when it is absent."""
    value = body.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise BadRequestError(f"{key} must be a whole number, {low} or more")
    return value


def strings(body: Json, key: str) -> tuple[str, ...]:
    """A string or a list of them."""
    value = body.get(key)
    items = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) and item for item in items):
        raise BadRequestError(f"{key} must be a non-empty string or a list of them")
    return tuple(items)


def _refuse_unsupported(body: Json, temperature: float) -> None:
    if body.get("top_p") not in (None, 1, 1.0):
        raise BadRequestError("top_p below 1 is not supported by this engine; use temperature")
    if body.get("top_k") not in (None, 0, -1):
        raise BadRequestError("top_k is not supported by this engine; use temperature")
    if body.get("seed") is not None and temperature > 0:
        raise BadRequestError(
            "seed is honoured with temperature 0 only: requests share batches, and with them one"
            " random generator"
        )
    for key in (
        "presence_penalty",
        "frequency_penalty",
        "logprobs",
        "top_logprobs",
        "prompt_logprobs",
        "logit_bias",
        "echo",
        "suffix",
    ):
        if body.get(key) not in (None, 0, 0.0, False, "", {}):
            raise BadRequestError(f"{key} is not supported by this engine")
    for key in ("n", "best_of"):
        if body.get(key) not in (None, 1):
            raise BadRequestError(f"{key} other than 1 is not supported by this engine")
    form = body.get("response_format")
    if form is not None and (not isinstance(form, dict) or form.get("type") != "text"):
        raise BadRequestError(
            "response_format other than text is not supported by this engine: it does not constrain"
            " answers"
        )


@dataclass(frozen=True, slots=True)
class Common:
    """Fields that all APIs share. `parses_tools`: calls in the answer are to be recognized."""

    temperature: float
    stops: tuple[str, ...]
    stream: bool
    parses_tools: bool


def common(
    body: Json, default_temperature: float, *, hottest: float = 2.0, stop_key: str = "stop"
) -> Common:
    """Read them, and refuse what the engine does not do.

    Raises:
        BadRequestError: a wrong or unsupported field.
    """
    temperature = number(body, "temperature", default_temperature, 0.0, hottest)
    _refuse_unsupported(body, temperature)
    choice = body.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else choice
    if kind not in (None, "auto", "none"):
        raise BadRequestError(
            f"tool_choice {kind!r} is not supported by this engine: it does not constrain answers;"
            " use one of auto, none"
        )
    streams = body.get("stream")
    if streams not in (None, True, False):
        raise BadRequestError("stream must be true or false")
    return Common(temperature, strings(body, stop_key), bool(streams), kind != "none")


def text_parts(content: object, where: str, kinds: Sequence[str]) -> str:
    """Content as text: a string, or a list of text parts, joined by line breaks as vLLM joins them.

    Args:
        content: string, list of parts, or None for no text.
        where: place in the body, for the error.
        kinds: types of parts that are text.

    Raises:
        BadRequestError: anything else.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRequestError(f"{where} must be a string or a list of parts")
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif (
            isinstance(part, dict)
            and part.get("type") in kinds
            and isinstance(part.get("text"), str)
        ):
            texts.append(part["text"])
        else:
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise BadRequestError(
                f"{where}: parts of type {kind!r} are not supported by this engine"
            )
    return "\n".join(texts)


def call(function: object, call_id: object, where: str) -> Json:
    """A call of an earlier turn; arguments may come as JSON text and are parsed, since templates
    print objects.

    Args:
        function: object with name and arguments.
        call_id: its id, where it has one.
        where: place in the body, for the error.

    Raises:
        BadRequestError: no such object.
    """
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRequestError(f"{where}: each call needs a function with a name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            raise BadRequestError(f"{where}: arguments are not JSON: {error}") from error
    return _with_id("id", call_id) | {
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def result(content: str, call_id: object) -> Json:
    """A tool's result."""
    return {"role": "tool"} | _with_id("tool_call_id", call_id) | {"content": content}


def _with_id(key: str, value: object) -> dict[str, Any]:
    return {key: value} if value else {}


def function(name: str, description: object, parameters: object) -> Json:
    """A tool as chat templates take it."""
    return {
        "type": "function",
        "function": {"name": name, "description": description or "", "parameters": parameters},
    }


def names(tools: Sequence[Json]) -> tuple[str, ...]:
    """Names of tools in that form."""
    return tuple(tool["function"]["name"] for tool in tools)
