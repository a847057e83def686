"""The recorder process and its driver: what is recorded, what is told, and that nothing is left
behind.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pynvml
import pytest

from harness.artifacts import tables
from harness.artifacts.finalize import finalize
from harness.artifacts.journal import parts, read_table
from harness.artifacts.layout import RunDir
from harness.core.errors import TelemetryError
from harness.core.progress import TelemetryProgress
from harness.core.records import Concern, Endpoint, Gpu, Severity
from harness.hardware.nvml import _REASONS
from harness.profile.telemetry import Telemetry
from harness.telemetry.driver import TelemetryRecorder
from harness.telemetry.recorder import _Commands

FAST = Telemetry(
    scrape_interval_s=0.05,
    scrape_timeout_s=2.0,
    power_interval_s=0.02,
    energy_interval_s=0.05,
    host_interval_s=0.05,
)
GPU = Gpu("GPU-d0ub1e00-0000-0000-0000-000000000000", 0)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def samples(run: RunDir) -> list[dict]:
    return pq.read_table(run.samples).to_pylist()


def test_scrapes_and_host_are_recorded_and_nothing_is_left_in_the_process_list(
    run, endpoint, until
) -> None:
    with TelemetryRecorder(run, FAST) as recorder:
        recorder.add_targets([endpoint, Endpoint("no-metrics", "http://127.0.0.1:1", "m")])
        assert recorder.scrape_now("ready")
        until(lambda: recorder.latest().generated_tokens, "live values")
        live = recorder.latest()
        assert (live.running, live.waiting, live.kv_usage, live.power_w) == (
            4.0,
            2.0,
            0.5,
            None,
        )
        assert live.scrape_failures == 0
        assert recorder.scrape_now("drained")
        pid = recorder.pid
        assert pid is not None
    assert gone(pid)
    assert recorder.concerns == []
    rows = finalize(run)
    assert rows.power is None  # no board, no file
    assert not run.power.exists()
    labels = [
        json.loads(row["labels"])["label"]
        for row in samples(run)
        if row["metric"] == "harness_scrape_label"
    ]
    assert labels == ["ready", "drained"]
    tokens = [
        row["value"] for row in samples(run) if row["metric"] == "vllm:generation_tokens_total"
    ]
    assert tokens == sorted(tokens)
    assert len(tokens) >= 3
    host = pq.read_table(run.host).to_pylist()
    assert {"host", "host-loopback", "telemetry", "supervisor"} <= {row["scope"] for row in host}
    assert recorder.scrape_now("late") is False


def test_failed_scrapes_are_rows_and_live_values_unknown(
    run, endpoint, metrics_server, until
) -> None:
    with TelemetryRecorder(run, FAST) as recorder:
        recorder.add_targets([endpoint])
        assert recorder.scrape_now("ready")
        metrics_server.mode = "error"
        assert not recorder.scrape_now("drained")
        until(lambda: recorder.latest().scrape_failures, "the failure is told")
        assert recorder.latest().running is None
    finalize(run)
    errors = [
        json.loads(row["labels"])["error"]
        for row in samples(run)
        if row["metric"] == "harness_scrape_error"
    ]
    assert "HTTP 500" in errors


@pytest.mark.parametrize(
    ("mode", "error"),
    [("garbage", "not an exposition"), ("half", "truncated"), ("cut", "truncated")],
)
def test_a_body_that_is_no_exposition_is_a_failed_scrape_and_the_run_goes_on(
    run, endpoint, metrics_server, mode: str, error: str
) -> None:
    with TelemetryRecorder(run, FAST) as recorder:
        recorder.add_targets([endpoint])
        assert recorder.scrape_now("ready")
        metrics_server.mode = mode
        assert not recorder.scrape_now("drained")
        metrics_server.mode = "good"
        assert recorder.scrape_now("after")
    finalize(run)
    errors = [
        json.loads(row["labels"])["error"]
        for row in samples(run)
        if row["metric"] == "harness_scrape_error"
    ]
    assert errors
    assert all(error in one for one in errors)
    ups = [row["value"] for row in samples(run) if row["metric"] == "up"]
    assert ups[0] == ups[-1] == 1
    assert 0 in ups


def test_of_some_replicas_only_there_is_no_total(run, endpoint, until) -> None:
    dead = Endpoint("replica-1", "http://127.0.0.1:1", "m", "http://127.0.0.1:1/metrics")
    with TelemetryRecorder(run, FAST) as recorder:
        recorder.add_targets([endpoint, dead])
        assert not recorder.scrape_now("ready")
        until(lambda: recorder.latest().scrape_failures, "the failure is told")
        assert recorder.latest().generated_tokens is None


def test_power_of_a_board_is_recorded_and_shown(run, nvml_double, until) -> None:
    nvml_double(power_mw=420_000, counter_latency_us=2400)
    with TelemetryRecorder(run, FAST, [GPU]) as recorder:
        assert recorder.power
        assert recorder.power[0]["devices"][0]["power"] == "nvml-instant"
        until(lambda: recorder.latest().power_w == 420.0, "watts")
        first_ns = recorder.latest().t_ns
        until(lambda: recorder.latest().t_ns > first_ns, "a second's readings")
    finalize(run)
    rows = pq.read_table(run.power).to_pylist()
    assert {row["source"] for row in rows} == {"nvml-instant", "nvml-counter"}
    assert {row["boundary"] for row in rows} == {"gpu_board"}
    counter = [row for row in rows if row["source"] == "nvml-counter"]
    assert len(counter) >= 2
    watts = (
        (counter[-1]["energy_j"] - counter[0]["energy_j"])
        / (counter[-1]["t_ns"] - counter[0]["t_ns"])
        * 1e9
    )
    assert watts == pytest.approx(420.0, rel=0.02)


def test_a_board_lost_in_mid_run_is_told_once_and_the_rest_goes_on(
    run, nvml_double, tmp_path: Path, until
) -> None:
    lost = tmp_path / "lost"
    nvml_double(lost_file=lost, no_counter=1)
    with TelemetryRecorder(run, FAST, [GPU]) as recorder:
        until(lambda: recorder.latest().power_w, "watts")
        lost.touch()
        until(lambda: len(recorder.concerns) > 1, "the loss is told")
        assert recorder.failed is None
        assert recorder.latest() != TelemetryProgress()
    assert [concern.code for concern in recorder.concerns] == [
        "double_hardware",
        "power_reading_failed",
    ]


def test_power_that_is_required_and_missing_stops_the_start(run, nvml_double) -> None:
    nvml_double(init_error=9)
    recorder = TelemetryRecorder(run, FAST.model_copy(update={"require": ("gpu_power",)}), [GPU])
    with pytest.raises(TelemetryError, match="gpu_power") as caught:
        recorder.start()
    assert _REASONS[pynvml.NVML_ERROR_DRIVER_NOT_LOADED] in str(caught.value)
    assert recorder.pid is not None
    assert gone(recorder.pid)


def test_server_metrics_that_are_required_and_missing(run, endpoint, metrics_server) -> None:
    with TelemetryRecorder(
        run, FAST.model_copy(update={"require": ("server_metrics",)})
    ) as recorder:
        with pytest.raises(TelemetryError, match="server_metrics"):
            recorder.ensure_required()
        recorder.add_targets([endpoint])
        recorder.ensure_required()
        metrics_server.mode = "error"
        with pytest.raises(TelemetryError, match="server_metrics"):
            recorder.ensure_required()


def test_a_recorder_that_dies_is_started_again_once_and_goes_on_in_new_parts(
    run, endpoint, until
) -> None:
    told: list[Concern] = []
    with TelemetryRecorder(run, FAST, on_concern=told.append) as recorder:
        recorder.add_targets([endpoint])
        recorder.add_scopes({"traffic:0": os.getpid()})
        assert recorder.scrape_now("first_after_ready")
        first = recorder.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        until(lambda: told, "the concern")
        assert (told[0].code, told[0].severity) == ("telemetry_restarted", Severity.DEGRADED)
        assert "SIGKILL" in told[0].message
        assert recorder.failed is None
        until(
            lambda: recorder.scrape_now("last_after_drain"),
            "the second one scrapes the same target",
        )
        assert recorder.pid != first
    rows = finalize(run)
    assert len(parts(run.scrapes_journal)) == len(parts(run.host_journal)) == 2
    labels = [
        json.loads(row["labels"])["label"]
        for row in samples(run)
        if row["metric"] == "harness_scrape_label"
    ]
    assert labels[0] == "first_after_ready"
    assert labels[-1] == "last_after_drain"
    second = [
        row["scope"] for row in read_table([parts(run.host_journal)[1]], tables.HOST).to_pylist()
    ]
    assert "traffic:0" in second
    assert rows.host == sum(
        read_table([part], tables.HOST).num_rows for part in parts(run.host_journal)
    )


def test_the_second_death_of_the_recorder_is_final_and_the_run_goes_on(
    run, endpoint, until
) -> None:
    told: list[Concern] = []
    with TelemetryRecorder(run, FAST, on_concern=told.append) as recorder:
        recorder.add_targets([endpoint])
        for n in (1, 2):
            until(lambda: recorder.scrape_now("ready"), "it scrapes")
            assert recorder.pid is not None
            os.kill(recorder.pid, signal.SIGKILL)
            until(lambda n=n: len(told) == n, "the concern")
        assert recorder.failed is told[1]
        assert (told[1].code, told[1].severity) == ("telemetry_died", Severity.DEGRADED)
        recorder.add_targets([endpoint])
        recorder.add_scopes({"traffic:0": os.getpid()})
        assert recorder.scrape_now("drained") is False
        assert recorder.latest() == TelemetryProgress()
    assert finalize(run).samples  # what it had recorded is there


def test_a_journal_that_cannot_be_written_is_told_once(run, endpoint, until) -> None:
    run.scrapes_dir.parent.mkdir()
    run.scrapes_dir.write_text("in the way")
    with TelemetryRecorder(run, FAST) as recorder:
        recorder.add_targets([endpoint])
        until(lambda: recorder.concerns, "the concern")
    assert [concern.code for concern in recorder.concerns] == [
        "telemetry_not_written",
        "telemetry_rows_lost",
    ]
    assert finalize(run).host  # the other journals are whole


def test_a_scope_that_is_already_gone_is_a_note(run, until) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with TelemetryRecorder(run, FAST) as recorder:
        recorder.add_scopes({"traffic:0": process.pid})
        until(lambda: recorder.concerns, "the note")
    assert recorder.concerns[0].severity is Severity.NOTE


def test_a_run_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OSError, match="run"):
        TelemetryRecorder(RunDir(tmp_path / "run"), FAST).start()


SUPERVISOR = """
import os, sys
from pathlib import Path
from harness.artifacts.layout import RunDir
from harness.profile.telemetry import Telemetry
from harness.telemetry.driver import TelemetryRecorder
recorder = TelemetryRecorder(RunDir(Path(sys.argv[1])), Telemetry(host_interval_s=0.05)).start()
print(recorder.pid, flush=True)
held = os.dup(recorder._process.child._commands)
os.set_inheritable(held, True)
if os.fork() == 0 and sys.argv[2] == "pipe held open":
    sys.stdin.read()  # another process keeps the control pipe open beyond the supervisor's end
    os._exit(0)
