"""The Locust processes: one plain `locust --headless` for one worker; else a master and workers on
loopback and a free port, started one by one (`--processes` binds a fixed port on all interfaces,
where a second run's workers would join).
"""

import socket
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Final

from harness.artifacts.layout import RunDir
from harness.core.clock import NS_PER_S, now_ns
from harness.core.errors import TrafficError
from harness.processes import lines
from harness.processes.child import Child, ChildSpec, exit_text, stop_all
from harness.processes.registry import RunRegistry
from harness.processes.start import own_environment, own_module
from harness.traffic.events import WorkerEvent, from_line

EXIT_TIMEOUT_S: Final = 20.0
_LOCUSTFILE: Final = Path(__file__).parent / "_locust" / "locustfile.py"
_LOOPBACK: Final = "127.0.0.1"


@dataclass(slots=True)
class LocustProcess:
    """One Locust process, labeled `traffic:<worker>` or `traffic:master`.

    Attributes:
        worker: index, None for the master.
        heard_ns: time of its latest event.
    """

    label: str
    worker: int | None
    child: Child
    ready: bool = False
    finished: bool = False
    heard_ns: int = 0

    def error(self, what: str, cause: str | None = None) -> TrafficError:
        return TrafficError(
            what, cause=cause, next_step=f"see {self.child.spec.log}", details=self.child.log_tail()
        )

    def died(self) -> TrafficError:
        status = self.child.wait(EXIT_TIMEOUT_S)
        if status is None:
            how = "closed its pipe"
        else:
            how = f"{'was' if status < 0 else 'ended with'} {exit_text(status)}"
        return self.error(
            f"{self.label} {how} before the end of the run",
            "out of memory, or a defect; its written records are kept",
        )


@dataclass(eq=False)
class LocustProcesses:
    """All Locust processes of a run.

    Attributes:
        run_dir: for logs; the workers write journals themselves.
        setup: sent first to each worker, together with its index.
        without: environment variable that they must not inherit, if any.
        cores: cores they may run on; None: as this process.
        take: called with each event of a process, from its own thread. Its exceptions go to
            `failed`.
        failed: called with an error about an event that could not be handled.
        ended: called when a process closes its pipe.
    """

    run_dir: RunDir
    count: int
    setup: Mapping[str, Any]
    _: KW_ONLY
    without: str | None
    cores: Collection[int] | None
    registry: RunRegistry | None
    take: Callable[[LocustProcess, WorkerEvent], None]
    failed: Callable[[TrafficError], None]
    ended: Callable[[LocustProcess], None]
    all: list[LocustProcess] = field(init=False, default_factory=list)
    _readers: list[threading.Thread] = field(init=False, default_factory=list)

    @property
    def workers(self) -> list[LocustProcess]:
        return [process for process in self.all if process.worker is not None]

    def start(self) -> None:
        count = str(self.count)
        users = ["--users", count, "--spawn-rate", count]
        if self.count == 1:
            self._start("traffic:0", 0, [*users, "--only-summary"])
            return
        port = str(_free_port())
        bind = ["--master", "--master-bind-host", _LOOPBACK, "--master-bind-port", port]
        self._start(
            "traffic:master", None, [*bind, "--only-summary", *users, "--expect-workers", count]
        )
        join = ["--worker", "--master-host", _LOOPBACK, "--master-port", port]
        for worker in range(self.count):
            self._start(f"traffic:{worker}", worker, join)

    def _start(self, label: str, worker: int | None, arguments: list[str]) -> None:
        single = self.count == 1 or worker is None
        logs = self.run_dir.logs_dir
        # Locust also reads LOCUST_* and, in its working directory, locust.conf and pyproject.toml:
        # logs/ has none. GEVENT_* could choose another event loop than the one with which the
        # reader was measured.
        env = {
            key: value
            for key, value in own_environment().items()
            if not key.startswith(("LOCUST_", "GEVENT")) and key != self.without
        }
        headless = ("--headless", "-f", str(_LOCUSTFILE), "--exit-code-on-error", "0")
        spec = ChildSpec(
            name=label,
            argv=own_module("locust", *headless, *arguments),
            env=env,
            log=logs / ("locust.log" if single else f"locust-worker-{worker}.log"),
            speaks=True,
            cwd=logs,
            cores=self.cores,
            error=TrafficError,
        )
        process = LocustProcess(label, worker, Child.start(spec, self.registry))
        self.all.append(process)
        reader = threading.Thread(target=self._read, args=(process,), name=label, daemon=True)
        self._readers.append(reader)
        reader.start()
        setup = {"worker": None} if worker is None else {**self.setup, "worker": worker}
        process.child.tell(lines.encode(setup))

    def _read(self, process: LocustProcess) -> None:
        events = process.child.lines()
        while True:
            try:
                line = next(events, None)
                if line is None:
                    break
                self.take(process, from_line(line))
            except Exception as error:  # noqa: BLE001 - raised in the thread that waits
                self.failed(
                    TrafficError(f"an event of {process.label} could not be handled: {error!r}")
                )
        self.ended(process)

    def tell(self, command: Mapping[str, Any]) -> None:
        line = lines.encode(command)
        for process in self.workers:
            process.child.tell(line)

    def close(self, *, politely: bool) -> None:
        """End all: by command, then by SIGTERM (records in flight are still written), then by
        SIGKILL. Idempotent.
        """
        if politely:
            deadline_ns = now_ns() + round(EXIT_TIMEOUT_S * NS_PER_S)
            for process in self.all:
                process.child.tell(lines.encode({"cmd": "exit"}))
            for process in self.all:
                process.child.wait((deadline_ns - now_ns()) / NS_PER_S)
        stop_all([process.child for process in self.all], EXIT_TIMEOUT_S)
        for reader in self._readers:
            reader.join()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((_LOOPBACK, 0))
        port: int = sock.getsockname()[1]
        return port
