"""What a report's page holds of a run: tiles, how requests ended, the load generator's account, the
counts of tokens, errors, concerns.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from harness.artifacts.canary_truth import Spread
from harness.artifacts.run_summary import (
    Agreement,
    Calibration,
    Canary,
    CarriedLoad,
    Client,
    Distribution,
    Figure,
    Level,
)
from harness.core.metrics import METRICS
from harness.core.records import Basis, Concern, Severity
from harness.reduce.reduction import Reduction, reduce_fully
from harness.report.headline import rows_of
from harness.report.run.view import _concern, _tiles, view

LOST = 3


@pytest.fixture(name="reduction", scope="module")
def _reduction(
    new_builder: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Reduction:
    builder = new_builder()
    for i in range(8):
        builder.request(3.0 + i)
    for i in range(LOST):
        builder.lost(12.0 + i, "http_error", http_status=503, error="busy")
    builder.lost(16.0, "dropped")
    builder.request(17.0, outcome="cancelled", output_tok=None)
    return reduce_fully(builder.write(tmp_path_factory.mktemp("view") / "run"))


def with_summary(reduction: Reduction, **fields: Any) -> Reduction:
    return replace(reduction, summary=replace(reduction.summary, **fields))


def test_three_rates_and_three_latencies_lead_with_their_intervals() -> None:
    """Three rates and three latencies lead each with its interval and a model is called one."""
    metrics = {key: Figure(0.5, METRICS[key].unit, 0.25, 0.75) for key in METRICS}
    metrics["usd_per_mtok"] = Figure(3.0, "USD/Mtok", basis=Basis.MODELLED)
    latency = {
        "ttft_s": Distribution(p50=0.2, p99=0.5, n=9, ci={"p50": (0.1, 0.3)}),
        "tpot_s": Distribution(p50=0.02, n=9),
    }
    shown = {
        tile.title: (tile.value, tile.unit, tile.note) for tile in _tiles(rows_of(metrics, latency))
    }
    assert list(shown) == [
        "Output per GPU",
        "Output throughput",
        "Output per joule",
        "TTFT p50",
        "TTFT p99",
        "TPOT p50",
    ]
    assert shown["Output per GPU"] == ("0.5000", "tok/s/GPU", "95% CI 0.2500 – 0.7500")
    assert shown["TTFT p50"] == ("200", "ms", "95% CI 100 ms – 300 ms")
    assert shown["TTFT p99"] == ("500", "ms", "no interval")
    few = {key: metrics[key] for key in ("usd_per_mtok", "requests_per_s", "prefix_hit_ratio")}
    assert [(tile.title, tile.unit, tile.note) for tile in _tiles(rows_of(few, {}))] == [
        ("Cost per million output tokens", "USD", "no interval · modelled"),
        ("Requests/s", "req/s", "95% CI 0.2500 – 0.7500"),
        ("Prefix cache hit rate", "", "95% CI 25% – 75%"),
    ]


def test_how_requests_ended(reduction: Reduction) -> None:
    table = view(reduction).requests
    found = dict(zip(table.head[1:], table.rows[0][1:], strict=True))
    assert found["Sent"] == "12"
    assert (found["Completed"], found["Failed"], found["Dropped"], found["Canceled by plan"]) == (
        "8",
        "3",
        "1",
        "1",
    )
    assert (found["Planned"], found["Scheduled in the window"]) == ("13", "13")
    assert "Turns not reached" not in found
    counts = replace(reduction.summary.requests, planned=None, turns_not_happened=5, cancelled=0)
    table = view(with_summary(reduction, requests=counts)).requests
    found = dict(zip(table.head[1:], table.rows[0][1:], strict=True))
    assert (found["Planned"], found["Turns not reached"]) == ("bounded by time", "5")
    assert "Canceled by plan" not in found


def test_latency_names_those_that_never_got_there_and_leaves_out_what_nobody_has(
    reduction: Reduction,
) -> None:
    shown = view(reduction)
    titles = [row[0] for row in shown.latency.rows]
    assert titles.count(METRICS["itl_s"].title) == 1
    assert METRICS["inter_event_s"].title not in titles  # the stream has tokens
    assert "4 requests" in shown.latency_notes[0]
    (ttft,) = [row for row in shown.latency.rows if row[0] == METRICS["ttft_s"].title]
    assert (ttft[2], ttft[-1]) == ("200 ms", "9")


def test_errors_are_counted_the_most_frequent_first_without_what_the_plan_cancelled(
    reduction: Reduction,
) -> None:
    table = view(reduction).errors
    assert table is not None
    assert table.rows == [
        ("http_error", "503", "busy", str(LOST)),
        ("dropped", "—", "it was dropped", "1"),
    ]


def test_counts_of_tokens_that_agree_differ_or_are_not_known(reduction: Reduction) -> None:
    def told(client: float | None, server: float | None, ok: bool | None) -> tuple[str, ...]:
        agreement = Agreement(client, server, None, 8.0, ok, "n")
        return tuple(
            view(
                with_summary(reduction, reconciliation={"output_tokens": agreement})
            ).reconciliation.rows[0]
        )

    assert told(100.0, 100.0, True) == ("Output tokens", "100", "100", "0", "8", "equal", "n")
    assert told(100.0, 104.0, True)[3:6] == ("-4", "8", "equal within tolerance")
    assert told(100.0, 100.0, False)[5] == "not equal"
    assert told(100.0, None, None)[2:6] == ("—", "—", "8", "not available")


def error(p99: float) -> Spread:
    return Spread(p99 / 10, p99, p99 * 2, 40)


def test_the_load_generators_account_live_and_certified(reduction: Reduction) -> None:
    calibration = Calibration(
        at_load=Level(ttft_error=error(0.001), gap_error=error(0.002)),
        highest=Level(send_lag=error(0.003), client_us_per_event=41.26),
        workers=2,
        quick=True,
        certified_events_per_s={"2": 1235.0},
        bound_s=0.005,
        made_at="2026-08-01",
        cores={"note": "two"},
    )
    none = Spread(None, None, None, 0)
    canary = Canary(
        requests=9,
        ttft_error=error(0.02),
        gap_error=error(0.01),
        sent_error=none,
        send_lag=none,
    )
    shown = view(
        with_summary(
            reduction,
            client=Client(
                canary=canary,
                calibration=calibration,
                load=CarriedLoad(events_per_s_peak=46.81),
            ),
        )
    )
    assert shown.generator is not None
    assert [(row[0], row[2]) for row in shown.generator.rows] == [
        ("TTFT, in this run (canary requests)", "20 ms"),
        ("Inter-token gap, in this run (canary requests)", "10 ms"),
        ("TTFT, calibration, at this load", "1 ms"),
        ("Inter-token gap, calibration, at this load", "2 ms"),
        ("Send delay, calibration, at the highest load", "3 ms"),
    ]
    certificate, cores = shown.generator_notes
    for part in (
        "Quick",
        "2026-08-01",
        "2 workers",
        "1,235 events/s",
        "5 ms",
        "41.3 µs",
        "46.8 events/s",
    ):
        assert part in certificate
    assert cores == "Cores: two."
    live = shown.latency_notes[-1]
    assert all(part in live for part in ("in this run", "TTFT 20 ms", "10 ms"))
    quiet = view(
        with_summary(
            reduction, client=Client(calibration=replace(calibration, workers=1, quick=False))
        )
    )
    certificate, canaries = quiet.generator_notes[0], quiet.generator_notes[-1]
    assert all(part in certificate for part in ("2026-08-01", "1 worker ", "for no load"))
    assert "quick" not in certificate.lower()
    assert "No canary requests" in canaries
    error_then = quiet.latency_notes[-1]
    assert all(part in error_then for part in ("at calibration", "TTFT 1 ms", "2 ms"))
    nothing = view(with_summary(reduction, client=Client()))
    assert nothing.generator is None
    assert "not calibrated" in nothing.generator_notes[0]


def test_what_is_absent_is_counted_and_said_why(reduction: Reduction) -> None:
    shown = view(reduction)
    absent = {row.key for row in shown.absent}
    assert {"power_w", "energy_j", "usd_per_mtok", "output_tok_s_per_gpu"} <= absent
    assert "output_tok_s" not in absent
    assert shown.absent_words.endswith(f": {len(shown.absent)}")
    assert all(row.note for row in shown.absent)
    why = replace(reduction.summary.metrics["energy_j"], note="the meter was asleep")
    metrics = {**reduction.summary.metrics, "energy_j": why}
    assert "the meter was asleep" in view(with_summary(reduction, metrics=metrics)).energy_absent


def test_a_concern_without_figures_has_none() -> None:
    assert _concern(Concern("killed", Severity.INVALID, "m")) == {
        "severity": "invalid",
        "code": "killed",
        "message": "m",
        "value": "",
        "limit": "",
    }
    assert _concern(Concern("scrape_gap", Severity.NOTE, "m", 12.5, 3.0))["limit"] == "3 s"
