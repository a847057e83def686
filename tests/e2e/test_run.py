"""From a profile to a report with the real command."""

import json
import re
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest

SUMMARY_KEYS = {
    "schema_version", "run_id", "profile", "verdict", "window", "requests", "metrics", "latency", "reconciliation", "stages",
}  # fmt: skip


@pytest.mark.parametrize("api", ["messages", "chat"])
def test_a_run_ends_with_a_verdict_a_table_and_the_reports_path(harness, paced, write_profile, api, summary_of):
    done = harness("run", write_profile(paced.url, api=api))
    assert done.returncode == 0, done.stderr
    assert "functional" in done.stdout
    assert "report.html" in done.stdout
    (run,) = harness.runs()
    for name in ("manifest.json", "plan.parquet", "requests.parquet", "host.parquet", "summary.json", "report.html", "report.md"):
        assert (run / name).stat().st_size > 0, name
    assert not (run / "power.parquet").exists()  # no GPU: absent, not zero
    summary = summary_of(run)
    assert set(summary) >= SUMMARY_KEYS
    assert summary["verdict"]["status"] == "functional", summary["verdict"]
    assert summary["requests"]["planned"] == summary["requests"]["ok"] == 18
    output = summary["reconciliation"]["output_tokens"]
    assert output["client"] == output["server"] == 18 * 12
    requests = pq.read_table(run / "requests.parquet").to_pylist()
    assert {row["outcome"] for row in requests} == {"ok"}
    planned = {row["request_id"] for row in pq.read_table(run / "plan.parquet").to_pylist()}
    assert {row["request_id"] for row in requests} == planned
    assert json.loads((run / "manifest.json").read_text())["state"] == "complete"
    assert harness.processes() == []


