"""A fleet's estimate and forecast -> what its page and its Markdown show: words, tables and charts.
No figure is made here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    FleetTable,
    fleet_charts_of,
    percent,
    scaled,
    scaled_range,
)
from harness.report.numbers import DASH, plain, share

SURE: Final = 3
"""Factors that the first screen names."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure of the first screen; `low` and `high` place its P5 and P95, `at` its value, in
    percent of the bar.
    """

    title: str
    value: str
    unit: str
    note: str
    low: float | None = None
    high: float | None = None
    at: float | None = None


@dataclass(frozen=True, slots=True)
class FleetView:
    """All that is shown."""

    title: str
    badge: str
    tone: str
    lead: str
    sure: tuple[str, ...]
    flags: tuple[str, ...]
    contradictions: tuple[str, ...]
    tiles: tuple[Tile, ...]
    figures: FleetTable
    absent: tuple[tuple[str, str], ...]
    charts: Mapping[str, FleetChart]
    waterfall: FleetTable
    time: tuple[FleetTable, ...]
    time_lead: str
    scenarios: FleetTable | None
    side_by_side: FleetTable | None
    refused: FleetTable | None
    assumptions: FleetTable
    site: tuple[tuple[str, str], ...]
    run: tuple[tuple[str, str], ...]
    footer: str
    notes: tuple[str, ...] = field(default=())


def fleet_view(answer: FleetAnswer) -> FleetView:
    """What is shown of one or more cases; the first one fills the page, next to it the others."""
    cases = answer.cases
    case = cases[0]
    e, f = case.estimate, case.forecast
    tones = {
        Status.VALID: "valid",
        Status.PRELIMINARY: "preliminary",
        Status.DEGRADED: "degraded",
        Status.INVALID: "invalid",
    }
    tone = "invalid" if e.demonstration else tones.get(e.status, "degraded")
    return FleetView(
        title=f"{e.site.title}: what it would deliver",
        badge=(
            "a demonstration, nothing measured"
            if e.demonstration
            else f"modelled from a {e.status} run"
        ),
        tone=tone,
        lead=_lead(e),
        sure=_sure(e),
        flags=e.flags,
        contradictions=e.contradictions,
        tiles=_tiles(e),
        figures=_figures(e),
        absent=tuple(
            (figure.title, figure.note or "") for figure in e.figures if figure.value is None
        ),
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
            f"As of {e.as_of.text()}. Scaled from one measured run by stated factors."
            f" Ranges are P5 to P95 of {e.draws:,}"
            f" draws (seed {e.seed}) and hold what the factors hold, no more: a factor that nobody"
            " thought of is not in them. No figure here was measured at the site, and nothing here"
            " was validated against one."
        ),
    )


# --- words ---


def _span(figure: FleetFigure) -> str:
    if figure.p5 is None or figure.p95 is None:
        return "as stated"
    text = scaled_range(figure.p5, figure.p95)
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
        else f"{e.gpu} (modelled from the run's {e.measured_gpu})"
    )
    words = [
        (
            f"Serving the work that was measured ({work or 'not recorded'}),"
            f" {e.central['gpus_powered']:,.0f} {gpu} would give {_value(tokens)} output tokens a day"  # noqa: E501
            f" ({_span(tokens)}, P5 to P95)"
        )
    ]
    words.append(
        f"draw {plain(power.value, 3)} MW over the day"
        if power.value is not None
        else "draw an unknown power"
    )
    if cost.value is not None:
        words.append(f"cost ${plain(cost.value, 3)} a million output tokens at the site's price")
    limit = {
        "power": "Its power cap limits it",
        "count": "The number of its GPUs limits it",
        "unknown": "What limits it is not known",
    }[e.binding]
    return ", ".join(words[:-1]) + f" and {words[-1]}. {limit}."


def _sure(e: FleetEstimate) -> tuple[str, ...]:
    """What the answer turns on most."""
    value = e.figure("output_tok_per_day")
    said = []
    if value.value and value.p5 is not None and value.p95 is not None:
        said.append(
            "How sure: nine in ten draws put the tokens between"
            f" {_beside(value.p5 / value.value - 1)} and {_beside(value.p95 / value.value - 1)} the"
            " central value."
        )
    found = [swing for swing in e.tornado if swing.figure == "output_tok_s"][:SURE]
    if found:
        named = "; ".join(
            f"{swing.title[0].lower()}{swing.title[1:]}"
            f" ({percent(swing, e.central['output_tok_s'])})"
            for swing in found
        )
        said.append(f"What moves the tokens most: {named}.")
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
        if (
            cost is not None and asked is not None and asked < peak
        ):  # the whole site is paid for fewer tokens
            dearer = (
                " Serving no more than that, a million output tokens cost"
                f" ${plain(cost * peak / asked, 3)} at the site's price."
            )
        said.append(
            f"The stated demand needs {scaled(needed.value)} GPUs{at} at peak ({_span(needed)});"
            f" the site meets {share(met.value)} of it.{dearer}"
        )
    measured = sum(
        1
        for factor in e.factors.values()
        if factor.basis is Basis.MEASURED and not factor.key.startswith("usd")
    )
    guessed = sum(
        1
        for factor in e.factors.values()
        if factor.basis is Basis.MODELLED and not factor.key.startswith("usd")
    )
    said.append(
        f"{measured} of the factors were measured in the run, {guessed} are assumptions with a"
        " source."
    )
    return tuple(said)


def _beside(change: float) -> str:
    return f"{abs(100 * change):.0f}\u00a0% {'below' if change < 0 else 'above'}"


_TILES: Final = (
    ("output_tok_per_day", "Output tokens a day", "", "mean of a day"),
    ("output_tok_s_peak", "Output tokens a second", "tok/s", "at peak"),
    ("sessions", "Concurrent sessions", "", "within the SLO, at peak"),
    ("power_mean_mw", "Power", "MW", "mean of a day, at the meter"),
    ("output_tok_s_per_mw", "Tokens a second per megawatt", "tok/s/MW", "at peak, at the meter"),
    ("j_per_output_tok_mean", "Energy per output token", "J", "mean of a day, at the meter"),
    ("usd_per_mtok", "Cost per million output tokens", "USD", "at the site's price"),
    ("usd_per_gpu_h", "Price of a GPU-hour", "USD", "implied by the site's price"),
    ("co2_t_per_day", "CO2 a day", "t", "of its electricity"),
)


def _tiles(e: FleetEstimate) -> tuple[Tile, ...]:
    tiles = []
    for key, title, unit, note in _TILES:
        figure = e.figure(key)
        if figure.value is None:
            tiles.append(Tile(title, "absent", "", figure.note or ""))
        elif figure.p5 is None or figure.p95 is None or figure.p95 <= 0:  # nothing to draw a bar of
            tiles.append(Tile(title, f"{figure.value:.2f}", unit, note))
        else:
            top = max(figure.p95, figure.value) * 1.15
            places = (100 * figure.p5 / top, 100 * figure.p95 / top, 100 * figure.value / top)
            tiles.append(Tile(title, _value(figure), unit, f"{_span(figure)} · {note}", *places))
    return tuple(tiles)


# --- tables ---


def _figures(e: FleetEstimate) -> FleetTable:
    rows = []
    for figure in e.figures:
        if figure.value is None:
            continue
        value, p5, p50, p95 = (
            scaled(number, 4, max(figure.value, figure.p95 or 0.0))
            for number in (figure.value, figure.p5, figure.p50, figure.p95)
        )
        unit = figure.unit if figure.unit not in {"1", "GPU", "session"} else ""
        rows.append(
            (
                figure.title,
                f"{value} {unit}".strip(),
                p5,
                p50,
                p95,
                str(figure.basis),
                figure.boundary,
                figure.note or "",
            )
        )
    head = ("Figure", "Value", "P5", "P50", "P95", "Basis", "Boundary", "Note")
    return FleetTable(
        "Value: every factor central. P5, P50, P95: of the draws", head, tuple(rows), (5, 6, 7)
    )


def _waterfall_table(e: FleetEstimate) -> FleetTable:
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
    head = ("Step", "Factor (P5 to P95)", "Gives", "Basis", "Source")
    return FleetTable(
        "From the measured number to the site's, tokens first, then power",
        head,
        tuple(rows),
        (3, 4),
    )


def _range(item: Range | None, of: str = "plain") -> str:
    if item is None:
        return DASH
    if of == "share":
        low, middle, high = share(item.p5), share(item.p50), share(item.p95)
    elif of == "months":  # a tenth of a month is all that assumptions of days are worth
        low, middle, high = (f"{number:.1f}" for number in (item.p5, item.p50, item.p95))
    else:
        low, middle, high = (
            scaled(number, 3, item.p95) for number in (item.p5, item.p50, item.p95)
        )
    return middle if low == high else f"{middle} ({low} to {high})"


_TOTALS: Final = (
    ("demand_tok", "Output tokens asked", "plain"),
    ("served_tok", "Output tokens served", "plain"),
    ("shed_tok", "Output tokens shed", "plain"),
    ("served_ratio", "Served of what was asked", "share"),
    ("slo_ratio", "Served within the SLO", "share"),
    ("worst_hour_slo_ratio", "Served within the SLO in the worst hour", "share"),
    ("hours_below_99_percent", "Hours with less than 99 % within the SLO", "plain"),
    ("power_mean_mw", "Power, mean (MW)", "plain"),
    ("power_peak_mw", "Power, highest hour (MW)", "plain"),
    ("energy_mwh", "Energy (MWh)", "plain"),
    ("down_nodes_mean", "Failed nodes, mean", "plain"),
    ("down_nodes_p999", "Failed nodes, P99.9 of hours", "plain"),
    ("moved_sessions", "Sessions whose replica failed", "plain"),
    ("recomputed_tok", "Input tokens of lost prefix caches", "plain"),
)


def _time_tables(f: Forecast | None) -> tuple[FleetTable, ...]:
    if f is None:
        return ()
    years = (
        "one simulated year"
        if f.years == 1
        else f"{f.years} simulated years: median (P5 to P95 over years)"
    )
    totals = FleetTable(
        f"A year of the site, {years}",
        ("Figure", "A year"),
        tuple((title, _range(f.totals.get(key), of)) for key, title, of in _TOTALS),
    )
    titles = {item.key: item.title for item in failure_classes()}
    failures = FleetTable(
        "Failures of a simulated year, by what failed",
        ("What", "A year"),
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
            " estimate above, which keeps every replica up; here those that demand does not need"
            " sleep."
        )
    per_replica = f"{f.gpus_per_replica} GPU{'s' if f.gpus_per_replica > 1 else ''}"
    return (
        f"{f.nodes:,} nodes of {f.gpus_per_node} {e.gpu}, {f.spares:,} of them spares; a failure"
        f" stops replicas of {per_replica} until a spare serves. {needed.p50:,.0f} spares"
        f" ({share(needed.p50 / f.nodes)} of the nodes) cover the failed nodes in 99.9 % of hours."
        f" Single failures alone, in closed form (M/G/∞): {f.closed['mean']:,.0f} down on average,"
        f" {f.closed['p999']:,.0f} at P99.9; the rest comes from switches, cooling and power that"
        f" take whole groups.{power}"
    )


def _scenario_table(f: Forecast | None) -> FleetTable | None:
    if f is None or not f.scenarios:
        return None
    first = f.scenarios[0]
    base = (
        "As it stands",
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
        "Site-months missing",
        "Paid (USD)",
        "USD/Mtok",
        "Elsewhere (USD)",
        "Years",
    )
    rows = (base, *(_scenario_row(item) for item in f.scenarios))
    return FleetTable("What each does if it happens: median (P5 to P95)", head, rows)


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
    """What each case is called beside the others: site, run and GPU; a run goes by its folder where
    another has the same name.
    """
    found = []
    for e in (case.estimate for case in cases):
        same = {case.estimate.run for case in cases if case.estimate.run_name == e.run_name}
        run = e.run_name if len(same) == 1 else Path(e.run).name
        gpu = e.gpu if e.measured_gpu in {"", e.gpu} else f"{e.gpu}, modelled from {e.measured_gpu}"
        found.append(f"{e.site.name} · {run} ({gpu}, {e.status})")
    return tuple(found)


def _further_flags(cases: Sequence[Case]) -> tuple[str, ...]:
    """Reasons to doubt the cases beside the first, each once, with what it is about."""
    found: dict[str, list[str]] = {}
    for case, name in zip(cases[1:], _names(cases)[1:], strict=True):
        for flag in case.estimate.flags:
            if flag not in cases[0].estimate.flags:
                found.setdefault(flag, []).append(name)
    return tuple(f"{'; '.join(names)}: {flag}" for flag, names in found.items())


def _side_by_side(cases: Sequence[Case]) -> FleetTable:
    rows = []
    for key in _COMPARED:
        figures = [case.estimate.figure(key) for case in cases]
        digits = 4 if key == "usd_per_gpu_h" else 3
        unit = f" ({figures[0].unit})" if figures[0].unit not in {"1", "session"} else ""
        rows.append(
            (
                figures[0].title.partition(" (")[0] + unit,
                *(
                    (
                        f"{_value(figure, digits)} ({_span(figure)})"
                        if figure.value is not None
                        else DASH
                    )
                    for figure in figures
                ),
            )
        )
    rows.append(("Limited by", *(case.estimate.binding for case in cases)))
    all_work = [case.estimate.work for case in cases]
    work = {(one.model, one.precision, one.workload) for one in all_work}
    lengths = [one.context_tok or 0.0 for one in all_work]
    caption = "Side by side: value (P5 to P95)"
    if len(work) > 1 or max(lengths) - min(lengths) > SAME_LENGTH * max(lengths):
        caption += ". The runs measured different work: columns of different runs do not compare"
    return FleetTable(caption, ("Figure", *_names(cases)), tuple(rows))


def _value(figure: FleetFigure, digits: int = 3) -> str:
    """With the letter of its own range."""
    return scaled(figure.value, digits, figure.p95)


def _refused(refused: Sequence[Refusal]) -> FleetTable | None:
    if not refused:
        return None
    return FleetTable(
        "No answer",
        ("Site", "Run", "Why"),
        tuple((item.site, item.run, item.why) for item in refused),
        (1, 2),
    )


def _assumptions(e: FleetEstimate, f: Forecast | None) -> FleetTable:
    rows = [
        (
            factor.title,
            plain(factor.value, 4),
            _ends(factor.ends()) if factor.spread else "fixed",
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
    head = ("What", "Value", "P5 to P95", "Unit", "Basis", "Source and date")
    return FleetTable("Every assumption, with its source and date", head, tuple(rows), (3, 4, 5))


def _ends(ends: tuple[float, float]) -> str:
    return f"{plain(ends[0], 3)} to {plain(ends[1], 3)}"


def _site(e: FleetEstimate) -> tuple[tuple[str, str], ...]:
    site = e.site
    rows = [
        ("Site", f"{site.title} ({site.name})"),
        (
            "GPUs",
            (
                f"{site.gpus.value:,.0f} {' + '.join(site.types) or 'of a type not stated'};"
                f" {site.gpus.cite()}"
            ),
        ),
    ]
    for title, item, unit in (
        ("Power cap", site.power_mw, "MW"),
        ("PUE", site.pue, ""),
        ("Price", site.usd_per_month, "USD a month"),
        ("Price", site.usd_per_gpu_h, "USD a GPU-hour"),
        ("Built in", site.build_days, "days"),
        ("Notice", site.notice_days, "days"),
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
        ("Cache arithmetic", work.kv),
    )
    rows += [(title, text) for title, text in named if text]
    if work.mean_input_tok is not None:
        inside, out = plain(work.mean_input_tok), plain(work.mean_output_tok)
        rows.append(("Lengths", f"{inside} tokens in, {out} out, on average"))
    return tuple(rows)
