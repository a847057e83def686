"""Contents of the data files: sourced numbers, priors, types of GPU, sites. Each class is a section
of YAML; its fields are the keys.
"""

from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from harness.checked_yaml.fields import Date, Name, Number, Strict, Text
from harness.core.units import human_number
from harness.fleet.site.arithmetic import HOURS_PER_MONTH, usd_per_gpu_h

Part = Literal["gpu", "cpu", "host", "network", "storage", "spares", "pue"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)
"""Parts that a constant of power can include. `cpu` are the host's processors: in a superchip's
module, but not in a GPU board.
"""

PriorKind = Literal["fixed", "uniform", "triangular", "quantiles"]

MOST: Final = 1e15
"""Upper bound of all numbers of sites and hardware, against wrong exponents."""


class Sourced(Strict):
    """A published number."""

    value: Number = Field(gt=0, le=MOST)
    """In the unit of the key's suffix."""
    source: Text
    """Origin of the number."""
    date: Date
    """Its date, YYYY-MM or YYYY-MM-DD."""
    includes: tuple[Part, ...] = ()
    """Parts that a constant of power includes."""
    note: Text | None = None
    """Exact meaning."""

    def cite(self) -> str:
        return f"{self.source} ({self.date})"


class FromZero(Sourced):
    """A published number that may be 0."""

    value: Number = Field(ge=0, le=MOST)


class FromOne(Sourced):
    """A published number of at least 1."""

    value: Number = Field(ge=1, le=MOST)


def _whole(value: float) -> float:
    if value != int(value):
        raise ValueError("must be a whole number")
    return value


class GpuCount(Sourced):
    """A published number of GPUs."""

    value: Annotated[Number, AfterValidator(_whole)] = Field(ge=1, le=1e8)


class PowerConstant(Sourced):
    """A published constant of power, with its parts."""

    includes: tuple[Part, ...] = Field(min_length=1)


class AlsoSaid(Sourced):
    """Another published value for a site."""

    what: Literal["gpus", "power_mw", "usd_per_month", "pue"]
    """Key of the site."""


class Named(Strict):
    """A published name, such as a type of GPU, with its source."""

    value: Text
    source: Text
    date: Date


class Prior(Strict):
    """Distribution of an unmeasured factor."""

    key: Name
    title: Text
    kind: PriorKind
    """`fixed`, `uniform` (low to high), `triangular` (mode `value`) or `quantiles` (P5 `low`, P50
    `value`, P95 `high`, with a lognormal on each side of the median).
    """
    low: Number = Field(gt=0, le=MOST)
    value: Number = Field(gt=0, le=MOST)
    """The central value; the middle of a uniform one."""
    high: Number = Field(gt=0, le=MOST)
    source: Text
    date: Date
    includes: tuple[Part, ...] = ()
    unit: Text = "1"

    @model_validator(mode="before")
    @classmethod
    def _implied(cls, data: Any) -> Any:  # noqa: ANN401 - any YAML value
        match data:
            case {"kind": "fixed", "value": value}:
                return {**data, "low": value, "high": value}
            case {"kind": "uniform", "low": int() | float(), "high": int() | float()}:
                return {**data, "value": (data["low"] + data["high"]) / 2}
            case _:
                return data

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError("must have low <= value <= high")
        return self

    def text(self) -> str:
        quantiles = ", P5 to P95" if self.kind == "quantiles" else ""
        span = "" if self.kind == "fixed" else f" ({self.low:g} to {self.high:g}{quantiles})"
        return f"{self.title}: {self.value:.4g}{span}; {self.source} ({self.date})"


class GpuSpec(Strict):
    """Constants of one type of GPU; None: no source."""

    name: Name
    title: Text
    nvml_name: Text
    """Pattern of the whole NVML name."""
    memory_gb: Sourced | None = None
    board_power_w: PowerConstant | None = None
    board_idle_w: PowerConstant | None = None
    """GPU board power without load."""
    host_rated_w: PowerConstant | None = None
    """Rated power of the system without its GPU boards, per GPU."""
    all_in_kw: PowerConstant | None = None
    """Provisioned utility power per GPU."""
    all_in_it_kw: PowerConstant | None = None
    """Provisioned power of chip, host and NICs per GPU, without facility overhead."""
    usd_per_gpu_h: dict[str, Sourced] = Field(default_factory=dict)
    """Published prices by tier."""


class Site(Strict):
    """One site. None: not stated."""

    name: Name
    title: Text = Field(default_factory=lambda data: data["name"])
    gpu: Named | None = None
    """Type of all GPUs."""
    mix: dict[str, Sourced] = Field(default_factory=dict)
    """Share of each type if there are several; `gpu` is then None."""
    gpus: GpuCount
    """Number of GPUs of all types."""
    power_mw: Sourced | None = None
    """Cap at the utility's meter."""
    pue: FromOne | None = None
    usd_per_month: Sourced | None = None
    """Price of the whole site."""
    usd_per_gpu_h: Sourced | None = None
    """Price of a GPU-hour, owned or rented, if no monthly price is stated."""
    co2_kg_per_kwh: FromZero | None = None
    """Of its electricity."""
    available: Date | None = None
    """First month of use."""
    build_days: Sourced | None = None
    """Construction time."""
    until: Date | None = None
    """Last month of the term."""
    terminable_after: Date | None = None
    """Earliest date at which either side may end the term."""
    notice_days: FromZero | None = None
    """Notice of a termination or reclaim."""
    terms: Text | None = None
    """Further terms as text."""
    also_said: tuple[AlsoSaid, ...] = ()

    @property
    def types(self) -> tuple[str, ...]:
        return (self.gpu.value,) if self.gpu else tuple(self.mix)

    def monthly_usd(self) -> float | None:
        """Monthly price of the whole site; None: not stated."""
        if self.usd_per_month is not None:
            return self.usd_per_month.value
        if self.usd_per_gpu_h is not None:
            return self.usd_per_gpu_h.value * self.gpus.value * HOURS_PER_MONTH
        return None

    def to_dict(self) -> dict[str, Any]:
        others = [item.model_dump(mode="json") for item in self.also_said]
        also = [{"what": item.pop("what"), **item} for item in others]
        return {**self.model_dump(mode="json"), "also_said": also}

    def row(self) -> tuple[str, ...]:
        monthly = self.monthly_usd()
        implied = usd_per_gpu_h(monthly, self.gpus.value) if monthly is not None else None
        return (
            self.name,
            human_number(self.gpus.value, 7),
            " + ".join(self.types) or "not stated",
            human_number(self.power_mw.value) if self.power_mw else "not stated",
            human_number(monthly / 1e6) if monthly is not None else "not stated",
            f"{implied:.2f}" if implied is not None else "—",
            self.until or "—",
        )


SITE_COLUMNS: Final = ("site", "GPUs", "type", "MW", "M$/month", "$/GPU-h implied", "until")
"""Headings of `Site.row`."""


class SanityRow(Strict):
    """Published throughput of one model and length on several types of GPU."""

    key: Name
    title: Text
    model: Text
    """Pattern of a model's name."""
    input_tok: Number = Field(gt=0)
    output_tok: Number = Field(gt=0)
    tok_s_per_gpu: dict[str, Annotated[Number, Field(gt=0)]]
    """Output tokens per second per GPU by type of GPU."""
    source: Text
    date: Date

    def cite(self) -> str:
        return f"{self.title}: {self.source} ({self.date})"
