"""What an earlier run left behind when it was killed, found by a record made before and ended after
checking that it is the same.

Each run keeps one small file in the cache folder while its servers live. It names the supervisor
and the process groups it started, each with its start time, and the boot and pid namespace in which
these numbers mean something. A supervisor that is gone while its file is there has left orphans.
Whatever carries the run's HARNESS_RUN_ID in its environment is the run's, whatever group it moved
to.
"""

import json
import os
import socket
import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from harness.core.cache import cache_dir
from harness.core.clock import boot_id
from harness.core.errors import PreflightError
from harness.processes import identity

RUN_ID_VARIABLE: Final = "HARNESS_RUN_ID"
_SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where process ids mean something: this host, this boot, this pid namespace (a container has
    its own).
    """

    host: str
    boot_id: str | None
    pid_namespace: str | None

    @classmethod
    def here(cls) -> Self:
        """The place of this process."""
        try:
            namespace: str | None = str(Path("/proc/self/ns/pid").readlink())
        except OSError:
            namespace = None
        return cls(socket.gethostname(), boot_id(), namespace)


@dataclass(frozen=True, slots=True)
class Group:
    """One process group that a run started.

    Attributes:
        label: what it is, such as `server:replica-0`.
        pgid: the group's id, which is the pid of its leader.
        leader_start_ticks: when the leader started.
        members: pid and start of every process that was seen in it.
    """

    label: str
    pgid: int
    leader_start_ticks: int
    members: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Reaped:
    """What was done about one run whose supervisor was gone.

    Attributes:
        run_id: the run.
        run_dir: its directory, as its supervisor named it.
        ended: the processes that were ended, as `name (pid n)`; empty when all had gone by
            themselves.
        left: processes that would not go; the record stays and the next start tries again.
    """

    run_id: str
    run_dir: str
    ended: tuple[str, ...]
    left: tuple[str, ...] = ()


def registry_dir() -> Path:
    """The folder of the records: `runs/` in the cache folder."""
    return cache_dir() / "runs"


@dataclass(slots=True)
class RunRegistry:
    """The record of one run's process groups, on disk from before the first start until all are
    gone.

    As a context manager it removes the record at the end, unless a group is still in it.
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
        if leader is None:  # it has died already: what it may have left carries the run's marker
            return
        with self._lock:
            self.groups.append(Group(label, pid, leader.start_ticks))
            self._write()

    def update(self, pgid: int, members: list[identity.Proc]) -> None:
        """Record the processes of a group as they are by now. Writes only when there are new
        ones.
        """
        seen = {(member.pid, member.start_ticks) for member in members}
        with self._lock:
            for position, group in enumerate(self.groups):
                if group.pgid == pgid and not seen <= set(group.members):
                    self.groups[position] = replace(
                        group, members=tuple(sorted(seen | set(group.members)))
                    )
                    self._write()

    def remove(self, pgid: int) -> None:
        """Strike out a group of which nothing is left."""
        with self._lock:
            self.groups = [group for group in self.groups if group.pgid != pgid]
            self._write()

    def close(self) -> None:
        """Remove the record if no group is left in it."""
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
                cause=(
                    "the cache folder is not writable; it records started servers, so that a later"
                    " start can end orphans"
                ),
                next_step="make it writable or set HARNESS_CACHE_DIR to a folder that is",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def reap_orphans(*, grace_s: float = 5.0) -> tuple[Reaped, ...]:
    """End what runs whose supervisor died have left, and remove their records.

    A run whose supervisor lives is not touched, nor are records of another host or container (their
    pids mean nothing here). A process is ended only if it carries the run's marker, was recorded
    (pid and start time), or shares its group with one that was.

    Args:
        grace_s: time between SIGTERM and SIGKILL.

    Returns:
        One entry a dead run, those that had left nothing included.
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
        run_id, run_dir = entry["run_id"], entry["run_dir"]
        if (
            place.boot_id != here.boot_id
        ):  # the machine was started anew: nothing of that run can live
            path.unlink(missing_ok=True)
            continue
        if place.pid_namespace != here.pid_namespace or identity.same(
            entry["supervisor"]["pid"], entry["supervisor"]["start_ticks"]
        ):
            continue
        reaped = _reap(run_id, run_dir, [_group(group) for group in entry["groups"]], grace_s)
        found.append(reaped)
        if not reaped.left:
            path.unlink(missing_ok=True)
    return tuple(found)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # removed by its owner since, or not ours
        return None
    return entry if isinstance(entry, dict) and entry.get("schema") == _SCHEMA else None


def _group(entry: dict[str, Any]) -> Group:
    return Group(
        entry["label"],
        entry["pgid"],
        entry["leader_start_ticks"],
        tuple((pid, start) for pid, start in entry["members"]),
    )


def _members(run_id: str, groups: list[Group]) -> list[identity.Proc]:
    """The run's live processes: those with its marker, those recorded, and the groups that these
    prove.

    A group's number is given out again only after its last member has gone. So one recorded process
    in it proves that it is still the recorded group; without one it proves nothing, and is left
    alone.
    """
    members = {found.pid: found for found in identity.marked(RUN_ID_VARIABLE, run_id)}
    for group in groups:
        for pid, start_ticks in {(group.pgid, group.leader_start_ticks), *group.members}:
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
    # As the recorded processes die the group loses its proof, so members found once stay wanted,
    # each by its own identity.
    wanted: dict[int, identity.Proc] = {}

    def find() -> list[identity.Proc]:
        wanted.update({member.pid: member for member in _members(run_id, groups)})
        return [
            member for member in wanted.values() if identity.same(member.pid, member.start_ticks)
        ]

    left = identity.end(find, grace_s=grace_s, seen=seen)
    return Reaped(
        run_id,
        run_dir,
        tuple(identity.describe([one]) for one in seen.values()),
        tuple(identity.describe([one]) for one in left),
    )
