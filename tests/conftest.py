"""Fixtures that several rooms need."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")

_PACKAGES = {
    "cc": "gcc",
    "chromium": "chromium",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "ipmi_sim": "openipmi",
    "ipmitool": "ipmitool",
}
"""Programs that tests use -> the Debian package that has them (requirements/system.txt)."""


def require(*programs: str) -> None:
    """Skip the test where a program is missing. With CI=true it fails: nothing is left out there.

    Args:
        programs: keys of `_PACKAGES`.
    """
    packages = sorted({_PACKAGES[name] for name in programs if shutil.which(name) is None})
    if not packages:
        return
    text = f"needs {', '.join(packages)} (`make system` installs them)"
    if os.environ.get("CI") == "true":
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        require(*mark.args)


@pytest.fixture(scope="session")
def made_sweep() -> ModuleType:
    """tests/sweeps/made_sweep.py: makes folders of sweeps without measuring."""
    path = Path(__file__).parent / "sweeps" / "made_sweep.py"
    spec = importlib.util.spec_from_file_location("made_sweep", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", name="require")
def _require() -> Callable[..., None]:
    """For fixtures that need a program: `require("cc")`."""
    return require


_NVML_DOUBLE = Path(__file__).parent / "telemetry" / "nvml_double" / "nvml_double.c"


@pytest.fixture(scope="session")
def nvml_double_library(
    tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None]
) -> Path:
    """Folder with a test double of libnvidia-ml.so.1, built once a session. Its boards are called
    NVML TEST DOUBLE.
    """
    require("cc")
    folder = tmp_path_factory.mktemp("nvml_double")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(
        [
            "cc",
            "-shared",
            "-fPIC",
            "-O1",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-o",
            library,
            _NVML_DOUBLE,
        ],
        check=True,
    )
    return folder


@pytest.fixture
def nvml_double(nvml_double_library: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make child processes see the double: `nvml_double(gpus=2, no_counter=1)` sets
    NVML_DOUBLE_GPUS and NVML_DOUBLE_NO_COUNTER.

    This process is not changed: the loader reads LD_LIBRARY_PATH when a process starts.
    """

    def install(**settings: object) -> None:
        before = os.environ.get("LD_LIBRARY_PATH")
        monkeypatch.setenv(
            "LD_LIBRARY_PATH",
            f"{nvml_double_library}:{before}" if before else str(nvml_double_library),
        )
        for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
            monkeypatch.delenv(name, raising=False)
        for name, value in settings.items():
            monkeypatch.setenv(f"NVML_DOUBLE_{name.upper()}", str(value))

    return install


@pytest.fixture
def in_child() -> Callable[[str], Any]:
    """Run Python code in a child process and give back the JSON that it prints."""

    def run(code: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; tests that need it are skipped where it is
    absent.
    """
    folder = Path(
        os.environ.get("HARNESS_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data"
    )
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set HARNESS_TEST_DATA)")
    return folder


_FOREIGN = {"profile", "saved"}
"""Keys of a manifest that are read by a view of some keys, and by `saved_of`."""


@pytest.fixture(scope="session")
def unread() -> Callable[[dict[str, Any]], list[str]]:
    """Places in a manifest that its types do not read: nothing is written that nobody can read."""
    from harness.artifacts.recorded_run import RecordedRun
    from harness.artifacts.typed_json import read_leniently, to_json

    def places(manifest: dict[str, Any]) -> list[str]:
        raw = {key: value for key, value in manifest.items() if key not in _FOREIGN}
        return _unknown(raw, to_json(read_leniently(RecordedRun, raw)))

    return places


def _unknown(raw: Any, read: Any, place: str = "") -> list[str]:
    """Places of a JSON value that are not in what was read of it."""
    if isinstance(raw, dict) and isinstance(read, dict):
        return [
            found
            for key, item in raw.items()
            for found in (
                [f"{place}.{key}"]
                if key not in read
                else _unknown(item, read[key], f"{place}.{key}")
            )
        ]
    if isinstance(raw, list) and isinstance(read, list) and len(raw) == len(read):
        pairs = enumerate(zip(raw, read, strict=True))
        return [found for i, (a, b) in pairs for found in _unknown(a, b, f"{place}[{i}]")]
    return [] if raw == read else [place]
