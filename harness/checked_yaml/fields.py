"""Value types of YAML files (durations, counts, sizes, text) and the base class of sections.

Durations, counts and sizes take suffixes: `30s`, `2m`, `16k`, `4GiB`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from harness.core.cache import expand_user
from harness.core.units import parse_bytes, parse_count, parse_duration_s

_LARGEST: Final = 10**15
"""Limit of counts and sizes, so that results fit into 64 bits."""
_LONGEST_TEXT: Final = 64
"""Characters of a number with its suffix; limits the time to parse it."""
_LONGEST_S: Final = 10.0 * 365 * 86400
"""Limit of durations: ten years, so that nanoseconds fit into 64 bits."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a value with a suffix is written: `text` describes it, `example` is a typical one. Used
    in messages and the reference.
    """

    text: str
    example: str


@dataclass(frozen=True, slots=True)
class Correction:
    """The fix for text of the wrong format."""

    text: str


FROM_KEY: Final = "from_key"
"""Marks a field that gets the section's name, the key above it in the file. It is not a key of the
section itself.
"""
Name = Annotated[str, FROM_KEY]


def _suffixed(
    parse: Callable[[Any], float], form: Form, largest: float
) -> Callable[[object], float]:
    def validate(value: object) -> float:
        example = f"{form.text} such as {form.example}"
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"must be {example}")
        if isinstance(value, str) and len(value) > _LONGEST_TEXT:
            raise ValueError(f"is too long for a number; write {example}")
        # a huge int is refused before `parse` makes it a float
        if (isinstance(value, int) and abs(value) > largest) or (result := parse(value)) > largest:
            raise ValueError(f"must be at most {largest:,.0f}")
        return result

    return validate


TIME: Final = Form("a duration", "30s")
_COUNT: Final = Form("a whole count", "16k")
_BYTES: Final = Form("a size", "4GiB")
seconds_of = _suffixed(parse_duration_s, TIME, _LONGEST_S)
_count = _suffixed(parse_count, _COUNT, _LARGEST)
_bytes = _suffixed(parse_bytes, _BYTES, _LARGEST)


def _schema(bare: dict[str, object], suffix: str) -> dict[str, object]:
    number = r"^\s*\+?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*"
    return {"anyOf": [bare, {"type": "string", "pattern": rf"{number}{suffix}\s*$"}]}


TIME_SCHEMA: Final = _schema({"type": "number", "minimum": 0}, "(us|ms|s|m|min|h|d)?")
_COUNT_SCHEMA: Final = _schema({"type": "integer", "minimum": 0}, "(k|M|ki|Ki|Mi)?")
_BYTES_SCHEMA: Final = _schema({"type": "integer", "minimum": 0}, "([kKMGT]B|[KMGT]iB|B)")
AMOUNT_SCHEMA: Final = _schema({"type": "number"}, "[A-Za-z]*")


def _at_least_one(value: int) -> int:
    if value < 1:
        raise ValueError("must be at least 1")
    return value


Seconds = Annotated[float, BeforeValidator(seconds_of), WithJsonSchema(TIME_SCHEMA), TIME]
Count = Annotated[int, BeforeValidator(_count), WithJsonSchema(_COUNT_SCHEMA), _COUNT]
CountFromOne = Annotated[Count, AfterValidator(_at_least_one)]
Bytes = Annotated[int, BeforeValidator(_bytes), WithJsonSchema(_BYTES_SCHEMA), _BYTES]
# YAML distinguishes numbers, text and booleans, so `concurrency: true` and
# `prefix_caching: "yes"` are mistakes, not 1 and true.
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(min_length=1)]


def _of_calendar(value: str) -> str:
    try:
        date.fromisoformat(value if len(value) > len("YYYY-MM") else f"{value}-01")
    except ValueError as error:
        raise ValueError(f"{value} is not a date: {error}") from error
    return value


Date = Annotated[
    str,
    Field(pattern=r"^\d{4}-\d{2}(-\d{2})?$"),
    AfterValidator(_of_calendar),
    Correction("write YYYY-MM or YYYY-MM-DD"),
]


def _http_url(value: str) -> str:
    shown = re.sub(r"//[^/@]*@", "//…@", value)  # it may contain a password
    if not value.startswith(("http://", "https://")):
        raise ValueError(f"{shown!r} must start with http:// or https://")
    try:
        parts = urlsplit(value)
        spaced = any(character.isspace() for character in parts.netloc)
        # `port` raises if it is not a number
        usable = bool(parts.hostname) and parts.port != 0 and not spaced
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"{shown!r} has no usable host and port")
    return value.rstrip("/")


HttpUrlText = Annotated[
    str,
    AfterValidator(_http_url),
    WithJsonSchema({"type": "string", "pattern": "^https?://"}),
    Form("a URL", "http://127.0.0.1:8000"),
]


class Strict(BaseModel):
    """Base of every section: unknown keys are errors, and values are frozen."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


def _absolute(value: str) -> str:
    return str(expand_user(value).absolute())


PathText = Annotated[Text, AfterValidator(_absolute), Form("a path", "traces/day.jsonl")]
