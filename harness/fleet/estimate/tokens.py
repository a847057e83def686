"""Factors of tokens of one estimate: the measured throughput, the share that met every SLO, the
efficiency of many replicas, and the modelled ratio between types of GPU.
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
    """Throughput of one run at one site.

    Args:
        run: that was measured.
        measured: its output tokens per second per GPU.
        specs: types of the run's and of the site's GPU.
        book: that takes the factors.
        flags: that takes red flags.
        replicas: further runs at two or more replicas.
        modelled: ratio from the run's type of GPU to the site's.
    """

    def __init__(
        self,
        run: RunResult,
        measured: Figure,
        specs: tuple[GpuSpec, GpuSpec],
        book: FactorBook,
        flags: list[str],
        *,
        replicas: Sequence[Path],
        modelled: Ratio | None,
    ) -> None:
        self._run, self._measured, self._book, self._flags = run, measured, book, flags
        self._from, self._spec = specs
        self._others, self._modelled = replicas, modelled

    def factors(self) -> None:
        """Factors of tokens."""
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
                    f"{run.path}: output_tok_s_per_gpu is {measured.value:g}, which its interval"
                    f" does not hold ({measured.ci_low:g} to {measured.ci_high:g})",
                    cause="summary.json was edited or damaged",
                    next_step=f"harness reduce {run.path} writes it again",
                )
            spread = (measured.ci_high - measured.ci_low) / 2 / Z95
        else:
            source += (
                "; the run has no interval of its own, so its uncertainty is not in the ranges"
            )
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
        if share is not None:
            said = (
                "tokens of the run's good requests over those of all of its requests, SLOs "
                + ", ".join(f"{key} <= {value:g}" for key, value in slos.items())
            )
            self._book.add(
                "slo_share",
                "Tokens of requests that met every SLO",
                "1",
                share,
                self._book.streams.fixed(share),
                Basis.MEASURED,
                said,
            )
        else:
            self._flags.append(
                "The run has no SLO: its throughput is an upper bound for a site that must keep"
                " one."
            )

    def _replicas(self) -> None:
        run = self._run
        if run.replicas is not None and run.replicas >= 2:
            source = (
                f"measured over {run.replicas} replicas, so what many replicas cost is in the"
                " measured figure"
            )
            title = self._book.priors["multi_replica_efficiency"].title
            self._book.add(
                "multi_replica_efficiency",
                title,
                "1",
                1.0,
                self._book.streams.fixed(1.0),
                Basis.MEASURED,
                source,
            )
            return
        linked, why = efficiency_of(run, [load_result(path) for path in self._others])
        if linked is not None:
            self._book.linked("multi_replica_efficiency", linked)
            return
        if self._others:
            self._flags.append(f"No measured efficiency of replicas: {why}.")
        self._book.prior("multi_replica_efficiency")
        self._flags.append(
            "The run has fewer than two replicas: what many of them cost each other is a guess, not"
            " a measurement."
        )

    def _ratio(self) -> None:
        ratio = self._modelled or no_ratio(self._from.name, self._spec.name)
        spread = self._book.priors["modelled_spread"]
        prior = spread.model_copy(update={"key": "modelled_ratio", **ratio.range_of(spread)})
        title = f"Modelled: {self._spec.name} over {self._from.name}"
        self._book.add(
            "modelled_ratio",
            title,
            "1",
            prior.value,
            self._book.streams.prior(prior),
            Basis.MODELLED,
            ratio.source,
        )
        self._flags.append(
            f"Modelled, not measured: the run's GPU is {self._from.name}, the site's"
            f" {self._spec.name}; throughput is multiplied by {human_number(prior.value)}"
            f" ({ratio.source}), and boards are taken to draw the same share of their rated power."
        )
