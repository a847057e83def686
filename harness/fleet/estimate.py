"""From one measured run to a site: a waterfall of factors at their central values, and Monte Carlo over what is not known.

What is scaled is the run's output tokens per second per GPU and its watts per board, at the load of the run, taken as the site's peak load.
Nothing is scaled across GPU types, models, precisions or context lengths. Every figure says whether it is measured or modelled; one that
cannot be had is absent with its reason, never 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from harness.artifacts.results import RunResult, Value, load_result, number
from harness.core.errors import InvalidRunError, NotComparableError
from harness.core.records import Basis, Boundary, Purpose, Status
from harness.core.units import human_number
from harness.fleet import arithmetic
from harness.fleet.catalog import GpuSpec, Prior, Site, check_overlap, contradictions, gpu_type, gpus, load_site, priors

DRAWS: Final = 10_000
"""Default number of Monte Carlo draws: the Monte Carlo error of a P5 or P95 is then well below the width of any prior."""

STEADY_S: Final = 30.0
"""Shortest window of steady state that may be scaled without a red flag (as for headline energies)."""

_Z95: Final = 1.959964  # 97.5 % quantile of the standard normal
_Z90: Final = 1.644854  # 95 % quantile: P5 and P95 lie this many deviations from the median

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FleetFigure:
    """One answer.

    Attributes:
        key: its name; the suffix is the unit.
        value: with every factor at its central value; None when absent.
        low: P5 of the draws; None for plain arithmetic on stated numbers.
        p50: their median.
        high: P95.
        basis: modelled whenever a prior or a published constant is in it.
        boundary: what it is taken over.
        assumptions: what it stands on, with source and date.
        note: why it is absent, or what it is.
    """

    key: str
    title: str
    unit: str
    value: float | None
    low: float | None = None
    p50: float | None = None
    high: float | None = None
    basis: Basis = Basis.MODELLED
    boundary: str = "deployment"
    assumptions: tuple[str, ...] = ()
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON; `low` is P5 and `high` is P95."""
        return {
            "title": self.title, "unit": self.unit, "value": self.value, "low": self.low, "p50": self.p50, "high": self.high,
            "basis": str(self.basis), "boundary": self.boundary, "assumptions": list(self.assumptions), "note": self.note,
        }  # fmt: skip

    def row(self) -> tuple[str, ...]:
        """As text, under `FleetEstimate.columns`."""
        span = "—" if self.low is None or self.high is None else f"{human_number(self.low)} to {human_number(self.high)}"
        return (self.title, human_number(self.value), span, self.unit, str(self.basis), self.boundary, self.note or "")


@dataclass(frozen=True, slots=True)
class Step:
    """One factor between the measured number and the site's.

    Attributes:
        part: `tokens` or `power`.
        label: what is done.
        factor: multiplied (or, where `operation` is +, added) by this.
        operation: `=`, `x` or `+`.
        result: after it.
        unit: of the result.
        basis: of the factor.
        source: of the factor.
    """

    part: str
    label: str
    operation: str
    factor: float
    result: float
    unit: str
    basis: Basis
    source: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "part": self.part, "label": self.label, "operation": self.operation, "factor": self.factor, "result": self.result,
            "unit": self.unit, "basis": str(self.basis), "source": self.source,
        }  # fmt: skip

    def row(self) -> tuple[str, ...]:
        """As text, under `FleetEstimate.waterfall_columns`."""
        return (
            self.label,
            f"{self.operation} {human_number(self.factor)}",
            f"{human_number(self.result)} {self.unit}",
            str(self.basis),
            self.source,
        )


