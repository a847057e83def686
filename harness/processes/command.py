"""Short-lived commands: started, waited for, their output taken."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from harness.processes.registry import RUN_ID_VARIABLE, RunRegistry
from harness.processes.start import start


class Answer(NamedTuple):
    """What a command said.

    Attributes:
        status: its exit status; negative: the signal that ended it.
        out: its standard output.
        err: its standard error.
    """

    status: int
    out: str
    err: str


class Command:
    """A command that another thread may kill. It reads nothing and has a session of its own, so a
    terminal's SIGINT does not reach it.

    Args:
        argv: command line.
        env: variables on top of this process's own.
        registry: for one that takes long: it is recorded, and told to end if this process dies.
        name: in the registry.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        registry: RunRegistry | None = None,
        name: str = "command",
    ) -> None:
        self._name = argv[0]
        self._registry = registry
        marks = {} if registry is None else {RUN_ID_VARIABLE: registry.run_id}
        environment = {**os.environ, **(env or {}), **marks}
        pipe = subprocess.PIPE
        if registry is None:
            self._process = subprocess.Popen(
                argv,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=pipe,
                stderr=pipe,
                start_new_session=True,
            )
        else:
            self._process = start(
                argv, env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
            )
            registry.add(name, self._process.pid)

    def answer(self, timeout_s: float | None) -> Answer:
        """Wait for its end.

        Raises:
            TimeoutError: it did not end in time, and was killed.
        """
        with self._process as process:
            try:
                out, err = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                self._end()
                raise TimeoutError(f"{self._name} did not end within {timeout_s:g} s") from None
            except BaseException:
                self._end()
                raise
        if self._registry is not None:
            self._registry.remove(process.pid)
        return Answer(
            process.returncode, out.decode(errors="replace"), err.decode(errors="replace")
        )

    def kill(self) -> None:
        """End it. `answer` returns then."""
        self._process.kill()

    def _end(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._registry is not None:
            self._registry.remove(self._process.pid)


def ask(
    argv: Sequence[str],
    *,
    timeout_s: float | None,
    env: Mapping[str, str] | None = None,
    registry: RunRegistry | None = None,
    name: str = "command",
) -> Answer:
    """Run a command to its end; see `Command`.

    Raises:
        OSError: it cannot be started; `TimeoutError`: it did not end in time, and was killed.
    """
    return Command(argv, env=env, registry=registry, name=name).answer(timeout_s)
