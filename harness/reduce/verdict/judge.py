"""Whether a run can be trusted: every concern with its value and limit, and the status that
follows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from harness.artifacts.run_summary import (
    Agreement,
    Client,
    Quality,
    ScopeLoad,
    Slos,
    Verdict,
)
from harness.core.metric_names import Concept
from harness.core.records import Concern, OutputLength, Purpose, RunState, Severity, Status
from harness.reduce.figures.window_figures import StageFigures, intended_in
from harness.reduce.over_time.counters import ServerCounters
from harness.reduce.over_time.flows import Flows
from harness.reduce.read.run import Run, gpu_count
from harness.reduce.verdict.answers import quality_concerns
from harness.reduce.verdict.load_generator import client_concerns
from harness.reduce.verdict.records import record_concerns
from harness.reduce.verdict.recount import recount_concerns
from harness.reduce.verdict.scrapes import scrape_concerns
from harness.reduce.windows.measurement_window import StageWindow
from harness.reduce.windows.steady_state import steady_concerns

CLIENT_CPU_LIMIT: Final = 0.85
"""Share of one core above which a load generator's process is saturated: it then adds delays of its
own.
"""
WATCHED_SHARE: Final = 0.5
"""The load generator's CPU must have been read over this share of the window."""
WATCHED_FROM_S: Final = 5.0
"""Windows shorter than this hold too few of its readings to tell."""
LAG_SHARE_OF_SLO: Final = 0.05
"""Schedule lag (p99) must stay within this share of the TTFT SLO: the resolution at which the SLO
is judged.
"""
LAG_LIMIT_S: Final = 0.05
"""Limit of schedule lag (p99) without a TTFT SLO."""
LAG_INVALID_S: Final = 1.0
"""Schedule lag (p99) above the TTFT SLO, or without one above this, makes a measurement invalid:
the load was not the planned one.
"""
ERROR_BUDGET: Final = 0.01
"""Share of failed requests above which a run is degraded."""
ERROR_LIMIT: Final = 0.10
"""Share of failed requests above which a run is invalid."""
MIN_WINDOW_S: Final = 600.0
"""Shortest window of a headline (LoadGen's minimum duration)."""
MIN_E2E_MULTIPLE: Final = 10
"""A headline's window is at least this many times the p95 of e2e."""
MIN_COMPLETIONS_PER_SLOT: Final = 20
"""A headline wants at least this many completions per concurrency slot."""
WINDOW_TOLERANCE: Final = 0.01
"""Client and server may differ by this share within the window, where counters are interpolated."""
LENGTH_TOLERANCE: Final = 0.05
"""Mean realised input length may differ from the plan's by this share."""
CLIPPED_SHARE: Final = 0.05
"""Share of clipped requests above which the load is another one than the workload describes."""
SERVER_TTFT_SLACK: Final = 1.5
"""The mean of the server's TTFT histogram may be this many times the longest wait that the client
saw. It lies below it, but for requests at the window's edges.
"""
WARM_TOK: Final = 1000
"""Prompt tokens counted before the load that probes and the quality check do not explain."""

