"""Which boards belong to a deployment. Run against a double of NVML, in child processes: the
library is loaded once a process.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml
import pytest

from harness.core.errors import PreflightError
from harness.core.records import Gpu
from harness.hardware.gpus import nvidia_device_present, resolve_gpus, simulated_by
from harness.hardware.nvml import _REASONS

UUIDS = [f"GPU-d0ub1e00-0000-0000-0000-{i:012d}" for i in range(4)]

RESOLVE = """
import json
from harness.core.errors import PreflightError
from harness.hardware.gpus import resolve_gpus
results = []
for selection, env in json.loads({cases!r}):
    try:
        results.append([gpu.index for gpu in resolve_gpus(selection, env)])
    except PreflightError as error:
        results.append(str(error))
print(json.dumps(results))
"""


@pytest.fixture
def resolve(in_child: Callable[[str], Any]) -> Callable[..., list[Any]]:
    """Resolve several (selection, environment) pairs in one child: indices of the boards, or the
    error's text.
    """

    def run(*cases: tuple[Any, dict[str, str]]) -> list[Any]:
        return in_child(RESOLVE.format(cases=json.dumps(cases)))

    return run


def test_all_none_indices_and_uuids(nvml_double, resolve) -> None:
    nvml_double(gpus=4)
    assert resolve(
        ("all", {}),
        ("none", {}),
        ([2, 0], {}),
        ([UUIDS[3]], {}),
        ([UUIDS[1].upper()], {}),
        ([1, 1, UUIDS[1]], {}),
    ) == [[0, 1, 2, 3], [], [2, 0], [3], [1], [1]]


def test_cuda_visible_devices_is_honoured(nvml_double, resolve) -> None:
    nvml_double(gpus=4)
    env = "CUDA_VISIBLE_DEVICES"
    assert resolve(
        ("all", {env: "2,1"}),
        ("all", {env: f"{UUIDS[3]}, 0"}),
        ("all", {env: ""}),
        ("all", {env: "1,-1,0"}),
        ("all", {env: "NoDevFiles"}),
        ([1], {env: "2,1"}),
        ("all", {env: "1,1"}),
    ) == [[2, 1], [3, 0], [], [1], [], [1], [1]]


def test_what_is_not_there_hidden_or_ambiguous_is_an_error_with_the_choice(
    nvml_double, resolve
) -> None:
    nvml_double(gpus=2)
    missing, hidden, ambiguous, unknown = resolve(
        ([7], {}),
        ([0], {"CUDA_VISIBLE_DEVICES": "1"}),
        (["GPU-d0ub1e00"], {}),
        ("all", {"CUDA_VISIBLE_DEVICES": "GPU-ffff"}),
    )
    assert "'7'" in missing
    assert UUIDS[1] in missing
    assert "CUDA_VISIBLE_DEVICES=1" in hidden
    assert all(f"{i} = {UUIDS[i]}" in ambiguous for i in range(2))
    assert "server.gpus" in ambiguous
    assert "CUDA_VISIBLE_DEVICES=GPU-ffff" in unknown


def test_mig_instances_stand_for_their_board(nvml_double, resolve) -> None:
    nvml_double(gpus=2, mig=1)
    mig = "MIG-d0ub1e00-0000-0000-0000-000000000001"
    assert resolve(
        ("all", {"CUDA_VISIBLE_DEVICES": mig}),
        ("all", {"CUDA_VISIBLE_DEVICES": f"MIG-{UUIDS[1]}/3/0,MIG-{UUIDS[1]}/4/0"}),
        ([mig], {}),
    ) == [[1], [1], [1]]


def test_indices_of_cuda_are_refused_where_boards_differ_and_their_order_is_unknown(
    nvml_double, resolve
) -> None:
    nvml_double(gpus=2, mixed=1)
    refused, ordered, by_uuid = resolve(
        ("all", {"CUDA_VISIBLE_DEVICES": "1"}),
        ("all", {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}),
        ("all", {"CUDA_VISIBLE_DEVICES": UUIDS[1]}),
    )
    assert "CUDA_DEVICE_ORDER" in refused
    assert ordered == by_uuid == [1]


def test_what_nvml_tells_of_a_board(nvml_double, in_child) -> None:
    nvml_double()
    gpu = in_child(
        "import json, dataclasses; from harness.hardware.gpus import list_gpus;"
        " print(json.dumps(dataclasses.asdict(list_gpus()[0])))"
    )
    assert gpu == {
        "uuid": UUIDS[0],
        "index": 0,
        "name": "NVML TEST DOUBLE",
        "memory_bytes": 80 * 1024**3,
        "power_limit_w": 650.0,
        "power_limit_default_w": 700.0,
        "sm_clock_max_mhz": 1980,
        "driver_version": "999.00-double",
    }


PRESENCE = """
import dataclasses, json
from pathlib import Path
from harness.hardware.gpus import nvidia_device_present
print(json.dumps(dataclasses.asdict(nvidia_device_present(Path({root!r})))))
"""


def test_a_device_that_works_one_that_does_not_and_none_are_told_apart(
    nvml_double, in_child, tmp_path: Path
) -> None:
    nvml_double(gpus=3)
    usable = in_child(PRESENCE.format(root=str(tmp_path)))
    assert (usable["present"], usable["usable"], usable["count"], usable["why"]) == (
        True,
        True,
        3,
        None,
    )

    nvml_double(init_error=9)  # driver not loaded
    absent = in_child(PRESENCE.format(root=str(tmp_path)))
    assert (absent["present"], absent["usable"]) == (False, False)
    assert "/dev/nvidia0" in absent["why"]

    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia0").touch()
    broken = in_child(PRESENCE.format(root=str(tmp_path)))
    assert (broken["present"], broken["usable"]) == (True, False)
    assert "/dev/nvidia0" in broken["why"]
    assert _REASONS[pynvml.NVML_ERROR_DRIVER_NOT_LOADED] in broken["why"]


def test_a_board_without_a_driver_is_no_device_but_is_mentioned(
    nvml_double, in_child, tmp_path: Path
) -> None:
    nvml_double(init_error=9)
    slot = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    slot.mkdir(parents=True)
    (slot / "vendor").write_text("0x10de\n")
    (slot / "class").write_text("0x030200\n")
    told = in_child(PRESENCE.format(root=str(tmp_path)))
    assert not told["present"]
    assert "PCI" in told["why"]


UNUSABLE = """
import json
from harness.core.errors import PreflightError
from harness.hardware import gpus
gpus.nvidia_device_present = lambda: gpus.NvidiaPresence(present=True, usable=False, why="/dev/nvidia0 is there, but no driver")
try:
    print(json.dumps(len(gpus.resolve_gpus("all", {}))))
