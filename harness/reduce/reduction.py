"""Run directory -> Summary. Pure: the same directory yields the same bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from harness.artifacts.atomic import write_json
from harness.artifacts.layout import SCHEMA_VERSION, RunDir
from harness.artifacts.recorded_run import PlanRecord
from harness.artifacts.run_summary import (
    Agreement,
    Gauge,
    Labels,
    ProfileName,
    RequestCounts,
    ScopeLoad,
    ServerFigures,
    Slos,
    StageSummary,
    Summary,
    Window,
    summary_json,
)
from harness.core.metric_names import Concept
from harness.core.metrics import METRIC_VERSION
from harness.reduce.energy.gpu_state import limit_label
from harness.reduce.figures import window_figures as stages
from harness.reduce.figures.by_class import class_summaries
from harness.reduce.figures.energy_by_class import with_energy
from harness.reduce.figures.headline import choose
from harness.reduce.figures.other_tools import rosetta
from harness.reduce.figures.run_energy import Flowing, StageEnergy, run_energy
from harness.reduce.figures.window_figures import StageFigures
from harness.reduce.figures.without_records import unless_counted, unless_recorded
from harness.reduce.over_time.counters import LAST_LABELS, ServerCounters, wanted, without_mixed
from harness.reduce.over_time.flows import Flows, flows
from harness.reduce.read.run import Run, last_evidence, load_run
from harness.reduce.statistics.intervals import Floats
from harness.reduce.verdict.answers import UNVERIFIED, quality
from harness.reduce.verdict.judge import Evidence, judge
from harness.reduce.verdict.load_generator import client
from harness.reduce.verdict.recount import recounted
from harness.reduce.verdict.stages import stage_concerns
from harness.reduce.windows.figure_set import NS
from harness.reduce.windows.measurement_window import StageWindow, stage_windows
from harness.reduce.windows.steady_state import settle


@dataclass(frozen=True, slots=True)
class Reduction:
    """A summary and its inputs, for reports that also draw series.

    Attributes:
        headline: the stage whose metrics head the summary; None if no stage was started.
        counters: None without scrapes.
    """

    summary: Summary
    run: Run
    windows: tuple[StageWindow, ...]
    headline: StageWindow | None
    flows: Flows
    counters: ServerCounters | None
    figures: Mapping[str, StageFigures]


def reduce_run(path: Path) -> Summary:
    """Reduce a run directory.

    Raises:
        ArtifactError: it is not a run directory, or a newer harness wrote it. Other problems are
            concerns in the verdict.
    """
    return reduce_fully(path).summary


def write_summary(path: Path, summary: Summary) -> Path:
    """Write summary.json into a run directory and return its path.

    Raises:
        ArtifactError: no space, no permission.
    """
    target = RunDir(path).summary
    write_json(target, summary_json(summary))
    return target


def reduce_fully(path: Path) -> Reduction:
    """As `reduce_run`, with the summary's inputs."""
    run = load_run(path, wanted=wanted)
    counters = None if run.samples is None else ServerCounters(*without_mixed(run.samples))
    flow = flows(run)
    windows = tuple(settle(run, window, flow, counters) for window in stage_windows(run))
    profile, plan = run.profile, run.manifest.plan
    slos = Slos(**asdict(profile.slos))

    def metrics(window: StageWindow) -> StageFigures:
        found = stages.window_figures(run, window, flow, counters, slos, profile.price)
        return unless_counted(found, run.requests, flow)

    figures = {window.name: unless_recorded(metrics(window), run.concerns) for window in windows}
    chosen = choose(profile.headline, windows, figures, slos)
    headline = next((one for one in windows if chosen and one.name == chosen.stage), None)
    top = figures[headline.name] if headline is not None else metrics(_NO_STAGE)
    evidence = Evidence(
        run=run,
        windows=windows,
        headline=headline,
        flow=flow,
        figures=figures,
        reconciliation=_reconcile(run, counters),
        counters=counters,
        host=_host(run, headline),
        slos=slos,
        client=client(run, headline),
        answers=quality(run),
    )
    answers = evidence.answers
    classes = class_summaries(run, headline, flow, slos, top)
    joules = run_energy(
        run,
        headline.name if headline is not None else None,
        [StageEnergy(window.name, figures[window.name].energy) for window in windows],
        Flowing(flow.output, flow.input, flow.computed, flow.cache_read, flow.in_flight),
        last_evidence(run) or 0.0,
        classes,
    )
    summary = Summary(
        schema_version=SCHEMA_VERSION,
        metric_version=METRIC_VERSION,
        run_id=run.run_id,
        state=str(run.state),
        profile=ProfileName(
            name=profile.name,
            purpose=profile.purpose,
            workload_sha256=run.manifest.workload_sha256,
            plan_sha256=run.manifest.plan_sha256,
        ),
        verdict=judge(evidence),
        window=_public(headline or _NO_STAGE),
        requests=_counts(run, windows, headline),
        metrics=top.metrics,
        latency=top.latency,
        reconciliation=evidence.reconciliation,
        stages=_stages(run, windows, figures, slos),
        labels=Labels(
            output_length=plan.output_length,
            assistant=plan.assistant,
            context_scale=plan.context_scale,
            load_format=profile.model.load_format,
            tokens_in_chunks="told" if flow.output.told else "not told",
            input_split=top.input_split,
            quality=answers.label if answers is not None else UNVERIFIED,
            server_metrics=counters.server if counters is not None else None,
            power_limit=limit_label(joules.boards),
        ),
        slos=slos,
        server=_server(counters, headline),
        host=evidence.host,
        client=evidence.client,
        notes=_notes(plan, top),
        classes=with_energy(classes, joules),
        quality=answers,
        headline=chosen,
        rosetta=rosetta(run, headline, flow, top.metrics, top.latency),
        energy=joules,
    )
    return Reduction(summary, run, windows, headline, flow, counters, figures)


