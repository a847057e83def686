"""The headline: the same rows for the terminal, report.md and report.html."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from harness.artifacts.run_summary import Distribution, Figure, Summary
from harness.core.metrics import METRICS
from harness.core.records import Basis, Purpose
from harness.report import numbers

_RATIOS: Final = frozenset({"slo_met_ratio", "error_ratio", "prefix_hit_ratio"})
_TOKEN_CLASSES: Final = {
    "output": "output",
    "input": "input, cached part included",
    "computed_input": "computed input",
    "cache_read": "cached input",
    "cache_write": "input written to cache",
    "total": "input and output",
}
_BOUNDARIES: Final = {
    "client": "at the client",
    "server": "server's counters",
    "deployment": "all GPUs of the deployment",
    "gpu_board": "GPU boards",
    "module": "GPU modules",
    "cpu_package": "CPU packages",
    "dram": "memory",
    "node": "nodes",
    "rack": "racks",
    "facility": "utility's meter",
}


@dataclass(frozen=True, slots=True)
class HeadlineRow:
    """One line of the headline, as text.

    Attributes:
        key: metric, with `.p99` and the like for a percentile.
        title: for people.
        value: the number, or an em dash when absent.
        unit: beside the number; empty for percent and where absent.
        interval: 95 % within this run; empty where there are too few effective batches.
        basis: measured, modelled or absent.
        boundary: what it was taken over.
        tokens: the class of tokens that it counts; empty for none.
        note: where it comes from, or why it is absent.
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
    """The rows that head every account of a run, absent ones included with the reason."""
    return rows_of(summary.metrics, summary.latency)


def rows_of(
    metrics: Mapping[str, Figure], latency: Mapping[str, Distribution]
) -> list[HeadlineRow]:
    """As `headline_rows`, of one stage."""
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
    """What the verdict claims."""
    purpose = summary.profile.purpose
    if purpose == Purpose.SMOKE:
        return (
            "A smoke run is made to see that everything works and that the counts agree. It makes"
            " no performance claim."
        )
    if purpose != Purpose.MEASURE:
        return "Nobody knows what the run was for."
    quality = "" if summary.labels.quality == "verified" else " Quality unverified."
    return f"A measurement: its figures are worth what the verdict says.{quality}"


def figure_row(key: str, figure: Figure) -> HeadlineRow:
    """One figure as text."""
    name, _, boundary = key.partition("@")
    definition = METRICS[name]
    if name in _RATIOS:
        value, unit = numbers.share(figure.value), ""
        between = ""
        if figure.ci_low is not None and figure.ci_high is not None:
            between = f"{numbers.share(figure.ci_low)} – {numbers.share(figure.ci_high)}"
    else:
        value, unit = numbers.figure(figure.value, figure.unit)
        between = numbers.interval(figure.ci_low, figure.ci_high, figure.unit)
    systematic = ""
    if figure.value is not None and figure.systematic_ratio:
        systematic = (
            f"± {numbers.share(figure.systematic_ratio)} systematic, which repeats do not remove"
        )
    return HeadlineRow(
        key=key,
        title=definition.title + (f" ({boundary_words(boundary)})" if boundary else ""),
        value=value,
        unit=unit,
        interval=between,
        basis=str(figure.basis),
        boundary=boundary_words(figure.boundary),
        tokens=_TOKEN_CLASSES.get(definition.token_class or "", ""),
        note=" · ".join(part for part in (figure.note, systematic) if part),
    )


def boundary_words(boundary: str | None) -> str:
    """A boundary for people; empty for none."""
    return _BOUNDARIES.get(boundary or "", boundary or "")


def _quantile(key: str, name: str, quantile: str, distribution: Distribution) -> HeadlineRow:
    seconds = getattr(distribution, quantile)
    value, unit = numbers.figure(seconds, "s")
    low, high = distribution.ci.get(quantile) or (None, None)
    if seconds is not None:
        note = f"{distribution.n:,} {'request' if distribution.n == 1 else 'requests'}"
    elif distribution.n:
        note = (
            f"beyond what is known: {distribution.censored:,} of"
            f" {distribution.n + distribution.censored:,} requests never got there"
        )
    else:
        note = "no request got there"
    return HeadlineRow(
        key=key,
        title=f"{METRICS[name].title}, {quantile}",
        value=value,
        unit=unit,
        interval=numbers.interval(low, high, "s"),
        basis=str(Basis.MEASURED if seconds is not None else Basis.ABSENT),
        boundary=boundary_words("client") if seconds is not None else "",
        tokens="",
        note=note,
    )
