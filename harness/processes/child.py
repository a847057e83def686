"""One way to run a server as a child: own process group, ended with the harness, log in a file,
stopped for good.

A child is started by one thread that lives as long as the harness: the kernel ties "parent died" to
the thread that started the child, so a server started by a short-lived thread would be ended with
it.
"""

import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from harness.core.clock import NS_PER_S, now_ns
from harness.core.errors import ServerError
from harness.processes import identity as proc
from harness.processes import launcher
from harness.processes.registry import RUN_ID_VARIABLE, RunRegistry
from harness.server.failures import classify, exit_text

CHILD_VARIABLE: Final = "HARNESS_CHILD"
TAIL_LINES: Final = 30
_TAIL_BYTES: Final = 1 << 20
_POLL_S: Final = 0.05
_AFTER_LEADER_S: Final = 2.0  # children that the leader has told to end get this long
_PORT_FREE_S: Final = 5.0
# Below the range from which Linux gives ports to outgoing connections (32768 up): one of those
# cannot take the port while a server loads.
_PORTS: Final = range(18000, 32000)
_SECRET_OPTIONS: Final = ("api-key", "token", "secret", "password", "credentials")


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A server process to be.

    Attributes:
        name: `replica-0`, `replica-1`, …
        argv: command line, free of secrets.
        env: its whole environment; the run's markers are added.
        host: address that it will listen on.
        port: port that it will listen on.
        log_path: takes its output.
        secrets: values to hide wherever its log is shown.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    host: str
    port: int
    log_path: Path
    secrets: tuple[str, ...] = ()


