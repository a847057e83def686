"""JSON back into frozen dataclasses whose fields are named as their keys. Keys that the types do
not know are left out.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


class DecodeError(ValueError):
    """A value is missing or of another kind than its type says; the message names the place."""


def decode(kind: Any, raw: object, place: str = "summary") -> Any:  # noqa: ANN401 - what `kind` says
    """A JSON value as a value of `kind`.

    Args:
        kind: a dataclass, an enum of text, `Mapping[str, X]`, `tuple[X, ...]`, a union, `Any`, or
            int, float, str, bool, None.
        raw: what `json.loads` gave. Numbers stay as they were written: an int in the place of a
            float stays an int.
        place: for messages.

    Raises:
        DecodeError: it is not.
    """
    if kind is Any:
        return raw
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return _first_that_fits(get_args(kind), raw, place)
    if origin is tuple:
        return tuple(
            decode(get_args(kind)[0], item, f"{place}[{i}]")
            for i, item in enumerate(_expect(list, raw, place))
        )
    if origin is not None and issubclass(origin, Mapping):
        inner = get_args(kind)[1]
        return {
            key: decode(inner, item, f"{place}.{key}")
            for key, item in _expect(dict, raw, place).items()
        }
    if isinstance(kind, type) and is_dataclass(kind):
        return _record(kind, _expect(dict, raw, place), place)
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(raw)
        except ValueError as error:
            raise DecodeError(
                f"{place} is {raw!r}, which is none of"
                f" {', '.join(repr(str(one.value)) for one in kind)}"
            ) from error
    return _scalar(kind, raw, place)


def _first_that_fits(kinds: tuple[Any, ...], raw: object, place: str) -> object:
    if raw is None and type(None) in kinds:
        return None
    reason: DecodeError | None = None
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return decode(kind, raw, place)
        except DecodeError as error:
            reason = reason or error
    assert reason is not None
    raise reason


def _expect(kind: type, raw: object, place: str) -> Any:  # noqa: ANN401 - an instance of `kind`
    if not isinstance(raw, kind):
        raise DecodeError(
            f"{place} is {_shown(raw)}, not {'an object' if kind is dict else 'a list'}"
        )
    return raw


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _record(kind: type, raw: Mapping[str, object], place: str) -> object:
    found = {}
    for field in fields(kind):
        if field.name in raw:
            found[field.name] = decode(
                _hints(kind)[field.name], raw[field.name], f"{place}.{field.name}"
            )
        elif field.default is MISSING and field.default_factory is MISSING:
            raise DecodeError(f"{place} has no {field.name}")
    return kind(**found)


def _scalar(kind: type, raw: object, place: str) -> object:
    number = isinstance(raw, int | float) and not isinstance(raw, bool)
    fits = {
        float: number,
        int: number and isinstance(raw, int),
        str: isinstance(raw, str),
        bool: isinstance(raw, bool),
    }
    if not fits.get(kind, raw is None and kind is type(None)):
        raise DecodeError(f"{place} is {_shown(raw)}, not {kind.__name__}")
    return raw


def _shown(raw: object) -> str:
    text = repr(raw)
    return text if len(text) < 60 else f"{text[:56]} …"
