"""The file that Locust runs. One process is one worker; `harness.traffic.driver` starts it and
talks to it over two inherited pipes.

Locust provides the process, the event loop, master and workers, and the display; the dispatcher
provides the load. The only user class stands in for the dispatcher: it waits until the end of the
run. Each finished request fires one `events.request`.
"""

import gc
import logging
import os
import resource
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from time import monotonic_ns, process_time
from typing import Any, Final

import gevent
from gevent.event import Event
from gevent.fileobject import FileObjectPosix
from gevent.lock import RLock
from gevent.monkey import get_original
from gevent.queue import Queue
from locust import User, events, task
from locust.env import Environment
from locust.runners import MasterRunner

from harness.artifacts.layout import RunDir
from harness.core.clock import NS_PER_S
from harness.core.errors import HarnessError
from harness.core.imports import keep_pandas_out
from harness.core.network import Network
from harness.core.records import Api, Endpoint, ModelFacts, Outcome
from harness.plan.build import make_plan
from harness.processes import lines
from harness.profile.schema import Profile
from harness.traffic._locust.canary import Canary
from harness.traffic._locust.dispatcher import Dispatcher
from harness.traffic._locust.http_client import Target
from harness.traffic._locust.record import Record
from harness.traffic._locust.recorder import Recorder
from harness.traffic.events import Failed, Finished, Ready, WorkerEvent, WorkerProgress, to_line

_log = logging.getLogger("harness.traffic")

PROGRESS_INTERVAL_S: Final = 0.5
LAG_INTERVAL_S: Final = 0.05
KILL_AFTER_S: Final = 15.0
"""For flushing after the supervisor is gone; then a native thread ends the process, whatever the
event loop does.
"""
_RECENT = 500


class _Pipes:
    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._commands = lines.split(FileObjectPosix(read_fd, "rb"))
        self._out = FileObjectPosix(write_fd, "wb", buffering=0)
        self._lock = RLock()

    def receive(self) -> dict[str, Any] | None:
        line = next(self._commands, None)
        return None if line is None else lines.decode(line)

    def send(self, event: WorkerEvent) -> None:
        """Report to the supervisor; if it is gone, only the end of its commands shows that."""
        with self._lock:
            try:
                self._out.write(to_line(event))
            except OSError:
                _log.warning("the supervisor is gone")


