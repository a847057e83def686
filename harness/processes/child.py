"""A child of the harness: started with nothing inherited by chance, recorded, spoken to in lines,
stopped for good with all that came of it.
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
"""Environment variable that names one child; what comes of it inherits it, wherever it moves."""

TAIL_LINES: Final = 30
_TAIL_BYTES: Final = 1 << 20
_POLL_S: Final = 0.05
_AFTER_LEADER_S: Final = 2.0  # children that the leader has told to end get this long


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """A child to be.

    Attributes:
        name: `server:replica-0`, `traffic:0`, `telemetry`, …: its label in the registry.
        argv: command line, free of secrets.
        env: its whole environment; the marks of the run and of the child are added.
        log: takes what it prints; None: its standard output is closed, its errors are this
            process's.
        speaks: whether lines go to it and come from it (`harness.processes.lines`).
        cwd: its working directory; None: this process's.
        cores: that it may run on; None: as this process.
        nice: scheduling priority, where that is permitted; None: as this process.
        fds: descriptors that it inherits, under their numbers.
        error: class of the errors about it.
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
    """A started child. Made by `Child.start`.

    Attributes:
        pid: its process, which leads a process group of its own.
    """

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
            HarnessError: of `spec.error`: the log or the process could not be made.
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
            raise spec.error(
                f"cannot start {spec.name}: {error}",
                next_step=None
                if spec.log is None
                else f"check that {spec.log.parent} can be written",
            ) from error
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
        """Cores and priority while it has a single thread, whose children inherit them."""
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
        """Send it a line. One that is gone hears nothing; its end shows in `lines` and `wait`."""
        with self._telling, suppress(BrokenPipeError):
            view = memoryview(line)
            while view and self._commands >= 0:
                view = view[os.write(self._commands, view) :]

    def hang_up(self) -> None:
        """Tell it no more: it finds the end of its commands. May be called again."""
        with self._telling:
            commands, self._commands = self._commands, -1
            if commands >= 0:
                os.close(commands)

    def lines(self) -> Iterator[bytes]:
        """What it says, until it ends. To be asked for once.

        Raises:
            LineError: it said something that is no line.
        """
        events, self._events = self._events, -1
        with os.fdopen(events, "rb") as file:
            yield from lines.split(file)

    # --- its life ---

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Its exit status (negative: a signal) once it has ended; None while it lives.

        Args:
            timeout_s: longest time to wait for its end; None: however long it takes.
        """
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        ended = poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000)
        return self._status() if ended else None

    def _status(self) -> int | None:
        if self._popen.returncode is not None:
            return self._popen.returncode
        # Looking without taking: as long as a dead leader is not taken off the process table, the
        # kernel cannot give its number to another group, so membership in the group goes on proving
        # a process ours. vLLM's engine processes carry no other proof: they write their title over
        # their environment.
        try:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # `stop` in another thread took it since
            return self._popen.wait()
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def alive(self) -> bool:
        """Whether the process that was started still runs."""
        return self.wait(0) is None

    def signal(self, number: int) -> None:
        """Send the process a signal; one that is gone gets none."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def members(self) -> list[identity.Proc]:
        """Everything alive that came of this child: its process group, and what carries its mark in
        another group.
        """
        taken = self._popen.returncode is not None  # its number may be another group's by now
        for found in identity.processes():
            in_group = not taken and found.pgid == self.pid
            if in_group or identity.carries(found.pid, CHILD_VARIABLE, self._mark):
                self._known[found.pid] = found
        return [one for one in self._known.values() if identity.same(one.pid, one.start_ticks)]

    def record(self) -> None:
        """Write down which processes there are by now, for the next start of the harness if this
        one is killed.
        """
        if self._registry is not None:
            self._registry.update(self.pid, self.members())

    def terminate(self) -> None:
        """Ask for a clean end, once; `stop` waits for it."""
        if not self._terminated and not self._stopped:
            self._terminated = True
            self.signal(signal.SIGTERM)

    def stop(self, grace_s: float) -> None:
        """End it and all that came of it. Doing it again does nothing.

        Args:
            grace_s: how long a clean end may take before SIGKILL.

        Raises:
            HarnessError: of `spec.error`: a process stayed.
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
        finally:  # a second Ctrl-C in the wait above must not leave anything either
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
                f"processes of {self.spec.name} would not end: {identity.describe(left)}",
                cause=(
                    "a process stuck in the kernel (a GPU or a network disk that does not answer)"
                ),
                next_step="look at them with `ps`; the next start of the harness tries again",
            )
        self._stopped = True
        if self._registry is not None:
            self._registry.remove(self.pid)

    # --- its log ---

    def log_text(self) -> str:
        """The end of its log (1 MiB)."""
        try:
            with open(self.spec.log or os.devnull, "rb") as log:  # noqa: PTH123
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - _TAIL_BYTES))
                return log.read().decode("utf-8", errors="replace")
        except OSError:
            return ""

    def log_tail(self) -> str | None:
        """The last 30 lines of its log; None where there are none."""
        return "\n".join(self.log_text().splitlines()[-TAIL_LINES:]) or None


def _popen(spec: ChildSpec, env: Mapping[str, str], fds: tuple[int, ...]) -> Popen:
    options = {"env": env, "cwd": spec.cwd, "pass_fds": (*spec.fds, *fds)}
    if spec.log is None:
        return start(spec.argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **options)
    spec.log.parent.mkdir(parents=True, exist_ok=True)
    with spec.log.open("ab") as log:
        return start(
            spec.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, **options
        )


def exit_text(exit_status: int) -> str:
    """`exit code 1` or `killed by SIGKILL`."""
    if exit_status >= 0:
        return f"exit code {exit_status}"
    try:
        return f"killed by {signal.Signals(-exit_status).name}"
    except ValueError:
        return f"killed by signal {-exit_status}"


def wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Poll a condition until it is true; False when it was not in time."""
    pause = threading.Event()
    deadline_ns = now_ns() + int(timeout_s * NS_PER_S)
    while not condition():
        if now_ns() >= deadline_ns:
            return False
        pause.wait(_POLL_S)
    return True


class Stoppable(Protocol):
    """A child, or what holds one."""

    def terminate(self) -> None:
        """Ask for a clean end."""

    def stop(self, grace_s: float, /) -> None:
        """End it."""


def stop_all(children: Sequence[Stoppable], grace_s: float) -> None:
    """End children side by side: all are asked first, and all have the same time.

    Raises:
        HarnessError: the first one's that would not end, after all were tried.
    """
    failed: HarnessError | None = None
    interrupted: BaseException | None = None
    deadline_ns = now_ns() + round(grace_s * NS_PER_S)
    for one in children:
        one.terminate()
    for one in children:
        try:
            # After a second interruption nothing more is waited for.
            one.stop(0 if interrupted else max(_POLL_S, (deadline_ns - now_ns()) / NS_PER_S))
        except HarnessError as error:
            failed = failed or error
        except BaseException as error:  # noqa: BLE001 (raised below, when the others are gone too)
            interrupted = error
    if interrupted is not None:
        raise interrupted
    if failed is not None:
        raise failed
