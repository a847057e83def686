"""One endpoint as a Prometheus sees it."""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from harness.core.metric_names import NAMES, Source
from harness.telemetry.live import SHOWN, figures
from harness.telemetry.prometheus.http_api import Samples

_UP: Final = "up"
_WIDE_RANGE_MS: Final = 600_000


@dataclass(slots=True)
class Target:
    """Followed from look to look.

    Attributes:
        name: of the endpoint.
        selector: PromQL label matchers without braces.
        read_ms: samples are in the journal up to here.
        interval_s: of its scrapes; None: not known.
        scrape_ms: its latest whole scrape; None before the first.
        up: that one succeeded.
        shown: live figures of that one; None: there are none.
        scrapes: how many were seen.
        failures: how many of them failed.
        told: codes of what was reported once already.
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
    told: set[str] = field(default_factory=set)

    def look(self, found: Sequence[tuple[dict[str, str], Samples]]) -> tuple[list[int], int]:
        """Take in the latest samples.

        Returns:
            Times of new scrapes that failed, and how many targets the selector matches at once
            (0 or 1: it is not ambiguous).
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
            self.interval_s = (
                statistics.median(b - a for a, b in itertools.pairwise(moments)) / 1000
            )
        last_ms, up = moments[-1], float(latest[-1][1]) > 0
        current, whole = _current(found, moments)
        if up and not whole:
            return [], at_once
        new = [one for one in latest if self.scrape_ms is None or one[0] > self.scrape_ms]
        failed = [moment for moment, value in new if not float(value) > 0]
        self.scrapes += len(new)
        self.failures += len(failed)
        self.scrape_ms, self.up = last_ms, up
        self.shown = figures(current) if up else None
        return failed, at_once

    def matching(self, more: str | None = None) -> str:
        """Its selector of series: label matchers in braces."""
        matchers = [
            self.selector.strip().strip("{}").strip().rstrip(","),
            *([more] if more else []),
        ]
        return "{" + ",".join(one for one in matchers if one) + "}"

    @property
    def look_back_ms(self) -> int:
        """How far a look goes back."""
        if self.interval_s is None:
            return _WIDE_RANGE_MS
        return max(5_000, math.ceil(5_000 * self.interval_s))


def _current(
    found: Sequence[tuple[dict[str, str], Samples]], moments: Sequence[int]
) -> tuple[list[tuple[str, dict[str, str], float]], bool]:
    """The samples of the latest scrape, and whether that is whole: a store that takes samples in
    one by one may not have got all of it yet.
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
    sources: list[Source] = [
        source
        for concepts in NAMES.values()
        for concept in SHOWN
        for source in concepts.get(concept, ())
    ]
    return sorted({_UP, *(series.name for source in sources for series in source.series)})


LOOKED_AT: Final = f'__name__=~"{"|".join(_names())}"'
"""The series behind live figures, as a matcher."""
