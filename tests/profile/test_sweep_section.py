"""The `sweep` section: axes, combinations, and what is refused with its place."""

import pytest

from harness.checked_yaml.problems import InvalidYamlError
from harness.profile.load import load_profile_text
from harness.profile.sweep import amount, axes, axis_values, combinations, parse_axis

LOAD = "traffic.load.0.concurrency"
PROFILE = """\
purpose: smoke
model: {id: builtin:tiny}
server: {kind: torch}
traffic:
  workload: {kind: chat}
  load: [{kind: concurrency, concurrency: 2, window_s: 2s}]
"""


def load(section: str, extra: str = "", **options):
    return load_profile_text(f"{PROFILE}{extra}sweep:\n{section}", **options)


def problems(section: str, extra: str = "") -> dict[str, tuple[str, str]]:
    with pytest.raises(InvalidYamlError) as caught:
        load(section, extra)
    return {one.path: (one.what, one.fix) for one in caught.value.problems}


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ({"from": 1, "to": 256, "times": 2}, (1, 2, 4, 8, 16, 32, 64, 128, 256)),
        ({"from": 1, "to": 100, "times": 2}, (1, 2, 4, 8, 16, 32, 64)),
        ({"from": 8, "to": 32, "step": 8}, (8, 16, 24, 32)),
        ({"from": 1, "to": 5, "times": 1.5}, (1, 2, 3)),
        ({"from": 0.5, "to": 2.0, "times": 2}, (0.5, 1.0, 2.0)),
        ({"from": "1k", "to": "4k", "times": 2}, (1000, 2000, 4000)),
        ([1, "4k", True, None, 2.5], (1, "4k", True, None, 2.5)),
        ([1, True], (1, True)),
    ],
)
def test_an_axis_is_a_list_or_a_range(written, values):
    found = axis_values(written)
    assert found == values
    assert [type(one) for one in found] == [type(one) for one in values]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1..256x4", (1, 4, 16, 64, 256)),
        ("8..64+28", (8, 36, 64)),
        ("1,2,4", (1, 2, 4)),
        ("true,false", (True, False)),
        ("4k, 8k", ("4k", "8k")),
        ("auto", ("auto",)),
        ("0.5..2.0x2", (0.5, 1.0, 2.0)),
    ],
)
def test_the_command_line_has_the_same_axes(text, values):
    assert axis_values(parse_axis(text)) == values


def test_a_range_without_a_step_is_refused():
    with pytest.raises(ValueError, match="x2"):
        parse_axis("1..256")


@pytest.mark.parametrize(("text", "value"), [("4k", 4000), ("30s", 30.0), ("4GiB", 4 * 1024**3)])
def test_ends_of_ranges_take_suffixes(text, value):
    assert amount(text) == value


@pytest.mark.parametrize(
    ("section", "word"),
    [
        ("[]", "no values"),
        ("{}", "from"),
        ("{from: 1, to: 8}", "times"),
        ("{from: 1, to: 8, times: 2, step: 2}", "one of"),
        ("{from: 8, to: 1, times: 2}", "above `from`"),
        ("{from: 1, to: 8, times: 1}", "above 1"),
        ("{from: 0, to: 8, times: 2}", "above 0"),
        ("{from: 1, to: 8, step: 0}", "above 0"),
        ("{from: 1, to: 1M, step: 1}", "1,000"),
        ("{from: 1, too: 8, times: 2}", "'too'"),
        ("{from: one, to: 8, times: 2}", "'one'"),
        ("[1, 2, 1]", "twice"),
        ("[[1]]", "each value"),
        ("7", "list or a range"),
    ],
)
def test_what_is_no_axis_is_refused_at_its_key(section, word):
    found = problems(f"  over: {{{LOAD}: {section}}}")
    assert list(found) == [f"sweep.over.{LOAD}"]
    assert word in found[f"sweep.over.{LOAD}"][0]


def test_an_unknown_key_has_the_nearest_one_named():
    found = problems("  over: {traffic.load.0.concurency: [1, 2]}")
    assert found["sweep.over.traffic.load.0.concurency"] == (
        "unknown key",
        f"did you mean `{LOAD}`?",
    )
    assert "sweep.zip.0.server.replica" in problems("  zip: [{server.replica: [1, 2]}]")
    assert "over" in problems("  ovr: {seed: [1]}")["sweep.ovr"][1]


@pytest.mark.parametrize(
    "key", ["seed", "name", "model.id", "model.served_name", "sweep.repeats", "repeats"]
)
def test_keys_that_make_no_comparable_runs_cannot_be_varied(key):
    assert problems(f"  over: {{{key}: [1, 2]}}")[f"sweep.over.{key}"][0] == "cannot be varied"


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ("  over: {}", "sweep"),
        ("  repeats: 2", "sweep"),
        (f"  over: {{{LOAD}: [1]}}\n  zip: [{{{LOAD}: [2]}}]", f"sweep.zip.0.{LOAD}"),
        (
            f"  zip: [{{{LOAD}: [2]}}, {{{LOAD}: [2]}}]",
            f"sweep.zip.1.{LOAD}",
        ),
        (
            f"  zip: [{{{LOAD}: [1, 2], server.max_batch_tok: [64]}}]",
            "sweep.zip.0",
        ),
    ],
)
def test_impossible_combinations_of_axes_are_refused(section, path):
    assert list(problems(section)) == [path]


def test_repeats_of_the_profile_and_a_sweep_exclude_each_other():
    assert list(problems(f"  over: {{{LOAD}: [1]}}", "repeats: 3\n")) == ["repeats"]


def test_combinations_are_products_with_groups_that_vary_together():
    profile = load(
        f"""\
  over: {{{LOAD}: [1, 2]}}
  zip: [{{server.max_batch_tok: [64, 128], server.page_tok: [8, 16]}}]
"""
    )
    assert profile.sweep is not None
    found = [tuple(one.values()) for one in combinations(profile.sweep)]
    assert found == [(1, 64, 8), (1, 128, 16), (2, 64, 8), (2, 128, 16)]
    assert [(key, group) for key, _, group in axes(profile.sweep)] == [
        (LOAD, None),
        ("server.max_batch_tok", 0),
        ("server.page_tok", 0),
    ]


def test_a_section_of_other_options_replaces_the_profiles():
    section = {"over": {LOAD: [1, 2, 3]}}
    profile = load(f"  over: {{{LOAD}: [9]}}", sections={"sweep": section})
    assert profile.sweep is not None
    assert dict(profile.sweep.over) == {LOAD: (1, 2, 3)}
    with pytest.raises(InvalidYamlError) as caught:
        load(f"  over: {{{LOAD}: [9]}}", sections={"sweep": {"over": {LOAD: []}}})
    assert caught.value.problems[0].where == "options"
