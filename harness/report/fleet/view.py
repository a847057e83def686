"""The text, tables and charts of a fleet's page and Markdown. No value is computed here."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.core.records import Basis, Status
from harness.fleet.cases import Case, FleetAnswer, Refusal
from harness.fleet.estimate.measured import SAME_LENGTH
from harness.fleet.estimate.results import FleetEstimate, FleetFigure
from harness.fleet.over_time.failures import failure_classes
from harness.fleet.over_time.forecast import Forecast
from harness.fleet.over_time.scenarios import Range, ScenarioResult
from harness.report.fleet.figures import (
    FleetChart,
    fleet_charts_of,
    percent,
    scaled,
    scaled_range,
    signed,
)
from harness.report.headline import boundary_words
from harness.report.numbers import DASH, plain, share
from harness.report.tables import Table

SURE: Final = 3
"""Number of factors in the summary."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One key metric; `low`, `high` and `at` place its P5, P95 and value, in percent of the bar."""

    title: str
    value: str
    unit: str
    note: str
    low: float | None = None
    high: float | None = None
    at: float | None = None


@dataclass(frozen=True, slots=True)
class FleetView:
    """The content of the page."""

    title: str
    badge: str
    tone: str
    lead: str
    sure: tuple[str, ...]
    flags: tuple[str, ...]
    contradictions: tuple[str, ...]
    tiles: tuple[Tile, ...]
    metrics: Table
    absent: tuple[tuple[str, str], ...]
    charts: Mapping[str, FleetChart]
    waterfall: Table
    time: tuple[Table, ...]
    time_lead: str
    scenarios: Table | None
    side_by_side: Table | None
    refused: Table | None
    assumptions: Table
    site: tuple[tuple[str, str], ...]
    run: tuple[tuple[str, str], ...]
    footer: str
    notes: tuple[str, ...]


def fleet_view(answer: FleetAnswer) -> FleetView:
    """The content of the page for one or more cases. The first one fills the page; the others are
    compared with it.
    """
    cases = answer.cases
    e, f = cases[0].estimate, cases[0].forecast
    tone = "degraded" if e.status is Status.FUNCTIONAL else str(e.status)
    if e.demonstration:
        tone = "invalid"
    return FleetView(
        title=f"{e.site.title}: fleet estimate",
        badge=(
            "demonstration, not measured" if e.demonstration else f"estimated from a {e.status} run"
        ),
        tone=tone,
        lead=_lead(e),
        sure=_sure(e),
        flags=e.flags,
        contradictions=e.contradictions,
        tiles=_tiles(e),
        metrics=_metrics(e),
        absent=tuple((one.title, one.note or "") for one in e.figures if one.value is None),
        charts=fleet_charts_of(e, f),
        waterfall=_waterfall_table(e),
        time=_time_tables(f),
        time_lead=_time_lead(e, f),
        scenarios=_scenario_table(f),
        side_by_side=_side_by_side(cases) if len(cases) > 1 else None,
        refused=_refused(answer.refused),
        assumptions=_assumptions(e, f),
        site=_site(e),
        run=_run(e),
        notes=_further_flags(cases),
        footer=(
            f"As of {e.as_of.text()}. Scaled from one measured run by stated factors. Ranges are P5"
            f" to P95 of {e.draws:,} draws (seed {e.seed}) and cover only these factors. No value"
            " here was measured at the site or validated against one."
        ),
    )


# --- words ---


def _span(found: FleetFigure) -> str:
    if found.p5 is None or found.p95 is None:
        return "as stated"
    text = scaled_range(found.p5, found.p95)
    return text if " to " in text else "in all draws"


