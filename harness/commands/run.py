"""One run from start to end; only here are server, load generator and telemetry connected.

`run_profile` starts everything inside one ExitStack, keeps the manifest's state correct in every
case, and passes the run directory to the reduction that `harness reduce` also calls.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from harness import __version__
from harness.artifacts.atomic import write_bytes, write_json
from harness.artifacts.certificate import Certificate
from harness.artifacts.layout import RunDir
from harness.artifacts.plan_table import write_plan
from harness.commands.display import View
from harness.commands.planned_time import PlannedTime, planned_time
from harness.commands.steps.answers import check_answers
from harness.commands.steps.early_end import LoadState, scheduled_in_window
from harness.commands.steps.idle import measure_idle, wait_until_idle
from harness.commands.steps.live_display import LiveDisplay
from harness.commands.steps.load_generator import LoadGenerator, prepare_load_generator
from harness.commands.steps.outcome import RunResult, reduce_failed, reduce_measured, result_of
from harness.commands.steps.prepare import make_run_dir, prepare
from harness.commands.steps.run_record import RunRecord
from harness.commands.steps.server_lease import ServerLease
from harness.core.clock import now_ns
from harness.core.errors import ProfileError
from harness.core.progress import TelemetryProgress
from harness.core.records import Concern, Purpose, Severity
from harness.core.signals import Signals
from harness.core.units import human_duration
from harness.hardware.cores import confined
from harness.processes.registry import RUN_ID_VARIABLE, RunRegistry, reap_orphans
from harness.profile.schema import Profile
from harness.server.answers_check import QualityCheck
from harness.server.base import RunContext, RunningServer, raise_problems, read_api_key
from harness.telemetry.driver import TelemetryRecorder
from harness.telemetry.exporter import Exporter
from harness.traffic.driver import LocustDriver

StopWhen = Callable[[LoadState], str | None]
"""Asked during the load: why to end it now, as a sentence; None to continue."""

START_DELAY_S: Final = 0.5
"""From the go message to the first stage's start, so that every worker receives it in time."""


def run_profile(
    profile: Profile,
    *,
    out: Path,
    view: View,
    source: Path | None = None,
    overrides: Sequence[str] = (),
    calibrate: bool = True,
    repeat: Mapping[str, Any] | None = None,
    sweep: Mapping[str, Any] | None = None,
    lease: ServerLease | None = None,
    certificate: Certificate | None = None,
    stop_when: StopWhen | None = None,
) -> RunResult:
    """Run a profile to its end and reduce what was measured.

    Args:
        profile: what to run.
        out: folder for run directories; created if missing.
        view: receives progress.
        source: the profile's file, copied to the run directory.
        overrides: `--set` arguments, kept in the manifest.
        calibrate: whether to certify the load generator if the profile requires it.
        repeat: which repeat of which series this is, kept in the manifest.
        sweep: which point of which sweep this is, kept in the manifest.
        lease: keeps the server for the next run of a series.
        certificate: of the load generator, for this load or a heavier one; default: a stored or new
            one.
        stop_when: ends the load early; the run is complete, with the concern `stopped_early`.

    Returns:
        The result; an interrupted or invalid run is a result, not an error.

    Raises:
        HarnessError: preflight, server, traffic or artifacts failed. The run directory keeps the
            records.
    """
    if profile.sweep is not None:
        raise ProfileError(
            f"{profile.name} has a `sweep` section, so it is several runs",
            next_step="use `harness sweep` or `harness run`, or set sweep=null for a single run",
        )
    with Signals() as signals:
        _end_orphans(view)
        view.phase("preparing", f"{profile.name} ({profile.purpose.value})")
        prepared = prepare(profile, view.note)
        if lease is not None:
            prepared = replace(prepared, server=lease.lend(prepared))
        for note in prepared.plan.notes:
            view.note(note)
        raise_problems(prepared.server.preflight())
        time = planned_time(profile, prepared.plan.stages, calibrate=calibrate)
        first = sweep is None and (not repeat or repeat.get("repeat", 1) == 1)
        _show_time(time, view, whole=first)
        check = QualityCheck(prepared.profile, prepared.facts) if profile.checks_quality else None

        run_dir = make_run_dir(out, profile.name)
        record = RunRecord(
            prepared,
            run_dir,
            view,
            overrides=overrides,
            labels={"repeat": repeat, "sweep": sweep},
            left_s=time.left_s,
        )
        if source is not None:
            write_bytes(run_dir.root / "profile.yaml", source.read_bytes())
        if prepared.meter_calibration is not None:
            write_json(run_dir.meter_calibration, prepared.meter_calibration)
        _doubt_fresh_starts(record)
        try:
            with record.failures():
                _write_plan(record)
                interrupted = _measure(
                    record,
                    signals,
                    check,
                    calibrate=calibrate,
                    lease=lease,
                    certificate=certificate,
                    stop_when=stop_when,
                )
                record.phase("done", show=False)
            record.end(interrupted=interrupted)
        except BaseException:
            reduce_failed(run_dir, view)
            raise
        summary = reduce_measured(run_dir, view, prepared.facts, interrupted=interrupted)
        if lease is not None:
            lease.keep_idle(record.run_id, summary.energy.idle)
        return result_of(run_dir.root, summary, profile.thresholds, interrupted=interrupted)


