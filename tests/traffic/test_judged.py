"""Progress counts the requests that missed the profile's conditions."""

from dataclasses import fields

import pytest

from harness.core.records import Outcome
from harness.profile.search import Condition
from harness.traffic._locust.answer import Answer
from harness.traffic._locust.record import Record
from harness.traffic._locust.stage import Counts
from harness.traffic.events import WorkerProgress
from harness.traffic.merge import ProgressMerger

MS = 1_000_000
CONDITIONS = (
    Condition("ttft", 0.9, ttft_s=0.1),
    Condition("tpot", 0.9, tpot_s=0.02),
    Condition("e2e", 0.9, e2e_s=0.5),
)


def record(
    outcome: Outcome = Outcome.OK,
    *,
    first_ms: int | None = 50,
    last_ms: int | None = 250,
    tokens: int | None = 11,
) -> Record:
    answer = Answer(
        outcome,
        first_token_ns=None if first_ms is None else first_ms * MS,
        last_token_ns=None if last_ms is None else last_ms * MS,
        output_tok=tokens,
    )
    made = Record("s", 0, "chat", "main", 0, 0, 1, 1, answer)
    made.sent_ns, made.done_ns = MS, 300 * MS
    return made


@pytest.mark.parametrize(
    ("made", "met"),
    [
        (record(), [True, True, True]),
        (record(first_ms=101), [False, True, True]),
        (record(last_ms=251), [True, False, True]),
        (record(first_ms=90, last_ms=501, tokens=100), [True, True, False]),
        (record(tokens=1, last_ms=50), [True, True, True]),
        (record(tokens=None), [True, True, True]),
        (record(first_ms=None, last_ms=None), [False, True, True]),
        (record(Outcome.TIMEOUT_TOTAL), [False] * 3),
        (record(Outcome.DROPPED), [False] * 3),
    ],
)
def test_a_record_meets_conditions(made: Record, met: list[bool]) -> None:
    assert made.met(CONDITIONS) == met


def test_counts_are_of_the_stage_and_of_its_window() -> None:
    counts = Counts()
    counts.new_stage(2)
    counts.judge([True, False], in_window=False)
    counts.judge([False, False], in_window=True)
    counts.judge([True, True], in_window=True)
    assert (counts.judged, counts.missed) == (3, [1, 2])
    assert (counts.window_judged, counts.window_missed) == (2, [1, 1])
    counts.new_stage(2)
    assert (counts.judged, counts.missed, counts.window_judged) == (0, [0, 0], 0)


def test_workers_are_added_up_and_one_that_has_not_begun_counts_nothing() -> None:
    def report(judged: int, missed: list[int]) -> WorkerProgress:
        rest = {one.name: 0 for one in fields(WorkerProgress)}
        lists = {"missed": missed, "window_missed": missed, "ttft_ms": []}
        return WorkerProgress(**{**rest, "judged": judged, "window_judged": judged, **lists})

    merger = ProgressMerger()
    assert merger.add("1", report(5, [1, 2]), closes=False) is None
    merger.add("2", report(0, []), closes=False)
    merged = merger.add("0", report(7, [3, 4]), closes=True)
    assert merged is not None
    assert (merged.judged, merged.missed) == (12, (4, 6))
    assert (merged.window_judged, merged.window_missed) == (12, (4, 6))
