import json
import math

import pytest

from harness.artifacts.typed_json import from_json, to_json
from harness.compare.comparability import MISMATCH_KEYS
from harness.compare.compare import Comparison, compare_runs
from harness.compare.hypothesis_tests import two_samples, variance
from harness.compare.ratios import Word
from harness.core.errors import ArtifactError, InvalidRunError, NotComparableError, ProfileError
from harness.core.metrics import METRIC_VERSION
from harness.core.records import Status


def row(comparison, key):
    return next(row for row in comparison.metrics if row.key == key)


def cell(comparison, key):
    [found] = row(comparison, key).cells
    return found


# --- single runs ---


def test_two_single_runs_show_ratios_and_claim_nothing(make_run):
    a, b = (
        make_run("a"),
        make_run("b", gpu="NVIDIA H200", uuid="GPU-2", values={"output_tok_s": 2000.0}),
    )
    found = compare_runs([a, b])
    assert cell(found, "output_tok_s").ratio == pytest.approx(2.0)
    assert {c.word for r in found.metrics for c in r.cells} <= {
        Word.TOO_FEW,
        Word.NOT_JUDGED,
        Word.ABSENT,
    }
    assert cell(found, "output_tok_s").word is Word.TOO_FEW
    assert any("Too few repeats" in note for note in found.notes)


def test_a_ratio_of_single_runs_has_an_interval_only_if_both_have(make_run):
    """A ratio of single runs carries a within run interval only where both have one."""
    a, b = make_run("a"), make_run("b", engine_version="0.33.0")
    both = cell(compare_runs([a, b]), "output_tok_s")
    assert both.interval == "within-run"
    assert both.low < 1.0 < both.high
    # Two figures known to 2 % each: their ratio to sqrt(2) x 2 %.
    assert both.high == pytest.approx(1 + 2**0.5 * 0.02, abs=1e-3)
    one = cell(
        compare_runs([a, make_run("c", engine_version="0.33.0", intervals=False)]), "output_tok_s"
    )
    assert (one.interval, one.low, one.high) == (None, None, None)


def test_a_figure_that_one_side_lacks_is_absent_with_the_reason_and_never_a_zero(make_run):
    a, b = make_run("a", values={"power_w": 600.0}), make_run("b", engine_version="0.33.0")
    found = cell(compare_runs([a, b]), "power_w")
    assert found.word is Word.ABSENT
    assert (found.value, found.ratio) == (None, None)
    assert "absent in B" in found.note
    assert "goodput_rps" not in {
        r.key for r in compare_runs([a, b]).metrics
    }  # neither has it: no row


# --- repeats ---


def side(make_run, name, tok_s, **changes):
    return [
        make_run(
            f"{name}{i}",
            seed=i,
            values={"output_tok_s": value, **changes.pop(f"values{i}", {})},
            **changes,
        )
        for i, value in enumerate(tok_s)
    ]


def test_repeats_of_equal_treatment_form_a_side_and_a_clear_difference_is_named(make_run):
    a = side(make_run, "a", [1000.0, 1004.0, 998.0, 1001.0])
    b = side(make_run, "b", [1200.0, 1206.0, 1199.0, 1203.0], engine_version="0.33.0")
    found = compare_runs([a[0], b[0], *a[1:], *b[1:]])
    assert [len(s.runs) for s in found.sides] == [4, 4]
    better = cell(found, "output_tok_s")
    assert better.word is Word.BETTER
    assert better.interval == "across repeats"
    assert better.low < 1.2 < better.high
    worse = cell(compare_runs([*b, *a]), "output_tok_s")
    assert worse.word is Word.WORSE
    assert worse.ratio == pytest.approx(1 / better.ratio)


def test_latency_is_better_when_it_is_lower(make_run):
    a = [make_run(f"a{i}", seed=i, ttft_p50=0.30 + i / 1000) for i in range(4)]
    b = [
        make_run(f"b{i}", seed=i, ttft_p50=0.20 + i / 1000, engine_version="0.33.0")
        for i in range(4)
    ]
    assert cell(compare_runs([*a, *b]), "ttft_s.p50").word is Word.BETTER


