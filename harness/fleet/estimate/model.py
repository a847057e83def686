"""The model from factors to results: the same arithmetic for central values and for draws.

    tok/s at peak    = measured tok/s/GPU x share within SLO x replicas x headroom
                       x powered GPUs x min(availability, 1 - spares)
    W per GPU        = (GPU boards + host, or modules + rest of the host, or a measured node)
                       x (1 + network and storage) x PUE
    powered GPUs     = min(GPUs of the site, cap / W per GPU); at peak, with spares powered
    W, mean of a day = W at peak x (idle + (1 - idle) x load): power is affine in load

Spares replace failures, so availability and spares are not multiplied: the smaller one applies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np

from harness.fleet.estimate.results import Factor, Floats, Swing

KG_PER_T: Final = 1000.0


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One enforced power limit: throughput and GPU board power relative to the scaled run's."""

    limit_w: float
    tokens: float
    watts: float


@dataclass(frozen=True, slots=True)
class Case:
    """Stated inputs, which are not drawn; None: not stated.

    Attributes:
        gpus: GPUs of the run's type at the site.
        cap_mw: power at the utility's meter.
        usd_per_h: price of those GPUs, including power.
        host_w: rated (or stated) host power per GPU.
        tok_s_per_session: measured output of one live session.
        demand_tok_s: demand at peak, output tokens per second.
        demand_sessions: demand at peak, sessions.
        oversubscribe: share of GPUs powered beyond the cap's provision, by power capping.
        point: operating point on a measured power-cap curve.
    """

    gpus: float
    cap_mw: float | None = None
    usd_per_h: float | None = None
    host_w: float | None = None
    tok_s_per_session: float | None = None
    demand_tok_s: float | None = None
    demand_sessions: float | None = None
    oversubscribe: float = 0.0
    point: CurvePoint | None = None

    @property
    def peak_demand_tok_s(self) -> float | None:
        """Demand at peak in tokens; None: not stated."""
        if (
            self.demand_tok_s is None
            and self.demand_sessions is not None
            and self.tok_s_per_session is not None
        ):
            return self.demand_sessions * self.tok_s_per_session
        return self.demand_tok_s


def evaluate(x: Mapping[str, Floats], case: Case) -> dict[str, Floats]:
    """All results for which the factors `x` (arrays of one length, by key) suffice."""
    point = case.point or CurvePoint(0.0, 1.0, 1.0)
    tokens = x["tok_s_per_gpu"] * point.tokens
    for key in ("slo_share", "multi_replica_efficiency", "modelled_ratio", "slo_headroom"):
        if key in x:
            tokens = tokens * x[key]
    serving = np.minimum(x["availability"], 1 - x["reserved_spares"])
    out: dict[str, Floats] = {"tok_s_per_gpu": tokens, "serving_share": serving}
    watts = _watts(x, case, point)
    powered = np.full_like(tokens, case.gpus)
    if watts is not None:
        out["w_per_gpu"] = watts
        if case.cap_mw is not None:
            powered = np.minimum(powered, case.cap_mw * 1e6 * (1 + case.oversubscribe) / watts)
    peak = tokens * powered * serving
    mean = peak * x["load_factor"]
    out |= {
        "gpus_powered": powered,
        "output_tok_s_peak": peak,
        "output_tok_s": mean,
        "output_tok_per_day": mean * 86400.0,
    }
    if case.tok_s_per_session is not None:
        out["sessions"] = peak / case.tok_s_per_session
    demand = case.peak_demand_tok_s
    if demand is not None:
        out["gpus_needed"] = demand / (tokens * serving)
        out["demand_met_ratio"] = np.minimum(1.0, peak / demand)
    if watts is not None:
        out |= _power(x, case, watts, powered, peak, mean)
        if demand is not None:
            out["mw_needed"] = out["gpus_needed"] * watts / 1e6
    mtok_h = mean * 3600 / 1e6
    if case.usd_per_h is not None:
        out["usd_per_mtok"] = case.usd_per_h / mtok_h
    for key in [key for key in x if key.startswith("usd_per_gpu_h@")]:
        out[key.replace("usd_per_gpu_h", "usd_per_mtok")] = x[key] * powered / mtok_h
    return out


