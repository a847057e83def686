"""A client's records held against what a server knows that it wrote, token by token."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.artifacts.canary_truth import pair, read_truth, spread
from harness.artifacts.typed_json import to_json

MS = 1_000_000
S = 1_000_000_000


def row(read_ms: list[int], sizes: list[int], **fields: Any) -> dict[str, Any]:
    """A record whose chunks were read at these times."""
    read_ns = [10 * S + ms * MS for ms in read_ms]
    return {
        "request_id": "a/0",
        "outcome": "ok",
        "intended_ns": 9 * S,
        "sent_ns": 9 * S + 2 * MS,
        "first_token_ns": read_ns[0],
        "chunk_dt_us": [0, *(np.diff(read_ns) // 1000).tolist()],
        "chunk_bytes": sizes,
        **fields,
    }


def truth(written_ms: list[int], sizes: list[int], **fields: Any) -> dict[str, Any]:
    written_ns = [10 * S + ms * MS for ms in written_ms]
    return {
        "a/0": {
            "request_id": "a/0",
            "received_ns": 9 * S,
            "content_ns": written_ns,
            "content_bytes": sizes,
            **fields,
        }
    }


def test_errors_are_read_minus_written_token_by_token() -> None:
    found = pair([row([1, 22, 45], [4, 4, 4])], truth([0, 20, 40], [4, 4, 4]))
    assert found.ttft_s == pytest.approx([0.001])
    assert found.gap_s == pytest.approx([0.001, 0.003])
    assert found.sent_s == pytest.approx([0.002])
    assert found.lag_s == pytest.approx([0.002])
    assert (found.events, found.unpaired) == (3, 0)


def test_tokens_that_were_read_together_are_paired_by_their_bytes() -> None:
    """Three writes, two reads: the second holds the last bytes of two tokens."""
    found = pair([row([1, 45], [4, 8])], truth([0, 20, 40], [4, 4, 4]))
    assert found.ttft_s == pytest.approx([0.001])
    assert found.gap_s == pytest.approx([0.024, 0.020])  # errors of 1, 25 and 5 ms


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    cuts=st.sets(st.integers(1, 100), max_size=12),
    late_ms=st.integers(0, 50),
)
def test_however_reads_cut_the_stream_a_constant_delay_is_the_error_of_each_token(
    sizes: list[int], cuts: set[int], late_ms: int
) -> None:
    """All is written at once and read at once, in other pieces."""
    whole = sum(sizes)
    edges = sorted({0, whole, *(cut for cut in cuts if cut < whole)})
    pieces = np.diff(edges).tolist()
    found = pair([row([late_ms] * len(pieces), pieces)], truth([0] * len(sizes), sizes))
    assert found.ttft_s == pytest.approx([late_ms / 1000])
    assert found.gap_s == pytest.approx([0.0] * (len(sizes) - 1))
    assert found.events == len(sizes)


@pytest.mark.parametrize(
    ("record", "line"),
    [
        ({}, {"request_id": "b"}),
        ({}, {"content_bytes": [4, 4]}),
        ({}, {"content_bytes": [4, 4, 5]}),  # other content
        ({}, {"content_ns": []}),
        ({"chunk_dt_us": [0, 1]}, {}),
        ({"chunk_dt_us": None}, {}),
    ],
)
def test_what_cannot_be_paired_is_counted_and_gives_no_error(
    record: dict[str, Any], line: dict[str, Any]
) -> None:
    whole = {"a/0": truth([0, 20, 40], [4, 4, 4])["a/0"] | line} if "request_id" not in line else {}
    found = pair([row([1, 22, 45], [4, 4, 4], **record)], whole)
    assert (found.unpaired, found.ttft_s, found.gap_s, found.events) == (1, [], [], 0)
    assert len(found.lag_s) == 1


def test_requests_without_an_answer_count_for_their_lag_alone() -> None:
    """Requests without an answer count for their lag alone and unsent ones for nothing."""
    rows = [row([1], [4], outcome="timeout_idle"), row([1], [4], outcome="dropped", sent_ns=None)]
    found = pair(rows, truth([0], [4]))
    assert (len(found.lag_s), found.unpaired, found.ttft_s) == (1, 0, [])


def test_sending_that_is_recorded_before_its_receipt_is_no_error() -> None:
    found = pair([row([1], [4], sent_ns=8 * S)], truth([0], [4]))
    assert found.sent_s == [0.0]
    assert found.lag_s == pytest.approx([-1.0])


def test_a_torn_truth_holds_its_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    path.write_text(
        "\n".join(
            [
                json.dumps({"request_id": "a"}),
                "[1]",
                '{"request_id": 3}',
                '{"no": "id"}',
                '{"request_id": "b", "cont',
            ]
        )
    )
    assert read_truth(path) == {"a": {"request_id": "a"}}
    assert read_truth(tmp_path / "none") == {}


@given(st.lists(st.floats(0, 100), min_size=1, max_size=300))
def test_a_spread_is_of_values_that_occurred(values: list[float]) -> None:
    found = spread(values)
    rounded = {round(value, 9) for value in values}
    assert {found.p50_s, found.p99_s, found.max_s} <= rounded
    assert found.p50_s <= found.p99_s <= found.max_s == max(rounded)
    assert sum(round(value, 9) <= found.p50_s for value in values) >= len(values) / 2
    assert found.n == len(values)
    assert to_json(spread([])) == {"p50_s": None, "p99_s": None, "max_s": None, "n": 0}
