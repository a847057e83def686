"""What was run, in one sentence, for every kind of load."""

import pytest

from harness.artifacts.typed_json import read_leniently
from harness.profile.recorded import RecordedTraffic
from harness.report.run.description import load_words


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([], "unknown load"),
        ([{"kind": "concurrency", "concurrency": 1}], "1 live session"),
        ([{"kind": "concurrency", "concurrency": 8, "over": "requests"}], "8 requests in flight"),
        (
            [{"kind": "concurrency", "concurrency": n} for n in (1, 2, 4)],
            "1, 2 and 4 live sessions in turn",
        ),
        (
            [{"kind": "arrival_rate", "rate_per_s": 0.5, "process": "poisson"}],
            "0.5000 new sessions per second (poisson arrivals)",
        ),
        ([{"kind": "arrival_rate", "rate_per_s": 3, "over": "requests"}], "3 requests per second"),
        (
            [{"kind": "ramp", "from_per_s": 1, "to_per_s": 9}],
            "a ramp from 1 to 9 new sessions per second",
        ),
        (
            [{"kind": "step", "steps": [{"rate_per_s": 1}, {"rate_per_s": 5}]}],
            "steps of 1, 5 new sessions per second",
        ),
        (
            [{"kind": "diurnal", "rate_per_s": 2}],
            "a daily curve around 2 new sessions per second",
        ),
        ([{"kind": "all_at_once", "sessions": 1}], "1 session at once"),
        ([{"kind": "replay"}], "recorded sessions at their recorded times"),
        (
            [{"kind": "concurrency", "concurrency": 4}, {"kind": "all_at_once", "sessions": 20}],
            "4 live sessions, then 20 sessions at once",
        ),
        ([{"kind": "of tomorrow"}], "unknown load"),
    ],
)
def test_loads(stages: list[dict[str, object]], words: str) -> None:
    assert load_words(read_leniently(RecordedTraffic, {"load": stages}).load) == words
