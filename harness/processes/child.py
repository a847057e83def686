"""A child process: inherits only what is passed, is recorded, exchanges lines, and is stopped with
all its descendants.
"""

import os
import secrets
import select
import signal
import subprocess
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self

from harness.core.clock import NS_PER_S, now_ns
from harness.core.errors import HarnessError
from harness.processes import identity, lines
from harness.processes.registry import RUN_ID_VARIABLE, RunRegistry
from harness.processes.start import Popen, start

CHILD_VARIABLE: Final = "HARNESS_CHILD"
"""Environment variable that names one child; its descendants inherit it in any process group."""

TAIL_LINES: Final = 30
_TAIL_BYTES: Final = 1 << 20
_POLL_S: Final = 0.05
_AFTER_LEADER_S: Final = 2.0  # time for children that the leader has asked to end


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """How to start a child. None: as this process.

    Attributes:
        name: `server:replica-0`, `traffic:0`, `telemetry`, …: its label in the registry.
        argv: command line, without secrets.
        env: complete environment; the marks of the run and of the child are added.
        log: file for its output; None: standard output is discarded, errors go to this process's.
        speaks: exchanges lines (`harness.processes.lines`).
        cores: CPU cores to run on.
        nice: scheduling priority, if permitted.
        fds: descriptors that it inherits, under their numbers.
        error: class of errors about it.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path | None = None
    speaks: bool = False
    cwd: Path | None = None
    cores: Collection[int] | None = None
    nice: int | None = None
    fds: tuple[int, ...] = ()
    error: type[HarnessError] = HarnessError


class Child:
    """A started child, made by `Child.start`. `pid` leads its own process group."""

    def __init__(
        self, spec: ChildSpec, registry: RunRegistry | None, mark: str, popen: Popen
    ) -> None:
        self.spec = spec
        self.pid = popen.pid
        self._registry = registry
        self._mark = mark
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)
        weakref.finalize(self, os.close, self._pidfd)
        self._commands = -1
        self._events = -1
        self._telling = threading.Lock()
        self._known: dict[int, identity.Proc] = {}
        self._terminated = False
        self._stopped = False

    @classmethod
    def start(cls, spec: ChildSpec, registry: RunRegistry | None = None) -> Self:
        """Start the command and record its process group.

        Raises:
            HarnessError: of class `spec.error`: the log or the process could not be made.
        """
        mark = f"{spec.name}/{secrets.token_hex(8)}"
        env = {**spec.env, CHILD_VARIABLE: mark}
        if registry is not None:
            env[RUN_ID_VARIABLE] = registry.run_id
        theirs: tuple[int, ...] = ()
        ours: tuple[int, ...] = ()
        try:
            if spec.speaks:
                command_read, command_write = os.pipe()
                event_read, event_write = os.pipe()
                theirs, ours = (command_read, event_write), (command_write, event_read)
                env[lines.VARIABLE] = f"{command_read},{event_write}"
            popen = _popen(spec, env, theirs)
        except OSError as error:
            for fd in ours:
                os.close(fd)
            next_step = None if spec.log is None else f"check that {spec.log.parent} is writable"
            raise spec.error(f"cannot start {spec.name}: {error}", next_step=next_step) from error
        finally:
            for fd in theirs:
                os.close(fd)
        child = cls(spec, registry, mark, popen)
        if ours:
            child._commands, child._events = ours
        try:
            child._settle()
        except BaseException:
            child.stop(0)
            raise
        return child

    def _settle(self) -> None:
        """Set cores and priority while it has one thread, from which others inherit them."""
        with suppress(ProcessLookupError):
            if self.spec.cores is not None:
                os.sched_setaffinity(self.pid, self.spec.cores)
            if self.spec.nice is not None:
                with suppress(PermissionError):
                    os.setpriority(os.PRIO_PROCESS, self.pid, self.spec.nice)
        if self._registry is not None:
            self._registry.add(self.spec.name, self.pid)

    # --- lines ---

    def tell(self, line: bytes) -> None:
        """Send it a line. Ignored if it has ended, which `lines` and `wait` report."""
        with self._telling, suppress(BrokenPipeError):
            view = memoryview(line)
            while view and self._commands >= 0:
                view = view[os.write(self._commands, view) :]

    def hang_up(self) -> None:
        """End its commands. May be called again."""
        with self._telling:
            commands, self._commands = self._commands, -1
            if commands >= 0:
                os.close(commands)

    def lines(self) -> Iterator[bytes]:
        """Lines from it, until it ends. Call once.

        Raises:
            LineError: it sent something that is not a line.
        """
        events, self._events = self._events, -1
        with os.fdopen(events, "rb") as file:
            yield from lines.split(file)

    # --- its life ---

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for its end. Its exit status (negative: a signal), or None if it still runs."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        ended = poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000)
        return self._status() if ended else None

    def _status(self) -> int | None:
        if self._popen.returncode is not None:
            return self._popen.returncode
        # WNOWAIT leaves a dead leader in the process table, so that the kernel cannot reuse its
        # number for another group and membership still proves a process ours. vLLM's engine
        # processes have no other proof: they overwrite their environment with their title.
        try:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # reaped by `stop` in another thread
            return self._popen.wait()
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def alive(self) -> bool:
        return self.wait(0) is None

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def members(self) -> list[identity.Proc]:
        """Its live descendants and itself: the process group, and processes elsewhere that have its
        mark.
        """
        taken = self._popen.returncode is not None  # another group may have its number by now
        for found in identity.processes():
            in_group = not taken and found.pgid == self.pid
            if in_group or identity.carries(found.pid, CHILD_VARIABLE, self._mark):
                self._known[found.pid] = found
        return [one for one in self._known.values() if identity.same(one.pid, one.start_ticks)]

    def record(self) -> None:
        """Record its current processes, for the next start of the harness if this one is killed."""
        if self._registry is not None:
            self._registry.update(self.pid, self.members())

    def terminate(self) -> None:
        """Send SIGTERM, once; `stop` waits for the end."""
        if not self._terminated and not self._stopped:
            self._terminated = True
            self.signal(signal.SIGTERM)

    def stop(self, grace_s: float) -> None:
        """End it and its descendants. May be called again.

        Args:
            grace_s: time between SIGTERM and SIGKILL.

        Raises:
            HarnessError: of class `spec.error`: a process did not end.
        """
        if self._stopped:
            return
        gone = False
        left: list[identity.Proc] = []
        try:
            if grace_s > 0:
                self.terminate()
                if self.wait(grace_s) is not None:
                    gone = wait_for(lambda: not self.members(), min(_AFTER_LEADER_S, grace_s))
        finally:  # also after a second Ctrl-C in the wait above
            if not gone:
                left = identity.end(self.members, grace_s=0)
            if not left:
                self._popen.wait()
            self.hang_up()
            if self._events >= 0:
                os.close(self._events)
                self._events = -1
        if left:
            raise self.spec.error(
                f"processes of {self.spec.name} did not end: {identity.describe(left)}",
                cause="they are blocked in the kernel (an unresponsive GPU or network disk)",
                next_step="inspect them with `ps`; the next start of the harness tries again",
            )
        self._stopped = True
        if self._registry is not None:
            self._registry.remove(self.pid)

    # --- its log ---

    def log_text(self) -> str:
        try:
            with open(self.spec.log or os.devnull, "rb") as log:  # noqa: PTH123
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - _TAIL_BYTES))
                return log.read().decode("utf-8", errors="replace")
        except OSError:
            return ""

    def log_tail(self) -> str | None:
        """The last 30 lines of its log; None if it is empty."""
        return "\n".join(self.log_text().splitlines()[-TAIL_LINES:]) or None


def _popen(spec: ChildSpec, env: Mapping[str, str], fds: tuple[int, ...]) -> Popen:
    options = {"env": env, "cwd": spec.cwd, "pass_fds": (*spec.fds, *fds)}
    if spec.log is None:
        return start(spec.argv, stdout=subprocess.DEVNULL, **options)
    spec.log.parent.mkdir(parents=True, exist_ok=True)
    with spec.log.open("ab") as log:
        return start(spec.argv, stdout=log, stderr=subprocess.STDOUT, **options)


def exit_text(exit_status: int) -> str:
    """`exit code 1` or `killed by SIGKILL`."""
    if exit_status >= 0:
        return f"exit code {exit_status}"
    try:
        return f"killed by {signal.Signals(-exit_status).name}"
    except ValueError:
        return f"killed by signal {-exit_status}"


def wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Poll a condition until it is true; False after the timeout."""
    pause = threading.Event()
    deadline_ns = now_ns() + int(timeout_s * NS_PER_S)
    while not condition():
        if now_ns() >= deadline_ns:
            return False
        pause.wait(_POLL_S)
    return True


class Stoppable(Protocol):
    """A child, or an object with the same two methods."""

    def terminate(self) -> None: ...
    def stop(self, grace_s: float, /) -> None: ...


def stop_all(children: Sequence[Stoppable], grace_s: float) -> None:
    """End children concurrently: terminate all, then wait for each until the same deadline.

    Raises:
        HarnessError: of the first that did not end, after all were tried.
    """
    failed: HarnessError | None = None
    interrupted: BaseException | None = None
    deadline_ns = now_ns() + round(grace_s * NS_PER_S)
    for one in children:
        one.terminate()
    for one in children:
        try:
            # No waiting after a second interruption.
            one.stop(0 if interrupted else max(_POLL_S, (deadline_ns - now_ns()) / NS_PER_S))
        except HarnessError as error:
            failed = failed or error
        except BaseException as error:  # noqa: BLE001 (raised below, after the others have ended)
            interrupted = error
    if interrupted is not None:
        raise interrupted
    if failed is not None:
        raise failed