def _lead(e: FleetEstimate) -> str:
    tokens, power, cost = (
        e.figure("output_tok_per_day"),
        e.figure("power_mean_mw"),
        e.figure("usd_per_mtok"),
    )
    work = ", ".join(text for text in (e.work.model, e.work.precision, e.work.workload) if text)
    gpu = (
        e.gpu
        if e.measured_gpu in {"", e.gpu}
        else f"{e.gpu} (estimated from the run's {e.measured_gpu})"
    )
    words = [
        (
            f"With the measured workload ({work or 'not recorded'}),"
            f" {e.central['gpus_powered']:,.0f} {gpu} would serve {_value(tokens)} output tokens"
            f" per day ({_span(tokens)}, P5 to P95)"
        )
    ]
    words.append(
        f"draw {plain(power.value, 3)} MW on average"
        if power.value is not None
        else "draw an unknown power"
    )
    if cost.value is not None:
        words.append(f"cost ${plain(cost.value, 3)} per million output tokens at the site's price")
    limit = {
        "power": "The power cap is the limit",
        "count": "The number of GPUs is the limit",
        "unknown": "The limit is unknown",
    }[e.binding]
    return ", ".join(words[:-1]) + f" and {words[-1]}. {limit}."


def _sure(e: FleetEstimate) -> tuple[str, ...]:
    """Uncertainty and its main causes."""
    value = e.figure("output_tok_per_day")
    lines = []
    if value.value and value.p5 is not None and value.p95 is not None:
        lines.append(
            f"Uncertainty of the tokens (P5 to P95): {signed(value.p5 / value.value - 1)} to"
            f" {signed(value.p95 / value.value - 1)} relative to the central value."
        )
    found = [swing for swing in e.tornado if swing.figure == "output_tok_s"][:SURE]
    if found:
        named = "; ".join(
            f"{swing.title[0].lower()}{swing.title[1:]}"
            f" ({percent(swing, e.central['output_tok_s'])})"
            for swing in found
        )
        lines.append(f"Largest effects on the tokens: {named}.")
    needed, met = e.figure("gpus_needed"), e.figure("demand_met_ratio")
    if needed.value is not None and met.value is not None:
        power = e.figure("mw_needed").value
        at = "" if power is None else f" and {plain(power, 3)} MW"
        cost, asked, peak = (
            e.figure("usd_per_mtok").value,
            e.stated.demand_tok_s,
            e.central["output_tok_s_peak"],
        )
        dearer = ""
        # The same price of the site for fewer tokens.
        if cost is not None and asked is not None and asked < peak:
            dearer = (
                f" At that load, a million output tokens cost ${plain(cost * peak / asked, 3)} at"
                " the site's price."
            )
        lines.append(
            f"The stated demand needs {scaled(needed.value)} GPUs{at} at peak ({_span(needed)});"
            f" the site meets {share(met.value)} of it.{dearer}"
        )
    bases = Counter(
        factor.basis for factor in e.factors.values() if not factor.key.startswith("usd")
    )
    measured, assumed = bases[Basis.MEASURED], bases[Basis.MODELLED]
    lines.append(
        f"{measured} factors were measured in the run, {assumed} are assumptions with a source."
    )
    return tuple(lines)


_TILES: Final = (
    ("output_tok_per_day", "Output tokens per day", "", "daily mean"),
    ("output_tok_s_peak", "Output throughput", "tok/s", "at peak"),
    ("sessions", "Concurrent sessions", "", "within the SLO, at peak"),
    ("power_mean_mw", "Power", "MW", "daily mean, facility meter"),
    ("output_tok_s_per_mw", "Throughput per megawatt", "tok/s/MW", "at peak, facility meter"),
    ("j_per_output_tok_mean", "Energy per output token", "J", "daily mean, facility meter"),
    ("usd_per_mtok", "Cost per million output tokens", "USD", "at the site's price"),
    ("usd_per_gpu_h", "Price per GPU-hour", "USD", "from the site's price"),
    ("co2_t_per_day", "CO2 per day", "t", "of its electricity"),
)


def _tiles(e: FleetEstimate) -> tuple[Tile, ...]:
    tiles = []
    for key, title, unit, note in _TILES:
        found = e.figure(key)
        if found.value is None:
            tiles.append(Tile(title, "absent", "", found.note or ""))
        elif found.p5 is None or found.p95 is None or found.p95 <= 0:  # no bar to draw
            tiles.append(Tile(title, f"{found.value:.2f}", unit, note))
        else:
            top = max(found.p95, found.value) * 1.15
            places = (100 * found.p5 / top, 100 * found.p95 / top, 100 * found.value / top)
            tiles.append(Tile(title, _value(found), unit, f"{_span(found)} · {note}", *places))
    return tuple(tiles)


