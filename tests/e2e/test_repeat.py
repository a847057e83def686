"""Repeats by the real command: `harness run --repeats`, a threshold over them, and the folder that
is left.
"""

import json


def test_repeats_end_in_means_with_intervals_and_thresholds(harness, paced, write_profile):
    """Repeats have fresh seeds and end in means with intervals and judged thresholds."""
    load = "{kind: concurrency, concurrency: 2, sessions: 3}"
    extra = (
        "seed: 40\ncooldown_s: 0s\nthresholds: ['error_ratio < 1%', 'output_tok_s > 1M',"
        " 'output_tok_s >= 0.9 * baseline']\n"
    )
    profile = write_profile(paced.url, api="chat", load=load, extra=extra)
    done = harness("run", profile, "--repeats", "2", "--quiet")
    assert done.returncode == 99, done.stdout + done.stderr
    (series,) = harness.runs()
    planned = json.loads((series / "series.json").read_text())
    assert [(entry["repeat"], entry["seed"], entry["state"]) for entry in planned["runs"]] == [
        (1, 40, "done"),
        (2, 41, "done"),
    ]
    runs = [series / entry["run"] for entry in planned["runs"]]
    manifests = [json.loads((run / "manifest.json").read_text()) for run in runs]
    assert [manifest["repeat"]["repeat"] for manifest in manifests] == [1, 2]
    assert len({manifest["plan_sha256"] for manifest in manifests}) == 2
    assert len({manifest["workload_sha256"] for manifest in manifests}) == 1
    comparison = json.loads((series / "comparison.json").read_text())
    assert [len(side["runs"]) for side in comparison["sides"]] == [2]
    assert [gate["outcome"] for gate in comparison["gates"]] == ["passed", "FAILED"]
    assert "output_tok_s >= 0.9 * baseline: no baseline" in done.stderr
    assert "not restarted between repeats" in done.stderr
    assert "95% CI" in done.stdout
    assert (series / "comparison.html").is_file()
    assert harness.processes() == []
