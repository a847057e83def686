"""Verdict of a run: every concern with its value and limit, and the resulting status."""

from collections.abc import Iterable, Mapping, Sequence
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
from harness.core.records import Concern, Outcome, OutputLength, Purpose, RunState, Severity, Status
from harness.reduce.figures.window_figures import StageFigures
from harness.reduce.over_time.counters import ServerCounters
from harness.reduce.over_time.flows import Flows
from harness.reduce.read.requests import Requests
from harness.reduce.read.run import Run, gpu_count
from harness.reduce.verdict.answers import quality_concerns
from harness.reduce.verdict.load_generator import bounds, client_concerns
from harness.reduce.verdict.records import record_concerns
from harness.reduce.verdict.recount import recount_concerns
from harness.reduce.verdict.responses import response_concerns
from harness.reduce.verdict.scrapes import scrape_concerns
from harness.reduce.verdict.stages import (
    cut_concerns,
    failure_concerns,
    late_sends,
    window_concerns,
    worst_first,
)
from harness.reduce.windows.measurement_window import StageWindow

CLIENT_CPU_LIMIT: Final = 0.85
"""Share of one core above which a load generator process is saturated and adds delays."""
WATCHED_SHARE: Final = 0.5
"""Minimum share of the window over which the load generator's CPU was read."""
WATCHED_FROM_S: Final = 5.0
"""Shorter windows have too few CPU readings for that check."""
WINDOW_TOLERANCE: Final = 0.01
"""Maximum relative difference of client and server in the window; counters are interpolated."""
LENGTH_TOLERANCE: Final = 0.05
"""Maximum relative difference of mean input length from the plan."""
CLIPPED_SHARE: Final = 0.05
"""Maximum share of clipped requests; above it, the load differs from the workload."""
SERVER_TTFT_SLACK: Final = 1.5
"""Maximum mean of the server's TTFT histogram / longest TTFT at the client. It is below 1 except
for requests at the window's edges.
"""
LATE_TTFT_RATIO: Final = 3.0
"""Mean TTFT at the client / mean of the server's histogram above which they disagree, if they are
also more than `LATE_TTFT_S` apart.
"""
LATE_TTFT_S: Final = 0.05
WARM_TOK: Final = 1000
"""Maximum prompt tokens before the load, beyond those of probes and quality check."""

