"""Frozen dataclasses to JSON values and back, by their types. Unknown keys are ignored, so that
older code reads what newer code of the same schema wrote.
"""

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from harness.core.errors import ArtifactError

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

T = TypeVar("T")

Number = int | float
"""A number that keeps its form in JSON: 3 stays 3, and 3.0 stays 3.0."""

_MEMBERS: Final = frozenset({"int", "float"})
"""What pydantic appends to the location of an invalid `Number`."""

_LARGEST: Final = 1e100
"""Larger than any value; squares and ratios of such numbers stay within doubles."""

_DEEPEST: Final = 60
"""Levels of a JSON value that are read leniently: over three times what our files need."""

_ADAPTERS: Final[dict[Any, "TypeAdapter[Any]"]] = {}


def _adapter(kind: Any) -> "TypeAdapter[Any]":  # noqa: ANN401 - any type
    if kind not in _ADAPTERS:
        from pydantic import TypeAdapter  # takes 0.1 s, which `harness --help` does not need

        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def json_of(kind: Any) -> Any:  # noqa: ANN401 - any type
    """Annotation of a JSON value that `to_json` made of a `kind`, for schemas."""
    from pydantic import GetPydanticSchema

    return GetPydanticSchema(lambda _source, handler: handler(kind))


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
    """Convert a JSON value to `kind`, a frozen dataclass.

    For messages: `name` of the whole (`summary`), `where` (the file) and `next_step`.

    Raises:
        ArtifactError: something is missing or of the wrong type; it names the location.
    """
    from pydantic import ValidationError

    try:
        # As text: strict mode then accepts JSON's lists and strings for tuples and enums.
        found: T = _adapter(kind).validate_json(json.dumps(raw, allow_nan=False), strict=True)
    except ValueError as error:
        problem = str(error)
        if isinstance(error, ValidationError):
            problem = _problem(error.errors(include_url=False)[0], name)
        raise ArtifactError(
            f"{where} is not a valid {name}: {problem}",
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


def read_leniently(
    kind: type[T],
    raw: object,
    bare: Mapping[str, Any] | None = None,
    *,
    where: object = "this",
    next_step: str | None = None,
) -> T:
    """Convert a JSON object to `kind`; missing or invalid parts get their default or are left out.

    `bare` has values for fields of `kind` itself without a default.

    Raises:
        ArtifactError: a field is missing and has neither a default nor a value in `bare`.
    """
    from pydantic import ValidationError

    usable = _usable(raw) if isinstance(raw, Mapping) else {}
    while True:
        try:
            found: T = _adapter(kind).validate_json(json.dumps(usable), strict=True)
        except ValidationError as error:
            for one in error.errors():
                if one["type"] == "missing" and len(one["loc"]) == 1:
                    key = str(one["loc"][0])
                    if key not in (bare or {}):
                        raise ArtifactError(
                            f"{where} has no usable {key}",
                            cause="it was edited or damaged",
                            next_step=next_step,
                        ) from error
                    usable[key] = (bare or {})[key]
                else:
                    _blank(usable, one["loc"])
            usable = _without_blanks(usable)
        else:
            return found


def _usable(raw: Any, depth: int = 0) -> Any:  # noqa: ANN401 - any JSON value
    """A copy without NaN, infinity, numbers beyond `_LARGEST` and levels below `_DEEPEST`; lone
    surrogates become question marks.
    """
    if isinstance(raw, str):
        return raw.encode("utf-8", "replace").decode()
    if isinstance(raw, Mapping | list | tuple) and depth == _DEEPEST:
        return None
    if isinstance(raw, Mapping):
        return {_usable(str(key)): _usable(item, depth + 1) for key, item in raw.items()}
    if isinstance(raw, list | tuple):
        return [_usable(item, depth + 1) for item in raw]
    return None if isinstance(raw, int | float) and not -_LARGEST < raw < _LARGEST else raw


def _blank(raw: Any, place: tuple[int | str, ...]) -> None:  # noqa: ANN401 - any JSON value
    """Mark the innermost existing value of a pydantic location."""
    holder: Any = None
    last: Any = None
    for part in place:
        at: Any = part
        there = raw if isinstance(raw, dict) else range(len(raw)) if isinstance(raw, list) else ()
        if at not in there:
            break
        holder, last, raw = raw, at, raw[at]
    if raw is not _BLANK:
        holder[last] = _BLANK


def _without_blanks(raw: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(raw, dict):
        return {k: _without_blanks(v) for k, v in raw.items() if v is not _BLANK}
    if isinstance(raw, list):
        return [_without_blanks(item) for item in raw if item is not _BLANK]
    return raw


_BLANK: Final = object()


def loads(text: str, *, huge: bool = False) -> Any:  # noqa: ANN401 - any JSON value
    """A JSON value; NaN and infinity are refused, and 1e999 unless `huge`.

    Raises:
        ValueError: not valid JSON.
    """
    try:
        return json.loads(text, parse_constant=_finite, parse_float=float if huge else _finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value
