"""Hardware, sites and priors as data: YAML files in `data/`, checked when they are read, every number with its source and date."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal, cast

from harness.core.errors import ProfileError
from harness.core.units import human_number
from harness.fleet.arithmetic import gpus_within, site_mw, usd_per_gpu_h

PARTS: Final = ("gpu", "host", "network", "storage", "spares", "pue")
"""What a constant of power can cover."""

PriorKind = Literal["fixed", "uniform", "triangular", "quantiles"]

_DATE: Final = re.compile(r"\d{4}-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?")


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
        return {"value": self.value, "source": self.source, "date": self.date, "includes": list(self.includes), "note": self.note}

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
        kind: `fixed`, `uniform` (low to high), `triangular` (mode `value`) or `quantiles` (P5 `low`, P50 `value`, P95 `high`, with a
            lognormal on each side of the median).
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

    def text(self) -> str:
        """Value and range, source and date."""
        span = "" if self.kind == "fixed" else f" ({self.low:g} to {self.high:g}{', P5 to P95' if self.kind == 'quantiles' else ''})"
        return f"{self.title}: {self.value:.4g}{span}; {self.source} ({self.date})"


@dataclass(frozen=True, slots=True)
class GpuSpec:
    """Constants of one type of GPU; None is not known from a source.

    Attributes:
        nvml_name: pattern of the whole name that NVML gives.
        all_in_kw: provisioned utility power a GPU.
        usd_per_gpu_h: published prices by tier.
    """

    name: str
    title: str
    nvml_name: str
    memory_gb: Sourced | None = None
    board_power_w: Sourced | None = None
    host_rated_w: Sourced | None = None
    all_in_kw: Sourced | None = None
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
        gpu: type of all its GPUs.
        gpus: how many.
        power_mw: cap at the utility's meter.
        usd_per_month: what the whole of it costs.
        until: last month of the term.
        terms: further terms in words.
    """

    name: str
    title: str
    gpus: Sourced
    gpu: Named | None = None
    power_mw: Sourced | None = None
    pue: Sourced | None = None
    usd_per_month: Sourced | None = None
    until: str | None = None
    terminable_after: str | None = None
    terms: str | None = None
    also_said: tuple[AlsoSaid, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""

        def sourced(item: Sourced | None) -> dict[str, Any] | None:
            return item.to_dict() if item is not None else None

        return {
            "name": self.name,
            "title": self.title,
            "gpu": {"value": self.gpu.value, "source": self.gpu.source, "date": self.gpu.date} if self.gpu else None,
            "gpus": self.gpus.to_dict(),
            "power_mw": sourced(self.power_mw),
            "pue": sourced(self.pue),
            "usd_per_month": sourced(self.usd_per_month),
            "until": self.until,
            "terminable_after": self.terminable_after,
            "terms": self.terms,
            "also_said": [{"what": item.what, **item.figure.to_dict()} for item in self.also_said],
            "contradictions": list(contradictions(self)),
        }

    def row(self) -> tuple[str, ...]:
        """As text, under `SITE_COLUMNS`."""
        implied = usd_per_gpu_h(self.usd_per_month.value, self.gpus.value) if self.usd_per_month else None
        return (
            self.name,
            human_number(self.gpus.value, 7),
            self.gpu.value if self.gpu else "not stated",
            human_number(self.power_mw.value) if self.power_mw else "not stated",
            human_number(self.usd_per_month.value / 1e6) if self.usd_per_month else "not stated",
            f"{implied:.2f}" if implied is not None else "—",
            self.until or "—",
        )


SITE_COLUMNS: Final = ("site", "GPUs", "type", "MW", "M$/month", "$/GPU-h implied", "until")
"""Headings of `Site.row`."""


def list_sites() -> tuple[Site, ...]:
    """The sites that come with the harness."""
    return tuple(_shipped_sites().values())


def load_site(name: str | Path) -> Site:
    """A shipped site by its name, or the one site of a YAML file.

    Raises:
        ProfileError: no such site or file, or a file with faults (all of them at once).
    """
    shipped = _shipped_sites()
    if str(name) in shipped:
        return shipped[str(name)]
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        raise ProfileError(f"there is no site {str(name)!r}", next_step=f"use one of: {', '.join(shipped)}, or the path of a YAML file")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ProfileError(f"{path} cannot be read: {error.strerror or error}") from error
    sites = _parse_sites(text, str(path))
    if len(sites) != 1:
        raise ProfileError(f"{path} holds {len(sites)} sites; one is needed", next_step="write `name:` and its keys below, one site a file")
    return next(iter(sites.values()))


def contradictions(site: Site) -> tuple[str, ...]:
    """Where published figures of a site disagree, with the arithmetic."""
    found = []
    spec = gpus().get(site.gpu.value) if site.gpu else None
    count, power = site.gpus.value, site.power_mw
    if power is not None and spec is not None and spec.all_in_kw is not None:
        each = spec.all_in_kw
        needed = site_mw(count, each.value)
        if needed > power.value:
            found.append(
                f"{count:,.0f} x {each.value:g} kW ({each.source}) = {needed:.0f} MW against {power.value:g} MW, "
                f"which provision {gpus_within(power.value, each.value):,} of them"
            )
    if power is not None:
        found.extend(
            f"{item.figure.value:g} MW against {power.value:g} MW: {item.figure.note or 'also said'} ({item.figure.cite()})"
            for item in site.also_said
            if item.what == "power_mw"
        )
    for item in site.also_said:
        if item.what != "gpus":
            continue
        price = ""
        if site.usd_per_month is not None:
            implied = usd_per_gpu_h(site.usd_per_month.value, item.figure.value)
            price = f"; ${implied:.2f} a GPU-hour instead of ${usd_per_gpu_h(site.usd_per_month.value, site.gpus.value):.2f}"
        found.append(
            f"{item.figure.value:,.0f} GPUs against {site.gpus.value:,.0f}: {item.figure.note or 'also said'}{price} ({item.figure.cite()})"
        )
    return tuple(found)


def check_overlap(constants: Mapping[str, Sequence[str]]) -> None:
    """Refuse constants of power that cover the same part.

    Args:
        constants: name -> what it includes.

    Raises:
        ProfileError: two overlap; both are named.
    """
    owner: dict[str, str] = {}
    for name, includes in constants.items():
        for part in includes:
            if part in owner:
                raise ProfileError(
                    f"{owner[part]} and {name} both include {part}, which would be counted twice", next_step="leave one of the two out"
                )
            owner[part] = name


# --- reading ----------------------------------------------------------------------------------------------------------------------


@cache
def gpus() -> Mapping[str, GpuSpec]:
    """Types of GPU by name."""
    reader = _Reader("gpus.yaml")
    specs = {name: _gpu(reader, name, raw) for name, raw in reader.top(_shipped("gpus.yaml")).items()}
    reader.finish()
    return specs


@cache
def priors() -> Mapping[str, Prior]:
    """Priors by key."""
    reader = _Reader("priors.yaml")
    found = {key: _prior(reader, key, raw) for key, raw in reader.top(_shipped("priors.yaml")).items()}
    reader.finish()
    return found


def gpu_type(nvml_name: str | None) -> str | None:
    """Type of a board by the name that NVML gives it; None when it is none of ours (an H100 PCIe is not an H100 SXM)."""
    return next((name for name, spec in gpus().items() if nvml_name and re.fullmatch(spec.nvml_name, nvml_name)), None)


@cache
def _shipped_sites() -> Mapping[str, Site]:
    return _parse_sites(_shipped("sites.yaml"), "sites.yaml")


def _shipped(name: str) -> str:
    return (resources.files("harness.fleet") / "data" / name).read_text(encoding="utf-8")


def _parse_sites(text: str, where: str) -> dict[str, Site]:
    reader = _Reader(where)
    sites = {name: _site(reader, name, raw) for name, raw in reader.top(text).items()}
    reader.finish()
    return sites


class _Reader:
    """Takes values out of YAML and gathers every fault, to tell all at once."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._faults: list[str] = []

    def top(self, text: str) -> dict[str, Mapping[str, Any]]:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError

        yaml = YAML(typ="safe", pure=True)
        # Dates stay text, so that 2026-05 and 2026-05-20 read alike.
        yaml.constructor.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: loader.construct_scalar(node))
        try:
            loaded = yaml.load(text)
        except YAMLError as error:
            raise ProfileError(f"{self._where} is no YAML", cause=str(error)) from error
        if not isinstance(loaded, dict) or not loaded:
            raise ProfileError(f"{self._where} holds no names with keys below them")
        found: dict[str, Mapping[str, Any]] = {}
        for name, raw in loaded.items():
            if isinstance(raw, dict):
                found[str(name)] = raw
            else:
                self.fault(str(name), "has no keys below it")
        return found

    def fault(self, at: str, what: str) -> None:
        self._faults.append(f"{at} {what}")

    def finish(self) -> None:
        if self._faults:
            raise ProfileError(
                f"{self._where} has {len(self._faults)} fault{'s' if len(self._faults) > 1 else ''}",
                details="\n".join(f"  {fault}" for fault in self._faults),
            )

    def known(self, at: str, raw: Mapping[str, Any], keys: Sequence[str]) -> None:
        for key in raw:
            if key not in keys:
                self.fault(f"{at}.{key}", f"is no key here; keys: {', '.join(keys)}")

    def text(self, at: str, raw: Mapping[str, Any], key: str, *, required: bool = False) -> str | None:
        value = raw.get(key)
        if isinstance(value, str) and value.strip():
            return value.strip()
        if value is not None or required:
            self.fault(f"{at}.{key}", "must be text")
        return None

    def number(self, at: str, raw: Mapping[str, Any], key: str, *, above: float = 0.0, inclusive: bool = False) -> float:
        value = raw.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.fault(f"{at}.{key}", f"must be a number, not {value!r}")
        elif value < above or (value == above and not inclusive):
            self.fault(f"{at}.{key}", f"must be {'at least' if inclusive else 'above'} {above:g}, not {value:g}")
        else:
            return float(value)
        return math.nan

    def date(self, at: str, raw: Mapping[str, Any], key: str, *, required: bool = False) -> str | None:
        value = raw.get(key)
        if isinstance(value, str) and _DATE.fullmatch(value):
            return value
        if value is not None or required:
            self.fault(f"{at}.{key}", f"must be a date, YYYY-MM or YYYY-MM-DD, not {value!r}")
        return None

    def includes(self, at: str, raw: Mapping[str, Any]) -> tuple[str, ...]:
        value = raw.get("includes", [])
        if not isinstance(value, list) or any(item not in PARTS for item in value):
            self.fault(f"{at}.includes", f"must be a list of: {', '.join(PARTS)}")
            return ()
        return tuple(value)

    def sourced(self, at: str, raw: object, *, above: float = 0.0, inclusive: bool = False) -> Sourced | None:
        if raw is None:
            return None
        if not isinstance(raw, Mapping):
            self.fault(at, "must be {value: …, source: …, date: …}: a number without its source is not taken")
            return None
        self.known(at, raw, ("value", "source", "date", "includes", "note", "what"))
        return Sourced(
            value=self.number(at, raw, "value", above=above, inclusive=inclusive),
            source=self.text(at, raw, "source", required=True) or "",
            date=self.date(at, raw, "date", required=True) or "",
            includes=self.includes(at, raw),
            note=self.text(at, raw, "note"),
        )


def _gpu(reader: _Reader, name: str, raw: Mapping[str, Any]) -> GpuSpec:
    numbers = ("memory_gb", "board_power_w", "host_rated_w", "all_in_kw")
    reader.known(name, raw, ("title", "nvml_name", *numbers, "usd_per_gpu_h"))
    prices = raw.get("usd_per_gpu_h", {})
    if not isinstance(prices, Mapping):
        reader.fault(f"{name}.usd_per_gpu_h", "must hold prices by tier")
        prices = {}
    tiers = {str(tier): reader.sourced(f"{name}.usd_per_gpu_h.{tier}", price) for tier, price in prices.items()}
    found = {key: reader.sourced(f"{name}.{key}", raw.get(key)) for key in numbers}
    for key in numbers[1:]:
        if (constant := found[key]) is not None and not constant.includes:
            reader.fault(f"{name}.{key}", "must say what it includes")
    return GpuSpec(
        name=name,
        title=reader.text(name, raw, "title", required=True) or name,
        nvml_name=reader.text(name, raw, "nvml_name", required=True) or "",
        usd_per_gpu_h={tier: price for tier, price in tiers.items() if price is not None},
        **found,
    )


def _prior(reader: _Reader, key: str, raw: Mapping[str, Any]) -> Prior:
    reader.known(key, raw, ("title", "kind", "low", "value", "high", "unit", "source", "date", "includes"))
    kind = raw.get("kind")
    if kind not in {"fixed", "uniform", "triangular", "quantiles"}:
        reader.fault(f"{key}.kind", "must be fixed, uniform, triangular or quantiles")
        kind = "fixed"
    if kind == "fixed":
        low = value = high = reader.number(key, raw, "value")
    else:
        low, high = reader.number(key, raw, "low"), reader.number(key, raw, "high")
        value = (low + high) / 2 if kind == "uniform" else reader.number(key, raw, "value")
        if not low <= value <= high and not math.isnan(low + value + high):
            reader.fault(key, f"must have low <= value <= high, not {low:g}, {value:g}, {high:g}")
    return Prior(
        key=key,
        title=reader.text(key, raw, "title", required=True) or key,
        kind=cast("PriorKind", kind),
        low=low,
        value=value,
        high=high,
        source=reader.text(key, raw, "source", required=True) or "",
        date=reader.date(key, raw, "date", required=True) or "",
        includes=reader.includes(key, raw),
    )


def _site(reader: _Reader, name: str, raw: Mapping[str, Any]) -> Site:
    reader.known(name, raw, ("title", "gpu", "gpus", "power_mw", "pue", "usd_per_month", "until", "terminable_after", "terms", "also_said"))
    gpu = None
    if (named := raw.get("gpu")) is not None:
        if not isinstance(named, Mapping) or named.get("value") not in gpus():
            reader.fault(f"{name}.gpu", f"must be {{value: …, source: …, date: …}} with a value of: {', '.join(gpus())}")
        else:
            gpu = Named(
                str(named["value"]),
                reader.text(f"{name}.gpu", named, "source", required=True) or "",
                reader.date(f"{name}.gpu", named, "date", required=True) or "",
            )
    count = reader.sourced(f"{name}.gpus", raw.get("gpus"), above=1, inclusive=True)
    if count is None:
        if raw.get("gpus") is None:
            reader.fault(f"{name}.gpus", "is needed: how many GPUs the site has")
        count = Sourced(math.nan, "", "")
    others = raw.get("also_said", [])
    if not isinstance(others, list) or any(not isinstance(item, Mapping) for item in others):
        reader.fault(f"{name}.also_said", "must be a list of {what: …, value: …, source: …, date: …}")
        others = []
    also = []
    for position, item in enumerate(others):
        at = f"{name}.also_said.{position}"
        if item.get("what") not in {"gpus", "power_mw", "usd_per_month", "pue"}:
            reader.fault(f"{at}.what", "must be gpus, power_mw, usd_per_month or pue")
        figure = reader.sourced(at, item)
        if figure is not None:
            also.append(AlsoSaid(str(item.get("what")), figure))
    return Site(
        name=name,
        title=reader.text(name, raw, "title") or name,
        gpus=count,
        gpu=gpu,
        power_mw=reader.sourced(f"{name}.power_mw", raw.get("power_mw")),
        pue=reader.sourced(f"{name}.pue", raw.get("pue"), above=1, inclusive=True),
        usd_per_month=reader.sourced(f"{name}.usd_per_month", raw.get("usd_per_month")),
        until=reader.date(name, raw, "until"),
        terminable_after=reader.date(name, raw, "terminable_after"),
        terms=reader.text(name, raw, "terms"),
        also_said=tuple(also),
    )
