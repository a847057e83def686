"""From one measured run to a site: a waterfall of factors at their central values, Monte Carlo over
uncertain ones, and a ranking of factors.

The run's output tokens per second per GPU and watts per GPU are scaled, at the load of the run,
taken as the site's peak. Scaling across GPU types needs a named model; across models, precisions or
context lengths it is refused. Every result is marked as measured or modeled; a missing one is
absent with its reason, never 0.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Final

from harness.artifacts.run_result import RunResult, load_result
from harness.artifacts.run_summary import Figure
from harness.core.clock import wall_now
from harness.core.errors import ProfileError
from harness.core.records import Basis
from harness.core.units import human_number
from harness.fleet.estimate import measured as evidence
from harness.fleet.estimate.extra_runs import check_same_work, curve_of
from harness.fleet.estimate.factors import FactorBook
from harness.fleet.estimate.figures import Figures
from harness.fleet.estimate.flags import red_flags
from harness.fleet.estimate.gpu_ratio import Ratio
from harness.fleet.estimate.model import Case, best_point, central, evaluate, swings
from harness.fleet.estimate.power import Power
from harness.fleet.estimate.results import AsOf, FleetEstimate, Stated
from harness.fleet.estimate.sampling import BLOCK, Streams
from harness.fleet.estimate.tokens import Tokens
from harness.fleet.estimate.waterfall import Waterfall
from harness.fleet.site import arithmetic
from harness.fleet.site.catalog import contradictions, gpus, load_site, overridden
from harness.fleet.site.types import GpuSpec, Site
from harness.reduce.figures.headline import SLO_SHARE

DRAWS: Final = BLOCK
"""Default number of draws: the Monte Carlo error of a P5 or P95 is well below any prior's width."""

FEW: Final = 1000
"""With fewer draws, P5 and P95 are unreliable (50 draws beyond each)."""

_RANKED: Final = (
    *("output_tok_s", "output_tok_s_peak", "power_mean_mw"),
    *("usd_per_mtok", "j_per_output_tok_mean"),
)
"""Results with a ranking of factors."""

OVERSUBSCRIBED: Final = 0.30
"""Additional servers under a power cap that POLCA (arXiv 2308.12908) found possible."""


@dataclass(frozen=True, slots=True)
class Options:
    """Inputs in addition to run and site.

    Attributes:
        assume: `KEY=VALUE` or `KEY=LOW:HIGH` instead of a prior.
        work: the site's work; refused if it differs from the measured one.
        demand_tok_s: demand at peak, output tokens per second.
        demand_sessions: demand at peak, live sessions.
        oversubscribe: share of GPUs powered beyond the cap's provision.
        limits: further runs of the same work at other enforced power limits.
        loads: further runs of the same work at other loads.
        replicas: further runs of the same work at two or more replicas.
        `modelled`: ratio from the run's type of GPU to the site's.
        demonstrate: accept a run whose GPUs are a test double; every page is marked.
        as_of: day of the estimate; None: the run's.
        min_attainment: smallest share of the run's requests within every SLO.
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
    as_of: date | None = None
    min_attainment: float = SLO_SHARE

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ProfileError(f"draws must be at least 1, not {self.draws}")
        for name, value in (
            ("demand", self.demand_tok_s),
            ("demand in sessions", self.demand_sessions),
        ):
            if value is not None and not (0 < value < math.inf):
                raise ProfileError(f"{name} must be > 0 and finite, not {value:g}")
        for name, share in (
            ("oversubscription", self.oversubscribe),
            ("the least attainment", self.min_attainment),
        ):
            if not 0 <= share <= 1:
                raise ProfileError(f"{name} must be a share from 0 to 1, not {share:g}")


def estimate(
    run: Path,
    site: Site | str | Path,
    *,
    options: Options | None = None,
    draws: int | None = None,
    seed: int | None = None,
) -> FleetEstimate:
    """Scale a measured run to a site: a `Site`, the name of a shipped one, or the path of a site
    file. `draws` and `seed` replace those of the options.

    Raises:
        ArtifactError: no reduced run, or a damaged one.
        ProfileError: no such site, a site whose term has ended, or constants that overlap.
        InvalidRunError: the run is invalid, proves function only, ran without GPUs, or too few of
            its requests met its SLOs.
        NotComparableError: another type of GPU, or other work than measured.
    """
    options = options or Options()
    if draws is not None:
        options = replace(options, draws=draws)
    if seed is not None:
        options = replace(options, seed=seed)
    result = load_result(run)
    place = site if isinstance(site, Site) else load_site(site)
    measured = evidence.measured_tokens(result, demonstrate=options.demonstrate)
    evidence.check_good(result, options.min_attainment)
    spec = evidence.type_of(result)
    if options.modelled is None:
        evidence.check_type(result, spec, place)
    evidence.check_work(result, options.work)
    for path in (*options.limits, *options.loads, *options.replicas):
        check_same_work(result, load_result(path), "further evidence")
    as_of = as_of_day(result, options.as_of)
    check_term(place, as_of)
    return _Estimator(result, place, spec, measured, options, as_of).estimate()


def parse_day(text: str) -> date:
    """The day of `--as-of`; ProfileError if it is not one."""
    with suppress(ValueError):
        found = date.fromisoformat(text)
        if found.isoformat() == text:  # fromisoformat also takes other forms
            return found
    raise ProfileError(
        f"--as-of {text} is not a date", next_step="write it as YYYY-MM-DD: 2026-11-30"
    )


def as_of_day(run: RunResult, stated: date | None) -> AsOf:
    """The day of an estimate: the stated one, else the run's, else today."""
    if stated is not None:
        return AsOf(stated, "as stated")
    if run.day is not None:
        return AsOf(run.day, "the day of the run")
    return AsOf(wall_now().date(), "today, since the run does not record its day")


