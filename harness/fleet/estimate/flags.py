"""Red flags: reasons to doubt an estimate, from the run, the site and published throughput."""

import math
import re
from typing import Final

from harness.artifacts.run_result import RunResult
from harness.core.records import Severity, Status
from harness.fleet.estimate.measured import board_power_w, is_demonstration, work_of
from harness.fleet.estimate.results import AsOf
from harness.fleet.site.catalog import sanity
from harness.fleet.site.types import GpuSpec, Site
from harness.reduce.figures.headline import SLO_SHARE

STEADY_S: Final = 30.0
"""Shortest steady-state window that is scaled without a red flag (as for headline energies)."""

ABOVE_PUBLISHED: Final = 1.3
"""Throughput above this multiple of a published upper bound is a red flag."""

BELOW_PUBLISHED_J: Final = 1 / 3
"""Energy per token below this share of (power limit / published throughput) is a red flag."""


def red_flags(run: RunResult, spec: GpuSpec, site: Site, as_of: AsOf) -> list[str]:
    """Reasons to doubt an estimate of this run at this site."""
    flags = []
    if is_demonstration(run):
        flags.append(
            "Demonstration: the run's GPUs are a test double, so no result applies to real"
            " hardware."
        )
    elif run.status is not Status.VALID:
        codes = ", ".join(
            dict.fromkeys(c.code for c in run.concerns if c.severity is not Severity.NOTE)
        )
        flags.append(
            f"The run is {run.status}{f' ({codes})' if codes else ''}, and so is this estimate."
        )
    share = run.figure("slo_met_ratio").value
    if run.slos and share is not None and share < SLO_SHARE:
        flags.append(
            f"Only {share:.1%} of the run's requests met every SLO, as was accepted with"
            " --min-attainment; a site at this load would miss its SLOs too."
        )
    window = run.window_s
    if window is None or window < STEADY_S:
        length = "of unknown length" if window is None else f"{window:.0f} s"
        flags.append(
            f"The run's window is {length}; an estimate needs at least {STEADY_S:.0f} s of steady"
            " state."
        )
    scale = run.summary.labels.context_scale
    if scale is None or scale < 1:
        scaled = "are not recorded" if scale is None else f"were scaled by {scale:.3g}"
        flags.append(
            f"Context lengths {scaled}: results apply to those lengths only; longer contexts give"
            " fewer tokens."
        )
    if run.summary.labels.load_format == "dummy":
        flags.append(
            "Dummy weights: speed is representative for dense models only, and quality is"
            " unverified."
        )
    if site.available is not None and site.available > as_of.within(site.available):
        flags.append(f"The site is available from {site.available}; it delivers nothing before.")
    if not site.types:
        flags.append(f"The site's GPU type is not stated; the run's ({spec.name}) is assumed.")
    flags.extend(
        f"Taken as {site.gpus.value:,.0f} GPUs; also reported: {item.value:,.0f} ({item.note})."
        for item in site.also_said
        if item.what == "gpus" and item.note
    )
    return [*flags, *_of_published(run, spec), *_of_power(run, spec)]


def _of_published(run: RunResult, spec: GpuSpec) -> list[str]:
    """Compared with published throughput of the same model on the same type of GPU."""
    flags: list[str] = []
    model = str(work_of(run).model or "")
    rows = [
        row for row in sanity() if spec.name in row.tok_s_per_gpu and re.fullmatch(row.model, model)
    ]
    measured = run.figure("output_tok_s_per_gpu").value
    if not rows or measured is None:
        return flags
    best = max(rows, key=lambda row: row.tok_s_per_gpu[spec.name])
    bound = best.tok_s_per_gpu[spec.name]
    if measured > bound * ABOVE_PUBLISHED:
        flags.append(
            f"{measured:.4g} output tok/s per GPU is above the published {bound:g} on {spec.name}"
            f" ({best.cite()}) by more than {100 * (ABOVE_PUBLISHED - 1):.0f}%, although that is an"
            " upper bound without SLO."
        )
    limit = spec.board_power_w
    per_tok = run.figure("j_per_output_tok").value
    if limit and per_tok is not None and per_tok < limit.value / bound * BELOW_PUBLISHED_J:
        flags.append(
            f"{per_tok:.3g} J per output token is below a third of {limit.value:g} W / {bound:g}"
            f" tok/s ({best.cite()}): energy is missing or tokens are overcounted."
        )
    return flags


def _of_power(run: RunResult, spec: GpuSpec) -> list[str]:
    flags = []
    watts = board_power_w(run)
    if watts is not None:
        limits = [gpu.power_limit_w for gpu in run.gpus if gpu.power_limit_w is not None]
        limit = math.fsum(limits)
        if len(limits) == len(run.gpus) and watts > limit * 1.05:
            flags.append(
                f"Measured GPU board power of {watts:.0f} W is above the GPUs' power limit of"
                f" {limit:.0f} W by more than 5%."
            )
        idle = spec.board_idle_w
        if idle is not None and watts < idle.value * len(run.gpus):
            flags.append(
                f"Measured GPU board power of {watts:.0f} W is below that of {len(run.gpus)} idle"
                f" GPUs ({idle.value:g} W each; {idle.source})."
            )
    apart = [concern.message for concern in run.concerns if concern.code == "energy_disagrees"]
    return [*flags, *(f"Energy counter and integrated power disagree: {one}" for one in apart)]
