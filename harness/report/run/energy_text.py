"""The joules of a run as tables of text, for the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from harness.core.units import human_number
from harness.reduce.read.run import mapping, number, sequence


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table: its title, headings and rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


_NONE: Final = "—"


def _share(value: object) -> str:
    found = number(value)
    return _NONE if found is None else f"±{found:.1%}"


def _number(value: object) -> str:
    return human_number(number(value))


def energy_tables(energy: Mapping[str, Any]) -> tuple[TextTable, ...]:
    """Tables of a summary's `energy`: boundaries, ladder, idle, attribution, classes, boards; those
    with rows.
    """
    tables = (
        TextTable(
            "Energy of the window",
            ("boundary", "J", "W", "statistical", "systematic", "basis", "by", "reason"),
            tuple(
                (
                    str(name),
                    _number(one.get("joules")),
                    _number(one.get("watts")),
                    _share(one.get("error_ratio")),
                    _share(one.get("systematic_ratio")),
                    str(one.get("basis")),
                    str(one.get("method") or _NONE),
                    str(one.get("reason") or ""),
                )
                for name, one in mapping(energy.get("boundaries")).items()
            ),
        ),
        TextTable(
            "From board to facility",
            ("rung", "W", "range", "basis", "factor", "source or reason"),
            tuple(_rung(mapping(rung)) for rung in sequence(energy.get("ladder"))),
        ),
        TextTable(
            "Without load",
            ("boundary", "total W", "above idle W", "above loaded idle W"),
            tuple(
                (
                    str(name),
                    _number(one.get("total_w")),
                    _number(one.get("active_w")),
                    _number(one.get("above_ready_w")),
                )
                for name, one in mapping(mapping(energy.get("idle")).get("above")).items()
            ),
        ),
        _attribution(mapping(energy.get("attribution"))),
        TextTable(
            f"By class: {mapping(energy.get('classes')).get('rule_text') or ''}",
            ("class", "J", "share", "output tok/J", "J/answer"),
            tuple(
                (
                    str(one["class"]),
                    _number(one.get("joules")),
                    f"{one['share']:.1%}",
                    _number(one.get("output_tok_per_j")),
                    _number(one.get("j_per_request")),
                )
                for one in map(mapping, sequence(mapping(energy.get("classes")).get("classes")))
            ),
        ),
        TextTable(
            "Boards",
            (
                "board",
                "SM MHz",
                "max °C",
                "limit W",
                "slowed",
                "at its power cap",
                "others' processes",
            ),
            tuple(
                _board(mapping(one))
                for one in sequence(mapping(energy.get("boards")).get("devices"))
            ),
        ),
    )
    return tuple(table for table in tables if table.rows)


def _rung(rung: Mapping[str, Any]) -> tuple[str, ...]:
    span = (
        _NONE
        if rung.get("low_w") is None
        else f"{_number(rung.get('low_w'))} to {_number(rung.get('high_w'))}"
    )
    factor = (
        _NONE
        if rung.get("factor") is None
        else f"{_number(rung.get('factor'))} {rung.get('factor_is')}"
    )
    why = rung.get("source") or rung.get("note") or ""
    return (
        str(rung.get("rung")),
        _number(rung.get("watts")),
        span,
        str(rung.get("basis")),
        factor,
        str(why),
    )


def _attribution(found: Mapping[str, Any]) -> TextTable:
    rows: list[tuple[str, ...]] = []
    parts = mapping(found.get("components_j"))
    for term, one in mapping(found.get("coefficients")).items():
        value = mapping(one)
        rows.append(
            (
                str(term),
                _number(value.get("value")),
                _number(value.get("error")),
                str(value.get("unit")),
                _number(parts.get(term)),
            )
        )
    if found.get("reason") is not None and rows:
        rows.append((f"refused: {found['reason']}", "", "", "", ""))
    title = "Attribution"
    if found.get("condition_number") is not None:
        title += (
            f" (condition number {_number(found['condition_number'])}, {found.get('slices')}"
            " slices)"
        )
    return TextTable(title, ("term", "coefficient", "±", "unit", "J of the window"), tuple(rows))


def _board(board: Mapping[str, Any]) -> tuple[str, ...]:
    shares = mapping(board.get("throttled_share"))
    slowed: Sequence[float] = [
        float(shares.get(reason, 0.0))
        for reason in (
            "hw_slowdown",
            "sw_thermal_slowdown",
            "hw_thermal_slowdown",
            "hw_power_brake",
        )
    ]
    capped = number(shares.get("sw_power_cap"))
    return (
        str(board.get("device_id")),
        _number(board.get("sm_clock_mhz")),
        _number(board.get("temperature_max_c")),
        _number(board.get("power_limit_w")),
        f"{max(slowed):.1%}" if shares else _NONE,
        _NONE if capped is None else f"{capped:.1%}",
        _number(board.get("foreign_processes")),
    )