class _Starter:
    """A daemon thread that starts all children; made at the first start, and again in a forked copy
    of this process.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[
            tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]
        ] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._owner: int | None = None

    def start(self, job: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._owner != os.getpid():
                self._jobs = queue.SimpleQueue()
                threading.Thread(target=self._work, name="server-starter", daemon=True).start()
                self._owner = os.getpid()
        done: Future[subprocess.Popen[bytes]] = Future()
        self._jobs.put((job, done))
        return done.result()

    def _work(self) -> None:
        while True:
            job, done = self._jobs.get()
            try:
                done.set_result(job())
            except BaseException as error:  # noqa: BLE001 (handed to the caller's thread)
                done.set_exception(error)


_starter: Final = _Starter()


class ServerProcess:
    """A started child. Made by `ServerProcess.start`."""

    def __init__(
        self, spec: ChildSpec, run_id: str, registry: RunRegistry, child: subprocess.Popen[bytes]
    ) -> None:
        self.spec = spec
        self.pid = child.pid
        self._run_id = run_id
        self._registry = registry
        self._child = child
        self._known: dict[int, proc.Proc] = {}
        self._terminated = False
        self._stopped = False

    @classmethod
    def start(cls, spec: ChildSpec, run_id: str, registry: RunRegistry) -> "ServerProcess":
        """Start the command and record its process group.

        Raises:
            ServerError: the port is taken, or the log or the process could not be made.
        """
        check_port_free(spec.host, spec.port)
        env = dict(spec.env) | {RUN_ID_VARIABLE: run_id, CHILD_VARIABLE: spec.name}
        command = [sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), *spec.argv]
        try:
            spec.log_path.parent.mkdir(parents=True, exist_ok=True)
            with spec.log_path.open("ab") as log:
                child = _starter.start(
                    lambda: subprocess.Popen(
                        command,
                        env=env,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        except OSError as error:
            raise ServerError(
                f"cannot start the server {spec.name}: {error}",
                next_step=f"check that {spec.log_path.parent} can be written",
            ) from error
        started = cls(spec, run_id, registry, child)
        try:
            registry.add(f"server:{spec.name}", child.pid)
        except BaseException:
            started.stop(0)
            raise
        return started

    def exit_status(self) -> int | None:
        """As `subprocess` gives it (negative: a signal), None while the process lives."""
        if self._child.returncode is not None:
            return self._child.returncode
        # Looking without taking: as long as a dead leader is not taken off the process table, the
        # kernel cannot give its number to another group, so membership in the group goes on proving
        # a process ours. vLLM's engine processes carry no other proof: they write their title over
        # their environment.
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def alive(self) -> bool:
        """Whether the process that was started still runs."""
        return self.exit_status() is None

    def members(self) -> list[proc.Proc]:
        """Everything alive that came of this child: its process group, and what carries its markers
        in another group.
        """
        if self._child.returncode is None:
            self._known.update({found.pid: found for found in proc.in_group(self.pid)})
        marked = proc.marked({RUN_ID_VARIABLE: self._run_id, CHILD_VARIABLE: self.spec.name})
        self._known.update({found.pid: found for found in marked})
        return [found for found in self._known.values() if proc.same(found.pid, found.start_ticks)]

    def record(self) -> None:
        """Write down which processes there are by now, for the next start of the harness if this
        one is killed.
        """
        self._registry.update(self.pid, self.members())

    def listens(self) -> bool | None:
        """Whether the port is held by one of our processes; None when the system does not tell."""
        try:
            holders = port_holders(self.spec.port)
        except psutil.Error:
            return None
        return bool(holders & {found.pid for found in self.members()}) if holders else None

    def log_text(self) -> str:
        """The end of the log (1 MiB), secrets hidden."""
        return self._hide(_end_of(self.spec.log_path, _TAIL_BYTES))

    def died(self, *, was_ready: bool) -> ServerError:
        """The error that tells of this process's death."""
        status = self.exit_status()
        how = exit_text(status) if status is not None else "no exit status"
        when = "died while serving" if was_ready else "died before it was ready"
        return self.failure(f"the server {self.spec.name} {when}: {how}", was_ready=was_ready)

    def failure(
        self, what: str, *, was_ready: bool, cause: str | None = None, next_step: str | None = None
    ) -> ServerError:
        """An error about this process: diagnosis, last log lines and where the log is."""
        log = self.log_text()
        diagnosis = classify(log, self.exit_status(), was_ready=was_ready)
        if diagnosis is not None:
            cause, next_step = diagnosis.cause, diagnosis.next_step
        return ServerError(
            what,
            cause=cause,
            next_step=next_step or f"read the log: {self.spec.log_path}",
            details=log_details(log, self.spec.log_path),
        )

    def terminate(self) -> None:
        """Ask for a clean end, once; `stop` waits for it."""
        if not self._terminated and not self._stopped and self.alive():
            self._terminated = True
            os.kill(
                self.pid, signal.SIGTERM
            )  # not Popen.terminate: it would take a dead leader off the process table

    def stop(self, timeout_s: float) -> None:
        """End it and all that came of it, and see that its port is free. Doing it again does
        nothing.

        Args:
            timeout_s: how long a clean end may take before SIGKILL.

        Raises:
            ServerError: a process or the port stayed.
        """
        if self._stopped:
            return
        left: list[proc.Proc] = []
        try:
            if self.alive() and timeout_s > 0:
                self.terminate()
                self._wait_for(lambda: not self.alive(), timeout_s)
            if timeout_s > 0 and not self.alive():
                self._wait_for(lambda: not self.members(), min(_AFTER_LEADER_S, timeout_s))
        finally:  # a second Ctrl-C in the wait above must not leave anything either
            left = proc.end(self.members, grace_s=0)
            if not left:
                self._child.wait()
        if left:
            raise ServerError(
                f"processes of the server {self.spec.name} would not end: {proc.describe(left)}",
                cause=(
                    "a process stuck in the kernel (a GPU or a network disk that does not answer)"
                ),
                next_step="look at them with `ps`; the next start of the harness tries again",
            )
        self._stopped = True
        self._registry.remove(self.pid)
        if not self._wait_for(lambda: port_is_free(self.spec.host, self.spec.port), _PORT_FREE_S):
            raise ServerError(
                f"port {self.spec.port} is still taken after the server {self.spec.name}"
                f" ended{_held_by(self.spec.port)}",
                next_step="find what holds it with `ss -ltnp`",
            )

    @staticmethod
    def _wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
        pause = threading.Event()
        deadline = now_ns() + int(timeout_s * NS_PER_S)
        while not condition():
            if now_ns() >= deadline:
                return False
            pause.wait(_POLL_S)
        return True

    def _hide(self, text: str) -> str:
        for secret in self.spec.secrets:
            text = text.replace(secret, "***")
        return text


