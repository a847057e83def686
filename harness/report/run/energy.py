"""Joules of a report: the ladder from board to facility, what the window's energy rests on, idle,
attribution, classes and boards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from harness.reduce.energy.gpu_state import REASON_WORDS
from harness.reduce.read.run import mapping, number, sequence
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


def energy_view(energy: Mapping[str, Any]) -> EnergyView | None:
    """Of a summary's `energy`; None where no power was read, nor any can be modelled."""
    boundaries = {
        str(name): mapping(one) for name, one in mapping(energy.get("boundaries")).items()
    }
    rungs = [mapping(rung) for rung in sequence(energy.get("ladder"))]
    if not boundaries and all(number(rung.get("watts")) is None for rung in rungs):
        return None
    tables = [
        _ladder(rungs),
        _boundaries(boundaries),
        _idle(mapping(energy.get("idle"))),
        _classes(mapping(energy.get("classes"))),
    ]
    attribution, refused = _attribution(mapping(energy.get("attribution")))
    tables += [attribution, _boards(mapping(energy.get("boards")))]
    notes = [refused] if refused else []
    carbon = mapping(energy.get("carbon"))
    if number(carbon.get("kgco2")) is not None:
        notes.append(_carbon(carbon))
    return EnergyView([table for table in tables if table is not None], notes)


def _title(boundary: str) -> str:
    return _BOUNDARY_TITLES.get(boundary, boundary.replace("_", " "))


def _share(value: object) -> str:
    found = number(value)
    text = numbers.share(found)
    return text if found is None or text.startswith("<") else f"± {text}"


def _watts(value: object) -> str:
    found = number(value)
    return numbers.DASH if found is None else f"{numbers.plain(found, 4)} W"


def _joules(value: object) -> str:
    found = number(value)
    return numbers.DASH if found is None else " ".join(numbers.figure(found, "J"))


def _ladder(rungs: Sequence[Mapping[str, Any]]) -> Table | None:
    rows = []
    for rung in rungs:
        low, high = number(rung.get("low_w")), number(rung.get("high_w"))
        spread = (
            f"{numbers.plain(low, 4)} – {numbers.plain(high, 4)} W"
            if low is not None and high is not None and low != high
            else numbers.DASH
        )
        factor = (
            f"{numbers.plain(number(rung['factor']), 4)}: {rung.get('factor_is')}"
            if rung.get("factor") is not None
            else ""
        )
        told = [part for part in (factor, rung.get("source"), rung.get("note")) if part]
        rows.append(
            (
                RUNG_TITLES.get(str(rung.get("rung")), str(rung.get("rung"))),
                _watts(rung.get("watts")),
                spread,
                str(rung.get("basis")),
                "; ".join(map(str, told)) or numbers.DASH,
            )
        )
    head = ("Rung", "Power in the window", "Range of the assumptions", "Basis", "From")
    return (
        Table("From the boards to the utility's meter", head, rows, text=(3, 4)) if rows else None
    )


