"""Sweeps of the embedded engine by the real command: a kept server, one that is killed, and a
killed sweep that is resumed.
"""

import json
from collections import Counter

import pytest

LOAD = "traffic.load.0.concurrency"
PROFILE = """\
purpose: smoke
cooldown_s: 0s
model: {id: builtin:tiny, max_context_tok: 2048}
server: {kind: torch, device: cpu, ready_timeout_s: 2m}
traffic:
  api: chat
  output_length: forced
  workload: {kind: chat, system_tok: 0, user_tok: 40, output_tok: 8, turns: 1, context_limit_tok: 500}
  load: [{kind: concurrency, concurrency: 1, over: requests, warmup_s: 500ms, window_s: 2s}]
telemetry: {scrape_interval_s: 200ms, host_interval_s: 200ms}
sweep: {over: {traffic.load.0.concurrency: [1, 2, 4]}}
"""


@pytest.fixture
def profile(tmp_path, shared_cache):
    path = tmp_path / "sweep.yaml"
    path.write_text(PROFILE)
    return path


def index(folder):
    return json.loads((folder / "sweep.json").read_text())


def manifests(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("2*/manifest.json"))]


def servers(harness):
    return [one for one in harness.marked() if "harness.server.engine" in " ".join(one.cmdline())]


def test_a_sweep_keeps_its_server_and_ends_it(harness, profile):
    done = harness("run", profile, "--quiet", timeout_s=240)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = harness.runs()
    points = index(folder)["points"]
    assert [point["state"] for point in points] == ["done"] * 3
    assert [point["kept_server"] for point in points] == [False, True, True]
    runs = manifests(folder)
    assert [run["server"]["kept_from"] for run in runs] == [None, *[runs[0]["run_id"]] * 2]
    assert len({run["endpoints"][0]["pid"] for run in runs}) == 1
    assert [run["idle"]["from"] for run in runs[1:]] == [runs[0]["run_id"]] * 2
    assert {run["sweep"]["point"] for run in runs} == {0, 1, 2}
    loads = {run["profile"]["traffic"]["load"][0]["concurrency"] for run in runs}
    assert loads == {1, 2, 4}
    assert (folder / "sweep.html").is_file()
    assert "peak" in done.stdout
    assert harness.marked() == []


def test_a_point_whose_server_is_killed_costs_one_point(harness, profile, until):
    process = harness.start("sweep", profile, "--order", "given", "--quiet")
    (folder,) = until(harness.runs, "the folder")
    until(lambda: len(manifests(folder)) == 2 and servers(harness), "the second point")
    until(lambda: manifests(folder)[1]["endpoints"], "its server")
    servers(harness)[0].kill()
    out, err = process.communicate(timeout=240)
    assert process.returncode == 4, out + err
    points = index(folder)["points"]
    assert [point["state"] for point in points] == ["done", "failed", "done"]
    assert points[2]["kept_server"] is False
    assert harness.marked() == []


def test_a_sweep_that_was_killed_goes_on(harness, profile, until):
    process = harness.start("sweep", profile, "--quiet")
    (folder,) = until(harness.runs, "the folder")
    until(lambda: len(manifests(folder)) == 2, "the second point")
    process.kill()
    process.communicate(timeout=60)
    assert index(folder)["points"][0]["state"] == "done"
    done = harness("sweep", "--resume", folder, "--quiet", timeout_s=240)
    assert done.returncode == 0, done.stdout + done.stderr
    points = index(folder)["points"]
    assert [point["tries"] for point in points] == [1, 2, 1]
    complete = Counter(
        run["sweep"]["point"] for run in manifests(folder) if run["state"] == "complete"
    )
    assert complete == {0: 1, 1: 1, 2: 1}
    assert harness.marked() == []
