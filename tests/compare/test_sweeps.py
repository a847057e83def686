import json

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.artifacts.sweep.index import PointState
from harness.cli import app
from harness.compare.ratios import Word
from harness.compare.sweeps import compare_sweeps, frontier_ratio
from harness.core.errors import ArtifactError, NotComparableError, ProfileError
from harness.sweeps.points import load_sweep


def test_points_pair_by_their_values(tmp_path, made_sweep) -> None:
    a = made_sweep.make_sweep(tmp_path / "a", (1, 2, 4, 8), statuses={1: "invalid"})
    b = made_sweep.make_sweep(
        tmp_path / "b", (4, 2, 1, 16), speed=1.25, states={0: PointState.FAILED}
    )
    found = compare_sweeps([a, b])
    # one thread: 1; two threads: 1, 2, 4. 8 and 16 are in one sweep only
    assert [tuple(pair.values.values()) for pair in found.pairs] == [(1, 1), (1, 2), (2, 2), (4, 2)]
    ratios = {row.key: row.cells[0] for row in found.pairs[0].metrics}
    assert ratios["output_tok_s_per_gpu"].ratio == pytest.approx(1.25)
    assert ratios["ttft_s.p99"].ratio == pytest.approx(1)
    assert ratios["output_tok_s"].word is Word.TOO_FEW
    assert {label: len(names) for label, names in found.only.items()} == {"A": 3, "B": 3}


def test_repeats_support_verdicts(tmp_path, made_sweep) -> None:
    a, b = (
        made_sweep.make_sweep(tmp_path / n, (1, 8), (1,), repeats=4, noise=0.005, speed=s, seed=i)
        for n, s, i in (("a", 1, 1), ("b", 1.1, 2))
    )
    found = compare_sweeps([a, b])
    words = [{row.key: row.cells[0].word for row in pair.metrics} for pair in found.pairs]
    assert [one["output_tok_s"] for one in words] == [Word.BETTER] * 2
    assert [one["ttft_s.p50"] for one in words] == [Word.NO_DIFFERENCE] * 2


def test_area_is_the_product_of_both_factors(tmp_path, made_sweep) -> None:
    a, b = (made_sweep.make_sweep(tmp_path / n, speed=s) for n, s in (("a", 1), ("b", 1.1)))
    areas = {(one.y, one.x): one for one in compare_sweeps([a, b]).areas}
    throughput = areas["output_tok_s_per_gpu", "interactivity_tok_s_user"]
    assert throughput.ratio == pytest.approx(1.21)  # both are faster by 10%
    assert throughput.points == 12
    # cost as its reciprocal
    cost = areas["usd_per_mtok", "interactivity_tok_s_user"]
    assert cost.ratio == pytest.approx(1.21)
    assert cost.low < 1.21 < cost.high
    sessions = areas["sessions_per_gpu", "slo_met_ratio"]
    assert sessions.ratio == pytest.approx(1)


def test_area_interval_covers_the_ratio(tmp_path, made_sweep) -> None:
    truth, covered = 1.1**2, []
    for seed in range(40):
        pair = [
            load_sweep(
                made_sweep.make_sweep(
                    tmp_path / f"{name}{seed}",
                    (1, 4, 16),
                    (2,),
                    speed=speed,
                    noise=0.02,
                    half_width=1.96 * 0.02,
                    seed=2 * seed + n,
                )
            )
            for n, (name, speed) in enumerate((("a", 1.0), ("b", 1.1)))
        ]
        settings = list(zip(*(one.settings for one in pair), strict=True))
        found = frontier_ratio("output_tok_s_per_gpu", "interactivity_tok_s_user", settings)
        assert found.low is not None
        assert found.high is not None
        covered.append(found.low <= truth <= found.high)
    # throughput and speed share their noise here, so the interval is too narrow by sqrt(2) at most
    assert np.mean(covered) >= 0.75


def test_one_sensor_does_not_blur_a_ratio(tmp_path, made_sweep) -> None:
    def width(uuid: str) -> float:
        a = made_sweep.make_sweep(tmp_path / f"a{uuid}", half_width=0.001)
        b = made_sweep.make_sweep(tmp_path / f"b{uuid}", half_width=0.001, uuid=uuid)
        areas = {(one.y, one.x): one for one in compare_sweeps([a, b]).areas}
        found = areas["output_tok_per_j", "ttft_p99_s"]
        return found.high / found.low - 1

    assert width("GPU-") < 0.07 < width("other-")


def test_sweeps_without_a_common_point(tmp_path, made_sweep) -> None:
    a, b = (made_sweep.make_sweep(tmp_path / str(n), (n,)) for n in (1, 2))
    with pytest.raises(NotComparableError, match=made_sweep.LOAD):
        compare_sweeps([a, b])


def test_other_work_is_refused(tmp_path, made_sweep) -> None:
    a, b = (made_sweep.make_sweep(tmp_path / n, (1, 2), (1,)) for n in "ab")
    changed = b / "run-001" / "summary.json"
    summary = json.loads(changed.read_text())
    summary["profile"]["workload_sha256"] = "f" * 64
    changed.write_text(json.dumps(summary))
    with pytest.raises(NotComparableError, match="workload_sha256"):
        compare_sweeps([a, b])
    allowed = compare_sweeps([a, b], ["workload_sha256"]).allowed_mismatches
    assert [one.key for one in allowed] == ["workload_sha256"]


def test_what_is_no_pair_of_sweeps(tmp_path, made_sweep) -> None:
    a = made_sweep.make_sweep(tmp_path / "a", (1, 2), (1,))
    empty = made_sweep.make_sweep(
        tmp_path / "e", (1, 2), (1,), states=dict.fromkeys(range(2), PointState.FAILED)
    )
    with pytest.raises(ProfileError):
        compare_sweeps([a, a])
    with pytest.raises(ArtifactError, match="/e "):
        compare_sweeps([a, empty])


def test_command_writes_a_page(tmp_path, made_sweep) -> None:
    a, b = (
        str(made_sweep.make_sweep(tmp_path / n, (1, 2, 4), speed=s))
        for n, s in (("a", 1), ("b", 2))
    )
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["compare", a, b, "--report", str(out)])
    assert result.exit_code == 0, result.output
    assert "concurrency 4, threads 2" in result.stdout
    names = {path.name for path in out.iterdir()}
    assert names == {"comparison.html", "comparison.md", "comparison.json", "comparison-charts"}
    assert (out / "comparison.html").read_text().count("<svg") == 10
    pairs = json.loads((out / "comparison.json").read_text())["pairs"]
    assert len(pairs) == 6
    for wrong in ([a, str(tmp_path / "a" / "run-000")], [a, b, a], [a, b, "--group-by", "gpu"]):
        assert CliRunner().invoke(app, ["compare", *wrong]).exit_code != 0