def _watts(x: Mapping[str, Floats], case: Case, point: CurvePoint) -> Floats | None:
    """Watts at the utility's meter per GPU, under the run's load."""
    if "node_w" in x:
        it = x["node_w"]
    elif "module_w" in x and case.host_w is not None:
        it = x["module_w"] + case.host_w * x["host_power_share"] * x["host_beside_module"]
    elif "board_w" in x and case.host_w is not None:
        it = x["board_w"] * point.watts + case.host_w * x["host_power_share"]
    else:
        return None
    return it * (1 + x["network_storage"]) * x["pue"]


def _power(
    x: Mapping[str, Floats], case: Case, watts: Floats, powered: Floats, peak: Floats, mean: Floats
) -> dict[str, Floats]:
    at_peak = watts * powered / 1e6
    if case.cap_mw is not None:  # limits GPUs beyond its provision
        at_peak = np.minimum(at_peak, case.cap_mw)
    of_day = at_peak * (x["idle_power_share"] + (1 - x["idle_power_share"]) * x["load_factor"])
    t_per_day = of_day * 24 * x["co2_kg_per_kwh"]  # MWh x kg/kWh = t
    return {
        "power_peak_mw": at_peak,
        "power_mean_mw": of_day,
        "energy_mwh_per_day": of_day * 24,
        "output_tok_s_per_mw": peak / at_peak,
        "j_per_output_tok": at_peak * 1e6 / peak,
        "j_per_output_tok_mean": of_day * 1e6 / mean,
        "co2_t_per_day": t_per_day,
        "co2_kg_per_mtok": t_per_day * KG_PER_T / (mean * 86400.0 / 1e6),
    }


def central(factors: Mapping[str, Factor], case: Case) -> dict[str, float]:
    """All results with each factor at its central value."""
    found = evaluate({key: np.array([factor.value]) for key, factor in factors.items()}, case)
    return {key: float(value[0]) for key, value in found.items()}


def best_point(
    factors: Mapping[str, Factor], case: Case, curve: Sequence[CurvePoint], steps: int = 20
) -> CurvePoint:
    """The power limit with the highest throughput of the site, on a measured curve with linear
    interpolation, never outside of it.
    """
    points = sorted(curve, key=lambda point: point.limit_w)
    candidates = [points[0]]
    for low, high in pairwise(map(astuple, points)):
        for step in range(1, steps + 1):
            at = step / steps
            candidates.append(
                CurvePoint(*(a + (b - a) * at for a, b in zip(low, high, strict=True)))
            )
    # At 0 tokens, no request meets the SLOs.
    serving = [point for point in candidates if point.tokens > 0]
    return max(
        serving, key=lambda point: central(factors, replace(case, point=point))["output_tok_s_peak"]
    )


def swings(factors: Mapping[str, Factor], case: Case, figures: Sequence[str]) -> tuple[Swing, ...]:
    """The tornado: each result with one factor at its P5 and P95 and all others central, widest
    first.
    """
    varied = [factor for factor in factors.values() if factor.spread]
    if not varied:
        return ()
    width = 2 * len(varied)
    x = {key: np.full(width, factor.value, dtype=np.float64) for key, factor in factors.items()}
    for position, factor in enumerate(varied):
        x[factor.key][2 * position : 2 * position + 2] = factor.ends()
    answers = evaluate(x, case)
    found = []
    for figure in figures:
        if figure not in answers:
            continue
        ends = answers[figure].reshape(-1, 2)
        of_figure = [
            Swing(figure, factor.key, factor.title, float(low), float(high))
            for factor, (low, high) in zip(varied, ends, strict=True)
        ]
        moved = (swing for swing in of_figure if swing.width > 0)
        found += sorted(moved, key=lambda swing: -swing.width)
    return tuple(found)
