"""What the data files hold: sourced numbers, priors, types of GPU, sites."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from harness.core.units import human_number
from harness.fleet.site.arithmetic import HOURS_PER_MONTH, usd_per_gpu_h

PARTS: Final = ("gpu", "cpu", "host", "network", "storage", "spares", "pue")
"""What a constant of power can cover. A host's processors are `cpu`: a superchip's module holds
them, a GPU board does not.
"""

PriorKind = Literal["fixed", "uniform", "triangular", "quantiles"]


@dataclass(frozen=True, slots=True)
class Sourced:
    """A published number.

    Attributes:
        value: in the unit that the key's suffix names.
        source: who says so.
        date: when, YYYY-MM or YYYY-MM-DD.
        includes: parts of `PARTS` that a constant of power covers.
        note: what it is exactly.
    """

    value: float
    source: str
    date: str
    includes: tuple[str, ...] = ()
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "value": self.value,
            "source": self.source,
            "date": self.date,
            "includes": list(self.includes),
            "note": self.note,
        }

    def cite(self) -> str:
        """Source and date."""
        return f"{self.source} ({self.date})"


@dataclass(frozen=True, slots=True)
class Named:
    """A published word, such as a type of GPU."""

    value: str
    source: str
    date: str


@dataclass(frozen=True, slots=True)
class Prior:
    """What is not measured, as a distribution.

    Attributes:
        kind: `fixed`, `uniform` (low to high), `triangular` (mode `value`) or `quantiles` (P5
            `low`, P50 `value`, P95 `high`, with a lognormal on each side of the median).
        value: the central value; the middle of a uniform one.
        includes: parts of `PARTS` that it covers.
    """

    key: str
    title: str
    kind: PriorKind
    low: float
    value: float
    high: float
    source: str
    date: str
    includes: tuple[str, ...] = ()
    unit: str = "1"

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


@dataclass(frozen=True, slots=True)
class GpuSpec:
    """Constants of one type of GPU; None is not known from a source.

    Attributes:
        nvml_name: pattern of the whole name that NVML gives.
        board_idle_w: of a board without load.
        host_rated_w: rated power of the system less its boards, a GPU.
        all_in_kw: provisioned utility power a GPU.
        all_in_it_kw: provisioned power of chip, host and NICs a GPU, without the facility's
            overhead.
        usd_per_gpu_h: published prices by tier.
    """

    name: str
    title: str
    nvml_name: str
    memory_gb: Sourced | None = None
    board_power_w: Sourced | None = None
    board_idle_w: Sourced | None = None
    host_rated_w: Sourced | None = None
    all_in_kw: Sourced | None = None
    all_in_it_kw: Sourced | None = None
    usd_per_gpu_h: Mapping[str, Sourced] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AlsoSaid:
    """Another figure in circulation for a site."""

    what: str
    figure: Sourced


@dataclass(frozen=True, slots=True)
class Site:
    """One site. None is not stated by anybody.

    Attributes:
        gpus: how many, of all types.
        gpu: type of all of them.
        mix: share of each type, where there are several; `gpu` is then None.
        power_mw: cap at the utility's meter.
        usd_per_month: what the whole of it costs.
        usd_per_gpu_h: what a GPU-hour costs, owned or rented, where no monthly price is stated.
        co2_kg_per_kwh: of its electricity.
        available: first month in which it can be used.
        build_days: how long it took to build.
        until: last month of the term.
        terminable_after: from when either side may end the term.
        notice_days: notice of a termination or reclaim.
        terms: further terms in words.
    """

    name: str
    title: str
    gpus: Sourced
    gpu: Named | None = None
    mix: Mapping[str, Sourced] = field(default_factory=dict)
    power_mw: Sourced | None = None
    pue: Sourced | None = None
    usd_per_month: Sourced | None = None
    usd_per_gpu_h: Sourced | None = None
    co2_kg_per_kwh: Sourced | None = None
    available: str | None = None
    build_days: Sourced | None = None
    until: str | None = None
    terminable_after: str | None = None
    notice_days: Sourced | None = None
    terms: str | None = None
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

        def sourced(item: Sourced | None) -> dict[str, Any] | None:
            return item.to_dict() if item is not None else None

        return {
            "name": self.name,
            "title": self.title,
            "gpu": (
                {"value": self.gpu.value, "source": self.gpu.source, "date": self.gpu.date}
                if self.gpu
                else None
            ),
            "mix": {name: share.to_dict() for name, share in self.mix.items()},
            "gpus": self.gpus.to_dict(),
            "power_mw": sourced(self.power_mw),
            "pue": sourced(self.pue),
            "usd_per_month": sourced(self.usd_per_month),
            "usd_per_gpu_h": sourced(self.usd_per_gpu_h),
            "co2_kg_per_kwh": sourced(self.co2_kg_per_kwh),
            "available": self.available,
            "build_days": sourced(self.build_days),
            "until": self.until,
            "terminable_after": self.terminable_after,
            "notice_days": sourced(self.notice_days),
            "terms": self.terms,
            "also_said": [{"what": item.what, **item.figure.to_dict()} for item in self.also_said],
        }

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


@dataclass(frozen=True, slots=True)
class SanityRow:
    """Published throughput of one model and length on several types of GPU.

    Attributes:
        model: pattern of a model's name.
        tok_s_per_gpu: output tokens per second per GPU by type of GPU.
    """

    key: str
    title: str
    model: str
    input_tok: float
    output_tok: float
    tok_s_per_gpu: Mapping[str, float]
    source: str
    date: str

    def cite(self) -> str:
        """What it is, source and date."""
        return f"{self.title}: {self.source} ({self.date})"
