"""A registry of the test's own."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.processes import identity
from harness.processes.registry import RUN_ID_VARIABLE, RunRegistry


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, so that nothing here meets a real run."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RunRegistry]:
    """A run; afterwards none of its processes may be left, whatever the test did."""
    run_id = f"test-{time.monotonic_ns()}"
    with RunRegistry.open(run_id, tmp_path) as made:
        yield made
    left = identity.marked(RUN_ID_VARIABLE, run_id)
    identity.end(lambda: identity.marked(RUN_ID_VARIABLE, run_id), grace_s=0)
    assert not left, identity.describe(left)
    assert made.groups == []


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Polls a condition for up to twenty seconds."""

    def wait(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, "did not come true within 20 s"
            time.sleep(0.02)

    return wait
