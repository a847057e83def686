"""The supervisor's side of the load generator: sends commands to the Locust processes and receives
their events. Imports no Locust.
"""

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import Final, Self

from harness.artifacts.layout import RunDir
from harness.core.clock import NS_PER_S, now_ns
from harness.core.errors import TrafficError
from harness.core.records import Endpoint, ModelFacts
from harness.plan.build import RunPlan
from harness.processes.registry import RunRegistry
from harness.profile.schema import Profile
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
)
from harness.traffic.locust_processes import LocustProcess, LocustProcesses
from harness.traffic.merge import ProgressMerger, all_ended, all_primed

READY_TIMEOUT_S: Final = 120.0
"""For the start of all Locust processes: about 3 s on an idle machine, much more while an engine is
compiling.
"""

STOP_GRACE_S: Final = 10.0
"""For requests in flight when a run is stopped with `drain`."""

SILENCE_TIMEOUT_S: Final = 60.0
"""A worker reports twice a second; one that is silent for this long hangs."""

STAGE_LEAD_S: Final = 0.2
"""From the end of a stage to the start of the next, so that all workers know of it in time."""


class LocustDriver:
    """The load generator on this machine. `plan` was made from `profile` and `facts`; each worker
    makes it again, and the hashes must be equal.

    Args:
        api_key: sent with every request. It reaches the workers over a pipe: it is in no file,
            environment or process list.
        on_event: called with every event (`harness.traffic.events`), one at a time, from threads of
            the driver. Its exceptions fail the run.
        canary: a paced server on this host from which each worker streams all the time
            (`_locust.canary`), if any.
        cores: cores for the Locust processes; None: as this process.
        arrival_stamps: time reads by the kernel's arrival timestamp if available
            (`_locust.stamped_reads`).
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
        registry: RunRegistry | None = None,
    ) -> None:
        if not endpoints:
            raise ValueError("traffic needs an endpoint")
        self._plan = plan
        self._run_dir = run_dir
        self._workers = workers
        self._on_event = on_event
        self._ready_timeout_s = ready_timeout_s
        self._locust = LocustProcesses(
            run_dir,
            workers,
            {
                "profile": profile.model_dump(mode="json"),
                "facts": asdict(facts),
                "endpoints": [asdict(endpoint) for endpoint in endpoints],
                "run_dir": str(run_dir.root.resolve()),
                "network": asdict(profile.traffic.network),
                "workers": workers,
                "api_key": api_key,
                "headers": profile.traffic.network.sent_headers(),
                "canary": None if canary is None else asdict(canary),
                "arrival_stamps": arrival_stamps,
            },
            without=profile.server.api_key_env,
            cores=cores,
            registry=registry,
            take=self._take,
            failed=self._fail,
            ended=self._process_ended,
        )
        self._state = threading.Condition(threading.RLock())
        self._failure: TrafficError | None = None
        self._launched = False
        self._ended = False
        self._closing = False
        self._interrupted = False
        self._stage_marks: dict[tuple[str, int], list[StageMark]] = {}
        self._progress = ProgressMerger()

    # --- life ---

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def launch(self) -> None:
        """Start the processes; `start` waits for them."""
        self._run_dir.logs_dir.mkdir(parents=True, exist_ok=True)
        self._locust.start()
        self._launched = True

    def start(self) -> None:
        """Start the processes, unless `launch` did, and wait until all are ready.

        Raises:
            TrafficError: one died, failed, made another plan, or was not ready in time.
        """
        deadline_ns = now_ns() + round(self._ready_timeout_s * NS_PER_S)
        if not self._launched:
            self.launch()
        with self._state:
            while not all(process.ready for process in self._locust.all):
                self._raise_failure()
                left_s = (deadline_ns - now_ns()) / NS_PER_S
                if left_s <= 0:
                    late = next(process for process in self._locust.all if not process.ready)
                    raise late.error(
                        f"{late.label} was not ready within {self._ready_timeout_s:g} s",
                        "the machine is too busy, or the process hangs",
                    )
                self._state.wait(left_s)
            self._raise_failure()

    def go(self, start_ns: int) -> None:
        """Start the first stage at a monotonic time; about a second ahead leaves time to build the
        first bodies.

        A stage whose conversations start in the middle is primed first, and begins as soon as that
        is done.
        """
        self._begin(0, start_ns)

    def _begin(self, index: int, start_ns: int) -> None:
        if self._plan.stages[index].steady:
            self._locust.tell({"cmd": "prime", "index": index})
        else:
            self._locust.tell({"cmd": "stage", "index": index, "start_ns": start_ns})

    def poll(self) -> bool:
        """Whether the plan has ended.

        Raises:
            TrafficError: a worker failed. Earlier records are kept.
        """
        with self._state:
            self._raise_failure()
            for process in self._locust.workers:
                silent = now_ns() - process.heard_ns > SILENCE_TIMEOUT_S * NS_PER_S
                if silent and not process.finished:
                    raise process.error(
                        f"{process.label} has been silent for {SILENCE_TIMEOUT_S:g} s"
                    )
            return self._ended

    def wait(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` for the end of the plan; True if it has ended.

        Raises:
            TrafficError: as `poll`.
        """
        with self._state:
            self._state.wait_for(lambda: self._ended or self._failure is not None, timeout_s)
            return self.poll()

    def stop(self, *, drain: bool, grace_s: float = STOP_GRACE_S) -> None:
        """Start no new requests. With `drain`, those in flight may finish within `grace_s`; others
        are recorded as interrupted.
        """
        self._interrupted = True
        self._locust.tell({"cmd": "stop", "grace_s": grace_s if drain else 0.0})

    def close(self) -> None:
        with self._state:
            self._closing = True
            politely = self._failure is None and self._ended
        self._locust.close(politely=politely)

    def pids(self) -> dict[str, int]:
        return {process.label: process.child.pid for process in self._locust.all}

    # --- events ---

    def _process_ended(self, process: LocustProcess) -> None:
        with self._state:
            expected = self._closing or process.finished or (process.worker is None and self._ended)
        if not expected:
            error = process.died()
            self._failed(process, error, error.what)

    def _failed(self, process: LocustProcess, error: TrafficError, message: str) -> None:
        self._fail(error)
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

    def _take(self, process: LocustProcess, event: WorkerEvent) -> None:
        with self._state:
            process.heard_ns = now_ns()
            match event:
                case Ready(theirs):
                    self._compare_plans(process, theirs)
                    process.ready = True
                case WorkerProgress():
                    merged = self._progress.add(process.label, event, closes=process.worker == 0)
                    if merged is not None:
                        self._announce(merged)
                case Finished():
                    process.finished = True
                    self._interrupted = self._interrupted or event.interrupted
                    if all(one.finished for one in self._locust.workers):
                        self._announce(Finished(self._interrupted))
                        self._ended = True
                case Failed(message):
                    process.finished = True
                    self._failed(process, process.error(f"{process.label}: {message}"), message)
                case _:
                    self._stage_mark(event)
            self._state.notify_all()

    def _compare_plans(self, process: LocustProcess, theirs: str | None) -> None:
        ours = self._plan.plan_sha256
        if theirs is not None and theirs != ours:
            what = f"{process.label} made another plan ({theirs[:12]}, not {ours[:12]})"
            self._fail(TrafficError(what))

    def _stage_mark(self, event: StageMark) -> None:
        """Collect the marks of a stage; act once all workers have sent theirs."""
        marks = self._stage_marks.setdefault((event.event, event.index), [])
        marks.append(event)
        if isinstance(event, StageStarted):
            if len(marks) == 1:
                self._progress.new_stage()
                self._announce(event)
            return
        if len(marks) < self._workers:
            return
        soon_ns = now_ns() + round(STAGE_LEAD_S * NS_PER_S)
        match event:
            case WindowDone():
                self._locust.tell({"cmd": "wind_down"})
            case StagePrimed():
                self._announce(all_primed([one for one in marks if isinstance(one, StagePrimed)]))
                if not self._interrupted:
                    self._locust.tell({"cmd": "stage", "index": event.index, "start_ns": soon_ns})
            case StageEnded():
                self._announce(all_ended([one for one in marks if isinstance(one, StageEnded)]))
                if event.index + 1 < len(self._plan.stages) and not self._interrupted:
                    self._begin(event.index + 1, soon_ns)
