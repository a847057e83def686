"""A server kept running between the runs of a series that need an equal one.

What keeping changes in a run: its server was started earlier (`server.kept_from` of the manifest),
idle power is that of the run which started it (`idle.from`), `logs/` has the server's lines of this
run only, and the prefix cache is cleared before it where the server can do that
(`server.cache_cleared`). All processes of the series carry one mark and are in one registry.
"""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

import httpx

from harness.artifacts.layout import RunDir
from harness.artifacts.run_summary import Idle
from harness.artifacts.typed_json import to_json
from harness.commands.steps.prepare import Prepared
from harness.core.errors import HarnessError
from harness.core.network import Network
from harness.core.records import Endpoint, ServerInfo
from harness.processes.registry import RunRegistry
from harness.profile.schema import Profile
from harness.profile.serving import VllmServer
from harness.server.base import (
    ModelServer,
    Problem,
    RunContext,
    RunningServer,
    read_api_key,
)
from harness.server.one_request import DIRECT, client_options
from harness.server.vllm import VllmServerRunner

SERVERS_DIR: Final = "servers"
"""In the folder of the series: one folder per started server, with its whole logs."""

CACHE_ROUTES: Final = ("/reset_prefix_cache", "/flush_cache")
"""POST clears the prefix cache: vLLM's (which has it in development mode only) and SGLang's."""

_DEV_MODE: Final = "VLLM_SERVER_DEV_MODE"
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_CLEAR_TIMEOUT_S: Final = 30.0


def server_key(profile: Profile, *, tools: bool) -> str:
    """Equal for profiles that an equal server serves.

    Args:
        profile: model, server and API decide.
        tools: whether some request carries tools, for which vLLM is started with a parser.
    """
    return "\n".join(
        (profile.server.model_dump_json(), profile.model.model_dump_json(), profile.api, str(tools))
    )


@dataclass(slots=True)
class _Held:
    """A running server and what ends it."""

    key: str
    server: RunningServer
    place: RunDir
    started_for: str
    stack: ExitStack
    idle: Mapping[str, Any] | None = None
    runs: int = 0


@dataclass(slots=True)
class ServerLease:
    """Keeps one server between the runs of a series. A context manager: ends the server with it.

    Attributes:
        folder: of the series.
        failed_start: whether the server of the latest run did not start.
    """

    folder: Path
    failed_start: bool = False
    _held: _Held | None = None
    _count: int = 0
    _stack: ExitStack = field(default_factory=ExitStack)
    _registry: RunRegistry | None = None

    def __enter__(self) -> Self:
        # Not the folder's name: a resumed series must not be taken for the killed one's processes.
        mark = f"{self.folder.name}-{secrets.token_hex(3)}"
        self._registry = self._stack.enter_context(RunRegistry.open(mark, self.folder))
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.release()
        finally:
            self._stack.close()

    @property
    def registry(self) -> RunRegistry:
        """Of all processes of the series; its id is their mark."""
        assert self._registry is not None
        return self._registry

    @property
    def holds(self) -> bool:
        """Whether a server runs now."""
        return self._held is not None

    @property
    def idle(self) -> Mapping[str, Any] | None:
        """Idle power measured when the running server was started, as `manifest.idle`; None if
        it was not.
        """
        return None if self._held is None else self._held.idle

    def lend(self, prepared: Prepared) -> ModelServer:
        """The server of a run, which may be running already. Ends one that is another or died.

        Raises:
            ServerError: a server did not end.
        """
        tools = any(one.head.tools for one in prepared.plan.classes)
        key = server_key(prepared.profile, tools=tools)
        self.failed_start = False
        if self._held is not None and (self._held.key != key or _died(self._held.server)):
            self.release()
        return _Lent(_with_cache_route(prepared.server), self, key, prepared.profile)

    def keep_idle(self, run: str, idle: Idle) -> None:
        """Keep the idle power of the run for which the running server was started."""
        held = self._held
        if held is not None and held.idle is None and held.started_for == run:
            measured = {"before_server": idle.before_server, "ready": idle.ready}
            found = {when: to_json(one) for when, one in measured.items() if one is not None}
            held.idle = {"from": run, **found}

    def release(self) -> None:
        """End the server, if one runs.

        Raises:
            ServerError: it did not end.
        """
        held, self._held = self._held, None
        if held is not None:
            held.stack.close()

    @contextmanager
    def _use(
        self, server: ModelServer, key: str, profile: Profile, context: RunContext
    ) -> Iterator[RunningServer]:
        """The running server for one run; started if there is none. After an error in the run its
        state is unknown, so it ends.
        """
        if self._held is None:
            self._held = self._start(server, key, context)
        held = self._held
        kept = held.runs > 0
        held.runs += 1
        cleared = _clear_cache(held.server, profile) if kept else None
        logs = {path: _size(path) if kept else 0 for path in held.place.logs_dir.glob("*.log")}
        info = replace(
            held.server.info,
            kept_from=held.started_for if kept else None,
            cache_cleared=cleared,
        )
        try:
            yield _Borrowed(held.server, info)
        except BaseException:
            with suppress(HarnessError):  # the run's own error is the one to report
                self.release()
            raise
        finally:
            for path, start in logs.items():
                _copy_from(path, start, context.run_dir.logs_dir / path.name)

    def _start(self, server: ModelServer, key: str, context: RunContext) -> _Held:
        self._count += 1
        place = RunDir(self.folder / SERVERS_DIR / f"{self._count}-{secrets.token_hex(2)}")
        place.logs_dir.mkdir(parents=True)
        stack = ExitStack()
        ours = RunContext(self.registry.run_id, place, self.registry)
        try:
            running = stack.enter_context(server.start(ours))
        except BaseException:
            self.failed_start = True
            for path in place.logs_dir.glob("*.log"):
                _copy_from(path, 0, context.run_dir.logs_dir / path.name)
            raise
        return _Held(key, running, place, context.run_id, stack)


