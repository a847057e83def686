"""How long a run will take: the phases of a profile, their limits, and what is left of them."""

from typing import Any

import pytest

from harness.commands.plan_description import describe_plan
from harness.commands.planned_time import PlannedTime, range_text
from harness.profile.schema import Profile

ATTACH: dict[str, Any] = {
    "kind": "attach",
    "urls": ["http://127.0.0.1:9"],
    "ready_timeout_s": 40,
}
STAGES: list[dict[str, Any]] = [
    {"name": "a", "kind": "concurrency", "concurrency": 2, "warmup_s": 5, "window_s": 20},
    {"name": "b", "kind": "arrival_rate", "rate_per_s": 2, "window_s": 30},
]


def planned(
    load: list[dict[str, Any]] = STAGES,
    *,
    purpose: str = "measure",
    server: dict[str, Any] = ATTACH,
    calibrate: bool = True,
    **more: Any,
) -> PlannedTime:
    workload = {"kind": "chat", "system_tok": 10, "user_tok": 5, "output_tok": 5, "turns": 1}
    document = {
        "name": "timed",
        "purpose": purpose,
        "model": {"id": "builtin:tiny"},
        "server": server,
        "traffic": {"api": "chat", "workload": workload, "load": load, "drain_timeout_s": 7},
        **more,
    }
    return describe_plan(Profile.model_validate(document), calibrate=calibrate).time


def times(time: PlannedTime) -> dict[tuple[str, str | None], tuple[float, float | None]]:
    return {(one.phase, one.stage): (one.min_s, one.max_s) for one in time.phases}


def test_every_phase_of_a_measured_run_in_its_order() -> None:
    found = times(planned())
    assert list(found) == [
        ("calibrate", None),
        ("server_start", None),
        ("idle_ready", None),
        ("quality_before", None),
        ("prime", "a"),
        ("stage", "a"),
        ("drain", "a"),
        ("stage", "b"),
        ("drain", "b"),
        ("drained", None),
        ("quality_after", None),
        ("reducing", None),
    ]
    assert found["server_start", None] == (0, 40)
    assert found["idle_ready", None] == (0, 31)
    assert found["stage", "a"] == (25, 25)
    assert found["stage", "b"] == (30, 30)  # its warm-up is detected within the window
    assert found["drain", "b"] == (0, 7)
    assert found["reducing", None] == (0, None)


def test_a_server_of_ours_is_stopped_and_measured_idle_before_its_start() -> None:
    server = {"kind": "torch", "ready_timeout_s": 90, "stop_timeout_s": 12}
    found = times(planned(purpose="smoke", server=server))
    assert list(found)[:2] == [("idle_before_server", None), ("server_start", None)]
    assert found["server_start", None] == (0, 90)
    assert found["stopping", None] == (0, 12)
    assert not {"calibrate", "quality_before"} & {phase for phase, _ in found}


def test_without_calibration_and_idle_they_are_no_phases() -> None:
    found = {phase for phase, _ in times(planned(calibrate=False, energy={"idle_s": 0}))}
    assert not {"calibrate", "idle_ready"} & found


@pytest.mark.parametrize(
    ("stage", "least_s", "most_s"),
    [
        ({"window_s": 20, "sessions": 5}, 0, 25),
        ({"sessions": 5}, 0, None),
    ],
)
def test_a_stage_that_ends_with_its_sessions_may_be_shorter(
    stage: dict[str, Any], least_s: float, most_s: float | None
) -> None:
    load = [{"name": "a", "kind": "concurrency", "concurrency": 2, "warmup_s": 5, **stage}]
    assert times(planned(load))["stage", "a"] == (least_s, most_s)


def test_the_total_adds_limits_and_names_what_has_none() -> None:
    time = planned()
    assert time.min_s == 55
    assert time.max_s == 40 + 31 + 25 + 7 + 30 + 7 + 5
    assert time.unlimited == (
        "load generator calibration",
        "quality check before the load",
        "priming",
        "quality check after the load",
        "reduction and report",
    )
    assert time.to_dict()["phases"][5]["min_s"] == 25
    assert time.rows()[-1][:2] == ("total", "55 s to 2 min 25 s")


def test_what_is_left_when_a_phase_begins() -> None:
    time = planned()
    assert time.left_s("server_start") == 55
    assert time.left_s("drain") == 30
    assert time.left_s("quality_after") == 0
    assert time.left_s("server_ready") is None


@pytest.mark.parametrize(
    ("least_s", "most_s", "text"),
    [
        (30, 30, "30 s"),
        (0, 900, "up to 15 min 00 s"),
        (30, 120, "30 s to 2 min 00 s"),
        (30, None, "at least 30 s"),
        (0, None, "no limit"),
    ],
)
def test_ranges_as_text(least_s: float, most_s: float | None, text: str) -> None:
    assert range_text(least_s, most_s) == text
