"""Sources as the recorder runs them: side by side, doubles told, failures recorded, the run going
on.
"""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from harness.artifacts import tables
from harness.artifacts.finalize import finalize
from harness.artifacts.journal import read_table
from harness.artifacts.layout import RunDir
from harness.core.errors import TelemetryError
from harness.core.records import Gpu, Severity
from harness.profile.telemetry import Telemetry
from harness.telemetry.driver import TelemetryRecorder
from harness.telemetry.probe import survey
from harness.telemetry.sources.select import SourceContext, make_source, specs_of

UUID = "GPU-d0ub1e00-0000-0000-0000-000000000000"
GPU = Gpu(UUID, 0)
FAST = {"power_interval_s": 0.02, "energy_interval_s": 0.05, "host_interval_s": 0.05}


def telemetry(*power: dict, **settings) -> Telemetry:
    return Telemetry(**{**FAST, **settings}, power=power)


def power_tree(folder: Path) -> Path:
    zone = folder / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "energy_uj").write_text("5000000\n")
    return zone.parent


def rows(run: RunDir) -> list[dict]:
    return (
        read_table([run.power_journal], tables.POWER).to_pylist()
        if run.power_journal.exists()
        else []
    )


@pytest.fixture
def seen(run: RunDir, until) -> Callable[[set[str]], None]:
    """Wait until readings of these sources are in the journal."""
    return lambda sources: until(
        lambda: sources <= {row["source"] for row in rows(run)}, f"readings of {sources}"
    )


def test_sources_of_all_kinds_run_side_by_side_and_every_double_is_told(
    run, nvml_double, tmp_path: Path, seen
) -> None:
    nvml_double(module=1)
    recording = tmp_path / "recorded.parquet"
    recorded = {
        "t_ns": 1,
        "boundary": "rack",
        "device_id": "r",
        "power_w": 9.0,
        "energy_j": None,
        "source": "promql",
    }
    pq.write_table(pa.Table.from_pylist([recorded], schema=tables.POWER), recording)
    program = tmp_path / "ipmitool"
    program.write_text("#!/bin/sh\necho '    Instantaneous power reading:     987 Watts'\n")
    program.chmod(0o755)
    settings = telemetry(
        {"kind": "nvml"},
        {"kind": "rapl", "root": str(power_tree(tmp_path)), "interval_s": 0.05},
        {"kind": "ipmi", "command": str(program), "interval_s": 0.05},
        {"kind": "replay", "path": str(recording)},
        {
            "kind": "modelled",
            "of": "cpu",
            "idle_w": 10,
            "slope_w": 20,
            "boundary": "facility",
            "source": "a guess",
            "interval_s": 0.05,
        },
        {"kind": "csv", "path": str(tmp_path / "none.csv"), "boundary": "rack"},
    )
    with TelemetryRecorder(run, settings, [GPU]) as recorder:
        seen({"nvml-instant", "nvml-counter", "rapl", "ipmi", "replay:promql", "modelled"})
    by_source = {probe["source"]: probe for probe in recorder.power}
    assert {name for name, probe in by_source.items() if probe["double"]} == {
        "nvml",
        "rapl",
        "ipmi",
        "replay",
    }
    assert str(by_source["nvml"]["origin"]).endswith("libnvidia-ml.so.1")
    codes = [concern.code for concern in recorder.concerns]
    assert codes.count("double_hardware") == 4
    assert all(
        concern.severity is Severity.INVALID
        for concern in recorder.concerns
        if concern.code == "double_hardware"
    )
    assert codes.count("power_source_missing") == 1
    assert {(row["source"].split(":")[0], row["boundary"]) for row in rows(run)} == {
        ("nvml-instant", "gpu_board"),
        ("nvml-instant", "module"),
        ("nvml-counter", "gpu_board"),
        ("rapl", "cpu_package"),
        ("ipmi", "node"),
        ("replay", "rack"),
        ("modelled", "facility"),
    }
    assert recorder.sampling["failures"] == {}
    assert recorder.sampling["loops"]["nvml-power"]["calls"] >= 1
    assert finalize(run).boards == len(pq.read_table(run.boards)) >= 1
    assert pq.read_table(run.boards).to_pylist()[0]["device_id"] == UUID


def test_boards_that_are_doubles_are_told_even_when_no_power_is_read(run) -> None:
    board = Gpu(UUID, 0, name="NVML TEST DOUBLE", driver_version="999.00-double")
    with TelemetryRecorder(
        run, Telemetry(power="none"), [board], double_severity=Severity.DEGRADED
    ) as recorder:
        assert recorder.power == ()
    assert [(concern.code, concern.severity) for concern in recorder.concerns] == [
        ("double_hardware", Severity.DEGRADED)
    ]


