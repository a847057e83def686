"""The text, tables and charts of a run's report. All decisions are made here; the templates only
place the parts.
"""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from harness.artifacts.run_summary import Calibration, Client, Distribution
from harness.core.metrics import LATENCY_KEYS, METRICS
from harness.core.records import Basis, Concern
from harness.reduce.figures.without_records import lost
from harness.reduce.reduction import Reduction
from harness.reduce.series import series
from harness.report.headline import (
    HeadlineRow,
    figure_row,
    headline_rows,
    purpose_sentence,
)
from harness.report.numbers import DASH, duration, plain
from harness.report.run.accounts import classes, quality, recount_row, rosetta, rosetta_notes
from harness.report.run.description import sentence
from harness.report.run.energy import EnergyView, energy_absent, energy_view
from harness.report.run.environment import environment
from harness.report.run.server import cache, server
from harness.report.run.slos import slos
from harness.report.run.stages import headline_sentence, stage_table
from harness.report.run.timeline import charts
from harness.report.tables import ChartView, Table

_STATUS_WORDS: Final = {
    "functional": "Everything worked and the counts agree.",
    "valid": "No validity problems found.",
    "preliminary": ("Results are usable, but the measurement window is too short to publish."),
    "degraded": "Results may be distorted; see the concerns.",
    "invalid": "Do not use these results; see the concerns.",
}


@dataclass(frozen=True, slots=True)
class Tile:
    """One of the key metrics at the top."""

    title: str
    value: str
    unit: str
    note: str


@dataclass(frozen=True, slots=True)
class View:
    """The content of a report, as text."""

    title: str
    status: str
    status_words: str
    purpose_words: str
    concerns: Sequence[Mapping[str, str]]
    sentence: str
    window_rule: str
    tiles: Sequence[Tile]
    headline: Sequence[HeadlineRow]
    absent: Sequence[HeadlineRow]
    absent_words: str
    slos: Table | None
    requests: Table
    latency: Table
    latency_absent: str
    latency_notes: Sequence[str]
    generator: Table | None
    generator_notes: Sequence[str]
    reconciliation: Table
    stages: Table | None
    headline_sentence: str
    classes: Table | None
    rosetta: Table | None
    rosetta_notes: Sequence[str]
    quality: Sequence[str]
    energy: EnergyView | None
    energy_absent: str
    cache: Table | None
    server: Sequence[Table]
    errors: Table | None
    charts: Mapping[str, ChartView]
    environment: Sequence[tuple[str, str]]
    profile_yaml: str
    profile_name: str
    definitions: Table
    notes: Sequence[str]
    footer: str


def view(reduction: Reduction) -> View:
    """The content of a run's report."""
    summary = reduction.summary
    rows = headline_rows(summary)
    latency_rows, latency_notes = _latency(summary.latency)
    grid = series(reduction)
    name = summary.profile.name or summary.run_id
    absent = [row for row in [*rows, *_other_absent(reduction, rows)] if row.basis == "absent"]
    return View(
        title=str(name),
        status=str(summary.verdict.status),
        status_words=_STATUS_WORDS[str(summary.verdict.status)],
        purpose_words=purpose_sentence(summary),
        concerns=[_concern(concern) for concern in summary.verdict.concerns],
        sentence=sentence(reduction),
        window_rule=_window_sentence(reduction),
        tiles=_tiles(rows),
        headline=[row for row in rows if row.basis != "absent"],
        absent=absent,
        absent_words=f"Metrics not available: {len(absent)}",
        slos=slos(reduction),
        requests=_requests(reduction),
        latency=latency_rows,
        latency_absent=_latency_absent(reduction),
        latency_notes=[*latency_notes, *_error_bound(summary.client)],
        generator=_generator(summary.client),
        generator_notes=_generator_notes(summary.client),
        reconciliation=_reconciliation(reduction),
        stages=stage_table(summary, reduction.run.profile.traffic.load),
        headline_sentence=headline_sentence(summary),
        classes=classes(summary),
        rosetta=rosetta(summary),
        rosetta_notes=rosetta_notes(summary),
        quality=quality(summary),
        energy=energy_view(summary.energy),
        energy_absent=energy_absent(summary),
        cache=cache(reduction),
        server=server(reduction),
        errors=_errors(reduction),
        charts=charts(reduction, grid),
        environment=environment(reduction),
        profile_yaml=_yaml(reduction.run.profile_json),
        profile_name=f"{name}.yaml",
        definitions=_definitions(),
        notes=summary.notes,
        footer=_footer(reduction),
    )


