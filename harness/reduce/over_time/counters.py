"""The server's own counters, gauges and histograms: differenced at the edges of a window, with
resets seen and counted.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from harness.artifacts.run_summary import Histogram
from harness.core.metric_names import MAPPED, Concept, Series, Source, identify, pick
from harness.reduce.read.run import Samples
from harness.reduce.statistics.intervals import Floats

PROCESS_START: Final = "process_start_time_seconds"
"""Unix time at which the exporting process started; prometheus-client exposes it, so vLLM and
SGLang do.
"""

FIRST_LABELS: Final = ("first_after_ready", "ready")
"""Labels of the scrape that follows readiness and probes."""
LAST_LABELS: Final = ("last_after_drain", "drained")
"""Labels of the scrape that follows the drain."""


def wanted(name: str) -> bool:
    """Whether a sample name takes part in any figure."""
    return name in MAPPED or name == PROCESS_START


def unwrap(values: Floats) -> tuple[Floats, int]:
    """A cumulative counter without its resets, and how many there were.

    A value below the one before means that the counter started again from 0; what it had counted
    since its last reading is lost.
    """
    drops = np.diff(values) < 0
    lost = (
        np.concatenate([np.zeros(1), np.cumsum(np.where(drops, values[:-1], 0.0))])
        if len(values)
        else values
    )
    return values + lost, int(np.sum(drops))


def at(t: Floats, values: Floats, moment: float) -> float | None:
    """Value at a moment by linear interpolation; None outside the readings."""
    if len(t) == 0 or moment < t[0] or moment > t[-1]:
        return None
    return float(np.interp(moment, t, values))


@dataclass(frozen=True, slots=True)
class ServerCounters:
    """All samples of a run, asked by concept. Figures are sums over targets (and ranks, models,
    sources within them).
    """

    samples: Samples

    @property
    def server(self) -> str | None:
        """Which server's names these are."""
        return identify({metric for _, metric, _ in self.samples.series})

    def _source(self, concept: Concept) -> Source | None:
        return pick(concept, {metric for _, metric, _ in self.samples.series})

    def _counters(self, concept: Concept) -> list[tuple[str, Floats, Floats]] | None:
        """(target, times, cumulative values without resets) of each series, None when the server
        does not tell.
        """
        source = self._source(concept)
        if source is None or source.kind != "counter":
            return None
        found = self._matching(source, tuple(s.name for s in source.series))
        return [(target, t, unwrap(values)[0]) for target, _, t, values in found] or None

    def _matching(
        self, source: Source, names: Sequence[str]
    ) -> list[tuple[str, Mapping[str, str], Floats, Floats]]:
        """(target, labels, times, values) of the samples of these names, one for each name of the
        source's series.
        """
        seen: set[tuple[str, str, tuple[tuple[str, str], ...]]] = set()
        out = []
        for (target, metric, labels_json), (t, values) in self.samples.series.items():
            if metric not in names:
                continue
            labels = json.loads(labels_json) if labels_json else {}
            series = source.series[names.index(metric)]
            if series.label is not None and labels.get(series.label) not in series.values:
                continue
            key = (
                target,
                metric,
                tuple(sorted((k, v) for k, v in labels.items() if k not in source.replicated)),
            )
            if key in seen:
                continue
            seen.add(key)
            points = (t, values) if source.kind == "gauge" else self._from_zero(target, t, values)
            out.append((target, labels, *points))
        return out

    def _from_zero(self, target: str, t: Floats, values: Floats) -> tuple[Floats, Floats]:
        """A counter that shows up later than its target's first scrapes counted from 0: servers
        expose some label values on first use.
        """
        scrapes = self.samples.scrapes.get(target, np.zeros(0))
        earlier = scrapes[scrapes < t[0]]
        if len(earlier) == 0:
            return t, values
        return np.concatenate([earlier[-1:], t]), np.concatenate([np.zeros(1), values])

    def resets(self) -> int:
        """How often a token counter fell: a server started again."""
        most = 0
        for concept in (Concept.GENERATED_TOKENS, Concept.PROMPT_TOKENS):
            source = self._source(concept)
            if source is not None and source.kind == "counter":
                found = sum(
                    unwrap(values)[1]
                    for *_, values in self._matching(source, tuple(s.name for s in source.series))
                )
                most = max(most, found)
        return most

    def difference(self, concept: Concept, start: float, end: float) -> float | None:
        """What was counted between two moments, interpolated between scrapes; None when the server
        does not tell or was not asked.
        """
        counters = self._counters(concept)
        if counters is None:
            return None
        parts = [self._rise(target, t, values, start, end) for target, t, values in counters]
        return None if None in parts else float(sum(part for part in parts if part is not None))

    def _rise(
        self, target: str, t: Floats, values: Floats, start: float, end: float
    ) -> float | None:
        """What one series counted between two moments; None where nobody asked its target then."""
        scrapes = self.samples.scrapes.get(target, t)
        low = at(t, values, start)
        if low is None and len(scrapes) and scrapes[0] <= start < t[0]:
            low = 0.0  # exposed only after this moment: still 0
        high = at(t, values, end)
        return None if high is None or low is None else high - low

    def whole(self, concept: Concept, first: float | None, last: float | None) -> float | None:
        """What was counted over the whole run.

        Each target's scrapes labelled as the first after ready and the last after drain bound it;
        else those nearest to the given moments; else its first and last scrape.
        """
        counters = self._counters(concept)
        if counters is None:
            return None
        total = 0.0
        for target, t, values in counters:
            scrapes = self.samples.scrapes.get(target)
            if scrapes is None or len(scrapes) == 0:
                scrapes = t
            begin = self._scrape(target, scrapes, FIRST_LABELS, first, 0)
            end = self._scrape(target, scrapes, LAST_LABELS, last, -1)
            before = values[t <= begin]
            until = values[t <= end]
            if len(until) == 0:
                return None
            total += float(until[-1]) - (float(before[-1]) if len(before) else 0.0)
        return total

    def _scrape(
        self,
        target: str,
        scrapes: Floats,
        labels: Sequence[str],
        moment: float | None,
        otherwise: int,
    ) -> float:
        for label in labels:
            mark = self.samples.marks.get((target, label))
            if mark is not None:
                return mark
        if moment is None:
            return float(scrapes[otherwise])
        return float(scrapes[np.argmin(np.abs(scrapes - moment))])

    def value_at_first(self, concept: Concept) -> float | None:
        """The counter's value at the first scrape; None when the server does not tell."""
        counters = self._counters(concept)
        return None if counters is None else float(sum(values[0] for _, _, values in counters))

    def gauge(self, concept: Concept, *, share: bool = False) -> tuple[Floats, Floats] | None:
        """A gauge over time: summed over series, or the highest of them where it is a share. None
        when the server does not tell.
        """
        source = self._source(concept)
        if source is None or source.kind != "gauge":
            return None
        series = self._matching(source, tuple(s.name for s in source.series))
        if not series:
            return None
        t = np.unique(np.concatenate([times for *_, times, _ in series]))
        stacked = np.stack([np.interp(t, times, values) for *_, times, values in series])
        return t, np.max(stacked, axis=0) if share else np.sum(stacked, axis=0)

    def cumulative(self, concept: Concept) -> tuple[Floats, Floats] | None:
        """A counter over time, resets taken out, summed over series."""
        counters = self._counters(concept)
        if counters is None:
            return None
        t = np.unique(np.concatenate([times for _, times, _ in counters]))
        summed = np.zeros(len(t))
        for _, times, values in counters:
            summed += np.interp(t, times, values)
        return t, summed

    def histogram(self, concept: Concept, start: float, end: float) -> Histogram | None:
        """Count and mean of a server-side histogram between two moments, and the bucket that holds
        its median and p99.

        Buckets are coarse, so these stand beside the client's figures and never in their place.
        """
        source = self._source(concept)
        if source is None or source.kind != "histogram":
            return None
        base = source.series[0].name
        count = self._between(source, f"{base}_count", start, end)
        total = self._between(source, f"{base}_sum", start, end)
        if count is None or total is None or count <= 0:
            return None
        buckets: dict[float, float] = {}
        for target, labels, t, values in self._of_histogram(source, f"{base}_bucket"):
            rise = self._rise(target, t, unwrap(values)[0], start, end)
            if rise is not None and "le" in labels:
                buckets[float(labels["le"])] = buckets.get(float(labels["le"]), 0.0) + rise
        return Histogram(
            count=count,
            mean_s=total / count,
            p50_bucket_s=_bucket(buckets, 0.5),
            p99_bucket_s=_bucket(buckets, 0.99),
        )

    def _of_histogram(
        self, source: Source, name: str
    ) -> list[tuple[str, Mapping[str, str], Floats, Floats]]:
        return self._matching(Source("counter", (Series(name),), source.replicated), (name,))

    def _between(self, source: Source, name: str, start: float, end: float) -> float | None:
        found = [
            self._rise(target, t, unwrap(values)[0], start, end)
            for target, _, t, values in self._of_histogram(source, name)
        ]
        return (
            None
            if not found or None in found
            else float(sum(rise for rise in found if rise is not None))
        )


def _bucket(buckets: dict[float, float], q: float) -> tuple[float, float | None] | None:
    """(lower, upper) bound of the bucket that holds the q-quantile; an upper bound of None is
    infinity.
    """
    if not buckets:
        return None
    bounds = sorted(buckets)
    whole = buckets[bounds[-1]]
    below = 0.0
    for bound in bounds:
        if buckets[bound] >= q * whole:
            return below, bound if np.isfinite(bound) else None
        below = bound
    return None
