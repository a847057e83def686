"""One run, whole: the only place where the rooms that measure are wired together.

`run_profile` starts what the profile names inside one ExitStack, keeps the manifest's state true
whatever happens, and hands the run directory to the same reduction that `harness reduce` calls.
"""

import importlib.metadata
import os
import platform
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

from harness import __version__
from harness.artifacts.atomic import write_bytes, write_json
from harness.artifacts.certificate import Certificate
from harness.artifacts.events import EventLog
from harness.artifacts.finalize import finalize
from harness.artifacts.layout import RunDir
from harness.artifacts.manifest import Manifest
from harness.artifacts.plan_table import write_plan
from harness.artifacts.run_summary import Summary
from harness.artifacts.typed_json import to_json
from harness.commands.display import Progress, View
from harness.compare.thresholds import evaluate_thresholds
from harness.core.clock import ClockAnchor, now_ns, seconds, take_anchor, wall_now
from harness.core.errors import ArtifactError, ExitCode, HarnessError, InterruptedRunError
from harness.core.records import (
    CANARY,
    Concern,
    Endpoint,
    Gpu,
    ModelFacts,
    Purpose,
    RunState,
    Severity,
    Status,
)
from harness.core.units import human_duration
from harness.hardware.cores import Partition, confined, partition
from harness.hardware.gpus import nvidia_device_present, resolve_gpus
from harness.hardware.host import describe_host
from harness.models.facts import resolve as resolve_model
from harness.plan.build import RunPlan, make_plan
from harness.profile.schema import Profile
from harness.reduce.energy.sensor_gain import read_calibration
from harness.reference_server.server import MODEL, Pace, PacedServer
from harness.report.terminal import reduce_and_report
from harness.server.answers_check import QualityCheck
from harness.server.base import (
    ModelServer,
    Needs,
    RunContext,
    RunningServer,
    raise_problems,
    read_api_key,
)
from harness.server.orphans import RunRegistry, reap_orphans
from harness.server.select import choose_server
from harness.telemetry.driver import TelemetryRecorder
from harness.telemetry.exporter import Exporter
from harness.traffic.driver import LocustDriver
from harness.traffic.fidelity import cached, load_of, make_certificate, store

MIN_FREE_BYTES: Final = 64 * 1024**2
"""Least free space to start with: a journal that meets a full disk ends the run."""

SETTLE_S: Final = 5.0
"""Longest wait, after the load, for the servers to report no running request, before the last
scrape for reconciliation.
"""

IDLE_SETTLE_S: Final = 1.0
"""From the end of what went before to the stretch in which idle is measured: boards keep their
clocks up for a moment.
"""

START_DELAY_S: Final = 0.5
"""From the word to the first stage's start, so that every worker has it before it is due."""

CANARY_TTFT_MS: Final = 50.0
CANARY_GAP_MS: Final = 20.0
"""Pace of the canary's server: 50 tokens/s a stream, as `harness.traffic._locust.canary` counts on.
"""

QUICK_WINDOW_S: Final = 120.0
"""Runs whose windows are shorter than this in all make do with a quick certificate."""


LOOP_LAG_KEPT_S: Final = 0.005
"""A load generator's timer that fires later than this is kept as an event, for the reduction."""