_COUNTED: Final = {
    "output_tokens": Concept.GENERATED_TOKENS,
    "input_tokens": Concept.PROMPT_TOKENS,
}
_STATUS: Final[Mapping[Severity, Status]] = {
    Severity.NOTE: Status.VALID,
    Severity.PRELIMINARY: Status.PRELIMINARY,
    Severity.DEGRADED: Status.DEGRADED,
    Severity.INVALID: Status.INVALID,
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """Inputs of a verdict.

    Attributes:
        windows: of all stages.
        headline: None if no stage started.
        flow: tokens and requests over time.
        reconciliation: token counts of client, server and tokenizer.
        counters: the server's; None without scrapes.
        host: CPU and memory per scope.
        client: the load generator's own metrics.
        answers: result of the quality check.
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

    Smoke: functional unless a concern is invalid; other concerns are only listed. Measure: as bad
    as the worst concern.
    """
    smoke = evidence.run.profile.purpose == Purpose.SMOKE
    return verdict_of(_concerns(evidence, smoke=smoke), smoke=smoke)


def verdict_of(concerns: Iterable[Concern], *, smoke: bool) -> Verdict:
    """The verdict that follows from concerns."""
    ordered = worst_first(concerns)
    worst = ordered[0].severity if ordered else Severity.NOTE
    if smoke:
        return Verdict(Status.INVALID if worst is Severity.INVALID else Status.FUNCTIONAL, ordered)
    return Verdict(_STATUS[worst], ordered)


def _concerns(evidence: Evidence, *, smoke: bool) -> list[Concern]:
    run, headline, counters = evidence.run, evidence.headline, evidence.counters
    figures, slos, answers = evidence.figures, evidence.slos, evidence.answers
    found = _of_the_run(run, smoke=smoke)
    found += _requests(run, headline, smoke=smoke)
    if headline is None or bounds(headline) is None:
        text = "No load stage reached its measurement window."
        found.append(Concern("no_window", Severity.INVALID, text))
    else:
        found += cut_concerns(run, evidence.windows)
        found += window_concerns(run, headline, figures[headline.name], smoke=smoke)
    found += _reconciled(run, evidence.reconciliation, counters, smoke=smoke)
    found += _client(run, evidence.host, headline, smoke=smoke)
    found += client_concerns(run, evidence.client, slos, smoke=smoke)
    checked_tok = 0 if answers is None else answers.input_tok or 0
    found += _server(run, headline, counters, evidence.flow, checked_tok, smoke=smoke)
    found += _lengths(run, smoke=smoke)
    found += quality_concerns(run, answers, smoke=smoke)
    found += recount_concerns(evidence.reconciliation["input_tokens"].tokenizer, smoke=smoke)
    if headline is not None:
        found += late_sends(run, headline, figures[headline.name], slos, smoke=smoke)
        found += figures[headline.name].energy_concerns
    if gpu_count(run) is not None and run.power is None:
        text = "The deployment has GPUs, but no power was read: energy metrics are not available."
        found.append(Concern("power_missing", Severity.DEGRADED, text))
    return found


def _of_the_run(run: Run, *, smoke: bool) -> list[Concern]:
    """Concerns from reading the run directory and from its manifest."""
    # A smoke run shows that everything works to its end; an interrupted one shows nothing. Older
    # harnesses recorded steady_state_missing; the reduction makes that test now.
    found = [
        replace(c, severity=Severity.INVALID) if smoke and c.code == "interrupted" else c
        for c in run.concerns
        if c.code != "steady_state_missing"
    ]
    if run.profile.purpose not in (Purpose.SMOKE, Purpose.MEASURE):
        text = "The run's purpose is not recorded."
        found.append(Concern("purpose_unknown", Severity.INVALID, text))
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
        out.append(Concern("no_answer", Severity.INVALID, "No request completed.", 0, 1))
    out += failure_concerns(requests, np.ones(n, dtype=bool), smoke=smoke)
    dropped = int(np.sum(requests.dropped))
    limited = int(np.sum(requests.outcome == Outcome.CLIENT_LIMIT))
    if limited:
        text = (
            f"{limited} of {n - dropped} requests failed at the load generator's own limit of"
            " descriptors, ports or memory: they are not the server's failures."
        )
        out.append(Concern("client_limit", Severity.INVALID, text, limited, 0))
    if dropped:
        text = (
            f"{dropped} of {n} requests were dropped: max_in_flight was reached, or they were"
            " overdue at the end of the load."
        )
        severity = Severity.NOTE if smoke else Severity.DEGRADED
        out.append(Concern("requests_dropped", severity, text, dropped, 0))
    if requests.duplicates:
        text = (
            f"{requests.duplicates} duplicate request ids: this directory contains records of more"
            " than one run."
        )
        out.append(Concern("duplicate_requests", Severity.INVALID, text, requests.duplicates, 0))
    out += record_concerns(requests, smoke=smoke)
    out += response_concerns(requests, smoke=smoke)
    lost = headline.turns_not_happened if headline is not None else None
    if lost:
        turns = "planned turn was" if lost == 1 else "planned turns were"
        text = f"{lost} {turns} skipped because an earlier turn failed or was dropped."
        out.append(Concern("turns_not_happened", Severity.NOTE, text, lost, 0))
    return out


def _reconciled(
    run: Run,
    reconciliation: Mapping[str, Agreement],
    counters: ServerCounters | None,
    *,
    smoke: bool,
) -> list[Concern]:
    out = []
    replicas = run.manifest.endpoints or ()
    scraped = any(replica.metrics_url for replica in replicas) or run.samples is not None
    for key, agreement in reconciliation.items():
        # Metrics without this counter are as good as none.
        expected = scraped and not _lacks(counters, _COUNTED[key])
        words = key.replace("_", " ")
        if agreement.ok is False:
            client, server = agreement.client or 0.0, agreement.server or 0.0
            text = f"The client counted {client:.0f} {words}, the server {server:.0f}."
            excess, tolerance = abs(server - client), agreement.tolerance
            out.append(Concern("not_reconciled", Severity.INVALID, text, excess, tolerance))
        elif agreement.ok is None and len(run.requests):
            severity = Severity.DEGRADED
            if smoke and not expected:
                severity = Severity.NOTE
            elif smoke and run.state is RunState.COMPLETE:
                severity = Severity.INVALID
            text = f"{words.capitalize()} could not be reconciled. {agreement.note or ''}".strip()
            out.append(Concern("not_reconciled", severity, text))
    return out


def _lacks(counters: ServerCounters | None, concept: Concept) -> bool:
    """Whether scrapes succeeded and have no such counter."""
    if counters is None or not any(map(len, counters.samples.scrapes.values())):
        return False
    return not counters.exposes(concept)


def _client(
    run: Run,
    host: Mapping[str, ScopeLoad],
    headline: StageWindow | None,
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
                f"Load generator process {scope} used {cores:.0%} of a core (p95 in the window) and"
                " may have added delays."
            )
            out.append(Concern("client_saturated", severity, text, cores, CLIENT_CPU_LIMIT))
    if (window := bounds(headline)) is not None:
        out += _watched(run, set(traffic), *window, severity)
    return out


def _watched(
    run: Run, scopes: set[str], start: float, end: float, severity: Severity
) -> list[Concern]:
    """Whether the CPU of each load generator process was read over most of the window."""
    if not scopes:
        text = "The load generator's CPU was not recorded, so its saturation is unknown."
        return [Concern("client_not_watched", severity, text)]
    assert run.host is not None
    out = []
    for scope in sorted(scopes):
        t = run.host["t_ns"][(run.host["scope"] == scope) & ~np.isnan(run.host["cpu_s"])]
        t = t[(t >= start) & (t < end)]
        share = float(t[-1] - t[0]) / (end - start) if len(t) else 0.0
        if share < WATCHED_SHARE and (end - start) * 1e-9 >= WATCHED_FROM_S:
            text = (
                f"The CPU of {scope} was read over only {share:.0%} of the window, so its"
                " saturation is unknown."
            )
            out.append(Concern("client_not_watched", severity, text, share, WATCHED_SHARE))
    return out


def _server(
    run: Run,
    headline: StageWindow | None,
    counters: ServerCounters | None,
    flow: Flows,
    checked_tok: float,
    *,
    smoke: bool,
) -> list[Concern]:
    """Server concerns; `checked_tok`: prompt tokens of the quality check before the load."""
    if counters is None:
        return []
    out = []
    severity = Severity.NOTE if smoke else Severity.DEGRADED
    window = bounds(headline)
    out += scrape_concerns(run, counters, window, smoke=smoke)
    if window is not None and not smoke:
        out += _window_agreement(run, counters, flow, *window)
    if window is not None:
        out += _first_token_agreement(run, counters, *window, severity)
    before = counters.value_at_first(Concept.PROMPT_TOKENS)
    if before is not None and before - checked_tok > WARM_TOK:
        out += _warm(run, before, severity)
    return out


def _warm(run: Run, before_tok: float, severity: Severity) -> list[Concern]:
    """A server that processed prompts before the run. One kept by a sweep had its prefix cache
    cleared, or gets prompts drawn from another seed.
    """
    server = run.manifest.server
    if server is not None and server.cache_cleared:
        return []
    text = f"The server had processed {before_tok:.0f} prompt tokens before this run"
    if server is not None and server.kept_from is not None and server.kind != "attach":
        text = f"{text}, of other points of the sweep. Its prompts are of another seed."
        return [Concern("server_warm", Severity.NOTE, text, before_tok, WARM_TOK)]
    text = f"{text}, so its prefix cache may be warm."
    return [Concern("server_warm", severity, text, before_tok, WARM_TOK)]


def _window_agreement(
    run: Run, counters: ServerCounters, flow: Flows, start: float, end: float
) -> list[Concern]:
    """Compare client and server in the window. The server counts a prompt at one time, the client
    spreads it, so prompts at the window's edges may be on either side; so may those without usage.
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
            edges = f", without {apart_tok:.0f} at the window's edges" if apart_tok else ""
            text = (
                f"In the window the client counted {client:.0f} {words} tokens, the server"
                f" {server:.0f} ({apart:.1%} difference{edges})."
            )
            out.append(
                Concern("window_not_reconciled", Severity.DEGRADED, text, apart, WINDOW_TOLERANCE)
            )
    return out


def _unplaced_input_tok(run: Run, counters: ServerCounters, start: float, end: float) -> float:
    """Input tokens that the server may have counted on either side of the window's edges, or not at
    all.
    """
    between = []  # counts are taken as even between the two scrapes around an edge
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
    """A response cannot start at the client before it does at the server."""
    found = counters.histogram(Concept.TTFT, start, end)
    if found is None or found.mean_s is None:
        return []
    requests, longest_s, mean_s = run.requests, 0.0, found.mean_s
    for rows in requests.parts():
        waited = requests.first_token[rows] - requests.intended[rows]
        longest_s = max(longest_s, float(np.max(waited[np.isfinite(waited)], initial=0.0)) * 1e-9)
    if not longest_s:
        return []
    if mean_s <= SERVER_TTFT_SLACK * longest_s:
        return _first_token_late(requests, start, end, mean_s)
    text = (
        f"Mean TTFT is {mean_s:.3g} s by the server's histogram, but at most {longest_s:.3g} s at"
        " the client: the histogram is not in seconds, or the client misidentifies the first token."
    )
    return [Concern("server_ttft_above_client", severity, text, mean_s, longest_s)]


def _first_token_late(requests: Requests, start: float, end: float, mean_s: float) -> list[Concern]:
    """Whether the first token takes far longer to the client than at the server."""
    inside = (requests.first_token >= start) & (requests.first_token < end)
    waited = (requests.first_token - requests.sent)[inside]
    waited = waited[np.isfinite(waited)]
    seen_s = float(np.mean(waited)) * 1e-9 if len(waited) else 0.0
    limit_s = max(LATE_TTFT_RATIO * mean_s, mean_s + LATE_TTFT_S)
    if seen_s <= limit_s:
        return []
    text = (
        f"Mean TTFT is {seen_s:.3g} s from sending at the client, but {mean_s:.3g} s by the"
        " server's histogram: requests wait in front of the server, or something buffers the"
        " stream (nginx: set `proxy_buffering off`)."
    )
    return [Concern("server_ttft_below_client", Severity.NOTE, text, seen_s, limit_s)]


def _lengths(run: Run, *, smoke: bool) -> list[Concern]:
    requests = run.requests
    out = []
    severity = Severity.NOTE if smoke else Severity.DEGRADED
    plan = run.manifest.plan
    answered = requests.ok & ~np.isnan(requests.output_tok) & ~np.isnan(requests.target_output_tok)
    if plan.output_length == OutputLength.FORCED and np.any(answered):
        wrong = int(np.sum(requests.output_tok[answered] != requests.target_output_tok[answered]))
        if wrong:
            text = f"{wrong} of {int(np.sum(answered))} responses differ from the forced length."
            out.append(Concern("output_length", severity, text, wrong, 0))
    known = ~np.isnan(requests.input_tok) & (requests.target_input_tok > 0)
    if np.any(known):
        ratio = float(np.sum(requests.input_tok[known]) / np.sum(requests.target_input_tok[known]))
        if abs(ratio - 1) > LENGTH_TOLERANCE:
            text = f"Prompts had {ratio:.1%} of their planned length in tokens."
            out.append(Concern("input_length", Severity.NOTE, text, ratio, 1.0))
    scale = plan.context_scale
    if scale is not None and scale != 1:
        text = f"All workload lengths were multiplied by {scale:.4g} to fit the model's context."
        out.append(Concern("lengths_scaled", Severity.NOTE, text, scale, 1))
    clipped, whole = plan.clipped_requests, plan.planned_requests or len(requests)
    if clipped and whole:
        text = f"{clipped} planned requests exceeded the model's context and were clipped to it."
        share = clipped / whole
        doubt = severity if share > CLIPPED_SHARE else Severity.NOTE
        out.append(Concern("lengths_clipped", doubt, text, share, CLIPPED_SHARE))
    uncounted = int(np.sum(np.isnan(requests.output_tok) & requests.ok))
    if uncounted:
        text = f"{uncounted} responses did not report output token usage."
        out.append(Concern("usage_missing", severity, text, uncounted, 0))
    return out
