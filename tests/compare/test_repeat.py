"""Series of repeats: their plan, their folder, and what a kill leaves. Runs are written by a
stand-in that leaves what a run leaves.
"""

import json
import signal
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest

from harness.commands.display import QuietView
from harness.commands.repeat import Variant, load_variants, plan_entries, run_series, start_series
from harness.commands.steps.outcome import RunResult
from harness.compare.compare import compare_runs
from harness.core.errors import (
    ArtifactError,
    ExitCode,
    InterruptedRunError,
    NotComparableError,
    ProfileError,
    ServerError,
)

PROFILE = """\
purpose: smoke
seed: 7
repeats: {repeats}
cooldown_s: {cooldown}
model: {{id: "{model}"}}
server: {server}
traffic:
  workload: {{kind: chat, turns: {turns}}}
  load: [{{kind: concurrency, concurrency: 2, sessions: 2}}]
thresholds: ["output_tok_s >= 0.95 * baseline"]
"""


@pytest.fixture
def profile(tmp_path):
    def write(
        name, *, repeats=3, model="builtin:tiny", server="{kind: torch}", turns=2, cooldown="0s"
    ):
        path = tmp_path / f"{name}.yaml"
        path.write_text(
            PROFILE.format(
                repeats=repeats, model=model, server=server, turns=turns, cooldown=cooldown
            )
        )
        return path

    return write


@pytest.fixture
def runner(make_run):
    """Stands in for a run: leaves a finished run directory; `fail` names the turns that fail."""

    class Runner:
        def __init__(self):
            self.calls, self.fail = [], {}

        def __call__(
            self, profile, *, out, view, source=None, overrides=(), calibrate=True, repeat=None
        ):
            self.calls.append((repeat["variant"], repeat["repeat"], profile.seed))
            turn = len(self.calls)
            if turn in self.fail:
                raise self.fail[turn]
            made = make_run(f"run{turn}", seed=profile.seed, values={"output_tok_s": 1000.0 + turn})
            manifest = json.loads((made / "manifest.json").read_text())
            (made / "manifest.json").write_text(json.dumps({**manifest, "repeat": dict(repeat)}))
            made.rename(out / made.name)
            return RunResult(out / made.name, None, ExitCode.OK)

    return Runner()


def quiet():
    return nullcontext(QuietView())


def entries(folder):
    return json.loads((folder / "series.json").read_text())["runs"]


def test_every_variant_runs_in_every_block_in_random_order_with_one_seed_a_block(profile):
    variants = load_variants([profile("a"), profile("b"), profile("c")])
    planned = plan_entries(variants, 8, seed=7)
    blocks = [planned[i : i + 3] for i in range(0, 24, 3)]
    assert all(sorted(e.variant for e in block) == ["a", "b", "c"] for block in blocks)
    assert [{e.seed for e in block} for block in blocks] == [{7 + i} for i in range(8)]
    assert len({tuple(e.variant for e in block) for block in blocks}) > 2
    assert planned == plan_entries(variants, 8, seed=7)


def test_servers_that_stay_up_never_see_a_seed_twice(profile):
    server = '{kind: attach, urls: ["http://127.0.0.1:1"]}'
    variants = load_variants([profile("a", server=server), profile("b", server=server)])
    planned = plan_entries(variants, 3, seed=7)
    assert [entry.seed for entry in planned] == list(range(7, 13))


def test_a_series_runs_to_its_end_and_can_be_compared(profile, runner, tmp_path):
    folder = start_series(load_variants([profile("b"), profile("a")]), out=tmp_path / "out")
    result = run_series(folder, view=quiet, run_one=runner)
    assert result.exit_code is ExitCode.OK
    assert [entry["state"] for entry in entries(folder)] == ["done"] * 6
    assert Counter(name for name, _, _ in runner.calls) == {"a": 3, "b": 3}
    found = compare_runs([folder])
    assert [(side.name, len(side.runs)) for side in found.sides] == [
        ("b", 3),
        ("a", 3),
    ]  # as named, whichever ran first
    assert not any("share a seed" in note for note in found.notes)