def _concern(concern: Concern) -> dict[str, str]:
    number_words = duration if concern.code in _IN_SECONDS else _short
    return {
        "severity": str(concern.severity),
        "code": concern.code,
        "message": concern.message,
        "value": number_words(concern.value) if concern.value is not None else "",
        "limit": number_words(concern.limit) if concern.limit is not None else "",
    }


def _short(value: float) -> str:
    """A limit as it was set: without trailing zeros."""
    text = plain(value)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


_IN_SECONDS: Final = frozenset(
    {
        "client_error",
        "event_loop_lag",
        "late_sends",
        "scrape_gap",
        "power_gap",
        "warmup_in_window",
        "energy_window_short",
    }
)
"""Concerns whose value is a time; other values are counts and shares."""


def _other_absent(reduction: Reduction, rows: Sequence[HeadlineRow]) -> list[HeadlineRow]:
    shown = {row.key for row in rows}
    return [
        figure_row(key, f)
        for key, f in reduction.summary.metrics.items()
        if key not in shown and f.value is None
    ]


def _tiles(rows: Sequence[HeadlineRow]) -> list[Tile]:
    by_key = {row.key: row for row in rows if row.basis != "absent"}
    rates = (
        ("output_tok_s_per_gpu", "Output per GPU"),
        ("output_tok_s", "Output throughput"),
        ("output_tok_per_j", "Output per joule"),
        ("usd_per_mtok", "Cost per million output tokens"),
        ("slo_met_ratio", "SLO attainment"),
        ("requests_per_s", "Requests/s"),
        ("prefix_hit_ratio", "Prefix cache hit rate"),
    )
    latencies = (
        ("ttft_s.p50", "TTFT p50"),
        ("ttft_s.p99", "TTFT p99"),
        ("tpot_s.p50", "TPOT p50"),
    )
    tiles: list[Tile] = []
    for titles in (rates, latencies):
        found = [(title, by_key[key]) for key, title in titles if key in by_key][:3]
        for title, row in found:
            unit = {"usd_per_mtok": "USD", "requests_per_s": "req/s"}.get(row.key, row.unit)
            note = f"95% CI {row.interval}" if row.interval else "no interval"
            note += "" if row.basis == Basis.MEASURED else f" · {row.basis}"
            tiles.append(Tile(title, row.value, unit, note))
    return tiles


def _window_sentence(reduction: Reduction) -> str:
    window = reduction.summary.window
    if window.duration_s is None:
        return window.rule
    start, end = plain(window.start_s), plain(window.end_s)
    span = f"{duration(window.duration_s)}, from {start} s to {end} s of the run"
    return f"Measurement window: {span}. {window.rule}"