class Worker:
    """One worker process.

    Attributes:
        spawned: set when Locust has started its user, and so will not reset anything any more.
        over: set when everything has been written and reported.
    """

    def __init__(self, pipes: _Pipes, setup: dict[str, Any], environment: Environment) -> None:
        self.spawned = Event()
        self.over = Event()
        self._pipes = pipes
        self._environment = environment
        self._index = int(setup["worker"])
        profile = Profile.model_validate(setup["profile"])
        facts = ModelFacts(**setup["facts"])
        self._plan = make_plan(profile, facts)
        endpoints = [_endpoint(one) for one in setup["endpoints"]]
        api = Api(self._plan.settings.api)
        network, stamps = Network(**setup["network"]), bool(setup["arrival_stamps"])
        key, limits = setup["api_key"], profile.traffic.timeouts
        targets = [
            Target(
                endpoint,
                api,
                key,
                limits,
                network,
                headers=setup["headers"] if endpoint.pid is None else {},
                arrival_stamps=stamps,
            )
            for endpoint in endpoints
        ]
        self._recorder = Recorder(RunDir(Path(setup["run_dir"])).requests_journal(self._index))
        self._dispatcher = Dispatcher(
            self._plan,
            targets,
            self._recorder,
            worker=self._index,
            workers=int(setup["workers"]),
            routing=profile.traffic.routing,
            drain_timeout_s=profile.traffic.drain_timeout_s,
            on_record=self._on_record,
            conditions=profile.conditions,
        )
        self._dispatcher.warm_up()
        self._canary: Canary | None = None
        if setup["canary"] is not None:
            # No key: the paced server is ours and must not see the served model's key. Its reads
            # are timed like those of the load.
            stamps &= not any(endpoint.base_url.startswith("https:") for endpoint in endpoints)
            target = Target(_endpoint(setup["canary"]), api, None, limits, arrival_stamps=stamps)
            counts = self._dispatcher.counts
            self._canary = Canary(
                target, api, self._recorder, worker=self._index, sent=lambda: counts.sent
            )
        # Existing objects stay: the collector need not scan Locust's and Arrow's modules (tens of
        # milliseconds) while streams run.
        gc.collect()
        gc.freeze()
        # a stage and its start; without one it is primed
        self._starts: Queue[tuple[int, int | None] | None] = Queue()
        self._ttft_ms: list[float] = []
        self._loop_lag_ms = 0.0
        self._stage_name: str | None = None
        self._cpu = (monotonic_ns(), process_time())
        self._timer: Any = None

    def run(self) -> None:
        """From ready to over. The outcome is reported to the supervisor in any case."""
        gevent.spawn(self._listen)
        try:
            self._walk()
            errors = [error for error in (self._recorder.error, self._dispatcher.error) if error]
        except Exception as error:  # noqa: BLE001 - reported to the supervisor
            _log.exception("the worker failed")
            errors = [f"a defect of the harness: {error!r}"]
        if errors:
            self._pipes.send(Failed("; ".join(errors)))
        else:
            self._pipes.send(Finished(self._dispatcher.is_stopped()))
        self.over.set()

    def _walk(self) -> None:
        self.spawned.wait()
        self._watch_loop()
        self._pipes.send(Ready(self._plan.plan_sha256))
        reporter = gevent.spawn(self._report)
        try:
            for stage in self._plan.stages:
                command = self._starts.get()
                if command is not None and command[1] is None:
                    self._stage_name = stage.name
                    self._dispatcher.prime(command[0], self._pipes.send)
                    command = self._starts.get()
                if command is None or command[1] is None or self._dispatcher.is_stopped():
                    break
                self._stage_name = stage.name
                if self._canary is not None:
                    self._canary.start(stage.name, command[1])
                self._dispatcher.run_stage(command[0], command[1], self._pipes.send)
                if self._dispatcher.is_stopped() or self._recorder.error:
                    break
        finally:
            reporter.kill()
            if self._canary is not None:
                self._canary.stop()
            self._recorder.close()
        self._pipes.send(self._progress())

    def interrupt(self) -> None:
        self._stop(0)
        self.over.wait(KILL_AFTER_S)

    def _stop(self, grace_s: float) -> None:
        self._dispatcher.stop(grace_s)
        self._starts.put(None)
        self.spawned.set()

    def _listen(self) -> None:
        while (command := self._pipes.receive()) != {"cmd": "exit"}:
            match command:
                case None:
                    _end_without_supervisor()
                    self._stop(0)
                    break
                case {"cmd": "stage", "index": int(index), "start_ns": int(start_ns)}:
                    self._starts.put((index, start_ns))
                case {"cmd": "prime", "index": int(index)}:
                    self._starts.put((index, None))
                case {"cmd": "wind_down"}:
                    self._dispatcher.wind_down()
                case {"cmd": "stop", "grace_s": float() | int() as grace_s}:
                    self._stop(grace_s)
                case _:
                    _log.error("unknown command %r", command)
        self.over.wait()
        self._environment.runner.quit()

    def _on_record(self, record: Record) -> None:
        answer, first_ns = record.answer, record.answer.first_token_ns
        if first_ns and record.sent_ns and len(self._ttft_ms) < _RECENT:
            self._ttft_ms.append((first_ns - record.intended_ns) / 1e6)
        # Locust keeps a row per text: only the outcome, since error texts of a server may vary
        # without limit.
        failure = None if answer.outcome is Outcome.OK else str(answer.outcome)
        self._environment.events.request.fire(
            request_type=record.stage,
            name=record.workload_class,
            response_time=((record.done_ns or 0) - record.intended_ns) / 1e6,
            response_length=answer.response_bytes or 0,
            exception=failure,
            context={},
            url=None,
            start_time=None,
        )

    # --- progress ---

    def _watch_loop(self) -> None:
        """A timer whose lateness is the loop's lag."""
        loop = gevent.get_hub().loop
        self._timer = loop.timer(LAG_INTERVAL_S, LAG_INTERVAL_S)
        due = monotonic_ns() + LAG_INTERVAL_S * NS_PER_S

        def tick() -> None:
            nonlocal due
            now = monotonic_ns()
            self._loop_lag_ms = max(self._loop_lag_ms, (now - due) / 1e6)
            due = now + LAG_INTERVAL_S * NS_PER_S

        self._timer.start(tick)

    def _report(self) -> None:
        while True:
            gevent.sleep(PROGRESS_INTERVAL_S)
            self._pipes.send(self._progress())
            if self._recorder.error:  # without a journal there is no run
                self._dispatcher.stop(0)

    def _progress(self) -> WorkerProgress:
        now_ns, cpu_s = monotonic_ns(), process_time()
        before_ns, before_cpu_s = self._cpu
        self._cpu = (now_ns, cpu_s)
        progress = WorkerProgress(
            t_ns=now_ns,
            stage=self._stage_name,
            **asdict(self._dispatcher.counts),
            ttft_ms=[round(ms, 3) for ms in self._ttft_ms],
            loop_lag_ms=round(self._loop_lag_ms, 3),
            cpu=(cpu_s - before_cpu_s) * NS_PER_S / max(1, now_ns - before_ns),
        )
        self._ttft_ms, self._loop_lag_ms = [], 0.0
        return progress


