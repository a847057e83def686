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

from harness.processes import identity as proc
from harness.processes.registry import RunRegistry, reap_orphans, registry_dir

ROOT = Path(__file__).parents[2]
# A supervisor with a server that ignores SIGTERM, so that the death signal alone does not end it,
# and with children of all kinds.
SUPERVISOR = """
import os, sys, time
from pathlib import Path
from harness.artifacts.layout import RunDir
from harness.core.records import ModelFacts
from harness.profile.schema import Profile
from harness.server.base import RunContext
from harness.server.select import choose_server
from harness.processes.registry import RunRegistry
run_id, root, python = sys.argv[1:]
root = Path(root)
model = root / "model"
model.mkdir(parents=True)
(model / "config.json").write_text("{}")
server = {"kind": "vllm", "python": python, "device": "cpu", "env": {"FAKE_FAULT": "ignores_sigterm", "FAKE_CHILDREN": str(root / "pids")}}
traffic = {"workload": {"kind": "chat"}, "load": [{"kind": "concurrency", "concurrency": 1, "sessions": 1}]}
profile = Profile.model_validate({"purpose": "smoke", "model": {"id": "m"}, "server": server, "traffic": traffic})
registry = RunRegistry.open(run_id, root)
with choose_server(profile, ModelFacts("m", path=str(model))).server.start(RunContext(run_id, RunDir(root), registry)) as running:
    print(*running.pids().values(), flush=True)
    time.sleep(1000)
"""


class Supervisor:
    def __init__(self, run_id: str, root: Path, python: str) -> None:
        root.mkdir()
        self.root = root
        self.child = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, run_id, str(root), python],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            cwd=ROOT,
        )
        assert self.child.stdout is not None
        self.server = int(self.child.stdout.readline())
        self.all = [self.server, *(int(pid) for pid in (root / "pids").read_text().split())]

    def alive(self) -> list[int]:
        return [pid for pid in self.all if proc.read(pid)]

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()
        if self.child.stdout and not self.child.stdout.closed:
            self.child.stdout.close()


@pytest.fixture
def supervise(tmp_path: Path, fake_python: str) -> Iterator[Callable[[str], Supervisor]]:
    made: list[Supervisor] = []

    def start(run_id: str) -> Supervisor:
        made.append(Supervisor(run_id, tmp_path / run_id, fake_python))
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
def stranger() -> Iterator[proc.Proc]:
    """A process group that has nothing to do with any run."""
    with subprocess.Popen(
        [sys.executable, "-S", "-c", "import time; time.sleep(1000)"], start_new_session=True
    ) as child:
        found = proc.read(child.pid)
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
    stranger: proc.Proc, dead_entry: Callable[..., Path]
) -> None:
    path = dead_entry(stranger.pid, stranger.start_ticks - 1, [])
    (reaped,) = reap_orphans(grace_s=0)
    assert reaped.ended == ()
    assert not path.exists()


def test_a_process_that_reused_the_pid_of_a_member_is_left_alone(
    stranger: proc.Proc, dead_entry: Callable[..., Path]
) -> None:
    dead_entry(stranger.pid, 1, [[stranger.pid, stranger.start_ticks - 1]])
    assert reap_orphans(grace_s=0)[0].ended == ()


@pytest.mark.parametrize(
    ("change", "kept"),
    [({"host": "another"}, True), ({"pid_namespace": "pid:[1]"}, True), ({"boot_id": "b"}, False)],
)
def test_pids_of_another_host_container_or_boot_mean_nothing_here(
    stranger: proc.Proc, dead_entry: Callable[..., Path], change: dict[str, str], kept: bool
) -> None:
    path = dead_entry(stranger.pid, stranger.start_ticks, [], **change)
    assert reap_orphans(grace_s=0) == ()
    assert path.exists() == kept


def test_a_recorded_process_that_is_the_same_is_ended(dead_entry: Callable[..., Path]) -> None:
    with subprocess.Popen(
        [sys.executable, "-S", "-c", "import time; time.sleep(1000)"], start_new_session=True
    ) as child:
        found = proc.read(child.pid)
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
    tmp_path: Path, stranger: proc.Proc
) -> None:
    with RunRegistry.open("run-c", tmp_path) as registry:
        assert [entry["run_id"] for entry in entries()] == ["run-c"]
        registry.add("server:replica-0", stranger.pid)
        registry.close()
        assert entries()[0]["groups"][0]["pgid"] == stranger.pid
        registry.remove(stranger.pid)
    assert entries() == []
