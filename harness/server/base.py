"""The interface between the harness and a model server."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol, TypeAlias

from harness.artifacts.layout import RunDir
from harness.core.cache import expand_user
from harness.core.errors import HarnessError, PreflightError
from harness.core.records import Endpoint, ServerInfo
from harness.processes.registry import RunRegistry
from harness.profile.serving import AttachServer, AutoServer, TorchServer, VllmServer


@dataclass(frozen=True, slots=True)
class Needs:
    """What the workload requires of a server. `tools`: some request carries tools."""

    tools: bool = False


NO_NEEDS: Final = Needs()
Settings: TypeAlias = dict[str, str | int | float | bool | None]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that prevents a start.

    Attributes:
        what: what is wrong, with the values involved.
        cause: None where it is obvious.
    """

    code: str
    what: str
    next_step: str
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class RunContext:
    """The run for which a server is started.

    Attributes:
        run_id: marks every process of the run.
        registry: records the process groups, so that a later start can end them if this process is
            killed.
    """

    run_id: str
    run_dir: RunDir
    registry: RunRegistry


class RunningServer(Protocol):
    """A server that was ready; it may have died since."""

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        pass

    @property
    def info(self) -> ServerInfo:
        pass

    def pids(self) -> dict[str, int]:
        """`server:replica-0` -> pid of each live process that the harness started."""

    def check(self) -> None:
        """Check that all replicas are alive.

        Raises:
            ServerError: one died; with its exit status, likely cause, last log lines and log path.
        """

    def stop(self) -> None:
        """Stop what the harness started: drained, process group gone, port free. Idempotent.

        Raises:
            ServerError: something did not stop.
        """


class ModelServer(Protocol):
    """Something that can serve the profile's model."""

    @property
    def kind(self) -> str: ...

    def preflight(self) -> tuple[Problem, ...]:
        """All known problems that prevent a start, found without starting anything."""

    def start(self, context: RunContext) -> AbstractContextManager[RunningServer]:
        """Start, wait until a request succeeds, yield, stop.

        Raises:
            PreflightError: `preflight` found a problem.
            ServerError: it did not start, or was not ready in time.
        """


@contextmanager
def serve_for_questions(server: ModelServer, what: str) -> Iterator[RunningServer]:
    """Run a server outside of any run, with its logs in a temporary folder. `what` names the folder
    and marks the processes.

    Raises:
        PreflightError, ServerError: see `ModelServer.start`.
    """
    with tempfile.TemporaryDirectory(prefix=f"harness-{what}-") as folder:
        run_dir = RunDir(Path(folder))
        run_dir.logs_dir.mkdir()
        run_id = f"{what}-{run_dir.root.name}"
        with (
            RunRegistry.open(run_id, run_dir.root) as registry,
            server.start(RunContext(run_id, run_dir, registry)) as running,
        ):
            yield running


def resolve_device(wanted: Literal["auto", "cuda", "cpu"], *, nvidia_present: bool) -> str:
    """`cuda` or `cpu`: `auto` is cuda if an NVIDIA device is present, whether or not it can be used
    (preflight reports that).
    """
    if wanted == "auto":
        return "cuda" if nvidia_present else "cpu"
    return wanted


def raise_problems(problems: Sequence[Problem]) -> None:
    """Raise the findings of `preflight`, if any, as one error; several are listed in its details.

    Raises:
        PreflightError: there is a problem.
    """
    if not problems:
        return
    first = problems[0]
    if len(problems) == 1:
        raise PreflightError(first.what, cause=first.cause, next_step=first.next_step)
    lines: list[str] = []
    for problem in problems:
        cause = [f"    likely cause: {problem.cause}"] if problem.cause else []
        lines += [f"- {problem.what}", *cause, f"    next step: {problem.next_step}"]
    raise PreflightError(
        f"the server cannot start: {len(problems)} problems", details="\n".join(lines)
    )


def problem_of(code: str, error: HarnessError) -> Problem:
    """An error as a problem."""
    return Problem(
        code, error.what, error.next_step or "see the documentation of the key", error.cause
    )


def read_api_key(server: VllmServer | TorchServer | AttachServer | AutoServer) -> str | None:
    """The API key from the environment variable or file named in the profile; None if it names
    neither.

    Raises:
        PreflightError: the variable is not set, the file cannot be read, or either is empty.
    """
    if server.api_key_env is not None:
        if key := os.environ.get(server.api_key_env, "").strip():
            return _one_line(key, f"server.api_key_env: {server.api_key_env}")
        raise PreflightError(
            f"server.api_key_env: {server.api_key_env} is not set or is empty",
            next_step=f"set {server.api_key_env} for the harness, or remove server.api_key_env",
        )
    if server.api_key_file is None:
        return None
    path = expand_user(server.api_key_file)
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise PreflightError(
            f"cannot read server.api_key_file {path}: {reason}",
            next_step="name a file that contains only the key",
        ) from error
    if not key:
        raise PreflightError(
            f"server.api_key_file {path} is empty", next_step="write the key to it"
        )
    return _one_line(key, f"server.api_key_file {path}")


def _one_line(key: str, where: str) -> str:
    """The key, which is sent in a header. An error must not quote it."""
    if not (key.isascii() and key.isprintable()) or " " in key:
        has = "a line break" if len(key.splitlines()) > 1 else "characters that no key has"
        raise PreflightError(
            f"{where} contains more than a key: {has}",
            cause="several keys, a comment, or another file",
            next_step="keep only the key, on one line, ASCII characters only",
        )
    return key


def key_problems(server: VllmServer | TorchServer | AttachServer) -> list[Problem]:
    """Whether the API key can be read."""
    try:
        read_api_key(server)
    except PreflightError as error:
        return [problem_of("api_key", error)]
    return []
