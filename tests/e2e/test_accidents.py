"""Whatever happens to a run: a clear message, the documented exit code, no process left, and
nothing lost that was recorded.
"""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from harness.reference_server.server import Pace, PacedServer

LONG = "{kind: concurrency, concurrency: 4, window_s: 120s}"


def reduced(harness, run):
    done = harness("reduce", run, "--json")
    assert done.returncode in (0, 10), done.stderr
    return json.loads(done.stdout)


def test_sigint_drains_writes_and_exits_130(harness, paced, write_profile, in_flight, summary_of):
    process = harness.start("run", write_profile(paced.url, load=LONG))
    run = in_flight()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert json.loads((run / "manifest.json").read_text())["state"] == "interrupted"
    summary = summary_of(run)
    assert summary["requests"]["ok"] > 0
    assert (run / "report.html").exists()
    assert harness.processes() == []


def test_a_second_sigint_stops_at_once_and_marks_what_was_in_flight(
    harness, write_profile, in_flight, until, summary_of
):
    with (
        PacedServer(Pace(ttft_ms=20, gap_ms=2000)) as slow,
        PacedServer(Pace(ttft_ms=5, gap_ms=1)) as fast,
    ):
        profile = write_profile(slow.url, load=LONG)
        # One fast replica fills the journal, one slow one keeps requests in flight.
        profile.write_text(
            profile.read_text().replace(
                f'urls: ["{slow.url}"]', f'urls: ["{slow.url}", "{fast.url}"]'
            )
        )
        process = harness.start("run", profile)
        run = in_flight()
        process.send_signal(signal.SIGINT)
        until(lambda: (run / "manifest.json").exists(), "the manifest")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, out + err
        by_outcome = summary_of(run)["requests"]["by_outcome"]
        assert by_outcome.get("interrupted", 0) >= 1
        assert by_outcome["ok"] >= 1
        assert harness.processes() == []


def test_sigterm_is_an_interruption_too(harness, paced, write_profile, in_flight):
    process = harness.start("run", write_profile(paced.url, load=LONG))
    in_flight()
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert harness.processes() == []


def test_kill_9_of_the_supervisor_leaves_a_readable_run_and_no_process(
    harness, paced, write_profile, in_flight, until
):
    profile = write_profile(paced.url, load=LONG)
    process = harness.start("run", profile, "--set", "traffic.canary=true")
    run = in_flight()
    (record,) = (harness.folder / "cache" / "runs").glob("*.json")
    groups = {group["pgid"]: group["label"] for group in json.loads(record.read_text())["groups"]}
    assert set(groups.values()) == {"paced", "telemetry", "traffic:0"}
    assert {os.getpgid(one.pid) for one in harness.processes()} <= {*groups, process.pid}
    process.kill()
    process.communicate(timeout=60)
    until(lambda: not harness.processes(), "no process of the run left")
    summary = reduced(harness, run)
    assert summary["requests"]["ok"] > 0
    assert summary["verdict"]["status"] == "invalid"


def test_kill_9_of_a_traffic_worker_fails_the_run_and_keeps_its_records(
    harness, paced, write_profile, in_flight, summary_of
):
    process = harness.start("run", write_profile(paced.url, load=LONG))
    run = in_flight()
    (worker,) = [p for p in harness.processes() if "locust" in " ".join(p.cmdline())]
    worker.kill()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 5, out + err
    assert "next step" in err
    assert json.loads((run / "manifest.json").read_text())["state"] == "failed"
    assert summary_of(run)["requests"]["ok"] > 0
    assert harness.processes() == []


def test_a_server_that_dies_in_the_middle_is_a_server_error(
    harness, write_profile, in_flight, summary_of
):
    with PacedServer(Pace(ttft_ms=20, gap_ms=5)) as server:
        process = harness.start("run", write_profile(server.url, load=LONG))
        run = in_flight()
        server.stop()
        out, err = process.communicate(timeout=90)
    assert process.returncode == 4, out + err
    summary = summary_of(run)
    assert summary["verdict"]["status"] == "invalid"
    assert summary["requests"]["ok"] > 0
    assert summary["requests"]["failed"] > 0
    assert harness.processes() == []


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        ("purpose: smoke\nmodle: {id: x}\n", 2, "model"),
        ("purpose: [\n", 2, "profile.yaml:"),
        ("", 2, "empty"),
    ],
)
def test_a_bad_profile_exits_2_with_file_and_fix(harness, tmp_path, content, code, words):
    path = tmp_path / "profile.yaml"
    path.write_text(content)
    done = harness("run", path)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_profile_and_a_negative_rate_exit_2(harness, paced, write_profile, tmp_path):
    assert harness("run", tmp_path / "nothing.yaml").returncode == 2
    done = harness(
        "run", write_profile(paced.url, load="{kind: arrival_rate, rate_per_s: -1, window_s: 1s}")
    )
    assert done.returncode == 2
    assert "rate_per_s" in done.stderr


def test_a_model_path_without_a_config_exits_3(harness, tmp_path, write_profile, paced):
    (tmp_path / "weights").mkdir()
    profile = write_profile(paced.url)
    profile.write_text(
        profile.read_text().replace(
            "id: paced-test-double, served_name", f"id: {tmp_path}/weights, served_name"
        )
    )
    done = harness("run", profile)
    assert done.returncode == 3
    assert "config.json" in done.stderr


def test_a_server_that_does_not_answer_exits_3(harness, write_profile):
    done = harness("run", write_profile("http://127.0.0.1:9"), "--set", "server.ready_timeout_s=1s")
    assert done.returncode == 3, done.stderr
    assert "next step" in done.stderr


def test_no_permission_to_write_exits_7(harness, paced, write_profile, tmp_path):
    target = tmp_path / "file"
    target.write_text(
        "a file where a folder should be"
    )  # permission bits do not stop root; this stops everybody
    done = harness("run", write_profile(paced.url), "--out", target)
    assert done.returncode == 7
    assert "--out" in done.stderr


def test_a_full_disk_exits_with_what_was_recorded(harness, paced, write_profile, tmp_path):
    """A limit on file size stands for a full disk: the journal is the first to meet it."""
    profile = write_profile(paced.url, load="{kind: concurrency, concurrency: 40, window_s: 60s}")
    code = (
        "import resource, signal, sys, runpy\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))\n"
        f"sys.argv = ['harness', 'run', {str(profile)!r}, '--out', {str(tmp_path / 'results')!r}]\n"
        "runpy.run_module('harness', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=harness.env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 5, done.stdout + done.stderr
    assert "next step" in done.stderr
    assert "Traceback" not in done.stderr
    (run,) = harness.runs()
    assert harness.processes() == []
    assert reduced(harness, run)["requests"]["ok"] > 0


def test_the_process_table_is_read_right():
    """The check for leftover processes would pass on an empty list: it must see a process that
    carries the mark.
    """
    env = {**os.environ, "HARNESS_RUN_ID": "marked"}
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"],
        env=env,
        stdout=subprocess.PIPE,
    )
    try:
        child.stdout.readline()
        assert psutil.Process(child.pid).environ()["HARNESS_RUN_ID"] == "marked"
    finally:
        child.kill()
        child.communicate()