def _endpoint(fields: dict[str, Any]) -> Endpoint:
    return Endpoint(**{**fields, "gpu_uuids": tuple(fields["gpu_uuids"])})


def _end_without_supervisor() -> None:
    """The supervisor is gone: after some seconds for flushing, a thread that no event loop can
    block ends this process.
    """

    def end() -> None:
        get_original("time", "sleep")(KILL_AFTER_S)
        os.kill(os.getpid(), signal.SIGKILL)

    get_original("_thread", "start_new_thread")(end, ())


def _prepare_process() -> None:
    # The supervisor handles a terminal's SIGINT, and sends commands over the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The thread that writes records must not hold the interpreter for 5 ms at a time (Python's
    # default).
    sys.setswitchinterval(0.0005)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


_worker: Worker | None = None


class PlannedTraffic(User):  # type: ignore[misc]  # Locust is not followed by the type checker
    """Represents the dispatcher among Locust's users: one per worker, until the end of the plan."""

    @task  # type: ignore[untyped-decorator]
    def walk_the_plan(self) -> None:
        assert _worker is not None
        _worker.spawned.set()
        _worker.over.wait()
        gevent.sleep(3600)  # until Locust quits


@events.init.add_listener  # type: ignore[untyped-decorator]
def _start(environment: Environment, **_: Any) -> None:  # noqa: ANN401 - Locust's event arguments
    global _worker  # noqa: PLW0603 - Locust makes the users itself; they find the process's worker here
    keep_pandas_out()
    _prepare_process()
    pipes = _Pipes(*lines.inherited())
    setup = pipes.receive()
    if setup is None:
        sys.exit("the supervisor ended before sending the setup")
    if isinstance(environment.runner, MasterRunner):
        gevent.spawn(_serve_master, pipes, environment)
        return
    try:
        _worker = Worker(pipes, setup, environment)
    except HarnessError as error:
        pipes.send(Failed(str(error)))
        raise
    gevent.spawn(_worker.run)


def _serve_master(pipes: _Pipes, environment: Environment) -> None:
    """The master only keeps Locust's display, until the exit command or the end of the
    supervisor.
    """
    pipes.send(Ready(None))
    while (command := pipes.receive()) is not None and command.get("cmd") != "exit":
        pass
    environment.runner.quit()


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def _flush(**_: Any) -> None:  # noqa: ANN401 - Locust's event arguments
    """SIGTERM, or Locust's own end: no request in flight is lost."""
    if _worker is not None:
        _worker.interrupt()
