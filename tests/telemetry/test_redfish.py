"""Redfish: sushy against the mock-up server of sushy-tools."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.core.records import Boundary
from harness.telemetry.sources.redfish import RedfishPowerSource

pytest.importorskip("sushy_tools", reason="needs sushy-tools")


class Service:
    """A service whose resources are files: `put("Chassis/1/Power", {...})`."""

    def __init__(self, root: Path, port: int) -> None:
        self.root = root
        self.url = f"http://127.0.0.1:{port}"
        self.put(
            "",
            {
                "Id": "RootService",
                "Name": "Root",
                "RedfishVersion": "1.15.0",
                "Chassis": {"@odata.id": "/redfish/v1/Chassis"},
            },
        )
        self.chassis()

    def put(self, path: str, body: dict) -> None:
        file = self.root / path / "index.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        odata = f"/redfish/v1/{path}".rstrip("/")
        file.write_text(json.dumps({"@odata.id": odata, "@odata.type": "#Any.v1_0_0.Any", **body}))

    def chassis(self, **resources: tuple[str, ...]) -> None:
        members = [{"@odata.id": f"/redfish/v1/Chassis/{name}"} for name in resources]
        self.put(
            "Chassis", {"Name": "Chassis", "Members": members, "Members@odata.count": len(members)}
        )
        for name, parts in resources.items():
            links = {part: {"@odata.id": f"/redfish/v1/Chassis/{name}/{part}"} for part in parts}
            self.put(
                f"Chassis/{name}", {"Id": name, "Name": name, "ChassisType": "RackMount", **links}
            )

    def power(self, chassis: str, watts: float | None) -> None:
        self.put(
            f"Chassis/{chassis}/Power",
            {"Id": "Power", "Name": "Power", "PowerControl": [{"PowerConsumedWatts": watts}]},
        )


@pytest.fixture
def service(tmp_path: Path, until) -> Iterator[Service]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = (
        "import sys; from sushy_tools.static.main import main; sys.argv[0] = 'sushy-static'; main()"
    )
    argv = [sys.executable, "-c", code, "-i", "127.0.0.1", "-p", str(port), "-m", str(tmp_path)]
    found = Service(tmp_path, port)
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(
            lambda: f"0100007F:{port:04X} 00000000:0000 0A" in Path("/proc/net/tcp").read_text(),
            "the service listens",
        )
        yield found
    finally:
        process.kill()
        process.wait()


def test_power_control_is_read_and_an_emulator_is_told(service: Service) -> None:
    service.chassis(node=("Power",), drawer=())
    service.power("node", 1250)
    source = RedfishPowerSource(service.url, timeout_s=20.0)
    probe = source.probe()
    (device,) = probe.devices
    assert (device.device_id, device.boundary, device.power, device.energy) == (
        "node",
        Boundary.NODE,
        "redfish",
        None,
    )
    assert "127.0.0.1" in str(probe.double)
    service.power("node", 1300.5)
    assert [(r.power_w, r.energy_j, r.source) for r in source.sample("power")] == [
        (1300.5, None, "redfish")
    ]
    service.power("node", None)
    assert source.sample("power") == ()
    (service.root / "Chassis/node/Power/index.json").unlink()
    assert source.sample("power") == ()
    service.power("node", 1100)
    assert [r.power_w for r in source.sample("power")] == [1100.0]
    assert len(source.trouble.seen) == 2
    source.close()


def test_environment_metrics_come_first_and_count_energy(service: Service) -> None:
    service.chassis(node=("Power", "EnvironmentMetrics"))
    service.power("node", 1)
    metrics = {
        "Id": "E",
        "Name": "E",
        "PowerWatts": {"Reading": 812.5},
        "EnergykWh": {"Reading": 2.0},
    }
    service.put("Chassis/node/EnvironmentMetrics", metrics)
    source = RedfishPowerSource(service.url, timeout_s=20.0, boundary=Boundary.RACK)
    (device,) = source.probe().devices
    assert (device.boundary, device.power, device.energy) == (Boundary.RACK, "redfish", "redfish")
    assert [(r.power_w, r.energy_j) for r in source.sample("power")] == [
        (812.5, None),
        (None, 7.2e6),
    ]
    source.close()


def test_a_choice_that_has_to_be_made_is_asked_for(service: Service, monkeypatch) -> None:
    service.chassis(one=("Power",), two=("Power",))
    service.power("one", 100)
    service.power("two", 200)
    assert "one, two" in RedfishPowerSource(service.url, timeout_s=20.0).probe().why_not
    assert (
        RedfishPowerSource(service.url, timeout_s=20.0, chassis="two").probe().devices[0].device_id
        == "two"
    )
    assert (
        "one, two"
        in RedfishPowerSource(service.url, timeout_s=20.0, chassis="three").probe().why_not
    )
    monkeypatch.delenv("BMC_PASSWORD", raising=False)
    assert (
        "BMC_PASSWORD"
        in RedfishPowerSource(service.url, user="u", password_env="BMC_PASSWORD").probe().why_not
    )


def test_a_service_that_is_not_there_says_so(monkeypatch) -> None:
    monkeypatch.setattr(
        "sushy.connector.time.sleep", lambda _s: None
    )  # it tries again after some seconds
    probe = RedfishPowerSource("http://127.0.0.1:1", timeout_s=2.0).probe()
    assert not probe.devices
    assert "127.0.0.1:1" in probe.why_not


class Answering:
    """A connector whose every resource has this body."""

    def __init__(self, body: object) -> None:
        self.body = body

    def get(self, _path: str):
        return self

    def json(self) -> object:
        return self.body


ONE = {"PowerConsumedWatts": 300}


@pytest.mark.parametrize(
    ("body", "watts"),
    [
        ({"PowerControl": ONE}, 300.0),
        ([{"PowerControl": [ONE]}], 300.0),
        ({"PowerControl": [None, ONE]}, 300.0),
        ({"PowerControl": [{"PowerConsumedWatts": "300 W"}]}, 300.0),
        ({"PowerWatts": 300}, 300.0),
        ({"PowerWatts": {"Reading": None}, "PowerControl": [5, ONE]}, 300.0),
        ({"PowerWatts": {"Reading": 10**400}}, None),
        ({"PowerControl": "none"}, None),
        (5, None),
        (None, None),
        ([], None),
    ],
)
def test_odd_forms_of_power(body: object, watts: float | None) -> None:
    source = RedfishPowerSource("http://127.0.0.1:1")
    source._connector = Answering(body)
    assert source._read("/any") == (watts, None)
