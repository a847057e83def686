"""Hardware, sites, priors and published throughput from YAML in `data/`, checked when loaded."""

import difflib
import math
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Final

from harness.checked_yaml.load import load_text, read_file
from harness.checked_yaml.problems import Path, Violation
from harness.core.errors import ProfileError
from harness.fleet.site.arithmetic import gpus_within, site_mw, usd_per_gpu_h
from harness.fleet.site.load_data import load_data
from harness.fleet.site.types import GpuSpec, Prior, SanityRow, Site


def list_sites() -> tuple[Site, ...]:
    """The shipped sites."""
    return tuple(_shipped_sites().values())


def load_site(name: str | pathlib.Path) -> Site:
    """A shipped site by its name, or the one site of a YAML file.

    Raises:
        ProfileError: no such site or file, or a file with errors (all are listed).
    """
    shipped = _shipped_sites()
    if str(name) in shipped:
        return shipped[str(name)]
    path = pathlib.Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        raise ProfileError(
            f"unknown site {str(name)!r}",
            next_step=f"use one of: {', '.join(shipped)}, or the path of a YAML file",
        )
    text = read_file(path, "a site's YAML file")
    sites = load_text(text, str(path), dict[str, Site], _site_rules)
    if len(sites) != 1:
        raise ProfileError(
            f"{path} has {len(sites)} sites, not one",
            next_step="write `name:` and its keys below, one site per file",
        )
    return next(iter(sites.values()))


def contradictions(site: Site) -> tuple[str, ...]:
    """Published values of a site that disagree, with the arithmetic."""
    found = []
    spec = gpus().get(site.gpu.value) if site.gpu else None
    count, power = site.gpus.value, site.power_mw
    if power is not None and spec is not None and spec.all_in_kw is not None:
        each = spec.all_in_kw
        needed = site_mw(count, each.value)
        if needed > power.value:
            found.append(
                f"{count:,.0f} x {each.value:g} kW ({each.source}) = {needed:.0f} MW against"
                f" {power.value:g} MW, enough for {gpus_within(power.value, each.value):,} GPUs"
            )
    if power is not None:
        found.extend(
            f"{item.value:g} MW against {power.value:g} MW:"
            f" {item.note or 'also reported'} ({item.cite()})"
            for item in site.also_said
            if item.what == "power_mw"
        )
    if power is not None and spec is not None and spec.all_in_it_kw is not None:
        it = site_mw(count, spec.all_in_it_kw.value)
        found.append(
            f"{count:,.0f} x {spec.all_in_it_kw.value:g} kW of chip and host"
            f" ({spec.all_in_it_kw.cite()}) = {it:.0f} MW of IT power, "
            + (
                f"which fits {power.value:g} MW at a PUE up to {power.value / it:.2f}"
                if it < power.value
                else f"more than {power.value:g} MW at any PUE"
            )
        )
    for item in site.also_said:
        if item.what != "gpus":
            continue
        price = ""
        if site.usd_per_month is not None:
            implied = usd_per_gpu_h(site.usd_per_month.value, item.value)
            price = (
                f"; ${implied:.2f} a GPU-hour instead of"
                f" ${usd_per_gpu_h(site.usd_per_month.value, site.gpus.value):.2f}"
            )
        found.append(
            f"{item.value:,.0f} GPUs against {site.gpus.value:,.0f}:"
            f" {item.note or 'also reported'}{price} ({item.cite()})"
        )
    return tuple(found)


def check_overlap(constants: Mapping[str, Sequence[str]]) -> None:
    """Raise ProfileError if two constants of power (name -> parts) include the same part."""
    owner: dict[str, str] = {}
    for name, includes in constants.items():
        for part in includes:
            if part in owner:
                raise ProfileError(
                    f"{owner[part]} and {name} both include {part}, which would be counted twice",
                    next_step="remove one of them",
                )
            owner[part] = name


# --- reading ---


@cache
def gpus() -> Mapping[str, GpuSpec]:
    """Types of GPU by name."""
    return load_data("gpus.yaml", dict[str, GpuSpec])


@cache
def priors() -> Mapping[str, Prior]:
    """Priors by key."""
    return load_data("priors.yaml", dict[str, Prior])


@cache
def sanity() -> tuple[SanityRow, ...]:
    """Published throughput."""
    return tuple(load_data("sanity.yaml", dict[str, SanityRow], _sanity_rules).values())


