"""Request fields as the embedded engine reads them. Unsupported fields that change the output are
refused, not ignored.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from harness.api.base import Ask, BadRequestError
from harness.api.reader import Json

_NEUTRAL: Final[dict[str, tuple[object, ...]]] = {
    **dict.fromkeys(("top_p", "n", "best_of"), (None, 1)),
    "top_k": (None, 0, -1),
    **dict.fromkeys(
        ("presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "prompt_logprobs"),
        (None, 0, "", {}),
    ),
    **dict.fromkeys(("logit_bias", "echo", "suffix"), (None, 0, "", {})),
}
"""Values that change nothing, of fields that are not supported otherwise."""


def number(body: Json, key: str, default: float, low: float, high: float) -> float:
    """A number from `low` to `high`."""
    value = body.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise BadRequestError(f"{key} must be a number from {low:g} to {high:g}")
    return float(value)


def whole_number(body: Json, key: str, low: int) -> int | None:
    """A whole number of at least `low`; None if it is absent."""
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
    for key, neutral in _NEUTRAL.items():
        if (value := body.get(key)) not in neutral:
            raise BadRequestError(f"{key} {value!r} is not supported by this engine")
    if body.get("seed") is not None and temperature > 0:
        raise BadRequestError(
            "seed needs temperature 0: requests share batches, and with them one random generator"
        )
    form = body.get("response_format")
    if form is not None and (not isinstance(form, dict) or form.get("type") != "text"):
        raise BadRequestError(
            "response_format must be text: this engine does not constrain its output"
        )


def _tool_choice(body: Json) -> object:
    choice = body.get("tool_choice")
    return choice.get("type") if isinstance(choice, dict) else choice


def common(
    body: Json, default_temperature: float, *, hottest: float = 2.0, stop_key: str = "stop"
) -> Ask:
    """Read the fields that all APIs share: temperature, stop strings, streaming.

    Raises:
        BadRequestError: a wrong or unsupported field.
    """
    temperature = number(body, "temperature", default_temperature, 0.0, hottest)
    _refuse_unsupported(body, temperature)
    if (kind := _tool_choice(body)) not in (None, "auto", "none"):
        raise BadRequestError(
            f"tool_choice {kind!r} is not supported: this engine does not constrain its output;"
            " use one of auto, none"
        )
    streams = body.get("stream")
    if streams not in (None, True, False):
        raise BadRequestError("stream must be true or false")
    stops = strings(body, stop_key)
    return Ask(0, temperature=temperature, stops=stops, stream=bool(streams))


def with_chat(ask: Ask, body: Json, messages: Sequence[Json], tools: Sequence[Json]) -> Ask:
    """The request with its conversation; calls are recognized unless `tool_choice` is none."""
    parsed = (
        () if _tool_choice(body) == "none" else tuple(tool["function"]["name"] for tool in tools)
    )
    return replace(ask, messages=tuple(messages), tools=tuple(tools), parse_tools=parsed)


def text_parts(content: object, where: str, kinds: Sequence[str]) -> str:
    """Content as text: a string, None, or a list of parts of these kinds, joined by line breaks as
    in vLLM.

    Raises:
        BadRequestError: anything else, named by `where`.
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
        else:
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            if isinstance(part, dict) and kind in kinds and isinstance(part.get("text"), str):
                texts.append(part["text"])
                continue
            raise BadRequestError(
                f"{where}: parts of type {kind!r} are not supported by this engine"
            )
    return "\n".join(texts)


def call(function: object, call_id: object, where: str) -> Json:
    """A call of an earlier turn. Arguments that are JSON text are parsed: templates print objects.

    Args:
        function: object with name and arguments.
        call_id: its id, or nothing.
        where: place in the body, for the error.

    Raises:
        BadRequestError: not such an object.
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
    """A tool in the form of chat templates."""
    return {
        "type": "function",
        "function": {"name": name, "description": description or "", "parameters": parameters},
    }