# --- tables ---


def _metrics(e: FleetEstimate) -> Table:
    rows = []
    for one in e.figures:
        if one.value is None:
            continue
        value, *percentiles = (
            scaled(number, 4, max(one.value, one.p95 or 0.0))
            for number in (one.value, one.p5, one.p50, one.p95)
        )
        unit = one.unit if one.unit not in {"1", "GPU", "session"} else ""
        basis = (str(one.basis), boundary_words(one.boundary), one.note or "")
        rows.append((one.title, f"{value} {unit}".strip(), *percentiles, *basis))
    head = ("Metric", "Value", "P5", "P50", "P95", "Basis", "Boundary", "Note")
    caption = "Value: all factors at their central values. P5, P50, P95: of the draws"
    return Table(caption, head, rows, (5, 6, 7))


def _waterfall_table(e: FleetEstimate) -> Table:
    rows = []
    for step in e.waterfall:
        span = (
            ""
            if step.p5 is None or step.p95 is None
            else f" ({plain(step.p5, 3)} to {plain(step.p95, 3)})"
        )
        sign = {"=": "", "x": "× ", "+": "+ "}[step.operation]
        rows.append(
            (
                step.label,
                f"{sign}{scaled(step.factor, 4)}{span}",
                f"{scaled(step.result, 4)} {step.unit}",
                str(step.basis),
                step.source,
            )
        )
    head = ("Step", "Factor (P5 to P95)", "Result", "Basis", "Source")
    return Table("From the measured value to the site's: tokens, then power", head, rows, (3, 4))


def _range(item: Range | None, of: str = "plain") -> str:
    if item is None:
        return DASH
    if of == "share":
        low, middle, high = share(item.p5), share(item.p50), share(item.p95)
    elif of == "months":  # assumptions in days do not support more digits
        low, middle, high = (f"{number:.1f}" for number in (item.p5, item.p50, item.p95))
    else:
        low, middle, high = (
            scaled(number, 3, item.p95) for number in (item.p5, item.p50, item.p95)
        )
    return middle if low == high else f"{middle} ({low} to {high})"


_TOTALS: Final = (
    ("demand_tok", "Output tokens requested", "plain"),
    ("served_tok", "Output tokens served", "plain"),
    ("shed_tok", "Output tokens shed", "plain"),
    ("served_ratio", "Share of demand served", "share"),
    ("slo_ratio", "Served within the SLO", "share"),
    ("worst_hour_slo_ratio", "Served within the SLO in the worst hour", "share"),
    ("hours_below_99_percent", "Hours with less than 99% within the SLO", "plain"),
    ("power_mean_mw", "Power, mean (MW)", "plain"),
    ("power_peak_mw", "Power, peak hour (MW)", "plain"),
    ("energy_mwh", "Energy (MWh)", "plain"),
    ("down_nodes_mean", "Failed nodes, mean", "plain"),
    ("down_nodes_p999", "Failed nodes, P99.9 of hours", "plain"),
    ("moved_sessions", "Sessions with a failed replica", "plain"),
    ("recomputed_tok", "Input tokens recomputed (lost prefix caches)", "plain"),
)


def _time_tables(f: Forecast | None) -> tuple[Table, ...]:
    if f is None:
        return ()
    years = (
        "one simulated year"
        if f.years == 1
        else f"{f.years} simulated years: median (P5 to P95 over years)"
    )
    totals = Table(
        f"The site over a year, {years}",
        ("Metric", "Per year"),
        tuple((title, _range(f.totals.get(key), of)) for key, title, of in _TOTALS),
    )
    titles = {item.key: item.title for item in failure_classes()}
    failures = Table(
        "Failures per simulated year",
        ("Failure", "Per year"),
        tuple((titles.get(key, key), f"{count:,.0f}") for key, count in f.events.items()),
    )
    return totals, failures


