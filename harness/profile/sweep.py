"""Section `sweep`: keys of the profile that vary from run to run."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field, WithJsonSchema

from harness.checked_yaml import source
from harness.checked_yaml.fields import Correction, Form, Strict, Whole
from harness.core.units import parse_bytes, parse_count, parse_duration_s

Value: TypeAlias = bool | int | float | str | None
"""A value of a varied key, as written."""

MOST_VALUES: Final = 1000
"""Values of one axis."""

_RANGE_KEYS: Final = frozenset({"from", "to", "times", "step"})
_CLOSE: Final = 1e-9
"""Relative distance within which the end of a range counts as reached."""


def amount(value: object) -> int | float:
    """A number of a range, which may have a suffix of any unit: `4k`, `30s`, `4GiB`.

    Raises:
        ValueError: not such a number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is not a number")
    if not isinstance(value, str):
        return value
    for parse in (int, float, parse_count, parse_duration_s, parse_bytes):
        try:
            return parse(value)
        except ValueError:
            continue
    raise ValueError(f"{value!r} is not a number")


def span(first: object, last: object, *, times: object = None, step: object = None) -> list[Value]:
    """The values of a range, with its end if a value reaches it. Whole ends give whole values.

    Args:
        first: smallest value.
        last: largest value.
        times: factor between two values.
        step: difference between two values.

    Raises:
        ValueError: not numbers, or they give no range.
    """
    low, high = amount(first), amount(last)
    by = amount(times if step is None else step)
    if not low < high or not math.isfinite(high):
        raise ValueError(f"`to` must be above `from`; they are {high:g} and {low:g}")
    if step is None and (by <= 1 or low <= 0):
        raise ValueError(f"`times` must be above 1 and `from` above 0; they are {by:g} and {low:g}")
    if step is not None and by <= 0:
        raise ValueError(f"`step` must be above 0; it is {by:g}")
    whole = isinstance(low, int) and isinstance(high, int)
    found: list[Value] = []
    for count in range(MOST_VALUES + 1):
        value = low * by**count if step is None else low + by * count
        if value > high * (1 + _CLOSE):
            return found
        shown = round(value) if whole else float(f"{min(value, high):.12g}")
        if shown not in found:
            found.append(shown)
    raise ValueError(f"the range has more than {MOST_VALUES:,} values")


def axis_values(written: object) -> tuple[Value, ...]:
    """The values of an axis: a list, or a range.

    Raises:
        ValueError: neither, empty, or a value twice.
    """
    if isinstance(written, Mapping):
        wrong = sorted(set(map(str, written)) - _RANGE_KEYS)
        if wrong:
            raise ValueError(f"a range has no key {wrong[0]!r}; its keys are from, to, times, step")
        if not {"from", "to"} <= set(written) or ("times" in written) == ("step" in written):
            raise ValueError("a range needs `from`, `to`, and one of `times` and `step`")
        written = span(**{_ARGUMENTS[str(key)]: value for key, value in written.items()})
    if not isinstance(written, list | tuple):
        raise ValueError("must be a list or a range")
    if not written:
        raise ValueError("has no values")
    for position, one in enumerate(written):
        if not isinstance(one, bool | int | float | str | None):
            raise ValueError("each value must be a number, text, true, false or null")
        if any(_same(one, other) for other in written[:position]):
            raise ValueError(f"has {one!r} twice")
    return tuple(written)


_ARGUMENTS: Final = {"from": "first", "to": "last", "times": "times", "step": "step"}


def _same(one: object, other: object) -> bool:
    """Equal as YAML: 1 is not true."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


_SPAN: Final = re.compile(
    r"(?P<first>.+?)\.\.(?P<last>.+?)(?:x(?P<times>[^x+]+)|\+(?P<step>[^x+]+))?"
)


def parse_axis(text: str) -> object:
    """An axis of the command line as in a profile: `1,2,4`, `1..256x2` or `8..64+8`.

    Raises:
        ValueError: a range without `x` or `+`.
    """
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        return [parse_value(one) for one in text.split(",")]
    if match["times"] is None and match["step"] is None:
        raise ValueError(f"{text!r} has no step: add x2 (a factor) or +8 (a difference)")
    ends = {"from": match["first"], "to": match["last"]}
    by = {"times": match["times"]} if match["step"] is None else {"step": match["step"]}
    return {key: parse_value(one) for key, one in (ends | by).items()}


def parse_value(text: str) -> object:
    """A value of the command line, read as YAML."""
    return source.read(text.strip(), "value", lines=False).data


_SCALAR: Final = {"type": ["number", "string", "boolean", "null"]}
_END: Final = {"type": ["number", "string"]}
_RANGE: Final = {
    "type": "object",
    "properties": dict.fromkeys(sorted(_RANGE_KEYS), _END),
    "required": ["from", "to"],
    "additionalProperties": False,
}
_LIST: Final = {"type": "array", "items": _SCALAR, "minItems": 1}

Axis = Annotated[
    tuple[Value, ...],
    BeforeValidator(axis_values),
    WithJsonSchema({"anyOf": [_LIST, _RANGE]}),
    Form("a list or a range", "[1, 2, 4] or {from: 1, to: 256, times: 2}"),
    Correction("write [1, 2, 4], {from: 1, to: 256, times: 2} or {from: 8, to: 64, step: 8}"),
]


class Sweep(Strict):
    """Runs over all combinations of values of some keys (`harness sweep`). Each combination is one
    run; runs that need an equal server share it.
    """

    over: dict[str, Axis] = Field(default_factory=dict)
    """Dotted keys and their values; every combination is measured."""
    zip: tuple[dict[str, Axis], ...] = ()
    """Groups of keys that vary together: the first values of all keys of a group, then the second
    ones.
    """
    order: Literal["random", "given"] = "random"
    """Order of servers, and of the loads of one server. `given` is for ramps; drift of the machine
    then looks like an effect of the load.
    """
    repeats: Whole = Field(default=1, ge=1, le=1000)
    """Runs of each combination, each with its own seed."""
    max_failures: Whole = Field(default=3, ge=1)
    """Failed runs in a row that end the sweep. It also ends after more than this many failures in
    total that are more than a fifth of all runs.
    """


def axes(sweep: Sweep) -> Iterator[tuple[str, tuple[Value, ...], int | None]]:
    """Each varied key, its values, and the number of its group of `zip`; None for `over`."""
    for key, values in sweep.over.items():
        yield key, values, None
    for number, group in enumerate(sweep.zip):
        for key, values in group.items():
            yield key, values, number


def combinations(sweep: Sweep) -> Iterator[dict[str, Value]]:
    """All settings of the varied keys, the last axis varying fastest."""
    parts = [[{key: value} for value in values] for key, values in sweep.over.items()]
    parts += [
        [dict(zip(group, values, strict=True)) for values in zip(*group.values(), strict=True)]
        for group in sweep.zip
    ]
    for chosen in itertools.product(*parts):
        yield {key: value for part in chosen for key, value in part.items()}
