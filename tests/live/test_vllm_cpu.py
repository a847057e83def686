"""Real vLLM, real weights, real Locust: loadprofiles/cpu-vllm.yaml. An engine that cannot start
fails here; nothing is skipped.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from harness.artifacts.prometheus.text import parse
from harness.core.metric_names import NAMES, pick

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.live, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run of the shipped profile, as a person would start it."""
    out = tmp_path_factory.mktemp("live")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "harness",
            "run",
            "loadprofiles/cpu-vllm.yaml",
            "--out",
            str(out),
            "--json",
        ],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=1100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-8000:]
    (folder,) = out.iterdir()
    return folder, json.loads(done.stdout)


@pytest.fixture(scope="module")
def folder(run):
    return run[0]


@pytest.fixture(scope="module")
def summary(run):
    return run[1]


def rows(folder, *, canaries=False):
    """Records of the load, or of the canaries beside it."""
    found = pq.read_table(folder / "requests.parquet").to_pylist()
    return [row for row in found if (row["class"] == "canary") is canaries]


def samples(folder, metric, which):
    """Sum over labels of a metric at the scrape that bounds the reconciliation: the quality check
    lies outside of the two.
    """
    table = pq.read_table(folder / "scrapes" / "samples.parquet").to_pylist()
    label = {"first": "first_after_ready", "last": "last_after_drain"}[which]
    (edge,) = [
        row["t_ns"]
        for row in table
        if row["metric"] == "harness_scrape_label" and json.loads(row["labels"])["label"] == label
    ]
    rows = [row for row in table if row["metric"] == metric]
    assert rows, f"vLLM exposes no {metric}"
    return sum(row["value"] for row in rows if row["t_ns"] == edge)


def test_the_run_is_functional_and_complete(folder, summary):
    assert summary["verdict"]["status"] == "functional", summary["verdict"]
    assert json.loads((folder / "manifest.json").read_text())["state"] == "complete"


def test_the_engine_was_vllm_with_the_weights_of_smollm2(folder, unread):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert unread(manifest) == []
    assert manifest["server"]["kind"] == "vllm"
    assert manifest["server"]["version"].startswith("0.")
    assert manifest["model"]["model_id"] == "builtin:smollm2-135m"
    assert manifest["model"]["parameters"] > 100_000_000


def test_every_planned_request_was_answered_over_the_messages_api(folder, summary):
    requests = rows(folder)
    assert summary["requests"]["planned"] == len(requests) == 18
    assert {row["outcome"] for row in requests} == {"ok"}
    assert all(
        row["http_status"] == 200
        and row["output_tok"] >= 1
        and row["first_token_ns"] > row["sent_ns"]
        for row in requests
    )


def test_client_output_tokens_equal_the_delta_of_vllms_counter(folder, summary):
    requests = rows(folder)
    client = sum(row["output_tok"] for row in requests)
    delta = samples(folder, "vllm:generation_tokens_total", "last") - samples(
        folder, "vllm:generation_tokens_total", "first"
    )
    assert client == delta > 100
    output = summary["reconciliation"]["output_tokens"]
    assert output["ok"] is True
    assert output["client"] == output["server"] == client


def test_client_input_tokens_equal_the_delta_of_vllms_counter(folder, summary):
    requests = rows(folder)
    client = sum(row["input_tok"] for row in requests)
    assert client == samples(folder, "vllm:prompt_tokens_total", "last") - samples(
        folder, "vllm:prompt_tokens_total", "first"
    )
    assert summary["reconciliation"]["input_tokens"]["ok"] is True


def test_later_turns_read_the_shared_head_from_the_prefix_cache(folder):
    requests = rows(folder)
    later = [row for row in requests if row["turn"] > 0]
    assert later
    assert all(row["cache_read_tok"] > 0 for row in later)
    assert all(row["cache_read_tok"] <= row["input_tok"] for row in requests)


def test_the_names_that_vllm_exposes_are_still_what_the_table_says(folder):
    """A renamed metric makes a figure vanish without an error anywhere, so it is looked for here."""
    body = (folder / "scrapes" / "replica-0.last.prom").read_bytes()
    names = {name for name, _, _ in parse(body, "text/plain")}
    for concept, alternatives in NAMES["vllm"].items():
        assert pick(concept, names) == alternatives[0], f"{concept}: not under its present name"
    golden = set((ROOT / "tests" / "core" / "golden" / "vllm-0.32.0.txt").read_text().split())
    assert golden - names == set(), "names of vLLM 0.32.0 that this version no longer exposes"


def test_canaries_tell_how_wrong_the_clients_clock_was_beside_vllm(folder, summary):
    canary = summary["client"]["canary"]
    assert canary["paired"] >= 1
    assert canary["unpaired"] == 0
    assert canary["gap_error"]["n"] > 50
    assert canary["ttft_error"]["p50_s"] is not None
    assert {row["outcome"] for row in rows(folder, canaries=True)} <= {
        "ok",
        "interrupted",
    }  # the last ones end with the load
    assert "canary_failed" not in {concern["code"] for concern in summary["verdict"]["concerns"]}


def test_the_load_did_not_change_vllms_answers(folder, summary):
    quality = summary["quality"]
    assert (quality["passed"], quality["logprobs"], quality["label"]) == (
        True,
        True,
        "quality unverified",
    )  # there is no reference
    assert quality["change"]["agreement"] == 1
    assert quality["change"]["logprob_difference"] < 0.01
    asked = json.loads((folder / "quality.json").read_text())["before"]["replica-0"]
    assert (asked["route"], asked["error"], len(asked["answers"])) == ("completions", None, 6)


def test_the_models_tokenizer_counts_the_prompts_as_vllm_does(summary):
    found = summary["reconciliation"]["input_tokens"]["tokenizer"]
    assert found["requests"] == found["of"] == 18
    assert found["ok"], found


def test_no_process_of_the_run_is_left(folder):
    marked = []
    for process in psutil.process_iter():
        try:
            if (
                process.environ().get("HARNESS_RUN_ID") == folder.name
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                marked.append(process)
        except psutil.Error:
            continue
    assert marked == []
