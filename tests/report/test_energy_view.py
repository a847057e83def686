"""What a report says of joules, from what a summary holds: every cell, with unknown ones as
unknown.
"""

from typing import Any

import pytest

from harness.artifacts.run_summary import RunEnergy
from harness.artifacts.typed_json import from_json
from harness.report.run.energy import EnergyView, energy_view
from harness.report.tables import Table

BOARD = {
    "device_id": "GPU-0123456789abcdef",
    "throttled_share": {"hw_thermal_slowdown": 0.25, "sw_power_cap": 0.0},
    "watched_share": 1.0,
    "sm_clock_mhz": 1830.0,
    "temperature_max_c": 61.0,
    "power_limit_w": 650.0,
    "power_limit_default_w": 700.0,
    "utilization_ratio": 0.97,
    "ecc_uncorrected": 2,
    "xids": [79, 48],
    "foreign_processes": 1,
}
ENERGY: dict[str, Any] = {
    "ladder": [
        {
            "rung": "board",
            "boundary": "board",
            "watts": 3000.0,
            "low_w": None,
            "high_w": None,
            "basis": "measured",
            "factor": None,
            "source": "nvml",
        },
        {
            "rung": "node",
            "boundary": "node",
            "watts": 6000.0,
            "low_w": 5000.0,
            "high_w": 7000.0,
            "basis": "modelled",
            "factor": 402.5,
            "factor_is": "W a GPU",
            "source": "a paper",
            "note": "assumed",
        },
        {
            "rung": "facility",
            "boundary": "facility",
            "watts": None,
            "low_w": 1.0,
            "high_w": 1.0,
            "basis": "absent",
            "note": "no boards",
        },
    ],
    "boundaries": {
        "gpu_board": {
            "boundary": "gpu_board",
            "joules": 60_000.0,
            "watts": 3000.0,
            "error_ratio": 0.00001,
            "systematic_ratio": 0.05,
            "basis": "measured",
            "method": "counter",
        },
        "rack": {
            "boundary": "rack",
            "joules": None,
            "watts": None,
            "error_ratio": None,
            "basis": "absent",
            "reason": "no meter",
        },
        "side_car": {
            "boundary": "side_car",
            "joules": 5.0,
            "watts": 0.25,
            "basis": "measured",
            "method": "integral",
        },
    },
    "idle": {
        "before_server": {
            "start_s": 0.0,
            "end_s": 9.0,
            "boundaries": {"gpu_board": {"watts": 500.0}},
        },
        "ready": {
            "start_s": 9.0,
            "end_s": 19.0,
            "boundaries": {"gpu_board": {"watts": 700.0}},
        },
        "above": {
            "gpu_board": {"total_w": 3000.0, "active_w": 2500.0, "above_ready_w": 2300.0},
            "node": {"total_w": 6000.0},
        },
    },
    "classes": {
        "rule": "service_time",
        "boundary": "gpu_board",
        "rule_text": "an allocation: by requests in flight",
        "classes": [
            {
                "class": "chat",
                "joules": 45_000.0,
                "share": 0.75,
                "output_tok": 1.0,
                "answered": 1,
                "output_tok_per_j": 0.5,
                "j_per_output_tok": 2.0,
                "j_per_request": 100.0,
            },
            {
                "class": "idle",
                "joules": 15_000.0,
                "share": 0.25,
                "output_tok": 0.0,
                "answered": 0,
                "output_tok_per_j": None,
                "j_per_output_tok": None,
                "j_per_request": None,
            },
        ],
    },
    "attribution": {
        "reason": None,
        "slices": 240,
        "stages": ["a", "b"],
        "coefficients": {
            "time": {"value": 500.0, "error": 10.0, "unit": "W"},
            "output": {"value": 0.25, "error": None, "unit": "J/tok"},
        },
        "components_j": {"time": 30_000.0, "output": 10_000.0},
    },
    "boards": {"devices": [BOARD], "stretches": []},
    "carbon": {
        "kgco2": 0.0123,
        "kgco2_per_kwh": 0.4,
        "source": "a grid",
        "rung": "node",
        "rung_basis": "modelled",
    },
}


def shown(energy: dict[str, Any]) -> EnergyView | None:
    return energy_view(from_json(RunEnergy, energy, "energy"))


def tables(**changed: Any) -> dict[str, Table]:
    found = shown({**ENERGY, **changed})
    assert found is not None
    return {
        table.head[0] + ("" if table.head[0] != "Boundary" else f", {table.head[1]}"): table
        for table in found.tables
    }


def test_the_ladder_tells_what_is_modelled_by_which_factor_and_from_where() -> None:
    assert tables()["Boundary, Power in the window"].rows == [
        ("GPU boards", "3,000 W", "—", "measured", "nvml"),
        ("Nodes", "6,000 W", "5,000 – 7,000 W", "modelled", "402.5: W a GPU; a paper; assumed"),
        ("Facility meter", "—", "—", "absent", "no boards"),
    ]


