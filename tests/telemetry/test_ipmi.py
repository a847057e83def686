"""IPMI: the real ipmitool against OpenIPMI's simulated controller, and what it says when there is
no power to read.
"""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.core.records import Boundary
from harness.telemetry.sources.ipmi import IpmiPowerSource

MODULE = Path(__file__).parent / "ipmi_double" / "dcmi.c"
PASSWORD = "not-a-real-secret"

LAN = """\
name "double"
set_working_mc 0x20
  loadlib "{module}" "{watts}"
  startlan 1
    addr 127.0.0.1 {port}
    priv_limit admin
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa123456789abcdef
  endlan
  user 2 true "reader" "{password}" admin 10 none md2 md5 straight
"""
CONTROLLER = (
    "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\nmc_enable 0x20\n"
)


class Controller:
    def __init__(self, port: int, watts: Path) -> None:
        self.port = port
        self.watts = watts

    def source(self, **settings) -> IpmiPowerSource:
        return IpmiPowerSource(
            **{
                "host": "127.0.0.1",
                "port": self.port,
                "user": "reader",
                "password_env": "BMC_PASSWORD",
                "cipher_suite": 3,
                **settings,
            }
        )


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None]) -> Path:
    require("cc", "ipmi_sim", "ipmitool")
    if not Path("/usr/include/OpenIPMI/mcserv.h").exists() and os.environ.get("CI") != "true":
        pytest.skip("needs libopenipmi-dev (`make system` installs it)")
    built = tmp_path_factory.mktemp("ipmi") / "dcmi.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o", built, MODULE],
        check=True,
    )
    return built


@pytest.fixture
def controller(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until
) -> Iterator[Controller]:
    monkeypatch.setenv("BMC_PASSWORD", PASSWORD)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    watts = tmp_path / "watts"
    (tmp_path / "state").mkdir()
    (tmp_path / "lan.conf").write_text(
        LAN.format(module=module, watts=watts, port=port, password=PASSWORD)
    )
    (tmp_path / "commands").write_text(CONTROLLER)
    argv = [
        "ipmi_sim",
        "-c",
        tmp_path / "lan.conf",
        "-f",
        tmp_path / "commands",
        "-s",
        tmp_path / "state",
        "-n",
    ]
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        here = f"0100007F:{port:04X}"
        until(lambda: here in Path("/proc/net/udp").read_text(), "the controller listens")
        yield Controller(port, watts)
    finally:
        process.kill()
        process.wait()


def test_the_node_s_power_is_read_and_a_loopback_controller_is_marked(
    controller: Controller,
) -> None:
    """The node's power is read and the controller on loopback is told to be no hardware."""
    controller.watts.write_text("1234")
    source = controller.source()
    probe = source.probe()
    (device,) = probe.devices
    assert (device.boundary, device.power, device.energy) == (Boundary.NODE, "ipmi", None)
    assert "127.0.0.1" in str(probe.double)
    assert source.intervals_s == {"power": 2.0}
    controller.watts.write_text("4321")
    (reading,) = source.sample("power")
    assert (reading.power_w, reading.energy_j, reading.source, reading.boundary) == (
        4321.0,
        None,
        "ipmi",
        Boundary.NODE,
    )
    controller.watts.unlink()
    assert source.sample("power") == ()
    assert len(source.trouble.seen) == 1
    controller.watts.write_text("77")
    assert source.sample("power")[0].power_w == 77.0
    source.close()
    assert source.sample("power") == ()


def test_a_controller_that_does_not_measure_and_a_wrong_password_say_so(
    controller: Controller, monkeypatch
) -> None:
    probe = controller.source().probe()
    assert not probe.devices
    assert "does not measure" in probe.why_not
    controller.watts.write_text("100")
    monkeypatch.setenv("BMC_PASSWORD", "wrong")
    refused = controller.source().probe()
    assert not refused.devices
    assert "session" in refused.why_not
    monkeypatch.delenv("BMC_PASSWORD")
    assert "BMC_PASSWORD" in controller.source().probe().why_not


def script(folder: Path, text: str) -> str:
    path = folder / "ipmitool"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_controller_that_hangs_is_given_up_and_told(tmp_path: Path) -> None:
    source = IpmiPowerSource(command=script(tmp_path, "exec sleep 60"), timeout_s=0.1)
    probe = source.probe()
    assert not probe.devices
    assert "0.1 s" in probe.why_not
    assert str(tmp_path / "ipmitool") in str(probe.double)


def test_closing_ends_a_reading_that_is_under_way(tmp_path: Path, until) -> None:
    began = tmp_path / "began"
    source = IpmiPowerSource(
        command=script(tmp_path, f"touch {began}; exec sleep 60"), timeout_s=60.0
    )
    thread = threading.Thread(target=source.sample, args=("power",))
    thread.start()
    until(began.exists, "the program runs")
    source.close()
    thread.join(20)
    assert not thread.is_alive()
    assert not source.trouble.seen


def test_a_machine_without_a_controller_or_the_program_says_so(tmp_path: Path) -> None:
    assert "no-such-ipmitool" in IpmiPowerSource(command="no-such-ipmitool").probe().why_not
    if shutil.which("ipmitool") is not None:
        assert "/dev/ipmi0" in IpmiPowerSource(root=tmp_path).probe().why_not
