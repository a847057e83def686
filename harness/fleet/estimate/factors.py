"""The factors of one estimate: measured, stated for the site, or drawn from a prior."""

from collections.abc import Mapping

import numpy as np

from harness.core.records import Basis
from harness.fleet.estimate.extra_runs import Linked
from harness.fleet.estimate.results import Factor
from harness.fleet.estimate.sampling import Streams
from harness.fleet.site.types import Prior, Sourced


class FactorBook:
    """Collects the factors of one estimate by key.

    Args:
        priors: by key, with what the caller put in their place.
        streams: of draws.
    """

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
    ) -> Factor:
        """A factor with its draws and where it comes from."""
        array = np.asarray(draws, dtype=np.float64)
        self.factors[key] = factor = Factor(key, title, unit, value, array, basis, source)
        return factor

    def prior(self, key: str) -> Factor:
        """A factor that nothing measured: its prior."""
        prior: Prior = self.priors[key]
        source = f"{prior.source} ({prior.date})"
        return self.add(
            key,
            prior.title,
            prior.unit,
            prior.value,
            self.streams.prior(prior),
            Basis.MODELLED,
            source,
        )

    def linked(self, key: str, linked: Linked) -> Factor:
        """A factor that further runs measured in place of its prior."""
        prior = self.priors[key]
        most = (
            1.0 if key == "idle_power_share" else None
        )  # nothing draws more without load than under it
        drawn = np.clip(self.streams.normal(key, linked.value, linked.deviation), 0.01, most)
        return self.add(
            key, prior.title, prior.unit, linked.value, drawn, Basis.MEASURED, linked.source
        )

    def stated(self, key: str, stated: Sourced | None) -> None:
        """A figure that the site states, or else the prior."""
        if stated is None:
            self.prior(key)
        else:
            prior = self.priors[key]
            drawn = self.streams.fixed(stated.value)
            self.add(
                key,
                prior.title,
                prior.unit,
                stated.value,
                drawn,
                Basis.MODELLED,
                f"stated for the site: {stated.cite()}",
            )
