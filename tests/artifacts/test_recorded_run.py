"""manifest.json in types: whatever is wrong with it, what is right is read."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.artifacts.recorded_run import RecordedRun
from harness.artifacts.typed_json import read_leniently

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
