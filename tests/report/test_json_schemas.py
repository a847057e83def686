"""Committed JSON Schemas cover the files that commands write."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from harness.artifacts.layout import SCHEMA_VERSION
from harness.artifacts.typed_json import to_json
from harness.compare.sweeps import compare_sweeps
from harness.report import generate, json_schemas
from harness.sweeps.frontier import frontier_file
from harness.sweeps.points import load_sweep

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = [
    *(("summary", path) for path in GOLDEN.rglob("summary.json")),
    *(("manifest", path) for path in GOLDEN.rglob("manifest.json")),
    *(("comparison", path) for path in GOLDEN.glob("expected/compare-*.json")),
    *(("fleet", path) for path in GOLDEN.glob("expected/fleet-*.json")),
]
NAMES = ("summary", "manifest", "comparison", "fleet")
OF_SWEEPS = ("sweep", "frontier", "sweep-comparison")


def validator(name: str) -> Draft202012Validator:
    schema = json.loads((json_schemas.FOLDER / f"{name}.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_committed_schemas_are_current() -> None:
    for path, text in json_schemas.schemas().items():
        assert path.read_text() == text, "run `make fmt` (or python -m harness.report.generate)"


@pytest.mark.parametrize("name", [*NAMES, *OF_SWEEPS])
def test_a_schema_has_an_id_with_its_version(name: str) -> None:
    assert validator(name).schema["$id"].endswith(f":{name}:{SCHEMA_VERSION}")


def test_files_of_sweeps_are_valid(tmp_path, made_sweep) -> None:
    a, b = (made_sweep.make_sweep(tmp_path / name, (1, 2)) for name in "ab")
    files = {
        "sweep": json.loads((a / "sweep.json").read_text()),
        "frontier": to_json(frontier_file(load_sweep(a))),
        "sweep-comparison": to_json(compare_sweeps([a, b])),
    }
    for name in OF_SWEEPS:
        assert [one.message for one in validator(name).iter_errors(files[name])] == [], name
    files["frontier"]["frontiers"][0]["points"][0]["place"] = "near"
    assert list(validator("frontier").iter_errors(files["frontier"]))


def test_golden_files_are_valid() -> None:
    assert {name for name, _ in FILES} == set(NAMES)
    for name, path in FILES:
        errors = [
            error.message for error in validator(name).iter_errors(json.loads(path.read_text()))
        ]
        assert errors == [], path


@pytest.mark.parametrize(
    ("name", "keys", "wrong"),
    [
        ("summary", ("metrics", "output_tok_s", "value"), "fast"),
        ("summary", ("schema_version",), SCHEMA_VERSION + 1),
        ("summary", ("verdict", "status"), "splendid"),
        ("summary", ("server",), "many"),
        ("manifest", ("seed",), "many"),
        ("comparison", ("metrics", 0, "key"), None),
        ("fleet", ("cases", 0, "estimate", "factors"), []),
    ],
)
def test_a_wrong_value_is_found(name: str, keys: tuple[Any, ...], wrong: Any) -> None:
    value = json.loads(next(path for known, path in FILES if known == name).read_text())
    place = value
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = wrong
    found = [tuple(error.absolute_path) for error in validator(name).iter_errors(value)]
    assert found == [keys]


def test_a_stale_schema_fails_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(json_schemas, "FOLDER", tmp_path / "schemas")
    assert generate.main(["--check"]) == 1
    assert not (tmp_path / "schemas").exists()
    assert len(capsys.readouterr().err.splitlines()) == len(NAMES + OF_SWEEPS)
