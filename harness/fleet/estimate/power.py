"""Factors of power of one estimate: a measured node, or boards and their host, or superchip modules
and what they leave of the host.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
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
    """Power of one run at one site.

    Args:
        run: that was measured.
        site: that it is scaled to.
        specs: types of the run's and of the site's GPU.
        book: that takes the factors.
        loads: further runs at other loads.
        flags: that takes red flags.
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
        """Factors of power; the reason where there is none."""
        boards = len(self._run.gpus)
        node, board, module = (
            evidence.node_power_w(self._run),
            evidence.board_power_w(self._run),
            evidence.module_power_w(self._run),
        )
        scaled = self._spec is not self._from
        counted: dict[str, Sequence[str]]
        if node is not None and boards and not scaled:
            meter = self._book.priors["node_meter"]
            value = node / boards
            error = evidence.power_error(self._run, Boundary.NODE)
            drawn = self._book.streams.normal(
                "node", value, value * (meter.value if error is None else error) / Z95
            )
            self._book.add(
                "node_w",
                "Measured node power per GPU",
                "W/GPU",
                value,
                drawn,
                Basis.MEASURED,
                f"{self._run.run_id}; {meter.text()}",
            )
            counted = {"measured power of the node": ("gpu", "cpu", "host")}
        elif not boards or (board is None and module is None):
            return "the run measured no power of its boards"
        elif scaled and board is None:
            return (
                "the run measured modules (GPUs with their processors), which are not scaled to"
                " another type of GPU"
            )
        elif self.host() is None:
            return f"no sourced host power for {self._spec.name}"
        elif module is not None and not scaled:
            counted = self._module_power(module)
        else:
            assert board is not None
            if (found := self._board_power(board, scaled=scaled)) is None:
                return f"no sourced board power for {self._from.name} or {self._spec.name}"
            counted = found
        overhead = self._book.priors["network_storage"]
        site_pue = self._site.pue
        pue_includes = (
            site_pue.includes or ("pue",)
            if site_pue is not None
            else self._book.priors["pue"].includes
        )
        check_overlap(
            {
                **counted,
                "network_storage": overhead.includes,
                "spares (all GPUs are powered)": ("spares",),
                "pue": pue_includes,
            }
        )
        self._book.prior("network_storage")
        self._book.stated("pue", site_pue)
        linked, why = idle_share_of(self._run, [load_result(path) for path in self._loads])
        ready = evidence.unloaded_share(self._run) if linked is None else None
        if linked is not None:
            self._book.linked("idle_power_share", linked)
        elif ready is not None:
            self._book.linked("idle_power_share", Linked(ready[0], 0.05 * ready[0], ready[1]))
        else:
            self._book.prior("idle_power_share")
            if self._loads:
                self._flags.append(f"Power without load is not measured: {why}.")
        self._book.stated("co2_kg_per_kwh", self._site.co2_kg_per_kwh)
        return None

    def host(self) -> Sourced | None:
        """Power of the host, a GPU: what the run's profile states, else rated; None where nobody
        tells it.
        """
        stated = evidence.stated_host_w(self._run) if self._spec is self._from else None
        if stated is None:
            return self._spec.host_rated_w
        beside_modules = evidence.module_power_w(self._run) is not None
        return Sourced.model_construct(  # from a run, which has no date of publication
            value=stated[0],
            source=stated[1],
            date="in the run",
            includes=("host",) if beside_modules else ("cpu", "host"),
        )

    def _host_share(self) -> None:
        """What share of that power the host draws: all of a stated one, the prior's of a rated
        one.
        """
        host, prior = self.host(), self._book.priors["host_power_share"]
        rated = self._spec.host_rated_w
        assert host is not None
        if rated is not None and host is rated:
            self._book.prior("host_power_share")
            source = (
                f"{host.value:g} W rated ({host.cite()}) x"
                f" {self._book.factors['host_power_share'].source}"
            )
            self._book.factors["host_power_share"] = replace(
                self._book.factors["host_power_share"], source=source
            )
        else:
            self._book.add(
                "host_power_share",
                prior.title,
                "1",
                1.0,
                self._book.streams.fixed(1.0),
                Basis.MODELLED,
                f"{host.value:g} W, {host.source}",
            )

    def _board_power(self, board: float, *, scaled: bool) -> dict[str, Sequence[str]] | None:
        """Boards, and the whole host beside them: what each covers; None where a rated power is
        missing.
        """
        boards, sensor, host = len(self._run.gpus), self._book.priors["board_sensor"], self.host()
        assert host is not None
        value, source, basis = (
            board / boards,
            f"{self._run.run_id}; {sensor.text()}",
            Basis.MEASURED,
        )
        error = evidence.power_error(self._run, Boundary.GPU_BOARD)
        if error is not None:
            source = (
                f"{self._run.run_id}; systematic error of {100 * error:.1f} %, as the run tells it"
            )
        if scaled:
            rated = (self._from.board_power_w, self._spec.board_power_w)
            if rated[0] is None or rated[1] is None:
                return None
            value, basis = value * rated[1].value / rated[0].value, Basis.MODELLED
            source += f"; times {rated[1].value:g} W / {rated[0].value:g} W of rated power"
        deviation = (sensor.value / math.sqrt(boards) if error is None else error) / Z95
        self._book.add(
            "board_w",
            "Measured board power",
            "W/GPU",
            value,
            self._book.streams.normal("sensor", value, value * deviation),
            basis,
            source,
        )
        self._host_share()
        return {"measured power of the boards": ("gpu",), "host_rated_w": host.includes}

    def _module_power(self, module: float) -> dict[str, Sequence[str]]:
        """Superchip modules, which hold the processors, and the rest of the host beside them: what
        each covers.
        """
        boards, sensor, host = len(self._run.gpus), self._book.priors["board_sensor"], self.host()
        assert host is not None
        value, error = module / boards, evidence.power_error(self._run, Boundary.MODULE)
        deviation = (sensor.value / math.sqrt(boards) if error is None else error) / Z95
        told = (
            sensor.text()
            if error is None
            else f"systematic error of {100 * error:.1f} %, as the run tells it"
        )
        source = f"{self._run.run_id}; a module is a GPU with its processor; {told}"
        drawn = self._book.streams.normal("sensor", value, value * deviation)
        self._book.add(
            "module_w", "Measured module power", "W/GPU", value, drawn, Basis.MEASURED, source
        )
        self._host_share()
        if host is self._spec.host_rated_w:
            beside = self._book.prior("host_beside_module")
            includes = self._book.priors["host_beside_module"].includes
        else:  # what the profile states is beside what was measured
            title = self._book.priors["host_beside_module"].title
            beside = self._book.add(
                "host_beside_module",
                title,
                "1",
                1.0,
                self._book.streams.fixed(1.0),
                Basis.MODELLED,
                host.source,
            )
            includes = host.includes
        return {"measured power of the modules": ("gpu", "cpu"), beside.key: includes}