def _measure(
    record: RunRecord,
    signals: Signals,
    check: QualityCheck | None,
    *,
    calibrate: bool,
    lease: ServerLease | None,
    certificate: Certificate | None,
    stop_when: StopWhen | None,
) -> bool:
    """Start everything, drive the load, stop everything; whether a signal cut the load short."""
    plan = record.prepared.plan
    with ExitStack() as stack:
        started = _start_all(stack, record, lease, certificate, calibrate=calibrate)
        server, telemetry, traffic = started.server, started.telemetry, started.traffic
        if check is not None:
            check_answers(check, "before", record, server)
        _scrape_and_mark(record, telemetry, "first_after_ready")

        record.phase("load", plan.stages[0].name, event="traffic_start")
        signals.only_count()
        traffic.go(now_ns() + round(START_DELAY_S * 1e9))
        early = _EarlyEnd(record, traffic, started.display, stop_when)
        interrupted = _follow_load(
            record, signals, traffic, server, telemetry, started.display, early
        )
        record.phase("drained", event="drain", show=False)
        wait_until_idle(telemetry)
        _scrape_and_mark(record, telemetry, "last_after_drain")
        if check is not None and not interrupted and not signals.count:
            check_answers(check, "after", record, server)

        record.phase("stopping")
        # before the servers: a scrape of a stopping server would count as failed
        telemetry.stop()
        record.manifest.update(
            telemetry={
                "nice": telemetry.nice,
                "power": telemetry.power,
                "sampling": telemetry.sampling,
            }
        )
    return interrupted


@dataclass(frozen=True, slots=True)
class _Started:
    """What measures and what is measured, ready for the load."""

    server: RunningServer
    telemetry: TelemetryRecorder
    traffic: LocustDriver
    display: LiveDisplay


def _start_all(
    stack: ExitStack,
    record: RunRecord,
    lease: ServerLease | None,
    certificate: Certificate | None,
    *,
    calibrate: bool,
) -> _Started:
    """Start load generator, telemetry and server, and measure idle power between them. With a
    server that runs already and known idle power, all start at once.
    """
    attached = record.prepared.server.kind == "attach"
    idle = None if lease is None else lease.idle
    registry = stack.enter_context(_registered(record.run_dir, lease))
    generator = prepare_load_generator(
        stack, record, registry, calibrate=calibrate, certificate=certificate
    )
    exporter = _start_exporter(stack, record)
    display = LiveDisplay(record.prepared.plan.stages, record.events, record.view, exporter)
    server: RunningServer | None = None
    traffic: LocustDriver | None = None
    if lease is not None and lease.holds:
        server = _start_server(stack, record, registry, generator)
        if idle is not None:
            traffic = _launch_traffic(stack, record, registry, server, generator, display)
    telemetry = _start_telemetry(stack, record, registry)
    if server is None:
        if not attached:  # a running server cannot be stopped to measure idle power
            measure_idle(record, telemetry, "before_server")
        server = _start_server(stack, record, registry, generator)
    _watch_server(record, telemetry, server)
    if idle is None:
        measure_idle(record, telemetry, "ready", server)
    else:
        record.manifest.update(idle=idle)
    if traffic is None:
        traffic = _launch_traffic(stack, record, registry, server, generator, display)
    traffic.start()
    telemetry.add_scopes(traffic.pids())
    if generator.canary is not None and generator.canary.pid is not None:
        telemetry.add_scopes({"canary": generator.canary.pid})
    return _Started(server, telemetry, traffic, display)