def _boundaries(boundaries: Mapping[str, Mapping[str, Any]]) -> Table | None:
    rows = [
        (
            _title(name),
            _joules(one.get("joules")),
            _watts(one.get("watts")),
            _share(one.get("error_ratio")),
            _share(one.get("systematic_ratio")),
            str(one.get("basis") or numbers.DASH),
            str(one.get("method") or one.get("reason") or numbers.DASH),
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
    return (
        Table("Energy of the window, by what was read", head, rows, text=(5, 6)) if rows else None
    )


def _idle(idle: Mapping[str, Any]) -> Table | None:
    def watts(when: str, boundary: str) -> object:
        return mapping(mapping(mapping(idle.get(when)).get("boundaries")).get(boundary)).get(
            "watts"
        )

    rows = []
    for name, one in mapping(idle.get("above")).items():
        fields = mapping(one)
        before, ready = watts("before_server", str(name)), watts("ready", str(name))
        if before is None and ready is None:
            continue
        rows.append(
            (
                _title(str(name)),
                _watts(before),
                _watts(ready),
                _watts(fields.get("total_w")),
                _watts(fields.get("active_w")),
                _watts(fields.get("above_ready_w")),
            )
        )
    head = (
        "Boundary",
        "Idle, no server",
        "Model loaded, no load",
        "Window",
        "Window above idle",
        "Window above loaded",
    )
    return Table("Power without load and with it", head, rows) if rows else None


def _classes(found: Mapping[str, Any]) -> Table | None:
    rows = [
        (
            str(one.get("class")),
            _joules(one.get("joules")),
            numbers.share(number(one.get("share"))),
            numbers.plain(number(one.get("output_tok_per_j")), 4),
            numbers.plain(number(one.get("j_per_output_tok")), 4),
            numbers.plain(number(one.get("j_per_request")), 4),
        )
        for one in map(mapping, sequence(found.get("classes")))
    ]
    if len(rows) < 2:
        return None
    rule = str(found.get("rule_text") or "an allocation").removeprefix("an allocation: ")
    head = ("Class", "Energy", "Share", "Output tok/J", "J per output token", "J per answer")
    return Table(f"Energy by class, an allocation: {rule}", head, rows)


_TERMS: Final = {
    "time": "Time",
    "computed_input": "Computed input",
    "output": "Output",
    "output_x_context": "Output x context",
    "unexplained": "Not explained",
}


def _attribution(found: Mapping[str, Any]) -> tuple[Table | None, str | None]:
    reason = found.get("reason")
    if reason:
        return None, f"Joules are not attributed to kinds of work: {reason}."
    parts = mapping(found.get("components_j"))
    total = sum(value for raw in parts.values() if (value := number(raw)) is not None)
    rows = []
    for term, raw in mapping(found.get("coefficients")).items():
        one = mapping(raw)
        value, error, joules = (
            number(one.get("value")),
            number(one.get("error")),
            number(parts.get(term)),
        )
        spread = f" ± {numbers.plain(error, 2)}" if error is not None else ""
        rows.append(
            (
                _TERMS.get(str(term), str(term).replace("_", " ")),
                f"{numbers.plain(value, 4)}{spread} {one.get('unit')}",
                _joules(joules),
                numbers.share(joules / total) if joules is not None and total else numbers.DASH,
            )
        )
    stages = ", ".join(map(str, sequence(found.get("stages"))))
    caption = (
        f"Joules by kind of work, fitted over {found.get('slices')} slices of the stages {stages}"
    )
    return (
        Table(caption, ("Kind", "Coefficient", "In the window", "Share"), rows) if rows else None
    ), None


def _boards(found: Mapping[str, Any]) -> Table | None:
    rows = []
    for one in map(mapping, sequence(found.get("devices"))):
        limit, default = number(one.get("power_limit_w")), number(one.get("power_limit_default_w"))
        slowed = [
            f"{REASON_WORDS.get(str(reason), str(reason))} {numbers.share(share)}"
            for reason, raw in mapping(one.get("throttled_share")).items()
            if (share := number(raw))
        ]
        watched = number(one.get("watched_share"))
        unread = (
            number(one.get("ecc_uncorrected")) is None
            and number(one.get("foreign_processes")) is None
        )
        faults = [f"XID {xid}" for xid in sequence(one.get("xids"))]
        if number(one.get("ecc_uncorrected")):
            faults.append(f"{numbers.plain(number(one['ecc_uncorrected']))} uncorrected ECC errors")
        if number(one.get("foreign_processes")):
            others = number(one["foreign_processes"])
            faults.append(
                f"{numbers.plain(others)} {'process' if others == 1 else 'processes'} not of"
                " this run"
            )
        rows.append(
            (
                _short(str(one.get("device_id"))),
                numbers.plain(number(one.get("sm_clock_mhz"))),
                numbers.plain(number(one.get("temperature_max_c"))),
                f"{numbers.plain(limit)} of {numbers.plain(default)}",
                numbers.share(number(one.get("utilization_ratio"))),
                ", ".join(slowed) or ("never" if watched else "not watched"),
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
    return (
        Table(
            "The boards during the window; clocks held back as a share of it",
            head,
            rows,
            text=(5, 6),
        )
        if rows
        else None
    )


def _short(device: str) -> str:
    """A board's UUID to its first dozen characters, which tell the boards of a machine apart."""
    return device if len(device) <= 14 else f"{device[:12]}…"


def _carbon(carbon: Mapping[str, Any]) -> str:
    rung = RUNG_TITLES.get(str(carbon.get("rung")), str(carbon.get("rung"))).lower()
    amount, factor = (
        numbers.plain(number(carbon["kgco2"]), 3),
        numbers.plain(number(carbon.get("kgco2_per_kwh")), 3),
    )
    return (
        f"CO2 of the window: {amount} kg, at {factor} kg/kWh ({carbon.get('source')}), of the"
        f" {rung} ({carbon.get('rung_basis')})."
    )
