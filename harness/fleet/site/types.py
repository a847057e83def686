"""What the data files hold: sourced numbers, priors, types of GPU, sites. Each class is a section
of YAML; its fields are the keys.
"""

from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from harness.checked_yaml.fields import Date, Name, Number, Strict, Text
from harness.core.units import human_number
from harness.fleet.site.arithmetic import HOURS_PER_MONTH, usd_per_gpu_h

Part = Literal["gpu", "cpu", "host", "network", "storage", "spares", "pue"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)
"""What a constant of power can cover. A host's processors are `cpu`: a superchip's module holds
them, a GPU board does not.
"""

PriorKind = Literal["fixed", "uniform", "triangular", "quantiles"]

MOST: Final = 1e15
"""No number of a site or of hardware is greater; one that is has a slip in its exponent."""


class Sourced(Strict):
    """A published number."""

    value: Number = Field(gt=0, le=MOST)
    """In the unit that the key's suffix names."""
    source: Text
    """Who says so."""
    date: Date
    """When, YYYY-MM or YYYY-MM-DD."""
    includes: tuple[Part, ...] = ()
    """What a constant of power covers."""
    note: Text | None = None
    """What it is exactly."""

    def cite(self) -> str:
        """Source and date."""
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
    """A published constant of power, with what it covers."""

    includes: tuple[Part, ...] = Field(min_length=1)


class AlsoSaid(Sourced):
    """Another figure in circulation for a site."""

    what: Literal["gpus", "power_mw", "usd_per_month", "pue"]
    """Key of the site that it is another figure of."""


class Named(Strict):
    """A published word, such as a type of GPU."""

    value: Text
    source: Text
    date: Date


class Prior(Strict):
    """What is not measured, as a distribution."""

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
    def _implied(cls, data: Any) -> Any:  # noqa: ANN401 - whatever the YAML holds
        """The numbers that a kind leaves out."""
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

    def span(self) -> str:
        """The range in words; empty for a fixed value."""
        return (
            ""
            if self.kind == "fixed"
            else f"{self.low:g} to {self.high:g}{', P5 to P95' if self.kind == 'quantiles' else ''}"
        )

    def text(self) -> str:
        """Value and range, source and date."""
        span = f" ({self.span()})" if self.span() else ""
        return f"{self.title}: {self.value:.4g}{span}; {self.source} ({self.date})"


class GpuSpec(Strict):
    """Constants of one type of GPU; None is not known from a source."""

    name: Name
    title: Text
    nvml_name: Text
    """Pattern of the whole name that NVML gives."""
    memory_gb: Sourced | None = None
    board_power_w: PowerConstant | None = None
    board_idle_w: PowerConstant | None = None
    """Of a board without load."""
    host_rated_w: PowerConstant | None = None
    """Rated power of the system less its boards, a GPU."""
    all_in_kw: PowerConstant | None = None
    """Provisioned utility power a GPU."""
    all_in_it_kw: PowerConstant | None = None
    """Provisioned power of chip, host and NICs a GPU, without the facility's overhead."""
    usd_per_gpu_h: dict[str, Sourced] = Field(default_factory=dict)
    """Published prices by tier."""


class Site(Strict):
    """One site. None is not stated by anybody."""

    name: Name
    title: Text = Field(default_factory=lambda data: data["name"])
    gpu: Named | None = None
    """Type of all GPUs."""
    mix: dict[str, Sourced] = Field(default_factory=dict)
    """Share of each type, where there are several; `gpu` is then None."""
    gpus: GpuCount
    """How many, of all types."""
    power_mw: Sourced | None = None
    """Cap at the utility's meter."""
    pue: FromOne | None = None
    usd_per_month: Sourced | None = None
    """What the whole of it costs."""
    usd_per_gpu_h: Sourced | None = None
    """What a GPU-hour costs, owned or rented, where no monthly price is stated."""
    co2_kg_per_kwh: FromZero | None = None
    """Of its electricity."""
    available: Date | None = None
    """First month in which it can be used."""
    build_days: Sourced | None = None
    """How long it took to build."""
    until: Date | None = None
    """Last month of the term."""
    terminable_after: Date | None = None
    """From when either side may end the term."""
    notice_days: FromZero | None = None
    """Notice of a termination or reclaim."""
    terms: Text | None = None
    """Further terms in words."""
    also_said: tuple[AlsoSaid, ...] = ()

    @property
    def types(self) -> tuple[str, ...]:
        """Types of GPU that are stated."""
        return (self.gpu.value,) if self.gpu else tuple(self.mix)

    def monthly_usd(self) -> float | None:
        """What the whole site costs a month; None where nobody states a price."""
        if self.usd_per_month is not None:
            return self.usd_per_month.value
        if self.usd_per_gpu_h is not None:
            return self.usd_per_gpu_h.value * self.gpus.value * HOURS_PER_MONTH
        return None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        said = [item.model_dump(mode="json") for item in self.also_said]
        also = [{"what": item.pop("what"), **item} for item in said]
        return {**self.model_dump(mode="json"), "also_said": also}

    def row(self) -> tuple[str, ...]:
        """As text, under `SITE_COLUMNS`."""
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
        """What it is, source and date."""
        return f"{self.title}: {self.source} ({self.date})"
