"""A run on boards whose power is known: the real command, the real nvidia-ml-py, a double of
NVIDIA's library.
"""

import itertools
import json
import os
import re
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

START_MW, SLOPE_MW_PER_S = 200_000, 4_000

MIX = """
purpose: smoke
model: {{id: paced-test-double, served_name: paced-test-double, max_context_tok: 8000, tok_per_word: 1.4}}
server: {{kind: attach, urls: ["{url}"], gpus: [0, 1]}}
traffic:
  api: chat
  workload:
    kind: mix
    parts:
      - {{name: short, weight: 1, workload: {{kind: batch, system_tok: 50, user_tok: 20, output_tok: 20}}}}
      - {{name: long, weight: 1, workload: {{kind: batch, system_tok: 50, user_tok: 20, output_tok: 60}}}}
  load: [{{kind: concurrency, concurrency: 2, window_s: 6s}}]
  drain_timeout_s: 10s
telemetry: {{scrape_interval_s: 500ms, host_interval_s: 1s}}
energy:
  idle_s: 5s
  grid_kgco2_per_kwh: 0.4
  grid_source: a test
  host_w_per_gpu: {{value: 100, source: a test}}
"""


def test_tokens_per_joule_and_joules_by_class_are_those_of_the_known_curve(
    harness, paced, tmp_path, nvml_double, unread
):
    origin_ns = time.monotonic_ns()
    nvml_double(
        gpus=3,
        power_mw=START_MW,
        slope_mw_per_s=SLOPE_MW_PER_S,
        origin_ns=origin_ns,
        clocks_event=4,
    )

    def joules(start_ns, end_ns):
        """Of boards 0 and 1, which draw alike but for one watt."""
        start_s, end_s = (start_ns - origin_ns) / 1e9, (end_ns - origin_ns) / 1e9
        return (
            (2 * START_MW + 1000) * (end_s - start_s) + SLOPE_MW_PER_S * (end_s**2 - start_s**2)
        ) / 1000

    profile = tmp_path / "mix.yaml"
    profile.write_text(MIX.format(url=paced.url))
    done = harness("run", profile, "--json", env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert "double_hardware" in {concern["code"] for concern in summary["verdict"]["concerns"]}

    (run,) = harness.runs()
    manifest = json.loads((run / "manifest.json").read_text())
    assert unread(manifest) == []
    assert manifest["telemetry"]["power"][0]["origin"].endswith("libnvidia-ml.so.1")
    assert manifest["telemetry"]["power"][0]["double"]
    assert manifest["telemetry"]["sampling"]["loops"]["nvml-power"]["calls"] > 50
    # In red, whatever the severity.
    assert re.search(
        r'class="chip invalid">[^<]*</span><span>[^<]*<code class="key">double_hardware</code>',
        (run / "report.html").read_text(),
    )
    start_ns, end_ns = (
        manifest["started_ns"] + summary["window"][key] * 1e9 for key in ("start_s", "end_s")
    )
    truth = joules(start_ns, end_ns)
    metrics = summary["metrics"]
    assert metrics["energy_j"]["value"] == pytest.approx(truth, rel=0.005)
    assert metrics["energy_j"]["ci_low"] < truth < metrics["energy_j"]["ci_high"]
    requests = pq.read_table(run / "requests.parquet").to_pylist()
    tokens = 0.0
    for row in requests:
        at = row["first_token_ns"] + 1000 * np.cumsum(row["chunk_dt_us"])
        tokens += (
            row["output_tok"]
            * np.sum(np.array(row["chunk_bytes"])[(at >= start_ns) & (at < end_ns)])
            / np.sum(row["chunk_bytes"])
        )
    assert metrics["output_tok_per_j"]["value"] == pytest.approx(tokens / truth, rel=0.01)
    assert metrics["output_tok_per_j"]["value"] == pytest.approx(
        metrics["output_tok_s"]["value"] / metrics["power_w"]["value"], rel=1e-9
    )

    edges = np.append(np.arange(start_ns, end_ns - 1e6, 1e9), end_ns)
    service = {name: np.zeros(len(edges) - 1) for name in ("short", "long")}
    for row in requests:
        service[row["class"]] += np.maximum(
            np.minimum(row["done_ns"], edges[1:]) - np.maximum(row["sent_ns"], edges[:-1]), 0
        )
    per_second = np.array([joules(a, b) for a, b in itertools.pairwise(edges)])
    by_class = {one["class"]: one for one in summary["energy"]["classes"]["classes"]}
    for name, mine in service.items():
        assert by_class[name]["joules"] == pytest.approx(
            np.sum(per_second * mine / sum(service.values())), rel=0.01
        )
    assert sum(one["joules"] for one in by_class.values()) == pytest.approx(
        metrics["energy_j"]["value"], rel=1e-9
    )

    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    (idle,) = [
        event for event in events if event["event"] == "idle"
    ]  # a server that was up before has no idle without it
    assert idle["when"] == "ready"
    assert idle["end_ns"] < start_ns
    assert metrics["ready_power_w"]["value"] == pytest.approx(
        joules(idle["start_ns"], idle["end_ns"]) / 5, rel=0.01
    )
    assert metrics["idle_power_w"]["value"] is None
    ladder = {rung["rung"]: rung for rung in summary["energy"]["ladder"]}
    assert ladder["node"]["watts"] == pytest.approx(metrics["power_w"]["value"] + 200)
    assert [rung["basis"] for rung in ladder.values()] == [
        "measured",
        "modelled",
        "modelled",
        "modelled",
    ]
    assert metrics["kgco2_per_mtok"]["basis"] == "modelled"
    boards = summary["energy"]["boards"]["devices"]
    assert [board["throttled_share"]["sw_power_cap"] for board in boards] == [1.0, 1.0]
    assert summary["labels"]["power_limit"] == "650 of 700 W"  # the double's: set below its default

    # From the same run to a site, by the real command: a page that says what it is.
    site = tmp_path / "site.yaml"
    site.write_text(
        "ours:\n  gpu: {value: H100, source: us, date: 2026-01}\n  gpus: {value: 800, source: us,"
        " date: 2026-01}\n"
    )
    ask = (
        "fleet",
        run,
        "--site",
        site,
        "--years",
        1,
        "--modelled",
        1,
        "--modelled-source",
        "a demonstration",
        "--json",
    )
    assert harness(*ask).returncode == 10
    done = harness(*ask, "--demonstrate")
    assert done.returncode == 0, done.stderr
    (case,) = json.loads(done.stdout)["cases"]
    estimate = case["estimate"]
    assert estimate["flags"][0].startswith("Demonstration")
    steps = {step["label"].lower(): step for step in estimate["waterfall"]}
    assert steps["measured in the run"]["result"] == pytest.approx(
        metrics["output_tok_s_per_gpu"]["value"], rel=1e-9
    )
    assert steps["measured gpu board power"]["result"] == pytest.approx(
        metrics["power_w"]["value"] / 2, rel=1e-9
    )  # 700 W rated here and there
    figures = estimate["figures"]
    assert figures["gpus_powered"]["value"] == 800
    assert (
        figures["output_tok_s"]["p5"]
        < figures["output_tok_s"]["value"]
        < figures["output_tok_s"]["p95"]
    )
    assert figures["j_per_output_tok_mean"]["value"] == pytest.approx(
        figures["power_mean_mw"]["value"] * 1e6 / figures["output_tok_s"]["value"], rel=1e-9
    )
    assert case["forecast"] is not None
    assert "demonstration, not measured" in (run / "fleet" / "fleet.html").read_text()
