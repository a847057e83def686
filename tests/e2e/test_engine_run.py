"""The shipped first profile on the real embedded engine, and what is left of it when its supervisor
is killed.
"""

import json
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

SMOKE = Path(__file__).parents[2] / "loadprofiles" / "cpu-smoke.yaml"


@pytest.fixture(scope="module")
def restarted(module_harness, module_cache):
    """A run on the engine whose supervisor is killed, then the first profile whole: (harness,
    killed run, its engine, the next one).
    """
    harness = module_harness
    process = harness.start("run", SMOKE, "--set", "traffic.load.0.window_s=120s")
    killed = harness.in_flight()
    engine = [p for p in harness.processes() if "harness.server.engine" in " ".join(p.cmdline())]
    process.kill()
    process.communicate(timeout=60)
    settings = (
        "traffic.load.0.window_s=4s",
        "traffic.load.0.warmup_s=1s",
        "quality.reference=answers.json",
        "seed=2",
    )
    done = harness(
        "run", SMOKE, "--json", *(word for setting in settings for word in ("--set", setting))
    )
    return harness, killed, engine, done


def test_what_a_killed_supervisor_leaves_behind_is_ended_at_the_next_start(restarted, until):
    harness, killed, engine, done = restarted
    assert engine
    # The engine dies with its parent by itself on Linux; were it to stay, the next start would end
    # it.
    assert done.returncode == 0, done.stderr
    until(
        lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in engine),
        "the engine of the killed run is gone",
    )
    again = harness("reduce", killed, "--json")
    assert again.returncode == 10
    assert json.loads(again.stdout)["requests"]["ok"] > 0
    assert harness.processes() == []


def test_the_first_profile_is_functional_and_its_counts_agree(restarted, unread):
    harness, killed, _, done = restarted
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["verdict"]["status"] == "functional"
    # The load did not change the answers, and the model's own tokenizer agrees to the token.
    assert (summary["quality"]["passed"], summary["quality"]["change"]["texts_equal"]) == (True, 6)
    assert (harness.folder / "answers.json").exists()
    assert summary["reconciliation"]["input_tokens"]["tokenizer"]["relative_difference"] == 0
    (run,) = (run for run in harness.runs() if run != killed)
    requests = pq.read_table(run / "requests.parquet").to_pylist()
    assert {row["outcome"] for row in requests} <= {"ok", "interrupted"}
    output = summary["reconciliation"]["output_tokens"]
    assert (
        output["client"]
        == output["server"]
        == sum(row["output_tok"] for row in requests if row["outcome"] == "ok")
    )
    assert any(
        row["cache_read_tok"] for row in requests if row["turn"]
    )  # later turns find their prefix
    manifest = json.loads((run / "manifest.json").read_text())
    assert unread(manifest) == []
    assert manifest["server"]["kind"] == "torch"
    assert harness.processes() == []


def test_a_killed_engine_ends_the_run_and_keeps_the_records(
    harness, shared_cache, in_flight, summary_of
):
    """An engine that is killed in the middle ends the run with its log and keeps the records."""
    process = harness.start("run", SMOKE, "--set", "traffic.load.0.window_s=120s")
    run = in_flight()
    for engine in [
        p for p in harness.processes() if "harness.server.engine" in " ".join(p.cmdline())
    ]:
        engine.kill()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 4, out + err
    assert "next step" in err
    assert "server.log" in err
    assert json.loads((run / "manifest.json").read_text())["state"] == "failed"
    summary = summary_of(run)
    assert summary["requests"]["ok"] > 0
    assert summary["verdict"]["status"] == "invalid"
    assert harness.processes() == []
