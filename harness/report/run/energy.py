"""Energy of a run: power by boundary, energy of the window, idle power, breakdown, request classes
and GPUs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from harness.artifacts.run_summary import (
    Allocation,
    Attribution,
    Board,
    BoundaryEnergy,
    Carbon,
    Idle,
    IdleStretch,
    RunEnergy,
    Rung,
    Summary,
)
from harness.reduce.energy.gpu_state import REASON_WORDS
from harness.report.headline import boundary_words
from harness.report.numbers import DASH, figure, plain, share
from harness.report.tables import Table

_LADDER_TITLES: Final = {
    "board": "GPU boards",
    "node": "Nodes",
    "critical_it": "IT load",
    "facility": "Facility meter",
}


@dataclass(frozen=True, slots=True)
class EnergyView:
    """Tables on energy, and sentences below them."""

    tables: Sequence[Table]
    notes: Sequence[str]


def energy_view(energy: RunEnergy) -> EnergyView | None:
    """Of a summary's `energy`; None if power was neither read nor estimated."""
    if not energy.boundaries and all(rung.watts is None for rung in energy.ladder):
        return None
    tables = (
        _ladder(energy.ladder),
        _boundaries(energy.boundaries),
        _idle(energy.idle),
        _classes(energy.classes),
        _attribution(energy.attribution),
        _gpus(energy.boards.devices),
    )
    notes = []
    if energy.attribution.reason:
        notes.append(f"Energy breakdown not available: {energy.attribution.reason}.")
    if energy.carbon is not None:
        notes.append(_carbon(energy.carbon))
    return EnergyView([table for table in tables if table is not None and table.rows], notes)


def energy_absent(summary: Summary) -> str:
    """Why there is no energy, as a sentence."""
    found = summary.metrics.get("energy_j")
    why = found.note if found is not None and found.value is None else None
    return f"Energy and power not available: {why or 'no power was read'}."


def _title(boundary: str) -> str:
    words = boundary_words(boundary).replace("_", " ")
    return words[0].upper() + words[1:]


def _share(value: float | None) -> str:
    text = share(value)
    return text if value is None or text.startswith("<") else f"± {text}"


def _watts(value: float | None) -> str:
    return DASH if value is None else f"{plain(value, 4)} W"


def _joules(value: float | None) -> str:
    return DASH if value is None else " ".join(figure(value, "J"))


def _ladder(rungs: Sequence[Rung]) -> Table:
    rows = []
    for rung in rungs:
        low, high = rung.low_w, rung.high_w
        spread = (
            f"{plain(low, 4)} – {plain(high, 4)} W"
            if low is not None and high is not None and low != high
            else DASH
        )
        factor = rung.factor and plain(rung.factor, 4) + ": " + str(rung.factor_is)
        source = "; ".join(part for part in (factor, rung.source, rung.note) if part)
        title = _LADDER_TITLES.get(rung.rung, rung.rung)
        basis = str(rung.basis)
        rows.append((title, _watts(rung.watts), spread, basis, source or DASH))
    head = ("Boundary", "Power in the window", "Range of the assumptions", "Basis", "Source")
    return Table("Power by boundary: GPU, node, IT load, facility", head, rows, text=(3, 4))


def _boundaries(boundaries: Mapping[str, BoundaryEnergy]) -> Table:
    rows = [
        (
            _title(name),
            _joules(one.joules),
            _watts(one.watts),
            _share(one.error_ratio),
            _share(one.systematic_ratio),
            str(one.basis),
            one.method or one.reason or DASH,
        )
        for name, one in boundaries.items()
    ]
    head = (
        "Boundary",
        "Energy",
        "Power",
        "Statistical",
        "Systematic",
        "Basis",
        "Method, or why absent",
    )
    return Table("Measured energy of the window", head, rows, text=(5, 6))


