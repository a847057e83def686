"""The run's own metrics: what was recorded and announced, nothing else, and nothing for what is not
known.
"""

import urllib.request
from collections.abc import Iterator
from dataclasses import fields

import numpy as np
import pyarrow as pa
import pytest

from harness.artifacts import tables
from harness.artifacts.journal import JournalTail, JournalWriter
from harness.artifacts.layout import RunDir
from harness.artifacts.prometheus.text import parse
from harness.core.errors import TelemetryError
from harness.core.progress import TelemetryProgress, TrafficProgress
from harness.reduce.over_time.tokens import tpot
from harness.reduce.read.requests import RequestsSource, read_requests
from harness.telemetry.exporter import NAMES, Exporter

MS = 1_000_000
INFO = {"run_id": "r-1", "profile": "p", "purpose": "smoke", "version": "0"}


def request(number: int, **changes: object) -> dict:
    row = {
        "request_id": f"s/{number}",
        "session_id": "s",
        "turn": number,
        "class": "chat",
        "stage": "main",
        "worker": 0,
        "outcome": "ok",
        "intended_ns": 1000 * MS,
        "sent_ns": 1004 * MS,
        "first_token_ns": 1250 * MS,
        "last_token_ns": 2250 * MS,
        "input_tok": 100,
        "output_tok": 11,
    }
    return row | changes


@pytest.fixture
def exporter(run: RunDir) -> Iterator[Exporter]:
    with Exporter(run, host="127.0.0.1", port=0, info=INFO) as one:
        yield one


def page(exporter: Exporter) -> dict[tuple[str, frozenset], float]:
    with urllib.request.urlopen(exporter.url, timeout=10) as answer:
        return {
            (name, frozenset(labels.items())): value
            for name, labels, value in parse(answer.read(), None)
        }


def of(found: dict, name: str) -> dict:
    return {tuple(sorted(labels)): value for (one, labels), value in found.items() if one == name}


def test_requests_are_counted_as_their_batches_reach_the_journal(
    run: RunDir, exporter: Exporter, until
) -> None:
    with JournalWriter(run.requests_journal(0), tables.REQUESTS) as journal:
        journal.append(
            [
                request(0),
                request(
                    1,
                    outcome="http_error",
                    first_token_ns=None,
                    last_token_ns=None,
                    output_tok=None,
                ),
            ]
        )
        until(lambda: of(page(exporter), "harness_requests_total"), "the first batch")
        journal.append(
            [request(2), request(3, **{"class": "canary"}), request(4, **{"class": "chat/prime"})]
        )
        until(
            lambda: sum(of(page(exporter), "harness_requests_total").values()) == 3,
            "the second batch",
        )
    found = page(exporter)
    by = (("class", "chat"), ("stage", "main"))
    assert of(found, "harness_requests_total") == {
        (("class", "chat"), ("outcome", "ok"), ("stage", "main")): 2,
        (("class", "chat"), ("outcome", "http_error"), ("stage", "main")): 1,
    }
    assert of(found, "harness_output_tokens_total") == {by: 22}
    assert of(found, "harness_ttft_seconds_count") == {by: 2}
    assert of(found, "harness_ttft_seconds_sum")[by] == pytest.approx(0.5)
    assert of(found, "harness_tpot_seconds_sum")[by] == pytest.approx(0.2)
    assert of(found, "harness_e2e_seconds_sum")[by] == pytest.approx(2.5)
    assert of(found, "harness_schedule_lag_seconds_count") == {
        by: 3
    }  # a failed one was sent as well
    assert of(found, "harness_ttft_seconds_bucket")[tuple(sorted((*by, ("le", "0.3"))))] == 2
    assert of(found, "harness_ttft_seconds_bucket")[tuple(sorted((*by, ("le", "0.2"))))] == 0


def chunks(*tokens: int | None, gap_ms: int = 100) -> dict:
    """Columns of a stream that brings so many tokens with each chunk."""
    gaps = [0] + [gap_ms * 1000] * (len(tokens) - 1)
    return {
        "last_token_ns": 1250 * MS + sum(gaps) * 1000,
        "chunk_dt_us": gaps,
        "chunk_bytes": [4] * len(tokens),
        "chunk_tok": list(tokens),
        "output_tok": sum(token or 0 for token in tokens),
    }


