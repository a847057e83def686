"""Kinds of values in YAML files: lengths of time, counts, sizes, texts; and the base of sections.

Lengths of time, counts and sizes take plain suffixes (`30s`, `2m`, `16k`, `4GiB`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from harness.core.units import parse_bytes, parse_count, parse_duration_s

_LARGEST: Final = 10**15
"""Bound of counts and sizes: everything later fits into 64 bits with room for nanoseconds."""
_LONGEST_TEXT: Final = 64
"""Characters of a number with its suffix; bounds the time that reading it takes."""
_LONGEST_S: Final = 10.0 * 365 * 86400
"""Bound of lengths of time: ten years, so that nanoseconds fit into 64 bits."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a value with a suffix is written: for messages and the reference.

    Attributes:
        text: what it is.
        example: one value as a person would write it.
    """

    text: str
    example: str


@dataclass(frozen=True, slots=True)
class Correction:
    """What to write in place of text that does not fit."""

    text: str


FROM_KEY: Final = "from_key"
"""Marks the field of a section that holds the name under which it stands in the file, and that is
no key of the section itself.
"""
Name = Annotated[str, FROM_KEY]


def _suffixed(
    parse: Callable[[Any], float], form: Form, largest: float
) -> Callable[[object], float]:
    """A validator that tells text and numbers from everything else before it parses."""

    def validate(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"must be {form.text} such as {form.example}")
        if isinstance(value, str) and len(value) > _LONGEST_TEXT:
            raise ValueError(f"is longer than any number; write {form.text} such as {form.example}")
        if isinstance(value, int) and abs(value) > largest:
            raise ValueError(f"is beyond {largest:,.0f}")
        result = parse(value)
        if result > largest:
            raise ValueError(f"is beyond {largest:,.0f}")
        return result

    return validate


TIME: Final = Form("a length of time", "30s")
_COUNT: Final = Form("a whole count", "16k")
_BYTES: Final = Form("a size", "4GiB")
seconds_of = _suffixed(parse_duration_s, TIME, _LONGEST_S)
_count = _suffixed(parse_count, _COUNT, _LARGEST)
_bytes = _suffixed(parse_bytes, _BYTES, _LARGEST)

_NUMBER = r"^\s*\+?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*"
TIME_SCHEMA: Final = {
    "anyOf": [
        {"type": "number", "minimum": 0},
        {"type": "string", "pattern": _NUMBER + r"(us|ms|s|m|min|h|d)?\s*$"},
    ]
}
_COUNT_SCHEMA: Final = {
    "anyOf": [
        {"type": "integer", "minimum": 0},
        {"type": "string", "pattern": _NUMBER + r"(k|M|ki|Ki|Mi)?\s*$"},
    ]
}
_BYTES_SCHEMA: Final = {
    "anyOf": [
        {"type": "integer", "minimum": 0},
        {"type": "string", "pattern": _NUMBER + r"([kKMGT]B|[KMGT]iB|B)\s*$"},
    ]
}
AMOUNT_SCHEMA: Final = {
    "anyOf": [{"type": "number"}, {"type": "string", "pattern": _NUMBER + r"[A-Za-z]*\s*$"}]
}


def _at_least_one(value: int) -> int:
    if value < 1:
        raise ValueError("must be at least 1")
    return value


Seconds = Annotated[float, BeforeValidator(seconds_of), WithJsonSchema(TIME_SCHEMA), TIME]
Count = Annotated[int, BeforeValidator(_count), WithJsonSchema(_COUNT_SCHEMA), _COUNT]
CountFromOne = Annotated[
    int,
    BeforeValidator(_count),
    AfterValidator(_at_least_one),
    WithJsonSchema(_COUNT_SCHEMA),
    _COUNT,
]
Bytes = Annotated[int, BeforeValidator(_bytes), WithJsonSchema(_BYTES_SCHEMA), _BYTES]
# YAML already knows numbers, text and booleans apart: `concurrency: true` or
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
    if not value.startswith(("http://", "https://")):
        raise ValueError(f"{value!r} must start with http:// or https://")
    return value.rstrip("/")


HttpUrlText = Annotated[
    str,
    AfterValidator(_http_url),
    WithJsonSchema({"type": "string", "pattern": "^https?://"}),
    Form("a URL", "http://127.0.0.1:8000"),
]


class Strict(BaseModel):
    """Base of every section: unknown keys are errors and nothing changes after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


def _absolute(value: str) -> str:
    return str(Path(value).expanduser().absolute())


PathText = Annotated[Text, AfterValidator(_absolute), Form("a path", "traces/day.jsonl")]
