"""An open loop at a rate that no machine of this size can send ends as invalid, for the load
generator's sake, and not as a slow server.
"""

import json

import pyarrow.parquet as pq

PROFILE = """\
purpose: measure
model: {{id: paced-test-double, served_name: paced-test-double, max_context_tok: 8000, tok_per_word: 1.4}}
server: {{kind: attach, urls: ["{url}"]}}
traffic:
  api: chat
  calibrate: false
  canary: false
  workload: {{kind: chat, system_tok: 50, user_tok: 20, output_tok: 3, context_limit_tok: 3000}}
  load:
    - {{kind: arrival_rate, rate_per_s: 40000, process: constant, over: requests, window_s: 300ms, max_in_flight: 20000}}
  drain_timeout_s: 1s
slos: {{ttft_s: 200ms}}
telemetry: {{scrape_interval_s: 200ms, host_interval_s: 200ms}}
"""


def test_a_rate_beyond_the_machine_is_invalid_and_loses_no_request(harness, paced, tmp_path):
    profile = tmp_path / "beyond.yaml"
    profile.write_text(PROFILE.format(url=paced.url))
    done = harness("run", profile, "--json")
    assert done.returncode == 10, done.stderr
    summary = json.loads(done.stdout)
    concerns = {concern["code"]: concern for concern in summary["verdict"]["concerns"]}
    assert summary["verdict"]["status"] == "invalid"
    assert concerns["late_sends"]["severity"] == "invalid"
    assert concerns["late_sends"]["value"] > concerns["late_sends"]["limit"]
    assert concerns["requests_dropped"]["value"] > 500
    # What was never sent is censored: no percentile of the few that got through stands for the
    # server.
    assert summary["latency"]["ttft_s"]["p50"] is None
    assert summary["latency"]["ttft_s"]["censored"] > 500

    (run,) = harness.runs()
    planned = set(
        pq.read_table(run / "plan.parquet", columns=["request_id"])["request_id"].to_pylist()
    )
    rows = pq.read_table(
        run / "requests.parquet", columns=["request_id", "outcome", "sent_ns", "error"]
    ).to_pylist()
    assert len(planned) == 11_999
    assert planned <= {row["request_id"] for row in rows}
    dropped = [row for row in rows if row["outcome"] == "dropped"]
    assert all(row["sent_ns"] is None and row["error"] for row in dropped)
    assert {row["error"] for row in dropped} == {
        "never sent: the load generator was too far behind its schedule"
    }
    assert harness.processes() == []