except PreflightError as error:
    print(json.dumps([error.exit_code, str(error)]))
"""


def test_a_device_that_cannot_be_used_is_never_silently_left_out(nvml_double, in_child) -> None:
    nvml_double(init_error=18)
    code, message = in_child(UNUSABLE)
    assert code == 3
    assert "/dev/nvidia0 is there, but no driver" in message
    assert "server.gpus" in message


@pytest.mark.skipif(nvidia_device_present().present, reason="this machine has an NVIDIA device")
def test_a_machine_without_a_device() -> None:
    assert resolve_gpus("all", {}) == ()
    assert resolve_gpus("none", {}) == ()
    with pytest.raises(PreflightError, match=r"server\.gpus"):
        resolve_gpus([0], {})


def test_boards_of_the_double_are_known_as_doubles_and_real_ones_are_not() -> None:
    real = Gpu("GPU-a", 0, name="NVIDIA H100 80GB HBM3", driver_version="570.86.15")
    assert simulated_by([real, Gpu("GPU-b", 1)]) is None
    assert "NVML TEST DOUBLE" in str(
        simulated_by([real, Gpu("GPU-c", 2, name="NVML TEST DOUBLE A", driver_version="570.86.15")])
    )
    assert "999.00-double" in str(simulated_by([Gpu("GPU-d", 0, driver_version="999.00-double")]))
