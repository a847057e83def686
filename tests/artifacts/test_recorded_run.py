"""manifest.json in types: whatever is wrong with it, what is right is read."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.artifacts.layout import RunDir
from harness.artifacts.manifest import read_manifest
from harness.artifacts.recorded_run import RecordedRun
from harness.artifacts.typed_json import read_leniently
from harness.core.errors import ArtifactError

MANIFESTS = sorted(Path(__file__).parents[1].glob("**/runs/**/manifest.json"))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.parent.name)
def test_every_key_that_was_written_is_read(path: Path, unread: Callable[..., list[str]]) -> None:
    assert unread(json.loads(path.read_text())) == []


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        {"plan": 5, "hardware": [], "endpoints": {}, "clock_anchors": "x", "profile": [1]},
        {"plan": {"context_scale": float("nan"), "planned_requests": "3"}, "seed": 10**400},
        {"hardware": {"gpus": [None]}, "server": {"version": "no kind"}},
        {"workers": True, "canary": "yes", "started_ns": 1.5, "profile": {"energy": {"pue": 2}}},
    ],
)
def test_damage_is_as_if_nothing_was_recorded(raw: object) -> None:
    assert read_leniently(RecordedRun, raw) == RecordedRun()


def test_what_is_right_beside_damage_is_kept() -> None:
    gpus = [{"uuid": "a", "index": 0}, 5, {"uuid": "b", "index": 1, "name": 7}]
    raw = {"hardware": {"gpus": gpus, "os": 1, "kernel": "k"}, "of tomorrow": 1, "seed": 3}
    found = read_leniently(RecordedRun, raw)
    assert [(gpu.uuid, gpu.name) for gpu in found.hardware.gpus] == [("a", None), ("b", None)]
    assert (found.hardware.kernel, found.hardware.os, found.seed) == ("k", None, 3)


def test_half_characters_and_depth_leave_the_rest_readable() -> None:
    deep: object = 0
    for _ in range(900):
        deep = [deep]
    raw = {"run_id": "\ud800x", "seed": 3, "of tomorrow": deep, "software": {"python": "\udfff"}}
    found = read_leniently(RecordedRun, raw)
    assert (found.run_id, found.seed) == ("?x", 3)


@pytest.mark.parametrize("damage", [b"\xff\xfe{", b"[" * 100_000, b"{"])
def test_a_manifest_that_is_none_names_its_file(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(damage)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        read_manifest(RunDir(tmp_path))