def _end_orphans(view: View) -> None:
    """End processes of runs whose supervisor was killed."""
    for reaped in reap_orphans():
        left = f"; still running: {', '.join(reaped.left)}" if reaped.left else ""
        view.warn(
            f"the supervisor of run {reaped.run_id} was killed; ended its processes:"
            f" {', '.join(reaped.ended) or 'nothing'}{left}"
        )


def _show_time(time: PlannedTime, view: View, *, whole: bool) -> None:
    """The planned time of a run; `whole`: phase by phase."""
    width = max(len(one.title) for one in time.phases)
    for one in time.phases if whole else ():
        view.note(f"  {one.title:{width}}  {one.text}{f' ({one.note})' if one.note else ''}")
    view.note(time.sentence())


def _doubt_fresh_starts(record: RunRecord) -> None:
    """Record a concern if sessions of a measured closed loop all start at their first turn."""
    if record.prepared.profile.purpose is not Purpose.MEASURE:
        return
    for stage in record.prepared.plan.stages:
        if stage.concurrency is not None and not stage.steady and not stage.single:
            text = (
                f"all sessions of stage {stage.name} start at their first turn, so contexts are"
                " shorter than in steady operation"
            )
            record.concern(Concern("fresh_start", Severity.DEGRADED, text))


def _write_plan(record: RunRecord) -> None:
    """Write plan.parquet and its totals, in one pass over the sessions."""
    plan = record.prepared.plan
    totals = write_plan(record.run_dir.plan, plan)
    bounded = all(plan.is_bounded(stage.index) for stage in plan.stages)
    for note in totals.notes():
        record.view.note(note)
    record.manifest.update(
        plan={
            **record.manifest.fields["plan"],
            "planned_sessions": totals.sessions if bounded else None,
            "planned_requests": totals.requests if bounded else None,
            "priming_requests": totals.primes,
            "clipped_requests": totals.clipped_requests,
            "clipped_tok": totals.clipped_tok,
            "notes": [*plan.notes, *totals.notes()],
        }
    )


@contextmanager
def _registered(run_dir: RunDir, lease: ServerLease | None) -> Iterator[RunRegistry]:
    """Mark all processes of the run by an environment variable, so that a later run finds orphans;
    yields the registry of process groups. Runs that share a server share both.
    """
    with ExitStack() as stack:
        registry = (
            stack.enter_context(RunRegistry.open(run_dir.root.name, run_dir.root))
            if lease is None
            else lease.registry
        )
        os.environ[RUN_ID_VARIABLE] = registry.run_id
        stack.callback(os.environ.pop, RUN_ID_VARIABLE, None)
        yield registry


def _start_exporter(stack: ExitStack, record: RunRecord) -> Exporter | None:
    profile = record.prepared.profile
    host, port = profile.telemetry.exporter_host, profile.telemetry.exporter_port
    if port is None:
        return None
    info = {
        "run_id": record.run_id,
        "profile": profile.name,
        "purpose": profile.purpose.value,
        "version": __version__,
    }
    exporter = stack.enter_context(Exporter(record.run_dir, host=host, port=port, info=info))
    record.view.note(f"metrics of this run: {exporter.url}")
    return exporter


def _start_telemetry(
    stack: ExitStack, record: RunRecord, registry: RunRegistry
) -> TelemetryRecorder:
    profile, measures = record.prepared.profile, record.prepared.profile.purpose is Purpose.MEASURE
    recorder = TelemetryRecorder(
        record.run_dir,
        profile.telemetry,
        gpus=record.prepared.gpus,
        on_concern=record.concern,
        # processes of an attached server cannot be distinguished from others
        count_foreign=record.prepared.server.kind != "attach",
        double_severity=Severity.INVALID if measures else Severity.DEGRADED,
        network=profile.traffic.network,
        api_key=read_api_key(profile.server),
        registry=registry,
        anchor=record.anchor,
    )
    telemetry = stack.enter_context(recorder)
    record.manifest.update(telemetry={"nice": telemetry.nice, "power": telemetry.power})
    return telemetry


