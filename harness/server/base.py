"""The seam between the harness and a model server, and what every implementation is given."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

from harness.artifacts.layout import RunDir
from harness.core.errors import PreflightError
from harness.core.records import Endpoint, ServerInfo
from harness.processes.registry import RunRegistry
from harness.profile.serving import AttachServer, AutoServer, TorchServer, VllmServer


@dataclass(frozen=True, slots=True)
class Needs:
    """What the workload asks of a server.

    Attributes:
        tools: some request carries tools.
    """

    tools: bool = False


NO_NEEDS: Final = Needs()


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that stands in the way of a start.

    Attributes:
        code: stable snake_case name.
        what: what is wrong, with the values involved.
        next_step: what to do now.
        cause: why, where it is not plain.
    """

    code: str
    what: str
    next_step: str
    cause: str | None = None


@dataclass(frozen=True, slots=True)
class RunContext:
    """The run that a server is started for.

    Attributes:
        run_id: marks every process of the run.
        run_dir: takes the logs.
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
        """One a replica."""
        ...

    @property
    def info(self) -> ServerInfo:
        """What the manifest says of it."""
        ...

    def pids(self) -> dict[str, int]:
        """`server:replica-0` -> pid of each process that we started, and that still lives."""
        ...

    def check(self) -> None:
        """Look whether all replicas live.

        Raises:
            ServerError: one died; with its exit status, likely cause, last log lines and the log's
                path.
        """
        ...

    def stop(self) -> None:
        """Stop what we started: drained, process group gone, port free. Doing it again does
        nothing.

        Raises:
            ServerError: something would not go.
        """
        ...


class ModelServer(Protocol):
    """Something that can serve the profile's model."""

    @property
    def kind(self) -> str:
        """`vllm`, `torch` or `attach`."""
        ...

    def preflight(self) -> tuple[Problem, ...]:
        """Everything that is known to stand in the way of a start, found without starting
        anything.
        """
        ...

    def start(self, context: RunContext) -> AbstractContextManager[RunningServer]:
        """Start, wait until truly ready, yield, stop.

        Raises:
            PreflightError: `preflight` found something.
            ServerError: it did not start, or did not get ready in time.
        """
        ...


@contextmanager
def serve_for_questions(server: ModelServer, what: str) -> Iterator[RunningServer]:
    """Start a server outside of any run, its logs in a temporary folder, and stop it.

    Args:
        server: what to start.
        what: names the folder and marks the processes.

    Raises:
        PreflightError: as `ModelServer.start`.
        ServerError: likewise.
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
    """`cuda` or `cpu`: `auto` is cuda where an NVIDIA device is present, whether or not it can be
    used (preflight tells if it cannot).
    """
    if wanted == "auto":
        return "cuda" if nvidia_present else "cpu"
    return wanted


def raise_problems(problems: Sequence[Problem]) -> None:
    """Raise what `preflight` found as one error; nothing when it found nothing.

    Raises:
        PreflightError: there is a problem. With several, all of them are in the details.
    """
    if not problems:
        return
    first = problems[0]
    if len(problems) == 1:
        raise PreflightError(first.what, cause=first.cause, next_step=first.next_step)
    lines: list[str] = []
    for problem in problems:
        lines.append(f"- {problem.what}")
        if problem.cause:
            lines.append(f"    likely cause: {problem.cause}")
        lines.append(f"    next step: {problem.next_step}")
    raise PreflightError(
        f"{len(problems)} things stand in the way of the server", details="\n".join(lines)
    )


def read_api_key(server: VllmServer | TorchServer | AttachServer | AutoServer) -> str | None:
    """The API key from the environment variable or the file that the profile names; None when it
    names neither.

    Raises:
        PreflightError: the variable is not set, the file cannot be read, or either is empty.
    """
    if server.api_key_env is not None:
        if key := os.environ.get(server.api_key_env, "").strip():
            return key
        raise PreflightError(
            f"server.api_key_env names {server.api_key_env}, which is not set or empty",
            next_step=(
                f"set {server.api_key_env} in the environment of the harness, or remove"
                " server.api_key_env"
            ),
        )
    if server.api_key_file is not None:
        path = Path(server.api_key_file).expanduser()
        try:
            key = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise PreflightError(
                f"cannot read server.api_key_file {path}: {reason}",
                next_step="name a file that holds the key alone",
            ) from error
        if key:
            return key
        raise PreflightError(
            f"server.api_key_file {path} is empty", next_step="put the key into it"
        )
    return None