def test_noise_is_no_detectable_difference(make_run):
    a = side(make_run, "a", [1000.0, 1100.0, 950.0])
    b = side(make_run, "b", [1040.0, 990.0, 1120.0], engine_version="0.33.0")
    found = cell(compare_runs([*a, *b]), "output_tok_s")
    assert found.word is Word.NO_DIFFERENCE
    assert found.low < 1.0 < found.high


def test_short_runs_that_kept_every_rule_are_claimed_from(make_run):
    a = side(make_run, "a", [1000.0, 1001.0, 1002.0], status=Status.PRELIMINARY)
    b = side(
        make_run, "b", [1500.0, 1501.0, 1502.0], engine_version="0.33.0", status=Status.PRELIMINARY
    )
    assert cell(compare_runs([*a, *b]), "output_tok_s").word is Word.BETTER


def test_the_detectable_difference_is_that_of_the_two_sided_test_that_is_made(make_run):
    """Alone in its family, at 5 % in two directions: as `two_samples` says at 2.5 % in one."""
    a, b = [1000.0, 1010.0, 990.0, 1004.0], [1001.0, 1009.0, 992.0, 1002.0]
    found = cell(
        compare_runs([*side(make_run, "a", a), *side(make_run, "b", b, engine_version="0.33.0")]),
        "output_tok_s",
    )
    logs = [[math.log(x) for x in values] for values in (a, b)]
    deviation = math.sqrt(sum(variance(values) for values in logs) / 2)
    assert found.detectable == pytest.approx(
        math.expm1(two_samples(deviation, 4, 4, 0.025).detectable()), rel=1e-6
    )


def test_nothing_is_claimed_across_boundaries_though_their_difference_was_allowed(make_run):
    def runs(name, watts, **changes):
        return [
            make_run(f"{name}{i}", seed=i, engine_version=name, values={"power_w": w}, **changes)
            for i, w in enumerate(watts)
        ]

    sides = [
        *runs("a", (600.0, 601.0, 602.0)),
        *runs("b", (900.0, 901.0, 902.0), power_boundary="node"),
    ]
    found = cell(compare_runs(sides, ["boundary"]), "power_w")
    assert found.word is Word.NO_CLAIM
    assert "gpu_board, node" in found.note


def test_one_run_against_repeats_is_too_few(make_run):
    a = side(make_run, "a", [1000.0, 1001.0, 1002.0])
    b = side(make_run, "b", [1500.0], engine_version="0.33.0")
    assert cell(compare_runs([*a, *b]), "output_tok_s").word is Word.TOO_FEW


@pytest.mark.parametrize("status", [Status.FUNCTIONAL, Status.DEGRADED])
def test_nothing_is_claimed_from_smoke_or_degraded_runs_however_many(make_run, status):
    a = side(make_run, "a", [1000.0, 1001.0, 1002.0], status=status)
    b = side(make_run, "b", [1500.0, 1501.0, 1502.0], engine_version="0.33.0")
    found = cell(compare_runs([*a, *b]), "output_tok_s")
    assert found.word is Word.NO_CLAIM
    assert str(status) in found.note


def test_energy_on_different_boards_must_differ_by_more_than_their_sensors(make_run):
    def runs(name, watts, uuid, **changes):
        return [
            make_run(f"{name}{i}", seed=i, uuid=uuid, values={"power_w": w}, **changes)
            for i, w in enumerate(watts)
        ]

    a = runs("a", [600.0, 600.3, 599.8, 600.1], "GPU-1")
    b = runs("b", [618.0, 618.2, 617.9, 618.1], "GPU-2", engine_version="0.33.0")
    same_board = runs("c", [618.0, 618.2, 617.9, 618.1], "GPU-1", engine_version="0.33.0")
    assert cell(compare_runs([*a, *b]), "power_w").word is Word.NO_DIFFERENCE
    assert cell(compare_runs([*a, *same_board]), "power_w").word is Word.WORSE


def test_runs_of_one_treatment_are_shown_as_spread(make_run):
    runs = side(make_run, "a", [1000.0, 1010.0, 990.0])
    found = compare_runs(runs)
    assert [s.label for s in found.sides] == ["A", "B", "C"]
    assert any("not an effect" in note for note in found.notes)


