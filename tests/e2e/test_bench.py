"""`harness bench` against a server that is up."""

import json


def test_an_endpoint_is_measured_without_a_profile(harness, paced, summary_of):
    done = harness(
        "bench",
        "--url",
        f"{paced.url}/v1",
        "--concurrency",
        "1,2",
        "--isl",
        "64",
        "--osl",
        "8",
        "--duration",
        "2s",
        "--slo",
        "ttft=1s",
        "--no-calibrate",
    )
    assert done.returncode == 0, done.stderr
    (run,) = harness.runs()
    summary = summary_of(run)
    assert [stage["name"] for stage in summary["stages"]] == ["c1", "c2"]
    assert summary["metrics"]["mean_output_tok"]["value"] == 8
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["profile"]["traffic"]["api"] == "chat"
    saved = (run / "profile.yaml").read_text()
    assert saved.startswith("# Made by: ")
    again = harness("plan", run / "profile.yaml", "--json")
    assert again.returncode == 0, again.stderr


def test_a_dry_run_prints_the_profile_and_sends_no_load(harness, paced):
    done = harness("bench", "--url", paced.url, "--dry-run")
    assert done.returncode == 0
    assert "kind: attach" in done.stdout
    assert harness.runs() == []
