"""One file in, a Profile or every error out: where, which key, what, and the fix."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.checked_yaml.load import MAX_BYTES
from harness.checked_yaml.problems import InvalidYamlError
from harness.core.errors import ProfileError
from harness.core.records import Api, OutputLength, Purpose
from harness.profile.distributions import Constant
from harness.profile.load import load_profile, load_profile_text, profile_path
from harness.profile.schema import Profile


def test_suffixes_become_numbers_in_the_keys_own_unit(valid):
    text = valid + "slos: {ttft_s: 500ms}\ndescription: x\n"
    text = text.replace("user_tok: 40", "user_tok: 16k\n    think_s: 2m\n    system_tok: 1Ki")
    profile = load_profile_text(text)
    workload = profile.traffic.workload
    assert profile.slos.ttft_s == 0.5
    assert profile.traffic.load[0].window_s == 15
    assert workload.kind == "chat"
    assert workload.user_tok == Constant(value=16_000)
    assert workload.think_s == Constant(value=120)
    assert workload.system_tok == 1024


def test_suffixes_inside_a_distribution_follow_the_key_that_it_is_for(valid, problems):
    good = valid.replace(
        "user_tok: 40",
        "think_s: {kind: uniform, min: 100ms, max: 2s}\n    user_tok: {kind: uniform, min: 10,"
        " max: 1k}",
    )
    workload = load_profile_text(good).traffic.workload
    assert (workload.think_s.min, workload.think_s.max, workload.user_tok.max) == (0.1, 2, 1000)
    [problem] = problems(
        valid.replace("user_tok: 40", "user_tok: {kind: uniform, min: 10, max: 1s}")
    )
    assert "max: 's' is not a unit" in problem.what


def test_what_is_not_said_has_a_default(valid):
    profile = load_profile_text(valid, name="stem")
    assert profile.name == "stem"
    assert profile.purpose is Purpose.SMOKE
    assert profile.output_length is OutputLength.NATURAL
    assert profile.traffic.api is Api.MESSAGES
    assert profile.slos.ttft_s is None


def test_the_name_is_the_files_stem_unless_given(tmp_path, valid):
    path = tmp_path / "my profile (2).yaml"
    path.write_text(valid)
    assert load_profile(path).name == "my-profile-2"
    path.write_text(valid + "name: given\n")
    assert load_profile(path).name == "given"


def test_a_stored_profile_loads_again(valid):
    profile = load_profile_text(valid, name="x")
    assert Profile.model_validate(profile.model_dump(mode="json")) == profile
    assert Profile.model_validate_json(profile.model_dump_json()) == profile


# --- errors of single keys ---


def test_all_errors_come_at_once_in_the_order_of_the_file(problems):
    found = problems("""\
        porpose: smoke
        purpose: smok
        model:
          id: builtin:tyni
        server: {kind: vlm, gpus: 3, extra_args: [--port=1]}
        traffic:
          api: chat
          workload: {kind: chat, user_tok: 30s, tools: 3}
          load:
            - concurrency: 0
              window_s: 10 parsecs
            - {kind: arrival_rate, rate_per_s: -1, sessions: 2}
        thresholds: [ttft_s < 1]
        price: {usd_per_gpu_h: 2, source: a list, date: 2026-13}
        """)
    assert [(problem.where, problem.path) for problem in found] == [
        ("p.yaml:1:1", "porpose"),
        ("p.yaml:2:1", "purpose"),
        ("p.yaml:4:3", "model.id"),
        ("p.yaml:5:10", "server.kind"),
        ("p.yaml:5:21", "server.gpus"),
        ("p.yaml:8:26", "traffic.workload.user_tok"),
        ("p.yaml:8:41", "traffic.workload.tools"),
        ("p.yaml:10:7", "traffic.load.0"),
        ("p.yaml:10:7", "traffic.load.0.concurrency"),
        ("p.yaml:11:7", "traffic.load.0.window_s"),
        ("p.yaml:12:28", "traffic.load.1.rate_per_s"),
        ("p.yaml:13:14", "thresholds.0"),
        ("p.yaml:14:43", "price.date"),
    ]
    assert not any(
        "pydantic" in str(problem) or "Input should" in str(problem) or "literal[" in str(problem)
        for problem in found
    )


@pytest.mark.parametrize(
    ("old", "new", "where", "path", "what", "fix"),
    [
        (
            "concurrency: 8",
            "concurency: 8",
            "13:7",
            "traffic.load.0.concurency",
            "unknown key",
            "did you mean `concurrency`?",
        ),
        (
            "window_s",
            "window",
            "14:7",
            "traffic.load.0.window",
            "unknown key",
            "did you mean `window_s`?",
        ),
        (
            "window_s",
            "window_ms",
            "14:7",
            "traffic.load.0.window_ms",
            "unknown key",
            "did you mean `window_s`?",
        ),
        (
            "api:",
            "concurrency: 3\n  api:",
            "7:3",
            "traffic.concurrency",
            "unknown key",
            "belongs at `traffic.load.N.concurrency`",
        ),
        (
            "user_tok: 40",
            "tools_tok: 4",
            "10:5",
            "traffic.workload.tools_tok",
            "unknown key",
            "belongs to `kind: claude-code`",
        ),
        (
            "purpose: smoke",
            "purpose: smoke\nzzzz: 1",
            "2:1",
            "zzzz",
            "unknown key",
            "keys here: name, purpose",
        ),
        (
            "concurrency: 8",
            "concurrency: eight",
            "13:7",
            "traffic.load.0.concurrency",
            "it is 'eight'",
            "a whole number, at least 1",
        ),
        (
            "concurrency: 8",
            "concurrency: true",
            "13:7",
            "traffic.load.0.concurrency",
            "it is true",
            "a whole number",
        ),
        (
            "concurrency: 8",
            "concurrency: -8",
            "13:7",
            "traffic.load.0.concurrency",
            "it is -8",
            "at least 1",
        ),
        (
            "concurrency: 8",
            "concurrency:",
            "13:7",
            "traffic.load.0.concurrency",
            "is empty",
            "a whole number",
        ),
        (
            "window_s: 15s",
            "window_s: 15q",
            "14:7",
            "traffic.load.0.window_s",
            "'q' is not a unit",
            "such as 30s",
        ),
        (
            "window_s: 15s",
            "window_s: -3",
            "14:7",
            "traffic.load.0.window_s",
            "must not be negative",
            "such as 30s",
        ),
        (
            "window_s: 15s",
            "window_s: [3]",
            "14:7",
            "traffic.load.0.window_s",
            "must be a duration",
            "such as 30s",
        ),
        (
            "window_s: 15s",
            "window_s: .nan",
            "14:7",
            "traffic.load.0.window_s",
            "must be finite",
            "such as 30s",
        ),
        (
            "window_s: 15s",
            f"window_s: '{'1' * 500_000}!'",
            "14:7",
            "traffic.load.0.window_s",
            "too long",
            "such as 30s",
        ),
        (
            "window_s: 15s",
            "window_s: 99999999d",
            "14:7",
            "traffic.load.0.window_s",
            "at most",
            "such as 30s",
        ),
        (
            "api: messages",
            "api: mesages",
            "7:3",
            "traffic.api",
            "`messages` or `chat`",
            "did you mean `messages`?",
        ),
        ("purpose: smoke", "name: a b", "1:1", "name", "'a b'", "letters, digits"),
        (
            "kind: torch",
            "kind: torhc",
            "5:3",
            "server.kind",
            "'torhc'",
            "`kind: torch`? Kinds are `vllm`, `torch`,",
        ),
        (
            "kind: torch",
            "threads: 1",
            "4:1",
            "server",
            "has no `kind`",
            "did you mean `kind: torch`?",
        ),
        ("  kind: torch", "  {}", "4:1", "server", "has no `kind`", "Kinds are `vllm`"),
        (
            "  - kind: concurrency",
            "  - name: a",
            "12:7",
            "traffic.load.0",
            "has no `kind`",
            "did you mean `kind: concurrency`?",
        ),
        (
            "kind: torch",
            "kind: torch\n  env: {A: 1}",
            "6:9",
            "server.env.A",
            "must be text; it is 1",
            'quote it: "1"',
        ),
        (
            "kind: torch",
            "kind: torch\n  gpus: 1",
            "6:3",
            "server.gpus",
            "`all` or `none` or a list",
            "`all`",
        ),
        (
            "kind: torch",
            "kind: torch\n  replicas: true",
            "6:3",
            "server.replicas",
            "it is true",
            "`auto` or a whole number",
        ),
        (
            "kind: torch",
            "kind: torch\n  port: 99999",
            "6:3",
            "server.port",
            "at most 65,535",
            "a whole number",
        ),
        (
            "id: builtin:tiny",
            "id: x\n  trust_remote_code: yes",
            "4:3",
            "model.trust_remote_code",
            "it is 'yes'",
            "write true",
        ),
        ("  id: builtin:tiny", "  {}", "2:1", "model.id", "is missing", "add `id`"),
        (
            "purpose: smoke",
            "seed: 1",
            "1:1",
            "purpose",
            "is missing",
            "`purpose: smoke` or `purpose: measure`",
        ),
        (
            "  load:\n",
            "  load: []\n  loud:\n",
            "11:3",
            "traffic.load",
            "is an empty list",
            "a list",
        ),
    ],
)
def test_an_error_says_where_what_and_the_fix(valid, problems, old, new, where, path, what, fix):
    assert old in valid
    found = {problem.path: problem for problem in problems(valid.replace(old, new, 1))}
    assert path in found, found
    assert found[path].where == f"p.yaml:{where}"
    assert what in found[path].what
    assert fix in found[path].fix


def test_a_misspelt_key_is_one_error_and_not_a_missing_one_too(valid, problems):
    assert len(problems(valid.replace("purpose", "porpose"))) == 1


def test_the_only_error_is_the_headline_of_the_exception(valid):
    with pytest.raises(InvalidYamlError) as caught:
        load_profile_text(valid.replace("8", "0"), source="p.yaml")
    assert str(caught.value).startswith(
        "p.yaml:13:7: traffic.load.0.concurrency: must be a whole number, at least 1"
    )
    assert "next step: write a whole number" in str(caught.value)
    assert caught.value.exit_code == 2


# --- the file ---


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("", "1:1", "is empty"),
        ("# nothing\n", "1:1", "is empty"),
        ("- a\n- b\n", "1:1", "must be a mapping"),
        ("just text\n", "1:1", "must be a mapping"),
        ("a: [1, 2\nb: 3\n", "2:2", "is not valid YAML"),
        ("a:\n\t- b\n", "2:1", "is not valid YAML"),
        ("a: b: c\n", "1:5", "is not valid YAML"),
        ("a: 1\n---\nb: 2\n", "2:1", "document"),
        ("a: *b\n", "1:4", "has no anchor &b"),
        ("a: &a [*a]\n", "1:8", "contains itself"),
        ("a: !!python/object:os.system x\n", "1:4", "tag"),
        ("a: !thing {b: 1}\n", "1:4", "tag"),
        ("? [a]\n: 1\n", "1:3", "a key"),
        ("a: " + "[" * 5000, "1:44", "40"),
        ('a: "\\UFFFFFFFF"\n', "1:1", "is not valid YAML"),
    ],
)
def test_text_that_is_no_profile_at_all(problems, text, where, what):
    [problem] = problems(text)
    assert problem.where == f"p.yaml:{where}"
    assert what in problem.what
    assert problem.fix


def test_a_key_given_twice_is_told_beside_the_other_errors(valid, problems):
    found = problems(
        valid.replace("purpose: smoke", "purpose: smoke\nseed: 1\nseed: 2").replace(
            "concurrency: 8", "concurrency: 0"
        )
    )
    assert [(problem.where, problem.path) for problem in found] == [
        ("p.yaml:3:1", "seed"),
        ("p.yaml:15:7", "traffic.load.0.concurrency"),
    ]
    assert "first on line 2" in found[0].what


def test_yaml_1_2_knows_few_booleans_and_no_dates(valid):
    profile = load_profile_text(
        valid + "description: no\nprice: {usd_per_gpu_h: 2, source: list, date: 2026-11-21}\n"
    )
    assert profile.description == "no"
    assert profile.price.date == "2026-11-21"


def test_anchors_and_merges_are_filled_in(valid):
    text = (
        valid.replace("    - kind: concurrency", "    - &first\n      kind: concurrency")
        + "    - {<<: *first, concurrency: 16}\n"
    )
    first, second = load_profile_text(text).traffic.load
    assert (first.concurrency, second.concurrency, second.window_s) == (8, 16, 15)


def test_an_error_behind_an_alias_names_the_path_and_the_anchored_line(valid, problems):
    text = valid.replace(
        "    - kind: concurrency\n      concurrency: 8",
        "    - &first\n      kind: concurrency\n      concurrency: 0",
    )
    found = problems(text + "    - {<<: *first, name: b}\n")
    assert [(problem.where, problem.path) for problem in found] == [
        ("p.yaml:14:7", "traffic.load.0.concurrency"),
        ("p.yaml:14:7", "traffic.load.1.concurrency"),
    ]


def test_aliases_of_aliases_are_bounded(problems):
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
    )
    [problem] = problems(bomb)
    assert "20,000" in problem.what


def test_a_missing_file_names_the_nearest_one(tmp_path, valid):
    (tmp_path / "cpu-smoke.yaml").write_text(valid)
    with pytest.raises(ProfileError, match=r"cpu-smok\.yaml") as caught:
        load_profile(tmp_path / "cpu-smok.yaml")
    assert caught.value.exit_code == 2
    assert "cpu-smoke.yaml" in caught.value.cause


def test_a_folder_is_no_profile_but_may_hold_some(tmp_path, valid):
    (tmp_path / "a.yaml").write_text(valid)
    with pytest.raises(ProfileError, match="is a folder") as caught:
        load_profile(tmp_path)
    assert "a.yaml" in caught.value.next_step


def test_a_file_that_is_no_utf8_is_told_with_its_line(tmp_path, valid):
    path = tmp_path / "p.yaml"
    path.write_bytes(valid.encode() + b"description: caf\xe9\n")
    with pytest.raises(ProfileError, match=r"p\.yaml:15: is not UTF-8"):
        load_profile(path)


def test_a_byte_order_mark_is_no_error(tmp_path, valid):
    path = tmp_path / "p.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + valid.encode())
    assert load_profile(path).name == "p"


def test_a_file_without_end_is_not_read_to_its_end():
    with pytest.raises(ProfileError, match=f"larger than {MAX_BYTES // 1024} KiB"):
        load_profile(Path("/dev/zero"))


def test_a_file_that_cannot_be_opened(tmp_path):
    (tmp_path / "p.yaml").touch()
    with pytest.raises(ProfileError, match="cannot read"):
        load_profile(tmp_path / "p.yaml" / "q.yaml")


def test_an_odd_path_is_an_error_for_people():
    with pytest.raises(ProfileError, match="cannot read"):
        load_profile(Path("a\0b"))


# --- overrides ---


def test_overrides_change_keys_list_items_and_sections(valid):
    profile = load_profile_text(
        valid,
        overrides=[
            "traffic.load.0.concurrency=32",
            "traffic.load.0.window_s=1m",
            "slos.ttft_s=2",
            "traffic.timeouts.total_s=90s",
            "server={kind: vllm, gpus: [0, 1]}",
            "server.tensor_parallel_size=2",
            "thresholds.0=ttft_s.p99 < 2",
            "traffic.load.1={kind: arrival_rate, rate_per_s: 2, sessions: 3}",
            "description=a = b",
            "seed=3",
            "seed=4",
        ],
    )
    assert profile.traffic.load[0].concurrency == 32
    assert profile.traffic.load[0].window_s == 60
    assert profile.traffic.load[1].kind == "arrival_rate"
    assert profile.slos.ttft_s == 2
    assert profile.traffic.timeouts.total_s == 90
    assert profile.server.gpus == (0, 1)
    assert profile.thresholds == ("ttft_s.p99 < 2",)
    assert profile.description == "a = b"
    assert profile.seed == 4


@pytest.mark.parametrize(
    ("override", "path", "what", "fix"),
    [
        (
            "traffic.load.0.concurency=1",
            "traffic.load.0.concurency",
            "unknown key",
            "did you mean `concurrency`?",
        ),
        ("trafic.api=chat", "trafic", "unknown key", "did you mean `traffic`?"),
        (
            "traffic.load.0.concurrency=many",
            "traffic.load.0.concurrency",
            "it is 'many'",
            "a whole number",
        ),
        ("traffic.load.3.concurrency=1", "traffic.load", "1 items", "0 to 1"),
        (
            "traffic.load.first.concurrency=1",
            "traffic.load",
            "'first' is not a position",
            "traffic.load.0",
        ),
        ("model.id.x=1", "model.id", "single value", "--set model.id=…"),
        ("traffic.api", "", "is not KEY=VALUE", "dotted path"),
        ("=3", "", "is not KEY=VALUE", "dotted path"),
        ("a..b=3", "", "is not KEY=VALUE", "dotted path"),
        ("seed=[1", "", "is not valid YAML", "check"),
        ("seed={a: 1, a: 2}", "a", "duplicate", "keep one"),
        (
            "server=3",
            "server",
            "must be a section with `kind`",
            "write a section with `kind`: vllm",
        ),
        ("traffic.output_length=forced", "", "", ""),
    ],
)
def test_a_wrong_override_is_named_in_place_of_a_line(valid, problems, override, path, what, fix):
    found = problems(valid, override)
    if not what:
        assert not found  # builtin:tiny cannot end an answer by itself, so lengths can be forced
        return
    [problem] = found
    assert problem.where == f"--set {override}"
    assert problem.path == path
    assert what in problem.what
    assert fix in problem.fix


def test_errors_of_overrides_come_after_those_of_the_file(valid, problems):
    found = problems(valid.replace("purpose: smoke", "purpose: smok"), "seed=-1", "x=1")
    assert [problem.where for problem in found] == ["p.yaml:1:1", "--set seed=-1", "--set x=1"]


# --- anything at all ---


def assert_loads_or_is_told(text, overrides=()):
    """No exception but the one for people, and that one says something."""
    told = None
    try:
        load_profile_text(text, overrides=overrides)
    except InvalidYamlError as error:
        told = error.problems
    assert told is None or (told and all(problem.what and problem.fix for problem in told))


SNIPPETS = st.sampled_from(
    [
        ":",
        "-",
        "{",
        "}",
        "[",
        "]",
        "&a",
        "*a",
        "<<: *a",
        "!!int",
        "'",
        '"',
        "|",
        ">",
        "\t",
        "\n",
        "%YAML 1.1",
        "---",
        "...",
        "#",
        "~",
        "? ",
        "\\x",
        "\0",
        "\x07",
        "\ufeff",
        "\U0001f600",
        "1e999",
        ".inf",
        ".nan",
        "-0",
        "0x",
        "0o9",
        "9" * 60,
        "true",
        "null",
        "kind:",
        "traffic:",
        "load:",
        "30s",
        "-1",
        "NaN",
        "[[[[",
        "{a: {a: {a: ",
        "!<tag:x> y",
        "@",
        "`",
        "\u2028",
        "\x85",
    ]
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_mutation_of_a_profile_loads_or_is_told(valid, data):
    text = valid + "server2: &a {x: 1}\n" if data.draw(st.booleans()) else valid
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        text = text[:start] + data.draw(st.one_of(SNIPPETS, st.text(max_size=6))) + text[end:]
    assert_loads_or_is_told(text)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), SNIPPETS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["kind", "min", "max", "value", "x", "mean"]), inner, max_size=3
        ),
    ),
    max_leaves=6,
)
KEYS = """purpose seed name model model.id model.max_context_tok server server.kind server.gpus server.env server.env.A server.replicas
    server.extra_args server.urls traffic traffic.load traffic.load.0 traffic.load.1 traffic.load.0.kind traffic.load.0.window_s
    traffic.load.0.concurrency traffic.workload traffic.workload.kind traffic.workload.think_s traffic.workload.turns
    traffic.context_scale traffic.timeouts slos slos.ttft_s telemetry.require thresholds thresholds.0 price price.date x.y.z
"""
PATHS = st.sampled_from(KEYS.split())


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(overrides=st.lists(st.tuples(PATHS, VALUES), min_size=1, max_size=4))
def test_any_value_at_any_key_loads_or_is_told(valid, overrides):
    assert_loads_or_is_told(valid, [f"{path}={json.dumps(value)}" for path, value in overrides])


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_as_an_override_loads_or_is_told(text):
    assert_loads_or_is_told("purpose: smoke\n", [text])


def test_a_name_that_cannot_be_looked_up_is_an_error_of_the_profile() -> None:
    name = Path("a" * 300)
    assert profile_path(name) == name
    with pytest.raises(ProfileError):
        load_profile(profile_path(name))
