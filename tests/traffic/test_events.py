"""Lines between a Locust process and its supervisor."""

import pytest

from harness.traffic.events import (
    Failed,
    Finished,
    Ready,
    StageEnded,
    StagePrimed,
    StageStarted,
    WindowDone,
    WorkerEvent,
    WorkerProgress,
    from_line,
    to_line,
)


@pytest.mark.parametrize(
    "event",
    [
        Ready("ab"),
        Ready(None),
        WorkerProgress(1, None, 2, 3, 4, 5, 6, 7, 8, [9, 10], 11, [12, 13], [1.5, 2.0], 0.25, 0.5),
        StagePrimed("a", 0, 1, 2, 3, 4),
        StageStarted("a", 0, 1, 2, None),
        WindowDone("a", 0),
        StageEnded("a", 0, 1, 2, 3, 4, 5),
        Finished(True),
        Failed("why"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_an_event_is_one_line_and_comes_back_as_it_was(event: WorkerEvent) -> None:
    line = to_line(event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert from_line(line) == event


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b'{"event": "news"}', KeyError),
        (b'{"event": "finished"}', TypeError),
        (b'{"event": "finished", "interrupted": true, "why": 1}', TypeError),
        (b'{"event": "fin', ValueError),
    ],
)
def test_a_line_that_is_no_event_is_refused(line: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        from_line(line)
