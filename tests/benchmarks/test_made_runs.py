"""Benchmarks that make run directories themselves follow the schema of today."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from harness.reduce.reduction import reduce_run

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _neighbors_importable(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def benchmark(name: str) -> ModuleType:
    (path,) = BENCHMARKS.rglob(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "size"), [("bench_reduce", 1000), ("bench_report", 0.05)])
def test_made_run_reduces(tmp_path, name: str, size: float) -> None:
    benchmark(name).make_run(tmp_path / "run", size)
    summary = reduce_run(tmp_path / "run")
    assert summary.requests.ok > 500


@pytest.mark.parametrize("name", sorted(path.stem for path in BENCHMARKS.rglob("bench_*.py")))
def test_benchmark_imports(name: str) -> None:
    assert callable(benchmark(name).main)
