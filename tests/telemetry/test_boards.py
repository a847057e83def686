"""The state of boards: what they tell is a row, what they do not tell is absent, strangers on them
are counted.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

UUID = "GPU-d0ub1e00-0000-0000-0000-000000000000"
RUN = "run-of-the-test"

READ = """
import json
from pathlib import Path
from harness.telemetry.sources.gpu_state import BoardReader
reader = BoardReader({uuids!r}, run_id={run_id!r})
there = reader.open()
first = reader.read()
{then}
second = reader.read()
reader.close()
print(json.dumps({{"there": there, "first": first, "second": second}}))
"""


@pytest.fixture
def read(in_child: Callable[[str], Any]) -> Callable[..., dict]:
    def run(uuids: tuple[str, ...] = (UUID,), run_id: str | None = RUN, then: str = "") -> dict:
        return in_child(READ.format(uuids=uuids, run_id=run_id, then=then))

    return run


def test_what_a_board_tells_is_a_row_and_the_rest_is_absent(nvml_double, read) -> None:
    nvml_double(clocks_event=0x48, ecc=3, utilization=87)
    (row,) = read()["first"]
    assert row.pop("t_ns") > 0
    assert row == {
        "device_id": UUID,
        "sm_clock_mhz": 1755,
        "mem_clock_mhz": 2619,
        "temperature_c": 61.0,
        "memory_temperature_c": 68.0,
        "power_limit_w": 650.0,
        "utilization_ratio": 0.87,
        "memory_used_bytes": 1 << 30,
        "throttle_reasons": 0x48,
        "ecc_uncorrected": 3,
        "foreign_processes": 0,
    }


def test_a_mig_instance_stands_for_its_board_and_tells_no_utilisation(nvml_double, read) -> None:
    nvml_double(mig=1)
    (row,) = read(uuids=("MIG-" + UUID[4:], UUID))["first"]
    assert row["device_id"] == UUID
    assert "utilization_ratio" not in row
    assert "ecc_uncorrected" not in row


def test_a_critical_error_is_told_once(nvml_double, read, tmp_path) -> None:
    file = tmp_path / "xid"
    nvml_double(xid_file=file)
    told = read(then=f"Path({str(file)!r}).write_text('0 79')")
    assert "xid" not in told["first"][0]
    assert told["second"][0]["xid"] == 79


def test_a_lost_board_leaves_a_row_without_values(nvml_double, read, tmp_path) -> None:
    lost = tmp_path / "lost"
    nvml_double(lost_file=lost)
    told = read(then=f"Path({str(lost)!r}).touch()")
    assert set(told["second"][0]) == {"t_ns", "device_id"}


def test_processes_of_the_run_are_its_own_and_others_are_counted(nvml_double, read) -> None:
    def sleeper(**environment: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", "input()"],
            stdin=subprocess.PIPE,
            env={**os.environ, **environment},
        )

    ours, stranger, other_run = (
        sleeper(HARNESS_RUN_ID=RUN),
        sleeper(),
        sleeper(HARNESS_RUN_ID="another"),
    )
    gone = sleeper()
    try:
        gone.communicate(b"\n")

        def foreign(*pids: int, run_id: str | None = RUN) -> int | None:
            nvml_double(pids=",".join(map(str, pids)))
            return read(run_id=run_id)["first"][0].get("foreign_processes")

        assert foreign(ours.pid) == 0
        assert foreign(ours.pid, stranger.pid, other_run.pid) == 2
        assert foreign(stranger.pid) == 1
        # A number that is not here may be a process of another namespace; beside one that is ours
        # it is a stranger.
        assert foreign(gone.pid) is None
        assert foreign(ours.pid, gone.pid) == 1
        assert foreign(stranger.pid, run_id=None) is None
    finally:
        for process in (ours, stranger, other_run):
            process.communicate(b"\n")


def test_without_nvml_there_is_nothing_to_read(nvml_double, read) -> None:
    nvml_double(init_error=9)
    told = read()
    assert not told["there"]
    assert told["first"] == []
