"""A measurement with its certificate and its canaries, by the real command."""

import json

import pyarrow.parquet as pq


def test_a_measurement_holds_a_certificate_and_canaries_and_the_next_one_finds_it(
    harness, paced, write_profile, summary_of, unread
):
    load = "{kind: concurrency, concurrency: 2, window_s: 5s}"
    profile = write_profile(paced.url, purpose="measure", api="chat", load=load)
    first = harness("run", profile)
    assert first.returncode == 0, first.stderr
    assert "calibrating" in first.stdout + first.stderr
    (run,) = harness.runs()
    certificate = json.loads((run / "calibration.json").read_text())
    assert certificate["levels"]
    assert certificate["load"]["api"] == "chat"
    manifest = json.loads((run / "manifest.json").read_text())
    assert unread(manifest) == []
    assert (manifest["calibration"], manifest["canary"], manifest["workers"]) == (
        "calibration.json",
        True,
        certificate["workers"],
    )
    assert manifest["cores"]["note"]

    summary = summary_of(run)
    codes = {concern["code"] for concern in summary["verdict"]["concerns"]}
    assert not codes & {"calibration_missing", "canary_missing", "canary_failed"}
    canary = summary["client"]["canary"]
    assert canary["paired"] >= 1
    assert canary["unpaired"] == 0
    assert canary["gap_error"]["n"] > 50
    assert summary["client"]["calibration"]["workers"] == manifest["workers"]

    rows = pq.read_table(run / "requests.parquet").to_pylist()
    real = [row for row in rows if row["class"] != "canary"]
    assert len(rows) > len(real)
    assert sum(not row["class"].endswith("/prime") for row in real) == summary["requests"]["sent"]
    assert {row["replica"] for row in rows if row["class"] == "canary"} == {"canary"}
    output = summary["reconciliation"]["output_tokens"]
    assert output["client"] == output["server"] == sum(row["output_tok"] for row in real)
    assert "Load generator" in (run / "report.md").read_text()
    assert harness.processes() == []

    again = harness("run", profile, "--set", "traffic.load.0.window_s=1s")
    assert "certificate of" in again.stdout + again.stderr
    assert "calibrating" not in again.stdout + again.stderr


def test_a_smoke_run_has_canaries_where_it_is_told_to(harness, paced, write_profile):
    load = "{kind: arrival_rate, rate_per_s: 4, window_s: 4s}"
    done = harness(
        "run",
        write_profile(paced.url, load=load, name="told"),
        "--set",
        "traffic.canary=true",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["client"]["canary"]["paired"] >= 1


def test_calibrate_prints_its_levels_and_keeps_the_certificate(
    harness, paced, write_profile, tmp_path
):
    profile = write_profile(
        paced.url,
        purpose="measure",
        api="chat",
        load="{kind: concurrency, concurrency: 2, window_s: 2s}",
    )
    done = harness("calibrate", profile, "--quick", "--out", tmp_path / "c.json")
    assert done.returncode == 0, done.stderr
    assert "events/s" in done.stdout
    assert "certified" in done.stdout
    written = json.loads((tmp_path / "c.json").read_text())
    (kept,) = (tmp_path / "cache" / "calibration").glob("*.json")
    assert json.loads(kept.read_text()) == written
