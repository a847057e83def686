"""JSON files as frozen dataclasses, both ways."""

import json
from collections.abc import Hashable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T", bound=Hashable)

_LARGEST: Final = 1e100


@cache
def _adapter(kind: type[Hashable]) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter  # takes a while to import

    return TypeAdapter(kind)


def to_json(value: Hashable) -> Any:  # noqa: ANN401 - any JSON value
    """A dataclass as JSON values, in the order of its fields."""
    return _adapter(type(value)).dump_python(value, mode="json", warnings=False)


def read_leniently(kind: type[T], raw: object) -> T:
    """A JSON object as `kind`, whose fields all have defaults.

    Unknown keys are ignored. What is missing, or of another kind than its type says, has its
    default; an entry of a list that lacks something that it needs is left out.
    """
    from pydantic import ValidationError

    usable = _finite(raw) if isinstance(raw, Mapping) else {}
    while True:
        try:
            found: T = _adapter(kind).validate_json(json.dumps(usable), strict=True)
        except ValidationError as error:
            for one in error.errors():
                _blank(usable, one["loc"])
            usable = _without_blanks(usable)
        else:
            return found


def _finite(raw: Any) -> Any:  # noqa: ANN401 - any JSON value
    """A copy without NaN and infinity, which Python reads from JSON, and without numbers that no
    figure ever has: squares and ratios of them would leave the range of doubles.
    """
    if isinstance(raw, Mapping):
        return {str(key): _finite(item) for key, item in raw.items()}
    if isinstance(raw, list | tuple):
        return [_finite(item) for item in raw]
    return None if isinstance(raw, int | float) and not -_LARGEST < raw < _LARGEST else raw


def _blank(raw: Any, place: tuple[int | str, ...]) -> None:  # noqa: ANN401 - any JSON value
    """Mark the innermost value that is there of a place as pydantic names it."""
    holder, last = raw, None
    for part in place:
        if not (isinstance(raw, dict) and part in raw) and not (
            isinstance(raw, list) and isinstance(part, int) and part < len(raw)
        ):
            break
        holder, last, raw = raw, part, raw[part]
    if raw is not _BLANK:
        holder[last] = _BLANK


def _without_blanks(raw: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(raw, dict):
        return {k: _without_blanks(v) for k, v in raw.items() if v is not _BLANK}
    if isinstance(raw, list):
        return [_without_blanks(item) for item in raw if item is not _BLANK]
    return raw


_BLANK: Final = object()
