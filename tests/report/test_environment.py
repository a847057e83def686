"""What a report says a run was made on, and its headline's rows."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from harness.artifacts.recorded_run import RecordedRun
from harness.artifacts.run_summary import Distribution, Figure, ScopeLoad
from harness.artifacts.typed_json import read_leniently, to_json
from harness.core.metrics import METRICS
from harness.core.records import Basis
from harness.profile.recorded import RecordedModel
from harness.reduce.reduction import Reduction, reduce_fully
from harness.report import numbers
from harness.report.headline import boundary_words, figure_row, rows_of
from harness.report.run.description import sentence
from harness.report.run.environment import environment


@pytest.fixture(name="reduction", scope="module")
def _reduction(
    new_builder: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Reduction:
    builder = new_builder(gpus=2)
    for i in range(4):
        builder.request(3.0 + i)
    builder.idle_host()
    return reduce_fully(builder.write(tmp_path_factory.mktemp("environment") / "run"))


def told(reduction: Reduction, **manifest: Any) -> dict[str, str]:
    written = to_json(reduction.run.manifest)
    run = replace(reduction.run, manifest=read_leniently(RecordedRun, written | manifest))
    return dict(environment(replace(reduction, run=run)))


def test_everything_that_the_manifest_says_is_told(reduction: Reduction) -> None:
    found = told(
        reduction, harness={"version": "0.1.0", "commit": "0123456789abcdef", "dirty": True}
    )
    wanted = {
        "Run": "20260801T120000Z-oracle-abc123",
        "Started": "2026-08-01 12:00:00 UTC",
        "Duration": "28 s",
        "GPUs 0 – 1": "NVIDIA H100 80GB HBM3, 80 GiB, power limit 700 W of 700 W, driver 580.1",
        "CPU": "AMD EPYC 9554, 2 of 2 logical cores usable",
        "Memory": "24 GiB",
        "System": "Debian GNU/Linux 12, kernel 6.1",
        "Model": "builtin:tiny, 3,000,000 parameters, float32",
        "Server": "torch 0.1.0 (torch 2.13.0)",
        "Server command": "python -m harness.server.torch_app --port 8000",
        "Server settings": "max_model_len=4096",
        "Server startup time": "4.20 s",
        "Harness": "0.1.0, commit 0123456789ab (modified)",
        "Python": "3.11.9; locust 2.47.0, pandas 3.1.1",
        "CPU usage, host": "1.2 cores (p95 1.2), 0.0931 GiB of memory",
        "Seed": "7",
        "Workload (sha256)": "a" * 64,
        "Plan (sha256)": "b" * 64,
    }
    assert {key: found[key] for key in wanted} == wanted
    assert set(found) == {*wanted, "CPU usage, traffic:0", "CPU usage, server:replica-0"}


def test_what_it_does_not_say_is_left_out_or_a_dash(reduction: Reduction) -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        (
            "hardware",
            "software",
            "server",
            "harness",
            "model",
            "ended_ns",
            "workload_sha256",
            "plan_sha256",
            "clock_anchors",
        )
    )
    one = ScopeLoad(cpu_cores_mean=1.0, cpu_cores_p95=1.0)
    hosts = {
        "host": one,
        "telemetry": one,
        "server:a": ScopeLoad(),
    }
    found = told(replace(reduction, summary=replace(reduction.summary, host=hosts)))
    assert {key: text for key, text in found.items() if key.startswith("CPU usage")} == {
        "CPU usage, host": "1 core (p95 1)"
    }
    bare = replace(reduction, summary=replace(reduction.summary, host={}))
    assert told(bare, **nothing, seed=None) == {
        "Run": "20260801T120000Z-oracle-abc123",
        "GPU": "none",
        "Seed": numbers.DASH,
    }
    gpu = {
        "uuid": "GPU-3",
        "index": 3,
        "name": None,
        "memory_bytes": None,
        "power_limit_w": 500.0,
        "power_limit_default_w": None,
    }
    found = told(reduction, hardware={"gpus": [gpu, gpu | {"index": 4, "name": "B"}]})
    # GPUs that differ have a row each.
    assert found["GPU 3"].split(", ") == ["GPU", "memory unknown", "power limit 500 W"]
    assert found["GPU 4"].split(", ") == ["B", "memory unknown", "power limit 500 W"]


@pytest.mark.parametrize(
    "anchors", [[], [{}], [{"monotonic_ns": "x", "unix_ns": 1}], "none", [None]]
)
def test_a_clock_that_was_not_anchored_has_no_time_of_day(
    reduction: Reduction, anchors: object
) -> None:
    assert "Started" not in told(reduction, clock_anchors=anchors)


def test_the_sentence_says_what_ran_on_what(reduction: Reduction) -> None:
    words = sentence(reduction)
    for part in (
        "builtin:tiny",
        "torch 0.1.0",
        "2 × NVIDIA H100 80GB HBM3",
        "chat traffic",
        "4 live sessions",
        "forced",
    ):
        assert part in words
    hardware = {"gpus": [], "cpu": {"usable_cores": 1}}
    dummy = replace(reduction.run.profile, model=RecordedModel("m", "dummy"))
    manifest = read_leniently(RecordedRun, {"hardware": hardware, "server": {"kind": "vllm"}})
    run = replace(reduction.run, manifest=replace(manifest, profile=dummy))
    words = sentence(replace(reduction, run=run))
    assert all(part in words for part in ("m with dummy weights", "vllm", "1 CPU core:"))
    unknown = replace(reduction.run, manifest=RecordedRun(), profile_json={})
    assert "None" not in sentence(replace(reduction, run=unknown))


def test_a_figure_s_row_has_boundary_basis_tokens_and_interval() -> None:
    """A figure's row has boundary basis tokens interval and what repeats do not remove."""
    figure = Figure(
        12_345.0,
        "J",
        12_000.0,
        13_000.0,
        Basis.MODELLED,
        "node",
        "w",
        "a note",
        systematic_ratio=0.05,
    )
    row = figure_row("energy_j@node", figure)
    assert (row.key, row.title, row.value, row.unit) == (
        "energy_j@node",
        "Energy (nodes)",
        "12.35",
        "kJ",
    )
    assert (row.interval, row.basis, row.boundary, row.tokens) == (
        "12 – 13",
        "modelled",
        "nodes",
        "",
    )
    assert row.note.startswith("a note · ± 5% systematic")
    share = figure_row("slo_met_ratio", Figure(0.9996, "1", 0.99, 1.0, boundary="client"))
    assert (share.value, share.unit, share.interval, share.note) == (
        "> 99.9%",
        "",
        "99% – 100%",
        "",
    )
    absent = figure_row(
        "output_tok_s", Figure(None, "tok/s", basis=Basis.ABSENT, note="why", systematic_ratio=0.05)
    )
    assert (absent.value, absent.unit, absent.basis, absent.tokens, absent.note) == (
        numbers.DASH,
        "",
        "absent",
        "output",
        "why",
    )
    assert figure_row("slo_met_ratio", Figure(0.5, "1", None, 1.0)).interval == ""


