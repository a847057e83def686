"""Sweeps whose runs are a stand-in that leaves what a run leaves."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from harness.artifacts.sweep.index import PointState, read_sweep
from harness.commands.display import QuietView
from harness.commands.series import only_runner
from harness.commands.steps.outcome import RunResult
from harness.commands.steps.sweep_plan import plan_sweep, point_seed
from harness.commands.steps.sweep_progress import curve_lines, table, time_left_s
from harness.commands.sweep import (
    SweepOptions,
    check_same,
    check_size,
    run_sweep,
    source_of,
    start_sweep,
)
from harness.core.errors import ArtifactError, ExitCode, ProfileError, ServerError
from harness.profile.load import load_profile

LOAD = "traffic.load.0.concurrency"
SUMMARY = next((Path(__file__).parents[2] / "docs/sample/threads-1").glob("2*")) / "summary.json"
PROFILE = """\
purpose: smoke
seed: 3
cooldown_s: 0s
model: {id: builtin:tiny, max_context_tok: 4096}
server: {kind: torch, device: cpu}
traffic:
  workload: {kind: chat, turns: 1, system_tok: 0, context_limit_tok: 1000}
  load: [{kind: concurrency, concurrency: 2, warmup_s: 1s, window_s: 9s}]
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "model-cache"))


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(PROFILE)
    return path


def sweep_of(profile, *over, overrides=(), **options):
    source = source_of(profile, overrides, SweepOptions(over=over, **options))
    return source, plan_sweep(source)


def started(profile, *over, **options):
    source, plan = sweep_of(profile, *over, **options)
    return start_sweep(source, plan, out=profile.parent / "out")


class Runner:
    """Leaves a finished run; `fail` has errors by the number of the call, from 1."""

    def __init__(self):
        self.calls, self.fail, self.not_started = [], {}, ()

    def __call__(self, profile, *, out, sweep, lease, overrides=(), **_):
        self.calls.append(sweep["point"])
        turn = len(self.calls)
        run = out / f"run-{turn:02}"
        run.mkdir()
        error = self.fail.get(turn)
        state = "complete" if error is None else "failed"
        manifest = {"schema_version": 1, "run_id": run.name, "state": state, "sweep": dict(sweep)}
        kept = {"kind": "torch", "kept_from": "run-01" if turn > 1 else None}
        fields = {**manifest, "server": kept, "overrides": list(overrides)}
        (run / "manifest.json").write_text(json.dumps(fields))
        lease.failed_start = turn in self.not_started
        if error is not None:
            raise error
        shutil.copy(SUMMARY, run / "summary.json")
        return RunResult(run, None, ExitCode.OK)


def quiet():
    return nullcontext(QuietView())


def states(folder):
    return Counter(point.state.value for point in read_sweep(folder).points)


# --- the plan ---


def test_points_are_grouped_by_server_and_in_random_order(profile):
    over = (f"{LOAD}=1..64x2", "server.max_batch_tok=64,128")
    _, plan = sweep_of(profile, *over, repeats=2)
    servers = [point.variant for point in plan.points]
    assert sorted(set(servers)) == ["max_batch_tok=128", "max_batch_tok=64"]
    assert servers == sorted(servers, key=servers.index)  # one block each
    assert (len(plan.runs), plan.server_starts, plan.total_s) == (28, 2, 280.0)
    loads = [point.values[LOAD] for point in plan.points[:7]]
    assert sorted(loads) == [1, 2, 4, 8, 16, 32, 64]
    assert loads != sorted(loads)
    assert plan.points == sweep_of(profile, *over, repeats=2)[1].points


def test_the_given_order_stays(profile):
    _, plan = sweep_of(profile, f"{LOAD}=4,1,2", order="given")
    assert [point.values[LOAD] for point in plan.points] == [4, 1, 2]


