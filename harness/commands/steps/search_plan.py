"""How long a probe of a search lasts. A pure function of the profile and of the probes that have
ended, so a resumed search asks what an unbroken one would have asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from harness.profile.search import Search
from harness.profile.stages import Stage
from harness.sweeps.probes import Probe

LOAD_KEYS: Final = {
    "concurrency": "traffic.load.0.concurrency",
    "arrival_rate": "traffic.load.0.rate_per_s",
}
"""`search.load` -> key of the profile that a search varies."""

LEAST_WINDOW_S: Final = 5.0
"""Shortest window of a probe: ten reports of the load generator."""

WARMUP_OF_E2E: Final = 3.0
"""A probe's warm-up is at least this many times the p95 of the end-to-end latency."""

_MORE: Final = 1.1
"""Factor on the expected time for `probe_requests`, which is known with an error."""

_CLIMBING: Final = 3.0
"""Probes of the climb are shorter by this factor."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Warm-up and measurement window of a probe, in seconds."""

    warmup_s: float
    window_s: float


def windows(
    search: Search, stage: Stage, load: float, probes: Sequence[Probe], *, climbing: bool
) -> Windows:
    """Windows of the next probe.

    Args:
        search: limits.
        stage: the profile's load stage; its warm-up is the shortest.
        load: of the next probe.
        probes: that have ended.
        climbing: no probe has missed a tier yet.
    """
    known = [one for one in probes if not one.stopped and one.invalid is None]
    longest_s = search.probe_s / (_CLIMBING if climbing else 1)
    wanted = search.probe_requests / (_CLIMBING if climbing else 1)
    rate = _expected_rate(search, load, known)
    window_s = longest_s if rate is None else min(longest_s, _MORE * wanted / rate)
    return Windows(
        round(_warmup_s(search, stage, load, known), 3),
        round(min(max(window_s, LEAST_WINDOW_S), search.probe_s), 3),
    )


def _expected_rate(search: Search, load: float, known: Sequence[Probe]) -> float | None:
    """Requests per second at a load, from the nearest probe: in proportion to the load, but for
    more sessions than measured not more than that probe had.
    """
    rates = [(one.load, one.requests_per_s) for one in known if one.requests_per_s]
    if not rates:
        return None
    nearest, rate = min(rates, key=lambda one: abs(one[0] - load))
    return rate * (min(1.0, load / nearest) if search.whole else load / nearest)


def _warmup_s(search: Search, stage: Stage, load: float, known: Sequence[Probe]) -> float:
    least_s = search.probe_s / 6 if stage.warmup_s is None else stage.warmup_s
    below = [one for one in known if one.load <= load and one.e2e_p95_s is not None]
    slowest_s = max((one.e2e_p95_s or 0.0 for one in below), default=0.0)
    return min(max(least_s, WARMUP_OF_E2E * slowest_s), search.probe_s)
