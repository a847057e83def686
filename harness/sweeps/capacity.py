"""Capacity per tier of a search: from conditions and the requests of its probes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.artifacts.run_summary import Slos
from harness.artifacts.sweep.capacity import Capacity
from harness.core.records import Basis, Outcome
from harness.profile.search import Condition
from harness.reduce.figures.window_figures import good, intended_in
from harness.reduce.reduction import Reduction
from harness.reduce.statistics.intervals import BATCHES, mean_error
from harness.sweeps.probe_likelihood import Floats, Observation
from harness.sweeps.threshold import Limits, Observed, estimate, outliers, posterior


@dataclass(frozen=True, slots=True)
class Tier:
    """A level of service: all conditions at once."""

    name: str
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Tally:
    """Requests of a probe for one condition: scheduled in the window, without those that the user
    canceled. Failed, dropped and incomplete ones are not good.

    Attributes:
        effective: requests as an effective number (divided by the batch-means design effect).
        at_most: the probe was ended early.
    """

    good: int
    n: int
    effective: float
    at_most: bool = False

    def observation(self, load: float) -> Observation:
        """For the estimate."""
        return Observation(load, self.good / self.n * self.effective, self.effective, self.at_most)


@dataclass(frozen=True, slots=True)
class ProbeRun:
    """A finished, valid probe.

    Attributes:
        run: its directory.
        tallies: per tier and condition, in their order.
        gpus: of the deployment, None on CPU.
        power_w: at `boundary`, None without a measurement.
    """

    run: str
    load: float
    tallies: tuple[tuple[Tally, ...], ...]
    tok_s: float | None = None
    gpus: int | None = None
    power_w: float | None = None
    boundary: str | None = None


def effective_number(met: Floats) -> float:
    """Number of independent requests with as much information on their share, from the batch means
    of a series of zeros and ones in order of time; at least 1 and at most the number itself.
    """
    n, size = len(met), len(met) // BATCHES
    if size < 2:
        return float(n)
    batches = met[n - size * BATCHES :].reshape(BATCHES, size)
    error = mean_error(np.mean(batches, axis=1))
    p = (float(np.sum(met)) + 1) / (n + 2)
    return float(n) if error is None else min(float(n), max(1.0, p * (1 - p) / error.variance))


def tally(reduction: Reduction, condition: Condition, *, at_most: bool = False) -> Tally | None:
    """Requests of the headline window for a condition; None without a window or a request in it."""
    if reduction.headline is None:
        return None
    requests = reduction.run.requests
    mine = intended_in(requests, reduction.headline)
    counted = mine & ~requests.cancelled
    ended = counted & (requests.outcome != Outcome.INTERRUPTED)
    if at_most and np.any(ended):  # the others were cut off by the early end
        counted = ended
    slos = Slos(ttft_s=condition.ttft_s, tpot_s=condition.tpot_s, e2e_s=condition.e2e_s)
    met = good(requests, mine, reduction.flows, slos)[counted].astype(np.float64)
    if not len(met):
        return None
    return Tally(int(np.sum(met)), len(met), effective_number(met), at_most)


def probe_run(
    reduction: Reduction, load: float, tiers: Sequence[Tier], *, at_most: bool = False
) -> ProbeRun | None:
    """A finished run as a probe; None without a request in its window. The caller leaves out
    invalid runs.
    """
    found = []
    for tier in tiers:
        tallies = [tally(reduction, one, at_most=at_most) for one in tier.conditions]
        if any(one is None for one in tallies):
            return None
        found.append(tuple(one for one in tallies if one is not None))
    metrics = reduction.summary.metrics
    power = metrics.get("power_w")
    measured = power is not None and power.basis is Basis.MEASURED and power.value is not None
    tok_s = metrics["output_tok_s"].value if "output_tok_s" in metrics else None
    return ProbeRun(
        reduction.summary.run_id,
        load,
        tuple(found),
        tok_s,
        len(reduction.run.manifest.hardware.gpus) or None,
        float(power.value) if measured and power is not None and power.value else None,
        power.boundary if measured and power is not None else None,
    )


def conditions(tiers: Sequence[Tier], probes: Sequence[ProbeRun]) -> list[list[Observed]]:
    """Observations per tier and condition, for `estimate` and `next_load`."""
    return [
        [
            Observed(one.share, tuple(p.tallies[t][c].observation(p.load) for p in probes))
            for c, one in enumerate(tier.conditions)
        ]
        for t, tier in enumerate(tiers)
    ]


def _at(load: float, probes: Sequence[ProbeRun], values: Sequence[float | None]) -> float | None:
    """A value at a load: linear between the means at the probed loads, None outside of them."""
    known = [(p.load, v) for p, v in zip(probes, values, strict=True) if v is not None]
    loads = sorted({at for at, _ in known})
    if not loads or not loads[0] <= load <= loads[-1]:
        return None
    means = [float(np.mean([v for at, v in known if at == one])) for one in loads]
    return float(np.interp(load, loads, means))


def capacity(
    number: int,
    tiers: Sequence[Tier],
    probes: Sequence[ProbeRun],
    limits: Limits,
    *,
    confirmed: ProbeRun | None = None,
) -> Capacity:
    """Capacity of tier `number`.

    Tokens and power are those of the confirmation run, else interpolated between the probes at the
    capacity. Ratios per GPU and megawatt are of the load that they were measured at.
    """
    every = conditions(tiers, probes)[number]
    found = estimate(every, limits)
    if found.load is None or found.binding is None:
        return Capacity(found=found.found, probes=len(probes))
    odd = {i for one in every for i in outliers(one, posterior(one))}
    tok_s, power_w, load, source = None, None, found.load, confirmed or probes[0]
    if confirmed is not None:
        load, tok_s, power_w = confirmed.load, confirmed.tok_s, confirmed.power_w
    elif len({p.boundary for p in probes if p.power_w is not None}) <= 1:
        tok_s = _at(load, probes, [p.tok_s for p in probes])
        power_w = _at(load, probes, [p.power_w for p in probes])
    boundary = next((p.boundary for p in (source, *probes) if p.boundary), None)
    return Capacity(
        found=found.found,
        load=found.load,
        low=found.low,
        high=found.high,
        tok_s=tok_s,
        tok_s_per_gpu=tok_s / source.gpus if tok_s is not None and source.gpus else None,
        sessions_per_gpu=load / source.gpus if limits.whole and source.gpus else None,
        sessions_per_mw=load / power_w * 1e6 if limits.whole and power_w else None,
        boundary=boundary if power_w else None,
        basis=str(Basis.MEASURED) if power_w else None,
        binding=tiers[number].conditions[found.binding].text,
        share_at_start=found.share,
        probes=len(probes),
        outliers=tuple(probes[i].run for i in sorted(odd)),
        tau=found.tau,
        confirmed=confirmed.run if confirmed is not None else None,
    )
