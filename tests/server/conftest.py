"""A light server process in place of vLLM's and of the embedded engine's, found by `-m` as the real
ones are.
"""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.layout import RunDir
from harness.core.clock import NS_PER_S, now_ns
from harness.core.records import ModelFacts
from harness.processes import identity
from harness.processes.registry import RUN_ID_VARIABLE, RunRegistry
from harness.profile.schema import Profile
from harness.server.base import RunContext
from harness.server.environment import inspect

FAKES = Path(__file__).with_name("fakes")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, so that nothing here meets a real run."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(folder))
    return folder


@pytest.fixture(scope="session")
def fake_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter in whose environment vLLM 0.32.0 and the embedded engine are the fake."""
    root = tmp_path_factory.mktemp("fake")
    site = root / "site"
    for package in (
        "vllm/entrypoints/openai",
        "harness/server/engine",
        "torch",
        "transformers",
        "uvicorn",
        "starlette",
    ):
        folder = site / package
        folder.mkdir(parents=True)
        while folder != site:
            (folder / "__init__.py").touch()
            folder = folder.parent
    shutil.copy(FAKES / "api_server.py", site / "vllm/entrypoints/openai/api_server.py")
    shutil.copy(FAKES / "api_server.py", site / "harness/server/engine/__main__.py")
    (site / "vllm-0.32.0.dist-info").mkdir()
    (site / "vllm-0.32.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n"
    )
    python = root / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{site}:$PYTHONPATH" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return str(python)


@pytest.fixture
def bare_python(tmp_path: Path) -> str:
    """An interpreter without any package."""
    python = tmp_path / "bare-python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    python.chmod(0o755)
    inspect.cache_clear()
    return str(python)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


@pytest.fixture
def facts(model_dir: Path) -> ModelFacts:
    return ModelFacts("builtin:tiny", path=str(model_dir), max_context_tok=8192)


@pytest.fixture
def profile() -> Callable[..., Profile]:
    """Makes a profile from its server part and further keys."""

    def make(server: dict[str, Any], **changes: Any) -> Profile:
        load = [{"kind": "concurrency", "concurrency": 1, "sessions": 1}]
        api = changes.pop("api", "messages")
        raw = {
            "purpose": "smoke",
            "model": {"id": "builtin:tiny"},
            "traffic": {"api": api, "workload": {"kind": "chat"}, "load": load},
        }
        return Profile.model_validate(raw | {"server": server} | changes)

    return make


@pytest.fixture
def context(tmp_path: Path) -> Iterator[RunContext]:
    """A run; afterwards none of its processes may be left, whatever the test did."""
    run_id = f"test-{now_ns()}"
    with RunRegistry.open(run_id, tmp_path / "run") as registry:
        yield RunContext(run_id, RunDir(tmp_path / "run"), registry)
    left = identity.marked(RUN_ID_VARIABLE, run_id)
    identity.end(lambda: identity.marked(RUN_ID_VARIABLE, run_id), grace_s=0)
    assert not left, identity.describe(left)


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Polls a condition for up to ten seconds."""

    def wait(condition: Callable[[], bool]) -> None:
        import threading

        deadline = now_ns() + 10 * NS_PER_S
        while not condition():
            assert now_ns() < deadline, "did not come true within 10 s"
            threading.Event().wait(0.02)

    return wait
