"""Power factors of one estimate: a measured node, GPU boards and their host, or superchip modules
and the rest of their host.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from harness.artifacts.run_result import RunResult, load_result
from harness.core.records import Basis, Boundary
from harness.fleet.estimate import measured as evidence
from harness.fleet.estimate.extra_runs import Linked, idle_share_of
from harness.fleet.estimate.factors import FactorBook
from harness.fleet.estimate.sampling import Z95
from harness.fleet.site.catalog import check_overlap
from harness.fleet.site.types import GpuSpec, Site, Sourced


class Power:
    """Power of one run at one site: GPU types of both (`specs`) and further runs at other loads;
    fills `book` and `flags`.
    """

    def __init__(
        self,
        run: RunResult,
        site: Site,
        specs: tuple[GpuSpec, GpuSpec],
        book: FactorBook,
        loads: Sequence[Path],
        flags: list[str],
    ) -> None:
        self._run, self._site, self._book, self._loads, self._flags = run, site, book, loads, flags
        self._from, self._spec = specs

    def factors(self) -> str | None:
        """Add the factors of power; the reason if there is none."""
        run, book = self._run, self._book
        node, board = evidence.node_power_w(run), evidence.board_power_w(run)
        module = evidence.module_power_w(run)
        scaled = self._spec is not self._from
        counted: dict[str, Sequence[str]]
        if node is not None and run.gpus and not scaled:
            meter = book.priors["node_meter"]
            error = evidence.power_error(run, Boundary.NODE)
            error = meter.value if error is None else error
            source = f"{run.run_id}; {meter.text()}"
            self._measured("node_w", "node", node, error, source, "Measured node power per GPU")
            counted = {"measured power of the node": ("gpu", "cpu", "host")}
        elif not run.gpus or (board is None and module is None):
            return "the run measured no power of its GPUs"
        elif scaled and board is None:
            return (
                "the run measured modules (GPUs with their processors), which are not scaled to"
                " another type of GPU"
            )
        elif (host := self.host()) is None:
            return f"no sourced host power for {self._spec.name}"
        elif module is not None and not scaled:
            counted = self._module_power(module, host)
        else:
            assert board is not None
            if (found := self._board_power(board, host, scaled=scaled)) is None:
                return f"no sourced GPU board power for {self._from.name} or {self._spec.name}"
            counted = found
        pue, prior_pue = self._site.pue, book.priors["pue"].includes
        check_overlap(
            {
                **counted,
                "network_storage": book.priors["network_storage"].includes,
                "spares (all GPUs are powered)": ("spares",),
                "pue": prior_pue if pue is None else pue.includes or ("pue",),
            }
        )
        book.prior("network_storage")
        book.stated("pue", pue)
        linked, why = idle_share_of(run, [load_result(path) for path in self._loads])
        ready = evidence.unloaded_share(run) if linked is None else None
        if ready is not None:
            linked = Linked(ready[0], 0.05 * ready[0], ready[1])
        if linked is not None:
            book.linked("idle_power_share", linked)
        else:
            book.prior("idle_power_share")
            if self._loads:
                self._flags.append(f"Power without load was not measured: {why}.")
        book.stated("co2_kg_per_kwh", self._site.co2_kg_per_kwh)
        return None

    def host(self) -> Sourced | None:
        """Host power per GPU: stated in the run's profile, else rated; None: unknown."""
        stated = evidence.stated_host_w(self._run) if self._spec is self._from else None
        if stated is None:
            return self._spec.host_rated_w
        has_modules = evidence.module_power_w(self._run) is not None
        return Sourced.model_construct(  # from a run, which has no date of publication
            value=stated[0],
            source=stated[1],
            date="in the run",
            includes=("host",) if has_modules else ("cpu", "host"),
        )

    def _measured(
        self,
        key: str,
        stream: str,
        watts: float,
        error: float,
        source: str,
        title: str,
        ratio: float | None = None,
    ) -> None:
        """A measured power, per GPU. `error`: half of its relative 95% interval."""
        value = watts / len(self._run.gpus) * (1.0 if ratio is None else ratio)
        drawn = self._book.streams.normal(stream, value, value * error / Z95)
        basis = Basis.MEASURED if ratio is None else Basis.MODELLED
        self._book.add(key, title, "W/GPU", value, drawn, basis, source)

    def _sensor(self, boundary: Boundary) -> tuple[float, str]:
        """Error of the GPUs' sensors and its source: the run's, else the prior for one of them."""
        error = evidence.power_error(self._run, boundary)
        if error is None:
            sensor = self._book.priors["board_sensor"]
            return sensor.value / math.sqrt(len(self._run.gpus)), sensor.text()
        return error, f"systematic error of {100 * error:.1f}%, as reported by the run"

    def _host_share(self, host: Sourced) -> None:
        """Share of the host power that is drawn: all if stated, the prior's if rated."""
        key = "host_power_share"
        if host is self._spec.host_rated_w:
            prior = self._book.priors[key]
            source = f"{host.value:g} W rated ({host.cite()}) x {prior.source} ({prior.date})"
            self._book.prior(key, source)
        else:
            self._book.fixed(key, 1.0, Basis.MODELLED, f"{host.value:g} W, {host.source}")

    def _board_power(
        self, board: float, host: Sourced, *, scaled: bool
    ) -> dict[str, Sequence[str]] | None:
        """GPU boards and the whole host: coverage of each; None without a rated power."""
        error, text = self._sensor(Boundary.GPU_BOARD)
        source, ratio = f"{self._run.run_id}; {text}", None
        if scaled:
            here, there = self._from.board_power_w, self._spec.board_power_w
            if here is None or there is None:
                return None
            ratio = there.value / here.value
            source += f"; times {there.value:g} W / {here.value:g} W of rated power"
        self._measured("board_w", "sensor", board, error, source, "Measured GPU board power", ratio)
        self._host_share(host)
        return {"measured power of the GPU boards": ("gpu",), "host_rated_w": host.includes}

    def _module_power(self, module: float, host: Sourced) -> dict[str, Sequence[str]]:
        """Superchip modules, which contain the processors, and the rest of the host: coverage of
        each.
        """
        error, text = self._sensor(Boundary.MODULE)
        source = f"{self._run.run_id}; a module is a GPU with its processor; {text}"
        self._measured("module_w", "sensor", module, error, source, "Measured module power")
        self._host_share(host)
        key, includes = "host_beside_module", host.includes
        if host is self._spec.host_rated_w:
            self._book.prior(key)
            includes = self._book.priors[key].includes
        else:  # the profile states it in addition to what was measured
            self._book.fixed(key, 1.0, Basis.MODELLED, host.source)
        return {"measured power of the modules": ("gpu", "cpu"), key: includes}
