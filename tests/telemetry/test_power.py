"""Power sources: what answers is read, what does not is absent with its reason. NVML runs against
its double, in child processes.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pynvml
import pytest

from harness.artifacts import tables
from harness.artifacts.journal import JournalWriter
from harness.hardware.nvml import _REASONS
from harness.telemetry.sources.base import PowerSource
from harness.telemetry.sources.replay import ReplayPowerSource

UUID = "GPU-d0ub1e00-0000-0000-0000-00000000000"

PROBE_AND_SAMPLE = """
import dataclasses, json, sys, time
from pathlib import Path
from harness.telemetry.sources.nvml import NvmlPowerSource
source = NvmlPowerSource({uuids!r})
probe = source.probe()
power = source.sample("power")
first = source.sample("energy")
time.sleep({wait_s})
second = source.sample("energy")
{then}
print(json.dumps({{"probe": dataclasses.asdict(probe), "trouble": dict(source.trouble.seen),
    "power": [dataclasses.asdict(r) for r in power], "first": [dataclasses.asdict(r) for r in first],
    "second": [dataclasses.asdict(r) for r in second]}}))
source.close()
"""


@pytest.fixture
def read(in_child: Callable[[str], Any]) -> Callable[..., dict]:
    def run(uuids: list[str], wait_s: float = 0.0, then: str = "") -> dict:
        return in_child(PROBE_AND_SAMPLE.format(uuids=uuids, wait_s=wait_s, then=then))

    return run


def test_instant_power_and_the_counter_of_the_chosen_boards(nvml_double, read) -> None:
    nvml_double(gpus=3, power_mw=250_000)
    told = read([f"{UUID}2", f"{UUID}0"], wait_s=0.3)
    assert [(r["device_id"], r["power_w"], r["energy_j"], r["source"]) for r in told["power"]] == [
        (f"{UUID}2", 252.0, None, "nvml-instant"),
        (f"{UUID}0", 250.0, None, "nvml-instant"),
    ]
    for first, second, watts in zip(told["first"], told["second"], (252.0, 250.0), strict=True):
        assert first["source"] == "nvml-counter"
        assert first["power_w"] is None
        took_s = (second["t_ns"] - first["t_ns"]) / 1e9
        assert (second["energy_j"] - first["energy_j"]) / took_s == pytest.approx(watts, rel=0.02)


@pytest.mark.parametrize(
    ("missing", "power", "energy"),
    [
        ({}, "nvml-instant", "nvml-counter"),
        ({"no_instant": 1}, "nvml-average", "nvml-counter"),
        ({"no_instant": 1, "no_average": 1}, "nvml-usage", "nvml-counter"),
        ({"no_counter": 1}, "nvml-instant", None),
        ({"zero_counter": 1}, "nvml-instant", None),
        ({"power_mw": 0}, None, "nvml-counter"),
        ({"no_instant": 1, "no_average": 1, "no_usage": 1}, None, "nvml-counter"),
    ],
)
def test_the_first_call_that_answers_is_used_and_zero_is_no_answer(
    nvml_double, read, missing, power, energy
) -> None:
    nvml_double(**missing)
    told = read([f"{UUID}0"])
    (device,) = told["probe"]["devices"]
    assert (device["power"], device["energy"]) == (power, energy)
    assert bool(device["why_not"]) == bool(missing)
    assert [r["source"] for r in told["power"]] == ([] if power is None else [power])
    assert [r["source"] for r in told["first"]] == ([] if energy is None else [energy])


def test_a_board_without_any_reading_and_one_that_is_not_there(nvml_double, read) -> None:
    nvml_double(no_instant=1, no_average=1, no_usage=1, no_counter=1)
    told = read([f"{UUID}0", "GPU-unknown"])
    assert "Not Supported" in told["probe"]["devices"][0]["why_not"]
    assert "Not Found" in told["probe"]["devices"][1]["why_not"]
    assert told["power"] == told["first"] == []


def test_a_divided_board_is_read_once_and_told_to_hold_all_instances(nvml_double, read) -> None:
    nvml_double(mig=1)
    told = read(["MIG-" + UUID[4:] + "0", f"{UUID}0"])
    (device,) = told["probe"]["devices"]
    assert device["device_id"] == f"{UUID}0"
    assert "MIG" in device["why_not"]
    assert [r["power_w"] for r in told["power"]] == [300.0]


def test_nvml_that_does_not_start_says_why(nvml_double, read) -> None:
    nvml_double(init_error=18)
    told = read([f"{UUID}0"])
    assert told["probe"]["devices"] == []
    assert told["probe"]["why_not"] == _REASONS[pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH]


def test_a_board_lost_in_mid_run_is_absent_and_told(nvml_double, read, tmp_path: Path) -> None:
    lost = tmp_path / "lost"
    nvml_double(lost_file=lost)
    told = read([f"{UUID}0"], then=f"Path({str(lost)!r}).touch(); power = source.sample('power')")
    assert told["power"] == []
    assert told["first"]
    assert any("lost" in message.lower() for message in told["trouble"])


RECORDED = [
    {
        "t_ns": 10,
        "boundary": "gpu_board",
        "device_id": "GPU-a",
        "power_w": 100.0,
        "energy_j": None,
        "source": "nvml-instant",
    },
    {
        "t_ns": 10,
        "boundary": "gpu_board",
        "device_id": "GPU-a",
        "power_w": None,
        "energy_j": 7.0,
        "source": "nvml-counter",
    },
    {
        "t_ns": 20_000_010,
        "boundary": "gpu_board",
        "device_id": "GPU-a",
        "power_w": 200.0,
        "energy_j": None,
        "source": "nvml-instant",
    },
    {
        "t_ns": 3_600_000_000_010,
        "boundary": "gpu_board",
        "device_id": "GPU-a",
        "power_w": 300.0,
        "energy_j": None,
        "source": "nvml-instant",
    },
]


@pytest.mark.parametrize("kind", ["power.parquet", "power.arrows"])
def test_a_recording_is_played_back_in_its_own_time_and_marked(
    tmp_path: Path, until, kind: str
) -> None:
    path = tmp_path / kind
    if kind.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(RECORDED, schema=tables.POWER), path)
    else:
        with JournalWriter(path, tables.POWER) as journal:
            journal.append(RECORDED)
    source: PowerSource = ReplayPowerSource(path)
    probe = source.probe()
    assert [(d.device_id, d.power, d.energy) for d in probe.devices] == [
        ("GPU-a", "replay:nvml-instant", "replay:nvml-counter")
    ]
    readings = list(source.sample("energy"))
    until(
        lambda: readings.extend(source.sample("power")) or len(readings) == 3,
        "both readings that are due",
    )
    assert [(r.power_w, r.energy_j) for r in readings] == [
        (None, 7.0),
        (100.0, None),
        (200.0, None),
    ]
    assert readings[2].t_ns - readings[1].t_ns == 20_000_000
    assert {r.source.split(":")[0] for r in readings} == {"replay"}
    assert source.sample("power") == ()  # the last one is an hour away


def test_a_recording_that_is_not_there_says_so(tmp_path: Path) -> None:
    probe = ReplayPowerSource(tmp_path / "none.parquet").probe()
    assert probe.devices == ()
    assert "none.parquet" in probe.why_not
    assert json.dumps(probe.why_not)
