"""manifest.json: whole at every moment, without secrets, and read back or refused by name."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.layout import SCHEMA_VERSION, RunDir
from harness.artifacts.manifest import Manifest, plain, read_manifest_json, redacted
from harness.core.errors import ArtifactError
from harness.core.records import Concern, RunState, Severity


@dataclass
class Part:
    where: Path
    sizes: tuple[int, ...]


def test_what_was_written_is_read_back_and_updates_replace_it(run: RunDir) -> None:
    manifest = Manifest(
        run,
        {
            "run_id": "r",
            "part": Part(Path("/x"), (1, 2)),
            "kinds": {Severity.NOTE},
            "by": {1: [Part(Path("y"), ())]},
        },
    )
    assert manifest.state is RunState.RUNNING
    assert read_manifest_json(run) == {
        "schema_version": SCHEMA_VERSION,
        "state": "running",
        "concerns": [],
        "error": None,
        "run_id": "r",
        "part": {"where": "/x", "sizes": [1, 2]},
        "kinds": ["note"],
        "by": {"1": [{"where": "y", "sizes": []}]},
    }
    manifest.update(state=RunState.COMPLETE, ended_ns=5)
    assert (
        read_manifest_json(run)["state"],
        read_manifest_json(run)["ended_ns"],
        read_manifest_json(run)["run_id"],
    ) == ("complete", 5, "r")
    assert manifest.state is RunState.COMPLETE
    assert plain(Part) is Part  # a class is no value


def test_a_concern_is_there_once(run: RunDir) -> None:
    manifest = Manifest(run, {})
    for value in (1.0, 1.0, 2.0):
        manifest.add_concern(Concern("a_code", Severity.DEGRADED, "Something.", value))
    assert [concern["value"] for concern in read_manifest_json(run)["concerns"]] == [1.0, 2.0]


@pytest.mark.parametrize(
    "key",
    ["api_key", "API-KEY", "apikey", "hf_token", "client_secret", "db_password", "Authorization"],
)
def test_secrets_do_not_reach_the_disk_at_any_depth(run: RunDir, key: str) -> None:
    manifest = Manifest(run, {"server": {"env": [{key: "hush"}]}})
    manifest.update(later={key: "hush"})
    text = run.manifest.read_text()
    assert "hush" not in text
    assert text.count("<redacted>") == 2


def test_names_of_places_numbers_and_other_keys_stay() -> None:
    kept = {
        "api_key_env": "KEY",
        "api_key_file": "/k",
        "max_token": 5,
        "tokens": "many",
        "secretary": "x",
        "token": None,
        "X-Api-Key": "env:GATEWAY_KEY",
    }
    assert redacted(kept) == kept


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "JSON object"),
        ("{}", "schema_version None"),
        (json.dumps({"schema_version": SCHEMA_VERSION + 1}), f"reads up to {SCHEMA_VERSION}"),
        ('{"schema_version": "1"}', "schema_version '1'"),
    ],
)
def test_what_is_no_manifest_is_refused_by_what_is_wrong_with_it(
    run: RunDir, content: str | None, says: str
) -> None:
    if content is not None:
        run.manifest.write_text(content)
    with pytest.raises(ArtifactError) as caught:
        read_manifest_json(run)
    assert says in str(caught.value)


def test_a_manifest_that_cannot_be_written_leaves_the_one_before(run: RunDir) -> None:
    manifest = Manifest(run, {"n": 1})
    with pytest.raises(ValueError, match="JSON"):
        manifest.update(n=float("nan"))
    found: dict[str, Any] = read_manifest_json(run)
    assert found["n"] == 1
