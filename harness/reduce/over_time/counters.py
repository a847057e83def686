"""The server's counters, gauges and histograms: differences over a window, with resets handled."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from harness.artifacts.run_summary import Histogram
from harness.core.metric_names import MAPPED, NAMES, Concept, Series, Source, identify, pick
from harness.reduce.read.run import Samples
from harness.reduce.statistics.intervals import Floats

PROCESS_START: Final = "process_start_time_seconds"
"""Unix start time of the exporting process; prometheus-client exposes it, hence vLLM and SGLang."""

_TOKEN_COUNTERS: Final = frozenset(
    series.name
    for concepts in NAMES.values()
    for concept in (Concept.GENERATED_TOKENS, Concept.PROMPT_TOKENS)
    for source in concepts.get(concept, ())
    for series in source.series
)
FIRST_LABELS: Final = ("first_after_ready", "ready")
"""Labels of the scrape that follows readiness and probes."""
LAST_LABELS: Final = ("last_after_drain", "drained")
"""Labels of the scrape that follows the drain."""

_Found = list[tuple[str, Mapping[str, str], Floats, Floats]]
"""(target, labels, times, values) of each series."""


def wanted(name: str) -> bool:
    """Whether any metric uses samples of this name."""
    return name in MAPPED or name == PROCESS_START


_SAME_PROCESS_S: Final = 1.0
"""Process start times differ by less within one process; clock corrections are smaller."""


def process_changes(values: Floats) -> int:
    """How often a target's process start time changed."""
    return int(np.sum(np.abs(np.diff(values)) > _SAME_PROCESS_S))


def _in_turn(values: Floats) -> int:
    """Number of processes behind one address, if one comes back after another; else 0."""
    kinds = np.unique(np.round(values / _SAME_PROCESS_S))
    return len(kinds) if process_changes(values) >= max(2, len(kinds)) else 0


def _takes_turns(values: Floats) -> bool:
    """Whether a counter falls and soon is where it was, twice: several processes expose it."""
    falls = np.flatnonzero(np.diff(values) < 0)
    back = [at for at in falls if np.any(values[at + 2 : at + 4] >= values[at])]
    return len(back) >= 2


def without_mixed(samples: Samples) -> tuple[Samples, Mapping[str, int]]:
    """Samples without those of targets whose metrics come from several processes in turn, as
    behind a balancer, and the number of processes of each such target. Totals of them mean nothing.
    """
    mixed: dict[str, int] = {}
    for (target, metric, _), (_, values) in samples.series.items():
        if metric == PROCESS_START and (found := _in_turn(values)):
            mixed[target] = max(found, mixed.get(target, 0))
        elif metric in _TOKEN_COUNTERS and _takes_turns(values):
            mixed.setdefault(target, 2)
    kept = {key: points for key, points in samples.series.items() if key[0] not in mixed}
    return (replace(samples, series=kept) if mixed else samples), mixed


def unwrap(values: Floats) -> tuple[Floats, int]:
    """A cumulative counter without its resets, and their number.

    A value below its predecessor means that the counter restarted from 0. What it had counted since
    its last reading is lost.
    """
    drops = np.diff(values) < 0
    if not len(values):
        return values, 0
    lost = np.concatenate([np.zeros(1), np.cumsum(np.where(drops, values[:-1], 0.0))])
    return values + lost, int(np.sum(drops))


def at(t: Floats, values: Floats, moment: float) -> float | None:
    """Value by linear interpolation; None outside the readings."""
    if len(t) == 0 or moment < t[0] or moment > t[-1]:
        return None
    return float(np.interp(moment, t, values))


