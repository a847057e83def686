"""The waterfall: every step from the measured value to the site's, at its central value, with range
and source.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from harness.core.records import Basis
from harness.fleet.estimate.model import Case
from harness.fleet.estimate.results import Factor, Floats, Step


def _ends(draws: Floats) -> tuple[float, float]:
    low, high = np.quantile(draws, (0.05, 0.95))
    return float(low), float(high)


@dataclass(slots=True)
class Waterfall:
    """Collects the steps of one estimate, from its factors, stated inputs, and results at central
    values, with texts on the number of powered GPUs and the power-cap curve.
    """

    factors: Mapping[str, Factor]
    case: Case
    values: Mapping[str, float]
    powered_why: str
    curve_why: str
    _steps: list[Step] = field(default_factory=list)
    _part: str = "tokens"
    _result: float = 0.0

    def steps(self) -> tuple[Step, ...]:
        self._tokens()
        if "w_per_gpu" in self.values:
            self._part = "power"
            self._power()
        return tuple(self._steps)

    def _add(
        self,
        label: str,
        operation: str,
        factor: float,
        unit: str,
        basis: Basis,
        source: str,
        ends: tuple[float, float] | None = None,
        result: float | None = None,
    ) -> None:
        if result is None:
            result = factor if operation == "=" else self._result * factor
        if operation == "+":
            result = self._result + factor
        self._result = result
        low, high = ends or (None, None)
        self._steps.append(
            Step(self._part, label, operation, factor, low, high, result, unit, basis, source)
        )

    def _factor(
        self,
        key: str,
        label: str,
        operation: str,
        unit: str,
        scale: float = 1.0,
        offset: float = 0.0,
    ) -> None:
        """A step by one factor, times `scale`, plus `offset`."""
        found = self.factors[key]
        ends = None
        if found.spread:
            low, high = found.ends()
            ends = offset + low * scale, offset + high * scale
        factor = offset + found.value * scale
        self._add(label, operation, factor, unit, found.basis, found.source, ends)

    def _curve(self, share: float, unit: str) -> None:
        assert self.case.point is not None
        label = f"GPUs at {self.case.point.limit_w:.0f} W"
        self._add(label, "x", share, unit, Basis.MEASURED, self.curve_why)

    def _powered(self, unit: str, scale: float = 1.0) -> None:
        powered, why = self.values["gpus_powered"], self.powered_why
        result = self._result * powered / scale
        self._add("GPUs that are powered", "x", powered, unit, Basis.MODELLED, why, result=result)

    def _tokens(self) -> None:
        factors, unit = self.factors, "tok/s/GPU"
        self._factor("tok_s_per_gpu", "measured in the run", "=", unit)
        if (point := self.case.point) is not None:
            self._curve(point.tokens, unit)
        labels = {
            "slo_share": "tokens of requests that met every SLO",
            "multi_replica_efficiency": "one replica among many",
            "modelled_ratio": "modeled: the site's type of GPU",
            "slo_headroom": "headroom kept at peak",
        }
        for key, label in labels.items():
            if key in factors:
                self._factor(key, label, "x", unit)
        self._powered("tok/s")
        up, spares = factors["availability"], factors["reserved_spares"]
        self._add(
            "serving, not spare or down",
            "x",
            self.values["serving_share"],
            "tok/s at peak",
            Basis.MODELLED,
            f"the smaller of: {up.text()}; 1 - {spares.text()}",
            _ends(np.minimum(up.draws, 1 - spares.draws)),
        )
        self._factor("load_factor", "mean over peak load", "x", "tok/s, mean of a day")

    def _modules(self, unit: str) -> None:
        """Modules, and the part of the host that is not in them."""
        host_w = self.case.host_w
        assert host_w is not None
        used, rest = self.factors["host_power_share"], self.factors["host_beside_module"]
        self._factor("module_w", "measured module power (GPU and processor)", "=", unit)
        low, high = _ends(used.draws * rest.draws)
        self._add(
            "host without the processors in the modules",
            "+",
            host_w * used.value * rest.value,
            unit,
            used.basis,
            used.source if not rest.spread else f"{used.source}; {rest.text()}",
            (host_w * low, host_w * high) if used.spread or rest.spread else None,
        )

    def _power(self) -> None:
        factors, case, unit = self.factors, self.case, "W/GPU"
        if "node_w" in factors:
            self._factor("node_w", "measured node power", "=", unit)
        elif "module_w" in factors:
            self._modules(unit)
        else:
            assert case.host_w is not None
            self._factor("board_w", "measured GPU board power", "=", unit)
            if case.point is not None:
                self._curve(case.point.watts, unit)
            self._factor("host_power_share", "host", "+", unit, case.host_w)
        self._factor("network_storage", "network and storage", "x", unit, offset=1.0)
        self._factor("pue", "cooling and distribution (PUE)", "x", "W/GPU at the meter")
        self._powered("MW at peak", scale=1e6)
        capped, mean = self.values["power_peak_mw"], self.values["power_mean_mw"]
        if capped < self._result * (1 - 1e-9):
            self._add(
                "power capping",
                "x",
                capped / self._result,
                "MW at peak, capped",
                Basis.MODELLED,
                "GPUs beyond the cap's provision are held at the cap",
                result=capped,
            )
        idle, load = factors["idle_power_share"], factors["load_factor"]
        self._add(
            "mean of a day, with power affine in load",
            "x",
            mean / capped,
            "MW, mean of a day",
            idle.basis,
            f"{idle.text()}; {load.text()}",
            _ends(idle.draws + (1 - idle.draws) * load.draws),
            mean,
        )
