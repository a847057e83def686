"""Popen with the two things that every child of ours needs: a session of its own, and an end with
the harness.

The kernel ties "parent died" to the thread that started a child, so all are started by one thread
that lives as long as the harness: a child of a short-lived thread would be ended with it.
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
    """A daemon thread that starts all children; made at the first start, and again in a forked copy
    of this process.
    """

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
    """Start a command that gets SIGTERM when this process dies, whatever kills it.

    Raises:
        OSError: the process cannot be made. A command that does not exist ends with status 127.
    """
    command = [sys.executable, "-I", "-S", launcher.__file__, str(os.getpid()), *argv]
    return _starter.start(lambda: subprocess.Popen(command, start_new_session=True, **options))


def own_module(name: str, *arguments: str) -> tuple[str, ...]:
    """The command line that runs a module with this interpreter; the working directory is not
    looked in.
    """
    return (sys.executable, "-P", "-m", name, *arguments)


def own_environment() -> dict[str, str]:
    """This process's environment, in which the interpreter finds this package."""
    root = str(Path(harness.__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}
