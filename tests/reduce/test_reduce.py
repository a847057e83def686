"""The reduction against runs whose truth is known."""

import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.artifacts.finalize import finalize
from harness.artifacts.layout import RunDir
from harness.artifacts.run_summary import summary_json
from harness.core.errors import ArtifactError
from harness.core.metrics import LATENCY_KEYS, VALUE_KEYS
from harness.reduce import reduce_run, write_summary
from harness.reduce.reduction import reduce_fully
from harness.reduce.series import series

numbers = itertools.count()


def codes(summary: Any) -> set[str]:
    return {concern.code for concern in summary.verdict.concerns}


class TestKnownTruth:
    def test_a_steady_smoke_run_is_functional_and_its_figures_are_exact(
        self, steady: Callable[..., Any], tmp_path: Path
    ) -> None:
        builder = steady()
        summary = reduce_run(builder.write(tmp_path / "run"))
        assert summary.verdict.status == "functional"
        assert not codes(summary)
        assert (summary.window.start_s, summary.window.end_s, summary.window.duration_s) == (
            2.0,
            22.0,
            20.0,
        )
        start, end = (5_000_000 * 10**9 + s * 10**9 for s in (2, 22))
        in_window = 0
        for row in builder.requests:
            at = row["first_token_ns"]
            for gap in row["chunk_dt_us"]:
                at += gap * 1000
                in_window += start <= at < end
        assert summary.metrics["output_tok_s"].value == in_window / 20
        intended = [row for row in builder.requests if start <= row["intended_ns"] < end]
        assert summary.requests.in_window == len(intended)
        assert summary.metrics["goodput_rps"].value == len(intended) / 20
        ttft = summary.latency["ttft_s"]
        assert (ttft.p50, ttft.p99, ttft.max, ttft.n) == (pytest.approx(0.2, rel=1e-12),) * 3 + (
            len(intended),
        )
        assert summary.latency["schedule_lag_s"].p50 == pytest.approx(0.001, rel=1e-12)
        assert summary.latency["ttft_from_sent_s"].mean == pytest.approx(0.199, rel=1e-12)
        assert summary.latency["tpot_s"].p50 == pytest.approx(0.05, rel=1e-12)
        assert summary.latency["e2e_s"].p50 == pytest.approx(0.65, rel=1e-12)
        assert summary.metrics["interactivity_tok_s_user"].value == pytest.approx(20)
        assert summary.metrics["mean_output_tok"].value == 10
        assert summary.metrics["prefix_hit_ratio"].value == pytest.approx(0.6)

    def test_every_key_that_is_defined_is_in_the_summary_and_absence_says_why(
        self, steady: Callable[..., Any], tmp_path: Path
    ) -> None:
        shown = summary_json(reduce_run(steady().write(tmp_path / "run")))
        assert tuple(shown["metrics"]) == VALUE_KEYS
        assert tuple(shown["latency"]) == LATENCY_KEYS
        for key in ("output_tok_s_per_gpu", "usd_per_mtok", "energy_j", "output_tok_per_j"):
            figure = shown["metrics"][key]
            assert figure["value"] is None
            assert figure["basis"] == "absent"
            assert figure["note"]
        wanted = {
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
        assert wanted <= set(shown)
        assert [stage["name"] for stage in shown["stages"]] == ["main"]

    def test_the_same_directory_gives_the_same_bytes_and_journals_the_same_as_tables(
        self, noisy: Callable[..., Any], tmp_path: Path
    ) -> None:
        builder = noisy(gpus=2)
        builder.scrape_counters()
        builder.idle_host()
        builder.constant_power(300)
        run = builder.write(tmp_path / "run")
        from_journals = write_summary(run, reduce_run(run)).read_bytes()
        assert write_summary(run, reduce_run(run)).read_bytes() == from_journals
        finalize(RunDir(run), remove_journals=True)
        assert write_summary(run, reduce_run(run)).read_bytes() == from_journals

    def test_the_order_of_rows_never_matters(
        self, noisy: Callable[..., Any], tmp_path: Path
    ) -> None:
        forward, backward = noisy(), noisy()
        backward.requests.reverse()
        a = summary_json(reduce_run(forward.write(tmp_path / "a")))
        b = summary_json(reduce_run(backward.write(tmp_path / "b")))
        assert a == b

    def test_tokens_are_placed_by_bytes_where_chunks_do_not_tell(
        self, builder: Any, tmp_path: Path
    ) -> None:
        """Ten tokens in two chunks of 30 and 10 bytes, either side of the window's opening."""
        builder.request(
            1.5,
            ttft_s=0.4,
            tokens=10,
            chunk_dt_us=[0, 200_000],
            chunk_bytes=[30, 10],
            chunk_tok=None,
            last_token_ns=None,
        )
        row = builder.requests[0]
        row["last_token_ns"] = row["first_token_ns"] + 200_000_000
        summary = reduce_run(builder.write(tmp_path / "run"))
        assert summary.metrics["output_tok_s"].value == pytest.approx(10 * 10 / 40 / 20)
        assert summary.labels.tokens_in_chunks == "not told"

    def test_a_chunk_of_several_tokens_counts_as_several_shorter_gaps(
        self, builder: Any, tmp_path: Path
    ) -> None:
        row = builder.request(
            5,
            tokens=4,
            chunk_dt_us=[0, 90_000, 10_000],
            chunk_bytes=[4, 12, 4],
            chunk_tok=[1, 3, 1],
            output_tok=5,
        )
        row["last_token_ns"] = row["first_token_ns"] + 100_000_000
        latency = reduce_run(builder.write(tmp_path / "run")).latency
        assert latency["itl_s"].n == 4
        assert latency["itl_s"].p50 == pytest.approx(0.03)
        assert latency["itl_s"].min == pytest.approx(0.01)
        assert latency["tpot_s"].p50 == pytest.approx(0.1 / 4)
        assert latency["inter_event_s"].n == 0

    def test_gaps_are_called_events_where_chunks_do_not_tell(
        self, builder: Any, tmp_path: Path
    ) -> None:
        builder.request(5, tokens=5, chunk_tok=None)
        summary = reduce_run(builder.write(tmp_path / "run"))
        assert summary.latency["itl_s"].n == 0
        assert summary.latency["inter_event_s"].n == 4
        assert any("ITL" in note for note in summary.notes)

    def test_one_token_has_no_pace(self, builder: Any, tmp_path: Path) -> None:
        builder.request(5, tokens=1)
        latency = reduce_run(builder.write(tmp_path / "run")).latency
        assert latency["tpot_s"].p50 is None
        assert latency["ttft_s"].p50 == pytest.approx(0.2)

    def test_lost_requests_censor_the_tail_and_miss_the_slo(
        self, builder: Any, tmp_path: Path
    ) -> None:
        for i in range(95):
            builder.request(3 + 0.1 * i, ttft_s=0.1 + i / 1000)
        for i in range(5):
            builder.lost(3.05 + i, "dropped" if i == 0 else "timeout_first_byte")
        summary = reduce_run(builder.write(tmp_path / "run"))
        ttft = summary.latency["ttft_s"]
        assert ttft.p50 == pytest.approx(0.1 + 49.5 / 1000)
        assert ttft.p90 is not None
        assert (ttft.p95, ttft.p99, ttft.max, ttft.mean) == (None, None, None, None)
        assert (ttft.n, ttft.censored) == (95, 5)
        assert summary.metrics["slo_met_ratio"].value == 0.95
        assert summary.metrics["error_ratio"].value == 0.05
        assert (
            summary.requests.ok,
            summary.requests.failed,
            summary.requests.dropped,
            summary.requests.sent,
        ) == (95, 4, 1, 99)

    def test_latency_counts_requests_by_intention_and_tokens_by_arrival(
        self, builder: Any, tmp_path: Path
    ) -> None:
        builder.request(1.9, ttft_s=0.5)  # intended before the window, streams into it
        builder.request(21.95, ttft_s=0.5)  # intended in it, streams after it
        summary = reduce_run(builder.write(tmp_path / "run"))
        assert summary.latency["ttft_s"].n == 1
        assert summary.metrics["output_tok_s"].value == 10 / 20

    def test_cancelled_streams_are_estimated_from_bytes_and_flagged(
        self, builder: Any, tmp_path: Path
    ) -> None:
        builder.request(3)
        builder.request(
            5, outcome="cancelled", output_tok=None, chunk_tok=None, chunk_bytes=[8] * 10
        )
        summary = reduce_run(builder.write(tmp_path / "run"))
        assert summary.metrics["output_tok_s"].value == pytest.approx((10 + 20) / 20)
        assert "estimated" in (summary.metrics["output_tok_s"].note or "")
        assert summary.reconciliation["output_tokens"].client == 10
        assert summary.reconciliation["output_tokens"].tolerance == 10
        assert summary.metrics["error_ratio"].value == 0

    def test_computed_input_is_spread_from_sent_to_first_token(
        self, builder: Any, tmp_path: Path
    ) -> None:
        """Sent at 1 s, first token at 3 s, window from 2 s: half of the prompt belongs to it."""
        row = builder.request(1.0, ttft_s=2.0)
        row["sent_ns"] = row["intended_ns"]
        metrics = reduce_run(builder.write(tmp_path / "run")).metrics
        assert metrics["input_tok_s"].value == pytest.approx(50 / 20)
        assert metrics["input_computed_tok_s"].value == pytest.approx(20 / 20)
        assert metrics["input_cache_read_tok_s"].value == pytest.approx(30 / 20)

    def test_the_split_of_input_comes_from_counters_where_usage_does_not_tell(
        self, steady: Callable[..., Any], tmp_path: Path
    ) -> None:
        told, untold = steady(), steady()
        for row in untold.requests:
            row["cache_read_tok"] = None
        a = reduce_run(told.write(tmp_path / "a")).metrics["prefix_hit_ratio"]
        summary = reduce_run(untold.write(tmp_path / "b"))
        assert (a.boundary, summary.metrics["prefix_hit_ratio"].boundary) == ("client", "server")
        assert summary.metrics["prefix_hit_ratio"].value == pytest.approx(0.6)
        assert summary.labels.input_split == "server_counters"


@pytest.mark.parametrize("asked", ["first", "main", "last", None])
def test_everything_of_the_headline_is_of_its_stage_and_each_stage_has_its_own(
    steady: Callable[..., Any], tmp_path: Path, times: tuple[int, int], asked: str | None
) -> None:
    t0, second = times
    builder = steady()
    for row in builder.requests:
        if row["intended_ns"] < t0 + 10 * second:
            row["stage"] = "first"
            row["first_token_ns"] += second // 10
    run = builder.write(tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    load = manifest["profile"]["traffic"]["load"]
    load.insert(0, {**load[0], "name": "first", "concurrency": 2})
    manifest["profile"]["headline"] = asked
    (run / "manifest.json").write_text(json.dumps(manifest))
    bounds = {"first": (0, 1, 9), "main": (10, 12, 22)}
    with (run / "events.jsonl").open("w") as file:
        for stage, (start, opens, closes) in bounds.items():
            start_ns, opens_ns, closes_ns = (t0 + s * second for s in (start, opens, closes))
            fields = {
                "stage": stage,
                "start_ns": start_ns,
                "window_start_ns": opens_ns,
                "window_end_ns": closes_ns,
            }
            file.write(json.dumps({"t_ns": start_ns, "event": "stage_started", **fields}) + "\n")
            ended = {
                "stage": stage,
                "end_ns": closes_ns + second,
                "window_end_ns": closes_ns,
                "turns_not_happened": 0,
            }
            file.write(json.dumps({"t_ns": closes_ns, "event": "stage_ended", **ended}) + "\n")
    summary = reduce_run(run)
    first, main = summary.stages
    assert (first.name, main.name) == ("first", "main")
    assert (first.window.start_s, first.window.end_s) == (1, 9)
    assert (main.window.start_s, main.window.end_s) == (12, 22)
    assert summary.headline is not None
    assert summary.headline.rule == (asked or "best_under_slo")
    better = max(summary.stages, key=lambda stage: stage.metrics["output_tok_s"].value)
    expected = {"first": first, "main": main, "last": main, None: better}[asked]
    assert summary.headline.stage == expected.name
    assert summary.window == expected.window
    assert summary.metrics == expected.metrics
    assert summary.latency == expected.latency
    assert summary.requests.in_window == expected.requests.in_window
    assert first.latency["ttft_s"].p50 == pytest.approx(0.3)
    assert main.latency["ttft_s"].p50 == pytest.approx(0.2)
    assert first.requests.sent + main.requests.sent == summary.requests.sent
    assert first.metrics["output_tok_s"].value == pytest.approx(60, rel=0.05)


class TestReconciliation:
    def test_one_token_apart_is_invalid(self, steady: Callable[..., Any], tmp_path: Path) -> None:
        builder = steady()
        builder.requests[50]["output_tok"] -= 1
        summary = reduce_run(builder.write(tmp_path / "run"))
        assert summary.reconciliation["output_tokens"].ok is False
        assert summary.reconciliation["input_tokens"].ok is True
        assert summary.verdict.status == "invalid"
        assert "not_reconciled" in codes(summary)

    def test_aborted_streams_bound_the_difference(
        self, steady: Callable[..., Any], tmp_path: Path
    ) -> None:
        builder = steady(purpose="measure")
        row = builder.requests[
            50
        ]  # the server produced its ten tokens, the client never saw the usage
        row.update(outcome="timeout_total", output_tok=None, input_tok=None, cache_read_tok=None)
        summary = reduce_run(builder.write(tmp_path / "run"))
        agreement = summary.reconciliation["output_tokens"]
        assert agreement.ok is True
        assert agreement.tolerance == 10
        assert agreement.server - agreement.client == 10

    def test_without_metrics_it_is_not_known(self, builder: Any, tmp_path: Path) -> None:
        builder.request(3)
        builder.manifest["endpoints"] = [{"name": "replica-0", "metrics_url": None}]
        summary = reduce_run(builder.write(tmp_path / "run"))
        assert summary.reconciliation["output_tokens"].ok is None
        assert summary.verdict.status == "functional"

    def test_tokens_before_the_first_labelled_scrape_do_not_count(
        self, steady: Callable[..., Any], tmp_path: Path
    ) -> None:
        builder = steady()
        for at_s, _, samples in builder.scrapes:
            samples["vllm:generation_tokens_total"] += 1000
            assert at_s >= -0.5
        builder.scrapes.insert(0, (-2.0, None, dict.fromkeys(builder.scrapes[0][2], 0.0)))
        assert (
            reduce_run(builder.write(tmp_path / "run")).reconciliation["output_tokens"].ok is True
        )


class TestEnergy:
    def test_counter_and_integral_agree_with_the_truth(
        self, steady: Callable[..., Any], tmp_path: Path
    ) -> None:
        for counter in (True, False):
            builder = steady(
                gpus=2,
                window_s=40.0,
                price={"usd_per_gpu_h": 3.6, "source": "s", "date": "2026-08"},
            )
            builder.constant_power(300, counter=counter)
            summary = reduce_run(builder.write(tmp_path / f"run-{counter}"))
            metrics = summary.metrics
            assert metrics["energy_j"].value == pytest.approx(2 * 300 * 40, rel=1e-9)
            assert metrics["power_w"].value == pytest.approx(600, rel=1e-9)
            rate = metrics["output_tok_s"].value
            assert metrics["output_tok_per_j"].value == pytest.approx(rate / 600, rel=1e-9)
            assert metrics["output_tok_per_j"].boundary == "gpu_board"
            assert metrics["output_tok_s_per_gpu"].value == pytest.approx(rate / 2)
            assert metrics["usd_per_mtok"].value == pytest.approx(3.6 / (rate / 2 * 3600 / 1e6))
            assert metrics["usd_per_mtok"].basis == "modelled"
            assert metrics["output_tok_s_per_mw"].value is None

    def test_it_is_absent_for_short_windows(
        self, steady: Callable[..., Any], tmp_path: Path
    ) -> None:
        builder = steady(gpus=1, window_s=4.0)
        builder.constant_power(300)
        figure = reduce_run(builder.write(tmp_path / "run")).metrics["energy_j"]
        assert figure.value is None
        assert re.search(r"\b5 s\b", figure.note or "")

    def test_a_missing_board_leaves_the_deployment_without_energy(
        self, steady: Callable[..., Any], tmp_path: Path
    ) -> None:
        builder = steady(gpus=2)
        builder.constant_power(300)
        builder.power = [row for row in builder.power if row["device_id"] == "GPU-0"]
        summary = reduce_run(builder.write(tmp_path / "run"))
        assert summary.metrics["energy_j"].value is None
        assert "gpu_set" in codes(summary)

    def test_a_lying_counter_is_a_concern(self, steady: Callable[..., Any], tmp_path: Path) -> None:
        builder = steady(gpus=1, window_s=40.0)
        builder.constant_power(300)
        for row in builder.power:
            if row["energy_j"] is not None:
                row["energy_j"] *= 1.2
        assert "energy_disagrees" in codes(reduce_run(builder.write(tmp_path / "run")))

    def test_silence_voids_the_integral(
        self, steady: Callable[..., Any], tmp_path: Path, times: tuple[int, int]
    ) -> None:
        t0, second = times
        builder = steady(gpus=1, window_s=40.0)
        builder.constant_power(300, counter=False)
        builder.power = [row for row in builder.power if not 10 < (row["t_ns"] - t0) / second < 15]
        summary = reduce_run(builder.write(tmp_path / "run"))
        assert summary.metrics["energy_j"].value is None
        assert "power_gap" in codes(summary)


class TestVerdict:
    def test_concerns_are_listed_from_the_worst_down(
        self, steady: Callable[..., Any], tmp_path: Path
    ) -> None:
        """The key `not_implemented` of an older harness's manifest is read over."""
        summary = reduce_run(
            steady(purpose="measure", manifest={"not_implemented": ["a test of something"]}).write(
                tmp_path / "run"
            )
        )
        assert summary.verdict.status == "degraded"
        assert "window_short" in codes(summary)
        assert "not_implemented" not in codes(summary)
        assert [c.severity for c in summary.verdict.concerns] == sorted(
            (c.severity for c in summary.verdict.concerns),
            key=["invalid", "degraded", "preliminary", "note"].index,
        )

    def test_a_busy_load_generator_degrades(
        self, steady: Callable[..., Any], tmp_path: Path
    ) -> None:
        builder = steady(purpose="measure")
        builder.host.clear()
        builder.idle_host(client_cores=0.93)
        concern = next(
            c
            for c in reduce_run(builder.write(tmp_path / "run")).verdict.concerns
            if c.code == "client_saturated"
        )
        assert (concern.value, concern.limit) == (pytest.approx(0.93), 0.85)

    def test_late_sends_degrade(self, steady: Callable[..., Any], tmp_path: Path) -> None:
        builder = steady(purpose="measure")
        for row in builder.requests:
            row["sent_ns"] = row["intended_ns"] + 80_000_000
        assert "late_sends" in codes(reduce_run(builder.write(tmp_path / "run")))

    def test_a_failed_request_fails_a_smoke_run(
        self, steady: Callable[..., Any], tmp_path: Path
    ) -> None:
        builder = steady()
        builder.lost(5, "http_error", http_status=500)
        summary = reduce_run(builder.write(tmp_path / "run"))
        assert summary.verdict.status == "invalid"
        assert "requests_failed" in codes(summary)

    def test_a_restarted_server_is_seen_and_its_counters_go_on(
        self, steady: Callable[..., Any], tmp_path: Path
    ) -> None:
        builder = steady(purpose="measure")
        names = ("vllm:generation_tokens_total", "vllm:prompt_tokens_total")
        base = {name: builder.scrapes[12][2][name] for name in names}
        whole = builder.scrapes[-1][2][names[0]]
        for _, _, samples in builder.scrapes[13:]:
            for name in names:
                samples[name] -= base[name]  # it started again right after that scrape
        summary = reduce_run(builder.write(tmp_path / "run"))
        assert "server_restarted" in codes(summary)
        assert summary.reconciliation["output_tokens"].server == whole

    def test_missing_scrapes_and_silence_are_concerns(
        self, steady: Callable[..., Any], tmp_path: Path
    ) -> None:
        builder = steady(purpose="measure")
        builder.scrapes = [
            (at_s, label, None if 5 < at_s < 14 else samples)
            for at_s, label, samples in builder.scrapes
        ]
        assert {"scrapes_missed", "scrape_gap"} <= codes(
            reduce_run(builder.write(tmp_path / "run"))
        )

    def test_forced_lengths_that_were_not_kept_are_a_concern(
        self, steady: Callable[..., Any], tmp_path: Path
    ) -> None:
        builder = steady(purpose="measure")
        builder.requests[3]["target_output_tok"] += 5
        assert "output_length" in codes(reduce_run(builder.write(tmp_path / "run")))


class TestAccidents:
    def test_killed_in_the_middle(
        self, steady: Callable[..., Any], tmp_path: Path, times: tuple[int, int]
    ) -> None:
        """kill -9: the manifest says running, no stage ended, the journals are torn."""
        builder = steady(one_batch=False, state="running", stage_ended=False)
        builder.requests = [
            row for row in builder.requests if row["done_ns"] < times[0] + 12 * times[1]
        ]
        builder.scrapes = [scrape for scrape in builder.scrapes if scrape[0] < 12]
        builder.host = [row for row in builder.host if row["t_ns"] < times[0] + 12 * times[1]]
        run = builder.write(tmp_path / "run")
        for journal in (run / "requests" / "worker-0.arrows", run / "scrapes" / "raw.arrows"):
            data = journal.read_bytes()
            journal.write_bytes(data[: len(data) - 150])
        (run / "events.jsonl").write_bytes(
            (run / "events.jsonl").read_bytes() + b'{"t_ns": 12, "eve'
        )
        summary = reduce_run(run)
        assert summary.state == "interrupted"
        assert summary.verdict.status == "invalid"
        assert {"killed", "window_cut"} <= codes(summary)
        assert summary.requests.ok >= len(builder.requests) - 3
        assert summary.window.duration_s == pytest.approx(10, abs=0.5)
        assert summary.metrics["output_tok_s"].value == pytest.approx(60, rel=0.05)

    @pytest.mark.parametrize("purpose", ["smoke", "measure"])
    def test_interrupted_in_the_window(
        self, steady: Callable[..., Any], tmp_path: Path, times: tuple[int, int], purpose: str
    ) -> None:
        """SIGINT: the load drains, the stage ends early, the manifest says interrupted."""
        builder = steady(state="interrupted", purpose=purpose)
        run = builder.write(tmp_path / "run")
        events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        for event in events:
            if event["event"] == "stage_ended":
                event["end_ns"] = event["window_end_ns"] = times[0] + 12 * times[1]
        (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
        summary = reduce_run(run)
        assert summary.state == "interrupted"
        assert summary.verdict.status == "invalid"
        assert {"interrupted", "window_cut"} <= codes(summary)
        assert summary.window.duration_s == 10

    def test_a_stage_that_ran_out_of_sessions_was_not_cut(
        self, steady: Callable[..., Any], tmp_path: Path, times: tuple[int, int]
    ) -> None:
        run = steady().write(tmp_path / "run")
        text = (run / "events.jsonl").read_text()
        early = times[0] + 12 * times[1]
        lines = [json.loads(line) for line in text.splitlines()]
        for event in lines:
            if event["event"] == "stage_ended":
                event["window_end_ns"] = early
        (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in lines))
        summary = reduce_run(run)
        assert summary.verdict.status == "functional"
        assert "(sessions)" in summary.window.rule

    @pytest.mark.parametrize("size", [0, 1, 7, 100, 1000, 4000])
    def test_torn_anywhere(self, steady: Callable[..., Any], tmp_path: Path, size: int) -> None:
        builder = steady(gpus=1)
        builder.constant_power(100)
        run = builder.write(tmp_path / "run")
        for journal in run.rglob("*.arrows"):
            journal.write_bytes(journal.read_bytes()[:size])
        summary = reduce_run(run)
        assert summary.verdict.status == "invalid"
        json.dumps(summary_json(summary), allow_nan=False)

    @pytest.mark.parametrize(
        "part",
        ["manifest.json", "events.jsonl", "requests", "scrapes", "power.arrows", "host.arrows"],
    )
    def test_any_part_missing(self, steady: Callable[..., Any], tmp_path: Path, part: str) -> None:
        builder = steady(gpus=1, purpose="measure")
        builder.constant_power(100)
        run = builder.write(tmp_path / "run")
        target = run / part
        if target.is_dir():
            for file in target.iterdir():
                file.unlink()
            target.rmdir()
        else:
            target.unlink()
        summary = reduce_run(run)
        needed = part in {"manifest.json", "events.jsonl", "requests"}
        assert summary.verdict.status == ("invalid" if needed else "degraded")
        json.dumps(summary_json(summary), allow_nan=False)

    @pytest.mark.parametrize(
        "part", ["requests.parquet", "scrapes/samples.parquet", "power.parquet", "host.parquet"]
    )
    def test_a_truncated_table_falls_back_to_its_journal(
        self, steady: Callable[..., Any], tmp_path: Path, part: str
    ) -> None:
        builder = steady(gpus=1)
        builder.constant_power(100)
        run = builder.write(tmp_path / "run")
        whole = reduce_run(run)
        finalize(RunDir(run))
        (run / part).write_bytes((run / part).read_bytes()[:-20])
        summary = reduce_run(run)
        assert "table_unreadable" in codes(summary)
        assert summary.metrics == whole.metrics

    def test_no_requests_at_all(self, builder: Any, tmp_path: Path) -> None:
        summary = reduce_run(builder.write(tmp_path / "run"))
        assert summary.verdict.status == "invalid"
        assert "no_requests" in codes(summary)
        assert all(figure.value is None or figure.value == 0 for figure in summary.metrics.values())
        assert summary.latency["ttft_s"].p50 is None
        assert summary.metrics["mean_output_tok"].value is None

    def test_all_failed(self, builder: Any, tmp_path: Path) -> None:
        for i in range(10):
            builder.lost(3 + i, "connection_error", sent_ns=None)
        summary = reduce_run(builder.write(tmp_path / "run"))
        assert "no_answer" in codes(summary)
        assert summary.metrics["error_ratio"].value == 1
        assert summary.latency["e2e_s"].p50 is None
        assert summary.reconciliation["output_tokens"].client is None

    def test_one_request(self, builder: Any, tmp_path: Path) -> None:
        builder.request(5)
        builder.scrape_counters()
        summary = reduce_run(builder.write(tmp_path / "run"))
        assert summary.verdict.status == "functional"
        assert summary.latency["ttft_s"].p999 == pytest.approx(0.2)

    def test_two_runs_mixed_up(self, steady: Callable[..., Any], tmp_path: Path) -> None:
        builder = steady()
        builder.requests += [dict(row) for row in builder.requests[:5]]
        assert "duplicate_requests" in codes(reduce_run(builder.write(tmp_path / "run")))

    def test_a_clock_that_ran_backwards(self, steady: Callable[..., Any], tmp_path: Path) -> None:
        builder = steady()
        builder.requests[7]["first_token_ns"] -= 10**12
        summary = reduce_run(builder.write(tmp_path / "run"))
        assert summary.verdict.status == "invalid"
        assert "times_backwards" in codes(summary)

    @pytest.mark.parametrize(
        "manifest",
        [
            b"",
            b"{",
            b"[]",
            b'{"schema_version": 1}',
            b'{"schema_version": 1, "profile": 3, "hardware": []}',
        ],
    )
    def test_a_damaged_manifest(
        self, steady: Callable[..., Any], tmp_path: Path, manifest: bytes
    ) -> None:
        run = steady().write(tmp_path / "run")
        (run / "manifest.json").write_bytes(manifest)
        summary = reduce_run(run)
        assert summary.state == "failed"
        assert summary.verdict.status == "invalid"
        assert summary.metrics["output_tok_s"].value == pytest.approx(60, rel=0.05)

    def test_a_failed_run_says_what_failed(self, builder: Any, tmp_path: Path) -> None:
        builder.manifest = {
            "state": "failed",
            "error": {"what": "the server died", "cause": None, "next_step": None},
        }
        concern = next(
            c
            for c in reduce_run(builder.write(tmp_path / "run")).verdict.concerns
            if c.code == "failed"
        )
        assert "the server died" in concern.message

    def test_a_newer_run_is_refused_and_a_foreign_folder_too(
        self, builder: Any, tmp_path: Path
    ) -> None:
        builder.manifest["schema_version"] = 99
        with pytest.raises(ArtifactError, match="schema_version 99"):
            reduce_run(builder.write(tmp_path / "run"))
        with pytest.raises(ArtifactError, match="run directory: no manifest"):
            reduce_run(tmp_path)
        with pytest.raises(ArtifactError, match="not a directory"):
            reduce_run(tmp_path / "nowhere")


class TestProperties:
    @settings(
        max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(seed=st.integers(0, 10_000), told=st.booleans())
    def test_percentiles_are_ordered_within_the_extremes(
        self, noisy: Callable[..., Any], tmp_path: Path, seed: int, *, told: bool
    ) -> None:
        summary = reduce_run(
            noisy(seed, requests=60, told=told).write(tmp_path / f"run-{next(numbers)}")
        )
        for distribution in summary.latency.values():
            values = [
                distribution.p50,
                distribution.p90,
                distribution.p95,
                distribution.p99,
                distribution.p999,
                distribution.max,
            ]
            known = [value for value in values if value is not None]
            assert known == sorted(known)
            assert (
                values[: len(known)] == known
            )  # what is beyond the censored share is absent, and all that is beyond it
            if known:
                assert distribution.min is not None
                assert distribution.min <= known[0]
            if distribution.mean is not None:
                assert distribution.min <= distribution.mean <= distribution.max
        json.dumps(summary_json(summary), allow_nan=False)

    @settings(
        max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(
        seed=st.integers(0, 10_000),
        told=st.booleans(),
        cuts=st.lists(st.floats(0, 30), min_size=1, max_size=6),
    )
    def test_adjacent_windows_add_up(
        self, noisy: Callable[..., Any], tmp_path: Path, seed: int, cuts: list[float], *, told: bool
    ) -> None:
        reduction = reduce_fully(
            noisy(seed, requests=60, told=told).write(tmp_path / f"run-{next(numbers)}")
        )
        edges = sorted({0.0, 30.0, *cuts})
        for flow in (
            reduction.flows.output.flow,
            reduction.flows.input,
            reduction.flows.computed,
            reduction.flows.in_flight,
        ):
            assert flow is not None
            parts = [flow.between(a * 1e9, b * 1e9) for a, b in itertools.pairwise(edges)]
            assert math.fsum(parts) == pytest.approx(flow.between(0.0, 30e9), rel=1e-9)
        usage = reduction.run.requests.output_tok
        assert reduction.flows.output.flow.between(-1e12, 1e12) == pytest.approx(
            float(usage[usage > 0].sum()), rel=1e-9
        )

    def test_the_series_holds_every_token_whatever_its_step(
        self, noisy: Callable[..., Any], tmp_path: Path
    ) -> None:
        reduction = reduce_fully(noisy(requests=300).write(tmp_path / "run"))
        usage = reduction.run.requests.output_tok
        read = reduction.run.requests.cache_read_tok
        for most in (5, 240, 1000):
            grid = series(reduction, most)
            assert len(grid.t_s) <= most
            assert grid.columns["output_tok_s"].sum() * grid.step_s == pytest.approx(
                float(usage[usage > 0].sum())
            )
            assert grid.columns["input_cache_read_tok_s"].sum() * grid.step_s == pytest.approx(
                float(read[read > 0].sum())
            )