os.close(held)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["end of the pipe", "pipe held open"])
def test_the_supervisors_kill_9_ends_the_recorder_with_its_journals_closed(
    run, until: Callable, how: str
) -> None:
    code = (
        SUPERVISOR
        if how == "pipe held open"
        else SUPERVISOR.split("held =", maxsplit=1)[0] + "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, run.root, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        until(run.host_journal.exists, "the first host row")
        supervisor.kill()
        supervisor.wait()
        until(lambda: gone(pid), "the recorder is gone")
        assert supervisor.stdin is not None
        supervisor.stdin.close()
    assert run.host_journal.read_bytes().endswith(b"\xff\xff\xff\xff\x00\x00\x00\x00")


def test_sigterm_ends_it_cleanly_and_the_terminals_sigint_does_not_touch_it(run, until) -> None:
    told: list[Concern] = []
    recorder = TelemetryRecorder(run, FAST, on_concern=told.append).start()
    assert recorder.pid is not None
    os.kill(recorder.pid, signal.SIGINT)
    os.kill(recorder.pid, signal.SIGTERM)
    until(lambda: told, "its end is told")
    recorder.stop()
    assert "exit code 0" in told[0].message
    assert run.host_journal.read_bytes().endswith(b"\xff\xff\xff\xff\x00\x00\x00\x00")


def test_a_signal_just_before_the_wait_for_commands_ends_the_wait() -> None:
    commands, kept = os.pipe()
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        file = _Commands(commands)
        os.kill(os.getpid(), signal.SIGTERM)
        assert len(file._poll.poll(0)) == 1
        os.write(kept, b"x")
        assert file.readinto(bytearray(4)) == 1
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, before)
        os.close(kept)


