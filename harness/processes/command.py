"""Short-lived commands and their output."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from harness.processes.registry import RUN_ID_VARIABLE, RunRegistry
from harness.processes.start import start


class Answer(NamedTuple):
    """Exit status (negative: the signal that ended it), standard output and standard error."""

    status: int
    out: str
    err: str


class Command:
    """A command that another thread may kill. It has no input and its own session, so a terminal's
    SIGINT does not reach it.

    Args:
        argv: command line.
        env: variables in addition to this process's.
        registry: for a long one: records it, and it ends when this process dies.
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
        options: dict[str, Any] = {
            "env": {**os.environ, **(env or {}), **marks},
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        if registry is None:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, start_new_session=True, **options
            )
        else:
            self._process = start(argv, **options)
            registry.add(name, self._process.pid)

    def answer(self, timeout_s: float | None) -> Answer:
        """Wait for its end.

        Raises:
            TimeoutError: it did not end in time, and was killed.
        """
        with self._process as process:
            try:
                out, err = process.communicate(timeout=timeout_s)
            except BaseException as error:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if isinstance(error, subprocess.TimeoutExpired):
                    what = f"{self._name} did not end within {timeout_s:g} s"
                    raise TimeoutError(what) from None
                raise
            finally:
                if self._registry is not None:
                    self._registry.remove(process.pid)
        return Answer(
            process.returncode, out.decode(errors="replace"), err.decode(errors="replace")
        )

    def kill(self) -> None:
        self._process.kill()


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
