"""What holds for every source, whatever it reads: nothing there is a reason and no error, and
closing is final.
"""

from pathlib import Path

import pytest

from harness.core.clock import wall_now
from harness.telemetry.sources.select import SourceContext, make_source

NOTHING = {
    "nvml": {},
    "dcgm": {"url": "http://127.0.0.1:1/metrics", "timeout_s": 1.0},
    "rapl": {"root": "{folder}"},
    "ipmi": {"command": "{folder}/ipmitool"},
    "redfish": {"url": "http://127.0.0.1:1", "timeout_s": 1.0},
    "promql": {"url": "http://127.0.0.1:1", "query": "up", "boundary": "rack", "timeout_s": 1.0},
    "csv": {"path": "{folder}/none.csv", "boundary": "rack"},
    "replay": {"path": "{folder}/none.parquet"},
    "modelled": {
        "of": "gpu",
        "idle_w": 1.0,
        "slope_w": 1.0,
        "boundary": "gpu_board",
        "source": "x",
    },
}


@pytest.mark.parametrize("kind", NOTHING)
def test_nothing_there_is_a_reason_and_no_error(kind: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(
        "sushy.connector.time.sleep", lambda _s: None
    )  # it tries again after some seconds
    options = {
        key: value.format(folder=tmp_path) if isinstance(value, str) else value
        for key, value in NOTHING[kind].items()
    }
    source = make_source({"kind": kind, **options}, SourceContext(("GPU-none",)))
    assert source.name == kind
    probe = source.probe()
    assert probe.source == kind
    assert probe.why_not
    assert all(device.power is None and device.energy is None for device in probe.devices)
    for what in source.intervals_s:
        assert source.sample(what) == ()
    source.close()
    source.close()


SOMETHING = {
    "modelled": {"of": "cpu", "idle_w": 1.0, "slope_w": 1.0, "boundary": "node", "source": "x"},
    "csv": {"path": "{folder}/log.csv", "boundary": "rack"},
    "rapl": {"root": "{folder}"},
}


@pytest.mark.parametrize("kind", SOMETHING)
def test_readings_have_one_value_and_belong_to_what_the_probe_named(
    kind: str, tmp_path: Path
) -> None:
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "name").write_text("package-0")
    (zone / "energy_uj").write_text("9")
    (tmp_path / "log.csv").write_text("time,watts\n")
    options = {
        key: value.format(folder=tmp_path) if isinstance(value, str) else value
        for key, value in SOMETHING[kind].items()
    }
    source = make_source({"kind": kind, **options}, SourceContext())
    probe = source.probe()
    assert probe.devices
    assert all(device.power or device.energy for device in probe.devices)
    assert probe.why_not == ""
    known = {(device.device_id, device.boundary) for device in probe.devices}
    (what,) = source.intervals_s
    if kind == "csv":
        with (tmp_path / "log.csv").open("a") as file:
            file.write(f"{wall_now().timestamp() + 5:.0f},5\n")
    readings = [reading for _ in range(50) for reading in source.sample(what)]
    assert readings or kind == "modelled"  # processor time moves on in steps
    for reading in readings:
        assert (reading.power_w is None) != (reading.energy_j is None)
        assert (reading.device_id, reading.boundary) in known
        assert reading.source == kind
    source.close()