def _requests(reduction: Reduction) -> Table:
    counts = reduction.summary.requests
    planned = plain(counts.planned) if counts.planned is not None else "bounded by time"
    if lost(reduction.run.concerns):
        head: tuple[str, ...] = ("Requests", "Planned", "Sent", "Completed", "Failed", "Dropped")
        rows = [("Complete run", planned, *[DASH] * 4)]
        return Table("Request outcomes: not available", head, rows)
    cells = {
        "Planned": planned,
        "Sent": plain(counts.sent),
        "Completed": plain(counts.ok),
        "Failed": plain(counts.failed),
        "Dropped": plain(counts.dropped),
    }
    if counts.cancelled:
        cells["Canceled by plan"] = plain(counts.cancelled)
    if counts.turns_not_happened:
        cells["Turns not reached"] = plain(counts.turns_not_happened)
    if counts.in_window is not None:
        cells["Scheduled in the window"] = plain(counts.in_window)
    if counts.by_stop_reason:
        ordered = sorted(counts.by_stop_reason.items(), key=lambda item: (-item[1], item[0]))
        cells["Stop reasons"] = ", ".join(f"{name}: {n:,}" for name, n in ordered[:6])
    row = ("Complete run", *cells.values())
    words = (len(row) - 1,) if counts.by_stop_reason else ()
    return Table("Request outcomes", ("Requests", *cells), [row], text=words)


_QUANTILES: Final = ("mean", "p50", "p90", "p95", "p99", "p999", "max")


def _latency(latency: Mapping[str, Distribution]) -> tuple[Table, list[str]]:
    rows, notes, censored = [], [], 0
    for key in LATENCY_KEYS:
        distribution = latency.get(key, Distribution())
        if not distribution.n and not distribution.censored:
            continue
        rows.append(
            [
                METRICS[key].title,
                *(duration(getattr(distribution, q)) for q in _QUANTILES),
                f"{distribution.n:,}",
            ]
        )
        censored = max(censored, distribution.censored)
    if censored:
        notes.append(
            f"Up to {censored:,} requests of the window failed, were dropped or did not finish."
            " They count as slower than all others. Percentiles that reach into their share are"
            " not available, nor are mean and max."
        )
    head = ("", "mean", "p50", "p90", "p95", "p99", "p99.9", "max", "n")
    return Table("Latency of requests scheduled in the window", head, rows), notes


def _latency_absent(reduction: Reduction) -> str:
    """Why there is no latency, as a sentence."""
    if reduction.headline is None or reduction.summary.window.duration_s is None:
        return "There is no measurement window."
    if lost(reduction.run.concerns):
        return "There are no request records."
    return "No request was scheduled in the window."


def _error_bound(client: Client) -> list[str]:
    """Error of the latencies above, in one sentence; empty if nothing measured it."""
    level = None if client.calibration is None else client.calibration.at_load
    for found, when, more in (
        (client.canary, "in this run", " (canary requests, below)."),
        (level, "at calibration", " (not measured in this run)."),
    ):
        if found is None or found.ttft_error is None or found.gap_error is None:
            continue
        ttft, gap = found.ttft_error.p99_s, found.gap_error.p99_s
        if ttft is not None and gap is not None:
            text = (
                f"Load-generator timing error {when}, p99: TTFT {duration(ttft)},"
                f" inter-token gap {duration(gap)}{more}"
            )
            return [text]
    return []


def _generator(client: Client) -> Table | None:
    """Timing errors of the load generator: in this run, and at calibration."""
    calibration = client.calibration or Calibration()
    rows = []
    for place, measured in (
        ("in this run (canary requests)", client.canary),
        ("calibration, at this load", calibration.at_load),
        ("calibration, at the highest load", calibration.highest),
    ):
        if measured is None:
            continue
        for found, title in (
            (measured.ttft_error, "TTFT"),
            (measured.gap_error, "Inter-token gap"),
            (measured.sent_error, "Send time"),
            (measured.send_lag, "Send delay"),
        ):
            if found is not None and found.n:
                values = (duration(v) for v in (found.p50_s, found.p99_s, found.max_s))
                rows.append([f"{title}, {place}", *values, plain(found.n)])
    if not rows:
        return None
    head = ("Error, per request", "p50", "p99", "max", "n")
    caption = "Load-generator timing error, measured against a reference server"
    return Table(caption, head, rows)