def test_boundaries_have_both_errors_or_the_reason_why_they_are_absent() -> None:
    assert tables()["Boundary, Energy"].rows == [
        ("GPU boards", "60 kJ", "3,000 W", "< 0.1%", "± 5%", "measured", "counter"),
        ("Racks", "—", "—", "—", "—", "absent", "no meter"),
        ("Side car", "5 J", "0.2500 W", "—", "—", "measured", "integral"),
    ]


def test_idle_is_told_where_it_was_measured() -> None:
    assert tables()["Boundary, Idle, server stopped"].rows == [
        ("GPU boards", "500 W", "700 W", "3,000 W", "2,500 W", "2,300 W")
    ]
    assert tables()["Boundary, Power in the window"].text == (3, 4)
    assert tables()["Boundary, Energy"].text == tables()["GPU"].text == (5, 6)
    assert "Boundary, Idle, server stopped" not in tables(
        idle={"above": {"gpu_board": {"total_w": 3000.0}}}
    )


def test_classes_share_the_joules_by_a_named_rule() -> None:
    """Classes share the joules by a rule that is named and one class alone has no table."""
    table = tables()["Class"]
    assert table.caption.endswith("an allocation: by requests in flight")
    assert table.rows == [
        ("chat", "45 kJ", "75%", "0.5000", "2", "100"),
        ("idle", "15 kJ", "25%", "—", "—", "—"),
    ]
    assert "Class" not in tables(
        classes=ENERGY["classes"] | {"classes": ENERGY["classes"]["classes"][:1]}
    )


def test_kinds_of_work_have_coefficients_with_errors_and_shares() -> None:
    """Kinds of work have coefficients with errors and their share of what was attributed."""
    table = tables()["Component"]
    assert "240 slices of the stages a, b" in table.caption
    assert table.rows == [
        ("Static power", "500 ± 10 W", "30 kJ", "75%"),
        ("Decode", "0.2500 J/tok", "10 kJ", "25%"),
    ]


def test_an_attribution_that_was_refused_is_a_sentence_and_no_table() -> None:
    found = shown(
        {**ENERGY, "attribution": {"reason": "the stages are not made for it"}, "carbon": None}
    )
    assert found is not None
    assert len(found.notes) == 1
    assert "the stages are not made for it" in found.notes[0]
    assert "Component" not in [table.head[0] for table in found.tables]


def test_co2_names_its_factor_and_what_it_is_of() -> None:
    found = shown(ENERGY)
    assert found is not None
    (note,) = found.notes
    for part in ("0.0123 kg", "0.400 kg/kWh", "a grid", "Nodes", "modelled"):
        assert part in note


def test_boards_tell_slowdowns_and_faults() -> None:
    assert tables()["GPU"].rows == [
        (
            "GPU-01234567…",
            "1,830",
            "61",
            "650 of 700",
            "97%",
            "hardware thermal slowdown 25%",
            "XID 79, XID 48, 2 uncorrected ECC errors, 1 process not of this run",
        ),
    ]


@pytest.mark.parametrize(
    ("changed", "slowed", "faults"),
    [
        (
            {
                "throttled_share": {"sw_power_cap": 0.0},
                "xids": [],
                "ecc_uncorrected": 0,
                "foreign_processes": 0,
            },
            "none",
            "none",
        ),
        (
            {
                "throttled_share": {},
                "watched_share": 0.0,
                "xids": [],
                "ecc_uncorrected": None,
                "foreign_processes": None,
            },
            "not recorded",
            "not recorded",
        ),
        (
            {"throttled_share": {}, "xids": [], "ecc_uncorrected": 0, "foreign_processes": 3},
            "none",
            "3 processes not of this run",
        ),
        (
            {"throttled_share": {}, "xids": [], "ecc_uncorrected": 0, "foreign_processes": None},
            "none",
            "none",
        ),
        (
            {"throttled_share": {}, "xids": [], "ecc_uncorrected": None, "foreign_processes": 0},
            "none",
            "none",
        ),
    ],
)
def test_a_board_that_nobody_watched_is_not_said_to_be_well(
    changed: dict[str, Any], slowed: str, faults: str
) -> None:
    (row,) = tables(boards={"devices": [BOARD | changed]})["GPU"].rows
    assert row[5:] == (slowed, faults)


def test_without_power_there_is_no_energy_to_tell_unless_it_can_be_modelled() -> None:
    assert shown({}) is None
    assert (
        shown(
            {
                "ladder": [
                    {"rung": "board", "boundary": "gpu_board", "watts": None, "basis": "absent"}
                ]
            }
        )
        is None
    )
    modelled = shown(
        {"ladder": [{"rung": "node", "boundary": "node", "watts": 900.0, "basis": "modelled"}]}
    )
    assert modelled is not None
    assert [table.head[1] for table in modelled.tables] == ["Power in the window"]
