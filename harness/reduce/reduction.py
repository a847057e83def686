"""Run directory -> Summary. Pure: reads only the directory, and the same directory gives the same
bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from harness.reduce.figures.other_tools import rosetta
from harness.reduce.figures.run_energy import Flowing, StageEnergy, run_energy
from harness.reduce.figures.window_figures import StageFigures
from harness.reduce.figures.without_records import unless_recorded
from harness.reduce.over_time.counters import LAST_LABELS, ServerCounters, wanted
from harness.reduce.over_time.flows import Flows, flows
from harness.reduce.read.run import Run, last_evidence, load_run
from harness.reduce.verdict.answers import UNVERIFIED, quality
from harness.reduce.verdict.judge import Evidence, judge
from harness.reduce.verdict.load_generator import client
from harness.reduce.verdict.recount import recounted
from harness.reduce.windows.measurement_window import StageWindow, stage_windows
from harness.reduce.windows.steady_state import settle

NS: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Reduction:
    """A summary with what it was made from, for reports that also draw series.

    Attributes:
        summary: the result.
        run: the directory in memory.
        windows: of all stages.
        headline: the stage whose figures head the summary; None when no stage was started.
        flows: tokens and requests over time.
        counters: the server's counters; None without scrapes.
        figures: per stage.
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
        ArtifactError: it is not a run directory, or a newer harness wrote it. Whatever else is
            missing or torn is a concern in the verdict.
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
    """As `reduce_run`, keeping what the summary was made from."""
    run = load_run(path, wanted=wanted)
    counters = ServerCounters(run.samples) if run.samples is not None else None
    flow = flows(run)
    windows = tuple(settle(run, window, flow, counters) for window in stage_windows(run))
    slos = Slos(**asdict(run.profile.slos))
    price = run.profile.price
    figures = {
        window.name: unless_recorded(
            stages.window_figures(run, window, flow, counters, slos, price), run.concerns
        )
        for window in windows
    }
    headline = _headline(windows)
    plan = run.manifest.plan
    reconciliation = _reconcile(run, counters)
    server = _server(counters, headline)
    host = _host(run, headline)
    top = (
        figures[headline.name]
        if headline is not None
        else stages.window_figures(run, _nothing(), flow, counters, slos, price)
    )
    generator = client(run, headline)
    answers = quality(run)
    verdict = judge(
        Evidence(
            run=run,
            windows=windows,
            headline=headline,
            flow=flow,
            figures=figures,
            reconciliation=reconciliation,
            counters=counters,
            host=host,
            slos=slos,
            client=generator,
            answers=answers,
        )
    )
    profile = run.profile
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
        verdict=verdict,
        window=(
            _public(headline, last_of=len(windows))
            if headline is not None
            else Window(None, None, None, "No load stage was started.")
        ),
        requests=_counts(run, windows, headline),
        metrics=top.metrics,
        latency=top.latency,
        reconciliation=reconciliation,
        stages=_stages(run, windows, figures),
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
        server=server,
        host=host,
        client=generator,
        notes=_notes(plan, figures, headline),
        classes=with_energy(classes, joules),
        quality=answers,
        rosetta=rosetta(run, headline, flow, top.metrics, top.latency),
        energy=joules,
    )
    return Reduction(summary, run, windows, headline, flow, counters, figures)


def _counts(
    run: Run, windows: Sequence[StageWindow], headline: StageWindow | None
) -> RequestCounts:
    """Of the whole run."""
    turns = [w.turns_not_happened for w in windows if w.turns_not_happened is not None]
    return stages.count(
        run.requests,
        np.ones(len(run.requests), dtype=bool),
        run.manifest.plan.planned_requests,
        stages.intended_in(run.requests, headline) if headline is not None else None,
        sum(turns) if turns else None,
    )


def _stages(
    run: Run, windows: Sequence[StageWindow], figures: Mapping[str, StageFigures]
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
        )
        for window in windows
    )


def _headline(windows: tuple[StageWindow, ...]) -> StageWindow | None:
    """The last stage with a window, else the last one."""
    measured = [window for window in windows if window.start is not None]
    return measured[-1] if measured else windows[-1] if windows else None


def _nothing() -> StageWindow:
    return StageWindow(
        "",
        None,
        None,
        None,
        None,
        None,
        False,
        "sessions",
        None,
        None,
        "No load stage was started.",
    )


def _public(window: StageWindow, last_of: int = 1) -> Window:
    rule = window.rule
    if last_of > 1:
        rule = (
            f"The last of {last_of} stages heads the report; each has figures of its own below. "
            + rule
        )
    if window.start is None or window.end is None:
        return Window(None, None, None, rule)
    steady = window.steady.summarized() if window.steady is not None else None
    return Window(
        window.start * NS, window.end * NS, (window.end - window.start) * NS, rule, steady
    )


def _mark(run: Run, label: str) -> float | None:
    for event in run.events:
        if (
            event["event"] == "scrape_mark"
            and event.get("label") == label
            and isinstance(event.get("t_ns"), int)
        ):
            return run.at(event["t_ns"])
    return None


