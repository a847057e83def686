"""Starting, speaking to and ending one child, with everything that goes wrong on the way."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import TrafficError
from harness.processes import identity, lines
from harness.processes.child import CHILD_VARIABLE, Child, ChildSpec, exit_text, stop_all
from harness.processes.registry import RUN_ID_VARIABLE, RunRegistry

SLEEPER = "print('up', flush=True); import time; time.sleep(1000)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"
ECHO = """
import os
commands, events = map(int, os.environ["HARNESS_LINES"].split(","))
print("not a line of the protocol")
for line in os.fdopen(commands, "rb"):
    os.write(events, b"heard " + line)
os.write(events, b"torn")
"""


@pytest.fixture
def start(tmp_path: Path, registry: RunRegistry) -> Callable[..., Child]:
    def make(code: str, **more: Any) -> Child:
        spec = ChildSpec(
            name=more.pop("name", "traffic:0"),
            argv=more.pop("argv", (sys.executable, "-S", "-c", code)),
            env=more.pop("env", os.environ),
            log=tmp_path / "log",
            error=TrafficError,
            **more,
        )
        return Child.start(spec, registry)

    return make


def test_lines_go_both_ways_and_prints_go_to_the_log(start: Callable[..., Child]) -> None:
    child = start(ECHO, speaks=True)
    said = child.lines()
    child.tell(b"one\n")
    assert next(said) == b"heard one\n"
    child.tell(b"two\n")
    child.hang_up()
    child.tell(b"three\n")  # nobody hears it, and nothing fails
    assert list(said) == [b"heard two\n"]  # a torn line is left out
    assert child.wait() == 0
    child.stop(1)
    assert child.log_tail() == "not a line of the protocol"


def test_a_child_that_is_gone_hears_nothing(start: Callable[..., Child]) -> None:
    child = start("", speaks=True)
    assert child.wait(20) == 0
    child.tell(b"x" * (1 << 20) + b"\n")
    assert list(child.lines()) == []
    child.stop(1)


def test_the_child_inherits_what_is_stated_and_nothing_else(
    start: Callable[..., Child], registry: RunRegistry, tmp_path: Path
) -> None:
    kept, odd = os.pipe()
    os.set_inheritable(odd, True)
    code = (
        "import os\n"
        "fds = [fd for fd in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{fd}')]\n"
        "print(sorted(map(int, fds)), os.getsid(0) == os.getpid())"
    )
    child = start(code, env={"A": "1"}, fds=(kept,))
    environment = {"A": "1", RUN_ID_VARIABLE: registry.run_id}
    assert child.wait(20) == 0
    child.stop(1)
    os.close(kept)
    os.close(odd)
    assert child.log_text().split("\n")[0] == f"{[0, 1, 2, kept]} True"
    child = start("import os; print(sorted(os.environ.items()))", env={"A": "1"})
    child.wait(20)
    child.stop(1)
    seen = dict(eval(child.log_text().splitlines()[-1]))
    assert seen.pop(CHILD_VARIABLE).startswith("traffic:0/")
    assert {key: seen[key] for key in environment} == environment
    assert set(seen) - set(environment) <= {"LC_CTYPE"}  # which Python itself sets


def test_cores_are_those_that_were_named(start: Callable[..., Child]) -> None:
    core = min(os.sched_getaffinity(0))
    child = start("import os, time; time.sleep(0.3); print(os.sched_getaffinity(0))", cores=[core])
    assert child.wait(20) == 0
    child.stop(1)
    assert child.log_tail() == str({core})


def test_it_is_in_the_registry_while_it_lives(
    start: Callable[..., Child], registry: RunRegistry
) -> None:
    child = start(SLEEPER)
    assert [(group.label, group.pgid) for group in registry.groups] == [("traffic:0", child.pid)]
    child.stop(5)
    child.stop(5)
    assert registry.groups == []


def test_wait_looks_and_stop_takes(start: Callable[..., Child]) -> None:
    child = start(SLEEPER)
    assert child.wait(0.05) is None
    assert child.alive()
    child.signal(signal.SIGKILL)
    assert child.wait(20) == -signal.SIGKILL
    assert child.wait(0) == -signal.SIGKILL
    assert Path(f"/proc/{child.pid}").exists()  # its number stays its own until `stop`
    child.stop(1)
    assert child.wait(0) == -signal.SIGKILL
    assert not Path(f"/proc/{child.pid}").exists()
    child.signal(signal.SIGKILL)  # to nobody


def test_one_that_ignores_sigterm_is_killed(
    start: Callable[..., Child], eventually: Callable[..., None]
) -> None:
    child = start(STUBBORN)
    eventually(lambda: "up" in child.log_text())
    child.stop(0.2)
    assert child.wait(0) == -signal.SIGKILL


def test_all_are_asked_before_any_is_killed(
    start: Callable[..., Child], eventually: Callable[..., None]
) -> None:
    stubborn, tame = start(STUBBORN), start(SLEEPER, name="traffic:1")
    eventually(lambda: stubborn.log_text().count("up") == 2)
    stop_all([stubborn, tame], 0.5)
    assert [stubborn.wait(0), tame.wait(0)] == [-signal.SIGKILL, -signal.SIGTERM]


def test_a_child_outlives_the_thread_that_asked_for_it(
    start: Callable[..., Child], eventually: Callable[..., None]
) -> None:
    """The kernel sends the death signal when the starting thread ends, not only when the process
    does.
    """
    made: list[Child] = []
    thread = threading.Thread(target=lambda: made.append(start(SLEEPER)))
    thread.start()
    thread.join()
    eventually(lambda: "up" in made[0].log_text())
    assert made[0].wait(0.3) is None
    made[0].stop(5)


def test_a_child_ends_with_a_harness_that_was_killed(
    tmp_path: Path, eventually: Callable[..., None]
) -> None:
    code = (
        "import os, sys, time\n"
        "from harness.processes.child import Child, ChildSpec\n"
        f"argv = (sys.executable, '-S', '-c', {SLEEPER!r})\n"
        "print(Child.start(ChildSpec(name='x', argv=argv, env=os.environ)).pid, flush=True)\n"
        "time.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        pid = int(started.stdout.readline())
        # The launcher has become the command once the name changed; before that the death signal
        # may not be set yet.
        eventually(lambda: "launcher.py" not in Path(f"/proc/{pid}/cmdline").read_text())
        started.kill()
    eventually(lambda: identity.read(pid) is None)


def test_a_command_that_does_not_exist_ends_with_127(start: Callable[..., Child]) -> None:
    child = start("", argv=("/no/such/program",))
    assert child.wait(20) == 127
    child.stop(1)
    assert "cannot run /no/such/program: No such file or directory" in child.log_text()


def test_a_log_that_cannot_be_written_is_an_error_of_the_childs_class(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    spec = ChildSpec(
        name="traffic:0", argv=("true",), env={}, log=tmp_path / "file" / "log", error=TrafficError
    )
    with pytest.raises(TrafficError, match="traffic:0"):
        Child.start(spec)


def test_the_tail_is_the_end_of_a_long_log(start: Callable[..., Child]) -> None:
    child = start("for n in range(300000): print('line', n)")
    child.wait(20)
    child.stop(1)
    tail = str(child.log_tail()).splitlines()
    assert (len(tail), tail[-1]) == (30, "line 299999")


def test_a_signal_is_never_sent_to_a_process_that_reused_the_pid() -> None:
    with subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(1000)"]) as other:
        found = identity.read(other.pid)
        assert found is not None
        earlier = found._replace(start_ticks=found.start_ticks - 1)
        assert not identity.send(earlier, signal.SIGKILL)
        assert other.poll() is None
        assert identity.send(found, signal.SIGKILL)


def test_exit_text() -> None:
    assert [exit_text(status) for status in (0, 2, -9, -99)] == [
        "exit code 0",
        "exit code 2",
        "killed by SIGKILL",
        "killed by signal 99",
    ]


def test_lines_that_are_none_are_told() -> None:
    assert lines.decode(lines.encode({"a": 1})) == {"a": 1}
    for line in (b"garbage\n", b"[1]\n", b"\xff\n"):
        with pytest.raises(lines.LineError):
            lines.decode(line)


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lines, "LONGEST_BYTES", 8)
    (tmp_path / "said").write_bytes(b"short\n12345678\n")
    with (tmp_path / "said").open("rb") as file:
        said = lines.split(file)
        assert next(said) == b"short\n"
        with pytest.raises(lines.LineError):
            next(said)


def test_the_death_signal_is_known_in_one_place() -> None:
    package = Path(lines.__file__).parents[1]
    knowing = [path.name for path in package.rglob("*.py") if "prctl" in path.read_text()]
    assert knowing == ["launcher.py"]