def _counts(
    run: Run, windows: Sequence[StageWindow], headline: StageWindow | None
) -> RequestCounts:
    turns = [w.turns_not_happened for w in windows if w.turns_not_happened is not None]
    return stages.count(
        run.requests,
        np.ones(len(run.requests), dtype=bool),
        run.manifest.plan.planned_requests,
        stages.intended_in(run.requests, headline) if headline is not None else None,
        sum(turns) if turns else None,
    )


def _stages(
    run: Run, windows: Sequence[StageWindow], figures: Mapping[str, StageFigures], slos: Slos
) -> tuple[StageSummary, ...]:
    planned = run.manifest.plan.planned_requests if len(windows) == 1 else None
    return tuple(
        StageSummary(
            window.name,
            window.kind,
            _public(window),
            stages.window_counts(run, window, planned),
            figures[window.name].metrics,
            figures[window.name].latency,
            stage_concerns(run, window, figures[window.name], slos),
        )
        for window in windows
    )


_NO_STAGE: Final = StageWindow(
    "", None, None, None, None, None, False, "sessions", None, None, "No load stage was started."
)


def _public(window: StageWindow) -> Window:
    if window.start is None or window.end is None:
        return Window(None, None, None, window.rule)
    start_s, end_s = window.start * NS, window.end * NS
    steady = window.steady.summarized() if window.steady is not None else None
    return Window(start_s, end_s, (window.end - window.start) * NS, window.rule, steady)


def _mark(run: Run, label: str) -> float | None:
    for event in run.events:
        mark = event["event"] == "scrape_mark" and event.get("label") == label
        if mark and isinstance(event.get("t_ns"), int):
            return run.at(event["t_ns"])
    return None


def _reconcile(run: Run, counters: ServerCounters | None) -> dict[str, Agreement]:
    """The client's token counts (usage) against the server's counters and the tokenizer."""
    requests = run.requests
    first, last = _mark(run, "first_after_ready"), _mark(run, "last_after_drain")
    labels = {label for _, label in counters.samples.marks} if counters is not None else set()
    tokenizer = recounted(run)
    drained = last is not None or not labels.isdisjoint(LAST_LABELS)
    output = Concept.GENERATED_TOKENS, requests.output_tok, requests.target_output_tok
    input_ = Concept.PROMPT_TOKENS, requests.input_tok, requests.target_input_tok
    out = {}
    for key, (concept, tokens, target) in (("output_tokens", output), ("input_tokens", input_)):
        counted = ~np.isnan(tokens)
        client = float(np.sum(tokens[counted])) if np.any(counted) else None
        unknown = stages.tried(requests) & ~counted
        bound = target[unknown]
        tolerance: float | None = float(np.sum(bound)) if not np.any(np.isnan(bound)) else None
        aborted = int(np.sum(unknown))
        server = counters.whole(concept, first, last) if counters is not None else None
        relative, ok = None, None
        if client is not None and server is not None:
            relative = (client - server) / server if server > 0 else 0.0 if client == 0 else None
        if counters is None:
            note = "The server's metrics were not scraped."
        elif server is None and counters.mixed:
            note = "The server's metrics come from several processes in turn and are not used."
        elif server is None:
            note = "The server does not expose this counter."
        elif client is None:
            note = "No response reported a token count."
        elif not drained:
            note = "There was no scrape after the drain, so the server's last count is too early."
        elif tolerance is None:
            note = "Some streams ended without usage, and their planned token count is unknown."
        else:
            ok = 0 <= server - client <= tolerance
            note = "Every request reported usage, so both counts must be equal."
            if aborted:
                ended = f"{aborted} {'request' if aborted == 1 else 'requests'} ended without usage"
                note = f"{ended}; the server may have counted up to their planned tokens."
        out[key] = Agreement(client, server, relative, tolerance, ok, note, tokenizer[key])
    return out


