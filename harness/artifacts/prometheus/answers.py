"""Answers of a Prometheus as they are kept in a run directory, and what they say.

A run whose metrics a Prometheus scrapes keeps that server's own answers (`matrix` results of the
HTTP API: raw samples at their own timestamps) in `scrapes/prometheus.arrows`, as it keeps
expositions otherwise: compressed, parsed afterwards. A Prometheus stamps samples by its wall clock;
each row carries `unix_offset_ns`, the difference to this host's monotonic clock at the anchor of
the manifest.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

MATRIX: Final = "application/json; harness=prometheus-matrix"
"""Content type of a row that holds one answer, wrapped by `wrap`."""
MARK: Final = "harness/prometheus-mark"
"""Content type of a row without a body: the scrape at this time was waited for (`label`) or failed
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
"""What Prometheus says of a scrape beyond `up` and `scrape_duration_seconds`."""
_EXPORTED: Final = "exported_"


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer.

    Attributes:
        metric: sample name.
        labels: those of the exposition; the target's own (job, instance, …) are taken off.
        times_ns: monotonic.
        values: one a time.
    """

    metric: str
    labels: Mapping[str, str]
    times_ns: list[int]
    values: list[float]


class AnswerError(ValueError):
    """A body that is no answer of a Prometheus."""


def wrap(answer: bytes, after_ms: int, until_ms: int) -> bytes:
    """The body of a journal row: an answer as it came and the part of it that counts.

    Args:
        answer: the JSON of /api/v1/query with a range vector selector.
        after_ms: Unix time in milliseconds, excluded: neighbouring answers share no sample, however
            a server treats the ends of a range.
        until_ms: included.
    """
    return b'{"after_ms":%d,"until_ms":%d,"answer":%s}' % (after_ms, until_ms, answer.strip())


def matrix(answer: Mapping[str, Any]) -> list[tuple[dict[str, str], list[tuple[int, str]]]]:
    """The series of an answer: labels (`__name__` among them) and samples as (Unix time in
    milliseconds, value as text).

    Raises:
        AnswerError: it is an error, or something else than a range vector.
    """
    try:
        if answer.get("status") != "success":
            raise AnswerError(
                f"{answer.get('errorType', 'error')}: {answer.get('error', 'no success')}"
            )
        data = answer["data"]
        if data["resultType"] != "matrix":
            raise AnswerError(f"a {data['resultType']} where a range vector was asked for")
        return [
            (
                dict(one["metric"]),
                [(round(float(moment) * 1000), str(value)) for moment, value in one["values"]],
            )
            for one in data["result"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise (
            error
            if isinstance(error, AnswerError)
            else AnswerError(f"{type(error).__name__}: {error}")
        ) from error


def read(body: bytes, unix_offset_ns: int) -> tuple[list[Series], int]:
    """The series of a journal row's body.

    The labels that Prometheus put on every series of the target are those of its `up`, so they are
    taken off again, and an exposition's own label of such a name gets its name back (`exported_job`
    -> `job`). What Prometheus tells of the scrape itself is left out but for `up` and
    `scrape_duration_seconds`.

    Args:
        body: as made by `wrap`.
        unix_offset_ns: wall clock minus monotonic clock.

    Returns:
        The series, and how many targets they come from at one time: more than one where a selector
        was too wide.

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
    """The most targets that were scraped at the same time; a target that took another's place is
    none beside it.
    """
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
