"""Values from further runs of the same work instead of priors: a power-cap curve, power without
load, efficiency of replicas.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from harness.artifacts.run_result import RunResult
from harness.core.errors import NotComparableError
from harness.fleet.estimate.measured import (
    board_power_w,
    good_share,
    gpu_power_w,
    measured_tokens,
    type_of,
    work_of,
)
from harness.fleet.estimate.model import CurvePoint
from harness.fleet.estimate.sampling import Z95

LIMITS_NEEDED: Final = 3
"""Fewest enforced power limits of a power-cap curve."""


@dataclass(frozen=True, slots=True)
class Linked:
    """A value measured in further runs of the same work."""

    value: float
    deviation: float
    source: str


def check_same_work(run: RunResult, other: RunResult, why: str) -> None:
    """Refuse a further run of other work.

    Raises:
        InvalidRunError: it is invalid.
        NotComparableError: another model, precision, workload or type of GPU.
    """
    measured_tokens(other)
    mine, others = asdict(work_of(run)), asdict(work_of(other))
    pairs: dict[str, tuple[Any, Any]] = {
        key: (mine[key], others[key]) for key in ("model", "precision", "workload", "api")
    }
    pairs["gpu"] = (type_of(run).name, type_of(other).name)
    workloads = [one.profile.traffic.workload for one in (run, other)]
    pairs["workload's keys"] = (workloads[0], workloads[1])
    for key, (a, b) in pairs.items():
        if a != b:
            raise NotComparableError(
                f"{other.path} cannot be {why} for {run.path}: {key} is {b!r}, not {a!r}",
                next_step="measure the same work again",
            )


def curve_of(
    run: RunResult, others: Sequence[RunResult]
) -> tuple[tuple[CurvePoint, ...] | None, str]:
    """A power-cap curve from runs at three or more enforced limits and its source, or None and a
    reason.
    """
    points: dict[float, CurvePoint] = {}
    tokens, watts = run.figure("output_tok_s_per_gpu").value, board_power_w(run)
    for one in (run, *others):
        if one is not run:
            check_same_work(run, one, "a point of the power-cap curve")
        limits = {gpu.power_limit_w for gpu in one.gpus}
        limit = next(iter(limits)) if len(limits) == 1 else None
        one_tokens, one_watts = one.figure("output_tok_s_per_gpu").value, board_power_w(one)
        if not limit or tokens is None or watts is None or one_tokens is None or one_watts is None:
            return None, f"{one.path} has no single enforced limit with measured GPU board power"
        good, mine = good_share(one), good_share(run)
        # A share of 0 is known: nothing meets the SLOs at that limit.
        kept = 1.0 if good is None or not mine else good / mine
        points[limit] = CurvePoint(
            limit, one_tokens / tokens * kept, one_watts / len(one.gpus) / (watts / len(run.gpus))
        )
    if len(points) < LIMITS_NEEDED:
        return (
            None,
            f"it needs runs at {LIMITS_NEEDED} enforced limits or more; there are {len(points)}",
        )
    watts_of = ", ".join(f"{limit:g} W" for limit in sorted(points))
    return tuple(points[limit] for limit in sorted(points)), f"measured at {watts_of} per GPU"


def idle_share_of(run: RunResult, others: Sequence[RunResult]) -> tuple[Linked | None, str]:
    """Power without load over that under the run's load, from a line fitted to runs at several
    loads, or None and a reason.
    """
    points = []
    mine = gpu_power_w(run)
    for one in (run, *others):
        if one is not run:
            check_same_work(run, one, "a point of power against load")
        tokens, power = one.figure("output_tok_s_per_gpu").value, gpu_power_w(one)
        if tokens is None or power is None or mine is None:
            return None, f"{one.path} measured no power of its GPUs"
        if power[1] != mine[1]:
            return None, f"{one.path} measured power at {power[1]}, {run.path} at {mine[1]}"
        points.append((tokens, power[0] / len(one.gpus)))
    if len({tokens for tokens, _ in points}) < 2:
        return None, "all runs have the same load"
    at, full = points[0]
    u, w = [tokens / at for tokens, _ in points], [watts / full for _, watts in points]
    mean_u, mean_w = math.fsum(u) / len(u), math.fsum(w) / len(w)
    slope = math.fsum((a - mean_u) * (b - mean_w) for a, b in zip(u, w, strict=True)) / math.fsum(
        (a - mean_u) ** 2 for a in u
    )
    idle = mean_w - slope * mean_u
    share = min(1.0, max(0.01, idle / (idle + slope)))
    rest = math.fsum((b - idle - slope * a) ** 2 for a, b in zip(u, w, strict=True)) / max(
        1, len(u) - 2
    )
    source = (
        f"line fitted to {len(points)} runs at {min(u):.2f} to {max(u):.2f} of the run's load;"
        " GPUs measured, host assumed alike"
    )
    return Linked(share, max(0.02, math.sqrt(rest)), source), source


def efficiency_of(run: RunResult, others: Sequence[RunResult]) -> tuple[Linked | None, str]:
    """Measured per-GPU throughput of the most replicas, at least two, over that of `run`, which has
    one; or None and a reason.
    """
    single = run.figure("output_tok_s_per_gpu")
    for one in others:
        check_same_work(run, one, "a run of more replicas")
    best = max(others, key=lambda one: one.replicas or 0, default=run)
    if (best.replicas or 0) < 2 or single.value is None:
        return None, "none of the further runs has two or more replicas"
    many = measured_tokens(best)
    assert many.value is not None
    ratio = many.value / single.value
    errors = [
        (figure.ci_high - figure.ci_low) / 2 / Z95 / figure.value
        for figure in (single, many)
        if figure.value and figure.ci_low is not None and figure.ci_high is not None
    ]
    source = f"measured: {best.replicas} replicas ({best.run_id}) over one"
    return Linked(ratio, ratio * math.hypot(*errors, 0.0), source), ""


REPEAT_ERROR: Final = 0.005
"""Relative standard deviation of throughput between repeats, at least: an assumption."""
