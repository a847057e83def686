"""Small reduced runs: copies of the golden ones."""

import shutil
from pathlib import Path

import pytest

from harness.artifacts.finalize import finalize
from harness.artifacts.layout import RunDir
from harness.report.terminal import reduce_and_report

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"
RUNS = ("energy", "killed", "attribution", "repeats/b16-1", "repeats/fp8-1")


@pytest.fixture(scope="session")
def reduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of reduced runs by the names of tests/golden/runs."""
    folder = tmp_path_factory.mktemp("reduced")
    for name in RUNS:
        shutil.copytree(GOLDEN / name, folder / name)
        finalize(RunDir(folder / name))
        reduce_and_report(folder / name, report=False)
    return folder
