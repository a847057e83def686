"""The supervisor's side of the load generator: starts the Locust processes, tells them when, hears
how it goes, ends them.

Nothing here imports Locust. One plain `locust --headless` for one worker; else a master and workers
on loopback and a free port, started one by one (`--processes` binds a fixed port on all interfaces,
where a second run's workers would join).
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from bisect import insort
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import harness
from harness.artifacts.layout import RunDir
from harness.core.clock import NS_PER_S, now_ns
from harness.core.errors import TrafficError
from harness.core.progress import TrafficProgress
from harness.core.records import Endpoint, ModelFacts
from harness.plan.build import RunPlan
from harness.profile.schema import Profile
from harness.traffic.child import FDS_VARIABLE, PARENT_VARIABLE
from harness.traffic.events import (
    Failed,
    Finished,
    Ready,
    StageEnded,
    StageMark,
    StagePrimed,
    StageStarted,
    TrafficEvent,
    WindowDone,
    WorkerEvent,
    WorkerProgress,
    from_line,
)

READY_TIMEOUT_S: Final = 120.0
"""Longest start of all Locust processes: some 3 s on an idle machine, much more where an engine is
compiling beside it.
"""

STOP_GRACE_S: Final = 10.0
"""Time that requests in flight get when a run is stopped with `drain`."""

SILENCE_TIMEOUT_S: Final = 60.0
"""A worker reports twice a second; one that is silent for so long hangs."""

EXIT_TIMEOUT_S: Final = 20.0
STAGE_LEAD_S: Final = 0.2
"""From the end of a stage to the start of the next: all workers must have heard of it."""

_LOCUSTFILE = Path(__file__).parent / "_locust" / "locustfile.py"
_LOG_LINES = 30
_MOST_TTFTS = 20_000


@dataclass(slots=True)
class _Process:
    """One Locust process.

    Attributes:
        label: `traffic:<worker>` or `traffic:master`.
        worker: index, None for the master.
        log: its log file.
        popen: the process.
        commands: our end of its command pipe.
        events: our end of its event pipe.
        ready: it has announced itself.
        finished: it has told its end.
        last: its latest progress; None before the first.
        reader: the thread that takes its events.
        heard_ns: when its latest event came.
    """

    label: str
    worker: int | None
    log: Path
    popen: subprocess.Popen[bytes]
    commands: int
    events: int
    ready: bool = False
    finished: bool = False
    last: WorkerProgress | None = None
    reader: threading.Thread | None = None
    heard_ns: int = 0


class LocustDriver:
    """The load generator on this machine.

    Args:
        profile: the run's.
        facts: the model's, as the plan was made from.
        plan: what the workers must come to as well; their hashes are held against its.
        endpoints: where to send.
        run_dir: for journals and logs.
        workers: Locust worker processes.
        api_key: sent with every request. It reaches the workers over a pipe: it is in no file,
            environment or process list.
        on_event: called with every event, one at a time, from threads of the driver. Its exceptions
            fail the run.
        canary: a paced server on this host that each worker streams from all the while
            (`harness.traffic._locust.canary`); None: no canary.
        cores: cores that the Locust processes may run on; None: as this process.
        ready_timeout_s: for all processes.
        arrival_stamps: time reads by the kernel's stamp of their arrival where it can be had
            (`harness.traffic._locust.stamped_reads`).
    """

    def __init__(
        self,
        profile: Profile,
        facts: ModelFacts,
        plan: RunPlan,
        endpoints: Sequence[Endpoint],
        run_dir: RunDir,
        *,
        workers: int = 1,
        api_key: str | None = None,
        on_event: Callable[[TrafficEvent], None] = lambda _event: None,
        canary: Endpoint | None = None,
        cores: Collection[int] | None = None,
        ready_timeout_s: float = READY_TIMEOUT_S,
        arrival_stamps: bool = True,
    ) -> None:
        if not endpoints:
            raise ValueError("traffic needs an endpoint")
        self._profile = profile
        self._facts = facts
        self._plan = plan
        self._endpoints = tuple(endpoints)
        self._run_dir = run_dir
        self._workers = workers
        self._api_key = api_key
        self._on_event = on_event
        self._canary = canary
        self._cores = cores
        self._ready_timeout_s = ready_timeout_s
        self._arrival_stamps = arrival_stamps
        self._processes: list[_Process] = []
        self._state = threading.Condition(threading.RLock())
        self._failure: TrafficError | None = None
        self._ended = False
        self._closing = False
        self._interrupted = False
        self._stage_marks: dict[tuple[str, int], list[StageMark]] = {}
        self._ttft_ms: list[float] = []

    # --- life ---

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the processes and wait until all are ready. The thread that calls this must outlive
        the run: the processes end with it.

        Raises:
            TrafficError: a process died, failed, disagreed about the plan, or was not ready in
                time.
        """
        self._run_dir.logs_dir.mkdir(parents=True, exist_ok=True)
        deadline_ns = now_ns() + round(self._ready_timeout_s * NS_PER_S)
        if self._workers == 1:
            self._spawn("traffic:0", 0, ["--users", "1", "--spawn-rate", "1", "--only-summary"])
        else:
            port = _free_port()
            users = [
                "--users",
                str(self._workers),
                "--spawn-rate",
                str(self._workers),
                "--expect-workers",
                str(self._workers),
            ]
            bind = [
                "--master",
                "--master-bind-host",
                "127.0.0.1",
                "--master-bind-port",
                str(port),
                "--only-summary",
            ]
            self._spawn("traffic:master", None, [*bind, *users])
            for worker in range(self._workers):
                self._spawn(
                    f"traffic:{worker}",
                    worker,
                    ["--worker", "--master-host", "127.0.0.1", "--master-port", str(port)],
                )
        with self._state:
            while not all(process.ready for process in self._processes):
                self._raise_failure()
                left_s = (deadline_ns - now_ns()) / NS_PER_S
                if left_s <= 0:
                    late = next(process for process in self._processes if not process.ready)
                    raise TrafficError(
                        f"{late.label} was not ready within {self._ready_timeout_s:g} s",
                        cause="the machine is too busy, or the process hangs",
                        next_step=f"see {late.log}",
                        details=_tail(late.log),
                    )
                self._state.wait(left_s)
            self._raise_failure()

    def go(self, start_ns: int) -> None:
        """Start the first stage at a monotonic time; a second or so ahead leaves room to make the
        first bodies.

        A stage whose conversations start in their middle is primed first, and begins as soon as
        that is done.
        """
        self._begin(0, start_ns)

    def _begin(self, index: int, start_ns: int) -> None:
        if self._plan.stages[index].steady:
            self._tell_workers({"cmd": "prime", "index": index})
        else:
            self._tell_workers({"cmd": "stage", "index": index, "start_ns": start_ns})

    def poll(self) -> bool:
        """Whether the plan has ended.

        Raises:
            TrafficError: a worker failed. What was recorded before is kept.
        """
        with self._state:
            self._raise_failure()
            for process in self._processes:
                if (
                    process.worker is not None
                    and not process.finished
                    and now_ns() - process.heard_ns > SILENCE_TIMEOUT_S * NS_PER_S
                ):
                    raise TrafficError(
                        f"{process.label} has been silent for {SILENCE_TIMEOUT_S:g} s",
                        next_step=f"see {process.log}",
                    )
            return self._ended

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end of the plan, at most so long; True when it has ended.

        Raises:
            TrafficError: as `poll`.
        """
        with self._state:
            self._state.wait_for(lambda: self._ended or self._failure is not None, timeout_s)
            return self.poll()

    def stop(self, *, drain: bool, grace_s: float = STOP_GRACE_S) -> None:
        """Start no new requests. With `drain`, those in flight may finish for `grace_s`; the rest
        are recorded as interrupted.
        """
        self._interrupted = True
        self._tell_workers({"cmd": "stop", "grace_s": grace_s if drain else 0.0})

    def close(self) -> None:
        """End every process: politely, then by SIGTERM (records in flight are still written), then
        by SIGKILL. May be called again.
        """
        with self._state:
            self._closing = True
            polite = self._failure is None and self._ended
        if polite:
            self._tell({"cmd": "exit"}, self._processes)
            self._reap(EXIT_TIMEOUT_S)
        for process in self._processes:
            if process.popen.poll() is None:
                _signal_group(process.popen, signal.SIGTERM)
        self._reap(EXIT_TIMEOUT_S)
        for process in self._processes:
            _signal_group(
                process.popen, signal.SIGKILL
            )  # also what a process may have left in its group
            process.popen.wait()
            with suppress(OSError):
                os.close(process.commands)
            process.commands = -1
            if process.reader is not None:
                process.reader.join()

    def pids(self) -> dict[str, int]:
        """`traffic:<worker>` and `traffic:master` -> process id."""
        return {process.label: process.popen.pid for process in self._processes}

    # --- processes ---

    def _spawn(self, label: str, worker: int | None, arguments: list[str]) -> None:
        single = self._workers == 1 or worker is None
        log = self._run_dir.logs_dir / ("locust.log" if single else f"locust-worker-{worker}.log")
        command_read, command_write = os.pipe()
        event_read, event_write = os.pipe()
        command = [
            sys.executable,
            "-P",
            "-m",
            "locust",
            "--headless",
            "-f",
            str(_LOCUSTFILE),
            "--exit-code-on-error",
            "0",
            *arguments,
        ]
        try:
            with log.open("ab") as output:
                popen = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    env=self._environment(command_read, event_write),
                    cwd=self._run_dir.logs_dir,
                    pass_fds=(command_read, event_write),
                )
        except OSError as error:
            for fd in (command_write, event_read):
                os.close(fd)
            raise TrafficError(
                f"cannot start Locust: {error}",
                next_step="check that this Python can run `python -m locust`",
            ) from error
        finally:
            os.close(command_read)
            os.close(event_write)
        if self._cores is not None:
            os.sched_setaffinity(
                popen.pid, self._cores
            )  # before it has started any thread: those inherit
        process = _Process(label, worker, log, popen, command_write, event_read)
        self._processes.append(process)
        process.reader = threading.Thread(
            target=self._read, args=(process,), name=label, daemon=True
        )
        process.reader.start()
        self._tell(self._setup(worker), [process])

    def _environment(self, command_fd: int, event_fd: int) -> dict[str, str]:
        # Locust also reads LOCUST_* and, in its working directory, locust.conf and pyproject.toml:
        # in logs/ there are none. GEVENT_* could choose another event loop than the one that the
        # reader was measured with.
        env = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("LOCUST_", "GEVENT"))
        }
        key_variable = self._profile.server.api_key_env
        if key_variable:
            env.pop(key_variable, None)
        root = str(Path(harness.__file__).resolve().parents[1])
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (root, env.get("PYTHONPATH"))))
        env[FDS_VARIABLE] = f"{command_fd},{event_fd}"
        env[PARENT_VARIABLE] = str(os.getpid())
        return env

    def _setup(self, worker: int | None) -> dict[str, Any]:
        if worker is None:
            return {"worker": None}
        profile = self._profile.model_dump(mode="json")
        return {
            "worker": worker,
            "workers": self._workers,
            "profile": profile,
            "facts": asdict(self._facts),
            "endpoints": [asdict(endpoint) for endpoint in self._endpoints],
            "run_dir": str(self._run_dir.root.resolve()),
            "api_key": self._api_key,
            "canary": None if self._canary is None else asdict(self._canary),
            "network": asdict(self._profile.traffic.network),
            "arrival_stamps": self._arrival_stamps,
        }

    def _tell(self, command: Mapping[str, Any], processes: Sequence[_Process]) -> None:
        line = json.dumps(command).encode() + b"\n"
        for process in processes:
            if process.commands < 0:
                continue
            # A process that is gone is noticed by its reader.
            with suppress(BrokenPipeError):
                view = memoryview(line)
                while view:
                    view = view[os.write(process.commands, view) :]

    def _tell_workers(self, command: Mapping[str, Any]) -> None:
        self._tell(command, [process for process in self._processes if process.worker is not None])

    def _reap(self, timeout_s: float) -> None:
        deadline_ns = now_ns() + round(timeout_s * NS_PER_S)
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.popen.wait(max(0.0, (deadline_ns - now_ns()) / NS_PER_S))

    # --- events ---

    def _read(self, process: _Process) -> None:
        """Thread of one process: its events until its end of the pipe closes."""
        with os.fdopen(process.events, "rb") as lines:
            for line in lines:
                try:
                    self._take(process, from_line(line))
                except Exception as error:  # noqa: BLE001 - raised in the thread that waits
                    self._fail(
                        TrafficError(f"an event of {process.label} could not be handled: {error!r}")
                    )
        with self._state:
            expected = self._closing or process.finished or (process.worker is None and self._ended)
        if not expected:
            self._died(process)

    def _died(self, process: _Process) -> None:
        try:
            code = process.popen.wait(EXIT_TIMEOUT_S)
            how = (
                f"was killed by {signal.Signals(-code).name}"
                if code < 0
                else f"ended with exit code {code}"
            )
        except (subprocess.TimeoutExpired, ValueError):
            how = "closed its pipe"
        message = f"{process.label} {how} before the run was over"
        self._fail(
            TrafficError(
                message,
                cause="out of memory, or a defect; the records that it had written are kept",
                next_step=f"see {process.log}",
                details=_tail(process.log),
            )
        )
        self._announce(Failed(message, process.label))

    def _fail(self, error: TrafficError) -> None:
        with self._state:
            self._failure = self._failure or error
            self._state.notify_all()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _announce(self, event: TrafficEvent) -> None:
        with self._state:
            self._on_event(event)

    def _take(self, process: _Process, event: WorkerEvent) -> None:
        with self._state:
            process.heard_ns = now_ns()
            match event:
                case Ready(theirs):
                    if theirs is not None and theirs != self._plan.plan_sha256:
                        self._fail(
                            TrafficError(
                                f"{process.label} made another plan ({theirs[:12]}, not"
                                f" {self._plan.plan_sha256[:12]})"
                            )
                        )
                    process.ready = True
                case WorkerProgress():
                    process.last = event
                    self._progress(process, event)
                case Finished():
                    process.finished = True
                    self._interrupted = self._interrupted or event.interrupted
                    if all(one.finished for one in self._processes if one.worker is not None):
                        self._announce(Finished(self._interrupted))
                        self._ended = True
                case Failed():
                    process.finished = True
                    self._fail(
                        TrafficError(
                            f"{process.label}: {event.message}",
                            next_step=f"see {process.log}",
                            details=_tail(process.log),
                        )
                    )
                    self._announce(replace(event, worker=process.label))
                case _:
                    self._stage_mark(event)
            self._state.notify_all()

    def _stage_mark(self, event: StageMark) -> None:
        """Gather a mark of a stage; act on it when all workers have made it."""
        marks = self._stage_marks.setdefault((event.event, event.index), [])
        marks.append(event)
        if isinstance(event, StageStarted):
            if len(marks) == 1:
                self._ttft_ms = []
                self._announce(event)
            return
        if len(marks) < self._workers:
            return
        match event:
            case WindowDone():
                self._tell_workers({"cmd": "wind_down"})
            case StagePrimed():
                self._announce(_all_primed([one for one in marks if isinstance(one, StagePrimed)]))
                if not self._interrupted:
                    start_ns = now_ns() + round(STAGE_LEAD_S * NS_PER_S)
                    self._tell_workers({"cmd": "stage", "index": event.index, "start_ns": start_ns})
            case StageEnded():
                self._announce(_all_ended([one for one in marks if isinstance(one, StageEnded)]))
                if event.index + 1 < len(self._plan.stages) and not self._interrupted:
                    self._begin(event.index + 1, now_ns() + round(STAGE_LEAD_S * NS_PER_S))

    def _progress(self, process: _Process, report: WorkerProgress) -> None:
        """One merged event for each round of the workers' reports: worker 0's report closes a
        round.
        """
        for ttft_ms in report.ttft_ms:
            insort(self._ttft_ms, ttft_ms)
        if len(self._ttft_ms) > _MOST_TTFTS:
            self._ttft_ms = self._ttft_ms[::2]  # for the display: quantiles stay, memory is bounded
        if process.worker != 0:
            return
        reports = [one.last for one in self._processes if one.last is not None]
        self._announce(
            TrafficProgress(
                t_ns=report.t_ns,
                stage=report.stage,
                in_flight=sum(one.in_flight for one in reports),
                live_sessions=sum(one.live_sessions for one in reports),
                sent=sum(one.sent for one in reports),
                ok=sum(one.ok for one in reports),
                failed=sum(one.failed for one in reports),
                dropped=sum(one.dropped for one in reports),
                ttft_p50_s=_quantile_s(self._ttft_ms, 0.5),
                ttft_p99_s=_quantile_s(self._ttft_ms, 0.99),
                loop_lag_s=max(one.loop_lag_ms for one in reports) / 1000,
                cpu=max(one.cpu for one in reports),
            )
        )


def _all_primed(marks: Sequence[StagePrimed]) -> StagePrimed:
    """One mark for all workers."""
    return replace(
        marks[-1],
        start_ns=min(one.start_ns for one in marks),
        end_ns=max(one.end_ns for one in marks),
        primed=sum(one.primed for one in marks),
        failed=sum(one.failed for one in marks),
    )


def _all_ended(marks: Sequence[StageEnded]) -> StageEnded:
    """One mark for all workers."""
    return replace(
        marks[-1],
        end_ns=max(one.end_ns for one in marks),
        window_end_ns=max(one.window_end_ns for one in marks),
        turns_not_happened=sum(one.turns_not_happened for one in marks),
        turns_cut=sum(one.turns_cut for one in marks),
        replies_not_carried=sum(one.replies_not_carried for one in marks),
    )


def _quantile_s(sorted_ms: list[float], share: float) -> float | None:
    """Nearest-rank quantile in seconds; for the display."""
    return (
        sorted_ms[min(len(sorted_ms) - 1, int(share * len(sorted_ms)))] / 1000
        if sorted_ms
        else None
    )


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _signal_group(popen: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(popen.pid, number)


def _tail(log: Path) -> str | None:
    """The last lines of a log."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return "\n".join(lines[-_LOG_LINES:]) or None
