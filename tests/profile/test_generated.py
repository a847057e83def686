"""What follows from the types is committed and current; the JSON Schema takes what the loader
takes.
"""

import json
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from harness.checked_yaml import shape
from harness.core.records import ModelFacts
from harness.plan.build import make_plan
from harness.profile import generate
from harness.profile.load import load_profile
from harness.profile.rules import BUILTIN_MODELS

ROOT = Path(__file__).resolve().parents[2]
QUICK = "gpu-quick"
PROFILES = sorted((ROOT / "loadprofiles").glob("*.y*ml"))


@pytest.fixture(name="validator", scope="module")
def _validator():
    schema = json.loads(generate.SCHEMA_PATH.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_schema_and_the_reference_are_what_the_types_say():
    assert generate.main(["--check"]) == 0, "run python -m harness.profile.generate"


def test_a_stale_file_fails_the_check(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate, "REFERENCE_PATH", tmp_path / "docs" / "reference.md")
    assert generate.main(["--check"]) == 1
    assert "reference.md" in capsys.readouterr().err
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0


def test_every_key_is_explained():
    undocumented = [
        (*path, name)
        for path, _, model in shape.sections(generate.Profile)
        for name in shape.keys_of(model)
        if not model.model_fields[name].description and name != "kind"
    ]
    assert undocumented == []


def test_every_key_is_in_the_reference():
    text = generate.REFERENCE_PATH.read_text(encoding="utf-8")
    for name in shape.keys_by_name(generate.Profile):
        assert f"| `{name}` |" in text


def test_there_are_profiles_to_begin_with():
    names = {path.stem for path in PROFILES}
    assert {"cpu-smoke", "cpu-vllm", "gpu-chat", "gpu-claude-code", "gpu-dummy-70b"} <= names


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_ready_made_profile_is_valid(path, validator):
    profile = load_profile(path)
    assert profile.name == path.stem
    assert profile.description
    validator.validate(YAML(typ="safe", pure=True).load(path))
    first, _, rest = path.read_text(encoding="utf-8").partition("\n")
    assert first == "# yaml-language-server: $schema=../harness/profile/profile.schema.json"
    assert rest.startswith("# "), "a ready-made profile says what it is for"


@pytest.mark.parametrize(
    "path", [path for path in PROFILES if path.stem.startswith("cpu-")], ids=lambda path: path.stem
)
def test_profiles_for_cpus_need_no_hub_and_no_gpu(path):
    profile = load_profile(path)
    assert profile.purpose == "smoke"
    assert profile.model.id in BUILTIN_MODELS
    assert profile.server.device == "cpu"


@pytest.mark.parametrize(
    "path",
    [path for path in PROFILES if path.stem.startswith(("gpu-", "isl-")) and path.stem != QUICK],
    ids=lambda path: path.stem,
)
def test_profiles_for_gpus_measure_long_enough_for_a_headline(path):
    profile = load_profile(path)
    assert profile.purpose == "measure"
    # Stages made for attribution are many and short: their slices are what counts, and no headline
    # is claimed from them.
    assert all(
        stage.window_s >= (90 if profile.energy.attribute else 600)
        for stage in profile.traffic.load
    )
    assert set(profile.telemetry.require) == {"server_metrics", "gpu_power"}


def test_the_quick_profile_leaves_time_for_a_start_within_five_minutes():
    profile = load_profile(ROOT / "loadprofiles" / f"{QUICK}.yaml")
    stages_s = sum(stage.warmup_s + stage.window_s for stage in profile.traffic.load)
    certificate_s, start_s = 60, 90
    assert profile.purpose == "measure"
    assert stages_s + 2 * profile.idle_s + certificate_s + start_s < 300


def test_the_attach_profile_leaves_model_and_api_open():
    profile = load_profile(
        ROOT / "loadprofiles" / "attach.yaml", ["server.urls.0=http://127.0.0.1:9"]
    )
    assert (profile.model.id, profile.traffic.api, profile.output_length) == (None, None, "forced")
    assert profile.server.urls == ("http://127.0.0.1:9",)


def test_the_pairs_of_lengths_are_those_of_inferencex():
    profile = load_profile(ROOT / "loadprofiles" / "isl-osl.yaml")
    pairs = {
        part.name: (part.workload.user_tok.max, part.workload.output_tok.max)
        for part in profile.traffic.workload.parts
    }
    assert pairs == {"1k-1k": (1024, 1024), "8k-1k": (8192, 1024), "1k-8k": (1024, 8192)}
    plan = make_plan(profile, ModelFacts(profile.model_id))
    assert (plan.context_scale, profile.server.prefix_caching) == (1, False)


def test_the_hint_in_the_70b_profile_works():
    profile = load_profile(
        ROOT / "loadprofiles" / "gpu-dummy-70b.yaml",
        ["server.gpus=[0, 1]", "server.tensor_parallel_size=2"],
    )
    assert profile.server.gpus == (0, 1)


def test_the_example_of_the_reference_loads(tmp_path):
    text = generate.REFERENCE_PATH.read_text(encoding="utf-8")
    path = tmp_path / "example.yaml"
    path.write_text(text.split("```yaml\n")[1].split("```")[0])
    load_profile(path)


@pytest.mark.parametrize(
    ("path", "value", "right"),
    [
        (("traffic", "load", 0, "window_s"), "15s", True),
        (("traffic", "load", 0, "window_s"), "1.5 min", True),
        (("traffic", "load", 0, "window_s"), 15, True),
        (("traffic", "load", 0, "window_s"), "15q", False),
        (("traffic", "load", 0, "window_s"), -1, False),
        (("traffic", "load", 0, "concurrency"), 0, False),
        (("traffic", "load", 0, "concurency"), 1, False),
        (("traffic", "load", 0, "kind"), "arrival_rate", False),
        (("traffic", "workload", "user_tok"), "16k", True),
        (("traffic", "workload", "user_tok"), 16, True),
        (("traffic", "workload", "user_tok"), {"kind": "uniform", "min": "1k", "max": 3000}, True),
        (("traffic", "workload", "user_tok"), {"value": 3}, True),
        (("traffic", "workload", "user_tok"), {"kind": "normal"}, False),
        (("model", "max_context_tok"), "16Ki", True),
        (("model", "max_context_tok"), "16kB", False),
        (
            ("server",),
            {"kind": "vllm", "cpu_kv_cache_bytes": "4GiB", "gpus": [0, "GPU-1"], "replicas": 2},
            True,
        ),
        (("server",), {"kind": "vllm", "cpu_kv_cache_bytes": "4 GiB", "gpus": "some"}, False),
        (("server",), {"kind": "attach", "urls": ["ftp://h"]}, False),
        (("purpose",), "smok", False),
    ],
)
def test_the_schema_and_the_loader_agree(valid, problems, validator, path, value, right):
    document = YAML(typ="safe", pure=True).load(valid)
    section = document
    for part in path[:-1]:
        section = section[part]
    section[path[-1]] = value
    assert validator.is_valid(document) is right
    assert (not problems(json.dumps(document))) is right