def _start_server(
    stack: ExitStack, record: RunRecord, registry: RunRegistry, generator: LoadGenerator
) -> RunningServer:
    """Start the server and wait until it is ready."""
    model_server, profile = record.prepared.server, record.prepared.profile
    record.phase(
        "starting the server", f"{model_server.kind}, {profile.model_id}", event="server_start"
    )
    context = RunContext(run_id=record.run_id, run_dir=record.run_dir, registry=registry)
    with confined(generator.other_cores):  # child processes inherit it
        server = stack.enter_context(model_server.start(context))
    record.manifest.update(server=server.info, endpoints=server.endpoints)
    for concern in profile.traffic.network.concerns(server.endpoints):
        record.concern(concern)
    for note in server.info.notes:
        record.concern(Concern("server_unusual", Severity.NOTE, f"{note}."))
    ready_s = server.info.ready_s
    ready = "" if ready_s is None else f"after {human_duration(ready_s)}, "
    if server.info.kept_from is not None:
        ready = f"kept from {server.info.kept_from}, "
    record.phase(
        "server ready",
        ready + ", ".join(endpoint.base_url for endpoint in server.endpoints),
        event="server_ready",
    )
    return server


def _watch_server(record: RunRecord, telemetry: TelemetryRecorder, server: RunningServer) -> None:
    """Scrape the server and watch its processes."""
    telemetry.add_targets(server.endpoints)
    telemetry.add_scopes(server.pids())
    if telemetry.prometheus is not None:
        record.manifest.update(prometheus=telemetry.prometheus)
        telemetry.add_scopes(telemetry.prometheus_pids())
    telemetry.ensure_required()


def _launch_traffic(
    stack: ExitStack,
    record: RunRecord,
    registry: RunRegistry,
    server: RunningServer,
    generator: LoadGenerator,
    display: LiveDisplay,
) -> LocustDriver:
    """Start the load generator's processes."""
    prepared = record.prepared
    traffic = stack.enter_context(
        LocustDriver(
            prepared.profile,
            prepared.facts,
            prepared.plan,
            server.endpoints,
            record.run_dir,
            workers=generator.workers,
            api_key=read_api_key(prepared.profile.server),
            on_event=display.on_traffic_event,
            canary=generator.canary,
            cores=generator.own_cores,
            registry=registry,
        )
    )
    traffic.launch()
    return traffic


def _scrape_and_mark(record: RunRecord, telemetry: TelemetryRecorder, label: str) -> None:
    """Scrape the servers at one end of the reconciled interval."""
    t_ns = now_ns()
    if telemetry.scrape_now(label):
        record.events.append("scrape_mark", t_ns=t_ns, label=label)
    else:
        record.view.note(
            f"no metrics from the server for {label.replace('_', ' ')}: token counts cannot be"
            " reconciled"
        )


def _follow_load(
    record: RunRecord,
    signals: Signals,
    traffic: LocustDriver,
    server: RunningServer,
    telemetry: TelemetryRecorder,
    display: LiveDisplay,
    early: "_EarlyEnd",
) -> bool:
    """Watch server, progress and signals until the load ends.

    Returns:
        Whether a signal ended it early.
    """
    interrupted = stopped = False
    while not traffic.wait(0.25):
        server.check()
        if signals.count and not interrupted:
            interrupted = True
            record.view.warn(
                "interrupted: waiting for requests in flight (interrupt again to stop at once)"
            )
            traffic.stop(drain=True)
        if signals.count > 1 and not stopped:
            stopped = True
            traffic.stop(drain=False)
        latest = telemetry.latest()
        display.show(latest)
        if not interrupted:
            early.ask(latest)
    server.check()
    return interrupted


class _EarlyEnd:
    """Asks `stop_when` about the load, and ends it once."""

    def __init__(
        self,
        record: RunRecord,
        traffic: LocustDriver,
        display: LiveDisplay,
        stop_when: StopWhen | None,
    ) -> None:
        self._record = record
        self._traffic = traffic
        self._display = display
        self._stop_when = stop_when
        self._scheduled: dict[int, int | None] = {}

    def ask(self, telemetry: TelemetryProgress) -> None:
        stage = self._display.started
        if self._stop_when is None or stage is None:
            return
        if stage.index not in self._scheduled:
            plan = self._record.prepared.plan
            self._scheduled[stage.index] = scheduled_in_window(plan, stage.index)
        state = LoadState(
            self._display.traffic,
            telemetry,
            stage.window_start_ns,
            stage.window_end_ns,
            self._scheduled[stage.index],
        )
        if (reason := self._stop_when(state)) is not None:
            self._stop_when = None
            self._record.concern(Concern("stopped_early", Severity.DEGRADED, reason))
            self._traffic.stop(drain=False)
