"""Answers of a Prometheus become the samples that the harness's own scraper would have written."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.artifacts.prometheus.answers import AnswerError, matrix, read, wrap

OFFSET_NS = 1_700_000_000 * 10**9  # wall clock minus monotonic clock


def answer(*series: tuple[dict, list[tuple[float, str]]]) -> bytes:
    result = [
        {"metric": labels, "values": [list(sample) for sample in samples]}
        for labels, samples in series
    ]
    return json.dumps(
        {"status": "success", "data": {"resultType": "matrix", "result": result}}
    ).encode()


def series(body: bytes, after_ms: int = 0, until_ms: int = 2**52):
    found, targets = read(wrap(body, after_ms, until_ms), OFFSET_NS)
    return {
        (one.metric, json.dumps(dict(one.labels), sort_keys=True)): one for one in found
    }, targets


TARGET = {"job": "vllm", "instance": "gpu-7:8000", "pod": "a-0"}


def test_the_targets_own_labels_are_taken_off_and_renamed_ones_get_their_names_back() -> None:
    found, targets = series(
        answer(
            ({"__name__": "up", **TARGET}, [(1_700_000_001.5, "1")]),
            ({"__name__": "scrape_duration_seconds", **TARGET}, [(1_700_000_001.5, "0.01")]),
            ({"__name__": "scrape_samples_scraped", **TARGET}, [(1_700_000_001.5, "9")]),
            (
                {"__name__": "x_total", **TARGET, "exported_pod": "its own", "engine": "0"},
                [(1_700_000_001.5, "7")],
            ),
            (
                {"__name__": "honoured", **TARGET, "job": "of the exposition"},
                [(1_700_000_001.5, "NaN")],
            ),
        )
    )
    assert set(found) == {
        ("up", "{}"),
        ("scrape_duration_seconds", "{}"),
        ("x_total", '{"engine": "0", "pod": "its own"}'),
        ("honoured", '{"job": "of the exposition"}'),
    }
    assert targets == 1
    assert found["up", "{}"].times_ns == [1_500_000_000]  # monotonic, by the anchor
    assert found["x_total", '{"engine": "0", "pod": "its own"}'].values == [7.0]


def test_a_target_that_took_anothers_place_is_one_and_two_at_a_time_are_told() -> None:
    first = ({"__name__": "up", "pod": "a-0"}, [(1.0, "1"), (2.0, "1")])
    after = ({"__name__": "up", "pod": "a-1"}, [(3.0, "1"), (4.0, "1")])
    beside = ({"__name__": "up", "pod": "b"}, [(2.0, "1"), (3.0, "1")])
    assert series(answer(first, after))[1] == 1
    assert series(answer(first, beside))[1] == 2


@given(st.integers(1, 40), st.integers(1, 12), st.booleans())
def test_neighbouring_answers_share_no_sample_and_miss_none(
    scrapes: int, step: int, closed: bool
) -> None:
    """Prometheus 2 includes both ends of a range, Prometheus 3 and VictoriaMetrics leave the first
    one out.
    """
    whole = [(float(i), str(i)) for i in range(1, scrapes + 1)]
    times = []
    for after in range(0, scrapes, step):
        until = min(scrapes, after + step)
        part = [
            sample
            for sample in whole
            if (after <= sample[0] if closed else after < sample[0]) and sample[0] <= until
        ]
        found, _ = series(answer(({"__name__": "up"}, part)), after * 1000, until * 1000)
        times += [int(value) for one in found.values() for value in one.values]
    assert times == list(range(1, scrapes + 1))


@pytest.mark.parametrize(
    "body",
    [
        {"status": "error", "errorType": "bad_data", "error": "parse error"},
        {"status": "success", "data": {"resultType": "vector", "result": []}},
        {"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {}}]}},
        {"status": "success"},
    ],
)
def test_what_is_no_range_vector_is_told(body: dict) -> None:
    with pytest.raises(AnswerError):
        matrix(body)
    with pytest.raises(AnswerError):
        read(wrap(json.dumps(body).encode(), 0, 1), 0)


def test_half_a_body_is_told() -> None:
    with pytest.raises(AnswerError):
        read(wrap(answer(({"__name__": "up"}, [(1.0, "1")])), 0, 1)[:-20], 0)
