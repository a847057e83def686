"""The best setting of a sweep: the one to run, and to scale to a site."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.artifacts.run_result import RunResult
from harness.core.errors import InvalidRunError
from harness.core.records import Status
from harness.reduce.figures.headline import SLO_SHARE
from harness.sweeps.curve import load_key
from harness.sweeps.points import COLUMN, Setting, Sweep

HEADLINES: Final = ("output_tok_s_per_gpu", "output_tok_s")
"""Metrics of which the highest is best: per GPU where there are GPUs."""

_CLAIMING: Final = (Status.VALID, Status.PRELIMINARY, Status.FUNCTIONAL)


@dataclass(frozen=True, slots=True)
class Best:
    """The setting with the highest headline among those that meet the SLOs.

    Attributes:
        key: column of the headline.
        setting: None if no setting qualifies.
        why: how it was chosen, or why there is none.
        close: other such settings whose interval of the headline overlaps its own.
    """

    key: str
    setting: Setting | None
    why: str
    close: tuple[Setting, ...] = ()


def best(sweep: Sweep) -> Best:
    """Choose the best setting.

    Of a search it is the confirmed load; without a confirmation run there is none. Of a sweep, it
    has a verdict that supports its purpose (valid, preliminary, or functional in smoke runs),
    and at least 90% of its requests met every SLO, if the profile has any.
    """
    key = next(
        (k for k in HEADLINES if any(k in one.metrics for one in sweep.usable)), HEADLINES[1]
    )
    title = COLUMN[key].title
    if sweep.index.kind == "search":
        return _confirmed(sweep, key)
    claiming = [one for one in sweep.usable if key in one.metrics and one.status in _CLAIMING]
    if not claiming:
        return Best(key, None, f"no finished point has a valid verdict and {title}")
    within = [one for one in claiming if meets_slos(one)]
    if not within:
        return Best(
            key,
            None,
            f"at no point did {SLO_SHARE:.0%} of requests meet every SLO: the highest share is"
            f" {max(attainment(one) or 0.0 for one in claiming):.1%}",
        )
    found = max(within, key=lambda one: one.metrics[key].value)
    slos = any(run.slos for one in claiming for run in one.runs)
    among = f"{len(within)} of {len(sweep.settings)} points"
    share = f"in which at least {SLO_SHARE:.0%} of requests met every SLO"
    why = f"highest {title} of {among} {share if slos else 'with a valid verdict; no SLOs are set'}"
    close = tuple(one for one in within if one is not found and _overlaps(one, found, key))
    return Best(key, found, why, close)


def _confirmed(sweep: Sweep, key: str) -> Best:
    run = confirmed_run(sweep)
    found = (one for one in sweep.settings for made in one.runs if run and made.path.name == run)
    setting = next(found, None)
    if setting is None:
        return Best(key, None, "no confirmation run of the search met its first tier")
    return Best(key, setting, "the load at which the confirmation run met the first tier")


def confirmed_run(sweep: Sweep) -> str | None:
    """Run directory of the confirmation run that met a search's first tier; None without one."""
    tiers = {} if sweep.capacity is None else sweep.capacity.tiers
    return next((tier.confirmed for tier in tiers.values() if tier.confirmed), None)


def attainment(setting: Setting) -> float | None:
    """Share of requests that met every SLO; None without SLOs."""
    found = setting.metrics.get("slo_met_ratio")
    return None if found is None else found.value


def meets_slos(setting: Setting) -> bool:
    """Whether enough requests met every SLO. Without SLOs every setting does."""
    if not any(run.slos for run in setting.runs):
        return True
    share = attainment(setting)
    return share is not None and share >= SLO_SHARE


def _overlaps(one: Setting, other: Setting, key: str) -> bool:
    a, b = one.metrics[key], other.metrics[key]
    return a.high is not None and b.low is not None and a.high >= b.low


# --- for a site ---


@dataclass(frozen=True, slots=True)
class Evidence:
    """Runs of a sweep that scale to a site: `run` is of the best point. The others are of points
    that differ from it in one key only: the load, the power limit, or the number of replicas.
    """

    run: Path
    loads: tuple[Path, ...]
    limits: tuple[Path, ...]
    replicas: tuple[Path, ...]


def site_evidence(sweep: Sweep) -> Evidence:
    """The runs of a sweep for `harness fleet`. Of repeats it is the one with the median headline.

    Raises:
        InvalidRunError: no point qualifies.
    """
    chosen = best(sweep)
    if (setting := chosen.setting) is None:
        raise InvalidRunError(
            f"{sweep.path} has no point to scale to a site",
            cause=chosen.why,
            next_step=(
                "sweep lower loads, or name one of its runs"
                if sweep.index.kind == "sweep"
                else "resume the search until it is confirmed, or name one of its runs"
            ),
        )
    named = confirmed_run(sweep)
    run = sweep.path / named if named else _median(setting, chosen.key).path
    found: dict[str, list[Path]] = {"loads": [], "limits": [], "replicas": []}
    kinds = {load_key(sweep): "loads", "server.replicas": "replicas"}
    for one in sweep.usable:
        differing = [key for key in sweep.keys if one.values[key] != setting.values[key]]
        if len(differing) != 1:
            continue
        kind = kinds.get(differing[0])
        if differing[0].endswith("power_limit_w"):
            kind = "limits"
        if kind is not None:
            found[kind].append(_median(one, chosen.key).path)
    others = {kind: tuple(paths) for kind, paths in found.items()}
    return Evidence(run, **others)


def _median(setting: Setting, key: str) -> RunResult:
    ordered = sorted(setting.runs, key=lambda run: run.figure(key).value or 0.0)
    return ordered[(len(ordered) - 1) // 2]