def _server(counters: ServerCounters | None, window: StageWindow | None) -> ServerFigures | None:
    """The server's metrics over the window; None without a window or scrapes."""
    if counters is None or window is None or window.start is None or window.end is None:
        return None
    start, end = window.start, window.end

    def gauge(concept: Concept) -> Gauge | None:
        t, values = counters.gauge(concept, share=concept is Concept.KV_USAGE) or (np.zeros(0),) * 2
        inside = values[(t >= start) & (t < end)]
        if not len(inside):
            return None
        return Gauge(mean=float(np.mean(inside)), max=float(np.max(inside)), n=len(inside))

    def increase(concept: Concept) -> float | None:
        return counters.difference(concept, start, end)

    return ServerFigures(
        kind=counters.server,
        prompt_tokens=increase(Concept.PROMPT_TOKENS),
        computed_tokens=increase(Concept.COMPUTED_TOKENS),
        cached_tokens=increase(Concept.CACHED_TOKENS),
        generated_tokens=increase(Concept.GENERATED_TOKENS),
        finished=increase(Concept.FINISHED),
        preempted=increase(Concept.PREEMPTED),
        running=gauge(Concept.RUNNING),
        waiting=gauge(Concept.WAITING),
        kv_usage=gauge(Concept.KV_USAGE),
        ttft_s=counters.histogram(Concept.TTFT, start, end),
        itl_s=counters.histogram(Concept.ITL, start, end),
        resets=counters.resets(),
    )


def _host(run: Run, window: StageWindow | None) -> dict[str, ScopeLoad]:
    """Mean and p95 of CPU cores in use, and maximum resident memory, per scope over the window."""
    if run.host is None or window is None or window.start is None or window.end is None:
        return {}

    def highest(values: Floats) -> float | None:
        return float(np.nanmax(values)) if np.any(~np.isnan(values)) else None

    out: dict[str, ScopeLoad] = {}
    t, scope = run.host["t_ns"], run.host["scope"]
    inside = (t >= window.start) & (t < window.end)
    for name in sorted(set(scope)):
        rows = (scope == name) & inside
        cpu, times = run.host["cpu_s"][rows], t[rows] * NS
        known = ~np.isnan(cpu)
        steps, spent = np.diff(times[known]), np.diff(cpu[known])
        fine = (steps > 0) & (spent >= 0)  # a process that ended takes its CPU time with it
        steps, spent = steps[fine], spent[fine]
        out[str(name)] = ScopeLoad(
            cpu_cores_mean=float(np.sum(spent) / np.sum(steps)) if len(steps) else None,
            cpu_cores_p95=float(np.percentile(spent / steps, 95)) if len(steps) else None,
            rss_bytes_max=highest(run.host["rss_bytes"][rows]),
            cpus=highest(run.host["cpus"][rows]),
            n=int(np.sum(rows)),
        )
    return out


def _notes(plan: PlanRecord, top: StageFigures) -> tuple[str, ...]:
    notes = list(plan.notes)
    scale = plan.context_scale
    if scale is not None and scale != 1:
        reason = plan.context_scale_reason
        why = f": {reason.rstrip('.')}" if reason else ""
        notes.append(f"All lengths of the workload are multiplied by {scale:.4g}{why}.")
    if top.latency["inter_event_s"].n:
        notes.append(
            "ITL is replaced by inter-chunk latency: the stream does not report tokens per chunk."
        )
    return tuple(dict.fromkeys(notes))
