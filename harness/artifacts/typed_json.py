"""Frozen dataclasses as JSON values and back, by their types. Keys that a type does not know are
left out, so that older code reads what newer code of the same schema wrote.
"""

import json
import math
from typing import TYPE_CHECKING, Any, Final, TypeVar

from harness.core.errors import ArtifactError

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

T = TypeVar("T")

Number = int | float
"""A number that keeps its form in JSON: 3 stays 3, and 3.0 stays 3.0."""

_MEMBERS: Final = frozenset({"int", "float"})
"""What pydantic appends to the place of a `Number` that is none."""


_ADAPTERS: Final[dict[Any, "TypeAdapter[Any]"]] = {}


def _adapter(kind: Any) -> "TypeAdapter[Any]":  # noqa: ANN401 - any type
    if kind not in _ADAPTERS:
        from pydantic import TypeAdapter  # takes 0.1 s, which `harness --help` has no need of

        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def to_json(value: Any) -> Any:  # noqa: ANN401 - any dataclass, any JSON value
    """A dataclass as a JSON value; NaN stays NaN, which `write_json` refuses."""
    return _adapter(type(value)).dump_python(value, mode="json", by_alias=True)


def from_json(
    kind: type[T],
    raw: object,
    name: str,
    *,
    where: object = "this",
    next_step: str | None = None,
) -> T:
    """A JSON value as a `kind`.

    Args:
        kind: a frozen dataclass.
        raw: what `json.loads` gave.
        name: of the whole, for messages: `summary`.
        where: the file, for messages.
        next_step: for messages.

    Raises:
        ArtifactError: something is missing, or of another kind than its type says; it names the
            place.
    """
    from pydantic import ValidationError

    try:
        # As text, since JSON's lists and strings are then taken for tuples and enums, and nothing
        # else is taken for anything else.
        found: T = _adapter(kind).validate_json(json.dumps(raw, allow_nan=False), strict=True)
    except ValueError as error:
        problem = str(error)
        if isinstance(error, ValidationError):
            problem = _problem(error.errors(include_url=False)[0], name)
        raise ArtifactError(
            f"{where} is no {name}: {problem}",
            cause="it was edited or damaged",
            next_step=next_step,
        ) from error
    return found


def _problem(error: "ErrorDetails", name: str) -> str:
    place, message = [str(part) for part in error["loc"]], error["msg"]
    if place and place[-1] in _MEMBERS:
        place.pop()
        message = "Input should be a number"
    if error["type"] == "missing":
        return f"{'.'.join([name, *place[:-1]])} has no {place[-1]}"
    shown = repr(error["input"])
    shown = shown if len(shown) < 60 else f"{shown[:56]} …"
    return f"{'.'.join([name, *place])} is {shown}: {message}"


def loads(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """A JSON value; NaN and infinity, which are none, are refused.

    Raises:
        ValueError: it is no JSON.
    """
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no number")
    return value
