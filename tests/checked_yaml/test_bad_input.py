"""Bad input of every kind of file that people write: place, key and fix, never a traceback."""

import pytest

from harness.checked_yaml.load import MAX_BYTES, load_text
from harness.checked_yaml.problems import InvalidYamlError
from harness.compare.gates import read_gates
from harness.core.errors import ProfileError
from harness.fleet.site.catalog import load_site
from harness.fleet.site.types import GpuSpec, Prior
from harness.profile.load import load_profile

PROFILE = """\
purpose: smoke
model:
  id: builtin:tiny
traffic:
  workload: {kind: chat, user_tok: 40}
  load:
    - {kind: concurrency, concurrency: 8, window_s: 15s}
"""
SITE = """\
ours:
  gpu: {value: H100, source: us, date: 2026-01}
  gpus: {value: 1000, source: us, date: 2026-01}
"""
GATES = """\
thresholds:
  - ttft_s.p99 < 1.5
  - output_tok_s >= 0.95 * baseline
"""
KINDS = {
    "profile": (load_profile, PROFILE),
    "site": (load_site, SITE),
    "gates": (read_gates, GATES),
}
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@pytest.fixture(name="problems", params=KINDS)
def _problems(request, tmp_path):
    """What is wrong with a text as a file of each kind, as (line, column, path, what, fix)."""
    load, _ = KINDS[request.param]

    def read(text):
        path = tmp_path / f"{request.param}.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(InvalidYamlError) as caught:
            load(path)
        assert all(problem.place.source == str(path) for problem in caught.value.problems)
        assert all(problem.fix for problem in caught.value.problems)
        return caught.value.problems

    read.kind, read.good = request.param, KINDS[request.param][1]
    return read


@pytest.mark.parametrize(
    ("kind", "old", "new", "where", "path", "fix"),
    [
        ("profile", "purpose:", "porpose:", "1:1", "porpose", "`purpose`"),
        ("site", "gpus:", "gpuss:", "3:3", "ours.gpuss", "`gpus`"),
        ("site", "value: 1000", "vlaue: 1000", "3:10", "ours.gpus.vlaue", "`value`"),
        ("gates", "thresholds:", "threshold:", "1:1", "threshold", "`thresholds`"),
        # a wrong kind
        ("profile", "purpose: smoke", "purpose: 3", "1:1", "purpose", "`smoke` or `measure`"),
        ("profile", "kind: chat", "kind: chta", "5:14", "traffic.workload.kind", "`kind: chat`"),
        ("site", "value: 1000", "value: many", "3:10", "ours.gpus.value", "a number"),
        ("site", "{value: H100, source: us, date: 2026-01}", "[a]", "2:3", "ours.gpu", "value: …"),
        ("gates", "ttft_s.p99 < 1.5", "{a: 1}", "2:5", "thresholds.0", "write it as"),
        ("gates", "ttft_s.p99 < 1.5", "ttft_s < 1.5", "2:5", "thresholds.0", "write it as in"),
        # a missing key
        ("profile", "  id: builtin:tiny", "  {}", "2:1", "model.id", "add `id`"),
        ("site", "source: us, date: 2026-01}\n  g", "date: 2026-01}\n  g", "2:3", "ours.gpu.source", "add"),
        # a key twice
        ("profile", "model:", "purpose: smoke\nmodel:", "2:1", "purpose", "keep one"),
        ("site", "  gpus:", "  gpu: 1\n  gpus:", "3:3", "ours.gpu", "keep one"),
        ("gates", "thresholds:", "thresholds: []\nthresholds:", "2:1", "thresholds", "keep one"),
    ],
)  # fmt: skip
def test_a_wrong_key_has_place_and_fix(tmp_path, kind, old, new, where, path, fix):
    load, good = KINDS[kind]
    file = tmp_path / "file.yaml"
    assert old in good
    file.write_text(good.replace(old, new, 1))
    with pytest.raises(InvalidYamlError) as caught:
        load(file)
    found = {problem.path: problem for problem in caught.value.problems}
    assert path in found, found
    assert found[path].where == f"{file}:{where}"
    assert fix in found[path].fix


def test_a_good_file_of_each_kind_loads(tmp_path):
    for kind, (load, good) in KINDS.items():
        path = tmp_path / f"{kind}.yaml"
        path.write_text(good)
        assert load(path)


