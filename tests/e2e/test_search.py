"""`harness search` on a real queue: a paced server with slots."""

import json

import pytest

from harness.reference_server.server import Pace, PacedServer

SEARCH = """\
slos: {ttft_s: 500ms}
search: {load: arrival_rate, from: 5, to: 40, max_points: 4, probe_s: 8s, confirm: false}
"""


@pytest.fixture
def queue():
    with PacedServer(Pace(slots=1, service_ms=50, seed=2)) as server:  # serves 20 requests/s
        yield server


def test_a_search_leaves_its_probes_and_their_answer(harness, write_profile, queue) -> None:
    load = "{kind: arrival_rate, rate_per_s: 1, over: requests, warmup_s: 2s, window_s: 6s}"
    path = write_profile(queue.url, api="chat", load=load, extra=SEARCH)
    done = harness("search", path, "--json", timeout_s=400)
    shown = json.loads(done.stdout)
    (folder,) = harness.runs()
    assert folder.name.split("-")[-2] == "search"
    index = json.loads((folder / "sweep.json").read_text())
    capacity = json.loads((folder / "capacity.json").read_text())
    assert shown == {"folder": str(folder.relative_to(harness.folder)), **capacity}
    assert index["kind"] == "search"
    rates = [one["values"]["traffic.load.0.rate_per_s"] for one in index["points"]]
    assert rates[:2] in ([5, 10], [5, 5])  # the latter on a machine too busy for the first probe
    assert [one["run"] for one in index["points"]] == [one["run"] for one in capacity["probes"]]
    for one in index["points"]:
        manifest = json.loads((folder / one["run"] / "manifest.json").read_text())
        codes = {concern["code"] for concern in manifest["concerns"]}
        assert (one["state"] == "partial") == ("stopped_early" in codes)
        assert manifest["state"] == "complete"
        assert manifest["sweep"]["point"] == one["id"]
    assert list(capacity["tiers"]) == ["slo"]
    used = sum(one["invalid"] is None for one in capacity["probes"])
    assert capacity["tiers"]["slo"]["probes"] == used
    again = harness("search", "--resume", folder, "--json", timeout_s=100)
    assert json.loads(again.stdout)["probes"] == capacity["probes"]
    assert again.returncode == done.returncode
    assert len(list(folder.glob("*/manifest.json"))) == len(index["points"])
