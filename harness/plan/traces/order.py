"""Requests in order of time, with memory for only a window of rows."""

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush, heappushpop
from pathlib import Path
from typing import Any, Final

from harness.plan.traces.records import ReadTally, bad

REORDER_ROWS: Final = 1024
"""A row that is late by at most this many rows is sorted, as logs of several threads need; one that
is later is an error.
"""

Row = tuple[float, int, int, Any]
"""Time in seconds, line, byte offset, and the format's data."""


def in_order(path: Path, rows: Iterable[Row], tally: ReadTally) -> Iterator[Row]:
    """Rows in order of (time, line).

    Raises:
        ProfileError: a row is older than one that was already returned.
    """
    heap: list[Row] = []
    newest = passed = float("-inf")
    for row in rows:
        if row[0] < newest:
            tally.reordered += 1
        else:
            newest = row[0]
        if len(heap) < REORDER_ROWS:
            heappush(heap, row)
            continue
        first = heappushpop(heap, row)
        if first[0] < passed:
            raise bad(
                f"{path}:{first[1]}",
                f"the time goes back by {passed - first[0]:.6g} s, over more than"
                f" {REORDER_ROWS} rows",
                cause="the file is not sorted by time",
                next_step="sort the file by its time column, then try again",
            )
        passed = first[0]
        yield first
    while heap:  # the rest is never older than the rows returned before: the heap gave its least
        yield heappop(heap)