def _reconcile(run: Run, counters: ServerCounters | None) -> dict[str, Agreement]:
    """Client's usage against the server's counters: first scrape after ready and probes to the last
    after drain; and against the tokenizer's counts.
    """
    requests = run.requests
    first, last = _mark(run, "first_after_ready"), _mark(run, "last_after_drain")
    labels = {label for _, label in counters.samples.marks} if counters is not None else set()
    tokenizer = recounted(run)
    drained = last is not None or not labels.isdisjoint(LAST_LABELS)
    out = {}
    for key, concept, tokens, asked in (
        (
            "output_tokens",
            Concept.GENERATED_TOKENS,
            requests.output_tok,
            requests.target_output_tok,
        ),
        ("input_tokens", Concept.PROMPT_TOKENS, requests.input_tok, requests.target_input_tok),
    ):
        counted = ~np.isnan(tokens)
        client = float(np.sum(tokens[counted])) if np.any(counted) else None
        unknown = stages.tried(requests) & ~counted
        bound = asked[unknown]
        tolerance: float | None = float(np.sum(bound)) if not np.any(np.isnan(bound)) else None
        aborted = int(np.sum(unknown))
        server = counters.whole(concept, first, last) if counters is not None else None
        agreement = _agreement(client, server, tolerance, aborted, drained, counters)
        out[key] = replace(agreement, tokenizer=tokenizer[key])
    return out


def _agreement(
    client: float | None,
    server: float | None,
    tolerance: float | None,
    aborted: int,
    drained: bool,
    counters: ServerCounters | None,
) -> Agreement:
    if counters is None:
        return Agreement(
            client, None, None, tolerance, None, "The server's metrics were not scraped."
        )
    if server is None:
        return Agreement(
            client, None, None, tolerance, None, "The server's metrics hold no such counter."
        )
    if client is None:
        return Agreement(
            None, server, None, tolerance, None, "No answer came with a count of tokens."
        )
    relative = (client - server) / server if server > 0 else 0.0 if client == 0 else None
    if not drained:
        note = "No scrape was taken after the drain, so the server's last count is too early."
        return Agreement(client, server, relative, tolerance, None, note)
    if tolerance is None:
        return Agreement(
            client,
            server,
            relative,
            None,
            None,
            "Some streams ended without usage and what they had asked for is unknown.",
        )
    excess = server - client
    ok = 0 <= excess <= tolerance
    if aborted:
        ended = f"{aborted} {'request' if aborted == 1 else 'requests'} ended without usage"
        note = f"{ended}; the server may have counted up to what they had asked for."
    else:
        note = "Every request came with usage: the two must be equal."
    return Agreement(client, server, relative, tolerance, ok, note)


def _server(counters: ServerCounters | None, window: StageWindow | None) -> ServerFigures | None:
    """The server's own figures over the window; None without a window or scrapes."""
    if counters is None or window is None or window.start is None or window.end is None:
        return None
    start, end = window.start, window.end

    def gauge(concept: Concept) -> Gauge | None:
        series = counters.gauge(concept, share=concept is Concept.KV_USAGE)
        if series is None:
            return None
        inside = series[1][(series[0] >= start) & (series[0] < end)]
        if not len(inside):
            return None
        return Gauge(mean=float(np.mean(inside)), max=float(np.max(inside)), n=len(inside))

    return ServerFigures(
        kind=counters.server,
        prompt_tokens=counters.difference(Concept.PROMPT_TOKENS, start, end),
        computed_tokens=counters.difference(Concept.COMPUTED_TOKENS, start, end),
        cached_tokens=counters.difference(Concept.CACHED_TOKENS, start, end),
        generated_tokens=counters.difference(Concept.GENERATED_TOKENS, start, end),
        finished=counters.difference(Concept.FINISHED, start, end),
        preempted=counters.difference(Concept.PREEMPTED, start, end),
        running=gauge(Concept.RUNNING),
        waiting=gauge(Concept.WAITING),
        kv_usage=gauge(Concept.KV_USAGE),
        ttft_s=counters.histogram(Concept.TTFT, start, end),
        itl_s=counters.histogram(Concept.ITL, start, end),
        resets=counters.resets(),
    )


def _host(run: Run, window: StageWindow | None) -> dict[str, ScopeLoad]:
    """CPU of each scope over the window: mean and p95 of cores in use between readings, highest
    resident memory.
    """
    if run.host is None or window is None or window.start is None or window.end is None:
        return {}
    out: dict[str, ScopeLoad] = {}
    t, scope = run.host["t_ns"], run.host["scope"]
    inside = (t >= window.start) & (t < window.end)
    for name in sorted(set(scope)):
        rows = (scope == name) & inside
        cpu = run.host["cpu_s"][rows]
        times = t[rows] * NS
        known = ~np.isnan(cpu)
        steps, spent = np.diff(times[known]), np.diff(cpu[known])
        fine = (steps > 0) & (spent >= 0)  # a process that ended takes its CPU time with it
        rates = spent[fine] / steps[fine]
        memory = run.host["rss_bytes"][rows]
        cpus = run.host["cpus"][rows]
        out[str(name)] = ScopeLoad(
            cpu_cores_mean=(
                float(np.sum(spent[fine]) / np.sum(steps[fine])) if len(rates) else None
            ),
            cpu_cores_p95=float(np.percentile(rates, 95)) if len(rates) else None,
            rss_bytes_max=float(np.nanmax(memory)) if np.any(~np.isnan(memory)) else None,
            cpus=float(np.nanmax(cpus)) if np.any(~np.isnan(cpus)) else None,
            n=int(np.sum(rows)),
        )
    return out


def _notes(
    plan: PlanRecord, figures: Mapping[str, StageFigures], headline: StageWindow | None
) -> tuple[str, ...]:
    notes = list(plan.notes)
    scale = plan.context_scale
    if scale is not None and scale != 1:
        reason = plan.context_scale_reason
        notes.append(
            f"All lengths of the workload are multiplied by {scale:.4g}"
            + (f": {reason.rstrip('.')}." if reason else ".")
        )
    if headline is not None and figures[headline.name].latency["inter_event_s"].n:
        notes.append(
            "The stream does not tell how many tokens a chunk holds, so the time between events"
            " stands in for the time between tokens."
        )
    return tuple(dict.fromkeys(notes))
