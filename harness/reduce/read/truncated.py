"""Files of a run that ended well must be whole: a torn one was cut off later, by a copy that was
not finished or by a disk.
"""

from collections.abc import Iterable
from pathlib import Path

from harness.artifacts.journal import closed
from harness.core.records import Concern, Severity


def torn(journals: Iterable[Path]) -> list[Concern]:
    """A concern for each journal of request records, of a complete run, that does not end as its
    writer ended it.
    """
    return [
        Concern(
            "requests_torn",
            Severity.INVALID,
            f"{path.parent.name}/{path.name} ends in the middle: records of requests are lost.",
        )
        for path in journals
        if not closed(path)
    ]


def torn_events(unreadable: int) -> list[Concern]:
    """A concern where lines of the events of a complete run are none."""
    if not unreadable:
        return []
    lines = "1 line is" if unreadable == 1 else f"{unreadable} lines are"
    text = f"{lines} damaged in events.jsonl: windows, marks and lags that they told are lost."
    return [Concern("events_torn", Severity.DEGRADED, text, unreadable, 0)]
