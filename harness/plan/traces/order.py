"""Requests in order of time, with memory for a window of rows only."""

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush, heappushpop
from pathlib import Path
from typing import Any, Final

from harness.core.errors import ProfileError
from harness.plan.traces.records import ReadTally, bad

REORDER_ROWS: Final = 1024
"""A row that is late by at most so many rows is put in its place, as logs written by several
threads need; later ones are an error.
"""

Row = tuple[float, int, int, Any]
"""Time in seconds, line, byte offset, and whatever the format read."""


def in_order(path: Path, rows: Iterable[Row], tally: ReadTally) -> Iterator[Row]:
    """Rows in order of (time, line).

    Raises:
        ProfileError: a row is older than one that had to be passed on.
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
            raise _backwards(path, first, passed)
        passed = first[0]
        yield first
    while heap:
        # What is left was never older than what was passed on: it came later in a heap that always
        # gave its least.
        yield heappop(heap)


def _backwards(path: Path, row: Row, passed_s: float) -> ProfileError:
    return bad(
        f"{path}:{row[1]}",
        f"the time goes back by {passed_s - row[0]:.6g} s, over more than {REORDER_ROWS} rows",
        cause="the file is not sorted by time",
        next_step="sort the file by its time column, then try again",
    )
