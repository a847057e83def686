"""Query results of a Prometheus, as kept in a run directory.

If a Prometheus scrapes a run's metrics, the run keeps its responses (`matrix` results of the HTTP
API: raw samples with their timestamps) in `scrapes/prometheus.arrows`, compressed and parsed
afterwards. Prometheus stamps samples with Unix time; `unix_offset_ns` of each row is the difference
to this host's monotonic clock at the manifest's anchor.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

MATRIX: Final = "application/json; harness=prometheus-matrix"
"""Content type of a row with one response, wrapped by `wrap`."""
MARK: Final = "harness/prometheus-mark"
"""Content type of a row without a body: the scrape at this time was awaited (`label`) or failed
(`error`).
"""

NS_PER_MS: Final = 1_000_000
_UP: Final = "up"
_OF_THE_SCRAPE: Final = frozenset(
    {
        "scrape_samples_scraped",
        "scrape_samples_post_metric_relabeling",
        "scrape_series_added",
        "scrape_timeout_seconds",
        "scrape_sample_limit",
        "scrape_body_size_bytes",
    }
)
"""Prometheus's own metrics of a scrape, except `up` and `scrape_duration_seconds`."""
_EXPORTED: Final = "exported_"


@dataclass(frozen=True, slots=True)
class Series:
    """One series: monotonic times and values.

    Attributes:
        metric: sample name.
        labels: of the exposition, without those of the target (job, instance, …).
    """

    metric: str
    labels: Mapping[str, str]
    times_ns: list[int]
    values: list[float]


class AnswerError(ValueError):
    """A body that is not a valid Prometheus response."""


def wrap(answer: bytes, after_ms: int, until_ms: int) -> bytes:
    """The body of a journal row: a response and the part of it that counts.

    Args:
        answer: JSON of /api/v1/query with a range vector selector.
        after_ms: Unix time in milliseconds, exclusive: consecutive responses share no sample,
            however a server treats the ends of a range.
        until_ms: inclusive.
    """
    return b'{"after_ms":%d,"until_ms":%d,"answer":%s}' % (after_ms, until_ms, answer.strip())


def matrix(answer: Mapping[str, Any]) -> list[tuple[dict[str, str], list[tuple[int, str]]]]:
    """The series of a response: labels (with `__name__`) and samples as (Unix time in milliseconds,
    value as text).

    Raises:
        AnswerError: an error response, or not a range vector.
    """
    try:
        if answer.get("status") != "success":
            raise AnswerError(
                f"{answer.get('errorType', 'error')}: {answer.get('error', 'no success')}"
            )
        data = answer["data"]
        if data["resultType"] != "matrix":
            raise AnswerError(f"result type {data['resultType']} instead of matrix")
        return [
            (
                dict(one["metric"]),
                [(round(float(moment) * 1000), str(value)) for moment, value in one["values"]],
            )
            for one in data["result"]
        ]
    except AnswerError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AnswerError(f"{type(error).__name__}: {error}") from error


def read(body: bytes, unix_offset_ns: int) -> tuple[list[Series], int]:
    """The series of a journal row's body.

    Labels that Prometheus added to the target (those of its `up`) are removed, and an exposition's
    own label of such a name is restored (`exported_job` -> `job`). Of Prometheus's metrics about
    the scrape, `up` and `scrape_duration_seconds` are kept.

    Args:
        body: as made by `wrap`.
        unix_offset_ns: Unix - monotonic time.

    Returns:
        The series, and the number of targets at one time: more than one if the selector is too
        wide.

    Raises:
        AnswerError: the body cannot be read.
    """
    try:
        whole = json.loads(body)
        after_ms, until_ms, answer = int(whole["after_ms"]), int(whole["until_ms"]), whole["answer"]
    except (KeyError, TypeError, ValueError) as error:
        raise AnswerError(f"{type(error).__name__}: {error}") from error
    found = matrix(answer)
    ups = [
        (labels, samples) for labels, samples in found if labels.get("__name__") == _UP and samples
    ]
    targets = [
        {name: value for name, value in labels.items() if name != "__name__"} for labels, _ in ups
    ]
    return list(_series(found, targets, after_ms, until_ms, unix_offset_ns)), _at_one_time(
        [samples for _, samples in ups]
    )


def _at_one_time(ups: list[list[tuple[int, str]]]) -> int:
    """Maximum number of targets scraped at the same time (one may replace another)."""
    edges = sorted(
        edge for samples in ups for edge in ((samples[0][0], 1), (samples[-1][0] + 1, -1))
    )
    most = now = 0
    for _, step in edges:
        now += step
        most = max(most, now)
    return most


def _series(
    found: list[tuple[dict[str, str], list[tuple[int, str]]]],
    targets: list[dict[str, str]],
    after_ms: int,
    until_ms: int,
    unix_offset_ns: int,
) -> Iterator[Series]:
    of_target: dict[str, set[str]] = {}
    for target in targets:
        for name, value in target.items():
            of_target.setdefault(name, set()).add(value)
    for labels, samples in found:
        metric = labels.pop("__name__", "")
        if metric in _OF_THE_SCRAPE:
            continue
        own = {
            name: value for name, value in labels.items() if value not in of_target.get(name, ())
        }
        for name in [
            name
            for name in own
            if name.startswith(_EXPORTED) and name.removeprefix(_EXPORTED) in of_target
        ]:
            own.setdefault(name.removeprefix(_EXPORTED), own.pop(name))
        kept = [(moment, value) for moment, value in samples if after_ms < moment <= until_ms]
        if kept:
            times_ns = [moment * NS_PER_MS - unix_offset_ns for moment, _ in kept]
            yield Series(metric, own, times_ns, [float(value) for _, value in kept])