@dataclass(frozen=True, slots=True)
class _Lent:
    """A `ModelServer` whose `start` yields the lease's server."""

    server: ModelServer
    lease: ServerLease
    key: str
    profile: Profile

    @property
    def kind(self) -> str:
        return self.server.kind

    def preflight(self) -> tuple[Problem, ...]:
        # A port that the running server uses is no problem.
        return () if self.lease.holds and self.kind != "attach" else self.server.preflight()

    @contextmanager
    def start(self, context: RunContext) -> Iterator[RunningServer]:
        with self.lease._use(self.server, self.key, self.profile, context) as running:
            yield running


@dataclass(frozen=True, slots=True)
class _Borrowed:
    """A `RunningServer` that outlives the run."""

    server: RunningServer
    info: ServerInfo

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return self.server.endpoints

    def pids(self) -> dict[str, int]:
        return self.server.pids()

    def check(self) -> None:
        self.server.check()

    def stop(self) -> None:
        pass


def _died(server: RunningServer) -> bool:
    try:
        server.check()
    except HarnessError:
        return True
    return False


def _with_cache_route(server: ModelServer) -> ModelServer:
    """A vLLM that only this machine can reach also gets the route that clears its prefix cache."""
    if not isinstance(server, VllmServerRunner) or server.server.host not in _LOOPBACK:
        return server
    settings: VllmServer = server.server.model_copy(
        update={"env": {_DEV_MODE: "1", **server.server.env}}
    )
    return replace(server, server=settings)


def _clear_cache(server: RunningServer, profile: Profile) -> bool:
    """Clear the prefix caches; whether all replicas did."""
    return all(_cleared(one, profile) for one in server.endpoints)


def _cleared(endpoint: Endpoint, profile: Profile) -> bool:
    network: Network = DIRECT if endpoint.pid is not None else profile.traffic.network
    key = read_api_key(profile.server)
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    options = client_options(endpoint.base_url, network)
    with httpx.Client(timeout=_CLEAR_TIMEOUT_S, headers=headers, **options) as client:
        for route in CACHE_ROUTES:
            try:
                if client.post(f"{endpoint.base_url}{route}").is_success:
                    return True
            except httpx.HTTPError:
                return False
    return False


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _copy_from(source: Path, start: int, target: Path) -> None:
    """Copy a log from an offset on. A log that cannot be copied is still in the series' folder."""
    with suppress(OSError), source.open("rb") as old, target.open("ab") as new:
        old.seek(start)
        while block := old.read(1 << 20):
            new.write(block)