def _generator_notes(client: Client) -> list[str]:
    notes = []
    peak = None if client.load is None else client.load.events_per_s_peak
    carried = (
        f"Peak load in the measurement window: {plain(peak, 3)} events/s."
        if peak is not None
        else ""
    )
    calibration = client.calibration
    if calibration is not None:
        notes.append(f"{_certified(calibration)} {carried}".strip())
        if note := (calibration.cores or {}).get("note"):
            notes.append(f"Cores: {note}.")
    else:
        notes.append(f"The load generator was not calibrated. {carried}".strip())
    if client.canary is None:
        notes.append("No canary requests were sent: the timing error in this run is unknown.")
    return notes


def _certified(calibration: Calibration) -> str:
    workers = calibration.workers
    certified = (calibration.certified_events_per_s or {}).get(str(workers))
    cost = None if calibration.highest is None else calibration.highest.client_us_per_event
    upto = (
        f"up to {plain(certified, 3)} events/s within"
        f" {duration(calibration.bound_s)} (p99 of each error)"
        if certified is not None
        else "for no load"
    )
    quick = "Quick calibration" if calibration.quick else "Calibration"
    count = f"{workers} {'worker' if workers == 1 else 'workers'}"
    at_cost = f", at {plain(cost, 3)} µs CPU per event" if cost is not None else ""
    return f"{quick} of {calibration.made_at}: {count} certified {upto}{at_cost}."


def _reconciliation(reduction: Reduction) -> Table:
    rows: list[tuple[str, ...]] = []
    for key, agreement in reduction.summary.reconciliation.items():
        verdict = {True: "equal within tolerance", False: "not equal", None: "not available"}[
            agreement.ok
        ]
        if agreement.ok and agreement.client == agreement.server:
            verdict = "equal"
        difference = DASH
        if agreement.client is not None and agreement.server is not None:
            difference = plain(agreement.client - agreement.server, 12)
        rows.append(
            (
                key.replace("_", " ").capitalize(),
                plain(agreement.client, 12),
                plain(agreement.server, 12),
                difference,
                plain(agreement.tolerance, 12),
                verdict,
                agreement.note or "",
            )
        )
        rows.append(recount_row(key, agreement.tokenizer))
    head = (
        "Complete run",
        "Client (usage)",
        "Server (counters)",
        "Difference",
        "Tolerance",
        "Result",
        "Note",
    )
    return Table("Token counts of client and server", head, rows, text=(5, 6))


def _errors(reduction: Reduction) -> Table | None:
    requests = reduction.run.requests
    bad = np.flatnonzero(~requests.ok & ~requests.cancelled)
    if len(bad) == 0:
        return None
    errors = requests.error.take(pa.array(bad)).to_pylist()
    counts = Counter(
        (
            outcome,
            DASH if np.isnan(status) else f"{status:.0f}",
            (error or DASH)[:160],
        )
        for outcome, status, error in zip(
            requests.outcome[bad], requests.http_status[bad], errors, strict=True
        )
    )
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:12]
    rows = [(*key, f"{n:,}") for key, n in ordered]
    head = ("Outcome", "HTTP status", "Error", "Requests")
    return Table("Failed and dropped requests", head, rows, text=(2,))


# --- the profile and the definitions ---


def _yaml(profile: Mapping[str, Any]) -> str:
    """The resolved profile as YAML for `harness run`, without keys that are not set."""
    if not profile:
        return ""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 120
    out = io.StringIO()
    yaml.dump(_without_none(profile), out)
    return out.getvalue()


def _without_none(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value


def _definitions() -> Table:
    rows = [
        (
            d.title,
            d.key,
            d.unit if d.unit != "1" else "",
            d.formula,
            f"{d.better} is better" if d.better != "neither" else "",
        )
        for d in METRICS.values()
    ]
    return Table("Metric definitions", ("Metric", "Key", "Unit", "Definition", ""), rows)


def _footer(reduction: Reduction) -> str:
    by = reduction.run.manifest.harness
    made = f"Run by colossus-harness {by.version}; " if by and by.version else ""
    return (
        f"{made}metric definitions version {reduction.summary.metric_version}. `harness report`"
        " recreates this page."
    )