def _time_lead(e: FleetEstimate, f: Forecast | None) -> str:
    if f is None:
        return ""
    needed = f.totals["spares_for_999_pooled"]
    assert needed is not None
    mean, estimated, power = f.totals["power_mean_mw"], e.figure("power_mean_mw").value, ""
    asleep = sum(f.day["serving_nodes"] or ()) > sum(f.day["online_nodes"] or ())
    if mean is not None and estimated is not None and asleep:
        power = (
            f" Power: {plain(mean.p50, 3)} MW on average here, {plain(estimated, 3)} MW in the"
            " estimate above. The estimate keeps every replica running; here, replicas without"
            " demand sleep."
        )
    per_replica = f"{f.gpus_per_replica} GPU{'s' if f.gpus_per_replica > 1 else ''}"
    return (
        f"{f.nodes:,} nodes of {f.gpus_per_node} {e.gpu}, of which {f.spares:,} are spares. A"
        f" failure stops replicas of {per_replica} until a spare takes over. {needed.p50:,.0f}"
        f" spares ({share(needed.p50 / f.nodes)} of the nodes) cover the failed nodes in 99.9% of"
        f" hours. Single failures alone, in closed form (M/G/∞): {f.closed['mean']:,.0f} down on"
        f" average, {f.closed['p999']:,.0f} at P99.9; the rest is from switches, cooling and power,"
        f" which stop groups of nodes.{power}"
    )


def _scenario_table(f: Forecast | None) -> Table | None:
    if f is None or not f.scenarios:
        return None
    first = f.scenarios[0]
    base = (
        "Baseline",
        _range(first.base_served_ratio, "share"),
        "0",
        _range(first.base_cost_usd),
        _range(first.base_usd_per_mtok),
        DASH,
        plain(first.horizon_days / 365.25, 2),
    )
    head = (
        "Scenario",
        "Demand served",
        "Site-months lost",
        "Cost (USD)",
        "USD/Mtok",
        "Replacement (USD)",
        "Years",
    )
    rows = (base, *(_scenario_row(item) for item in f.scenarios))
    return Table("Effect of each scenario: median (P5 to P95)", head, rows)


def _scenario_row(item: ScenarioResult) -> tuple[str, ...]:
    return (
        item.title,
        _range(item.served_ratio, "share"),
        _range(item.capacity_months, "months"),
        _range(item.cost_usd),
        _range(item.usd_per_mtok),
        _range(item.market_usd if item.market_usd is not None else item.elsewhere_usd),
        plain(item.horizon_days / 365.25, 2),
    )


_COMPARED: Final = (
    "output_tok_per_day",
    "output_tok_s_peak",
    "sessions",
    "gpus_powered",
    "power_peak_mw",
    "power_mean_mw",
    "output_tok_s_per_mw",
    "j_per_output_tok_mean",
    "usd_per_gpu_h",
    "usd_per_mtok",
    "co2_t_per_day",
)


def _names(cases: Sequence[Case]) -> tuple[str, ...]:
    """Names of the cases: site, run and GPU. A run is named by its folder if another has the same
    name.
    """
    found = []
    for e in (case.estimate for case in cases):
        same = {case.estimate.run for case in cases if case.estimate.run_name == e.run_name}
        run = e.run_name if len(same) == 1 else Path(e.run).name
        gpu = (
            e.gpu if e.measured_gpu in {"", e.gpu} else f"{e.gpu}, estimated from {e.measured_gpu}"
        )
        found.append(f"{e.site.name} · {run} ({gpu}, {e.status})")
    return tuple(found)


def _further_flags(cases: Sequence[Case]) -> tuple[str, ...]:
    """Flags of the cases after the first, each once, with the cases that have it."""
    found: dict[str, list[str]] = {}
    for case, name in zip(cases[1:], _names(cases)[1:], strict=True):
        for flag in case.estimate.flags:
            if flag not in cases[0].estimate.flags:
                found.setdefault(flag, []).append(name)
    return tuple(f"{'; '.join(names)}: {flag}" for flag, names in found.items())


