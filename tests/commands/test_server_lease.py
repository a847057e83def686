"""A server kept between runs: when it is kept, what a run sees of it, and what it leaves."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from harness.artifacts.layout import RunDir
from harness.artifacts.run_summary import Idle, IdlePower, IdleStretch
from harness.commands.steps.prepare import Prepared, prepare
from harness.commands.steps.server_lease import ServerLease
from harness.core.errors import ServerError
from harness.core.records import Endpoint, ServerInfo
from harness.processes import identity
from harness.processes.registry import RUN_ID_VARIABLE, reap_orphans, registry_dir
from harness.profile.load import load_profile
from harness.server.base import Problem, RunContext

PROFILE = Path(__file__).parents[2] / "loadprofiles" / "cpu-smoke.yaml"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))


@dataclass
class Running:
    log: Path
    url: str
    alive: bool = True
    stopped: bool = False
    info: ServerInfo = field(default_factory=lambda: ServerInfo("fake", ready_s=1.0))

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return (Endpoint("replica-0", self.url, "m", pid=os.getpid()),)

    def pids(self) -> dict[str, int]:
        return {}

    def check(self) -> None:
        if not self.alive:
            raise ServerError("it died")

    def stop(self) -> None:
        raise AssertionError("the lease ends it")


@dataclass
class Fake:
    """A `ModelServer`; `started` has its servers."""

    url: str = "http://127.0.0.1:1"
    fails: bool = False
    kind: str = "fake"
    started: list[Running] = field(default_factory=list)

    def preflight(self) -> tuple[Problem, ...]:
        return (Problem("port_taken", "the port is taken", "wait"),) if self.started else ()

    @contextmanager
    def start(self, context: RunContext) -> Iterator[Running]:
        log = context.run_dir.logs_dir / "server.log"
        log.write_text("starting\n")
        if self.fails:
            raise ServerError("no memory")
        running = Running(log, self.url)
        self.started.append(running)
        yield running
        running.stopped = True


@pytest.fixture
def prepared() -> Callable[..., Prepared]:
    def make(server: Fake, *overrides: str) -> Prepared:
        attach = "server={kind: attach, urls: ['http://127.0.0.1:9']}"
        profile = load_profile(PROFILE, [attach, *overrides])
        return replace(prepare(profile, lambda _: None), server=server)

    return make


@contextmanager
def run_on(lease: ServerLease, prepared: Prepared, name: str) -> Iterator[Running]:
    """What a run does with its server."""
    run_dir = RunDir(lease.folder / name)
    run_dir.logs_dir.mkdir(parents=True)
    server = lease.lend(prepared)
    assert server.preflight() == ()
    with server.start(RunContext(name, run_dir, lease.registry)) as running:
        yield running  # type: ignore[misc]  # with the info of this run


def test_runs_that_need_an_equal_server_share_it(tmp_path, prepared):
    fake = Fake()
    with ServerLease(tmp_path) as lease:
        with run_on(lease, prepared(fake), "a") as first:
            assert (first.info.kept_from, first.info.cache_cleared) == (None, None)
        with run_on(lease, prepared(fake, "seed=2", "traffic.load.0.concurrency=9"), "b") as second:
            assert (second.info.kept_from, second.info.cache_cleared) == ("a", False)
            second.stop()  # a run must not end it
        assert [one.stopped for one in fake.started] == [False]
    assert [one.stopped for one in fake.started] == [True]


@pytest.mark.parametrize(
    "change", ["model.max_context_tok=2048", "server.ready_timeout_s=9", "traffic.api=chat"]
)
def test_another_server_ends_the_one_before(tmp_path, prepared, change):
    fake, other = Fake(), Fake()
    with ServerLease(tmp_path) as lease:
        with run_on(lease, prepared(fake), "a"):
            pass
        with run_on(lease, prepared(other, change), "b") as second:
            assert fake.started[0].stopped
            assert second.info.kept_from is None
    assert other.started[0].stopped


def test_a_server_that_died_is_started_again(tmp_path, prepared):
    fake = Fake()
    with ServerLease(tmp_path) as lease:
        with run_on(lease, prepared(fake), "a"):
            pass
        fake.started.pop().alive = False
        with run_on(lease, prepared(fake), "b") as second:
            assert second.info.kept_from is None
            assert not lease.failed_start


def test_an_error_in_a_run_ends_its_server(tmp_path, prepared):
    fake = Fake()
    with ServerLease(tmp_path) as lease:
        with pytest.raises(KeyboardInterrupt), run_on(lease, prepared(fake), "a"):
            raise KeyboardInterrupt
        assert not lease.holds
        assert fake.started[0].stopped


def test_a_start_that_failed_is_told_from_a_failed_run(tmp_path, prepared):
    with ServerLease(tmp_path) as lease:
        with pytest.raises(ServerError), run_on(lease, prepared(Fake(fails=True)), "a"):
            pass
        assert lease.failed_start
        assert (tmp_path / "a" / "logs" / "server.log").read_text() == "starting\n"


def test_each_run_has_the_log_lines_of_its_time(tmp_path, prepared):
    fake = Fake()
    with ServerLease(tmp_path) as lease:
        for name in ("a", "b"):
            with run_on(lease, prepared(fake), name), fake.started[0].log.open("a") as log:
                log.write(f"{name}\n")
    logs = [(tmp_path / name / "logs" / "server.log").read_text() for name in ("a", "b")]
    assert logs == ["starting\na\n", "b\n"]
    assert fake.started[0].log.read_text() == "starting\na\nb\n"


def test_idle_power_is_that_of_the_run_which_started_the_server(tmp_path, prepared):
    stretch = IdleStretch(
        start_s=1.0, end_s=6.0, boundaries={"gpu_board": IdlePower(watts=70.0, error_ratio=0.01)}
    )
    fake = Fake()
    with ServerLease(tmp_path) as lease:
        with run_on(lease, prepared(fake), "a"):
            assert lease.idle is None
        lease.keep_idle("a", Idle(before_server=stretch))
        with run_on(lease, prepared(fake), "b"):
            pass
        lease.keep_idle("b", Idle())
        assert lease.idle is not None
        assert lease.idle["from"] == "a"
        assert lease.idle["before_server"]["boundaries"]["gpu_board"]["watts"] == 70.0
        assert "ready" not in lease.idle
        lease.release()
        assert lease.idle is None


@pytest.mark.parametrize(
    ("route", "cleared"), [("/reset_prefix_cache", True), ("/flush_cache", True), ("/none", False)]
)
def test_the_prefix_cache_is_cleared_where_the_server_can(tmp_path, prepared, route, cleared):
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(200 if self.path == route else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        fake = Fake(f"http://127.0.0.1:{server.server_port}")
        with ServerLease(tmp_path) as lease:
            with run_on(lease, prepared(fake), "a"):
                assert asked == []  # a fresh one has nothing to clear
            with run_on(lease, prepared(fake), "b") as running:
                assert running.info.cache_cleared is cleared
        server.shutdown()
    assert asked[-1] == (route if cleared else "/flush_cache")


_KILLED = """\
import os, sys, subprocess
from pathlib import Path
from harness.commands.steps.server_lease import ServerLease
from harness.processes.child import Child, ChildSpec

with ServerLease(Path(sys.argv[1])) as lease:
    env = {"PATH": os.environ["PATH"]}
    Child.start(ChildSpec(name="server:replica-0", argv=["setsid", "sleep", "60"], env=env), lease.registry)
    print(lease.registry.run_id, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_processes_of_a_killed_series_are_found_as_orphans(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, tmp_path], capture_output=True, text=True, check=False
    )
    mark = done.stdout.strip()
    assert mark.startswith(tmp_path.name)
    try:
        (reaped,) = reap_orphans()
    finally:
        identity.end(lambda: identity.marked(RUN_ID_VARIABLE, mark), grace_s=0)
    assert reaped.run_id == mark
    assert not reaped.left
    assert list(registry_dir().glob("*.json")) == []


def test_a_resumed_series_has_another_mark(tmp_path):
    marks = []
    for _ in range(2):
        with ServerLease(tmp_path) as lease:
            marks.append(lease.registry.run_id)
            (record,) = registry_dir().glob("*.json")
            assert json.loads(record.read_text())["run_id"] == marks[-1]
    assert marks[0] != marks[1]