def test_json_is_the_summary_and_nothing_else_on_stdout(harness, paced, write_profile):
    done = harness("run", write_profile(paced.url), "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert set(summary) >= SUMMARY_KEYS
    assert "load" in done.stderr


def test_quiet_prints_the_result_only(harness, paced, write_profile):
    done = harness("run", write_profile(paced.url), "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "server ready" not in done.stdout
    assert "functional" in done.stdout


def test_an_open_loop_by_time_measures_its_window(harness, paced, write_profile, summary_of):
    load = "{kind: arrival_rate, rate_per_s: 5, warmup_s: 1s, window_s: 3s}"
    done = harness("run", write_profile(paced.url, load=load), "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["window"]["duration_s"] == pytest.approx(3, abs=0.05)
    ttft = summary["latency"]["ttft_s"]
    assert 0.02 <= ttft["p50"] < 0.5
    assert ttft["n"] >= 5


def test_a_measure_run_checks_its_answers_and_is_degraded_without_a_certificate(harness, paced, write_profile):
    profile = write_profile(paced.url, purpose="measure", api="chat", load="{kind: concurrency, concurrency: 2, window_s: 2s}")
    summary = json.loads(harness("run", profile, "--no-calibrate", "--json").stdout)
    assert summary["verdict"]["status"] in ("degraded", "invalid")
    codes = {concern["code"] for concern in summary["verdict"]["concerns"]}
    assert {"calibration_missing", "quality_unverified"} <= codes
    assert not codes & {"quality_missing", "quality_failed", "not_implemented"}
    # Asked before the first scrape and after the last one that count: the check is in neither account of tokens.
    assert summary["quality"]["change"]["texts_equal"] == summary["quality"]["texts"] == 6
    output = summary["reconciliation"]["output_tokens"]
    assert output["client"] == output["server"]


def test_a_failed_threshold_exits_99_and_an_absent_metric_never_passes(harness, paced, write_profile):
    failing = write_profile(paced.url, extra='thresholds: ["ttft_s.p50 < 1ms"]\n')
    done = harness("run", failing)
    assert done.returncode == 99, done.stderr
    assert "ttft_s.p50 < 1ms" in done.stderr
    absent = write_profile(paced.url, name="absent", extra='thresholds: ["power_w < 1000"]\n')
    done = harness("run", absent)
    assert done.returncode in (2, 99), done.stderr  # told beforehand where that is possible
    assert "absent" in done.stderr


def test_set_overrides_reach_the_run(harness, paced, write_profile):
    done = harness("run", write_profile(paced.url), "--set", "traffic.load.0.sessions=2", "--set", "seed=9", "--json")
    assert json.loads(done.stdout)["requests"]["ok"] == 6
    manifest = json.loads((harness.runs()[0] / "manifest.json").read_text())
    assert manifest["seed"] == 9
    assert manifest["overrides"] == ["traffic.load.0.sessions=2", "seed=9"]


def test_two_runs_at_once_do_not_meet(harness, paced, write_profile, summary_of):
    both = [harness.start("run", write_profile(paced.url, name=name), "--json") for name in ("one", "two")]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert process.returncode in (0, 10), err  # the server's counters see both runs: reconciliation may refuse, rightly
        assert json.loads(out)["requests"]["ok"] == 18
    assert len(harness.runs()) == 2


def test_dry_run_and_plan_print_what_would_be_sent_and_start_nothing(harness, paced, write_profile):
    profile = write_profile(paced.url)
    dry, plan = harness("run", profile, "--dry-run"), harness("plan", profile)
    assert dry.returncode == plan.returncode == 0, plan.stderr
    assert dry.stdout == plan.stdout
    assert "18" in plan.stdout
    assert harness.runs() == []
    described = json.loads(harness("plan", profile, "--json").stdout)
    assert described["stages"][0]["requests"] == 18


def test_check_sends_one_real_request_to_a_server_that_is_up(harness, paced, write_profile):
    done = harness("check", write_profile(paced.url))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "one real request" in done.stdout


def test_check_finds_a_server_that_is_not_there(harness, write_profile):
    done = harness("check", write_profile("http://127.0.0.1:9"), "--set", "server.ready_timeout_s=1s")
    assert done.returncode == 3
    assert "PROBLEM" in done.stdout


def test_check_system_describes_the_machine(harness):
    done = harness("check", "--system")
    assert done.returncode == 0, done.stderr
    assert "processor" in done.stdout
    assert json.loads(harness("check", "--system", "--json").stdout)["system"]


def test_reduce_gives_the_same_bytes_twice_and_report_writes_both(harness, paced, write_profile):
    harness("run", write_profile(paced.url))
    (run,) = harness.runs()
    before = (run / "summary.json").read_bytes()
    assert harness("reduce", run).returncode == 0
    assert (run / "summary.json").read_bytes() == before
    (run / "report.html").unlink()
    assert harness("report", run).returncode == 0
    assert (run / "report.html").exists()
    listed = harness("results")
    assert run.name in listed.stdout


def test_help_is_quick_to_import():
    """No room is imported for --help: not pandas, torch, locust, pyarrow or pydantic."""
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "harness", "--help"], capture_output=True, text=True, check=True)
    heavy = re.findall(r"\|\s+(pandas|torch|locust|gevent|pyarrow|pydantic|numpy)$", done.stderr, re.MULTILINE)
    assert heavy == []


def test_the_api_key_is_in_no_artifact_and_no_process_list(harness, write_profile, tmp_path, until):
    from harness.testing.paced import Pace, PacedServer

    secret = "sk-very-secret-0123456789"
    with PacedServer(Pace(ttft_ms=20, gap_ms=5)) as server:
        profile = write_profile(server.url)
        text = profile.read_text().replace("kind: attach,", "kind: attach, api_key_env: MY_KEY,")
        profile.write_text(text)
        harness.env["MY_KEY"] = secret
        process = harness.start("run", profile)
        command_lines = set()
        while process.poll() is None:
            command_lines |= {" ".join(p.cmdline()) for p in harness.processes()}
            time.sleep(0.05)
        assert process.wait() == 0, process.stderr.read()
    assert command_lines
    assert not any(secret in line for line in command_lines)
    for path in harness.runs()[0].rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
    process.communicate()