def _idle(idle: Idle) -> Table:
    def watts(stretch: IdleStretch | None, boundary: str) -> float | None:
        power = None if stretch is None else stretch.boundaries.get(boundary)
        return None if power is None else power.watts

    rows = []
    for name, one in idle.above.items():
        before, ready = watts(idle.before_server, name), watts(idle.ready, name)
        if before is None and ready is None:
            continue
        shown = (before, ready, one.total_w, one.active_w, one.above_ready_w)
        rows.append((_title(name), *map(_watts, shown)))
    head = (
        "Boundary",
        "Idle, server stopped",
        "Idle, model loaded",
        "Window",
        "Window minus server stopped",
        "Window minus model loaded",
    )
    return Table("Idle power and power under load", head, rows)


def _classes(found: Allocation | None) -> Table | None:
    if found is None or len(found.classes) < 2:
        return None
    rows = [
        (
            one.name,
            _joules(one.joules),
            share(one.share),
            plain(one.output_tok_per_j, 4),
            plain(one.j_per_output_tok, 4),
            plain(one.j_per_request, 4),
        )
        for one in found.classes
    ]
    rule = (found.rule_text or "an allocation").removeprefix("an allocation: ")
    head = ("Class", "Energy", "Share", "Output tok/J", "J per output token", "J per request")
    return Table(f"Energy by request class, an allocation: {rule}", head, rows)


_TERMS: Final = {
    "time": "Static power",
    "computed_input": "Prefill",
    "output": "Decode",
    "output_x_context": "Context-dependent decode",
    "unexplained": "Unexplained",
}


def _attribution(found: Attribution) -> Table | None:
    if found.reason:
        return None
    total = sum(found.components_j.values())
    rows = []
    for term, one in found.coefficients.items():
        joules = found.components_j.get(term)
        spread = f" ± {plain(one.error, 2)}" if one.error is not None else ""
        rows.append(
            (
                _TERMS.get(term, term.replace("_", " ")),
                f"{plain(one.value, 4)}{spread} {one.unit}",
                _joules(joules),
                share(joules / total) if joules is not None and total else DASH,
            )
        )
    caption = (
        f"Energy breakdown, fitted over {found.slices} slices of the stages"
        f" {', '.join(found.stages)}"
    )
    return Table(caption, ("Component", "Coefficient", "In the window", "Share"), rows)


def _gpus(boards: Sequence[Board]) -> Table:
    rows = []
    for one in boards:
        slowed = [
            f"{REASON_WORDS.get(reason, reason)} {share(part)}"
            for reason, part in one.throttled_share.items()
            if part
        ]
        unread = one.ecc_uncorrected is None and one.foreign_processes is None
        faults = [f"XID {xid}" for xid in one.xids]
        if one.ecc_uncorrected:
            faults.append(f"{plain(one.ecc_uncorrected)} uncorrected ECC errors")
        if one.foreign_processes:
            noun = "process" if one.foreign_processes == 1 else "processes"
            faults.append(f"{plain(one.foreign_processes)} {noun} not of this run")
        rows.append(
            (
                _short(one.device_id),
                plain(one.sm_clock_mhz),
                plain(one.temperature_max_c),
                f"{plain(one.power_limit_w)} of {plain(one.power_limit_default_w)}",
                share(one.utilization_ratio),
                ", ".join(slowed) or ("none" if one.watched_share else "not recorded"),
                ", ".join(faults) or ("not recorded" if unread else "none"),
            )
        )
    head = (
        "GPU",
        "SM MHz, mean",
        "°C, max",
        "Power limit, W, of default",
        "Utilization",
        "Throttling",
        "Errors",
    )
    return Table("GPUs in the window; throttling as a share of it", head, rows, text=(5, 6))


def _short(device: str) -> str:
    """The first dozen characters of a GPU's UUID, which are unique within a machine."""
    return device if len(device) <= 14 else f"{device[:12]}…"


def _carbon(carbon: Carbon) -> str:
    boundary = _LADDER_TITLES.get(carbon.rung, carbon.rung)
    amount, factor = plain(carbon.kgco2, 3), plain(carbon.kgco2_per_kwh, 3)
    return (
        f"CO2 of the window: {amount} kg at {factor} kg/kWh ({carbon.source}); boundary:"
        f" {boundary} ({carbon.rung_basis})."
    )
