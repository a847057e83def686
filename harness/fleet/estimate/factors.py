"""The factors of one estimate: measured, stated for the site, or drawn from a prior."""

from collections.abc import Mapping

import numpy as np

from harness.core.records import Basis
from harness.fleet.estimate.extra_runs import Linked
from harness.fleet.estimate.results import Factor, Floats
from harness.fleet.estimate.sampling import Streams
from harness.fleet.site.types import Prior, Sourced


class FactorBook:
    """Collects the factors of one estimate by key. `priors` include the caller's overrides."""

    def __init__(self, priors: Mapping[str, Prior], streams: Streams) -> None:
        self.priors, self.streams = priors, streams
        self.factors: dict[str, Factor] = {}

    def add(
        self,
        key: str,
        title: str,
        unit: str,
        value: float,
        draws: object,
        basis: Basis,
        source: str,
    ) -> None:
        array = np.asarray(draws, dtype=np.float64)
        self.factors[key] = Factor(key, title, unit, value, array, basis, source)

    def prior(self, key: str, source: str | None = None) -> None:
        prior = self.priors[key]
        source = source or f"{prior.source} ({prior.date})"
        self._known(key, prior.value, self.streams.prior(prior), Basis.MODELLED, source)

    def _known(self, key: str, value: float, draws: Floats, basis: Basis, source: str) -> None:
        prior = self.priors[key]
        self.add(key, prior.title, prior.unit, value, draws, basis, source)

    def fixed(self, key: str, value: float, basis: Basis, source: str) -> None:
        """Add a factor by a known value instead of its prior."""
        self._known(key, value, self.streams.fixed(value), basis, source)

    def linked(self, key: str, linked: Linked) -> None:
        # Power without load is at most that under load.
        most = 1.0 if key == "idle_power_share" else None
        drawn = np.clip(self.streams.normal(key, linked.value, linked.deviation), 0.01, most)
        self._known(key, linked.value, drawn, Basis.MEASURED, linked.source)

    def stated(self, key: str, stated: Sourced | None) -> None:
        if stated is None:
            self.prior(key)
        else:
            source = f"stated for the site: {stated.cite()}"
            self.fixed(key, stated.value, Basis.MODELLED, source)
