"""What a summary says of the load generator itself: canaries against their truth, the certificate,
and when it does not hold.
"""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.canary_truth import Spread
from harness.artifacts.finalize import finalize
from harness.artifacts.layout import RunDir
from harness.artifacts.run_summary import summary_json
from harness.reduce import reduce_run
from harness.report.run.write import write_report

MS = 1_000_000

CERTIFICATE = {
    "version": 1,
    "made_at": "2026-08-01T11:00:00+00:00",
    "quick": False,
    "bound_s": 0.005,
    "workers": 2,
    "sufficient": True,
    "certified_events_per_s": {"1": 50.0, "2": 5000.0},
    "load": {"body_bytes": 1024},
    "cores": {"shared": True, "note": "2 cores are shared"},
    "host": {"cpu": "AMD EPYC 9554"},
    "at_load": {
        "ttft_error": {"p50_s": 0.0001, "p99_s": 0.0004, "max_s": 0.0005, "n": 90},
        "gap_error": {"p50_s": 0.0, "p99_s": 0.001, "max_s": 0.002, "n": 900},
    },
    "highest": None,
}


def add_canary(
    builder: Any, number: int, start_s: float, errors_ms: list[float], **fields: Any
) -> dict[str, Any]:
    """A canary of one token every 20 ms whose tokens were read so much after they were written; its
    line of truth.
    """
    row = builder.request(start_s, tokens=len(errors_ms), ttft_s=0.05, gap_us=20_000)
    written = [row["first_token_ns"] + 20 * MS * i for i in range(len(errors_ms))]
    read = [t_ns + round(error * MS) for t_ns, error in zip(written, errors_ms, strict=True)]
    row.update(
        request_id=f"canary-0/{number}",
        session_id="canary-0",
        turn=number,
        replica="canary",
        output_tok=10_000,
        input_tok=99_999,
    )
    row.update(first_token_ns=read[0], last_token_ns=read[-1], done_ns=read[-1] + MS)
    row.update(
        chunk_dt_us=[0] + [(b - a) // 1000 for a, b in pairwise(read)],
        **{"class": "canary"},
        **fields,
    )
    return {
        "request_id": row["request_id"],
        "received_ns": row["sent_ns"],
        "content_ns": written,
        "content_bytes": [4] * len(written),
    }


@pytest.fixture
def run(steady: Callable[..., Any], tmp_path: Path) -> Callable[..., Path]:
    """Writes the steady run with canaries and, if wanted, a certificate; gives its folder."""

    def write(
        canaries: list[list[float]],
        *,
        certificate: dict[str, Any] | None = None,
        purpose: str = "measure",
        **more: Any,
    ) -> Path:
        builder = steady()
        builder.purpose = purpose
        builder.manifest.update(canary=bool(canaries), **more)
        planned = len(builder.requests)
        lines = [add_canary(builder, i, 5.0 + i, errors) for i, errors in enumerate(canaries)]
        root = builder.write(tmp_path / "run")
        manifest = json.loads(RunDir(root).manifest.read_text())
        manifest["plan"]["planned_requests"] = planned  # canaries are in no plan
        RunDir(root).manifest.write_text(json.dumps(manifest))
        RunDir(root).canary_truth.write_text("".join(json.dumps(line) + "\n" for line in lines))
        if certificate is not None:
            RunDir(root).calibration.write_text(json.dumps(certificate))
        return root

    return write


def codes(summary: Any) -> set[str]:
    return {concern.code for concern in summary.verdict.concerns}


def test_canaries_change_no_figure_of_the_load(
    run: Callable[..., Path], steady: Callable[..., Any], tmp_path: Path
) -> None:
    builder = steady()
    without = summary_json(reduce_run(builder.write(tmp_path / "without")))
    root = run([[0.1] * 50] * 5, purpose="smoke")
    finalize(RunDir(root))
    with_them = summary_json(reduce_run(root))
    assert with_them["client"]["canary"]["requests"] == 5
    for key in ("requests", "metrics", "latency", "reconciliation", "stages", "window"):
        assert with_them[key] == without[key], key


def test_their_error_is_the_paired_one(run: Callable[..., Path]) -> None:
    summary = reduce_run(run([[0.2, 0.2, 0.2], [0.4, 7.4, 0.4]]))
    canary = summary.client.canary
    assert (canary.paired, canary.unpaired, canary.events) == (2, 0, 6)
    assert canary.ttft_error == Spread(0.0004, 0.0004, 0.0004, 2)
    assert canary.gap_error == Spread(0.007, 0.007, 0.007, 4)
    assert not codes(summary) & {"client_error", "canary_missing", "canary_failed"}


@pytest.mark.parametrize(("purpose", "severity"), [("measure", "degraded"), ("smoke", "note")])
def test_an_error_over_the_resolution_of_the_slo_is_a_concern(
    run: Callable[..., Path], purpose: str, severity: str
) -> None:
    # TTFT SLO 1 s: 5 % of it is 50 ms. Gaps: 10 ms.
    summary = reduce_run(run([[60.0, 75.0, 75.0]], purpose=purpose))
    found = {
        (c.code, c.severity.value, round(c.value or 0, 3), c.limit)
        for c in summary.verdict.concerns
        if c.code == "client_error"
    }
    assert found == {
        ("client_error", severity, 0.06, 0.05),
        ("client_error", severity, 0.015, 0.01),
    }


def test_a_run_that_was_to_send_none_misses_none(run: Callable[..., Path]) -> None:
    summary = reduce_run(run([]))
    assert summary.client.canary is None
    assert "canary_missing" not in codes(summary)


def test_a_run_that_says_it_sent_canaries_and_has_none_is_degraded(
    steady: Callable[..., Any], tmp_path: Path
) -> None:
    builder = steady()
    builder.purpose = "measure"
    builder.manifest.update(canary=True)
    assert "canary_missing" in codes(reduce_run(builder.write(tmp_path / "run")))


def test_a_canary_without_its_truth_is_a_concern(run: Callable[..., Path]) -> None:
    root = run([[0.1] * 5, [0.1] * 5])
    lines = RunDir(root).canary_truth.read_text().splitlines()
    RunDir(root).canary_truth.write_text(lines[0] + "\n")
    summary = reduce_run(root)
    assert summary.client.canary.unpaired == 1
    assert "canary_failed" in codes(summary)


class TestCertificate:
    def test_without_one_a_measurement_is_degraded_and_a_smoke_run_is_not(
        self, run: Callable[..., Path]
    ) -> None:
        assert "calibration_missing" in codes(reduce_run(run([[0.1] * 5])))

    def test_a_smoke_run_needs_none(self, run: Callable[..., Path]) -> None:
        assert "calibration_missing" not in codes(reduce_run(run([], purpose="smoke")))

    def test_a_load_within_it_raises_nothing(self, run: Callable[..., Path]) -> None:
        summary = reduce_run(run([[0.1] * 5], certificate=CERTIFICATE))
        assert not {
            code for code in codes(summary) if "calibration" in code or "certificate" in code
        }
        assert summary.client.calibration.certified_events_per_s["2"] == 5000
        load = summary.client.load
        assert 0 < load.events_per_s <= load.events_per_s_peak
        assert load.body_bytes_mean == 500

    def test_a_load_beyond_what_its_workers_are_certified_for_is_degraded(
        self, run: Callable[..., Path]
    ) -> None:
        summary = reduce_run(
            run(
                [[0.1] * 5],
                certificate={**CERTIFICATE, "certified_events_per_s": {"1": 5000.0, "2": 3.0}},
            )
        )
        (found,) = [c for c in summary.verdict.concerns if c.code == "beyond_certificate"]
        assert (found.severity.value, found.limit) == ("degraded", 3.0)
        assert found.value == summary.client.load.events_per_s_peak

    def test_larger_bodies_than_certified_are_degraded(self, run: Callable[..., Path]) -> None:
        summary = reduce_run(
            run([[0.1] * 5], certificate={**CERTIFICATE, "load": {"body_bytes": 200}})
        )
        assert [
            (c.value, c.limit) for c in summary.verdict.concerns if c.code == "beyond_certificate"
        ] == [(500, 200)]

    def test_one_that_does_not_carry_the_load_is_degraded(self, run: Callable[..., Path]) -> None:
        refused = {**CERTIFICATE, "sufficient": False, "certified_events_per_s": {"2": None}}
        assert "calibration_insufficient" in codes(
            reduce_run(run([[0.1] * 5], certificate=refused))
        )

    @pytest.mark.parametrize(
        "text", ["", "[]", "{", '{"certified_events_per_s": 3, "at_load": [], "load": null}']
    )
    def test_a_damaged_one_is_a_concern_and_no_traceback(
        self, run: Callable[..., Path], text: str
    ) -> None:
        root = run([[0.1] * 5])
        RunDir(root).calibration.write_text(text)
        assert {code for code in codes(reduce_run(root)) if code.startswith("calibration_")}
        write_report(root)


def test_the_report_states_the_error_beside_the_latency(run: Callable[..., Path]) -> None:
    root = run([[0.2, 0.2, 3.2]], certificate=CERTIFICATE)
    write_report(root)
    text = RunDir(root).report_md.read_text()
    latency, generator = text.index("## Latency"), text.index("## Load generator")
    assert "TTFT 200 µs, inter-token gap 3 ms" in text[latency:generator]
    assert "2 workers" in text[generator:]
    assert "5,000 events/s within" in text[generator:]
    assert "Load generator" in RunDir(root).report_html.read_text()


@pytest.mark.parametrize(("late_s", "severity"), [(0.2, "degraded"), (1.5, "invalid")])
def test_a_schedule_that_was_not_kept_is_the_load_generators_fault_and_no_result(
    steady: Callable[..., Any], tmp_path: Path, late_s: float, severity: str
) -> None:
    builder = steady()  # TTFT SLO 1 s
    builder.purpose = "measure"
    for row in builder.requests:
        for key in ("sent_ns", "first_byte_ns", "first_token_ns", "last_token_ns", "done_ns"):
            row[key] += round(late_s * 1e9)
    summary = reduce_run(builder.write(tmp_path / "run"))
    assert [c.severity.value for c in summary.verdict.concerns if c.code == "late_sends"] == [
        severity
    ]
