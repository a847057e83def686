"""Values of a profile that may be a distribution."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, WithJsonSchema
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from harness.checked_yaml.fields import (
    _COUNT,
    _COUNT_SCHEMA,
    AMOUNT_SCHEMA,
    TIME,
    TIME_SCHEMA,
    Form,
    Number,
    Strict,
    Whole,
    _count,
    seconds_of,
)

Amount = Annotated[
    float,
    Field(strict=True),
    WithJsonSchema(AMOUNT_SCHEMA),
    Form("a number, with the suffixes of the key above it", "16k"),
]
"""A number of a distribution. The distribution's key decides its suffixes (`think_s`: durations,
`user_tok`: counts).
"""


class Constant(Strict):
    """Always the same value. A bare value such as `16k` is short for this."""

    kind: Literal["constant"] = "constant"
    value: Amount = Field(ge=0)
    """The value."""


class Uniform(Strict):
    """Uniform between two values."""

    kind: Literal["uniform"]
    min: Amount = Field(ge=0)
    """Smallest value."""
    max: Amount = Field(ge=0)
    """Largest value."""


class Lognormal(Strict):
    """exp(N(mu, sigma)), clipped to [min, max]."""

    kind: Literal["lognormal"]
    mu: Number = Field(ge=-50, le=50)
    """Mean of the natural logarithm."""
    sigma: Number = Field(ge=0, le=20)
    """Standard deviation of the natural logarithm."""
    min: Amount = Field(default=0, ge=0)
    """Smallest value."""
    max: Amount | None = Field(default=None, gt=0)
    """Largest value; default: no limit."""


class Geometric(Strict):
    """1, 2, 3, … with the given mean."""

    kind: Literal["geometric"]
    mean: Number = Field(ge=1, le=1e9)
    """Mean; at least 1."""
    max: Whole | None = Field(default=None, ge=1)
    """Largest value; default: no limit."""


class Quantiles(Strict):
    """A table of quantiles, as measurements are often published; the logarithm is interpolated
    linearly.

    `{kind: quantiles, at: [0, 0.5, 1], values: [5, 9, 60]}`. Values are clipped to `max`.
    """

    kind: Literal["quantiles"]
    at: tuple[Number, ...] = Field(min_length=2)
    """Shares, rising from 0 to 1."""
    values: tuple[Amount, ...] = Field(min_length=2)
    """The quantile at each share; above 0, never falling."""
    max: Amount | None = Field(default=None, gt=0)
    """Largest value; default: the last of the table."""


AnyDistribution = Constant | Uniform | Lognormal | Geometric | Quantiles


@dataclass(frozen=True, slots=True)
class _Shorthand:
    """Accepts `16k` for `{kind: constant, value: 16000}`, and suffixes inside a distribution."""

    parse: Callable[[object], float]

    def __call__(self, value: object) -> object:
        if isinstance(value, str) or (
            isinstance(value, int | float) and not isinstance(value, bool)
        ):
            return {"kind": "constant", "value": self.parse(value)}
        if not isinstance(value, dict):
            return value
        inside = {key: self._inner(key, item) for key, item in value.items()}
        return {"kind": "constant", **inside} if set(inside) == {"value"} else inside

    def _inner(self, key: str, item: object) -> object:
        if key == "values" and isinstance(item, list | tuple):
            return [self._inner("value", one) for one in item]
        if key not in {"value", "min", "max", "mean"} or not isinstance(item, str):
            return item
        try:
            number = self.parse(item)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error
        return int(number) if number == int(number) else number


@dataclass(frozen=True, slots=True)
class _OrNumber:
    """Adds the shorthand to the JSON Schema of a distribution."""

    short: dict[str, object]

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [self.short, handler(core_schema)]}


Distribution = Annotated[
    Annotated[AnyDistribution, Field(discriminator="kind")],
    BeforeValidator(_Shorthand(_count)),
    _OrNumber(_COUNT_SCHEMA),
    _COUNT,
]
SecondsDistribution = Annotated[
    Annotated[AnyDistribution, Field(discriminator="kind")],
    BeforeValidator(_Shorthand(seconds_of)),
    _OrNumber(TIME_SCHEMA),
    TIME,
]