def test_a_failure_is_recorded_and_the_others_go_on_until_one_fails_twice_in_a_row(
    profile, runner, tmp_path
):
    folder = start_series(
        load_variants([profile("a"), profile("b")]), repeats=2, out=tmp_path / "out"
    )
    runner.fail = {2: ServerError("no server")}
    result = run_series(folder, view=quiet, run_one=runner)
    assert result.exit_code is ExitCode.SERVER
    states = [entry["state"] for entry in entries(folder)]
    assert sorted(states) == ["done", "done", "done", "failed"]
    assert entries(folder)[1]["error"] == "no server"
    again = run_series(folder, view=quiet, run_one=runner)
    assert again.exit_code is ExitCode.OK
    assert len(runner.calls) == 5
    hopeless = start_series(load_variants([profile("c")]), repeats=4, out=tmp_path / "out")
    runner.fail = dict.fromkeys(range(6, 20), ServerError("never"))
    with pytest.raises(ServerError):
        run_series(hopeless, view=quiet, run_one=runner)
    assert len(runner.calls) == 7


_KILLED = """\
import json, os, signal, sys
from contextlib import nullcontext
from pathlib import Path
from harness.commands.display import QuietView
from harness.core.errors import ExitCode
from harness.commands.repeat import run_series
from harness.commands.steps.outcome import RunResult

turns = []
def run_one(profile, *, out, view, source=None, overrides=(), calibrate=True, repeat=None):
    turns.append(repeat)
    run = out / f"before{len(turns)}"
    run.mkdir()
    state = "running" if len(turns) == 3 else "complete"
    (run / "manifest.json").write_text(json.dumps({"schema_version": 1, "run_id": run.name, "state": state, "repeat": dict(repeat)}))
    if len(turns) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    (run / "summary.json").write_text("{}")
    return RunResult(run, None, ExitCode.OK)

run_series(Path(sys.argv[1]), view=lambda: nullcontext(QuietView()), run_one=run_one)
"""


