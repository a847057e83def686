"""Folders of repeats, baselines by name, and who is grouped with whom."""

import json

import pytest

from harness.compare.compare import compare_runs
from harness.compare.groups import find_baseline, load_set
from harness.compare.ratios import Word
from harness.core.errors import ArtifactError, NotComparableError, ProfileError


@pytest.fixture
def make_set(make_run, tmp_path):
    """A folder of repeats: runs of each variant, labelled as `harness repeat` labels them."""

    def make(name, variants, n=3, **changes):
        folder = tmp_path / name
        folder.mkdir()
        for variant, tok_s in variants.items():
            for i in range(n):
                run = make_run(
                    f"{name}-{variant}-{i}", seed=i, values={"output_tok_s": tok_s + i}, **changes
                )
                if variant:
                    manifest = json.loads((run / "manifest.json").read_text())
                    label = {"series": name, "variant": variant, "repeat": i + 1, "of": n}
                    (run / "manifest.json").write_text(json.dumps({**manifest, "repeat": label}))
                run.rename(folder / run.name)
        return folder

    return make


def set_state(run, state):
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "state": state}))


def test_variants_of_a_series_are_sides_though_nothing_recorded_differs(make_set):
    found = compare_runs([make_set("s", {"fast": 1000.0, "slow": 900.0})])
    assert [(side.name, len(side.runs)) for side in found.sides] == [("fast", 3), ("slow", 3)]
    [cell] = next(row for row in found.metrics if row.key == "output_tok_s").cells
    assert cell.word is Word.WORSE
    assert cell.ratio == pytest.approx(0.9, abs=0.001)


def test_two_folders_of_one_treatment_are_two_sides(make_set):
    before, after = make_set("before", {"": 1000.0}), make_set("after", {"": 1000.0})
    found = compare_runs([before, after])
    assert [side.name for side in found.sides] == ["before", "after"]
    [cell] = next(row for row in found.metrics if row.key == "output_tok_s").cells
    assert cell.word is Word.NO_DIFFERENCE
    assert 0 < cell.detectable < 0.05
    assert f"{cell.detectable:.1%}" in cell.says()


def test_one_folder_of_one_treatment_shows_its_spread(make_set):
    found = compare_runs([make_set("s", {"": 1000.0})])
    [side] = found.sides
    assert len(side.runs) == 3
    row = next(row for row in found.metrics if row.key == "output_tok_s")
    assert row.cells == ()
    [spread] = row.spreads
    # Student's t of two degrees of freedom: 1001 +- 4.303 x 1 / sqrt(3).
    assert (spread.low, spread.high) == pytest.approx((1001 - 2.484, 1001 + 2.484), abs=1e-3)
    assert spread.cv == pytest.approx(1 / 1001)
    assert found.columns()[2:4] == ("mean", "95% CI")


def test_a_run_that_did_not_finish_is_left_out_and_named(make_set):
    folder = make_set("s", {"a": 1000.0, "b": 900.0})
    set_state(folder / "s-a-1", "running")
    set_state(folder / "s-b-0", "interrupted")
    found = compare_runs([folder])
    assert [len(side.runs) for side in found.sides] == [2, 2]
    assert any("s-a-1 did not finish (killed)" in note for note in found.notes)
    assert any("s-b-0 did not finish (interrupted)" in note for note in found.notes)
    for run in folder.iterdir():
        set_state(run, "failed")
    with pytest.raises(ArtifactError, match="no finished run"):
        load_set(folder)


def test_runs_that_differ_outside_the_treatment_are_repeats(
    make_run,
):
    """Grouping by treatment keys takes runs that differ elsewhere as repeats and says so."""
    runs = [
        make_run(
            f"{gpu}{i}",
            gpu=gpu,
            seed=i,
            engine_version=f"0.3{i}",
            values={"output_tok_s": tok_s + i},
        )
        for gpu, tok_s in (("H100", 1000.0), ("H200", 1400.0))
        for i in range(3)
    ]
    found = compare_runs(runs, group_by=["gpu"])
    assert [(side.name, len(side.runs)) for side in found.sides] == [
        ("1 x H100", 3),
        ("1 x H200", 3),
    ]
    assert any("Runs of A differ in engine" in note for note in found.notes)
    assert {t.key for t in found.treatments if t.differs} == {"gpu"}
    with pytest.raises(ProfileError, match="'colour'"):
        compare_runs(runs, group_by=["colour"])