def test_repeats_that_share_a_seed_are_called_out(make_run):
    a = [make_run(f"a{i}", seed=5) for i in range(2)]
    b = [make_run(f"b{i}", seed=i, engine_version="0.33.0") for i in range(2)]
    notes = compare_runs([*a, *b]).notes
    assert any("Runs of A share a seed" in note for note in notes)
    assert not any("Runs of B share a seed" in note for note in notes)


# --- what may not be compared ---


@pytest.mark.parametrize(
    ("key", "change", "mine", "its"),
    [
        ("workload_sha256", {"workload": "w2"}, "w1", "w2"),
        ("model", {"model_id": "org/other"}, "org/model-8b", "org/other"),
        ("tokenizer", {"fingerprint": "f2"}, "f1", "f2"),
        ("tokenizer", {"fingerprint": None}, "f1", "not recorded"),
        ("output_length", {"labels": {"output_length": "natural"}}, "forced", "natural"),
        ("context_scale", {"labels": {"context_scale": 0.25}}, "1.0", "0.25"),
        ("metric_version", {"metric_version": 99}, str(METRIC_VERSION), "99"),
        ("boundary", {"values": {"power_w": 900.0}, "power_boundary": "node"}, "gpu_board", "node"),
    ],
)
def test_an_identity_key_that_differs_is_refused_by_name_unless_it_is_allowed(
    make_run, key, change, mine, its
):
    a, b = (
        make_run("a", values={"power_w": 600.0}),
        make_run("b", **{"values": {"power_w": 600.0}, **change}),
    )
    with pytest.raises(NotComparableError) as error:
        compare_runs([a, b])
    assert error.value.exit_code == 8
    assert key in error.value.what
    assert mine in error.value.what
    assert its in error.value.what
    found = compare_runs([a, b], allow_mismatch=[key])
    assert key in {mismatch.key for mismatch in found.allowed}
    assert "mismatch allowed" in found.to_markdown()


def test_under_natural_output_mean_lengths_may_differ_by_two_percent(make_run):
    natural = {"labels": {"output_length": "natural"}}
    a = make_run("a", values={"mean_output_tok": 200.0}, **natural)
    compare_runs([a, make_run("b", values={"mean_output_tok": 203.0}, **natural)])
    longer = make_run("c", values={"mean_output_tok": 220.0}, **natural)
    with pytest.raises(NotComparableError, match="mean_output_tok"):
        compare_runs([a, longer])
    assert compare_runs([a, longer], ["mean_output_tok"]).allowed


def test_lengths_that_chance_alone_sets_apart_are_compared_and_told(make_run):
    """Two quick runs of a few hundred answers each differ by more than 2 % for no reason at all."""
    wide = {"labels": {"output_length": "natural"}, "half_width": {"mean_output_tok": 6.0}}
    a, b = (
        make_run("a", values={"mean_output_tok": 200.0}, **wide),
        make_run("b", values={"mean_output_tok": 208.0}, **wide),
    )
    assert any(
        all(part in note for part in ("output lengths of A and B", "200", "208", "±8.485"))
        for note in compare_runs([a, b]).notes
    )
    with pytest.raises(NotComparableError, match="mean_output_tok"):
        compare_runs(
            [a, make_run("c", values={"mean_output_tok": 212.0}, **wide)]
        )  # beyond hypot(6, 6) = 8.5
    sure = {**wide, "half_width": {"mean_output_tok": 1.0}}
    with pytest.raises(NotComparableError, match="mean_output_tok"):
        compare_runs(
            [
                make_run("d", values={"mean_output_tok": 200.0}, **sure),
                make_run("e", values={"mean_output_tok": 208.0}, **sure),
            ]
        )
    near = make_run("f", values={"mean_output_tok": 203.0}, **wide)
    assert not any("output lengths" in note for note in compare_runs([a, near]).notes)


