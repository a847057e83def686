"""Conditions of a tier, tallies of a probe and the capacity of a search."""

from pathlib import Path

import numpy as np
import pytest

from harness.artifacts.sweep.capacity import CapacityFile, read_capacity, write_capacity
from harness.core.errors import ArtifactError
from harness.profile.search import parse_condition
from harness.reduce.reduction import reduce_fully
from harness.sweeps.capacity import (
    ProbeRun,
    Tally,
    Tier,
    capacity,
    effective_number,
    probe_run,
)
from harness.sweeps.threshold import Limits

EARLY = Path(__file__).parent.parent / "reduce" / "fixtures" / "run-early"
LIMITS = Limits(1, 128)
TIER = Tier("fast", (parse_condition("ttft_s.p95 < 5s"), parse_condition("speed_tok_s.p25 > 60")))


class TestEffectiveNumber:
    def test_of_independent_requests(self) -> None:
        draw = np.random.default_rng(1)
        found = [effective_number((draw.random(3200) < 0.9).astype(float)) for _ in range(50)]
        assert 2200 < np.mean(found) <= 3200

    def test_of_clusters(self) -> None:
        draw = np.random.default_rng(2)
        found = [
            effective_number(np.repeat((draw.random(320) < 0.8).astype(float), 10))
            for _ in range(50)
        ]
        assert 150 < np.mean(found) < 600

    def test_of_few_or_equal_ones(self) -> None:
        assert effective_number(np.ones(40)) == 40
        assert effective_number(np.ones(640)) == 640


def test_tally_of_a_run() -> None:
    reduction = reduce_fully(EARLY)
    assert reduction.headline is not None
    always, never = parse_condition("e2e_s.p95 < 9d"), parse_condition("e2e_s.p95 < 1us")
    found = probe_run(reduction, 4.0, [Tier("both", (always, never))])
    assert found is not None
    first, second = found.tallies[0]
    counts = reduction.summary.requests
    assert first.n == second.n == counts.in_window
    assert 0 < first.good <= first.n
    assert second.good == 0
    assert found.tok_s == reduction.summary.metrics["output_tok_s"].value


def probe(number: int, load: float, good: int, *, power: float | None = 1000.0) -> ProbeRun:
    fast, always = Tally(good, 300, 300), Tally(300, 300, 300)
    boundary = "gpu_board" if power else None
    return ProbeRun(f"run-{number}", load, ((fast, always),), 100 * load, 4, power, boundary)


PROBES = [
    probe(i, load, good)
    for i, (load, good) in enumerate([(8, 300), (16, 296), (32, 120), (20, 287), (22, 280)])
]


class TestCapacity:
    def test_from_probes(self) -> None:
        found = capacity(0, [TIER], PROBES, LIMITS)
        assert found.found == "interval"
        assert found.low is not None
        assert found.load is not None
        assert found.high is not None
        assert 16 < found.low < found.load < found.high < 24
        assert found.binding == "ttft_s.p95 < 5s"
        assert found.tok_s == pytest.approx(100 * found.load)
        assert found.tok_s_per_gpu == pytest.approx(25 * found.load)
        assert found.sessions_per_gpu == pytest.approx(found.load / 4)
        assert found.sessions_per_mw == pytest.approx(found.load * 1000)
        assert (found.boundary, found.basis) == ("gpu_board", "measured")
        assert (found.probes, found.outliers, found.confirmed) == (5, (), None)

    def test_confirmed_run_has_the_figures(self) -> None:
        found = capacity(0, [TIER], PROBES, LIMITS, confirmed=probe(9, 18, 290, power=2000.0))
        assert found.confirmed == "run-9"
        assert found.tok_s == 1800
        assert found.sessions_per_gpu == 4.5
        assert found.sessions_per_mw == pytest.approx(9000)

    def test_unknown_power_and_rates(self) -> None:
        unmetered = [
            probe(i, p.load, p.tallies[0][0].good, power=None) for i, p in enumerate(PROBES)
        ]
        found = capacity(0, [TIER], unmetered, Limits(1, 128, whole=False))
        assert (found.sessions_per_mw, found.sessions_per_gpu) == (None, None)
        assert (found.boundary, found.basis) == (None, None)

    def test_without_probes(self) -> None:
        assert capacity(0, [TIER], [], LIMITS).found == "unknown"

    def test_file(self, tmp_path: Path) -> None:
        written = CapacityFile("concurrency", {"fast": capacity(0, [TIER], PROBES, LIMITS)})
        write_capacity(tmp_path, written)
        assert read_capacity(tmp_path) == written

    def test_missing_and_newer_file(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match="no capacity"):
            read_capacity(tmp_path)
        (tmp_path / "capacity.json").write_text('{"schema_version": 99}')
        with pytest.raises(ArtifactError, match="schema_version 99"):
            read_capacity(tmp_path)