@pytest.mark.parametrize(
    ("power", "why"),
    [("none", "telemetry.power"), ([{"kind": "rapl", "root": "/nowhere"}], "/nowhere")],
)
def test_power_of_boards_that_is_required_and_not_read_stops_the_start(run, power, why) -> None:
    recorder = TelemetryRecorder(run, Telemetry(power=power, require=("gpu_power",)), [GPU])
    with pytest.raises(TelemetryError, match="gpu_power") as caught:
        recorder.start()
    assert why in str(caught.value)
    recorder.stop()


def test_automatic_sources_are_boards_and_readable_packages_and_none_means_none() -> None:
    assert [spec["kind"] for spec in specs_of("auto", [UUID])] == ["nvml", "rapl"]
    assert [spec["kind"] for spec in specs_of("auto", [])] == ["rapl"]
    assert specs_of("none", [UUID]) == ()
    with pytest.raises(ValidationError, match="boundary"):
        Telemetry(power=[{"kind": "csv", "path": "x"}])
    every = Telemetry(
        power=[
            {"kind": "nvml"},
            {"kind": "dcgm"},
            {"kind": "rapl"},
            {"kind": "ipmi"},
            {"kind": "redfish", "url": "https://bmc"},
            {"kind": "promql", "url": "http://p", "query": "x", "boundary": "rack"},
            {"kind": "csv", "path": "x", "boundary": "rack"},
            {"kind": "replay", "path": "x"},
            {
                "kind": "modelled",
                "of": "gpu",
                "idle_w": 1,
                "slope_w": 1,
                "boundary": "gpu_board",
                "source": "x",
            },
        ]
    ).model_dump(mode="json")["power"]
    for spec in specs_of(every, [UUID]):  # every key of the profile is one that the source takes
        source = make_source(spec, SourceContext())
        assert source.name == spec["kind"]
        source.close()


@pytest.mark.parametrize(
    ("double", "why_not"),
    [(None, "libnvidia-ml.so.1"), (4, "no permission")],
)
def test_nvml_that_cannot_be_used_is_told_and_the_run_goes_on(
    run, nvml_double, monkeypatch, double, why_not, until
) -> None:
    if double is None:
        monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    else:
        nvml_double(init_error=double)
    with TelemetryRecorder(run, telemetry({"kind": "nvml"}), [GPU]) as recorder:
        until(recorder.latest, "the recorder is alive")
        assert recorder.latest().power_w is None
    (concern,) = recorder.concerns
    assert concern.code == "power_source_missing"
    assert why_not in concern.message
    assert rows(run) == []


def test_a_driver_that_is_reloaded_in_mid_run_is_told_and_readings_come_back(
    run, nvml_double, tmp_path: Path, until
) -> None:
    failing = tmp_path / "error"
    nvml_double(error_file=failing)
    with TelemetryRecorder(run, telemetry({"kind": "nvml"}), [GPU]) as recorder:
        until(lambda: len(rows(run)) > 2, "readings")
        failing.write_text("1")
        until(
            lambda: "power_reading_failed" in {concern.code for concern in recorder.concerns},
            "the failure is told",
        )
        before = len(rows(run))
        failing.unlink()
        until(lambda: len(rows(run)) > before + 2, "readings come back")
    assert any("Uninitialized" in message for message in recorder.sampling["failures"])
    assert recorder.failed is None


def test_the_survey_measures_resolution_renewal_and_cost(nvml_double, in_child) -> None:
    nvml_double(
        gpus=2,
        saw_mw=100_000,
        saw_us=1_000_000,
        sensor_us=20_000,
        counter_us=100_000,
        counter_latency_us=2400,
    )
    code = f"""
import json
from harness.telemetry.probe import survey
from harness.telemetry.sources.select import SourceContext
found = survey([{{"kind": "nvml"}}], SourceContext(({UUID!r},)), observe_s=0.6)
print(json.dumps(found[0].to_dict()))
"""
    told = in_child(code)
    assert "test double" in told["double"]
    power, energy = told["channels"]
    assert (power["what"], power["reading"], power["device_name"]) == (
        "power",
        "nvml-instant",
        "NVML TEST DOUBLE",
    )
    assert power["resolution"] == pytest.approx(2.0, rel=0.2)  # 100 W in a second's 50 renewals
    assert power["renewed_s"] >= 0.018  # every 20 ms; longer on a busy machine
    assert power["call_s"] < energy["call_s"]
    assert energy["call_s"] >= 0.0024
    assert energy["renewed_s"] >= 0.09


def test_the_survey_says_why_not(tmp_path: Path) -> None:
    (found,) = survey([{"kind": "rapl", "root": str(tmp_path)}], SourceContext(), observe_s=0.01)
    assert found.channels == ()
    assert str(tmp_path) in found.why_not[0]
    assert survey([], SourceContext()) == ()