@dataclass(frozen=True, slots=True)
class FleetEstimate:
    """What a site would do with the measured work.

    Attributes:
        status: the run's verdict; anything but valid marks every figure.
        gpu: type of the GPUs.
        binding: `power`, `count` or `unknown`: what limits the site at central values.
        flags: red flags; read them before the figures.
        contradictions: where published figures of the site disagree.
    """

    run_id: str
    run: str
    status: Status
    site: Site
    gpu: str
    figures: tuple[FleetFigure, ...]
    waterfall: tuple[Step, ...]
    binding: str
    flags: tuple[str, ...]
    contradictions: tuple[str, ...]
    draws: int
    seed: int

    def figure(self, key: str) -> FleetFigure:
        """One figure by its key."""
        return next(figure for figure in self.figures if figure.key == key)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "schema_version": 1,
            "run_id": self.run_id,
            "run": self.run,
            "run_status": str(self.status),
            "site": self.site.to_dict(),
            "gpu": self.gpu,
            "binding": self.binding,
            "figures": {figure.key: figure.to_dict() for figure in self.figures},
            "waterfall": [step.to_dict() for step in self.waterfall],
            "flags": list(self.flags),
            "contradictions": list(self.contradictions),
            "draws": self.draws,
            "seed": self.seed,
        }

    def columns(self) -> tuple[str, ...]:
        """Headings of `rows`."""
        return ("figure", "value", "P5 to P95", "unit", "basis", "boundary", "note")

    def rows(self) -> list[tuple[str, ...]]:
        """The figures as text."""
        return [figure.row() for figure in self.figures]

    def waterfall_columns(self) -> tuple[str, ...]:
        """Headings of `waterfall_rows`."""
        return ("step", "factor", "gives", "basis", "source")

    def waterfall_rows(self) -> list[tuple[str, ...]]:
        """The waterfall as text."""
        return [step.row() for step in self.waterfall]

    def assumptions(self) -> tuple[str, ...]:
        """Every assumption that any figure stands on, once."""
        return tuple(dict.fromkeys(text for figure in self.figures for text in figure.assumptions))


def estimate(run: Path, site: Site | str | Path, *, draws: int = DRAWS, seed: int = 0) -> FleetEstimate:
    """Scale a measured run to a site.

    Args:
        run: a run directory with a summary.
        site: a site, the name of a shipped one, or the path of a site file.
        draws: Monte Carlo draws.
        seed: of the draws; the same seed gives the same answer.

    Raises:
        ArtifactError: no reduced run.
        ProfileError: no such site, or constants that overlap.
        InvalidRunError: the run is invalid, proves function only, or ran without GPUs: there is nothing that may be scaled.
        NotComparableError: the site's GPUs are of another type than the run's, or the run's type is not known.
    """
    result = load_result(run)
    place = site if isinstance(site, Site) else load_site(site)
    measured = _measured(result)
    spec = _matched(result, place)
    return _Estimator(result, place, spec, measured, draws, seed).estimate()


# --- what may be scaled -----------------------------------------------------------------------------------------------------------


def _measured(run: RunResult) -> Value:
    """The run's output tokens per second per GPU, if it may be scaled at all."""
    if run.status is Status.INVALID:
        reasons = [str(concern.get("message")) for concern in run.concerns if concern.get("severity") == "invalid"]
        raise InvalidRunError(
            f"{run.path} is invalid and cannot be scaled to a site",
            cause=reasons[0] if reasons else "its summary has no verdict",
            next_step="repeat the run and remove what made it invalid",
        )
    if not run.gpus and not _stated_gpus(run):
        raise InvalidRunError(
            f"{run.path} ran without a GPU: its tokens per second say nothing about a site of GPUs",
            cause="the server ran on CPU, or the deployment's GPUs were not recorded (server.gpus)",
            next_step="measure on a GPU of the site's type, with purpose: measure",
        )
    if run.status is Status.FUNCTIONAL or run.purpose == Purpose.SMOKE:
        raise InvalidRunError(
            f"{run.path} is a smoke run: it proves function and makes no performance claim that could be scaled",
            next_step="run a profile with purpose: measure",
        )
    figure = run.figure("output_tok_s_per_gpu")
    if figure.value is None or figure.value <= 0:
        raise InvalidRunError(
            f"{run.path} has no output tokens per second per GPU to scale",
            cause=figure.note,
            next_step="see the report's concerns and run again",
        )
    return figure


def _matched(run: RunResult, site: Site) -> GpuSpec:
    names = sorted({gpu.name or "unknown" for gpu in run.gpus}) or ["unknown (not on the machine that measured)"]
    types = {gpu_type(gpu.name) for gpu in run.gpus} or {None}
    if len(types) > 1:
        raise NotComparableError(
            f"{run.path} used GPUs of several types ({', '.join(names)}), and a per-GPU figure of a mix scales to no site",
            next_step="measure one type at a time",
        )
    kind = next(iter(types))
    wanted = site.gpu.value if site.gpu else None
    if kind is None or (wanted is not None and kind != wanted):
        raise NotComparableError(
            f"the run's GPU is {', '.join(names)}, the site {site.name} has {wanted or 'a type that nobody stated'}",
            cause="nothing is scaled across GPU types without a model of their ratio"
            if kind is not None
            else f"the GPU is none of: {', '.join(gpus())} (an H100 PCIe or NVL is not an H100 SXM)",
            next_step="measure on the site's type of GPU, or choose a site of this type",
        )
    return gpus()[kind]


