"""A server as a child process: its port before and after, and a diagnosis if it dies."""

import random
import socket
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import psutil

from harness.core.errors import ServerError
from harness.core.records import Gpu
from harness.processes import identity
from harness.processes.child import TAIL_LINES, Child, ChildSpec, exit_text, wait_for
from harness.processes.registry import RunRegistry
from harness.server.failures import classify

_PORT_FREE_S: Final = 5.0
# Below the range that Linux uses for outgoing connections (32768 up): none of those can take the
# port while a server loads.
_PORTS: Final = range(18000, 32000)
_SECRET_OPTIONS: Final = ("api-key", "token", "secret", "password", "credentials")


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """One replica to start. `env` is its whole environment."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]
    host: str
    port: int
    gpus: tuple[Gpu, ...] = ()


class ServerProcess:
    """A started server."""

    def __init__(self, plan: ReplicaPlan, child: Child, secrets: tuple[str, ...]) -> None:
        self.plan = plan
        self.child = child
        self._secrets = secrets
        self._stopped = False

    @classmethod
    def start(
        cls, plan: ReplicaPlan, log: Path, registry: RunRegistry, secrets: tuple[str, ...] = ()
    ) -> "ServerProcess":
        """Start the command. `secrets` are values to hide wherever its log is shown.

        Raises:
            ServerError: the port is taken, or the log or the process could not be created.
        """
        check_port_free(plan.host, plan.port)
        # Without it `-m` would first look in the working directory, which may have a folder called
        # vllm or harness.
        env = {"PYTHONSAFEPATH": "1", **plan.env}
        name = f"server:{plan.name}"
        spec = ChildSpec(name=name, argv=plan.argv, env=env, log=log, error=ServerError)
        return cls(plan, Child.start(spec, registry), secrets)

    @property
    def log(self) -> Path:
        assert self.child.spec.log is not None
        return self.child.spec.log

    def listens(self) -> bool | None:
        """Whether one of our processes listens on the port; None if the system does not show it."""
        try:
            holders = port_holders(self.plan.port)
        except psutil.Error:
            return None
        return bool(holders & {found.pid for found in self.child.members()}) if holders else None

    def died(self, *, was_ready: bool) -> ServerError:
        status = self.child.wait(0)
        how = exit_text(status) if status is not None else "no exit status"
        when = "died while serving" if was_ready else "died before it was ready"
        return self.failure(f"the server {self.plan.name} {when}: {how}", was_ready=was_ready)

    def failure(
        self, what: str, *, was_ready: bool, cause: str | None = None, next_step: str | None = None
    ) -> ServerError:
        """An error about this process, with its diagnosis, last log lines and log path."""
        log = self.child.log_text()
        for secret in self._secrets:
            log = log.replace(secret, "***")
        diagnosis = classify(log, self.child.wait(0), was_ready=was_ready)
        if diagnosis is not None:
            cause, next_step = diagnosis.cause, diagnosis.next_step
        return ServerError(
            what,
            cause=cause,
            next_step=next_step or f"read the log: {self.log}",
            details=log_details(log, self.log),
        )

    def terminate(self) -> None:
        self.child.terminate()

    def stop(self, grace_s: float) -> None:
        """End it, and check that its port is free. Idempotent.

        Raises:
            ServerError: a process is still alive or the port is still taken.
        """
        if self._stopped:
            return
        self.child.stop(grace_s)
        self._stopped = True
        if not wait_for(lambda: port_is_free(self.plan.host, self.plan.port), _PORT_FREE_S):
            raise ServerError(
                f"port {self.plan.port} is still taken after the server {self.plan.name}"
                f" ended{_held_by(self.plan.port)}",
                next_step="find the process with `ss -ltnp`",
            )


def log_details(log: str, path: Path) -> str:
    """The last 30 lines of a log, and the log's path."""
    lines = log.rstrip().splitlines()[-TAIL_LINES:]
    if not lines:
        return f"  the log is empty: {path}"
    body = "\n".join(f"  | {line}" for line in lines)
    return f"  last {len(lines)} lines of {path}:\n{body}"


def loopback(host: str) -> str:
    """How a URL on this machine addresses a server that listens on `host`."""
    if host in ("0.0.0.0", ""):  # noqa: S104 (reading it, not binding)
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now.

    Without SO_REUSEPORT on purpose: two servers that both set it would share the port and get half
    of the requests each.
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
    """Pids that listen on the port, as far as this user can see them."""
    connections = psutil.net_connections("tcp")
    return {
        item.pid
        for item in connections
        if item.status == psutil.CONN_LISTEN and item.laddr and item.laddr.port == port and item.pid
    }


def _held_by(port: int) -> str:
    try:
        holders = [
            found for pid in sorted(port_holders(port)) if (found := identity.read(pid)) is not None
        ]
    except psutil.Error:
        return ""
    return f" (held by {identity.describe(holders)})" if holders else ""


def check_port_free(host: str, port: int) -> None:
    """Check that a server could listen there.

    Raises:
        ServerError: something listens there (named if the system exposes it), or the address is not
            of this machine.
    """
    if port_is_free(host, port):
        return
    if not port_is_free(host, 0):
        raise ServerError(
            f"cannot listen on {host}: it is not an address of this machine",
            next_step="set server.host to 127.0.0.1 or 0.0.0.0",
        )
    raise ServerError(
        f"port {port} on {host} is taken{_held_by(port)}",
        cause="another server, or one that an earlier run left behind",
        next_step="omit server.port (a free one is chosen), set another, or end that process",
    )


def free_ports(host: str, count: int) -> tuple[int, ...]:
    """Distinct ports that are free now, drawn at random so that two harnesses at once rarely
    collide.

    Raises:
        ServerError: there are not enough, or the address is not of this machine.
    """
    drawn = random.SystemRandom().sample(_PORTS, k=len(_PORTS)) if port_is_free(host, 0) else ()
    free = (port for port in drawn if port_is_free(host, port))
    found = tuple(islice(free, count))
    if len(found) < count:
        raise ServerError(
            f"found {len(found)} of {count} free ports on {host}",
            next_step="check server.host, or set server.port",
        )
    return found


def redact(argv: tuple[str, ...]) -> tuple[str, ...]:
    """A command line in which *** replaces the values of options that name a secret."""
    shown: list[str] = []
    hide_next = False
    for item in argv:
        option, equals, _ = item.partition("=")
        name = option.lower().replace("_", "-")
        secret = name.startswith("--") and name.endswith(_SECRET_OPTIONS)
        if hide_next and not item.startswith("-"):
            shown.append("***")  # and the next too: --api-key takes several
            continue
        hide_next = secret and not equals
        shown.append(f"{option}=***" if secret and equals else item)
    return tuple(shown)
