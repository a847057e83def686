"""The manifest of a run that goes on, ends, or fails."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.commands.display import QuietView
from harness.commands.steps.prepare import make_run_dir, prepare
from harness.commands.steps.run_record import RunRecord
from harness.core.errors import ArtifactError, InterruptedRunError, ServerError
from harness.core.records import Concern, Severity
from harness.profile.load import load_profile

PROFILE = Path(__file__).parents[2] / "loadprofiles" / "cpu-smoke.yaml"


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., RunRecord]:
    def make(repeat: dict[str, Any] | None = None) -> RunRecord:
        profile = load_profile(PROFILE, ["server={kind: attach, urls: ['http://127.0.0.1:9']}"])
        prepared = prepare(profile, lambda _: None)
        run_dir = make_run_dir(tmp_path / "out", profile.name)
        return RunRecord(
            prepared, run_dir, QuietView(), overrides=["a=1"], labels={"repeat": repeat}
        )

    return make


def manifest(record: RunRecord) -> dict[str, Any]:
    return json.loads(record.run_dir.manifest.read_text())


def test_the_first_manifest_has_every_field_in_its_order(record: Callable[..., RunRecord]) -> None:
    written = manifest(record(repeat={"repeat": 2}))
    assert list(written) == [
        "schema_version",
        "state",
        "concerns",
        "error",
        "run_id",
        "harness",
        "profile",
        "overrides",
        "workload_sha256",
        "plan_sha256",
        "seed",
        "plan",
        "model",
        "hardware",
        "software",
        "server",
        "endpoints",
        "prometheus",
        "clock_anchors",
        "started_ns",
        "ended_ns",
        "workers",
        "canary",
        "calibration",
        "cores",
        "repeat",
    ]
    assert (written["state"], written["overrides"], written["repeat"]) == (
        "running",
        ["a=1"],
        {"repeat": 2},
    )


@pytest.mark.parametrize(("interrupted", "state"), [(False, "complete"), (True, "interrupted")])
def test_the_end_of_a_run(record: Callable[..., RunRecord], interrupted: bool, state: str) -> None:
    one = record()
    with one.failures():
        one.phase("load", event="traffic_start")
    one.end(interrupted=interrupted)
    written = manifest(one)
    assert (written["state"], written["error"]) == (state, None)
    assert written["ended_ns"] >= written["started_ns"]
    [event] = [json.loads(line) for line in one.run_dir.events.read_text().splitlines()]
    assert (event["event"], event["phase"]) == ("phase", "traffic_start")


@pytest.mark.parametrize(
    ("raised", "comes_out", "state"),
    [
        (ServerError("no", cause="why", next_step="do"), ServerError, "failed"),
        (KeyboardInterrupt(), InterruptedRunError, "interrupted"),
        (ZeroDivisionError(), ZeroDivisionError, "failed"),
    ],
)
def test_a_failure_reaches_the_manifest(
    record: Callable[..., RunRecord],
    raised: BaseException,
    comes_out: type[BaseException],
    state: str,
) -> None:
    one = record()
    with pytest.raises(comes_out), one.failures():
        raise raised
    written = manifest(one)
    assert written["state"] == state
    assert set(written["error"]) == {"what", "cause", "next_step"}
    assert written["ended_ns"] is not None


def test_a_disk_that_is_full_leaves_the_manifest_as_it_was(
    record: Callable[..., RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = record()

    def full(**_: Any) -> None:
        raise ArtifactError("no space")

    monkeypatch.setattr(one.manifest, "update", full)
    with pytest.raises(ServerError), one.failures():
        raise ServerError("no")
    assert manifest(one)["state"] == "running"


def test_notes_are_recorded_and_only_doubts_are_warned_of(
    record: Callable[..., RunRecord], capsys: pytest.CaptureFixture[str]
) -> None:
    one = record()
    one.view = QuietView()
    one.concern(Concern("a", Severity.NOTE, "a note"))
    one.concern(Concern("b", Severity.DEGRADED, "a doubt"))
    assert [concern["code"] for concern in manifest(one)["concerns"]] == ["a", "b"]
    assert capsys.readouterr().err == "warning: a doubt\n"