def test_each_run_has_a_seed_of_its_values(profile):
    _, plan = sweep_of(profile, f"{LOAD}=1,2", repeats=2)
    _, other = sweep_of(profile, f"{LOAD}=2,4")
    seeds = {(point.values[LOAD], point.repeat): point.seed for point in plan.points}
    assert len(set(seeds.values())) == 4
    assert seeds[2, 1] == next(p.seed for p in other.points if p.values[LOAD] == 2)
    assert seeds[1, 2] == point_seed(3, {LOAD: 1}, 2)


def test_units_are_applied_to_values_and_equal_ones_are_one_point(profile):
    _, plan = sweep_of(profile, "server.max_batch_tok=1k,1000,2k")
    found = [point.values["server.max_batch_tok"] for point in plan.points]
    assert sorted(found, key=str) == [1000, 2000]


def test_impossible_combinations_are_skipped_with_their_reason(profile):
    _, plan = sweep_of(
        profile, f"{LOAD}=1,2", "model.max_context_tok=2k,100k", "server.page_tok=0,8"
    )
    assert (len(plan.runs), len(plan.skipped)) == (2, 6)
    reasons = {str(point.error).split(":")[0] for point in plan.skipped}
    assert "server.page_tok" in reasons
    assert any("32,768" in str(point.error) for point in plan.skipped)
    assert [point.id for point in plan.points] == list(range(8))


def test_a_sweep_in_which_nothing_can_run_is_refused(profile):
    with pytest.raises(ProfileError) as caught:
        sweep_of(profile, "server.page_tok=0,-1")
    assert "server.page_tok" in str(caught.value.details)


def test_more_than_200_runs_or_12_hours_need_a_confirmation(profile):
    check_size(sweep_of(profile, f"{LOAD}=1..200+1")[1])
    with pytest.raises(ProfileError, match="201 runs"):
        check_size(sweep_of(profile, f"{LOAD}=1..201+1")[1])
    hour = "traffic.load.0.window_s=1h"
    with pytest.raises(ProfileError, match="13 h"):
        check_size(sweep_of(profile, f"{LOAD}=1..13+1", overrides=(hour,))[1])


def test_a_price_gives_the_cost(profile):
    server = "server={kind: attach, urls: ['http://127.0.0.1:9'], gpu_count: 8}"
    price = "price={usd_per_gpu_h: 3.0, source: s, date: 2026-01}"
    _, plan = sweep_of(profile, f"{LOAD}=1..36+1", overrides=(server, price))
    assert plan.usd == pytest.approx(360 / 3600 * 8 * 3)
    assert plan.server_starts == 0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"over": ("x",)}, "KEY=VALUES"),
        ({"over": (f"{LOAD}=1..8",)}, "x2"),
        ({"over": (f"{LOAD}=1", f"{LOAD}=2")}, "twice"),
        ({"zip": ("a+b=1",)}, "VALUE+VALUE"),
        ({"zip": ("a+a=1+2",)}, "twice"),
    ],
)
def test_options_that_cannot_be_read_are_refused(profile, options, word):
    with pytest.raises(ProfileError) as caught:
        source_of(profile, (), SweepOptions(**options))
    assert word in str(caught.value)


def test_options_extend_the_profiles_section(profile):
    profile.write_text(f"{PROFILE}sweep: {{over: {{{LOAD}: [1, 2]}}, repeats: 2}}\n")
    zipped = ("server.max_batch_tok+server.page_tok=64+8,128+16",)
    _, plan = sweep_of(profile, f"{LOAD}=4,8,16", zip=zipped)
    assert len(plan.runs) == 3 * 2 * 2
    assert [axis.zipped for axis in plan.axes] == [None, 0, 0]


# --- running ---


