"""Which cached certificates a short run takes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.canary_truth import Spread
from harness.artifacts.certificate import Certificate, CertifiedLoad, Level
from harness.artifacts.recorded_run import Cores
from harness.commands.steps.load_generator import HEAVIER_MAX_AGE_S, of_heavier_load
from harness.core.clock import wall_now
from harness.traffic.fidelity import (
    CERTIFICATE_VERSION,
    Load,
    cache_path,
    cached,
    host_fingerprint,
    store,
)

LOAD = Load("chat", "closed", 16, None, 20.0, 128, 4096)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path))


def certificate(load: Load, *, sufficient: bool = True) -> Certificate:
    spread = Spread(0.001, 0.001, 0.001, 10)
    level = Level(
        1, 1, load.streams, 1, 800, 10, 0, spread, spread, spread, spread, 20, 20, 0.1, 0.1, True, None
    )  # fmt: skip
    return Certificate(
        version=CERTIFICATE_VERSION,
        made_at=wall_now().isoformat(),
        quick=True,
        host=host_fingerprint(),
        load=CertifiedLoad(
            load.api,
            load.process,
            load.streams,
            load.requests_per_s,
            load.gap_ms,
            load.output_tok,
            load.body_bytes,
            load.clock,
            load.shape,
            load.events_per_s,
        ),
        bound_s=0.005,
        cores=Cores(),
        levels=(level,),
        certified_events_per_s={"1": 1600},
        workers=1,
        sufficient=sufficient,
        seconds=10,
        at_load=level,
        highest=level,
        made_unix_s=None,
    )


def found(load: Load = LOAD, workers: int | None = None) -> int | None:
    one = of_heavier_load(load, workers=workers)
    return None if one is None else one.load.streams


def test_the_lightest_of_the_heavier_ones_is_taken() -> None:
    for streams in (128, 64, 8):
        store(certificate(replace(LOAD, streams=streams)))
    assert cached(LOAD, quick=True) is None
    assert found() == 64
    assert found(replace(LOAD, streams=40)) == 64  # of one class: rounded up to powers of two
    assert found(replace(LOAD, streams=100)) == 128


@pytest.mark.parametrize(
    "change",
    [
        {"streams": 8},
        {"streams": 256},  # 16 times the load
        {"streams": 64, "body_bytes": 2048},
        {"streams": 64, "gap_ms": 10.0},
        {"streams": 64, "output_tok": 256},
        {"streams": 64, "api": "messages"},
        {"streams": 64, "clock": "read"},
        {"streams": 64, "process": "poisson", "requests_per_s": 2.0},
    ],
)
def test_another_load_is_not_taken(change: dict[str, object]) -> None:
    store(certificate(replace(LOAD, **change)))  # type: ignore[arg-type]
    assert found() is None


def test_an_open_loop_takes_none() -> None:
    open_loop = replace(LOAD, process="poisson", requests_per_s=2.0)
    store(certificate(replace(open_loop, streams=64)))
    assert found(open_loop) is None


def test_one_for_a_fixed_number_of_workers_is_for_it_alone() -> None:
    store(certificate(replace(LOAD, streams=64)), workers=2)
    assert (found(), found(workers=1), found(workers=2)) == (None, None, 64)


def test_an_insufficient_one_is_not_taken() -> None:
    store(certificate(replace(LOAD, streams=64), sufficient=False))
    assert found() is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("age_s", HEAVIER_MAX_AGE_S + 60),
        ("age_s", -3600),
        ("made_unix_s", None),
        ("version", 1),
        ("host", {"cpu": "another"}),
        ("load", 5),
    ],
)
def test_an_old_foreign_or_damaged_one_is_not_taken(key: str, value: Any) -> None:
    heavier = replace(LOAD, streams=64)
    store(certificate(heavier))
    path = cache_path(heavier, None)
    kept = json.loads(path.read_text())
    if key == "age_s":
        key, value = "made_unix_s", int(wall_now().timestamp() - value)
    kept[key] = {**kept[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(kept))
    assert found() is None
    path.write_text("{")
    assert found() is None


def test_without_a_cache_there_is_none() -> None:
    assert found() is None
