"""From a profile to a report with the real command."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from harness.reference_server.server import Pace, PacedServer

SUMMARY_KEYS = {
    "schema_version",
    "run_id",
    "profile",
    "verdict",
    "window",
    "requests",
    "metrics",
    "latency",
    "reconciliation",
    "stages",
}


SECRET = "sk-very-secret-0123456789"


@dataclass
class Done:
    run: Path
    stdout: str
    stderr: str
    returncode: int


@pytest.fixture(scope="module")
def two(module_harness, write_profile_in):
    """Two runs at the same time in one folder, each on a server of its own: `messages` with a key
    and words, `chat` with --json.
    """
    harness = module_harness
    harness.env["MY_KEY"] = SECRET
    write_profile = write_profile_in(harness.folder)
    with (
        PacedServer(Pace(ttft_ms=20, gap_ms=5)) as one,
        PacedServer(Pace(ttft_ms=20, gap_ms=5)) as other,
    ):
        keyed = write_profile(one.url, api="messages", name="messages")
        keyed.write_text(
            keyed.read_text().replace("kind: attach,", "kind: attach, api_key_env: MY_KEY,")
        )
        commands = {
            "messages": (keyed,),
            "chat": (write_profile(other.url, api="chat", name="chat"), "--json"),
        }
        started = {}
        for name, args in commands.items():
            with (
                (harness.folder / f"{name}.out").open("w") as out,
                (harness.folder / f"{name}.err").open("w") as err,
            ):
                started[name] = harness.start("run", *args, stdout=out, stderr=err)
        processes = set()
        while any(process.poll() is None for process in started.values()):
            for process in harness.processes():
                with contextlib.suppress(psutil.Error):  # it ended meanwhile
                    processes.add((process.pid, " ".join(process.cmdline())))
            time.sleep(0.1)
    done = {}
    for name, process in started.items():
        out, err = ((harness.folder / f"{name}.{end}").read_text() for end in ("out", "err"))
        (run,) = (folder for folder in harness.runs() if f"-{name}-" in folder.name)
        done[name] = Done(run, out, err, process.returncode)
    return done, processes, harness.processes()


@pytest.mark.parametrize("api", ["messages", "chat"])
def test_a_run_ends_with_a_verdict_and_all_its_files(two, api, summary_of, unread):
    done = two[0][api]
    assert done.returncode == 0, done.stderr
    run = done.run
    for name in (
        "manifest.json",
        "plan.parquet",
        "requests.parquet",
        "host.parquet",
        "summary.json",
        "report.html",
        "report.md",
    ):
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
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["state"] == "complete"
    assert unread(manifest) == []
    # A smoke run holds neither unless it is told to.
    assert not (run / "calibration.json").exists()
    assert summary["client"]["canary"] is None


def test_two_runs_at_once_leave_no_process(two):
    _, processes, left = two
    assert len({pid for pid, line in processes if " -m locust " in line}) == 2
    assert left == []


def test_a_run_prints_its_verdict_a_table_and_the_reports_path(two):
    done = two[0]["messages"]
    assert "server ready" in done.stdout
    assert "functional" in done.stdout
    assert f"{done.run.name}/report.html" in done.stdout


def test_json_is_the_summary_and_nothing_else_on_stdout(two, summary_of):
    done = two[0]["chat"]
    assert json.loads(done.stdout) == summary_of(done.run)
    assert "load" in done.stderr


def test_the_api_key_is_in_no_artifact_and_no_process_list(two):
    done, processes, _ = two
    assert processes
    assert not any(SECRET in line for _, line in processes)
    for path in done["messages"].run.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path


def test_reduce_gives_the_same_bytes_twice_and_report_writes_both(two, harness):
    run = harness.folder / "results" / two[0]["messages"].run.name
    shutil.copytree(two[0]["messages"].run, run)
    before = (run / "summary.json").read_bytes()
    assert harness("reduce", run).returncode == 0
    assert (run / "summary.json").read_bytes() == before
    (run / "report.html").unlink()
    (run / "report.md").unlink()
    assert harness("report", run).returncode == 0
    assert (run / "report.html").exists()
    assert (run / "report.md").exists()
    listed = harness("results")
    assert run.name in listed.stdout


def test_quiet_prints_the_result_only_and_overrides_reach_the_run(
    harness, paced, write_profile, summary_of
):
    done = harness(
        "run",
        write_profile(paced.url),
        "--set",
        "traffic.load.0.sessions=2",
        "--set",
        "seed=9",
        "--quiet",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "server ready" not in done.stdout
    assert "functional" in done.stdout
    (run,) = harness.runs()
    assert summary_of(run)["requests"]["ok"] == 6
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["seed"] == 9
    assert manifest["overrides"] == ["traffic.load.0.sessions=2", "seed=9"]


def test_an_open_loop_by_time_measures_its_window(harness, paced, write_profile, summary_of):
    load = "{kind: arrival_rate, rate_per_s: 5, warmup_s: 1s, window_s: 3s}"
    done = harness("run", write_profile(paced.url, load=load), "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["window"]["duration_s"] == pytest.approx(3, abs=0.05)
    ttft = summary["latency"]["ttft_s"]
    assert 0.02 <= ttft["p50"] < 0.5
    assert ttft["n"] >= 5


def test_a_measure_run_checks_its_answers_and_is_degraded_without_a_certificate(
    harness, paced, write_profile
):
    profile = write_profile(
        paced.url,
        purpose="measure",
        api="chat",
        load="{kind: concurrency, concurrency: 2, window_s: 2s}",
    )
    summary = json.loads(harness("run", profile, "--no-calibrate", "--json").stdout)
    assert summary["verdict"]["status"] == "degraded", summary["verdict"]
    codes = {concern["code"] for concern in summary["verdict"]["concerns"]}
    assert {"calibration_missing", "quality_unverified"} <= codes
    assert not codes & {"quality_missing", "quality_failed"}
    # Asked before the first scrape and after the last one that count: the check is in neither
    # account of tokens.
    assert summary["quality"]["change"]["texts_equal"] == summary["quality"]["texts"] == 6
    output = summary["reconciliation"]["output_tokens"]
    assert output["client"] == output["server"]


def test_a_failed_threshold_exits_99_and_an_absent_metric_never_passes(
    harness, paced, write_profile
):
    failing = write_profile(paced.url, extra='thresholds: ["ttft_s.p50 < 1ms"]\n')
    done = harness("run", failing)
    assert done.returncode == 99, done.stderr
    assert "ttft_s.p50 < 1ms" in done.stderr
    absent = write_profile(paced.url, name="absent", extra='thresholds: ["power_w < 1000"]\n')
    done = harness("run", absent)
    assert done.returncode == 2, done.stderr  # known before the run: no GPU serves
    assert "absent" in done.stderr


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
    done = harness(
        "check", write_profile("http://127.0.0.1:9"), "--set", "server.ready_timeout_s=1s"
    )
    assert done.returncode == 3
    assert "PROBLEM" in done.stdout


def test_check_system_describes_the_machine(harness):
    done = harness("check", "--system")
    assert done.returncode == 0, done.stderr
    assert "processor" in done.stdout
    assert json.loads(harness("check", "--system", "--json").stdout)["system"]


def test_help_is_quick_to_import():
    """No room is imported for --help: not pandas, torch, locust, pyarrow or pydantic."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "harness", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    heavy = re.findall(
        r"\|\s+(pandas|torch|locust|gevent|pyarrow|pydantic|numpy)$", done.stderr, re.MULTILINE
    )
    assert heavy == []