def test_a_sweep_runs_every_point_with_its_values(profile):
    folder = started(profile, f"{LOAD}=1,2", "server.max_batch_tok=64,128")
    runner = Runner()
    result = run_sweep(folder, view=quiet, run_one=runner)
    assert result.exit_code is ExitCode.OK
    assert states(folder) == {"done": 4}
    assert runner.calls == [0, 1, 2, 3]
    for point in result.points:
        manifest = json.loads((folder / str(point.run) / "manifest.json").read_text())
        assert manifest["sweep"] == {
            "id": folder.name,
            "point": point.id,
            "values": dict(point.values),
        }
        assert f"{LOAD}={point.values[LOAD]}" in manifest["overrides"]
        assert f"seed={point.seed}" in manifest["overrides"]
        assert "sweep=null" in manifest["overrides"]
    assert [point.kept_server for point in result.points] == [False, True, True, True]
    assert {"sweep.html", "points.csv"} <= {path.name for path in result.paths}
    assert load_profile(folder / "best.yaml").sweep is None


def test_a_failed_point_costs_one_point_and_is_tried_again_on_resume(profile):
    folder = started(profile, f"{LOAD}=1,2,4")
    runner = Runner()
    runner.fail = {2: ServerError("it died")}
    result = run_sweep(folder, view=quiet, run_one=runner)
    assert result.exit_code is ExitCode.SERVER
    assert [point.state.value for point in result.points] == ["done", "failed", "done"]
    assert result.points[1].run == "run-02"
    again = run_sweep(folder, view=quiet, run_one=runner)
    assert again.exit_code is ExitCode.OK
    assert runner.calls == [0, 1, 2, 1]
    assert again.points[1].tries == 2


def test_three_failures_in_a_row_end_the_sweep(profile):
    folder = started(profile, f"{LOAD}=1..64x2", max_failures=3)
    runner = Runner()
    runner.fail = dict.fromkeys((1, 3, 4, 5), ServerError("again"))
    result = run_sweep(folder, view=quiet, run_one=runner)
    assert states(folder) == {"done": 1, "failed": 4, "planned": 2}
    assert any(f"--resume {folder}" in message for message in result.messages)


def test_a_fifth_of_all_may_fail_but_not_more(profile):
    folder = started(profile, f"{LOAD}=1..30+1", max_failures=2)
    runner = Runner()
    runner.fail = dict.fromkeys(range(1, 30, 2), ServerError("every other one"))
    run_sweep(folder, view=quiet, run_one=runner)
    assert states(folder)["failed"] == 7  # more than 30 / 5


def test_a_server_that_does_not_start_twice_has_its_other_points_skipped(profile):
    folder = started(profile, f"{LOAD}=1..16x2", "server.max_batch_tok=64,128", max_failures=9)
    runner = Runner()
    runner.fail = {1: ServerError("no memory"), 2: ServerError("no memory")}
    runner.not_started = (1, 2)
    result = run_sweep(folder, view=quiet, run_one=runner)
    assert states(folder) == {"failed": 2, "skipped": 3, "done": 5}
    skipped = [point for point in result.points if point.state is PointState.SKIPPED]
    assert {point.variant for point in skipped} == {result.points[0].variant}
    assert all("no memory" in str(point.error) for point in skipped)
    again = run_sweep(folder, view=quiet, run_one=runner)
    assert {point.state for point in again.points} == {PointState.DONE}


def test_an_interrupted_sweep_tells_how_to_go_on(profile):
    folder = started(profile, f"{LOAD}=1,2")

    def interrupted(profile, **kwargs):
        return RunResult(Runner()(profile, **kwargs).run_dir, None, ExitCode.INTERRUPTED)

    result = run_sweep(folder, view=quiet, run_one=interrupted)
    assert result.exit_code is ExitCode.INTERRUPTED
    assert any(f"--resume {folder}" in message for message in result.messages)


def test_a_sweep_resumes_only_as_it_was_started(profile):
    folder = started(profile, f"{LOAD}=1,2")
    check_same(folder, source_of(profile, (), SweepOptions(over=(f"{LOAD}=1,2",))))
    with pytest.raises(ProfileError, match=rf"sweep\.over\.{LOAD}\.1"):
        check_same(folder, source_of(profile, (), SweepOptions(over=(f"{LOAD}=1,4",))))
    changed = source_of(
        profile, ("traffic.load.0.window_s=5s",), SweepOptions(over=(f"{LOAD}=1,2",))
    )
    with pytest.raises(ProfileError, match=r"traffic\.load\.0\.window_s"):
        check_same(folder, changed)
    (folder / "profile.yaml").write_text(PROFILE.replace("seed: 3", "seed: 4"))
    with pytest.raises(ArtifactError, match=r"profile\.yaml"):
        run_sweep(folder, view=quiet, run_one=Runner())