def test_exporter_and_report_agree_on_ttft_and_tpot(run: RunDir, exporter: Exporter, until) -> None:
    """Their TPOT is over the tokens after the first chunk, however many that one holds."""
    rows = [
        request(0, **chunks(1, 1, 1)),  # 200 ms / 2
        request(1, **chunks(5, 2, 2)),  # 200 ms / 4, where output tokens less one are 8
        request(2, **chunks(1, None, 1)),  # a stream that does not report all: 200 ms / 1 by usage
        request(3, **chunks(3)),  # one chunk: no pace
        request(4, **chunks(1, 0, 0)),  # nothing after the first token
        request(5, **chunks(2, 2) | {"output_tok": None}),  # 100 ms / 2
        request(6, **chunks(1, 1) | {"chunk_tok": None, "output_tok": None}),  # no count
        request(7, **chunks(1, 1) | {"chunk_tok": None, "output_tok": 6}),  # 100 ms / 5
    ]
    with JournalWriter(run.requests_journal(0), tables.REQUESTS) as journal:
        journal.append(rows)
        until(lambda: of(page(exporter), "harness_requests_total"), "the batch")
    found = page(exporter)
    requests, _ = read_requests(RequestsSource(None, [run.requests_journal(0)]), 0)
    by = (("class", "chat"), ("stage", "main"))
    report = tpot(requests)
    assert np.sort(report)[:5] == pytest.approx([0.02, 0.05, 0.05, 0.1, 0.2])
    assert of(found, "harness_tpot_seconds_count")[by] == np.sum(~np.isnan(report))
    assert of(found, "harness_tpot_seconds_sum")[by] == pytest.approx(np.nansum(report))
    ttft_s = (requests.first_token - requests.intended) * 1e-9
    assert of(found, "harness_ttft_seconds_sum")[by] == pytest.approx(np.sum(ttft_s))


def test_what_is_announced_is_shown_and_what_is_not_known_has_no_sample(exporter: Exporter) -> None:
    before = page(exporter)
    assert not of(before, "harness_stage_info")
    assert not of(before, "harness_requests_in_flight")
    exporter.update(
        "main",
        "window",
        TrafficProgress(in_flight=3),
        TelemetryProgress(power_w=420.0, scrapes=9, scrape_failures=0),
    )
    found = page(exporter)
    assert of(found, "harness_stage_info") == {(("phase", "window"), ("stage", "main")): 1}
    assert of(found, "harness_requests_in_flight") == {(): 3}
    assert of(found, "harness_power_watts") == {(): 420}
    assert of(found, "harness_scrapes_total") == {(): 9}
    assert of(found, "harness_scrape_failures_total") == {(): 0}
    assert not of(found, "harness_server_requests_running")
    assert not of(found, "harness_worker_cpu_ratio")
    exporter.update("main", "draining", TrafficProgress(), TelemetryProgress())
    after = page(exporter)
    assert of(after, "harness_stage_info") == {(("phase", "draining"), ("stage", "main")): 1}
    assert not of(after, "harness_power_watts")  # it became unknown


def test_every_name_is_declared_and_every_declared_name_is_exported(
    run: RunDir, exporter: Exporter, until
) -> None:
    exporter.update(
        "main",
        "window",
        TrafficProgress(**dict.fromkeys([field.name for field in fields(TrafficProgress)], 1)),
        TelemetryProgress(**dict.fromkeys([field.name for field in fields(TelemetryProgress)], 1)),
    )
    with JournalWriter(run.requests_journal(0), tables.REQUESTS) as journal:
        journal.append([request(0)])
        until(lambda: of(page(exporter), "harness_requests_total"), "the batch")
    names = {name for name, _ in page(exporter) if not name.endswith("_created")}
    families = {
        name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in names
    }
    assert families == NAMES


def test_a_port_that_is_taken_is_told(run: RunDir, exporter: Exporter) -> None:
    port = int(exporter.url.split(":")[2].split("/")[0])
    with pytest.raises(TelemetryError, match=str(port)):
        Exporter(run, host="127.0.0.1", port=port, info=INFO).start()


def test_a_tail_gives_each_batch_once_however_the_writes_are_cut(run: RunDir) -> None:
    path = run.root / "whole.arrows"
    with JournalWriter(path, tables.HOST) as journal:
        for n in range(5):
            journal.append([{"t_ns": n, "scope": "host"}, {"t_ns": n, "scope": "telemetry"}])
    data = path.read_bytes()
    for step in (1, 7, 64, 1000, len(data)):
        grown = run.root / f"grown-{step}.arrows"
        tail = JournalTail(grown)
        assert tail.new_batches() == []
        found: list[pa.RecordBatch] = []
        with grown.open("wb", buffering=0) as file:
            for at in range(0, len(data), step):
                file.write(data[at : at + step])
                if step > 1 or at % 50 == 0:
                    found += tail.new_batches()
        found += tail.new_batches()
        assert [row["t_ns"] for batch in found for row in batch.to_pylist()] == [
            n for n in range(5) for _ in range(2)
        ]
