"""Joules of a report: the ladder from board to facility, what the window's energy rests on, idle,
attribution, classes and boards.
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
from harness.report import numbers
from harness.report.tables import Table

RUNG_TITLES: Final = {
    "board": "Boards",
    "node": "Nodes",
    "critical_it": "Critical IT",
    "facility": "Facility",
}
_BOUNDARY_TITLES: Final = {
    "gpu_board": "GPU boards",
    "module": "GPU modules",
    "cpu_package": "CPU packages",
    "dram": "Memory",
    "node": "Nodes",
    "rack": "Racks",
    "facility": "Facility",
}


@dataclass(frozen=True, slots=True)
class EnergyView:
    """What a report says of energy.

    Attributes:
        tables: in order.
        notes: sentences below them.
    """

    tables: Sequence[Table]
    notes: Sequence[str]


def energy_view(energy: RunEnergy) -> EnergyView | None:
    """Of a summary's `energy`; None where no power was read, nor any can be modelled."""
    if not energy.boundaries and all(rung.watts is None for rung in energy.ladder):
        return None
    tables = (
        _ladder(energy.ladder),
        _boundaries(energy.boundaries),
        _idle(energy.idle),
        _classes(energy.classes),
        _attribution(energy.attribution),
        _boards(energy.boards.devices),
    )
    notes = []
    if energy.attribution.reason:
        notes.append(f"Joules are not attributed to kinds of work: {energy.attribution.reason}.")
    if energy.carbon is not None:
        notes.append(_carbon(energy.carbon))
    return EnergyView([table for table in tables if table is not None and table.rows], notes)


def energy_absent(summary: Summary) -> str:
    """Why there are no joules, as a sentence."""
    figure = summary.metrics.get("energy_j")
    why = (
        figure.note
        if figure is not None and figure.value is None and figure.note
        else "no power was read"
    )
    return f"No energy and no power: {why}."


def _title(boundary: str) -> str:
    return _BOUNDARY_TITLES.get(boundary, boundary.replace("_", " "))


def _share(value: float | None) -> str:
    text = numbers.share(value)
    return text if value is None or text.startswith("<") else f"± {text}"


def _watts(value: float | None) -> str:
    return numbers.DASH if value is None else f"{numbers.plain(value, 4)} W"


def _joules(value: float | None) -> str:
    return numbers.DASH if value is None else " ".join(numbers.figure(value, "J"))


def _ladder(rungs: Sequence[Rung]) -> Table:
    rows = []
    for rung in rungs:
        low, high = rung.low_w, rung.high_w
        spread = (
            f"{numbers.plain(low, 4)} – {numbers.plain(high, 4)} W"
            if low is not None and high is not None and low != high
            else numbers.DASH
        )
        factor = (
            f"{numbers.plain(rung.factor, 4)}: {rung.factor_is}" if rung.factor is not None else ""
        )
        rows.append(
            (
                RUNG_TITLES.get(rung.rung, rung.rung),
                _watts(rung.watts),
                spread,
                str(rung.basis),
                "; ".join(part for part in (factor, rung.source, rung.note) if part)
                or numbers.DASH,
            )
        )
    head = ("Rung", "Power in the window", "Range of the assumptions", "Basis", "From")
    return Table("From the boards to the utility's meter", head, rows, text=(3, 4))


def _boundaries(boundaries: Mapping[str, BoundaryEnergy]) -> Table:
    rows = [
        (
            _title(name),
            _joules(one.joules),
            _watts(one.watts),
            _share(one.error_ratio),
            _share(one.systematic_ratio),
            str(one.basis),
            one.method or one.reason or numbers.DASH,
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
        "By, or why absent",
    )
    return Table("Energy of the window, by what was read", head, rows, text=(5, 6))


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
        "Idle, no server",
        "Model loaded, no load",
        "Window",
        "Window above idle",
        "Window above loaded",
    )
    return Table("Power without load and with it", head, rows)


def _classes(found: Allocation | None) -> Table | None:
    if found is None or len(found.classes) < 2:
        return None
    rows = [
        (
            one.name,
            _joules(one.joules),
            numbers.share(one.share),
            numbers.plain(one.output_tok_per_j, 4),
            numbers.plain(one.j_per_output_tok, 4),
            numbers.plain(one.j_per_request, 4),
        )
        for one in found.classes
    ]
    rule = (found.rule_text or "an allocation").removeprefix("an allocation: ")
    head = ("Class", "Energy", "Share", "Output tok/J", "J per output token", "J per answer")
    return Table(f"Energy by class, an allocation: {rule}", head, rows)


_TERMS: Final = {
    "time": "Time",
    "computed_input": "Computed input",
    "output": "Output",
    "output_x_context": "Output x context",
    "unexplained": "Not explained",
}


def _attribution(found: Attribution) -> Table | None:
    if found.reason:
        return None
    total = sum(found.components_j.values())
    rows = []
    for term, one in found.coefficients.items():
        joules = found.components_j.get(term)
        spread = f" ± {numbers.plain(one.error, 2)}" if one.error is not None else ""
        rows.append(
            (
                _TERMS.get(term, term.replace("_", " ")),
                f"{numbers.plain(one.value, 4)}{spread} {one.unit}",
                _joules(joules),
                numbers.share(joules / total) if joules is not None and total else numbers.DASH,
            )
        )
    caption = (
        f"Joules by kind of work, fitted over {found.slices} slices of the stages"
        f" {', '.join(found.stages)}"
    )
    return Table(caption, ("Kind", "Coefficient", "In the window", "Share"), rows)


def _boards(boards: Sequence[Board]) -> Table:
    rows = []
    for one in boards:
        slowed = [
            f"{REASON_WORDS.get(reason, reason)} {numbers.share(share)}"
            for reason, share in one.throttled_share.items()
            if share
        ]
        unread = one.ecc_uncorrected is None and one.foreign_processes is None
        faults = [f"XID {xid}" for xid in one.xids]
        if one.ecc_uncorrected:
            faults.append(f"{numbers.plain(one.ecc_uncorrected)} uncorrected ECC errors")
        if one.foreign_processes:
            noun = "process" if one.foreign_processes == 1 else "processes"
            faults.append(f"{numbers.plain(one.foreign_processes)} {noun} not of this run")
        rows.append(
            (
                _short(one.device_id),
                numbers.plain(one.sm_clock_mhz),
                numbers.plain(one.temperature_max_c),
                f"{numbers.plain(one.power_limit_w)} of {numbers.plain(one.power_limit_default_w)}",
                numbers.share(one.utilization_ratio),
                ", ".join(slowed) or ("never" if one.watched_share else "not watched"),
                ", ".join(faults) or ("not read" if unread else "none"),
            )
        )
    head = (
        "Board",
        "SM MHz, mean",
        "°C, max",
        "Power limit, W, of default",
        "Busy",
        "Clocks held back",
        "Faults",
    )
    caption = "The boards during the window; clocks held back as a share of it"
    return Table(caption, head, rows, text=(5, 6))


def _short(device: str) -> str:
    """A board's UUID to its first dozen characters, which tell the boards of a machine apart."""
    return device if len(device) <= 14 else f"{device[:12]}…"


def _carbon(carbon: Carbon) -> str:
    rung = RUNG_TITLES.get(carbon.rung, carbon.rung).lower()
    amount, factor = numbers.plain(carbon.kgco2, 3), numbers.plain(carbon.kgco2_per_kwh, 3)
    return (
        f"CO2 of the window: {amount} kg, at {factor} kg/kWh ({carbon.source}), of the"
        f" {rung} ({carbon.rung_basis})."
    )
