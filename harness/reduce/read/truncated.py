"""Files of a complete run must be intact; a truncated one was damaged later, by a partial copy or a
disk.
"""

from collections.abc import Iterable
from pathlib import Path

from harness.artifacts.journal import closed
from harness.core.records import Concern, Severity


def torn(journals: Iterable[Path]) -> list[Concern]:
    """A concern for each truncated journal of request records."""
    return [
        Concern(
            "requests_torn",
            Severity.INVALID,
            f"{path.parent.name}/{path.name} is truncated: request records are missing.",
        )
        for path in journals
        if not closed(path)
    ]


def torn_events(unreadable: int) -> list[Concern]:
    """A concern if lines of the events are unreadable."""
    if not unreadable:
        return []
    lines = "1 line is" if unreadable == 1 else f"{unreadable} lines are"
    text = f"{lines} unreadable in events.jsonl: windows, marks and lags recorded there are lost."
    return [Concern("events_torn", Severity.DEGRADED, text, unreadable, 0)]