def test_a_sweep_that_another_process_runs_is_refused(profile):
    folder = started(profile, f"{LOAD}=1,2")
    runner = Runner()
    with only_runner(folder), pytest.raises(ArtifactError):
        run_sweep(folder, view=quiet, run_one=runner)
    assert runner.calls == []


_KILLED = """\
import json, shutil, sys, time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from harness.commands.display import QuietView
from harness.commands.steps.outcome import RunResult
from harness.commands.sweep import run_sweep
from harness.core.errors import ExitCode

folder, summary = Path(sys.argv[1]), sys.argv[2]

def run_one(profile, *, out, sweep, **_):
    run = out / f"run-{time.monotonic_ns()}"
    run.mkdir()
    fields = {"schema_version": 1, "run_id": run.name, "sweep": dict(sweep)}
    (run / "manifest.json").write_text(json.dumps(fields | {"state": "running"}))
    time.sleep(0.02)
    part = run / "manifest.part"
    part.write_text(json.dumps(fields | {"state": "complete"}))
    part.replace(run / "manifest.json")
    shutil.copy(summary, run / "summary.part")
    (run / "summary.part").replace(run / "summary.json")
    return RunResult(run, None, ExitCode.OK)

print("ready", flush=True)
run_sweep(folder, view=lambda: nullcontext(QuietView()), run_one=run_one)
"""


def kill_and_resume(folder: Path, kills: int, rng: random.Random) -> int:
    """Kill a sweep at random moments, then let it end; how many kills it got."""
    done = 0
    for left in range(kills, -1, -1):
        argv = [sys.executable, "-c", _KILLED, folder, SUMMARY]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            if left:
                time.sleep(rng.uniform(0, 0.4))
                process.send_signal(signal.SIGKILL)
        done += process.returncode == -signal.SIGKILL
    return done


def test_kill_9_at_random_moments_loses_nothing_and_measures_nothing_twice(profile):
    folder = started(profile, f"{LOAD}=1..40+1")
    assert kill_and_resume(folder, 4, random.Random(7)) > 0
    assert states(folder) == {"done": 40}
    manifests = [json.loads(path.read_text()) for path in folder.glob("*/manifest.json")]
    finished = [one["sweep"]["point"] for one in manifests if one["state"] == "complete"]
    assert sorted(finished) == list(range(40))
    assert {point.run for point in read_sweep(folder).points} == {
        one["run_id"] for one in manifests if one["state"] == "complete"
    }


# --- what is shown ---


def test_the_table_has_a_row_per_point_by_value(profile):
    folder = started(profile, f"{LOAD}=1..16x4")
    runner = Runner()
    runner.fail = {1: ServerError("it died")}
    result = run_sweep(folder, view=quiet, run_one=runner)
    columns, rows = table(folder, result.points)
    assert columns[:3] == ("concurrency", "repeat", "state")
    assert [row[0] for row in rows] == ["1", "4", "16"]
    assert sorted(row[2] for row in rows) == ["done", "done", "failed"]
    assert any("peak" in line for line in curve_lines(folder))


def test_the_time_left_is_that_of_kept_servers(profile):
    points = list(read_sweep(started(profile, f"{LOAD}=1..5+1")).points)
    assert time_left_s(points) is None
    points[0] = replace(points[0], state=PointState.DONE, wall_s=100.0, kept_server=False)
    assert time_left_s(points) == 400.0
    points[1] = replace(points[1], state=PointState.DONE, wall_s=10.0, kept_server=True)
    assert time_left_s(points) == 30.0