def test_repeats_narrow_what_chance_may_do_to_lengths(make_run):
    def side(name, tok, n):
        changes = {
            "labels": {"output_length": "natural"},
            "half_width": {"mean_output_tok": 6.0},
            "engine_version": name,
        }
        return [
            make_run(f"{name}{i}", seed=i, values={"mean_output_tok": tok}, **changes)
            for i in range(n)
        ]

    assert compare_runs([*side("a", 200.0, 1), *side("b", 206.0, 1)]).notes
    with pytest.raises(NotComparableError, match="mean_output_tok"):
        compare_runs([*side("c", 200.0, 4), *side("d", 206.0, 4)])  # beyond hypot(3, 3) = 4.2


def test_forced_output_needs_no_equal_realised_lengths(make_run):
    compare_runs(
        [
            make_run("a", values={"mean_output_tok": 200.0}),
            make_run("b", values={"mean_output_tok": 220.0}),
        ]
    )


def test_an_invalid_run_is_refused_with_its_reason_and_never_claimed_from(make_run):
    a, b = make_run("a"), make_run("b", status=Status.INVALID)
    with pytest.raises(InvalidRunError) as error:
        compare_runs([a, b])
    assert error.value.exit_code == 10
    assert "dropped" in error.value.cause
    found = compare_runs([a, b], ["verdict"])
    assert any("b is invalid" in note for note in found.notes)


def test_what_no_run_records_is_noted_where_it_is_optional_and_refused_where_not(make_run):
    a, b = make_run("a", fingerprint=None), make_run("b", fingerprint=None)
    assert any("tokenizer" in note for note in compare_runs([a, b]).notes)
    c, d = (
        make_run("c", labels={"context_scale": None}),
        make_run("d", labels={"context_scale": None}),
    )
    with pytest.raises(NotComparableError, match="context_scale"):
        compare_runs([c, d])


def test_arguments_that_make_no_comparison(make_run, tmp_path):
    a = make_run("a")
    with pytest.raises(ProfileError, match="at least two"):
        compare_runs([a])
    with pytest.raises(ProfileError, match="same run"):
        compare_runs([a, a])
    with pytest.raises(ProfileError, match="unknown identity key") as error:
        compare_runs([a, make_run("b")], ["gpu"])
    assert all(key in error.value.next_step for key in MISMATCH_KEYS)
    with pytest.raises(ArtifactError, match="nothing"):
        compare_runs([a, tmp_path / "nothing"])
    unreduced = make_run("c")
    (unreduced / "summary.json").unlink()
    with pytest.raises(ArtifactError) as missing:
        compare_runs([a, unreduced])
    assert f"harness reduce {unreduced}" in missing.value.next_step


# --- what is shown ---


def test_treatments_head_the_table_and_those_that_differ_are_marked_and_first(make_run):
    a = make_run("a", seed=1)
    b = make_run(
        "b",
        seed=2,
        gpu="NVIDIA H200",
        power_limit_w=500.0,
        settings={"dtype": "fp8", "max_num_seqs": 64},
    )
    found = compare_runs([a, b])
    differing = {treatment.key for treatment in found.treatments if treatment.differs}
    assert differing == {
        "gpu",
        "precision",
        "power_limit_w",
        "settings.max_num_seqs",
    }  # a port is no treatment
    shown = [row[0] for row in found.treatment_rows()]
    assert shown[0] == "verdict"
    assert {name.removeprefix("* ") for name in shown[1:5]} == differing
    assert {r[0]: r[1:] for r in found.treatment_rows()}["* gpu"] == (
        "1 x NVIDIA H100 80GB HBM3",
        "1 x NVIDIA H200",
    )


def test_the_result_is_json_rows_and_markdown(make_run):
    a, b = (
        make_run("a", values={"power_w": 600.0}),
        make_run("b", engine_version="0.33.0", values={"power_w": 660.0}),
    )
    found = compare_runs([a, b])
    loaded = json.loads(json.dumps(to_json(found), allow_nan=False))
    assert from_json(Comparison, loaded, "comparison") == found
    keys = {"sides", "treatments", "metrics", "stages", "allowed_mismatches", "gates", "notes"}
    assert keys == set(loaded)
    assert all(len(row) == len(found.columns()) for row in found.rows())
    assert all(len(row) == len(found.treatment_columns()) for row in found.treatment_rows())
    assert "power_w @ gpu_board" in found.to_markdown()
    assert "too few repeats" in found.to_markdown()
