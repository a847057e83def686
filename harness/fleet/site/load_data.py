"""YAML of the data files and of sites' own files -> checked values; every fault of a file is told
at once.
"""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final, cast

from harness.core.errors import ProfileError
from harness.fleet.site.types import (
    PARTS,
    AlsoSaid,
    GpuSpec,
    Named,
    Prior,
    PriorKind,
    SanityRow,
    Site,
    Sourced,
)

_DATE: Final = re.compile(r"\d{4}-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?")

MOST: Final = 1e15
"""No number of a site or of hardware is greater; one that is has a slip in its exponent."""

MOST_GPUS: Final = 1e8
"""GPUs of a site."""


def _of_calendar(text: str) -> bool:
    """Whether a month or day is in the calendar."""
    try:
        date.fromisoformat(text if len(text) > len("YYYY-MM") else f"{text}-01")
    except ValueError:
        return False
    return True


class Reader:
    """Takes values out of YAML and gathers every fault, to tell all at once."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._faults: list[str] = []

    def top(self, text: str) -> dict[str, Mapping[str, Any]]:
        """Names and the keys below each."""
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError

        yaml = YAML(typ="safe", pure=True)
        # Dates stay text, so that 2026-05 and 2026-05-20 read alike.
        yaml.constructor.add_constructor(
            "tag:yaml.org,2002:timestamp", lambda loader, node: loader.construct_scalar(node)
        )
        try:
            loaded = yaml.load(text)
        except YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = "" if mark is None else f" in line {mark.line + 1}, column {mark.column + 1}"
            cause = str(getattr(error, "problem", None) or error).partition("\n")[0]
            step = "indent with spaces, not with tabs" if "\\t" in cause else "mend that line"
            raise ProfileError(
                f"{self._where} is no YAML", cause=f"{cause}{where}", next_step=step
            ) from error
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
        """Note one fault."""
        self._faults.append(f"{at} {what}")

    def finish(self) -> None:
        """Refuse the file if it has faults."""
        if self._faults:
            raise ProfileError(
                f"{self._where} has {len(self._faults)}"
                f" fault{'s' if len(self._faults) > 1 else ''}",
                details="\n".join(f"  {fault}" for fault in self._faults),
            )

    def known(self, at: str, raw: Mapping[str, Any], keys: Sequence[str]) -> None:
        """Refuse keys that are not known."""
        for key in raw:
            if key not in keys:
                meant = [known for known in keys if known.startswith(f"{key}_")]
                hint = (
                    f"; name its unit: {' or '.join(meant)}"
                    if meant
                    else f"; keys: {', '.join(keys)}"
                )
                self.fault(f"{at}.{key}", f"is no key here{hint}")

    def text(
        self, at: str, raw: Mapping[str, Any], key: str, *, required: bool = False
    ) -> str | None:
        """Text of a key."""
        value = raw.get(key)
        if isinstance(value, str) and value.strip():
            return value.strip()
        if value is not None or required:
            self.fault(f"{at}.{key}", "must be text")
        return None

    def number(
        self,
        at: str,
        raw: Mapping[str, Any],
        key: str,
        *,
        above: float = 0.0,
        inclusive: bool = False,
        most: float = MOST,
    ) -> float:
        """A finite number between bounds; NaN after a fault."""
        value = raw.get(key)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            self.fault(f"{at}.{key}", f"must be a number, not {value!r}")
        elif value < above or (value == above and not inclusive):
            self.fault(
                f"{at}.{key}",
                f"must be {'at least' if inclusive else 'above'} {above:g}, not {value:g}",
            )
        elif value > most:
            self.fault(f"{at}.{key}", f"must be at most {most:,.0f}, not {value:g}")
        else:
            return float(value)
        return math.nan

    def date(
        self, at: str, raw: Mapping[str, Any], key: str, *, required: bool = False
    ) -> str | None:
        """A month or day."""
        value = raw.get(key)
        if isinstance(value, str) and _DATE.fullmatch(value) and _of_calendar(value):
            return value
        if value is not None or required:
            self.fault(f"{at}.{key}", f"must be a date, YYYY-MM or YYYY-MM-DD, not {value!r}")
        return None

    def includes(self, at: str, raw: Mapping[str, Any]) -> tuple[str, ...]:
        """Parts that a constant of power covers."""
        value = raw.get("includes", [])
        if not isinstance(value, list) or any(item not in PARTS for item in value):
            self.fault(f"{at}.includes", f"must be a list of: {', '.join(PARTS)}")
            return ()
        return tuple(value)

    def sourced(
        self,
        at: str,
        raw: object,
        *,
        above: float = 0.0,
        inclusive: bool = False,
        most: float = MOST,
    ) -> Sourced | None:
        """A number with its source and date; None where it is not stated."""
        if raw is None:
            return None
        if not isinstance(raw, Mapping):
            self.fault(
                at,
                "must be {value: …, source: …, date: …}: a number without its source is not taken",
            )
            return None
        self.known(at, raw, ("value", "source", "date", "includes", "note", "what"))
        return Sourced(
            value=self.number(at, raw, "value", above=above, inclusive=inclusive, most=most),
            source=self.text(at, raw, "source", required=True) or "",
            date=self.date(at, raw, "date", required=True) or "",
            includes=self.includes(at, raw),
            note=self.text(at, raw, "note"),
        )


def read_gpu(reader: Reader, name: str, raw: Mapping[str, Any], /) -> GpuSpec:
    """Constants of one type of GPU."""
    numbers = (
        "memory_gb",
        "board_power_w",
        "board_idle_w",
        "host_rated_w",
        "all_in_kw",
        "all_in_it_kw",
    )
    reader.known(name, raw, ("title", "nvml_name", *numbers, "usd_per_gpu_h"))
    prices = raw.get("usd_per_gpu_h", {})
    if not isinstance(prices, Mapping):
        reader.fault(f"{name}.usd_per_gpu_h", "must hold prices by tier")
        prices = {}
    tiers = {
        str(tier): reader.sourced(f"{name}.usd_per_gpu_h.{tier}", price)
        for tier, price in prices.items()
    }
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


def read_prior(reader: Reader, key: str, raw: Mapping[str, Any], /) -> Prior:
    """One prior."""
    reader.known(
        key, raw, ("title", "kind", "low", "value", "high", "unit", "source", "date", "includes")
    )
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
        unit=reader.text(key, raw, "unit", required=True) or "1",
    )


_SITE_KEYS: Final = (
    "title",
    "gpu",
    "mix",
    "gpus",
    "power_mw",
    "pue",
    "usd_per_month",
    "usd_per_gpu_h",
    "co2_kg_per_kwh",
    "available",
    "build_days",
    "until",
    "terminable_after",
    "notice_days",
    "terms",
    "also_said",
)


def read_site(reader: Reader, name: str, raw: Mapping[str, Any], types: Sequence[str]) -> Site:
    """One site; `types` are the names of known types of GPU."""
    reader.known(name, raw, _SITE_KEYS)
    gpu = None
    if (named := raw.get("gpu")) is not None:
        if not isinstance(named, Mapping) or named.get("value") not in types:
            reader.fault(
                f"{name}.gpu",
                f"must be {{value: …, source: …, date: …}} with a value of: {', '.join(types)}",
            )
        else:
            gpu = Named(
                str(named["value"]),
                reader.text(f"{name}.gpu", named, "source", required=True) or "",
                reader.date(f"{name}.gpu", named, "date", required=True) or "",
            )
    mix = _mix(reader, name, raw, types)
    if gpu is not None and mix:
        reader.fault(f"{name}.mix", "stands beside gpu: state one of the two")
    count = reader.sourced(f"{name}.gpus", raw.get("gpus"), above=1, inclusive=True, most=MOST_GPUS)
    if count is not None and not math.isnan(count.value) and count.value != int(count.value):
        reader.fault(f"{name}.gpus.value", f"must be a whole number, not {count.value:g}")
    if count is None:
        if raw.get("gpus") is None:
            reader.fault(f"{name}.gpus", "is needed: how many GPUs the site has")
        count = Sourced(math.nan, "", "")
    if raw.get("usd_per_month") is not None and raw.get("usd_per_gpu_h") is not None:
        reader.fault(f"{name}.usd_per_gpu_h", "stands beside usd_per_month: state one of the two")
    available, until = reader.date(name, raw, "available"), reader.date(name, raw, "until")
    if available is not None and until is not None and until < available[: len(until)]:
        reader.fault(f"{name}.until", f"is {until}, before the site is available ({available})")
    others = raw.get("also_said", [])
    if not isinstance(others, list) or any(not isinstance(item, Mapping) for item in others):
        reader.fault(
            f"{name}.also_said", "must be a list of {what: …, value: …, source: …, date: …}"
        )
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
        mix=mix,
        power_mw=reader.sourced(f"{name}.power_mw", raw.get("power_mw")),
        pue=reader.sourced(f"{name}.pue", raw.get("pue"), above=1, inclusive=True),
        usd_per_month=reader.sourced(f"{name}.usd_per_month", raw.get("usd_per_month")),
        usd_per_gpu_h=reader.sourced(f"{name}.usd_per_gpu_h", raw.get("usd_per_gpu_h")),
        co2_kg_per_kwh=reader.sourced(
            f"{name}.co2_kg_per_kwh", raw.get("co2_kg_per_kwh"), inclusive=True
        ),
        available=available,
        build_days=reader.sourced(f"{name}.build_days", raw.get("build_days")),
        until=until,
        terminable_after=reader.date(name, raw, "terminable_after"),
        notice_days=reader.sourced(f"{name}.notice_days", raw.get("notice_days"), inclusive=True),
        terms=reader.text(name, raw, "terms"),
        also_said=tuple(also),
    )


def _mix(
    reader: Reader, name: str, raw: Mapping[str, Any], types: Sequence[str]
) -> dict[str, Sourced]:
    """Share of each type of GPU."""
    shares = raw.get("mix", {})
    if not isinstance(shares, Mapping):
        reader.fault(
            f"{name}.mix",
            "must hold a share for each type of GPU: {H100: {value: 0.7, source: …, date: …}, …}",
        )
        return {}
    found = {}
    for kind, share in shares.items():
        if kind not in types:
            reader.fault(f"{name}.mix.{kind}", f"is no known type; types: {', '.join(types)}")
        elif (sourced := reader.sourced(f"{name}.mix.{kind}", share)) is not None:
            found[str(kind)] = sourced
    total = math.fsum(share.value for share in found.values())
    if found and abs(total - 1) > 1e-6:
        reader.fault(f"{name}.mix", f"must add up to 1, not {total:g}")
    return found


def read_sanity(
    reader: Reader, key: str, raw: Mapping[str, Any], types: Sequence[str]
) -> SanityRow:
    """One row of published throughput."""
    reader.known(
        key, raw, ("title", "model", "input_tok", "output_tok", "tok_s_per_gpu", "source", "date")
    )
    figures = raw.get("tok_s_per_gpu")
    if not isinstance(figures, Mapping) or any(kind not in types for kind in figures):
        reader.fault(
            f"{key}.tok_s_per_gpu", f"must hold a figure by type of GPU: {', '.join(types)}"
        )
        figures = {}
    return SanityRow(
        key=key,
        title=reader.text(key, raw, "title", required=True) or key,
        model=reader.text(key, raw, "model", required=True) or "",
        input_tok=reader.number(key, raw, "input_tok"),
        output_tok=reader.number(key, raw, "output_tok"),
        tok_s_per_gpu={
            str(kind): reader.number(f"{key}.tok_s_per_gpu", figures, kind) for kind in figures
        },
        source=reader.text(key, raw, "source", required=True) or "",
        date=reader.date(key, raw, "date", required=True) or "",
    )
