"""Token factors of one estimate: measured throughput, share within the SLOs, efficiency of many
replicas, and the modeled ratio between types of GPU.
"""

from collections.abc import Sequence
from pathlib import Path

from harness.artifacts.run_result import RunResult, load_result
from harness.artifacts.run_summary import Figure
from harness.core.errors import ArtifactError
from harness.core.records import Basis
from harness.core.units import human_number
from harness.fleet.estimate import measured as evidence
from harness.fleet.estimate.extra_runs import efficiency_of
from harness.fleet.estimate.factors import FactorBook
from harness.fleet.estimate.gpu_ratio import Ratio, no_ratio
from harness.fleet.estimate.sampling import Z95
from harness.fleet.site.types import GpuSpec


class Tokens:
    """Throughput of one run at one site: a measured value, the GPU types of run and site, further
    runs at two or more replicas, and a ratio between the types; fills `book` and `flags`.
    """

    def __init__(
        self,
        run: RunResult,
        measured: Figure,
        specs: tuple[GpuSpec, GpuSpec],
        book: FactorBook,
        flags: list[str],
        replicas: Sequence[Path],
        modelled: Ratio | None,
    ) -> None:
        self._run, self._measured, self._book, self._flags = run, measured, book, flags
        self._from, self._spec = specs
        self._others, self._modelled = replicas, modelled

    def factors(self) -> None:
        self._throughput()
        self._slos()
        self._replicas()
        if self._spec is not self._from:
            self._ratio()
        self._book.prior("slo_headroom")

    def _throughput(self) -> None:
        run, measured = self._run, self._measured
        assert measured.value is not None
        spread, source = 0.0, f"measured in {run.run_id}, {self._from.name}"
        if measured.ci_low is not None and measured.ci_high is not None:
            if not measured.ci_low <= measured.value <= measured.ci_high:
                raise ArtifactError(
                    f"{run.path}: output_tok_s_per_gpu of {measured.value:g} is outside of its"
                    f" interval ({measured.ci_low:g} to {measured.ci_high:g})",
                    cause="summary.json was edited or damaged",
                    next_step=f"write it again: harness reduce {run.path}",
                )
            spread = (measured.ci_high - measured.ci_low) / 2 / Z95
        else:
            source += "; no interval in the run, so its uncertainty is not in the ranges"
        drawn = self._book.streams.normal("run", measured.value, spread)
        self._book.add(
            "tok_s_per_gpu",
            "Measured output tokens per second per GPU",
            "tok/s/GPU",
            measured.value,
            drawn,
            Basis.MEASURED,
            source,
        )

    def _slos(self) -> None:
        share, slos = evidence.good_share(self._run), self._run.slos
        if share is None:
            self._flags.append(
                "The run has no SLO: its throughput is an upper bound for a site that has one."
            )
            return
        source = "tokens of the run's good requests over those of all its requests, SLOs "
        source += ", ".join(f"{key} <= {value:g}" for key, value in slos.items())
        title, drawn = "Tokens of requests that met every SLO", self._book.streams.fixed(share)
        self._book.add("slo_share", title, "1", share, drawn, Basis.MEASURED, source)

    def _replicas(self) -> None:
        run, key = self._run, "multi_replica_efficiency"
        if run.replicas is not None and run.replicas >= 2:
            source = f"included in the throughput measured over {run.replicas} replicas"
            self._book.fixed(key, 1.0, Basis.MEASURED, source)
            return
        linked, why = efficiency_of(run, [load_result(path) for path in self._others])
        if linked is not None:
            self._book.linked(key, linked)
            return
        if self._others:
            self._flags.append(f"No measured efficiency of replicas: {why}.")
        self._book.prior(key)
        self._flags.append(
            "The run has fewer than two replicas: the efficiency of many is an assumption, not"
            " measured."
        )

    def _ratio(self) -> None:
        ratio = self._modelled or no_ratio(self._from.name, self._spec.name)
        spread = self._book.priors["modelled_spread"]
        prior = spread.model_copy(update={"key": "modelled_ratio", **ratio.range_of(spread)})
        title = f"Modeled: {self._spec.name} over {self._from.name}"
        drawn = self._book.streams.prior(prior)
        self._book.add(prior.key, title, "1", prior.value, drawn, Basis.MODELLED, ratio.source)
        self._flags.append(
            f"Modeled, not measured: the run's GPU is {self._from.name}, the site's"
            f" {self._spec.name}; throughput is multiplied by {human_number(prior.value)}"
            f" ({ratio.source}), and both are assumed to draw the same share of rated power."
        )