@pytest.mark.parametrize(
    ("root", "old", "new", "path", "fix"),
    [
        (GpuSpec, "board_power_w", "board_power", "x.board_power", "`board_power_w`"),
        (GpuSpec, "includes: [gpu]", "includes: [gpus]", "x.board_power_w.includes.0", "`gpu`"),
        (GpuSpec, "includes: [gpu], ", "", "x.board_power_w.includes", "add `includes`"),
        (GpuSpec, "title", "name", "x.name", "the name above"),
        (Prior, "kind: uniform", "kind: unifrom", "x.kind", "`uniform`"),
        (Prior, "low: 1", "low: 3", "x", ""),
        (Prior, "high: 2", "hihg: 2", "x.hihg", "`high`"),
    ],
)
def test_data_files_are_held_to_their_types(root, old, new, path, fix):
    good = {
        GpuSpec: "x: {title: x, nvml_name: x, board_power_w: {value: 1, includes: [gpu], "
        "source: us, date: 2026-01}}",
        Prior: "x: {title: x, kind: uniform, low: 1, high: 2, source: us, date: 2026-01}",
    }[root]
    assert load_text(good, "x.yaml", dict[str, root])
    with pytest.raises(InvalidYamlError) as caught:
        load_text(good.replace(old, new, 1), "x.yaml", dict[str, root])
    found = {problem.path: problem for problem in caught.value.problems}
    assert path in found, found
    assert fix in found[path].fix


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}"])
def test_an_empty_file(problems, text):
    [problem] = problems(text)
    assert (problem.where.rpartition(".yaml")[2], problem.what) == (":1:1", "is empty")


def test_a_list_in_place_of_a_mapping(problems):
    [problem] = problems("- a\n")
    assert problem.place.line == 1
    assert problem.what


def test_text_in_place_of_a_mapping(problems):
    [problem] = problems("just text\n")
    assert "must be a mapping" in problem.what


def test_tabs(problems):
    [problem] = problems(f"{problems.good.splitlines()[0]}\n\ta: 1\n")
    assert problem.place.line == 2
    assert "spaces" in problem.fix


@pytest.mark.parametrize("text", [BOMB, "a: &a [*a]\n", "a: " + "[" * 100, "a: *b\n"])
def test_aliases_and_nesting_are_bounded(problems, text):
    [problem] = problems(text)
    assert problem.place.line is not None


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("*: 1\n", '"*":'),
        ("a:\n  - *: {x: 1}\n", '"*":'),
        ("a: {*b: 1}\n", '"*b":'),
        ("a: *.x\n", '"*.x"'),
        ("a:\n  - * : 1\n", "quote"),
        ("a: *\n", "quote"),
    ],
)
def test_a_key_or_text_that_looks_like_an_alias_is_to_be_quoted(problems, text, quoted):
    [problem] = problems(text)
    assert problem.place.line == text.count("\n")
    assert quoted in problem.fix


def test_tags_run_nothing(problems):
    [problem] = problems("a: !!python/object/apply:os.system ['id']\n")
    assert "tag" in problem.what


def test_merges_of_merges_are_bounded(problems):
    text = "a0: &a0 {x: 1}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 12)
    )
    assert problems(text)


def test_bad_utf_8_names_its_line(tmp_path):
    for kind, (load, good) in KINDS.items():
        path = tmp_path / f"{kind}.yaml"
        path.write_bytes(good.encode() + b"# caf\xe9\n")
        with pytest.raises(ProfileError, match=rf"{kind}\.yaml:{good.count(chr(10)) + 1}: "):
            load(path)


def test_a_file_of_10_mb_is_refused_unread(tmp_path):
    for kind, (load, _) in KINDS.items():
        path = tmp_path / f"{kind}.yaml"
        path.write_bytes(b"- a\n" * (10 * 1024 * 1024 // 4))
        with pytest.raises(ProfileError, match=f"larger than {MAX_BYTES // 1024} KiB"):
            load(path)


@pytest.mark.parametrize("kind", KINDS)
def test_any_value_at_any_line_loads_or_is_told_in_plain_words(tmp_path, kind):
    values = ["3", "text", "[1]", "{a: 1}", "null", "true", "-1", ".nan", "[[]]", "{value: 1}"]
    path = tmp_path / "file.yaml"
    load, good = KINDS[kind]
    lines, said = good.splitlines(), []
    for number in (number for number, line in enumerate(lines) if ":" in line):
        for value in values:
            changed = f"{lines[number].partition(':')[0]}: {value}"
            path.write_text("\n".join([*lines[:number], changed, *lines[number + 1 :]]))
            try:
                load(path)
            except ProfileError as error:
                said.append(str(error))
    assert said
    assert not [text for text in said if "pydantic" in text or "Input should" in text]
