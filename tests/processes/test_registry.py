"""The next start ends what a killed harness left, and nothing else."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import PreflightError
from harness.processes import identity
from harness.processes.registry import RunRegistry, reap_orphans, registry_dir

# A supervisor with a child that ignores SIGTERM, so that the death signal alone does not end it, and
# with children of that child of all kinds.
SUPERVISOR = """
import os, sys, time
from pathlib import Path
from harness.processes.child import Child, ChildSpec
from harness.processes.registry import RunRegistry
run_id, root = sys.argv[1], Path(sys.argv[2])
registry = RunRegistry.open(run_id, root)
argv = (sys.executable, "-S", "-c", sys.argv[3], str(root / "pids"))
child = Child.start(ChildSpec(name="server:replica-0", argv=argv, env=os.environ), registry)
while not (root / "pids").exists():
    time.sleep(0.01)
child.record()
print(child.pid, flush=True)
time.sleep(1000)
"""
CHILD = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleeper = [sys.executable, "-S", "-c", "import time; time.sleep(1000)"]
children = [
    subprocess.Popen(sleeper),  # in the group
    subprocess.Popen(sleeper, start_new_session=True),  # left the group, carries the mark
    subprocess.Popen(sleeper, env={}),  # in the group without mark, as one that overwrote it
]
with open(sys.argv[1] + ".part", "w") as file:
    file.write(" ".join(str(child.pid) for child in children))
os.rename(sys.argv[1] + ".part", sys.argv[1])
time.sleep(1000)
"""


class Supervisor:
    def __init__(self, run_id: str, root: Path) -> None:
        root.mkdir()
        self.root = root
        self.child = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, run_id, str(root), CHILD],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.child.stdout is not None
        self.server = int(self.child.stdout.readline())
        self.all = [self.server, *(int(pid) for pid in (root / "pids").read_text().split())]

    def alive(self) -> list[int]:
        return [pid for pid in self.all if identity.read(pid)]

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()
        if self.child.stdout and not self.child.stdout.closed:
            self.child.stdout.close()


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[[str], Supervisor]]:
    made: list[Supervisor] = []

    def start(run_id: str) -> Supervisor:
        made.append(Supervisor(run_id, tmp_path / run_id))
        return made[-1]

    yield start
    for one in made:
        one.kill()
    reap_orphans(grace_s=0)
    assert not [pid for one in made for pid in one.alive()]


def entries() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in registry_dir().glob("*.json")]


def test_what_a_killed_harness_left_is_ended(supervise: Callable[[str], Supervisor]) -> None:
    dead = supervise("run-a")
    dead.kill()
    assert dead.alive() == dead.all
    (reaped,) = reap_orphans(grace_s=0.1)
    assert (reaped.run_id, reaped.run_dir, len(reaped.ended), reaped.left) == (
        "run-a",
        str(dead.root),
        4,
        (),
    )
    assert dead.alive() == []
    assert entries() == []
    assert reap_orphans() == ()


def test_stragglers_are_ended_when_their_leader_died_too(
    supervise: Callable[[str], Supervisor],
) -> None:
    dead = supervise("run-a")
    dead.kill()
    os.kill(dead.server, signal.SIGKILL)
    (reaped,) = reap_orphans(grace_s=0.1)
    assert (
        len(reaped.ended) == 3
    )  # among them one without a marker: it is in the group of others that were recorded
    assert dead.alive() == []


def test_a_run_that_lives_is_left_alone(supervise: Callable[[str], Supervisor]) -> None:
    dead, living = supervise("run-a"), supervise("run-b")
    dead.kill()
    assert [reaped.run_id for reaped in reap_orphans(grace_s=0)] == ["run-a"]
    assert living.alive() == living.all
    assert [entry["run_id"] for entry in entries()] == ["run-b"]