def test_percentiles_say_over_how_many_or_why_they_are_absent() -> None:
    known = Distribution(p50=0.25, n=1, ci={"p50": (0.2, 0.3)})
    rows = {
        row.key: row
        for row in rows_of(
            {}, {"ttft_s": known, "e2e_s": Distribution(p50=0.5, n=1200, censored=300)}
        )
    }
    assert (rows["ttft_s.p50"].value, rows["ttft_s.p50"].unit, rows["ttft_s.p50"].note) == (
        "250",
        "ms",
        "1 request",
    )
    assert (rows["ttft_s.p50"].interval, rows["ttft_s.p50"].boundary, rows["ttft_s.p50"].basis) == (
        "200 ms – 300 ms",
        "client",
        "measured",
    )
    assert rows["e2e_s.p50"].note == "1,200 requests"
    assert "300 of 1,500 requests" in rows["e2e_s.p99"].note
    assert (rows["e2e_s.p99"].basis, rows["e2e_s.p99"].boundary, rows["e2e_s.p99"].value) == (
        "absent",
        "",
        numbers.DASH,
    )
    assert (rows["tpot_s.p50"].basis, rows["tpot_s.p50"].value) == ("absent", numbers.DASH)


def test_the_headline_begins_with_tokens_per_gpu_and_has_every_figure_once() -> None:
    metrics = {key: Figure(0.5, METRICS[key].unit) for key in METRICS}
    rows = rows_of({**metrics, "output_tok_per_j@node": Figure(0.4, "tok/J")}, {})
    assert [row.key for row in rows] == [
        "output_tok_s_per_gpu",
        "output_tok_s",
        "output_tok_per_j",
        "output_tok_per_j@node",
        "output_tok_s_per_mw",
        "usd_per_mtok",
        "ttft_s.p50",
        "ttft_s.p99",
        "tpot_s.p50",
        "tpot_s.p99",
        "e2e_s.p50",
        "e2e_s.p99",
        "interactivity_tok_s_user",
        "goodput_rps",
        "goodput_tok_s",
        "slo_met_ratio",
        "requests_per_s",
        "error_ratio",
        "input_computed_tok_s",
        "prefix_hit_ratio",
        "requests_in_flight",
        "mean_input_tok",
        "mean_output_tok",
        "power_w",
    ]
    assert [row.key for row in rows if row.value == "50%"] == [
        "slo_met_ratio",
        "error_ratio",
        "prefix_hit_ratio",
    ]
    assert {row.key: row.tokens for row in rows if row.tokens} == {
        "output_tok_s_per_gpu": "output",
        "output_tok_s": "output",
        "output_tok_per_j": "output",
        "output_tok_per_j@node": "output",
        "output_tok_s_per_mw": "output",
        "usd_per_mtok": "output",
        "interactivity_tok_s_user": "output",
        "goodput_tok_s": "output",
        "input_computed_tok_s": "computed input",
        "prefix_hit_ratio": "cached input",
        "mean_input_tok": "input",
        "mean_output_tok": "output",
    }


def test_boundaries_have_names_for_people() -> None:
    keys = (
        "client",
        "server",
        "deployment",
        "gpu_board",
        "module",
        "cpu_package",
        "dram",
        "node",
        "rack",
        "facility",
        "of tomorrow",
        None,
    )
    assert [boundary_words(key) for key in keys] == [
        "client",
        "server counters",
        "all GPUs",
        "GPU boards",
        "GPU modules",
        "CPU packages",
        "DRAM",
        "nodes",
        "racks",
        "facility meter",
        "of tomorrow",
        "",
    ]
