"""Popen for children that have their own session and end with the harness.

The kernel ties "parent died" to the thread that started a child. So one thread that lives as long
as the harness starts them all: a child of a short-lived thread would end with it.
"""

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

import harness
from harness.processes import launcher

Popen = subprocess.Popen[bytes]


class _Starter:
    """A daemon thread that starts all children; made at the first start, also after a fork."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Popen], Future[Popen]]]
        self._jobs = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._owner: int | None = None

    def start(self, job: Callable[[], Popen]) -> Popen:
        with self._lock:
            if self._owner != os.getpid():
                self._jobs = queue.SimpleQueue()
                threading.Thread(target=self._work, name="starter", daemon=True).start()
                self._owner = os.getpid()
        done: Future[Popen] = Future()
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


def start(
    argv: Sequence[str],
    **options: Any,  # noqa: ANN401 - those of Popen
) -> Popen:
    """Start a command, without input, that gets SIGTERM when this process dies for any reason.

    Raises:
        OSError: the process cannot be made. A command that does not exist ends with status 127.
    """
    command = [sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), *argv]
    options |= {"stdin": subprocess.DEVNULL, "start_new_session": True}
    return _starter.start(lambda: subprocess.Popen(command, **options))


def own_module(name: str, *arguments: str) -> tuple[str, ...]:
    """Command line for a module with this interpreter; not searched in the working directory."""
    return (sys.executable, "-P", "-m", name, *arguments)


def own_environment() -> dict[str, str]:
    """This process's environment, with this package on PYTHONPATH."""
    root = str(Path(harness.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}