def _end_of(path: Path, size_bytes: int) -> str:
    try:
        with path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - size_bytes))
            return log.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def log_details(log: str, path: Path) -> str:
    """The last 30 lines of a log and where the whole of it is."""
    lines = log.rstrip().splitlines()[-TAIL_LINES:]
    if not lines:
        return f"  the log is empty: {path}"
    body = "\n".join(f"  | {line}" for line in lines)
    return f"  last {len(lines)} lines of {path}:\n{body}"


def loopback(host: str) -> str:
    """The address under which a server that listens on `host` is reached from this machine, as it
    stands in a URL.
    """
    if host in ("0.0.0.0", ""):  # noqa: S104 (reading it, not binding)
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now.

    Without SO_REUSEPORT on purpose: two servers that both set it would share the port and each get
    half of the requests.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def port_holders(port: int) -> set[int]:
    """Pids that listen on the port, as far as this user may know."""
    connections = psutil.net_connections("tcp")
    return {
        item.pid
        for item in connections
        if item.status == psutil.CONN_LISTEN and item.laddr and item.laddr.port == port and item.pid
    }


def _held_by(port: int) -> str:
    try:
        holders = [
            found for pid in sorted(port_holders(port)) if (found := proc.read(pid)) is not None
        ]
    except psutil.Error:
        return ""
    return f" (held by {proc.describe(holders)})" if holders else ""


def check_port_free(host: str, port: int) -> None:
    """See that a server could listen there.

    Raises:
        ServerError: something listens there, and who it is where the system tells; or the address
            is not of this machine.
    """
    if port_is_free(host, port):
        return
    if not port_is_free(host, 0):
        raise ServerError(
            f"cannot listen on {host}: it is no address of this machine",
            next_step="set server.host to 127.0.0.1 or 0.0.0.0",
        )
    raise ServerError(
        f"port {port} on {host} is taken{_held_by(port)}",
        cause="another server, or one that an earlier run left",
        next_step=(
            "leave server.port out (a free one is taken), choose another, or end the process that"
            " holds it"
        ),
    )


def free_ports(host: str, count: int) -> tuple[int, ...]:
    """Different ports that are free now, drawn at random so that two harnesses at once hardly meet.

    Raises:
        ServerError: there are not enough, or the address is not of this machine.
    """
    drawn = random.SystemRandom().sample(_PORTS, k=len(_PORTS))
    found: list[int] = []
    if port_is_free(host, 0):
        for port in drawn:
            if len(found) == count:
                break
            if port_is_free(host, port):
                found.append(port)
    if len(found) < count:
        raise ServerError(
            f"found {len(found)} of {count} free ports on {host}",
            next_step="check server.host, or set server.port",
        )
    return tuple(found)


def redact(argv: tuple[str, ...]) -> tuple[str, ...]:
    """A command line with the values of options that name a secret replaced by ***."""
    shown: list[str] = []
    hide_next = False
    for item in argv:
        option, equals, _ = item.partition("=")
        secret = option.startswith("--") and option.lower().replace("_", "-").endswith(
            _SECRET_OPTIONS
        )
        if hide_next and not item.startswith("-"):
            shown.append("***")  # and the next too: --api-key takes several
            continue
        hide_next = secret and not equals
        shown.append(f"{option}=***" if secret and equals else item)
    return tuple(shown)
