"""One endpoint as a Prometheus sees it."""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from harness.core.metric_names import NAMES
from harness.telemetry.live import SHOWN, live_values
from harness.telemetry.prometheus.http_api import Samples

_UP: Final = "up"
_WIDE_RANGE_MS: Final = 600_000


@dataclass(slots=True)
class Target:
    """State of one target between polls.

    Attributes:
        selector: PromQL label matchers without braces.
        read_ms: samples up to here are in the journal.
        interval_s: of its scrapes; None: unknown.
        scrape_ms: its latest complete scrape; None before the first.
        up: that scrape succeeded.
        shown: live values of that scrape, if any.
        reported: codes already reported.
    """

    name: str
    selector: str
    read_ms: int
    interval_s: float | None = None
    scrape_ms: int | None = None
    up: bool = False
    shown: dict[str, float] | None = None
    scrapes: int = 0
    failures: int = 0
    reported: set[str] = field(default_factory=set)

    def look(self, found: Sequence[tuple[dict[str, str], Samples]]) -> tuple[list[int], int]:
        """Process the latest samples.

        Returns:
            Times of new failed scrapes, and how many targets the selector matches at once (0 or 1:
                not ambiguous).
        """
        ups = sorted(
            (samples for labels, samples in found if labels.get("__name__") == _UP and samples),
            key=lambda one: one[-1][0],
        )
        if not ups:
            self.shown = None
            return [], 0
        at_once = len(ups) if len(ups) > 1 and ups[-2][-1][0] > ups[-1][0][0] else 1
        latest = ups[-1]
        moments = [moment for moment, _ in latest]
        if len(moments) > 2:
            steps = (b - a for a, b in itertools.pairwise(moments))
            self.interval_s = statistics.median(steps) / 1000
        last_ms, up = moments[-1], float(latest[-1][1]) > 0
        current, whole = _current(found, moments)
        if up and not whole:
            return [], at_once
        new = [one for one in latest if self.scrape_ms is None or one[0] > self.scrape_ms]
        failed = [moment for moment, value in new if not float(value) > 0]
        self.scrapes += len(new)
        self.failures += len(failed)
        self.scrape_ms, self.up = last_ms, up
        self.shown = live_values(current) if up else None
        return failed, at_once

    def matching(self, more: str | None = None) -> str:
        """Its selector of series: label matchers in braces."""
        own = self.selector.strip().strip("{}").strip().rstrip(",")
        return "{" + ",".join(filter(None, (own, more))) + "}"

    @property
    def look_back_ms(self) -> int:
        """How far a poll goes back."""
        if self.interval_s is None:
            return _WIDE_RANGE_MS
        return max(5_000, math.ceil(5_000 * self.interval_s))


def _current(
    found: Sequence[tuple[dict[str, str], Samples]], moments: Sequence[int]
) -> tuple[list[tuple[str, dict[str, str], float]], bool]:
    """The samples of the latest scrape, and whether it is complete: some stores ingest samples one
    by one.
    """
    by_name: dict[str, list[tuple[str, dict[str, str], float]]] = {}
    whole = True
    for labels, samples in found:
        name = labels.get("__name__", "")
        if name == _UP or not samples:
            continue
        if samples[-1][0] == moments[-1]:
            by_name.setdefault(name, []).append((name, labels, float(samples[-1][1])))
        elif len(samples) > 1 and samples[-1][0] >= moments[-2 if len(moments) > 1 else -1]:
            whole = False
    return [sample for samples in by_name.values() for sample in samples], whole


def _names() -> list[str]:
    names = {
        series.name
        for concepts in NAMES.values()
        for concept in SHOWN
        for source in concepts.get(concept, ())
        for series in source.series
    }
    return sorted({_UP, *names})


LOOKED_AT: Final = f'__name__=~"{"|".join(_names())}"'
"""The series behind live live_values, as a matcher."""