@dataclass(frozen=True, slots=True)
class ServerCounters:
    """All server samples of a run, by concept. Values are sums over targets and, within them, over
    ranks, models and sources. None: the server does not expose it.
    """

    samples: Samples
    mixed: Mapping[str, int] = field(default_factory=dict)
    """Targets whose metrics come from several processes in turn, and their number; these have no
    samples here.
    """

    @property
    def server(self) -> str | None:
        """The kind of server, from its metric names."""
        return identify({metric for _, metric, _ in self.samples.series})

    def _source(self, concept: Concept, kind: str = "counter") -> Source | None:
        if self.mixed:
            return None  # the other targets alone are not the deployment
        source = pick(concept, {metric for _, metric, _ in self.samples.series})
        return source if source is not None and source.kind == kind else None

    def _counters(self, source: Source | None) -> _Found:
        """Without resets."""
        found = self._matching(source) if source is not None else []
        return [(target, labels, t, unwrap(values)[0]) for target, labels, t, values in found]

    def _matching(self, source: Source) -> _Found:
        names = [series.name for series in source.series]
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
        """A counter that appears after its target's first scrapes starts at 0: servers expose some
        label values on first use.
        """
        scrapes = self.samples.scrapes.get(target, np.zeros(0))
        earlier = scrapes[scrapes < t[0]]
        if len(earlier) == 0:
            return t, values
        return np.concatenate([earlier[-1:], t]), np.concatenate([np.zeros(1), values])

    def exposes(self, concept: Concept) -> bool:
        """Whether a counter of this concept is known under any name."""
        return self._source(concept) is not None

    def resets(self) -> int:
        """How often a token counter fell, because a server restarted."""
        sources = map(self._source, (Concept.GENERATED_TOKENS, Concept.PROMPT_TOKENS))
        return max(
            sum(unwrap(values)[1] for *_, values in self._matching(source)) if source else 0
            for source in sources
        )

    def difference(self, concept: Concept, start: float, end: float) -> float | None:
        """The increase between two times, interpolated between scrapes; None also without scrapes
        around them.
        """
        return self._rise(self._counters(self._source(concept)), start, end)

    def _rise(self, found: _Found, start: float, end: float) -> float | None:
        """The summed increase; None without series or if a target was not scraped around a time."""
        total = 0.0
        for target, _, t, values in found:
            scrapes = self.samples.scrapes.get(target, t)
            low, high = at(t, values, start), at(t, values, end)
            if low is None and len(scrapes) and scrapes[0] <= start < t[0]:
                low = 0.0  # not exposed yet at this time: still 0
            if low is None or high is None:
                return None
            total += high - low
        return total if found else None

    def whole(self, concept: Concept, first: float | None, last: float | None) -> float | None:
        """The increase over the whole run.

        It is bounded by each target's scrapes that are marked as the first after ready and the last
        after drain; else by those nearest to the given times; else by its first and last scrape.
        """
        counters = self._counters(self._source(concept))
        total = 0.0
        for target, _, t, values in counters:
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
        return total if counters else None

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
        """The counter's value at the first scrape."""
        counters = self._counters(self._source(concept))
        return float(sum(values[0] for *_, values in counters)) if counters else None

    def gauge(self, concept: Concept, *, share: bool = False) -> tuple[Floats, Floats] | None:
        """A gauge over time: summed over series, or the highest of them if it is a share."""
        source = self._source(concept, "gauge")
        series = self._matching(source) if source is not None else []
        return _over_time(series, np.max if share else np.sum)

    def cumulative(self, concept: Concept) -> tuple[Floats, Floats] | None:
        """A counter over time, without resets, summed over series."""
        return _over_time(self._counters(self._source(concept)), np.sum)

    def histogram(self, concept: Concept, start: float, end: float) -> Histogram | None:
        """Count and mean of a server-side histogram between two times, and the buckets of its
        median and p99.

        Buckets are coarse: these supplement the client's values and never replace them.
        """
        source = self._source(concept, "histogram")
        if source is None:
            return None

        def series(ending: str) -> _Found:
            name = source.series[0].name + ending
            return self._counters(Source("counter", (Series(name),), source.replicated))

        count = self._rise(series("_count"), start, end)
        total = self._rise(series("_sum"), start, end)
        if count is None or total is None or count <= 0:
            return None
        buckets: dict[float, float] = {}
        for one in series("_bucket"):
            rise, labels = self._rise([one], start, end), one[1]
            if rise is not None and "le" in labels:
                buckets[float(labels["le"])] = buckets.get(float(labels["le"]), 0.0) + rise
        return Histogram(
            count=count,
            mean_s=total / count,
            p50_bucket_s=_bucket(buckets, 0.5),
            p99_bucket_s=_bucket(buckets, 0.99),
        )


def _over_time(series: _Found, combine: Callable[..., Any]) -> tuple[Floats, Floats] | None:
    if not series:
        return None
    t = np.unique(np.concatenate([times for *_, times, _ in series]))
    return t, combine([np.interp(t, times, values) for *_, times, values in series], axis=0)


def _bucket(buckets: dict[float, float], q: float) -> tuple[float, float | None] | None:
    """(lower, upper) bound of the bucket with the q-quantile; an upper bound None is infinity."""
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
