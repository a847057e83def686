"""The waterfall: every factor between the measured number and the site's, printed at its central
value with its range and source.
"""

from collections.abc import Mapping

import numpy as np

from harness.core.records import Basis
from harness.fleet.estimate.model import Case
from harness.fleet.estimate.results import Factor, Step


class Waterfall:
    """Collects the steps of one estimate.

    Args:
        factors: of the model.
        case: what is stated.
        values: answers of the model at central values.
        powered_why: how many GPUs are powered, in words.
        curve_why: of the power-cap curve; empty without one.
    """

    def __init__(
        self,
        factors: Mapping[str, Factor],
        case: Case,
        values: Mapping[str, float],
        powered_why: str,
        curve_why: str,
    ) -> None:
        self._factors, self._case, self._values = factors, case, values
        self._powered_why, self._curve_why = powered_why, curve_why
        self._steps: list[Step] = []

    def steps(self) -> tuple[Step, ...]:
        """Tokens first, then power where it is known."""
        self._tokens()
        if "w_per_gpu" in self._values:
            self._power()
        return tuple(self._steps)

    def _step(
        self,
        part: str,
        key: str,
        label: str,
        operation: str,
        factor: float,
        result: float,
        unit: str,
        scale: float = 1.0,
    ) -> float:
        found = self._factors[key]
        low, high = (end * scale for end in found.ends()) if found.spread else (None, None)
        self._steps.append(
            Step(part, label, operation, factor, result, unit, found.basis, found.source, low, high)
        )
        return result

    def _curve(self, part: str, share: float, result: float, unit: str) -> float:
        assert self._case.point is not None
        label = f"boards at {self._case.point.limit_w:.0f} W"
        self._steps.append(
            Step(part, label, "x", share, result, unit, Basis.MEASURED, self._curve_why)
        )
        return result

    def _powered(self, part: str, result: float, unit: str) -> float:
        powered = self._values["gpus_powered"]
        self._steps.append(
            Step(
                part,
                "GPUs that are powered",
                "x",
                powered,
                result,
                unit,
                Basis.MODELLED,
                self._powered_why,
            )
        )
        return result

    def _tokens(self) -> None:
        factors, unit = self._factors, "tok/s/GPU"
        measured = factors["tok_s_per_gpu"].value
        value = self._step(
            "tokens", "tok_s_per_gpu", "measured in the run", "=", measured, measured, unit
        )
        if (point := self._case.point) is not None:
            value = self._curve("tokens", point.tokens, value * point.tokens, unit)
        labels = {
            "slo_share": "tokens of requests that met every SLO",
            "multi_replica_efficiency": "one replica among many",
            "modelled_ratio": "modelled: the site's type of GPU",
            "slo_headroom": "headroom kept at peak",
        }
        for key, label in labels.items():
            if key in factors:
                value = self._step(
                    "tokens", key, label, "x", factors[key].value, value * factors[key].value, unit
                )
        value = self._powered("tokens", value * self._values["gpus_powered"], "tok/s")
        share, up, spares = (
            self._values["serving_share"],
            factors["availability"],
            factors["reserved_spares"],
        )
        ends = np.quantile(np.minimum(up.draws, 1 - spares.draws), (0.05, 0.95))
        source = f"the smaller of: {up.text()}; 1 - {spares.text()}"
        value *= share
        label = "serving, not spare or down"
        self._steps.append(
            Step(
                "tokens",
                label,
                "x",
                share,
                value,
                "tok/s at peak",
                Basis.MODELLED,
                source,
                *map(float, ends),
            )
        )
        load = factors["load_factor"].value
        self._step(
            "tokens",
            "load_factor",
            "mean over peak load",
            "x",
            load,
            value * load,
            "tok/s, mean of a day",
        )

    def _modules(self, unit: str) -> float:
        """Modules, and the part of the host that they do not hold."""
        factors, host_w = self._factors, self._case.host_w
        assert host_w is not None
        module, used, beside = (
            factors["module_w"].value,
            factors["host_power_share"],
            factors["host_beside_module"],
        )
        value = self._step(
            "power",
            "module_w",
            "measured module power (GPU and processor)",
            "=",
            module,
            module,
            unit,
        )
        added = host_w * used.value * beside.value
        ends = (host_w * float(end) for end in np.quantile(used.draws * beside.draws, (0.05, 0.95)))
        spread = ends if used.spread or beside.spread else (None, None)
        source = used.source if not beside.spread else f"{used.source}; {beside.text()}"
        label = "host without the processors in the modules"
        self._steps.append(
            Step("power", label, "+", added, value + added, unit, used.basis, source, *spread)
        )
        return value + added

    def _power(self) -> None:
        factors, case, unit = self._factors, self._case, "W/GPU"
        if "node_w" in factors:
            node = factors["node_w"].value
            value = self._step("power", "node_w", "measured node power", "=", node, node, unit)
        elif "module_w" in factors:
            value = self._modules(unit)
        else:
            assert case.host_w is not None
            board = factors["board_w"].value
            value = self._step("power", "board_w", "measured board power", "=", board, board, unit)
            if case.point is not None:
                value = self._curve("power", case.point.watts, value * case.point.watts, unit)
            host = factors["host_power_share"].value * case.host_w
            value = self._step(
                "power", "host_power_share", "host", "+", host, value + host, unit, case.host_w
            )
        over = factors["network_storage"]
        ends = (1 + end for end in over.ends()) if over.spread else (None, None)
        value *= 1 + over.value
        self._steps.append(
            Step(
                "power",
                "network and storage",
                "x",
                1 + over.value,
                value,
                unit,
                over.basis,
                over.source,
                *ends,
            )
        )
        pue = factors["pue"].value
        value = self._step(
            "power",
            "pue",
            "cooling and distribution (PUE)",
            "x",
            pue,
            value * pue,
            "W/GPU at the meter",
        )
        at_peak = value * self._values["gpus_powered"] / 1e6
        self._powered("power", at_peak, "MW at peak")
        if (held := self._values["power_peak_mw"]) < at_peak * (1 - 1e-9):
            source = "GPUs beyond the cap's provision are held at the cap"
            self._steps.append(
                Step(
                    "power",
                    "power capping",
                    "x",
                    held / at_peak,
                    held,
                    "MW at peak, capped",
                    Basis.MODELLED,
                    source,
                )
            )
        idle, load = factors["idle_power_share"], factors["load_factor"]
        ends_of_day = np.quantile(idle.draws + (1 - idle.draws) * load.draws, (0.05, 0.95))
        mean = self._values["power_mean_mw"]
        said = f"{idle.text()}; {load.text()}"
        label = "mean of a day, with power affine in load"
        self._steps.append(
            Step(
                "power",
                label,
                "x",
                mean / held,
                mean,
                "MW, mean of a day",
                idle.basis,
                said,
                *map(float, ends_of_day),
            )
        )