def test_kill_9_loses_nothing_that_has_finished_and_the_rest_is_resumed(profile, runner, tmp_path):
    folder = start_series(load_variants([profile("a"), profile("b")]), out=tmp_path / "out")
    killed = subprocess.run([sys.executable, "-c", _KILLED, folder], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [entry["state"] for entry in entries(folder)] == [
        "done",
        "done",
        "planned",
        "planned",
        "planned",
        "planned",
    ]
    result = run_series(folder, view=quiet, run_one=runner)
    assert len(runner.calls) == 4
    assert [entry.state for entry in result.entries] == ["done"] * 6


def test_a_run_that_finished_just_before_the_kill_is_not_run_again(profile, runner, tmp_path):
    folder = start_series(load_variants([profile("a")]), out=tmp_path / "out")
    run_series(folder, view=quiet, run_one=runner)
    fields = json.loads((folder / "series.json").read_text())
    fields["runs"][2] |= {"state": "planned", "run": None}
    (folder / "series.json").write_text(json.dumps(fields))
    run_series(folder, view=quiet, run_one=runner)
    assert len(runner.calls) == 3


def test_an_interrupted_run_stops_the_series_and_says_how_to_go_on(profile, runner, tmp_path):
    folder = start_series(load_variants([profile("a")]), out=tmp_path / "out")

    def interrupted(profile, **kwargs):
        made = runner(profile, **kwargs)
        return RunResult(made.run_dir, None, ExitCode.INTERRUPTED)

    result = run_series(folder, view=quiet, run_one=interrupted)
    assert result.exit_code is ExitCode.INTERRUPTED
    assert any(f"--resume {folder}" in message for message in result.messages)
    assert len(runner.calls) == 1


@pytest.mark.parametrize(
    ("change", "key"),
    [({"turns": 3}, "workload_sha256"), ({"model": "builtin:smollm2-135m"}, "model")],
)
def test_variants_that_could_not_be_compared_are_refused_before_anything_runs(
    profile, tmp_path, change, key
):
    variants = load_variants([profile("a"), profile("b", **change)])
    with pytest.raises(NotComparableError, match=key):
        start_series(variants, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert start_series(variants, out=tmp_path / "out", allow_mismatch=[key]).is_dir()


def test_what_makes_no_series_is_refused(profile, tmp_path):
    with pytest.raises(ProfileError, match="two runs"):
        start_series(load_variants([profile("a", repeats=1)]), out=tmp_path / "out")
    with pytest.raises(ProfileError, match="colour"):
        start_series(load_variants([profile("a")]), out=tmp_path / "out", allow_mismatch=["colour"])
    with pytest.raises(ArtifactError, match=r"series\.json"):
        run_series(tmp_path, view=quiet)


def test_between_runs_it_cools_down_as_long_as_the_slowest_profile_asks(
    profile, runner, tmp_path, monkeypatch
):
    log = []
    monkeypatch.setattr("harness.commands.series.time.sleep", log.append)

    def run(*args, **kwargs):
        log.append("run")
        return runner(*args, **kwargs)

    variants = load_variants([profile("a", cooldown="20s"), profile("b", cooldown="90s")])
    run_series(start_series(variants, repeats=2, out=tmp_path / "out"), view=quiet, run_one=run)
    assert log == ["run", 90.0, "run", 90.0, "run", 90.0, "run"]
    log.clear()
    runner.fail = {len(runner.calls) + 1: ServerError("no server")}
    run_series(
        start_series(variants[:1], repeats=2, cooldown_s=5.0, out=tmp_path / "out"),
        view=quiet,
        run_one=run,
    )
    assert log == ["run", 5.0, "run"]  # a failed one has heated the machine too


def test_an_interruption_before_the_load_ends_the_series_at_once(profile, runner, tmp_path):
    folder = start_series(load_variants([profile("a")]), out=tmp_path / "out")
    runner.fail = {1: InterruptedRunError("interrupted")}
    with pytest.raises(InterruptedRunError):
        run_series(folder, view=quiet, run_one=runner)
    assert len(runner.calls) == 1


def test_a_variant_may_fail_now_and_then_but_not_twice_in_a_row(profile, runner, tmp_path):
    folder = start_series(load_variants([profile("a")]), repeats=4, out=tmp_path / "out")
    runner.fail = {1: ServerError("no server"), 3: ServerError("no server")}
    result = run_series(folder, view=quiet, run_one=runner)
    assert [entry.state for entry in result.entries] == ["failed", "done", "failed", "done"]
    assert result.exit_code is ExitCode.SERVER


def test_a_series_of_a_newer_harness_is_refused(profile, runner, tmp_path):
    folder = start_series(load_variants([profile("a")]), out=tmp_path / "out")
    fields = json.loads((folder / "series.json").read_text())
    (folder / "series.json").write_text(json.dumps({**fields, "schema_version": 99}))
    with pytest.raises(ArtifactError, match="schema_version 99"):
        run_series(folder, view=quiet, run_one=runner)
    assert runner.calls == []


def test_a_run_that_was_interrupted_does_not_count_as_done(profile, runner, tmp_path):
    folder = start_series(load_variants([profile("a")]), repeats=2, out=tmp_path / "out")
    run_series(folder, view=quiet, run_one=runner)
    fields = json.loads((folder / "series.json").read_text())
    manifest = folder / fields["runs"][1]["run"] / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "state": "interrupted"}))
    fields["runs"][1] |= {"state": "planned", "run": None}
    (folder / "series.json").write_text(json.dumps(fields))
    run_series(folder, view=quiet, run_one=runner)
    assert len(runner.calls) == 3


def test_profiles_of_one_name_become_variants_of_two(profile, tmp_path):
    (tmp_path / "more").mkdir()
    first = profile("a")
    second = tmp_path / "more" / "a.yaml"
    second.write_text(Path(first).read_text())
    assert [variant.name for variant in load_variants([first, second])] == ["a", "a-2"]
    assert isinstance(load_variants([first])[0], Variant)