def _unknown(path: Path, kind: str) -> Iterator[Violation]:
    if kind not in gpus():
        near = difflib.get_close_matches(kind, gpus(), n=1)
        fix = f"did you mean `{near[0]}`? " if near else ""
        yield Violation(path, f"{kind!r} is an unknown GPU", f"{fix}Known are {', '.join(gpus())}")


def _sanity_rules(rows: Mapping[str, SanityRow]) -> Iterator[Violation]:
    for key, row in rows.items():
        for kind in row.tok_s_per_gpu:
            yield from _unknown((key, "tok_s_per_gpu", kind), kind)


def _site_rules(sites: Mapping[str, Site]) -> Iterator[Violation]:
    for name, site in sites.items():
        if site.gpu is not None:
            yield from _unknown((name, "gpu", "value"), site.gpu.value)
        for kind in site.mix:
            yield from _unknown((name, "mix", kind), kind)
        total = math.fsum(share.value for share in site.mix.values())
        if site.mix and abs(total - 1) > 1e-6:
            what = f"must add up to 1, not {total:g}"
            yield Violation((name, "mix"), what, "give each type's share of all GPUs")
        if site.gpu is not None and site.mix:
            yield Violation((name, "mix"), "conflicts with gpu", "state one of them")
        if site.usd_per_month is not None and site.usd_per_gpu_h is not None:
            path = (name, "usd_per_gpu_h")
            yield Violation(path, "conflicts with usd_per_month", "state one of them")
        if site.available and site.until and site.until < site.available[: len(site.until)]:
            what = f"is {site.until}, before the site is available ({site.available})"
            yield Violation((name, "until"), what, "give the last month of the term")


_LEAST: Final = 1e-6  # what multiplies tokens or prices is above 0
_SHARE: Final = (_LEAST, 1.0)
_BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "reserved_spares": (0.0, 1 - _LEAST),
    "host_power_share": (0.0, 1.0),
    "host_beside_module": (0.0, 1.0),
    "idle_power_share": (0.0, 1.0),
    "network_storage": (0.0, math.inf),
    "pue": (1.0, math.inf),
    "board_sensor": (0.0, 1.0),
    "node_meter": (0.0, 1.0),
    "price_spread": (_LEAST, math.inf),
    "co2_kg_per_kwh": (0.0, math.inf),
    "modelled_spread": (_LEAST, math.inf),
}
"""Range of stated assumptions; all others are shares above 0. A facility draws at least the power
of its IT, so a PUE is at least 1.
"""

_ASSUMED: Final = re.compile(r"([a-z0-9_]+)=([0-9.eE+-]+)(?::([0-9.eE+-]+))?")


def overridden(texts: Sequence[str]) -> dict[str, Prior]:
    """The priors, some replaced by `KEY=VALUE` (no spread) or `KEY=LOW:HIGH` (uniform).

    Raises:
        ProfileError: unknown key, not a number, LOW > HIGH, or a value out of range.
    """
    found = dict(priors())
    for text in texts:
        match = _ASSUMED.fullmatch(text)
        try:
            low, high = (float(match[2]), float(match[3] or match[2])) if match else (0.0, 0.0)
        except ValueError:
            match, low, high = None, 0.0, 0.0
        if match is None or match[1] not in found:
            raise ProfileError(
                f"{text!r} is not an assumption",
                next_step=f"write KEY=VALUE or KEY=LOW:HIGH with one of: {', '.join(found)}",
            )
        if not low <= high:
            raise ProfileError(f"{text!r}: LOW is above HIGH", next_step="write KEY=LOW:HIGH")
        least, most = _BOUNDS.get(match[1], _SHARE)
        if not least <= low <= high <= most or high == math.inf:
            at_most = f"at most {most:g}" if most < math.inf else "finite"
            raise ProfileError(
                f"{text!r}: {found[match[1]].title} must be at least {least:g} and {at_most}"
            )
        given = {"low": low, "value": (low + high) / 2, "high": high}
        kind = "fixed" if low == high else "uniform"
        stated = {"kind": kind, "source": "given on the command line", "date": "now"}
        found[match[1]] = found[match[1]].model_copy(update={**given, **stated})
    return found


def gpu_type(nvml_name: str | None) -> str | None:
    """Type of a GPU by its NVML name; None if unknown (an H100 PCIe is not an H100 SXM)."""
    matching = (
        name for name, one in gpus().items() if re.fullmatch(one.nvml_name, nvml_name or "")
    )
    return next(matching, None)


@cache
def _shipped_sites() -> Mapping[str, Site]:
    return load_data("sites.yaml", dict[str, Site], _site_rules)
