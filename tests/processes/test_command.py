"""Short-lived commands."""

import sys
import threading
import time
from pathlib import Path

import pytest

from harness.processes import identity
from harness.processes.command import Command, ask
from harness.processes.registry import RunRegistry


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-S", "-c", code)


def test_status_and_both_outputs_are_told() -> None:
    code = "import os, sys; print(os.environ['A']); print('err', file=sys.stderr); sys.exit(3)"
    assert ask(python(code), env={"A": "1"}, timeout_s=20) == (3, "1\n", "err\n")


def test_it_reads_nothing() -> None:
    assert ask(python("import sys; print(repr(sys.stdin.read()))"), timeout_s=20).out == "''\n"


def test_a_command_that_is_not_there_is_an_os_error() -> None:
    with pytest.raises(FileNotFoundError):
        ask(("/no/such/program",), timeout_s=1)


def test_a_late_one_is_killed_with_its_children(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen({list(python('import time; time.sleep(1000)'))!r})\n"
        "open(sys.argv[1], 'w').write(str(child.pid))\n"
        "time.sleep(1000)\n"
    )
    with pytest.raises(TimeoutError):
        ask((*python(code), str(tmp_path / "pid")), timeout_s=3)
    pid = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 10
    while identity.read(pid) is not None:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_another_thread_may_kill_it() -> None:
    command = Command(python("import time; time.sleep(1000)"))
    threading.Timer(0.2, command.kill).start()
    assert command.answer(20).status == -9


def test_a_long_one_is_recorded_while_it_runs(registry: RunRegistry) -> None:
    code = "import os, sys; sys.stdin.read(); print(os.environ['HARNESS_RUN_ID'])"
    command = Command(python(code), registry=registry, name="recount")
    assert [group.label for group in registry.groups] == ["recount"]
    assert command.answer(20).out.strip() == registry.run_id
    assert registry.groups == []