def test_models_are_grouped_only_where_their_difference_is_allowed(make_run):
    runs = [make_run(f"{m}{i}", model_id=m, seed=i) for m in ("small", "large") for i in range(2)]
    with pytest.raises(NotComparableError, match="model"):
        compare_runs(runs, group_by=["model"])
    found = compare_runs(runs, ["model"], group_by=["gpu", "model"])
    assert [side.name for side in found.sides] == ["small", "large"]


def test_a_baseline_is_side_a_and_never_mixes_with_what_is_held_against_it(make_set, make_run):
    reference = make_set("reference", {"": 1000.0})
    found = compare_runs([make_run("new", seed=9)], baseline=reference)
    assert [side.runs for side in found.sides][1] == ("new",)
    assert len(found.sides[0].runs) == 3
    grouped = compare_runs([make_set("other", {"": 1000.0})], baseline=reference, group_by=["gpu"])
    assert [len(side.runs) for side in grouped.sides] == [3, 3]


def test_a_baseline_is_found_by_path_or_by_its_name_below_results(make_set, tmp_path, monkeypatch):
    folder = make_set("mine", {"": 1000.0})
    assert find_baseline(str(folder)) == folder
    monkeypatch.chdir(tmp_path)
    named = tmp_path / "results" / "reference" / "h100"
    named.mkdir(parents=True)
    assert find_baseline("h100").resolve() == named
    with pytest.raises(ArtifactError, match="'h300'") as error:
        find_baseline("h300")
    assert "h100" in error.value.cause


def test_natural_lengths_are_compared_over_all_repeats_of_a_side(make_run):
    def runs(name, lengths, **changes):
        return [
            make_run(
                f"{name}{i}",
                seed=i,
                values={"mean_output_tok": x},
                labels={"output_length": "natural"},
                **changes,
            )
            for i, x in enumerate(lengths)
        ]

    a = runs("a", (190.0, 210.0, 200.0))
    assert compare_runs([*a, *runs("b", (207.0, 192.0, 203.0), engine_version="0.33.0")])
    with pytest.raises(NotComparableError, match="mean_output_tok") as error:
        compare_runs([*a, *runs("c", (209.0, 204.0, 207.0), engine_version="0.34.0")])
    assert "200" in error.value.what
    assert "the 3 runs of B" in error.value.what


def test_an_outlier_is_shown_and_kept(make_run):
    tok_s = [1000.0, 1003.0, 998.0, 1001.0, 700.0]
    runs = [make_run(f"a{i}", seed=i, values={"output_tok_s": x}) for i, x in enumerate(tok_s)]
    found = compare_runs(runs, group_by=["gpu"])
    row = next(row for row in found.metrics if row.key == "output_tok_s")
    assert row.spreads[0].outliers == ("a4",)
    assert row.baseline == pytest.approx(sum(tok_s) / 5)
    assert any("700 ‡" in " ".join(shown) for shown in found.repeat_rows())


def test_boards_that_both_sides_used_contribute_no_error_of_their_own(make_run):
    from harness.artifacts.run_result import load_result
    from harness.compare.ratios import systematic_error
    from harness.core.metrics import METRICS

    def runs(name, uuids):
        return [load_result(make_run(f"{name}{i}", uuid=uuid)) for i, uuid in enumerate(uuids)]

    power = METRICS["power_w"]
    one, two, both = runs("a", ["G1"]), runs("b", ["G2"]), runs("c", ["G1", "G2"])
    assert systematic_error(power, one, two, 0.05) == pytest.approx(0.05 * 2**0.5)
    assert systematic_error(power, one, runs("d", ["G1", "G1"]), 0.05) == 0
    assert systematic_error(power, one, both, 0.05) == pytest.approx(0.05 * 0.5**0.5)
    assert systematic_error(METRICS["output_tok_s"], one, two, 0.05) == 0