def _side_by_side(cases: Sequence[Case]) -> Table:
    rows = []
    for key in _COMPARED:
        found = [case.estimate.figure(key) for case in cases]
        digits = 4 if key == "usd_per_gpu_h" else 3
        unit = f" ({found[0].unit})" if found[0].unit not in {"1", "session"} else ""
        cells = (
            DASH if one.value is None else f"{_value(one, digits)} ({_span(one)})" for one in found
        )
        rows.append((found[0].title.partition(" (")[0] + unit, *cells))
    rows.append(("Limited by", *(case.estimate.binding for case in cases)))
    all_work = [case.estimate.work for case in cases]
    work = {(one.model, one.precision, one.workload) for one in all_work}
    lengths = [one.context_tok or 0.0 for one in all_work]
    caption = "Side by side: value (P5 to P95)"
    if len(work) > 1 or max(lengths) - min(lengths) > SAME_LENGTH * max(lengths):
        caption += ". The runs measured different workloads and are not comparable"
    return Table(caption, ("Metric", *_names(cases)), rows)


def _value(found: FleetFigure, digits: int = 3) -> str:
    """With the suffix (k, M, …) of its own range."""
    return scaled(found.value, digits, found.p95)


def _refused(refused: Sequence[Refusal]) -> Table | None:
    if not refused:
        return None
    rows = [(item.site, item.run, item.why) for item in refused]
    return Table("No estimate", ("Site", "Run", "Reason"), rows, (1, 2))


def _assumptions(e: FleetEstimate, f: Forecast | None) -> Table:
    rows = [
        (
            factor.title,
            plain(factor.value, 4),
            " to ".join(plain(end, 3) for end in factor.ends()) if factor.spread else "fixed",
            factor.unit if factor.unit != "1" else "",
            str(factor.basis),
            factor.source,
        )
        for factor in e.factors.values()
    ]
    for text in f.assumptions if f is not None else ():
        title, _, rest = text.partition(": ")
        rows.append((title, "", "", "", "modelled", rest or text))
    for item in f.scenarios if f is not None else ():
        title, _, rest = item.text.partition(": ")
        rows.append((f"Scenario: {title}", "", "", "", "modelled", rest))
    head = ("Assumption", "Value", "P5 to P95", "Unit", "Basis", "Source and date")
    return Table("Assumptions with source and date", head, rows, (3, 4, 5))


def _site(e: FleetEstimate) -> tuple[tuple[str, str], ...]:
    site, types = e.site, " + ".join(e.site.types) or "of unknown type"
    rows = [
        ("Site", f"{site.title} ({site.name})"),
        ("GPUs", f"{site.gpus.value:,.0f} {types}; {site.gpus.cite()}"),
    ]
    for title, item, unit in (
        ("Power cap", site.power_mw, "MW"),
        ("PUE", site.pue, ""),
        ("Price", site.usd_per_month, "USD per month"),
        ("Price", site.usd_per_gpu_h, "USD per GPU-hour"),
        ("Construction time", site.build_days, "days"),
        ("Notice period", site.notice_days, "days"),
    ):
        if item is not None:
            rows.append((title, f"{scaled(item.value)} {unit}; {item.cite()}".replace(" ;", ";")))
    for title, text in (
        ("Available", site.available),
        ("Until", site.until),
        ("Terminable after", site.terminable_after),
        ("Terms", site.terms),
    ):
        if text:
            rows.append((title, text))
    return tuple(rows)


def _run(e: FleetEstimate) -> tuple[tuple[str, str], ...]:
    rows = [("Run", f"{e.run_name} ({e.run_id}), {e.status}"), ("Folder", e.run)]
    work = e.work
    named = (
        ("Model", work.model),
        ("Precision", work.precision),
        ("Workload", work.workload),
        ("API", work.api),
        ("KV cache", work.kv),
    )
    rows += [(title, text) for title, text in named if text]
    if work.mean_input_tok is not None:
        inside, out = plain(work.mean_input_tok), plain(work.mean_output_tok)
        rows.append(("Mean lengths", f"{inside} input tokens, {out} output tokens"))
    return tuple(rows)
