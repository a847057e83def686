"""What a search found: a sentence and a row per tier, and the share of requests over the load."""

from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Final

from harness.artifacts.sweep.capacity import Capacity, CapacityFile, ProbeRecord
from harness.report.charts import HALF, NARROW, draw
from harness.report.numbers import DASH, plain, share
from harness.report.sweep.charts import Axis, LoadPoint, load_chart
from harness.report.tables import DrawnChart, Table
from harness.sweeps.curve import load_title
from harness.sweeps.points import Sweep

_LOADS: Final = {"concurrency": "live sessions", "arrival_rate": "session starts/s"}
_HEAD: Final = (
    "Tier",
    "Capacity",
    "95% CI",
    "Output tok/s",
    "Sessions/GPU",
    "Sessions/MW",
    "Probes",
    "Missed first",
)


def search_lead(found: CapacityFile) -> Iterator[str]:
    """A sentence per tier, and why the search ended."""
    for name, tier in found.tiers.items():
        yield f"{name}: {_capacity(tier, found)}{_beside(tier)}."
    if found.ended:
        yield f"The search ended: {found.ended}."


def _capacity(tier: Capacity, found: CapacityFile) -> str:
    unit = _LOADS[found.load]
    if tier.found == "interval":
        missed = f"; {tier.binding} is missed first" if tier.binding else ""
        return (
            f"{plain(tier.load, 3)} {unit} (95% CI {plain(tier.low, 3)} – {plain(tier.high, 3)},"
            f" {tier.probes} probes{missed})"
        )
    if tier.found == "below":
        return f"the lowest load, {plain(tier.high, 3)} {unit}, misses it"
    if tier.found == "beyond":
        return f"at least {plain(tier.low, 3)} {unit}: every probe met it"
    return "not known yet"


def _beside(tier: Capacity) -> str:
    parts = []
    if tier.sessions_per_gpu is not None:
        parts.append(f"{plain(tier.sessions_per_gpu, 3)} sessions per GPU")
    if tier.sessions_per_mw is not None:
        parts.append(
            f"{plain(tier.sessions_per_mw, 3)} sessions per MW ({tier.boundary}, {tier.basis})"
        )
    if tier.tau is not None and tier.probes > 1:
        parts.append(f"capacity varies by {share(tier.tau)} between probes")
    return "".join(f", {part}" for part in parts)


def tiers_table(found: CapacityFile) -> Table:
    """One row per tier."""
    rows = [
        (
            name,
            _short(tier),
            DASH if tier.found != "interval" else f"{plain(tier.low, 3)} – {plain(tier.high, 3)}",
            plain(tier.tok_s, 3),
            plain(tier.sessions_per_gpu, 3),
            plain(tier.sessions_per_mw, 3),
            str(tier.probes),
            tier.binding or DASH,
        )
        for name, tier in found.tiers.items()
    ]
    return Table(f"Capacity, in {_LOADS[found.load]}", _HEAD, rows, text=(7,))


def _short(tier: Capacity) -> str:
    if tier.found == "beyond":
        return f"≥ {plain(tier.low, 3)}"
    return f"< {plain(tier.high, 3)}" if tier.found == "below" else plain(tier.load, 3)


def share_chart(sweep: Sweep, found: CapacityFile) -> DrawnChart | None:
    """Share of requests that met each condition, by load, with 95% intervals; the capacity of
    every tier is marked.
    """
    used = [one for one in found.probes if one.invalid is None and one.shares and not one.stopped]
    names = list(dict.fromkeys(s.condition for one in used for s in one.shares))
    points = [
        LoadPoint(n, load, *interval)
        for load in sorted({one.load for one in used})
        for n, name in enumerate(names)
        if (interval := _share([one for one in used if one.load == load], name)) is not None
    ]
    if not points:
        return None
    loads = [p.load for p in points]
    marks = [
        (float(tier.load), name)
        for name, tier in found.tiers.items()
        if tier.found == "interval"
        and tier.load is not None
        and min(loads) <= tier.load <= max(loads)
    ]
    title = load_title(sweep.keys[0])
    axes = Axis(title, ""), Axis("Requests within the limits", "1")
    rows = [
        (names[p.series], plain(p.load, 3), share(p.value), f"{share(p.low)} – {share(p.high)}")
        for p in points
    ]
    several = len(names) > 1
    return DrawnChart(
        key="search-share",
        title="Requests within the limits",
        caption=(
            "Share of requests within the limits by load, all probes of a load together, with 95%"
            " intervals. Dashed: capacity of each tier. Probes that were ended early are left out."
        ),
        y_title="Requests within the limits",
        legend=list(enumerate(names, 1)) if several else [],
        wide=draw(load_chart(points, axes, HALF, marks)),
        narrow=draw(load_chart(points, axes, NARROW, marks)),
        table=Table("Probes", ("Condition", "Load", "Share", "95% CI"), rows),
    )


def _share(probes: Sequence[ProbeRecord], name: str) -> tuple[float, float, float] | None:
    """Share of requests that met a condition and Wilson's score interval (1927), from the effective
    number of requests; None without any.
    """
    mine = [one for probe in probes for one in probe.shares if one.condition == name]
    n = sum(float(one.effective) for one in mine)
    if not n or not sum(one.n for one in mine):
        return None
    z, p = NormalDist().inv_cdf(0.975), sum(one.good for one in mine) / sum(one.n for one in mine)
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return p, max(0.0, middle - half), min(1.0, middle + half)