@pytest.fixture
def stranger() -> Iterator[identity.Proc]:
    """A process group that has nothing to do with any run."""
    with subprocess.Popen(
        [sys.executable, "-S", "-c", "import time; time.sleep(1000)"], start_new_session=True
    ) as child:
        found = identity.read(child.pid)
        assert found is not None
        yield found
        assert child.poll() is None, "the stranger was ended"
        child.kill()


@pytest.fixture
def dead_entry(tmp_path: Path) -> Callable[..., Path]:
    """The record of a run whose supervisor is gone, with one group and changes."""

    def write(pgid: int, leader_start_ticks: int, members: list[list[int]], **changes: Any) -> Path:
        registry = RunRegistry.open("run-x", tmp_path)
        body = json.loads(registry.path.read_text())
        body["supervisor"] = {
            "pid": os.getpid(),
            "start_ticks": 1,
        }  # our pid, another start: the supervisor is gone, its pid reused
        body["groups"] = [
            {
                "label": "server:replica-0",
                "pgid": pgid,
                "leader_start_ticks": leader_start_ticks,
                "members": members,
            }
        ]
        body["place"] |= changes
        registry.path.write_text(json.dumps(body))
        return registry.path

    return write


def test_a_process_that_reused_the_pid_of_a_leader_is_left_alone(
    stranger: identity.Proc, dead_entry: Callable[..., Path]
) -> None:
    path = dead_entry(stranger.pid, stranger.start_ticks - 1, [])
    (reaped,) = reap_orphans(grace_s=0)
    assert reaped.ended == ()
    assert not path.exists()


def test_a_process_that_reused_the_pid_of_a_member_is_left_alone(
    stranger: identity.Proc, dead_entry: Callable[..., Path]
) -> None:
    dead_entry(stranger.pid, 1, [[stranger.pid, stranger.start_ticks - 1]])
    assert reap_orphans(grace_s=0)[0].ended == ()


@pytest.mark.parametrize(
    ("change", "kept"),
    [({"host": "another"}, True), ({"pid_namespace": "pid:[1]"}, True), ({"boot_id": "b"}, False)],
)
def test_pids_of_another_host_container_or_boot_mean_nothing_here(
    stranger: identity.Proc, dead_entry: Callable[..., Path], change: dict[str, str], kept: bool
) -> None:
    path = dead_entry(stranger.pid, stranger.start_ticks, [], **change)
    assert reap_orphans(grace_s=0) == ()
    assert path.exists() == kept


def test_a_recorded_process_that_is_the_same_is_ended(dead_entry: Callable[..., Path]) -> None:
    with subprocess.Popen(
        [sys.executable, "-S", "-c", "import time; time.sleep(1000)"], start_new_session=True
    ) as child:
        found = identity.read(child.pid)
        assert found is not None
        dead_entry(child.pid, found.start_ticks, [])
        assert len(reap_orphans(grace_s=0)[0].ended) == 1
        assert child.wait() == -signal.SIGKILL


def test_files_that_are_no_records_are_left_alone(cache: Path) -> None:
    registry_dir().mkdir(parents=True)
    for name, text in {
        "torn.json": '{"schema": 1, "run',
        "list.json": "[]",
        "newer.json": '{"schema": 99}',
    }.items():
        (registry_dir() / name).write_text(text)
    assert reap_orphans() == ()
    assert len(list(registry_dir().glob("*.json"))) == 3


def test_a_record_is_removed_at_a_clean_end_and_stays_while_a_group_is_in_it(
    tmp_path: Path, stranger: identity.Proc
) -> None:
    with RunRegistry.open("run-c", tmp_path) as registry:
        assert [entry["run_id"] for entry in entries()] == ["run-c"]
        registry.add("server:replica-0", stranger.pid)
        registry.close()
        assert entries()[0]["groups"][0]["pgid"] == stranger.pid
        registry.remove(stranger.pid)
    assert entries() == []


def test_a_cache_folder_that_cannot_be_written_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(PreflightError, match="cannot write"):
        RunRegistry.open("r", tmp_path)