# --- the estimate -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Uncertain:
    """A central value and draws around it."""

    value: float
    draws: Floats

    def __mul__(self, other: "_Uncertain | float") -> "_Uncertain":
        if isinstance(other, _Uncertain):
            return _Uncertain(self.value * other.value, self.draws * other.draws)
        return _Uncertain(self.value * other, self.draws * other)

    def __truediv__(self, other: "_Uncertain") -> "_Uncertain":
        return _Uncertain(self.value / other.value, self.draws / other.draws)

    def __add__(self, other: "_Uncertain | float") -> "_Uncertain":
        if isinstance(other, _Uncertain):
            return _Uncertain(self.value + other.value, self.draws + other.draws)
        return _Uncertain(self.value + other, self.draws + other)


class _Estimator:
    def __init__(self, run: RunResult, site: Site, spec: GpuSpec, measured: Value, draws: int, seed: int) -> None:
        self._run, self._site, self._spec, self._measured = run, site, spec, measured
        self._draws, self._seed = draws, seed
        self._flags: list[str] = []
        self._steps: list[Step] = []

    def estimate(self) -> FleetEstimate:
        self._flag_run()
        tokens, tokens_why = self._tokens_per_gpu()
        watts, watts_why = self._watts_per_gpu()
        powered, binding, powered_why = self._powered(watts)
        share = self._prior("serving_share")
        peak = tokens * powered * share
        self._step("tokens", "GPUs that are powered", "x", powered.value, tokens.value * powered.value, "tok/s", "; ".join(powered_why))
        self._step("tokens", "serving, not spare or down", "x", share.value, peak.value, "tok/s at peak", priors()["serving_share"].text())
        load = self._prior("load_factor")
        mean = peak * load
        self._step("tokens", "mean over peak load", "x", load.value, mean.value, "tok/s, mean of a day", priors()["load_factor"].text())
        why = (*tokens_why, *powered_why, priors()["serving_share"].text())
        mean_why = (*why, priors()["load_factor"].text())
        figures = [
            _figure("output_tok_s_peak", "Output tokens per second, at peak", "tok/s", peak, why),
            _figure("output_tok_s", "Output tokens per second, mean of a day", "tok/s", mean, mean_why),
            _figure("output_tok_per_day", "Output tokens per day", "tok", mean * 86400.0, mean_why),
            _figure("gpus_powered", "GPUs that are powered", "GPU", powered, tuple(powered_why), note=self._powered_note(binding, powered)),
            *self._power_figures(watts, watts_why, peak, powered, why),
            *self._money(mean, mean_why),
        ]
        return FleetEstimate(
            run_id=self._run.run_id,
            run=str(self._run.path),
            status=self._run.status,
            site=self._site,
            gpu=self._spec.name,
            figures=tuple(figures),
            waterfall=tuple(sorted(self._steps, key=lambda step: step.part != "tokens")),
            binding=binding,
            flags=tuple(self._flags),
            contradictions=contradictions(self._site),
            draws=self._draws,
            seed=self._seed,
        )

    # tokens

    def _tokens_per_gpu(self) -> tuple[_Uncertain, list[str]]:
        """Output tokens per second per GPU at the SLO, of a GPU among many replicas."""
        run, measured = self._run, self._measured
        assert measured.value is not None
        why = [f"measured: {measured.value:.4g} output tok/s per GPU in {run.run_id}, {self._spec.name}"]
        spread = 0.0
        if measured.ci_low is not None and measured.ci_high is not None:
            spread = (measured.ci_high - measured.ci_low) / 2 / _Z95
        else:
            why.append("the run has no interval of its own, so its uncertainty is not in the ranges")
        factor = self._normal("run", measured.value, spread)
        self._step("tokens", "measured in the run", "=", measured.value, measured.value, "tok/s/GPU", run.run_id, Basis.MEASURED)
        slos = {key: value for key, value in _slos(run).items() if value is not None}
        good, all_of_it = run.figure("goodput_tok_s").value, run.figure("output_tok_s").value
        if slos and good is not None and all_of_it:
            share = min(1.0, good / all_of_it)
            factor = factor * share
            source = "goodput_tok_s / output_tok_s in the run, SLOs " + ", ".join(f"{key} <= {value:g}" for key, value in slos.items())
            self._step("tokens", "tokens of requests that met every SLO", "x", share, factor.value, "tok/s/GPU", source, Basis.MEASURED)
            why.append(f"{share:.1%} of output tokens belong to requests that met every SLO ({source})")
        else:
            self._flags.append("The run has no SLO: its throughput is an upper bound for a site that must keep one.")
        replicas = run.replicas
        if replicas is not None and replicas >= 2:
            why.append(f"measured over {replicas} replicas, so what many replicas cost is in the measured figure")
        else:
            factor = factor * self._prior("multi_replica_efficiency")
            prior = priors()["multi_replica_efficiency"]
            self._step("tokens", "one replica among many", "x", prior.value, factor.value, "tok/s/GPU", prior.text())
            why.append(prior.text())
            self._flags.append("The run has fewer than two replicas: what many of them cost each other is a guess, not a measurement.")
        return factor, why

    # power

    def _watts_per_gpu(self) -> tuple[_Uncertain | None, list[str]]:
        """Watts at the utility's meter that one GPU stands for, at the run's load; None where no power was measured."""
        boards = len(self._run.gpus)
        overhead = priors()["network_storage"]
        node = self._node_power()
        if node is not None:
            watts = self._normal("node", node / boards, 0.0)
            includes: dict[str, Sequence[str]] = {"measured power of the node": ("gpu", "host")}
            why = [f"measured: {watts.value:.4g} W per GPU at the node; its meter is taken at its word"]
            self._step("power", "measured node power", "=", watts.value, watts.value, "W/GPU", self._run.run_id, Basis.MEASURED)
        else:
            board = self._board_power()
            host = self._spec.host_rated_w
            if board is None or host is None:
                missing = "the run measured no power of its boards" if board is None else f"no sourced host power for {self._spec.name}"
                return None, [missing]
            sensor = priors()["board_sensor"]
            watts = self._normal("sensor", board / boards, board / boards * sensor.value / _Z95 / math.sqrt(boards))
            self._step("power", "measured board power", "=", watts.value, watts.value, "W/GPU", self._run.run_id, Basis.MEASURED)
            share = self._prior("host_power_share")
            watts = watts + share * host.value
            source = f"{host.value:g} W rated ({host.cite()}) x {priors()['host_power_share'].text()}"
            self._step("power", "host", "+", share.value * host.value, watts.value, "W/GPU", source)
            includes = {"measured power of the boards": ("gpu",), "host_rated_w": host.includes}
            why = [f"measured: {board / boards:.4g} W per board", sensor.text(), source]
        site_pue = self._site.pue
        pue_includes = site_pue.includes or ("pue",) if site_pue is not None else priors()["pue"].includes
        counted = {"network_storage": overhead.includes, "spares (all GPUs are powered)": ("spares",), "pue": pue_includes}
        check_overlap({**includes, **counted})
        watts = watts * (1 + overhead.value)
        self._step("power", "network and storage", "x", 1 + overhead.value, watts.value, "W/GPU", overhead.text())
        if site_pue is not None:
            watts, factor, source = watts * site_pue.value, site_pue.value, f"stated for the site: {site_pue.cite()}"
        else:
            watts, factor, source = watts * self._prior("pue"), priors()["pue"].value, priors()["pue"].text()
        self._step("power", "cooling and distribution (PUE)", "x", factor, watts.value, "W/GPU at the meter", source)
        return watts, [*why, overhead.text(), source]

    def _board_power(self) -> float | None:
        """Watts of all boards together; None where they were not measured."""
        for key in ("power_w", f"power_w@{Boundary.GPU_BOARD}"):
            figure = self._run.figure(key)
            if figure.value is not None and figure.basis is Basis.MEASURED and figure.boundary == Boundary.GPU_BOARD:
                limits = [gpu.power_limit_w for gpu in self._run.gpus]
                limit = math.fsum(limit for limit in limits if limit is not None) if None not in limits else None
                if limit is not None and figure.value > limit * 1.05:
                    self._flags.append(
                        f"Measured board power of {figure.value:.0f} W is above the boards' limit of {limit:.0f} W by more than 5 %."
                    )
                return figure.value
        return None

    def _node_power(self) -> float | None:
        for key in ("power_w", f"power_w@{Boundary.NODE}"):
            figure = self._run.figure(key)
            if figure.value is not None and figure.basis is Basis.MEASURED and figure.boundary == Boundary.NODE:
                return figure.value
        return None

    def _powered(self, watts: _Uncertain | None) -> tuple[_Uncertain, str, list[str]]:
        """GPUs that run: all of them, or as many as the cap holds at peak with spares powered."""
        count, cap = self._site.gpus, self._site.power_mw
        all_of_them = _Uncertain(count.value, np.full(self._draws, count.value))
        why = [f"{count.value:,.0f} GPUs: {count.cite()}"]
        if cap is None:
            why.append("nobody states the site's power, so it is taken to be enough")
            return all_of_them, "count", why
        if watts is None:
            self._flags.append(
                f"Whether {cap.value:g} MW are enough is not known without measured power: figures of tokens are upper bounds."
            )
            return all_of_them, "unknown", why
        why.append(f"{cap.value:g} MW at the meter: {cap.cite()}; fewer GPUs run where that binds, since one load gives no power-cap curve")
        held = _Uncertain(cap.value * 1e6 / watts.value, cap.value * 1e6 / watts.draws)
        powered = _Uncertain(min(count.value, held.value), np.minimum(count.value, held.draws))
        return powered, "power" if held.value < count.value else "count", why

    def _powered_note(self, binding: str, powered: _Uncertain) -> str | None:
        if self._site.power_mw is None:
            return "no power cap is stated"
        if binding == "unknown":
            return "upper bound: power was not measured"
        return f"limited by {binding}; the power cap binds in {np.mean(powered.draws < self._site.gpus.value):.0%} of draws"

    def _power_figures(
        self, watts: _Uncertain | None, watts_why: Sequence[str], peak: _Uncertain, powered: _Uncertain, why: Sequence[str]
    ) -> list[FleetFigure]:
        boundary = str(Boundary.FACILITY)
        absent_mean = FleetFigure(
            "power_mean_mw", "Power, mean of a day", "MW", None, basis=Basis.ABSENT, boundary=boundary,
            note="one load level gives no idle power and slope; it needs runs at several loads",
        )  # fmt: skip
        heads = (
            ("power_peak_mw", "Power at peak", "MW"),
            ("output_tok_s_per_mw", "Output tokens per second per megawatt, at peak", "tok/s/MW"),
            ("j_per_output_tok", "Joules per output token, at peak (an allocation)", "J/tok"),
        )
        if watts is None:
            note = watts_why[0]
            gone = [FleetFigure(key, title, unit, None, basis=Basis.ABSENT, boundary=boundary, note=note) for key, title, unit in heads]
            return [gone[0], absent_mean, *gone[1:]]
        mw = watts * powered * 1e-6
        self._step("power", "GPUs that are powered", "x", powered.value, mw.value, "MW at peak", self._site.gpus.cite())
        both = tuple(dict.fromkeys((*why, *watts_why)))
        values = (mw, peak / mw, mw * 1e6 / peak)
        found = [
            _figure(key, title, unit, value, tuple(watts_why) if key == "power_peak_mw" else both, boundary=boundary)
            for (key, title, unit), value in zip(heads, values, strict=True)
        ]
        return [found[0], absent_mean, *found[1:]]

    # money

    def _money(self, mean: _Uncertain, why: Sequence[str]) -> list[FleetFigure]:
        price, count = self._site.usd_per_month, self._site.gpus
        keys = (
            ("usd_per_gpu_h", "Dollars per GPU-hour implied by the lease", "USD/GPU-h"),
            ("usd_per_mtok", "Dollars per million output tokens", "USD/Mtok"),
        )
        if price is None:
            return [FleetFigure(*key, None, basis=Basis.ABSENT, note="nobody states what the site costs") for key in keys]
        implied = arithmetic.usd_per_gpu_h(price.value, count.value)
        stated = (
            f"${price.value / 1e6:,.0f} M a month for {count.value:,.0f} GPUs: {price.cite()}",
            "the price is taken to include power and operation",
        )
        per_hour = price.value / arithmetic.HOURS_PER_MONTH
        mtok_per_hour = mean * (3600 / 1e6)
        cost = _Uncertain(per_hour / mtok_per_hour.value, per_hour / mtok_per_hour.draws)
        others = [item.figure for item in self._site.also_said if item.what == "gpus"]
        note = "; ".join(f"${arithmetic.usd_per_gpu_h(price.value, item.value):.2f} at {item.value:,.0f} GPUs" for item in others)
        return [
            FleetFigure(*keys[0], implied, basis=Basis.MODELLED, assumptions=stated, note=f"also said: {note}" if note else None),
            _figure(*keys[1], cost, (*why, *stated)),
        ]

    # the rest

    def _flag_run(self) -> None:
        run = self._run
        if run.status is not Status.VALID:
            codes = ", ".join(dict.fromkeys(str(concern.get("code")) for concern in run.concerns if concern.get("severity") != "note"))
            self._flags.append(f"The run is {run.status}{f' ({codes})' if codes else ''}: so is everything below.")
        window = run.window_s
        if window is None or window < STEADY_S:
            said = "of unknown length" if window is None else f"of {window:.0f} s"
            self._flags.append(f"The run's window is {said}; less than {STEADY_S:.0f} s of steady state is no ground for a site.")
        scale = number(run.labels.get("context_scale"))
        if scale is None or scale < 1:
            said = "are not recorded" if scale is None else f"were scaled by {scale:.3g}"
            self._flags.append(f"Context lengths {said}: the figures hold for those lengths only; longer contexts give fewer tokens.")
        if run.labels.get("load_format") == "dummy":
            self._flags.append("Dummy weights: speed is representative for dense models only, and quality is unverified.")
        if self._site.gpu is None:
            self._flags.append(f"Nobody states the site's type of GPU; the run's ({self._spec.name}) is assumed.")
        others = [item.figure for item in self._site.also_said if item.what == "gpus" and item.figure.note]
        self._flags.extend(f"Taken as {self._site.gpus.value:,.0f} GPUs; also said: {item.value:,.0f} ({item.note})." for item in others)

    def _rng(self, name: str) -> np.random.Generator:
        """A stream of its own for every factor, so that adding one leaves the others' draws as they are."""
        return np.random.default_rng([self._seed, *name.encode()])

    def _normal(self, name: str, value: float, deviation: float) -> _Uncertain:
        drawn = self._rng(name).normal(value, deviation, self._draws)
        return _Uncertain(value, np.maximum(drawn, value * 1e-3))  # a rate or a power is positive

    def _prior(self, key: str) -> _Uncertain:
        prior = priors()[key]
        return _Uncertain(prior.value, draw(prior, self._rng(key), self._draws))

    def _step(
        self, part: str, label: str, operation: str, factor: float, result: float, unit: str, source: str, basis: Basis = Basis.MODELLED
    ) -> None:
        self._steps.append(Step(part, label, operation, factor, result, unit, basis, source))


