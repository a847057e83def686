"""A complete run whose records were cut off afterwards."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.reduce import reduce_run


def torn(summary: Any) -> list[str]:
    return [
        concern.message for concern in summary.verdict.concerns if concern.code == "requests_torn"
    ]


@pytest.mark.parametrize("lost", [1, 8, 400])
def test_records_that_were_cut_off_are_told_where_the_run_says_that_it_is_complete(
    new_builder: Callable[..., Any], tmp_path: Path, lost: int
) -> None:
    builder = new_builder()
    for i in range(30):
        builder.request(1 + i / 2)
    run = builder.write(tmp_path / "run")
    assert torn(reduce_run(run)) == []
    journal = run / "requests" / "worker-1.arrows"
    journal.write_bytes(journal.read_bytes()[:-lost])
    summary = reduce_run(run)
    (message,) = torn(summary)
    assert "requests/worker-1.arrows" in message
    assert str(summary.verdict.status) == "invalid"


def test_a_killed_run_is_expected_to_be_torn(
    new_builder: Callable[..., Any], tmp_path: Path
) -> None:
    builder = new_builder(state="running")
    builder.request(3.0)
    run = builder.write(tmp_path / "run")
    journal = run / "requests" / "worker-0.arrows"
    journal.write_bytes(journal.read_bytes()[:-8])
    assert torn(reduce_run(run)) == []


def test_events_that_are_damaged_are_told(new_builder: Callable[..., Any], tmp_path: Path) -> None:
    builder = new_builder()
    builder.request(3.0)
    run = builder.write(tmp_path / "run")
    events = run / "events.jsonl"

    def told() -> list[str]:
        return [
            concern.message
            for concern in reduce_run(run).verdict.concerns
            if concern.code == "events_torn"
        ]

    assert told() == []
    events.write_bytes(events.read_bytes()[:-5])
    (message,) = told()
    assert message.startswith("1 ")
    assert "events.jsonl" in message
