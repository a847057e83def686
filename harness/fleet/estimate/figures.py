"""The results of one estimate: each with its range and assumptions, or why it is absent."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from harness.artifacts.run_result import RunResult
from harness.core.records import Basis, Boundary
from harness.core.units import human_number
from harness.fleet.estimate import measured as evidence
from harness.fleet.estimate.model import Case
from harness.fleet.estimate.results import Factor, FleetFigure, Floats
from harness.fleet.site import arithmetic
from harness.fleet.site.types import Site


@dataclass(frozen=True, slots=True)
class _Answer:
    """Definition of a result.

    Attributes:
        title: `{session}` is replaced by the kind of session.
        why: names of groups of assumptions, see `Figures._why`.
        needs: inputs without which it is absent, see `Figures._missing`.
    """

    key: str
    title: str
    unit: str
    why: str
    needs: str = ""

    @property
    def boundary(self) -> str:
        return str(Boundary.FACILITY) if "power" in self.needs else "deployment"


_TOKENS: Final = "Output tokens per second"
_ENERGY: Final = "Energy per output token"
_SESSIONS: Final = "Concurrent sessions within the SLO ({session})"
_MTOK: Final = "million output tokens"
_ANSWERS: Final = (
    _Answer("output_tok_s_peak", f"{_TOKENS}, at peak", "tok/s", "peak"),
    _Answer("output_tok_s", f"{_TOKENS}, mean of a day", "tok/s", "mean"),
    _Answer("output_tok_per_day", "Output tokens per day", "tok", "mean"),
    _Answer("sessions", _SESSIONS, "session", "peak", "session"),
    _Answer("gpus_powered", "Powered GPUs", "GPU", "powered"),
    _Answer("power_peak_mw", "Power at peak", "MW", "power", "power"),
    _Answer("power_mean_mw", "Power, mean of a day", "MW", "day", "power"),
    _Answer(
        "output_tok_s_per_mw", f"{_TOKENS} per megawatt, at peak", "tok/s/MW", "peak power", "power"
    ),
    _Answer(
        "j_per_output_tok", f"{_ENERGY}, at peak (an allocation)", "J/tok", "peak power", "power"
    ),
    _Answer(
        "j_per_output_tok_mean",
        f"{_ENERGY}, mean of a day (an allocation)",
        "J/tok",
        "mean day",
        "power",
    ),
    _Answer(
        "usd_per_gpu_h",
        "Dollars per GPU-hour implied by the site's price",
        "USD/GPU-h",
        "price",
        "price",
    ),
    _Answer(
        "usd_per_mtok",
        f"Dollars per {_MTOK} at the site's price",
        "USD/Mtok",
        "mean price",
        "price",
    ),
)
_AFTER_PRICES: Final = (
    _Answer("gpus_needed", "GPUs for the demand", "GPU", "peak demand", "demand"),
    _Answer("mw_needed", "Power for the demand", "MW", "peak power demand", "demand power"),
    _Answer("demand_met_ratio", "Share of the demand met at peak", "1", "peak demand", "demand"),
    _Answer("co2_t_per_day", "CO2 of a day (location-based)", "t", "day co2", "power"),
    _Answer(
        "co2_kg_per_mtok", f"CO2 per {_MTOK} (location-based)", "kg/Mtok", "mean day co2", "power"
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The results of one estimate.

    Attributes:
        absent_power: why there is no power; None if there is.
        binding: the site's limit at central values.
        curve_why: text on the power-cap curve; None without one.
    """

    run: RunResult
    site: Site
    case: Case
    factors: Mapping[str, Factor]
    absent_power: str | None
    binding: str
    curve_why: str | None

    def of(
        self, values: Mapping[str, float], drawn: Mapping[str, Floats]
    ) -> tuple[FleetFigure, ...]:
        """All results, from the model's outputs at central values and for each draw."""
        session = evidence.tok_s_per_session(self.run)[1]
        why, missing = self._why(), self._missing(session)
        tiers = [key for key in self.factors if key.startswith("usd_per_gpu_h@")]
        why |= {key: (self.factors[key].text(),) for key in tiers}
        prices = [
            _Answer(
                key.replace("usd_per_gpu_h", "usd_per_mtok"),
                f"Dollars per {_MTOK}, {key.partition('@')[2].replace('_', ' ')}",
                "USD/Mtok",
                f"mean {key}",
            )
            for key in tiers
        ]
        kind = session if missing["session"] is None else "this workload"
        figures = []
        for one in (*_ANSWERS, *prices, *_AFTER_PRICES):
            plain = FleetFigure(
                one.key,
                one.title.format(session=kind),
                one.unit,
                None,
                basis=Basis.ABSENT,
                boundary=one.boundary,
            )
            reasons = (missing[need] for need in one.needs.split())
            reason = next((text for text in reasons if text is not None), None)
            if reason is not None:
                figures.append(replace(plain, note=reason))
                continue
            texts = tuple(dict.fromkeys(text for group in one.why.split() for text in why[group]))
            known = replace(plain, basis=Basis.MODELLED, assumptions=texts)
            figures.append(
                self._implied(known)
                if one.key == "usd_per_gpu_h"
                else self._drawn(known, values, drawn)
            )
        return tuple(figures)

    def _drawn(
        self, figure: FleetFigure, values: Mapping[str, float], drawn: Mapping[str, Floats]
    ) -> FleetFigure:
        key, note = figure.key, None
        p5, p50, p95 = (float(q) for q in np.quantile(drawn[key], (0.05, 0.5, 0.95)))
        if key == "gpus_powered":
            note = self._powered_note(drawn["gpus_powered"])
        if key == "demand_met_ratio" and values[key] < 1:
            note = "the rest is shed while the demand lasts"
        return replace(figure, value=values[key], p5=p5, p50=p50, p95=p95, note=note)

    def _implied(self, figure: FleetFigure) -> FleetFigure:
        assert self.case.usd_per_h is not None
        implied = self.case.usd_per_h / self.case.gpus
        return replace(figure, value=implied, note=self._implied_note())

    def _missing(self, session: str) -> dict[str, str | None]:
        case = self.case
        demand = "no demand was stated (--demand-tok-s, --demand-sessions)"
        return {
            "session": None if case.tok_s_per_session is not None else session,
            "power": self.absent_power,
            "demand": None if self._demand_why() else demand,
            "price": None if case.usd_per_h is not None else "the site's cost is not stated",
        }

    def _why(self) -> dict[str, tuple[str, ...]]:
        tokens = self._texts(
            "tok_s_per_gpu",
            "slo_share",
            "multi_replica_efficiency",
            "modelled_ratio",
            "slo_headroom",
        )
        power = self._texts(
            "board_w",
            "module_w",
            "node_w",
            "host_power_share",
            "host_beside_module",
            "network_storage",
            "pue",
        )
        powered = self.powered_why()
        peak = (*tokens, *powered, *self._texts("availability", "reserved_spares"))
        return {
            "peak": peak,
            "mean": (*peak, *self._texts("load_factor")),
            "powered": powered,
            "power": power,
            "day": (*power, *powered, *self._texts("idle_power_share", "load_factor")),
            "price": self._price_why(),
            "demand": self._demand_why(),
            "co2": self._texts("co2_kg_per_kwh"),
        }

    def _texts(self, *keys: str) -> tuple[str, ...]:
        return tuple(self.factors[key].text() for key in keys if key in self.factors)

    def powered_why(self) -> tuple[str, ...]:
        case = self.case
        count, cap = self.site.gpus, self.site.power_mw
        texts = [f"{count.value:,.0f} GPUs: {count.cite()}"]
        if cap is None:
            texts.append("the site's power is not stated and assumed to be enough")
        elif self.absent_power is None:
            how = self.curve_why or (
                "if it binds, fewer GPUs run, without a power-cap curve from runs at three limits"
            )
            texts.append(f"{cap.value:g} MW at the meter: {cap.cite()}; {how}")
            if case.oversubscribe:
                texts.append(
                    f"{100 * case.oversubscribe:.0f}% of GPUs beyond the cap's provision, by power"
                    " capping (POLCA, arXiv 2308.12908)"
                )
        return tuple(texts)

    def _powered_note(self, powered: Floats) -> str:
        if self.case.cap_mw is None:
            return "no power cap is stated"
        if self.binding == "unknown":
            return "upper bound: power was not measured"
        return (
            f"limited by {self.binding}; the power cap binds in"
            f" {100 * np.mean(powered < self.case.gpus):.0f}% of draws"
        )

    def _price_why(self) -> tuple[str, ...]:
        site = self.site
        if site.usd_per_month is not None:
            price = (
                f"${site.usd_per_month.value / 1e6:,.0f} M a month for {site.gpus.value:,.0f} GPUs:"
                f" {site.usd_per_month.cite()}"
            )
        elif site.usd_per_gpu_h is not None:
            price = f"${site.usd_per_gpu_h.value:g} a GPU-hour: {site.usd_per_gpu_h.cite()}"
        else:
            return ()
        return (price, "assumed: it includes power and operation, and is paid for idle GPUs too")

    def _implied_note(self) -> str | None:
        price = self.site.usd_per_month
        others = [item for item in self.site.also_said if item.what == "gpus"]
        if price is None or not others:
            return None
        return "also reported: " + "; ".join(
            f"${arithmetic.usd_per_gpu_h(price.value, item.value):.2f} at {item.value:,.0f} GPUs"
            for item in others
        )

    def _demand_why(self) -> tuple[str, ...]:
        case = self.case
        if case.demand_tok_s is not None:
            return (f"stated demand at peak: {human_number(case.demand_tok_s)} output tok/s",)
        if case.demand_sessions is not None:
            return (f"stated demand at peak: {human_number(case.demand_sessions)} live sessions",)
        return ()