def draw(prior: Prior, rng: np.random.Generator, n: int) -> Floats:
    """Draws from a prior. One given by quantiles is cut at 1: a share of a rated power cannot be more."""
    match prior.kind:
        case "fixed":
            return np.full(n, prior.value)
        case "uniform":
            return rng.uniform(prior.low, prior.high, n)
        case "triangular":
            return rng.triangular(prior.low, prior.value, prior.high, n)
        case "quantiles":
            z = rng.standard_normal(n)
            below, above = math.log(prior.value / prior.low) / _Z90, math.log(prior.high / prior.value) / _Z90
            return np.minimum(1.0, prior.value * np.exp(np.where(z < 0, below, above) * z))


def _figure(
    key: str, title: str, unit: str, value: _Uncertain, assumptions: Sequence[str], *, boundary: str = "deployment", note: str | None = None
) -> FleetFigure:
    low, middle, high = (float(q) for q in np.quantile(value.draws, (0.05, 0.5, 0.95)))
    return FleetFigure(key, title, unit, float(value.value), low, middle, high, Basis.MODELLED, boundary, tuple(assumptions), note)


def _stated_gpus(run: RunResult) -> float | None:
    """GPUs of a deployment on other machines, as the profile states them."""
    server = run.profile.get("server")
    return number(server.get("gpu_count")) if isinstance(server, dict) else None


def _slos(run: RunResult) -> dict[str, float | None]:
    raw = run.summary.get("slos")
    if not isinstance(raw, dict):
        raw = run.profile.get("slos")
    return {str(key): number(value) for key, value in raw.items()} if isinstance(raw, dict) else {}