RECOUNT_TIMEOUT_S: Final = 120.0
"""Longest wait for the count of the prompts by the model's tokenizer, after the run."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of a run.

    Attributes:
        run_dir: where it lies.
        summary: the reduction.
        exit_code: of the command.
        messages: what a person should be told after the result (failed thresholds, the
            interruption).
    """

    run_dir: Path
    summary: Summary
    exit_code: ExitCode
    messages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A profile with everything resolved that can be without starting anything."""

    profile: Profile
    facts: ModelFacts
    plan: RunPlan
    gpus: tuple[Gpu, ...]
    server: ModelServer
    server_reason: str
    meter_calibration: Mapping[str, Any] | None = None


def prepare(profile: Profile, note: Callable[[str], None]) -> Prepared:
    """Resolve model, plan, boards and server.

    Raises:
        HarnessError: the profile cannot be served here; says why.
    """
    facts = resolve_model(profile.model.id, load_format=profile.model.load_format)
    plan = make_plan(profile, facts)
    selection = getattr(profile.server, "gpus", "all")
    gpus = resolve_gpus(selection)
    present = nvidia_device_present().present
    choice = choose_server(
        profile,
        facts,
        gpus,
        nvidia_present=present,
        needs=Needs(tools=any(one.head.tools for one in plan.classes)),
    )
    note(f"server {choice.kind}: {choice.reason}")
    calibration = profile.energy.calibration
    meter = None if calibration is None else read_calibration(Path(calibration))[1]
    return Prepared(profile, facts, plan, gpus, choice.server, choice.reason, meter)


def run_profile(
    profile: Profile,
    *,
    out: Path,
    view: View,
    source: Path | None = None,
    overrides: Sequence[str] = (),
    calibrate: bool = True,
    repeat: Mapping[str, Any] | None = None,
) -> RunResult:
    """Run a profile to its end and reduce what was measured.

    Args:
        profile: what to run.
        out: folder for run directories; made where missing.
        view: who watches.
        source: the profile's file, kept beside the results.
        overrides: `--set` arguments, kept in the manifest.
        calibrate: hold a client-fidelity certificate where the profile asks for one.
        repeat: which repeat of which series this is, kept in the manifest.

    Returns:
        The result; an interrupted or invalid run is a result, not an error.

    Raises:
        HarnessError: preflight, server, traffic or artifacts failed. The run directory keeps what
            was recorded.
    """
    with _Signals() as signals:
        for reaped in reap_orphans():
            left = f"; still there: {', '.join(reaped.left)}" if reaped.left else ""
            view.warn(
                f"run {reaped.run_id} had lost its supervisor; ended what it left behind:"
                f" {', '.join(reaped.ended) or 'nothing'}{left}"
            )
        view.phase("preparing", f"{profile.name} ({profile.purpose.value})")
        prepared = prepare(profile, view.note)
        for note in prepared.plan.notes:
            view.note(note)
        raise_problems(prepared.server.preflight())
        quality = QualityCheck(profile, prepared.facts) if profile.checks_quality else None
        run_dir = _make_run_dir(out, profile.name)
        run = _Run(
            prepared,
            run_dir,
            view,
            signals,
            source=source,
            overrides=overrides,
            calibrate=calibrate,
            quality=quality,
        )
        if repeat is not None:
            run.label(repeat)
        try:
            run.measure()
        finally:
            run.finish()
        return run.result()


class _Run:
    """State of one run between its steps."""

    def __init__(
        self,
        prepared: Prepared,
        run_dir: RunDir,
        view: View,
        signals: "_Signals",
        *,
        source: Path | None,
        overrides: Sequence[str],
        calibrate: bool,
        quality: QualityCheck | None,
    ) -> None:
        self._prepared = prepared
        self._profile = prepared.profile
        self._run_dir = run_dir
        self._view = view
        self._signals = signals
        self._interrupted = False
        self._started_ns = now_ns()
        self._events = EventLog(run_dir.events)
        self._anchor = take_anchor()
        self._manifest = Manifest(
            run_dir, _manifest_fields(prepared, run_dir, self._started_ns, self._anchor, overrides)
        )
        if source is not None:
            write_bytes(run_dir.root / "profile.yaml", source.read_bytes())
        if prepared.meter_calibration is not None:
            write_json(run_dir.meter_calibration, prepared.meter_calibration)
        self._exporter: Exporter | None = None
        self._rate = _Rate()
        self._summary: Summary | None = None
        self._traffic: dict[str, Any] = {}
        self._stage_start_ns: int | None = None
        self._calibrate = calibrate and self._profile.calibrate
        self._quality = quality
        self._certificate: Certificate | None = None
        if self._profile.purpose is Purpose.MEASURE:
            for stage in prepared.plan.stages:
                if stage.concurrency is not None and not stage.steady and not stage.single:
                    text = (
                        f"all conversations of stage {stage.name} begin with it, so its contexts"
                        " are shorter than in long operation"
                    )
                    self._concern(Concern("fresh_start", Severity.DEGRADED, text))

    def label(self, repeat: Mapping[str, Any]) -> None:
        """Say in the manifest which repeat this is."""
        self._manifest.update(repeat=dict(repeat))

    # --- measuring ---

    def measure(self) -> None:
        """Start everything, drive the load, stop everything. Raises what failed; the manifest says
        so.
        """
        try:
            self._write_plan()
            with ExitStack() as stack:
                self._measure(stack)
            self._phase("done", "", show=False)
        except HarnessError as error:
            self._fail(error)
            raise
        except KeyboardInterrupt as error:
            interrupted = InterruptedRunError(
                "interrupted before the load began",
                next_step=f"what was recorded is in {self._run_dir.root}",
            )
            self._fail(interrupted)
            raise interrupted from error
        except BaseException as error:
            self._fail(
                HarnessError(f"{type(error).__name__}: {error}", cause="a defect in the harness")
            )
            raise
        self._manifest.update(
            state=RunState.INTERRUPTED if self._interrupted else RunState.COMPLETE,
            ended_ns=now_ns(),
        )

    def _write_plan(self) -> None:
        """plan.parquet and what it adds up to, in one pass over the sessions."""
        plan = self._prepared.plan
        totals = write_plan(self._run_dir.plan, plan)
        bounded = all(plan.is_bounded(stage.index) for stage in plan.stages)
        for note in totals.notes():
            self._view.note(note)
        self._manifest.update(
            plan={
                **self._manifest.fields["plan"],
                "planned_sessions": totals.sessions if bounded else None,
                "planned_requests": totals.requests if bounded else None,
                "priming_requests": totals.primes,
                "clipped_requests": totals.clipped_requests,
                "clipped_tok": totals.clipped_tok,
                "notes": [*plan.notes, *totals.notes()],
            }
        )

    def _measure(self, stack: ExitStack) -> None:
        profile, prepared = self._profile, self._prepared
        run_id = self._run_dir.root.name
        os.environ["HARNESS_RUN_ID"] = (
            run_id  # marks every process of the run, so that a later start knows its orphans
        )
        stack.callback(os.environ.pop, "HARNESS_RUN_ID", None)
        registry = stack.enter_context(RunRegistry.open(run_id, self._run_dir.root))
        self._hold_certificate()
        workers = self._workers()
        cores = self._share_cores(workers)
        canary = self._start_canary(stack, cores)
        self._manifest.update(
            workers=workers,
            canary=canary is not None,
            calibration=None if self._certificate is None else self._run_dir.calibration.name,
            cores=cores,
        )
        self._exporter = self._start_exporter(stack)
        network = profile.traffic.network
        recorder = TelemetryRecorder(
            self._run_dir,
            profile.telemetry,
            gpus=prepared.gpus,
            on_concern=self._concern,
            count_foreign=prepared.server.kind
            != "attach",  # a server that was up already cannot be told from a stranger
            double_severity=(
                Severity.INVALID if profile.purpose is Purpose.MEASURE else Severity.DEGRADED
            ),
            network=network,
            api_key=read_api_key(profile.server),
            registry=registry,
            anchor=self._anchor,
        )
        telemetry = stack.enter_context(recorder)
        self._manifest.update(telemetry={"nice": telemetry.nice, "power": telemetry.power})
        if (
            prepared.server.kind != "attach"
        ):  # a server that is up already leaves nothing to be measured without it
            self._measure_idle(telemetry, "before_server")

        self._phase(
            "starting the server",
            f"{prepared.server.kind}, {profile.model.id}",
            event="server_start",
        )
        with confined(
            None if cores is None or cores.shared else cores.rest
        ):  # what is started within inherits it
            server = stack.enter_context(
                prepared.server.start(
                    RunContext(run_id=run_id, run_dir=self._run_dir, registry=registry)
                )
            )
        self._manifest.update(server=server.info, endpoints=server.endpoints)
        for concern in network.concerns(server.endpoints):
            self._concern(concern)
        ready = (
            "" if server.info.ready_s is None else f"after {human_duration(server.info.ready_s)}, "
        )
        self._phase(
            "server ready",
            ready + ", ".join(endpoint.base_url for endpoint in server.endpoints),
            event="server_ready",
        )

        telemetry.add_targets(server.endpoints)
        telemetry.add_scopes(server.pids())
        if telemetry.prometheus is not None:
            self._manifest.update(prometheus=telemetry.prometheus)
            telemetry.add_scopes(telemetry.prometheus_pids())
        telemetry.ensure_required()
        self._measure_idle(telemetry, "ready", server)
        driver = LocustDriver(
            profile,
            prepared.facts,
            prepared.plan,
            server.endpoints,
            self._run_dir,
            workers=workers,
            api_key=read_api_key(profile.server),
            on_event=self._on_traffic_event,
            canary=canary,
            cores=None if cores is None or cores.shared else cores.traffic,
        )
        stack.enter_context(driver)
        driver.start()
        telemetry.add_scopes(driver.pids())
        if canary is not None and canary.pid is not None:
            telemetry.add_scopes({"canary": canary.pid})
        self._ask("before", server)
        self._mark(telemetry, "first_after_ready")

        self._phase("load", self._prepared.plan.stages[0].name, event="traffic_start")
        with self._signals.counted():
            driver.go(now_ns() + round(START_DELAY_S * 1e9))
            self._watch(driver, server, telemetry)
        self._phase("drained", "", event="drain", show=False)
        _settle(telemetry)
        self._mark(telemetry, "last_after_drain")
        if not self._interrupted and not self._signals.count:
            self._ask("after", server)
        self._phase("stopping", "", event="stopping")
        # before the servers go: a scrape that meets a stopping server would be counted as a failed
        # one
        telemetry.stop()
        self._manifest.update(
            telemetry={
                "nice": telemetry.nice,
                "power": telemetry.power,
                "sampling": telemetry.sampling,
            }
        )

    def _measure_idle(
        self, telemetry: TelemetryRecorder, when: str, server: RunningServer | None = None
    ) -> None:
        """Leave everything alone for as long as the profile says, and mark the stretch; nothing
        where no power can be read.
        """
        idle_s = self._profile.idle_s
        if idle_s <= 0 or not _reads_power(telemetry.power):
            return
        state = "before the server starts" if server is None else "with the model loaded"
        self._phase("idle", f"{human_duration(idle_s)} without load, {state}", event=f"idle_{when}")
        start_ns = now_ns() + round(IDLE_SETTLE_S * 1e9)
        end_ns = start_ns + round(idle_s * 1e9)
        while (left_s := seconds(end_ns - now_ns())) > 0:
            time.sleep(min(left_s, 0.25))
            if server is not None:
                server.check()
        self._events.append("idle", when=when, start_ns=start_ns, end_ns=end_ns)

    def _ask(self, when: str, server: RunningServer) -> None:
        """The quality check's part before or after the load, outside of what is reconciled."""
        if self._quality is None:
            return
        self._phase("quality check", f"{when} the load", event=f"quality_{when}")
        self._quality.ask(when, self._run_dir, server.endpoints, read_api_key(self._profile.server))
        if failure := self._quality.failure(when):
            self._view.warn(f"the quality check {when} the load failed: {failure}")
        if when == "after" and (path := self._quality.record_first(self._run_dir, server.info)):
            self._view.note(f"these answers are now the reference: {path}")

    def _watch(
        self, driver: LocustDriver, server: RunningServer, telemetry: TelemetryRecorder
    ) -> None:
        """Until the load has finished: look after the server, tell the view, pass a signal on."""
        stopped = False
        while not driver.wait(0.25):
            server.check()
            if self._signals.count and not self._interrupted:
                self._interrupted = True
                self._view.warn(
                    "interrupted: letting requests in flight finish (once more to stop at once)"
                )
                driver.stop(drain=True)
            if self._signals.count > 1 and not stopped:
                stopped = True
                driver.stop(drain=False)
            live = telemetry.latest()
            progress = self._progress(self._traffic, live)
            self._view.progress(progress)
            if self._exporter is not None:
                self._exporter.tell(progress.stage, progress.phase, self._traffic, live)
        server.check()

    def _progress(self, traffic: Mapping[str, Any], live: Mapping[str, Any]) -> Progress:
        stage = traffic.get("stage") or self._prepared.plan.stages[0].name
        plan = next(s for s in self._prepared.plan.stages if s.name == stage)
        elapsed_s = (
            0.0
            if self._stage_start_ns is None
            else max(0.0, seconds(now_ns() - self._stage_start_ns))
        )
        total_s = None if plan.window_ns is None else seconds(plan.warmup_ns + plan.window_ns)
        if elapsed_s < seconds(plan.warmup_ns):
            phase = "warm-up"
        elif total_s is None:
            phase = "sessions"
        else:
            phase = "window" if elapsed_s <= total_s else "draining"
        return Progress(
            stage=stage,
            phase=phase,
            elapsed_s=elapsed_s,
            total_s=total_s,
            in_flight=traffic.get("in_flight"),
            sessions=traffic.get("live_sessions"),
            ok=traffic.get("ok"),
            failed=traffic.get("failed"),
            dropped=traffic.get("dropped"),
            output_tok_s=self._rate.of(live.get("generated_tokens")),
            ttft_p50_s=traffic.get("ttft_p50_s"),
            ttft_p99_s=traffic.get("ttft_p99_s"),
            power_w=live.get("power_w"),
            queue=live.get("waiting"),
        )

    def _workers(self) -> int:
        wanted = self._profile.traffic.workers
        if wanted != "auto":
            return wanted
        return 1 if self._certificate is None else self._certificate.workers

    def _hold_certificate(self) -> None:
        """Take the cached certificate for this load, or measure one, and put it into the run
        directory.
        """
        profile = self._profile
        if not self._calibrate:
            if profile.purpose is Purpose.MEASURE:
                text = "The run held no client-fidelity certificate: it was told not to calibrate."
                self._concern(Concern("calibration_missing", Severity.DEGRADED, text))
            return
        fixed = None if profile.traffic.workers == "auto" else profile.traffic.workers
        load = load_of(profile, self._prepared.plan)
        quick = (
            sum(stage.window_ns or 0 for stage in self._prepared.plan.stages) < QUICK_WINDOW_S * 1e9
        )
        found = cached(load, workers=fixed, quick=quick)
        if found is None:
            self._phase(
                "calibrating", "the load generator, against the paced server", event="calibrate"
            )
            found = store(
                make_certificate(load, workers=fixed, quick=quick, note=self._view.note),
                workers=fixed,
            )
        else:
            self._view.note(
                f"client-fidelity certificate of {found.made_at} ({found.workers} worker(s))"
            )
        self._certificate = found
        write_json(self._run_dir.calibration, to_json(found))

    def _share_cores(self, workers: int) -> Partition | None:
        """Cores of their own for the load generator and the engine; only runs that measure set any
        apart.
        """
        return partition(workers) if self._profile.purpose is Purpose.MEASURE else None

    def _start_exporter(self, stack: ExitStack) -> Exporter | None:
        telemetry = self._profile.telemetry
        if telemetry.exporter_port is None:
            return None
        profile = self._profile
        info = {
            "run_id": self._run_dir.root.name,
            "profile": profile.name,
            "purpose": profile.purpose.value,
            "version": __version__,
        }
        exporter = stack.enter_context(
            Exporter(
                self._run_dir, host=telemetry.exporter_host, port=telemetry.exporter_port, info=info
            )
        )
        self._view.note(f"the run's own metrics: {exporter.url}")
        return exporter

    def _start_canary(self, stack: ExitStack, cores: Partition | None) -> Endpoint | None:
        if not self._profile.canary:
            return None
        own = None if cores is None or cores.shared else cores.traffic
        pace = Pace(ttft_ms=CANARY_TTFT_MS, gap_ms=CANARY_GAP_MS)
        server = stack.enter_context(
            PacedServer(pace, self._run_dir.canary_truth, live_truth=True, cores=own)
        )
        return Endpoint(CANARY, server.url, MODEL, pid=server.pid)

    def _on_traffic_event(self, event: Mapping[str, Any]) -> None:
        fields = dict(event)
        name = fields.pop("event")
        if name == "progress":
            self._traffic = fields
            if (fields.get("loop_lag_s") or 0.0) > LOOP_LAG_KEPT_S:
                self._events.append("loop_lag", t_ns=fields.get("t_ns"), lag_s=fields["loop_lag_s"])
            return
        if name == "stage_started":
            self._stage_start_ns = fields["start_ns"]
        self._events.append(name, t_ns=fields.pop("t_ns", None), **fields)
        if name == "stage_started":
            self._view.note(f"stage {fields.get('stage')}")

    def _mark(self, telemetry: TelemetryRecorder, label: str) -> None:
        t_ns = now_ns()
        if telemetry.scrape_now(label):
            self._events.append("scrape_mark", t_ns=t_ns, label=label)
        elif any(True for _ in self._manifest.fields.get("endpoints", ())):
            self._view.note(
                f"no metrics from the server for {label.replace('_', ' ')}: token counts cannot be"
                " reconciled"
            )

    def _concern(self, concern: Concern) -> None:
        self._manifest.add_concern(concern)
        if concern.severity is not Severity.NOTE and not concern.message.startswith(
            "not_implemented"
        ):
            self._view.warn(concern.message)

    def _phase(
        self, name: str, detail: str, *, event: str | None = None, show: bool = True
    ) -> None:
        self._events.append("phase", phase=event or name)
        if show:
            self._view.phase(name, detail)

    def _fail(self, error: HarnessError) -> None:
        state = RunState.INTERRUPTED if isinstance(error, InterruptedRunError) else RunState.FAILED
        try:
            self._manifest.update(
                state=state,
                ended_ns=now_ns(),
                error={"what": error.what, "cause": error.cause, "next_step": error.next_step},
            )
        except ArtifactError as second:
            # The disk is what failed: the manifest stays `running`, which every reader takes for a
            # run that did not finish.
            self._view.warn(f"the manifest could not be brought up to date: {second.what}")

    # --- reading ---

    def finish(self) -> None:
        """Make whole tables of the journals and reduce, also when measuring failed: nothing that
        was recorded is lost.
        """
        failing = sys.exc_info()[1] is not None
        self._view.phase("reducing", self._run_dir.root.name)
        try:
            finalize(self._run_dir)
            if not failing and not self._interrupted:
                self._recount()
            self._summary = reduce_and_report(self._run_dir.root, report=True)
        except HarnessError as error:
            if not failing:
                raise
            self._view.warn(f"the run could not be reduced: {error.what}")

    def _recount(self) -> None:
        """Count the prompts with the model's tokenizer where that is on this machine, in a process
        of its own. It fails no run.
        """
        folder = self._prepared.facts.path
        if folder is None or not (Path(folder) / "tokenizer.json").is_file():
            return
        argv = [sys.executable, "-m", "harness.models.recount", str(self._run_dir.root)]
        try:
            subprocess.run(
                argv, capture_output=True, text=True, check=True, timeout=RECOUNT_TIMEOUT_S
            )
        except (OSError, subprocess.SubprocessError) as error:
            detail = getattr(error, "stderr", None) or str(error)
            self._view.warn(
                "the prompts could not be counted again:"
                f" {detail.strip().splitlines()[-1] if detail.strip() else error}"
            )

    def result(self) -> RunResult:
        """The verdict as an exit code: 130 before 10 before 99."""
        if self._summary is None:
            raise ArtifactError(
                f"{self._run_dir.root} could not be reduced",
                next_step=f"harness reduce {self._run_dir.root} --debug",
            )
        results = evaluate_thresholds(self._profile.thresholds, self._summary)
        failed = [result for result in results if result.judged and not result.passed]
        messages = [
            "threshold failed: " + " · ".join(filter(None, result.row())) for result in failed
        ]
        messages += [
            f"threshold not judged: {result.threshold.text}: {result.reason}"
            for result in results
            if not result.judged
        ]
        code = ExitCode.THRESHOLD_FAILED if failed else ExitCode.OK
        if self._summary.verdict.status is Status.INVALID:
            code = ExitCode.INVALID_RUN
        if self._interrupted:
            code = ExitCode.INTERRUPTED
        return RunResult(self._run_dir.root, self._summary, code, tuple(messages))


