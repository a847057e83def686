"""Records of running processes, used to end those that a killed run left behind.

Each run keeps a small file in the cache folder while its servers run. It lists the supervisor and
the process groups it started, with start times, and the boot and pid namespace of their pids. If
the file exists but its supervisor does not, there are orphans. A process with the run's
HARNESS_RUN_ID in its environment belongs to the run, in any group.
"""

import json
import os
import socket
import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from harness.core.cache import cache_dir
from harness.core.clock import boot_id
from harness.core.errors import PreflightError
from harness.processes import identity

RUN_ID_VARIABLE: Final = "HARNESS_RUN_ID"
_SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class Place:
    """Scope of process ids: a host, a boot and a pid namespace (each container has one)."""

    host: str
    boot_id: str | None
    pid_namespace: str | None

    @classmethod
    def here(cls) -> Self:
        try:
            namespace: str | None = str(Path("/proc/self/ns/pid").readlink())
        except OSError:
            namespace = None
        return cls(socket.gethostname(), boot_id(), namespace)


@dataclass(frozen=True, slots=True)
class Group:
    """A process group of a run.

    Attributes:
        label: such as `server:replica-0`.
        pgid: its id, the pid of its leader.
        leader_start_ticks: start of the leader.
        members: pid and start of every process seen in it.
    """

    label: str
    pgid: int
    leader_start_ticks: int
    members: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Reaped:
    """Cleanup of one run whose supervisor was gone.

    Attributes:
        run_dir: its directory, as recorded by its supervisor.
        ended: the ended processes, as `name (pid n)`; empty if none was left.
        left: processes that did not end; the record stays and the next start tries again.
    """

    run_id: str
    run_dir: str
    ended: tuple[str, ...]
    left: tuple[str, ...] = ()


def registry_dir() -> Path:
    """Folder of the records: `runs/` in the cache folder."""
    return cache_dir() / "runs"


@dataclass(slots=True)
class RunRegistry:
    """Record of one run's process groups, on disk from before the first start until all have ended.

    As a context manager, it removes the record at the end, unless it still has a group.
    """

    run_id: str
    run_dir: Path
    path: Path
    supervisor_start_ticks: int
    place: Place = field(default_factory=Place.here)
    groups: list[Group] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, run_id: str, run_dir: Path) -> Self:
        """Record this process as the supervisor of a run.

        Raises:
            PreflightError: the cache folder cannot be written.
        """
        me = identity.read(os.getpid())
        assert me is not None
        made = cls(run_id, run_dir, registry_dir() / f"{run_id}-{me.pid}.json", me.start_ticks)
        made._write()
        return made

    def add(self, label: str, pid: int) -> None:
        """Record a process group by its leader, which this process has just started."""
        leader = identity.read(pid)
        if leader is None:  # already dead: anything it left has the run's marker
            return
        with self._lock:
            self.groups.append(Group(label, pid, leader.start_ticks))
            self._write()

    def update(self, pgid: int, members: list[identity.Proc]) -> None:
        """Record the current processes of a group. Writes only if there are new ones."""
        seen = {(member.pid, member.start_ticks) for member in members}
        with self._lock:
            for position, group in enumerate(self.groups):
                if group.pgid == pgid and not seen <= set(group.members):
                    known = tuple(sorted(seen | set(group.members)))
                    self.groups[position] = replace(group, members=known)
                    self._write()

    def remove(self, pgid: int) -> None:
        with self._lock:
            self.groups = [group for group in self.groups if group.pgid != pgid]
            self._write()

    def close(self) -> None:
        with self._lock:
            if not self.groups:
                self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        body = {
            "schema": _SCHEMA,
            "run_id": self.run_id,
            "run_dir": str(self.run_dir.absolute()),
            "place": asdict(self.place),
            "supervisor": {"pid": os.getpid(), "start_ticks": self.supervisor_start_ticks},
            "groups": [asdict(group) for group in self.groups],
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps(body, indent=1), encoding="utf-8")
            part.replace(self.path)
        except OSError as error:
            raise PreflightError(
                f"cannot write {self.path}: {error.strerror}",
                cause="the cache folder, which records started servers, is not writable",
                next_step="make it writable, or set HARNESS_CACHE_DIR to a writable folder",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def reap_orphans(*, grace_s: float = 5.0) -> tuple[Reaped, ...]:
    """End the remaining processes of runs whose supervisor died, and remove their records.

    Runs with a live supervisor are not touched, nor are records of another host or container, whose
    pids are different ones. A process is ended only if it has the run's marker, was recorded (pid
    and start time), or shares its group with one that was.

    Args:
        grace_s: time between SIGTERM and SIGKILL.

    Returns:
        One entry per dead run, including those without remaining processes.
    """
    here = Place.here()
    found: list[Reaped] = []
    for path in sorted(registry_dir().glob("*.json")):
        entry = _read(path)
        if entry is None:
            continue
        place = Place(**entry["place"])
        if place.host != here.host:
            continue
        if place.boot_id != here.boot_id:  # rebooted since: nothing of that run can be alive
            path.unlink(missing_ok=True)
            continue
        supervisor = entry["supervisor"]
        if place.pid_namespace != here.pid_namespace or identity.same(
            supervisor["pid"], supervisor["start_ticks"]
        ):
            continue
        groups = [Group(**group) for group in entry["groups"]]
        reaped = _reap(entry["run_id"], entry["run_dir"], groups, grace_s)
        found.append(reaped)
        if not reaped.left:
            path.unlink(missing_ok=True)
    return tuple(found)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # removed by its owner in the meantime, or not a record
        return None
    return entry if isinstance(entry, dict) and entry.get("schema") == _SCHEMA else None


def _members(run_id: str, groups: list[Group]) -> list[identity.Proc]:
    """The run's live processes: those with its marker, those recorded, and groups with a recorded
    one.

    The kernel reuses a group's number only after its last member has ended. So a recorded process
    proves that its group is the recorded one; a group without one is left alone.
    """
    members = {found.pid: found for found in identity.marked(RUN_ID_VARIABLE, run_id)}
    for group in groups:
        recorded = [(group.pgid, group.leader_start_ticks), *group.members]
        for pid, start_ticks in recorded:
            found = identity.read(pid)
            if found is None or found.start_ticks != start_ticks:
                continue
            members[pid] = found
            if found.pgid == group.pgid:
                members |= {member.pid: member for member in identity.in_group(group.pgid)}
    members.pop(os.getpid(), None)
    return list(members.values())


def _reap(run_id: str, run_dir: str, groups: list[Group], grace_s: float) -> Reaped:
    seen: dict[int, identity.Proc] = {}
    # Once its recorded processes have died, a group has no proof, so members found before are kept
    # by identity.
    known: dict[int, identity.Proc] = {}

    def find() -> list[identity.Proc]:
        known.update({member.pid: member for member in _members(run_id, groups)})
        return [one for one in known.values() if identity.same(one.pid, one.start_ticks)]

    left = identity.end(find, grace_s=grace_s, seen=seen)
    ended, stayed = (
        tuple(identity.describe([one]) for one in group) for group in (seen.values(), left)
    )
    return Reaped(run_id, run_dir, ended, stayed)
