"""The headline: the same rows for the terminal, report.md and report.html."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from harness.artifacts.run_summary import Distribution, Figure, Summary
from harness.core.metrics import METRICS
from harness.core.records import Basis, Purpose
from harness.report.numbers import figure, interval, share

_RATIOS: Final = frozenset({"slo_met_ratio", "error_ratio", "prefix_hit_ratio"})
TOKEN_CLASSES: Final = {
    "output": "output",
    "input": "input",
    "computed_input": "computed input",
    "cache_read": "cached input",
    "cache_write": "input written to cache",
    "total": "input and output",
}
BOUNDARIES: Final = {
    "client": "client",
    "server": "server counters",
    "deployment": "all GPUs",
    "gpu_board": "GPU boards",
    "module": "GPU modules",
    "cpu_package": "CPU packages",
    "dram": "DRAM",
    "node": "nodes",
    "rack": "racks",
    "facility": "facility meter",
}


@dataclass(frozen=True, slots=True)
class HeadlineRow:
    """One row of the headline, as text.

    Attributes:
        key: metric, with a suffix such as `.p99` for a percentile.
        unit: empty for percent and if absent.
        interval: 95% confidence interval within this run; empty with too few effective batches.
        basis: `measured`, `modelled` or `absent`.
        tokens: class of the counted tokens, if any.
        note: the source, or why the value is absent.
    """

    key: str
    title: str
    value: str
    unit: str
    interval: str
    basis: str
    boundary: str
    tokens: str
    note: str


_ORDER: Final[tuple[str, ...]] = (
    "output_tok_s_per_gpu",
    "output_tok_s",
    "output_tok_per_j",
    "output_tok_s_per_mw",
    "usd_per_mtok",
    "ttft_s.p50",
    "ttft_s.p99",
    "tpot_s.p50",
    "tpot_s.p99",
    "e2e_s.p50",
    "e2e_s.p99",
    "interactivity_tok_s_user",
    "goodput_rps",
    "goodput_tok_s",
    "slo_met_ratio",
    "requests_per_s",
    "error_ratio",
    "input_computed_tok_s",
    "prefix_hit_ratio",
    "requests_in_flight",
    "mean_input_tok",
    "mean_output_tok",
    "power_w",
)


HEADLINE_KEYS: Final = tuple(dict.fromkeys(key.partition(".")[0] for key in _ORDER))
"""Metrics of the headline, in its order; latencies with some percentiles."""


def headline_rows(summary: Summary) -> list[HeadlineRow]:
    """The headline of a run, with absent rows and their reasons."""
    return rows_of(summary.metrics, summary.latency)


def rows_of(
    metrics: Mapping[str, Figure], latency: Mapping[str, Distribution]
) -> list[HeadlineRow]:
    """Like `headline_rows`, for one stage."""
    rows = []
    for key in _ORDER:
        name, _, quantile = key.partition(".")
        if quantile:
            rows.append(_quantile(key, name, quantile, latency.get(name, Distribution())))
            continue
        rows += [
            figure_row(full, metrics[full])
            for full in metrics
            if full == key or full.startswith(f"{key}@")
        ]
    return rows


def purpose_sentence(summary: Summary) -> str:
    """What the run is for."""
    purpose = summary.profile.purpose
    if purpose == Purpose.SMOKE:
        return "Smoke run: checks that everything works, makes no performance claim."
    if purpose != Purpose.MEASURE:
        return "The run's purpose is not recorded."
    quality = "" if summary.labels.quality == "verified" else " Quality unverified."
    return f"Measurement run.{quality}"


def figure_row(key: str, found: Figure) -> HeadlineRow:
    """One metric as text."""
    name, _, boundary = key.partition("@")
    definition = METRICS[name]
    if name in _RATIOS:
        value, unit = share(found.value), ""
        between = ""
        if found.ci_low is not None and found.ci_high is not None:
            between = f"{share(found.ci_low)} – {share(found.ci_high)}"
    else:
        value, unit = figure(found.value, found.unit)
        between = interval(found.ci_low, found.ci_high, found.unit)
    note = found.note or ""
    if found.value is not None and (systematic := found.systematic_ratio):
        note += " · " if note else ""
        note += f"± {share(systematic)} systematic (not reduced by repeats)"
    return HeadlineRow(
        key=key,
        title=definition.title + (f" ({boundary_words(boundary)})" if boundary else ""),
        value=value,
        unit=unit,
        interval=between,
        basis=str(found.basis),
        boundary=boundary_words(found.boundary),
        tokens=TOKEN_CLASSES.get(definition.token_class or "", ""),
        note=note,
    )


def censored_words(distribution: Distribution) -> str:
    """Why a percentile of a distribution is absent."""
    if not distribution.n:
        return "no completed request"
    return (
        f"{distribution.censored:,} of {distribution.n + distribution.censored:,} requests failed"
        " or did not finish, so this statistic is undefined"
    )


def boundary_words(boundary: str | None) -> str:
    """Title of a boundary; empty for none."""
    return BOUNDARIES.get(boundary or "", boundary or "")


def _quantile(key: str, name: str, quantile: str, distribution: Distribution) -> HeadlineRow:
    seconds = getattr(distribution, quantile)
    value, unit = figure(seconds, "s")
    low, high = distribution.ci.get(quantile) or (None, None)
    if seconds is not None:
        note = f"{distribution.n:,} {'request' if distribution.n == 1 else 'requests'}"
    else:
        note = censored_words(distribution)
    return HeadlineRow(
        key=key,
        title=f"{METRICS[name].title}, {quantile}",
        value=value,
        unit=unit,
        interval=interval(low, high, "s"),
        basis=str(Basis.MEASURED if seconds is not None else Basis.ABSENT),
        boundary=boundary_words("client") if seconds is not None else "",
        tokens="",
        note=note,
    )
