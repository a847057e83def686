"""From one measured run to a site: a waterfall of factors at their central values, Monte Carlo over
the unknown, a ranking of factors.

What is scaled is the run's output tokens per second per GPU and its watts per board, at the load of
the run, taken as the site's peak. Nothing is scaled across GPU types, models, precisions or context
lengths without a model that is named. Every figure says whether it is measured or modelled; one
that cannot be had is absent with its reason, never 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np

from harness.artifacts.run_result import RunResult, load_result
from harness.artifacts.run_summary import Figure
from harness.core.clock import wall_now
from harness.core.errors import ArtifactError, ProfileError
from harness.core.records import Basis, Boundary
from harness.core.units import human_number
from harness.fleet.estimate import measured as evidence
from harness.fleet.estimate.extra_runs import check_same_work, curve_of, efficiency_of
from harness.fleet.estimate.factors import FactorBook
from harness.fleet.estimate.flags import red_flags
from harness.fleet.estimate.gpu_ratio import Ratio, no_ratio
from harness.fleet.estimate.model import Case, best_point, central, evaluate, swings
from harness.fleet.estimate.power import Power
from harness.fleet.estimate.results import Factor, FleetEstimate, FleetFigure, Step, Swing
from harness.fleet.estimate.sampling import BLOCK, Z95, Streams, draw
from harness.fleet.estimate.waterfall import Waterfall
from harness.fleet.site import arithmetic
from harness.fleet.site.catalog import contradictions, gpus, load_site, overridden
from harness.fleet.site.types import GpuSpec, Site

__all__ = [
    "DRAWS",
    "Factor",
    "FleetEstimate",
    "FleetFigure",
    "Options",
    "Step",
    "Swing",
    "draw",
    "estimate",
]

DRAWS: Final = BLOCK
"""Default number of Monte Carlo draws: the Monte Carlo error of a P5 or P95 is then well below the
width of any prior.
"""

FEW: Final = 1000
"""Fewer draws than these leave P5 and P95 to chance (50 beyond each)."""

OVERSUBSCRIBED: Final = 0.30
"""Servers beyond the power cap's provision that POLCA (arXiv 2308.12908) found room for."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller states beside run and site.

    Attributes:
        draws: Monte Carlo draws.
        seed: of the draws; the same seed gives the same answer.
        assume: `KEY=VALUE` or `KEY=LOW:HIGH` in place of a prior.
        work: what the site is to serve; other than measured is refused.
        demand_tok_s: output tokens per second at peak that are asked for.
        demand_sessions: live sessions at peak that are asked for.
        oversubscribe: share of GPUs powered beyond the cap's provision.
        limits: further runs of the same work at other enforced power limits.
        loads: further runs of the same work at other loads.
        replicas: further runs of the same work at two or more replicas.
        modelled: ratio from the run's type of GPU to the site's.
        demonstrate: take a run whose boards are a test double; every page says so.
    """

    draws: int = DRAWS
    seed: int = 0
    assume: Sequence[str] = ()
    work: dict[str, str] = field(default_factory=dict)
    demand_tok_s: float | None = None
    demand_sessions: float | None = None
    oversubscribe: float = 0.0
    limits: Sequence[Path] = ()
    loads: Sequence[Path] = ()
    replicas: Sequence[Path] = ()
    modelled: Ratio | None = None
    demonstrate: bool = False

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ProfileError(f"{self.draws} draws: one is the least")
        for name, value in (
            ("demand", self.demand_tok_s),
            ("demand in sessions", self.demand_sessions),
        ):
            if value is not None and not (0 < value < math.inf):
                raise ProfileError(f"a {name} of {value:g}: it must be above 0 and finite")
        if not 0 <= self.oversubscribe <= 1:
            raise ProfileError(
                f"oversubscription of {self.oversubscribe:g}: it is a share from 0 to 1 of GPUs"
                " beyond the cap's provision"
            )


def estimate(
    run: Path,
    site: Site | str | Path,
    *,
    options: Options | None = None,
    draws: int | None = None,
    seed: int | None = None,
) -> FleetEstimate:
    """Scale a measured run to a site.

    Args:
        run: a run directory with a summary.
        site: a site, the name of a shipped one, or the path of a site file.
        options: what else is stated.
        draws: in place of the options'.
        seed: in place of the options'.

    Raises:
        ArtifactError: no reduced run, or a damaged one.
        ProfileError: no such site, a site whose term has ended, or constants that overlap.
        InvalidRunError: the run is invalid, proves function only, ran without GPUs or met its SLOs
            in no request: nothing may be scaled.
        NotComparableError: the site's GPUs are of another type than the run's, or what is asked for
            is other work than was measured.
    """
    options = options or Options()
    options = replace(
        options,
        draws=options.draws if draws is None else draws,
        seed=options.seed if seed is None else seed,
    )
    result = load_result(run)
    place = site if isinstance(site, Site) else load_site(site)
    measured = evidence.measured_tokens(result, demonstrate=options.demonstrate)
    evidence.check_good(result)
    spec = evidence.type_of(result)
    if options.modelled is None:
        evidence.check_type(result, spec, place)
    evidence.check_work(result, options.work)
    for path in (*options.limits, *options.loads, *options.replicas):
        check_same_work(result, load_result(path), "further evidence")
    check_term(place)
    return _Estimator(result, place, spec, measured, options).estimate()


def check_term(site: Site) -> None:
    """Refuse a site whose term is over.

    Raises:
        ProfileError: it is.
    """
    today = wall_now().date().isoformat()
    if site.until is not None and site.until < today[: len(site.until)]:
        raise ProfileError(
            f"the term of {site.name} ended {site.until}: it delivers nothing today",
            next_step="state a term that is not over, or none",
        )


class _Estimator:
    def __init__(
        self, run: RunResult, site: Site, spec: GpuSpec, measured: Figure, options: Options
    ) -> None:
        self._run, self._site, self._measured, self._options = run, site, measured, options
        self._from = spec
        self._spec = spec
        if options.modelled is not None and site.types and spec.name not in site.types:
            self._spec = gpus()[site.types[0]]
        self._book = FactorBook(overridden(options.assume), Streams(options.seed, options.draws))
        self._flags: list[str] = []
        self._why: dict[str, tuple[str, ...]] = {}
        self._power = Power(
            run, site, (self._from, self._spec), self._book, options.loads, self._flags
        )

    def estimate(self) -> FleetEstimate:
        self._flags.extend(red_flags(self._run, self._from, self._site))
        if self._options.draws < FEW:
            self._flags.append(
                f"Only {self._options.draws} draws: the ends of the ranges are chance; {FEW:,} are"
                " few enough to be quick."
            )
        self._tokens()
        absent_power = self._power.factors()
        for key in ("availability", "reserved_spares", "load_factor"):
            self._book.prior(key)
        case = self._case()
        case = self._on_curve(case, absent_power)
        self._prices()
        values = central(self._book.factors, case)
        if values["gpus_powered"] < 1:
            raise ProfileError(
                f"{case.cap_mw:g} MW power no GPU: one takes {values['w_per_gpu']:,.0f} W at the"
                " meter under the run's load",
                next_step="mend power_mw of the site (its unit is megawatts)",
            )
        drawn = evaluate({key: factor.draws for key, factor in self._book.factors.items()}, case)
        binding = self._binding(case, values, absent_power)
        figures = self._figures(case, values, drawn, absent_power, binding)
        powered_why = "; ".join(self._powered_why(case, absent_power))
        waterfall = Waterfall(
            self._book.factors, case, values, powered_why, "; ".join(self._why.get("curve", ()))
        )
        ranked = swings(
            self._book.factors,
            case,
            (
                "output_tok_s",
                "output_tok_s_peak",
                "power_mean_mw",
                "usd_per_mtok",
                "j_per_output_tok_mean",
            ),
        )
        work = replace(evidence.work_of(self._run), kv=evidence.kv_text(self._run, self._from))
        return FleetEstimate(
            run_id=self._run.run_id,
            run=str(self._run.path),
            run_name=self._run.name,
            status=self._run.status,
            site=self._site,
            gpu=self._spec.name,
            work=work,
            figures=tuple(figures),
            waterfall=waterfall.steps(),
            binding=binding,
            flags=tuple(dict.fromkeys(self._flags)),
            contradictions=contradictions(self._site),
            draws=self._options.draws,
            seed=self._options.seed,
            factors=self._book.factors,
            tornado=ranked,
            central=values,
            stated={
                "gpus": case.gpus,
                "cap_mw": case.cap_mw,
                "usd_per_h": case.usd_per_h,
                "tok_s_per_session": case.tok_s_per_session,
                "demand_tok_s": case.peak_demand_tok_s,
            },
            peak_draws=drawn["output_tok_s_peak"],
            demonstration=evidence.is_demonstration(self._run),
            measured_gpu=self._from.name,
        )

    # factors

    def _tokens(self) -> None:
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
        share, slos = evidence.good_share(run), run.slos
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
        self._replicas()
        if self._spec is not self._from:
            self._ratio()
        self._book.prior("slo_headroom")

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
        linked, why = efficiency_of(run, [load_result(path) for path in self._options.replicas])
        if linked is not None:
            self._book.linked("multi_replica_efficiency", linked)
            return
        if self._options.replicas:
            self._flags.append(f"No measured efficiency of replicas: {why}.")
        self._book.prior("multi_replica_efficiency")
        self._flags.append(
            "The run has fewer than two replicas: what many of them cost each other is a guess, not"
            " a measurement."
        )

    def _ratio(self) -> None:
        ratio = self._options.modelled or no_ratio(self._from.name, self._spec.name)
        prior = replace(
            self._book.priors["modelled_spread"],
            key="modelled_ratio",
            **ratio.range_of(self._book.priors["modelled_spread"]),
        )
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

    def _case(self) -> Case:
        site = self._site
        count = site.gpus.value
        if site.mix:
            share = site.mix.get(self._spec.name)
            if share is not None:
                count = math.floor(count * share.value)
                if count < 1:
                    raise ProfileError(
                        f"{share.value:.3g} of the {site.gpus.value:,.0f} GPUs of {site.name} are"
                        f" not one {self._spec.name}",
                        next_step="measure a type that the site has more of, or mend its mix",
                    )
                self._flags.append(
                    f"Only the {count:,.0f} GPUs of type {self._spec.name} are scaled "
                    f"({100 * share.value:.0f} % of {site.gpus.value:,.0f}, "
                    f"{share.cite()}); power cap and price are taken in the same proportion."
                )
        part = count / site.gpus.value
        monthly = site.monthly_usd()
        per_session, why = evidence.tok_s_per_session(self._run)
        if self._options.demand_sessions is not None and per_session is None:
            raise ProfileError(
                f"a demand in sessions cannot be held against this run: {why}",
                next_step="state the demand in tokens",
            )
        if self._options.oversubscribe > OVERSUBSCRIBED:
            self._flags.append(
                f"{100 * self._options.oversubscribe:.0f} % of GPUs beyond the cap's provision;"
                f" POLCA (arXiv 2308.12908) found room for {100 * OVERSUBSCRIBED:.0f} %."
            )
        return Case(
            gpus=count,
            cap_mw=site.power_mw.value * part if site.power_mw is not None else None,
            usd_per_h=None if monthly is None else monthly * part / arithmetic.HOURS_PER_MONTH,
            host_w=host.value if (host := self._power.host()) is not None else None,
            tok_s_per_session=per_session,
            demand_tok_s=self._options.demand_tok_s,
            demand_sessions=self._options.demand_sessions,
            oversubscribe=self._options.oversubscribe,
        )

    def _on_curve(self, case: Case, absent_power: str | None) -> Case:
        """At a power cap that binds, the best point of a measured curve; without a curve the run's
        own, and fewer GPUs.
        """
        if case.cap_mw is None or absent_power is not None:
            return case
        if central(self._book.factors, case)["gpus_powered"] >= case.gpus:
            if self._options.limits:
                self._flags.append(
                    "The power cap does not bind, so runs at other power limits change nothing."
                )
            return case
        curve, why = curve_of(self._run, [load_result(path) for path in self._options.limits])
        if curve is None or "board_w" not in self._book.factors:
            if self._options.limits:
                self._flags.append(
                    "No power-cap curve:"
                    f" {why if curve is None else 'it is of boards, and the node or the modules were measured'}."  # noqa: E501
                )
            return case
        point = best_point(self._book.factors, case, curve)
        self._why["curve"] = (f"power-cap curve {why}; boards run at {point.limit_w:.0f} W",)
        return replace(case, point=point)

    def _prices(self) -> None:
        for tier, price in self._spec.usd_per_gpu_h.items():
            prior = replace(self._book.priors["price_spread"], key=f"price@{tier}")
            drawn = self._book.streams.prior(prior) * price.value
            title = f"Price of a GPU-hour, {tier.replace('_', ' ')}"
            source = f"{price.cite()}; spread: assumption of this harness ({prior.date})"
            self._book.add(
                f"usd_per_gpu_h@{tier}",
                title,
                "USD/GPU-h",
                price.value,
                drawn,
                Basis.MODELLED,
                source,
            )

    # answers

    def _binding(self, case: Case, values: dict[str, float], absent_power: str | None) -> str:
        if case.cap_mw is None:
            return "count"
        if absent_power is not None:
            self._flags.append(
                f"Whether {case.cap_mw:g} MW are enough is not known without measured power:"
                " figures of tokens are upper bounds."
            )
            return "unknown"
        uncapped = values["w_per_gpu"] * case.gpus / 1e6
        if uncapped > case.cap_mw * (1 + 1e-9):
            self._flags.append(
                f"All {case.gpus:,.0f} GPUs at the run's load would draw {human_number(uncapped)}"
                f" MW at the meter, above the site's {case.cap_mw:g} MW:"
                f" {values['gpus_powered']:,.0f} run"
                + (
                    ", held at the cap at peak; what that slows is not modelled."
                    if case.oversubscribe
                    else "."
                )
            )
        return "power" if values["gpus_powered"] < case.gpus else "count"

    def _figures(
        self,
        case: Case,
        values: dict[str, float],
        drawn: dict[str, np.ndarray],
        absent_power: str | None,
        binding: str,
    ) -> list[FleetFigure]:
        tokens_why = self._texts(
            "tok_s_per_gpu",
            "slo_share",
            "multi_replica_efficiency",
            "modelled_ratio",
            "slo_headroom",
        )
        powered_why = self._powered_why(case, absent_power)
        power_why = self._texts(
            "board_w",
            "module_w",
            "node_w",
            "host_power_share",
            "host_beside_module",
            "network_storage",
            "pue",
        )
        serving_why = self._texts("availability", "reserved_spares")
        peak_why = (*tokens_why, *powered_why, *serving_why)
        mean_why = (*peak_why, *self._texts("load_factor"))
        day_why = (*power_why, *powered_why, *self._texts("idle_power_share", "load_factor"))
        stated = self._price_why()
        demand = self._demand_why()
        session_key = evidence.tok_s_per_session(self._run)[1]
        no_session = None if case.tok_s_per_session is not None else session_key
        facility, no_power = str(Boundary.FACILITY), absent_power
        no_demand = None if demand else "no demand was stated (--demand-tok-s, --demand-sessions)"
        no_price = None if case.usd_per_h is not None else "nobody states what the site costs"
        implied = None if case.usd_per_h is None else case.usd_per_h / case.gpus
        rows: list[tuple[str, str, str, tuple[str, ...], str, str | None]] = [
            (
                "output_tok_s_peak",
                "Output tokens per second, at peak",
                "tok/s",
                peak_why,
                "deployment",
                None,
            ),
            (
                "output_tok_s",
                "Output tokens per second, mean of a day",
                "tok/s",
                mean_why,
                "deployment",
                None,
            ),
            ("output_tok_per_day", "Output tokens per day", "tok", mean_why, "deployment", None),
            (
                "sessions",
                (
                    "Concurrent sessions within the SLO"
                    f" ({session_key if no_session is None else 'this workload'})"
                ),
                "session",
                peak_why,
                "deployment",
                no_session,
            ),
            ("gpus_powered", "GPUs that are powered", "GPU", powered_why, "deployment", None),
            ("power_peak_mw", "Power at peak", "MW", power_why, facility, no_power),
            ("power_mean_mw", "Power, mean of a day", "MW", day_why, facility, no_power),
            (
                "output_tok_s_per_mw",
                "Output tokens per second per megawatt, at peak",
                "tok/s/MW",
                (*peak_why, *power_why),
                facility,
                no_power,
            ),
            (
                "j_per_output_tok",
                "Joules per output token, at peak (an allocation)",
                "J/tok",
                (*peak_why, *power_why),
                facility,
                no_power,
            ),
            (
                "j_per_output_tok_mean",
                "Joules per output token, mean of a day (an allocation)",
                "J/tok",
                (*mean_why, *day_why),
                facility,
                no_power,
            ),
            (
                "usd_per_gpu_h",
                "Dollars per GPU-hour that the site's price implies",
                "USD/GPU-h",
                stated,
                "deployment",
                no_price,
            ),
            (
                "usd_per_mtok",
                "Dollars per million output tokens at the site's price",
                "USD/Mtok",
                (*mean_why, *stated),
                "deployment",
                no_price,
            ),
            *[
                (
                    key.replace("usd_per_gpu_h", "usd_per_mtok"),
                    f"Dollars per million output tokens, {key.partition('@')[2].replace('_', ' ')}",
                    "USD/Mtok",
                    (*mean_why, self._book.factors[key].text()),
                    "deployment",
                    None,
                )
                for key in self._book.factors
                if key.startswith("usd_per_gpu_h@")
            ],
            (
                "gpus_needed",
                "GPUs that the demand needs",
                "GPU",
                (*peak_why, *demand),
                "deployment",
                no_demand,
            ),
            (
                "mw_needed",
                "Power that the demand needs",
                "MW",
                (*peak_why, *power_why, *demand),
                facility,
                no_demand or no_power,
            ),
            (
                "demand_met_ratio",
                "Share of the demand that is met at peak",
                "1",
                (*peak_why, *demand),
                "deployment",
                no_demand,
            ),
            (
                "co2_t_per_day",
                "CO2 of a day (location-based)",
                "t",
                (*day_why, *self._texts("co2_kg_per_kwh")),
                facility,
                no_power,
            ),
            (
                "co2_kg_per_mtok",
                "CO2 per million output tokens (location-based)",
                "kg/Mtok",
                (*mean_why, *day_why, *self._texts("co2_kg_per_kwh")),
                facility,
                no_power,
            ),
        ]
        figures = []
        for key, title, unit, why, boundary, absent in rows:
            said = tuple(dict.fromkeys(why))
            if absent is not None:
                figures.append(
                    FleetFigure(
                        key, title, unit, None, basis=Basis.ABSENT, boundary=boundary, note=absent
                    )
                )
            elif key == "usd_per_gpu_h":
                figures.append(
                    FleetFigure(
                        key,
                        title,
                        unit,
                        implied,
                        boundary=boundary,
                        assumptions=said,
                        note=self._implied_note(),
                    )
                )
            else:
                p5, p50, p95 = (float(q) for q in np.quantile(drawn[key], (0.05, 0.5, 0.95)))
                note = self._powered_note(case, binding, drawn) if key == "gpus_powered" else None
                if key == "demand_met_ratio" and values[key] < 1:
                    note = "the rest is shed for as long as the demand stands"
                figures.append(
                    FleetFigure(
                        key,
                        title,
                        unit,
                        values[key],
                        p5,
                        p50,
                        p95,
                        Basis.MODELLED,
                        boundary,
                        said,
                        note,
                    )
                )
        return figures

    def _texts(self, *keys: str) -> tuple[str, ...]:
        return tuple(self._book.factors[key].text() for key in keys if key in self._book.factors)

    def _powered_why(self, case: Case, absent_power: str | None) -> tuple[str, ...]:
        count, cap = self._site.gpus, self._site.power_mw
        said = [f"{count.value:,.0f} GPUs: {count.cite()}"]
        if cap is None:
            said.append("nobody states the site's power, so it is taken to be enough")
        elif absent_power is None:
            how = self._why.get(
                "curve",
                (
                    (
                        "fewer GPUs run where that binds, for want of a power-cap curve from runs"
                        " at three limits"
                    ),
                ),
            )
            said.append(f"{cap.value:g} MW at the meter: {cap.cite()}; {how[0]}")
            if case.oversubscribe:
                said.append(
                    f"{100 * case.oversubscribe:.0f} % of GPUs beyond the cap's provision, held"
                    " there by power capping (POLCA, arXiv 2308.12908)"
                )
        return tuple(said)

    def _powered_note(self, case: Case, binding: str, drawn: dict[str, np.ndarray]) -> str:
        if case.cap_mw is None:
            return "no power cap is stated"
        if binding == "unknown":
            return "upper bound: power was not measured"
        return (
            f"limited by {binding}; the power cap binds in"
            f" {100 * np.mean(drawn['gpus_powered'] < case.gpus):.0f} % of draws"
        )

    def _price_why(self) -> tuple[str, ...]:
        site = self._site
        if site.usd_per_month is not None:
            said = (
                f"${site.usd_per_month.value / 1e6:,.0f} M a month for {site.gpus.value:,.0f} GPUs:"
                f" {site.usd_per_month.cite()}"
            )
        elif site.usd_per_gpu_h is not None:
            said = f"${site.usd_per_gpu_h.value:g} a GPU-hour: {site.usd_per_gpu_h.cite()}"
        else:
            return ()
        return (
            said,
            (
                "the price is taken to include power and operation, and to be paid for GPUs that do"
                " not run as well"
            ),
        )

    def _implied_note(self) -> str | None:
        price = self._site.usd_per_month
        others = [item.figure for item in self._site.also_said if item.what == "gpus"]
        if price is None or not others:
            return None
        return "also said: " + "; ".join(
            f"${arithmetic.usd_per_gpu_h(price.value, item.value):.2f} at {item.value:,.0f} GPUs"
            for item in others
        )

    def _demand_why(self) -> tuple[str, ...]:
        if self._options.demand_tok_s is not None:
            return (
                (
                    f"a demand of {human_number(self._options.demand_tok_s)} output tok/s at peak,"
                    " as stated"
                ),
            )
        if self._options.demand_sessions is not None:
            return (
                (
                    f"a demand of {human_number(self._options.demand_sessions)} live sessions at"
                    " peak, as stated"
                ),
            )
        return ()
