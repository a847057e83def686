"""Journals of a run that ended well must be whole: a torn one was cut off later, by a copy that was not finished or by a disk."""

from collections.abc import Iterable
from pathlib import Path

from harness.artifacts.journal import closed
from harness.core.records import Concern, Severity


def torn(journals: Iterable[Path]) -> list[Concern]:
    """A concern for each journal of request records, of a complete run, that does not end as its writer ended it."""
    return [
        Concern("requests_torn", Severity.INVALID, f"{path.parent.name}/{path.name} ends in the middle: records of requests are lost.")
        for path in journals
        if not closed(path)
    ]