def test_the_key_of_an_endpoint_goes_to_its_own_metrics_only(run, metrics_server, until) -> None:
    elsewhere = Endpoint("elsewhere", "http://127.0.0.1:1", "m", metrics_server.url)
    own = Endpoint(
        "replica-0", metrics_server.url.removesuffix("/metrics"), "m", metrics_server.url
    )
    with TelemetryRecorder(run, FAST, api_key="a-key") as recorder:
        recorder.add_targets([elsewhere])
        assert recorder.scrape_now("ready")
        assert metrics_server.authorizations == {None}
        recorder.add_targets([own])
        assert recorder.scrape_now("ready")
    assert metrics_server.authorizations == {None, "Bearer a-key"}
    assert b"a-key" not in b"".join(
        path.read_bytes() for path in run.root.rglob("*") if path.is_file()
    )


def test_control_lines_that_make_no_sense_are_told_and_change_nothing(run, until) -> None:
    with TelemetryRecorder(run, FAST) as recorder:
        assert recorder._process.child is not None
        for line in (b"garbage\n", b"[1]\n", b'{"add_targets": [{"name": "x"}]}\n'):
            recorder._process.child.tell(line)
        until(lambda: len(recorder.concerns) == 3, "all three are told")
        assert recorder.failed is None
    assert {concern.code for concern in recorder.concerns} == {"telemetry_control"}


def test_a_configuration_that_cannot_be_read_is_an_exit_status(run) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness.telemetry.recorder"],
        input="{}\n",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert json.loads(done.stdout)["code"] == "telemetry_config"