def check_term(site: Site, as_of: AsOf) -> None:
    """Raise ProfileError if the site's term has ended."""
    if site.until is not None and site.until < as_of.within(site.until):
        raise ProfileError(
            f"the term of {site.name} ended {site.until}: it delivers nothing on {as_of.day}",
            cause=f"{as_of.day} is {as_of.source}",
            next_step="correct or remove the term, or choose another day with --as-of",
        )


class _Estimator:
    def __init__(
        self,
        run: RunResult,
        site: Site,
        spec: GpuSpec,
        measured: Figure,
        options: Options,
        as_of: AsOf,
    ) -> None:
        self._run, self._site, self._options, self._as_of = run, site, options, as_of
        self._from = self._spec = spec
        if options.modelled is not None and site.types and spec.name not in site.types:
            self._spec = gpus()[site.types[0]]
        self._book = FactorBook(overridden(options.assume), Streams(options.seed, options.draws))
        self._flags: list[str] = []
        self._curve_why: str | None = None
        specs = (self._from, self._spec)
        self._power = Power(run, site, specs, self._book, options.loads, self._flags)
        self._tokens = Tokens(
            run, measured, specs, self._book, self._flags, options.replicas, options.modelled
        )

    def estimate(self) -> FleetEstimate:
        self._flags.extend(red_flags(self._run, self._from, self._site, self._as_of))
        if self._options.draws < FEW:
            self._flags.append(
                f"Only {self._options.draws} draws: P5 and P95 are unreliable; use at least"
                f" {FEW:,}."
            )
        self._tokens.factors()
        absent_power = self._power.factors()
        for key in ("availability", "reserved_spares", "load_factor"):
            self._book.prior(key)
        case = self._on_curve(self._case(), absent_power)
        self._prices()
        values = central(self._book.factors, case)
        if values["gpus_powered"] < 1:
            raise ProfileError(
                f"{case.cap_mw:g} MW are not enough for one GPU, which takes"
                f" {values['w_per_gpu']:,.0f} W at the meter under the run's load",
                next_step="correct power_mw of the site (its unit is megawatts)",
            )
        drawn = evaluate({key: factor.draws for key, factor in self._book.factors.items()}, case)
        binding = self._binding(case, values, absent_power)
        figures = Figures(
            run=self._run,
            site=self._site,
            case=case,
            factors=self._book.factors,
            absent_power=absent_power,
            binding=binding,
            curve_why=self._curve_why,
        )
        powered_why = "; ".join(figures.powered_why())
        waterfall = Waterfall(self._book.factors, case, values, powered_why, self._curve_why or "")
        work = replace(evidence.work_of(self._run), kv=evidence.kv_text(self._run, self._from))
        return FleetEstimate(
            run_id=self._run.run_id,
            run=str(self._run.path),
            run_name=self._run.name,
            status=self._run.status,
            as_of=self._as_of,
            site=self._site,
            gpu=self._spec.name,
            work=work,
            figures=figures.of(values, drawn),
            waterfall=waterfall.steps(),
            binding=binding,
            flags=tuple(dict.fromkeys(self._flags)),
            contradictions=contradictions(self._site),
            draws=self._options.draws,
            seed=self._options.seed,
            factors=self._book.factors,
            tornado=swings(self._book.factors, case, _RANKED),
            central=values,
            stated=Stated(
                gpus=case.gpus,
                cap_mw=case.cap_mw,
                usd_per_h=case.usd_per_h,
                tok_s_per_session=case.tok_s_per_session,
                demand_tok_s=case.peak_demand_tok_s,
            ),
            peak_draws=drawn["output_tok_s_peak"],
            demonstration=evidence.is_demonstration(self._run),
            measured_gpu=self._from.name,
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
                        next_step="measure another type of the site's GPUs, or correct its mix",
                    )
                self._flags.append(
                    f"Only the {count:,.0f} GPUs of type {self._spec.name} are scaled "
                    f"({100 * share.value:.0f}% of {site.gpus.value:,.0f}, "
                    f"{share.cite()}); power cap and price are taken in the same proportion."
                )
        part = count / site.gpus.value
        monthly = site.monthly_usd()
        per_session, why = evidence.tok_s_per_session(self._run)
        if self._options.demand_sessions is not None and per_session is None:
            raise ProfileError(
                f"a demand in sessions cannot be used with this run: {why}",
                next_step="state the demand in tokens",
            )
        if self._options.oversubscribe > OVERSUBSCRIBED:
            self._flags.append(
                f"{100 * self._options.oversubscribe:.0f}% of GPUs beyond the cap's provision;"
                f" POLCA (arXiv 2308.12908) found {100 * OVERSUBSCRIBED:.0f}% possible."
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
        """If the power cap binds, the best point of a measured curve; without a curve, the run's
        point and fewer GPUs.
        """
        if case.cap_mw is None or absent_power is not None:
            return case
        if central(self._book.factors, case)["gpus_powered"] >= case.gpus:
            if self._options.limits:
                self._flags.append(
                    "The power cap does not bind, so runs at other power limits have no effect."
                )
            return case
        curve, why = curve_of(self._run, [load_result(path) for path in self._options.limits])
        if curve is None or "board_w" not in self._book.factors:
            if self._options.limits:
                other = "it needs GPU board power, but the node or the modules were measured"
                self._flags.append(f"No power-cap curve: {why if curve is None else other}.")
            return case
        point = best_point(self._book.factors, case, curve)
        self._curve_why = f"power-cap curve {why}; GPUs run at {point.limit_w:.0f} W"
        return replace(case, point=point)

    def _prices(self) -> None:
        for tier, price in self._spec.usd_per_gpu_h.items():
            prior = self._book.priors["price_spread"].model_copy(update={"key": f"price@{tier}"})
            drawn = self._book.streams.prior(prior) * price.value
            key, unit = f"usd_per_gpu_h@{tier}", "USD/GPU-h"
            title = f"Price of a GPU-hour, {tier.replace('_', ' ')}"
            source = f"{price.cite()}; spread: assumption of this harness ({prior.date})"
            self._book.add(key, title, unit, price.value, drawn, Basis.MODELLED, source)

    def _binding(self, case: Case, values: dict[str, float], absent_power: str | None) -> str:
        if case.cap_mw is None:
            return "count"
        if absent_power is not None:
            self._flags.append(
                f"Whether {case.cap_mw:g} MW are enough is unknown without measured power: token"
                " results are upper bounds."
            )
            return "unknown"
        uncapped = values["w_per_gpu"] * case.gpus / 1e6
        if uncapped > case.cap_mw * (1 + 1e-9):
            self._flags.append(
                f"All {case.gpus:,.0f} GPUs at the run's load would draw {human_number(uncapped)}"
                f" MW at the meter, above the site's {case.cap_mw:g} MW:"
                f" {values['gpus_powered']:,.0f} run"
                + (
                    ", capped at peak; the slowdown from that is not modeled."
                    if case.oversubscribe
                    else "."
                )
            )
        return "power" if values["gpus_powered"] < case.gpus else "count"