@dataclass(slots=True)
class _Rate:
    """Tokens per second over the last few readings of a counter."""

    seen: list[tuple[int, float]] = field(default_factory=list)

    def of(self, counter: float | None) -> float | None:
        if counter is None:
            return None
        if not self.seen or counter != self.seen[-1][1]:
            self.seen.append((now_ns(), counter))
        self.seen = self.seen[-5:]
        (t0, c0), (t1, c1) = self.seen[0], self.seen[-1]
        return (c1 - c0) / seconds(t1 - t0) if t1 > t0 and c1 >= c0 else None


class _Signals:
    """SIGINT, SIGTERM and SIGHUP: raise KeyboardInterrupt while things are being started, are
    counted while load is running.
    """

    def __init__(self) -> None:
        self.count = 0
        self._counting = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        # Raised once: a second signal while everything is being stopped must not cut that short.
        if not self._counting and self.count == 1:
            raise KeyboardInterrupt

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Within: signals are counted and nothing is raised. Afterwards too: what is left is
        stopping.
        """
        self._counting = True
        yield


def _settle(telemetry: TelemetryRecorder) -> None:
    """Wait until the servers report nothing running, so that the last scrape holds every token that
    was sent.
    """
    start_ns = now_ns()
    while seconds(now_ns() - start_ns) < SETTLE_S:
        time.sleep(0.25)
        live = telemetry.latest()
        if not live:
            return
        if live["t_ns"] > start_ns and not live.get("running") and not live.get("waiting"):
            return


def _reads_power(power: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> bool:
    """Whether any source of the recorder gives power or energy of anything."""
    sources = [power] if isinstance(power, Mapping) else list(power or ())
    return any(
        device.get("power") or device.get("energy")
        for source in sources
        for device in source.get("devices", ())
    )


def _make_run_dir(out: Path, name: str) -> RunDir:
    stamp = wall_now().strftime("%Y%m%dT%H%M%SZ")
    root = out / f"{stamp}-{name}-{secrets.token_hex(3)}"
    try:
        root.mkdir(parents=True)
        free = shutil.disk_usage(root).free
        run_dir = RunDir(root.resolve())
        run_dir.requests_dir.mkdir()
        run_dir.scrapes_dir.mkdir()
        run_dir.logs_dir.mkdir()
    except OSError as error:
        raise ArtifactError(
            f"cannot make the run directory {root}: {error.strerror or error}",
            cause="no permission to write there, no space, or --out names a file",
            next_step="choose another folder with --out",
        ) from error
    if free < MIN_FREE_BYTES:
        shutil.rmtree(root)
        raise ArtifactError(
            f"only {free / 1e6:.0f} MB are free for {root}",
            cause="the disk is nearly full",
            next_step="free some space, or choose another folder with --out",
        )
    return run_dir


def _manifest_fields(
    prepared: Prepared,
    run_dir: RunDir,
    started_ns: int,
    anchor: ClockAnchor,
    overrides: Sequence[str],
) -> dict[str, Any]:
    profile, plan = prepared.profile, prepared.plan
    hardware = {"gpus": prepared.gpus, **describe_host()}
    return {
        "run_id": run_dir.root.name,
        "harness": {"version": __version__, **_commit()},
        "profile": profile.model_dump(mode="json"),
        "overrides": list(overrides),
        "workload_sha256": plan.workload_sha256,
        "plan_sha256": plan.plan_sha256,
        "seed": profile.seed,
        "plan": {
            "context_scale": plan.context_scale,
            "context_scale_reason": plan.context_scale_reason,
            "context_limit_tok": plan.context_limit_tok,
            "tok_per_word": plan.tok_per_word,
            "tok_per_word_source": plan.tok_per_word_source,
            "output_length": profile.output_length.value,
            "assistant": "live" if plan.settings.live else "recorded",
            "notes": list(plan.notes),
        },
        "model": prepared.facts,
        "hardware": hardware,
        "software": _software(),
        "server": {"kind": prepared.server.kind, "choice": prepared.server_reason},
        "endpoints": [],
        "prometheus": None,
        "clock_anchors": [{"host": platform.node(), **asdict(anchor)}],
        "started_ns": started_ns,
        "ended_ns": None,
        "workers": None,
        "canary": False,
        "calibration": None,
        "cores": None,
        "not_implemented": [],
    }


def _software() -> dict[str, Any]:
    packages = (
        "locust",
        "gevent",
        "httptools",
        "prometheus-client",
        "pandas",
        "pyarrow",
        "nvidia-ml-py",
        "torch",
        "transformers",
        "vllm",
    )
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), "packages": versions}


def _commit() -> dict[str, Any]:
    """Commit of the harness: from git where it runs from a checkout, else from HARNESS_COMMIT (set
    in the image), else unknown.
    """
    here = Path(__file__).resolve().parents[2]
    if (here / ".git").exists():
        try:
            commit = subprocess.run(
                ["git", "-C", str(here), "rev-parse", "HEAD"],
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            ).stdout.strip()
            status = subprocess.run(
                ["git", "-C", str(here), "status", "--porcelain"],
                capture_output=True,
                text=True,
                check=True,
                timeout=10,
            ).stdout
        except (OSError, subprocess.SubprocessError):
            return {"commit": None, "dirty": None}
        return {"commit": commit, "dirty": bool(status.strip())}
    return {"commit": os.environ.get("HARNESS_COMMIT"), "dirty": None}