_SEVERITIES: Final = (Severity.INVALID, Severity.DEGRADED, Severity.PRELIMINARY, Severity.NOTE)
_STATUS: Final[Mapping[Severity, Status]] = {
    Severity.NOTE: Status.VALID,
    Severity.PRELIMINARY: Status.PRELIMINARY,
    Severity.DEGRADED: Status.DEGRADED,
    Severity.INVALID: Status.INVALID,
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a run is judged by.

    Attributes:
        run: the directory in memory.
        windows: of all stages.
        headline: the stage whose figures head the summary; None when no stage was started.
        flow: tokens and requests over time.
        figures: per stage.
        reconciliation: counts of tokens by client, server and tokenizer.
        counters: the server's counters; None without scrapes.
        host: CPU and memory of each scope.
        slos: of the profile; None where it sets none.
        client: the load generator's own figures.
        answers: what the checks of answers found.
    """

    run: Run
    windows: Sequence[StageWindow]
    headline: StageWindow | None
    flow: Flows
    figures: Mapping[str, StageFigures]
    reconciliation: Mapping[str, Agreement]
    counters: ServerCounters | None
    host: Mapping[str, ScopeLoad]
    slos: Slos
    client: Client
    answers: Quality | None


def judge(evidence: Evidence) -> Verdict:
    """The verdict of a run.

    Smoke: functional unless something shows that the run did not work (severity invalid); the other
    concerns are listed all the same. Measure: as bad as its worst concern.
    """
    smoke = evidence.run.profile.purpose == Purpose.SMOKE
    found = _concerns(evidence, smoke=smoke)
    unique = {(c.code, c.message): c for c in found}
    ordered = tuple(
        sorted(unique.values(), key=lambda c: (_SEVERITIES.index(c.severity), c.code, c.message))
    )
    worst = ordered[0].severity if ordered else Severity.NOTE
    if smoke:
        return Verdict(Status.INVALID if worst is Severity.INVALID else Status.FUNCTIONAL, ordered)
    return Verdict(_STATUS[worst], ordered)


def _concerns(evidence: Evidence, *, smoke: bool) -> list[Concern]:
    run, headline, counters = evidence.run, evidence.headline, evidence.counters
    figures, slos, answers = evidence.figures, evidence.slos, evidence.answers
    found = _of_the_run(run, smoke=smoke)
    found += _requests(run, headline, smoke=smoke)
    found += _window(run, evidence.windows, headline, figures, smoke=smoke)
    found += [] if smoke else steady_concerns(headline)
    found += _reconciled(run, evidence.reconciliation, smoke=smoke)
    found += _client(run, evidence.host, headline, figures, slos, smoke=smoke)
    found += client_concerns(run, evidence.client, slos, smoke=smoke)
    checked_tok = 0 if answers is None else answers.input_tok or 0
    found += _server(run, headline, counters, evidence.flow, checked_tok, smoke=smoke)
    found += _lengths(run, smoke=smoke)
    found += quality_concerns(run, answers, smoke=smoke)
    found += recount_concerns(evidence.reconciliation["input_tokens"].tokenizer, smoke=smoke)
    if headline is not None:
        found += figures[headline.name].energy_concerns
    if gpu_count(run) is not None and run.power is None:
        text = "The deployment has GPUs but no power was read; energy figures are absent."
        found.append(Concern("power_missing", Severity.DEGRADED, text))
    return found


def _of_the_run(run: Run, *, smoke: bool) -> list[Concern]:
    """What reading found, and what the run itself put into its manifest."""
    raw = run.profile.purpose
    # A smoke run proves that everything works to its end; an interrupted one proves nothing.
    found: list[Concern] = [
        replace(c, severity=Severity.INVALID) if smoke and c.code == "interrupted" else c
        for c in run.concerns
    ]
    found = [
        c for c in found if c.code != "steady_state_missing"
    ]  # of runs of an older harness; the reduction makes the test now
    if raw not in (Purpose.SMOKE, Purpose.MEASURE):
        found.append(
            Concern(
                "purpose_unknown",
                Severity.INVALID,
                "The manifest does not say what the run was for.",
            )
        )
    return found


def _requests(run: Run, headline: StageWindow | None, *, smoke: bool) -> list[Concern]:
    requests = run.requests
    out = []
    n, ok = len(requests), int(np.sum(requests.ok))
    if n == 0:
        if not any(c.code == "requests_missing" for c in run.concerns):
            out.append(Concern("no_requests", Severity.INVALID, "No request was recorded.", 0, 1))
        return out
    if ok == 0:
        out.append(
            Concern("no_answer", Severity.INVALID, "Not one request was answered in full.", 0, 1)
        )
    failed, dropped = int(np.sum(requests.failed)), int(np.sum(requests.dropped))
    tried = n - dropped
    if failed:
        share = failed / tried
        kinds = ", ".join(
            f"{count} {name}" for name, count in requests.outcome[requests.failed].counts().items()
        )
        if smoke or share > ERROR_LIMIT:
            severity = Severity.INVALID
        else:
            severity = Severity.DEGRADED if share > ERROR_BUDGET else Severity.NOTE
        limit = 0.0 if smoke else ERROR_BUDGET
        out.append(
            Concern(
                "requests_failed",
                severity,
                f"{failed} of {tried} requests that were tried failed ({kinds}).",
                share,
                limit,
            )
        )
    if dropped:
        text = (
            f"{dropped} of {n} requests were dropped: max_in_flight was reached, or they were"
            " overdue when the load ended."
        )
        out.append(
            Concern(
                "requests_dropped", Severity.NOTE if smoke else Severity.DEGRADED, text, dropped, 0
            )
        )
    if requests.duplicates:
        text = (
            f"{requests.duplicates} request ids occur more than once: two runs are mixed up in"
            " here."
        )
        out.append(Concern("duplicate_requests", Severity.INVALID, text, requests.duplicates, 0))
    out += record_concerns(requests, smoke=smoke)
    lost = sum(_turns(w) for w in ([headline] if headline is not None else []))
    if lost:
        text = (
            f"{lost} planned turns did not happen, since a turn before them failed or was dropped."
        )
        out.append(Concern("turns_not_happened", Severity.NOTE, text, lost, 0))
    return out


def _turns(window: StageWindow) -> int:
    return window.turns_not_happened or 0


def _window(
    run: Run,
    windows: Sequence[StageWindow],
    headline: StageWindow | None,
    figures: Mapping[str, StageFigures],
    *,
    smoke: bool,
) -> list[Concern]:
    if headline is None or headline.start is None or headline.end is None:
        return [
            Concern(
                "no_window",
                Severity.INVALID,
                "There is no measured window: no load stage got that far.",
            )
        ]
    out = []
    cut = [window.name for window in windows if window.cut]
    if cut:
        text = f"The window of stage {', '.join(cut)} was cut short: the run ended before it did."
        severity = Severity.NOTE if run.state is RunState.FAILED else Severity.INVALID
        out.append(Concern("window_cut", severity, text))
    if not np.any(intended_in(run.requests, headline)) and len(run.requests):
        out.append(
            Concern(
                "empty_window",
                Severity.INVALID,
                f"No request was intended in the window of stage {headline.name}.",
                0,
                1,
            )
        )
    if smoke:
        return out
    length_s = (headline.end - headline.start) * 1e-9
    e2e = figures[headline.name].latency["e2e_s"]
    wanted = {"the least for any": MIN_WINDOW_S}
    if e2e.p95 is not None:
        wanted["10 x p95 of e2e"] = MIN_E2E_MULTIPLE * e2e.p95
    name = max(wanted, key=lambda key: wanted[key])
    if length_s < wanted[name]:
        text = (
            f"The window is {length_s:.0f} s; a headline wants at least {wanted[name]:.0f} s"
            f" ({name})."
        )
        out.append(Concern("window_short", Severity.PRELIMINARY, text, length_s, wanted[name]))
    if headline.concurrency:
        done = (
            run.requests.ok
            & (run.requests.done >= headline.start)
            & (run.requests.done < headline.end)
        )
        per_slot = int(np.sum(done)) / headline.concurrency
        if per_slot < MIN_COMPLETIONS_PER_SLOT:
            text = (
                f"{per_slot:.1f} answers per concurrency slot in the window; a headline wants"
                f" {MIN_COMPLETIONS_PER_SLOT}."
            )
            out.append(
                Concern(
                    "few_completions",
                    Severity.PRELIMINARY,
                    text,
                    per_slot,
                    MIN_COMPLETIONS_PER_SLOT,
                )
            )
    if headline.bounded_by == "sessions":
        text = (
            "The window ends with the last session, so the ramp down is part of it; set window_s"
            " for a headline."
        )
        out.append(Concern("window_with_ramp", Severity.PRELIMINARY, text))
    return out


def _reconciled(run: Run, reconciliation: Mapping[str, Agreement], *, smoke: bool) -> list[Concern]:
    out = []
    replicas = run.manifest.endpoints or ()
    expected = any(replica.metrics_url for replica in replicas) or run.samples is not None
    for key, agreement in reconciliation.items():
        words = key.replace("_", " ")
        if agreement.ok is False:
            text = (
                f"The client counted {agreement.client:.0f} {words}, the server"
                f" {agreement.server:.0f}."
            )
            tolerance = agreement.tolerance
            excess = abs((agreement.server or 0.0) - (agreement.client or 0.0))
            out.append(Concern("not_reconciled", Severity.INVALID, text, excess, tolerance))
        elif agreement.ok is None and len(run.requests):
            if not expected:
                severity = Severity.NOTE if smoke else Severity.DEGRADED
            else:
                severity = (
                    Severity.INVALID
                    if smoke and run.state is RunState.COMPLETE
                    else Severity.DEGRADED
                )
            out.append(
                Concern(
                    "not_reconciled",
                    severity,
                    f"{words.capitalize()} could not be reconciled. {agreement.note or ''}".strip(),
                )
            )
    return out


def _client(
    run: Run,
    host: Mapping[str, ScopeLoad],
    headline: StageWindow | None,
    figures: Mapping[str, StageFigures],
    slos: Slos,
    *,
    smoke: bool,
) -> list[Concern]:
    out = []
    severity = Severity.NOTE if smoke else Severity.DEGRADED
    traffic = {scope: row for scope, row in host.items() if scope.startswith("traffic:")}
    for scope, row in traffic.items():
        cores = row.cpu_cores_p95
        if cores is not None and cores > CLIENT_CPU_LIMIT:
            text = (
                f"Load generator process {scope} used {cores:.0%} of a core (p95 over the window),"
                " so it may add delays of its own."
            )
            out.append(Concern("client_saturated", severity, text, cores, CLIENT_CPU_LIMIT))
    if headline is not None and headline.start is not None and headline.end is not None:
        out += _watched(run, set(traffic), headline.start, headline.end, severity)
    if headline is None:
        return out
    lag = figures[headline.name].latency["schedule_lag_s"]
    slo = slos.ttft_s
    limit = LAG_SHARE_OF_SLO * slo if slo else LAG_LIMIT_S
    worst = lag.p99 if lag.p99 is not None else lag.max
    what = "sent"
    overdue = _overdue_p99_s(run, headline)
    if overdue is not None and overdue > (worst or 0.0):
        worst, what = overdue, "sent or dropped"
    if worst is not None and worst > limit:
        text = f"Requests were {what} up to {worst * 1e3:.0f} ms late (p99 of schedule lag)."
        hopeless = not smoke and worst > (slo or LAG_INVALID_S)
        if hopeless:
            text += (
                " The load generator did not keep its schedule: this is its own limit, not the"
                " server's."
            )
        out.append(
            Concern("late_sends", Severity.INVALID if hopeless else severity, text, worst, limit)
        )
    return out


def _watched(
    run: Run, scopes: set[str], start: float, end: float, severity: Severity
) -> list[Concern]:
    """Whether the CPU of each of the load generator's processes was read over most of the
    window.
    """
    if not scopes:
        return [
            Concern(
                "client_not_watched",
                severity,
                "The load generator's CPU was not recorded, so its saturation is not known.",
            )
        ]
    assert run.host is not None
    out = []
    for scope in sorted(scopes):
        t = run.host["t_ns"][(run.host["scope"] == scope) & ~np.isnan(run.host["cpu_s"])]
        t = t[(t >= start) & (t < end)]
        share = float(t[-1] - t[0]) / (end - start) if len(t) else 0.0
        if share < WATCHED_SHARE and (end - start) * 1e-9 >= WATCHED_FROM_S:
            text = (
                f"The CPU of {scope} was read over {share:.0%} of the window only, so its"
                " saturation is not known."
            )
            out.append(Concern("client_not_watched", severity, text, share, WATCHED_SHARE))
    return out


def _overdue_p99_s(run: Run, headline: StageWindow) -> float | None:
    """p99 of how long after its intended time a request of the window was sent, or dropped: what a
    full server makes drop is dropped in time, what the load generator did not get to is not. None
    where nothing was dropped.
    """
    requests = run.requests
    mine = intended_in(requests, headline)
    if not np.any(mine & requests.dropped):
        return None
    acted = np.where(requests.dropped, requests.done, requests.sent)[mine]
    late_s = (acted - requests.intended[mine]) * 1e-9
    late_s = late_s[np.isfinite(late_s)]
    return float(np.quantile(late_s, 0.99)) if len(late_s) else None


def _server(
    run: Run,
    headline: StageWindow | None,
    counters: ServerCounters | None,
    flow: Flows,
    checked_tok: float,
    *,
    smoke: bool,
) -> list[Concern]:
    """`checked_tok`: prompt tokens of the quality check before the load."""
    if counters is None:
        return []
    out = []
    severity = Severity.NOTE if smoke else Severity.DEGRADED
    window = (
        None
        if headline is None or headline.start is None or headline.end is None
        else (headline.start, headline.end)
    )
    out += scrape_concerns(run, counters, window, smoke=smoke)
    if window is not None and not smoke:
        out += _window_agreement(run, counters, flow, *window)
    if window is not None:
        out += _first_token_agreement(run, counters, *window, severity)
    before = counters.value_at_first(Concept.PROMPT_TOKENS)
    if before is not None and before - checked_tok > WARM_TOK:
        text = (
            f"The server had processed {before:.0f} prompt tokens before this run, so its prefix"
            " cache may be warm."
        )
        out.append(Concern("server_warm", severity, text, before, WARM_TOK))
    return out


def _window_agreement(
    run: Run, counters: ServerCounters, flow: Flows, start: float, end: float
) -> list[Concern]:
    """Client against server within the window. Prompts are counted at one moment and spread over
    their time here, so those under way at the window's edges may be on either side; so may those
    whose counts came without usage.
    """
    out = []
    for words, concept, client, apart_tok in (
        ("output", Concept.GENERATED_TOKENS, flow.output.flow.between(start, end), 0.0),
        (
            "input",
            Concept.PROMPT_TOKENS,
            flow.input.between(start, end),
            _unplaced_input_tok(run, counters, start, end),
        ),
    ):
        server = counters.difference(concept, start, end)
        if server is None or not (server or client):
            continue
        apart = max(0.0, abs(client - server) - apart_tok) / server if server else 1.0
        if apart > WINDOW_TOLERANCE:
            text = (
                f"Within the window the client saw {client:.0f} {words} tokens, the server counted"
                f" {server:.0f} ({apart:.1%} apart"
            )
            text += (
                f", {apart_tok:.0f} left out that may be on either side)." if apart_tok else ")."
            )
            out.append(
                Concern("window_not_reconciled", Severity.DEGRADED, text, apart, WINDOW_TOLERANCE)
            )
    return out


def _unplaced_input_tok(run: Run, counters: ServerCounters, start: float, end: float) -> float:
    """Input tokens of which nobody knows on which side of the window's edges the server counted
    them, or whether it did.
    """
    between = []  # counts are taken to lie evenly between the two scrapes about an edge
    for times in counters.samples.scrapes.values():
        for edge in (start, end):
            before, after = times[times <= edge], times[times > edge]
            if len(before) and len(after):
                between.append((float(before[-1]), float(after[0])))
    requests, found = run.requests, 0.0
    for rows in requests.parts():
        sent, first, tok = requests.sent[rows], requests.first_token[rows], requests.input_tok[rows]
        until = np.where(np.isnan(first), requests.done[rows], first)
        unplaced = np.zeros(len(tok), dtype=bool)
        for before_edge, after_edge in between:
            unplaced |= (sent <= after_edge) & (until >= before_edge)
        untold = np.isnan(tok) & (sent < end) & ~(until < start)
        found += float(np.nansum(tok[unplaced])) + float(
            np.nansum(requests.target_input_tok[rows][untold])
        )
    return found


def _first_token_agreement(
    run: Run, counters: ServerCounters, start: float, end: float, severity: Severity
) -> list[Concern]:
    """No answer begins at the client before it does at the server."""
    found = counters.histogram(Concept.TTFT, start, end)
    if found is None or found.mean_s is None:
        return []
    requests, longest_s, mean_s = run.requests, 0.0, found.mean_s
    for rows in requests.parts():
        waited = requests.first_token[rows] - requests.intended[rows]
        longest_s = max(longest_s, float(np.max(waited[np.isfinite(waited)], initial=0.0)) * 1e-9)
    if not longest_s or mean_s <= SERVER_TTFT_SLACK * longest_s:
        return []
    text = (
        f"By the server's histogram the first token took {mean_s:.3g} s on average, and no request"
        f" waited longer than {longest_s:.3g} s for it: the histogram is not in seconds, or what"
        " the client takes for the first token is none."
    )
    return [Concern("server_ttft_above_client", severity, text, mean_s, longest_s)]


def _lengths(run: Run, *, smoke: bool) -> list[Concern]:
    requests = run.requests
    out = []
    severity = Severity.NOTE if smoke else Severity.DEGRADED
    plan = run.manifest.plan
    answered = requests.ok & ~np.isnan(requests.output_tok) & ~np.isnan(requests.target_output_tok)
    if plan.output_length == OutputLength.FORCED and np.any(answered):
        wrong = int(np.sum(requests.output_tok[answered] != requests.target_output_tok[answered]))
        if wrong:
            text = (
                f"{wrong} of {int(np.sum(answered))} answers have another length than the plan"
                " forces."
            )
            out.append(Concern("output_length", severity, text, wrong, 0))
    known = ~np.isnan(requests.input_tok) & (requests.target_input_tok > 0)
    if np.any(known):
        ratio = float(np.sum(requests.input_tok[known]) / np.sum(requests.target_input_tok[known]))
        if abs(ratio - 1) > LENGTH_TOLERANCE:
            text = f"Prompts were {ratio:.1%} of their planned length in tokens."
            out.append(Concern("input_length", Severity.NOTE, text, ratio, 1.0))
    scale = plan.context_scale
    if scale is not None and scale != 1:
        text = f"All lengths of the workload were multiplied by {scale:.4g} to fit the model."
        out.append(Concern("lengths_scaled", Severity.NOTE, text, scale, 1))
    clipped, whole = plan.clipped_requests, plan.planned_requests or len(requests)
    if clipped and whole:
        text = (
            f"{clipped} planned requests were drawn longer than the context and were clipped to it."
        )
        out.append(
            Concern(
                "lengths_clipped",
                severity if clipped / whole > CLIPPED_SHARE else Severity.NOTE,
                text,
                clipped / whole,
                CLIPPED_SHARE,
            )
        )
    uncounted = int(np.sum(np.isnan(requests.output_tok) & requests.ok))
    if uncounted:
        text = f"{uncounted} answers came without the server's count of output tokens."
        out.append(Concern("usage_missing", severity, text, uncounted, 0))
    return out
