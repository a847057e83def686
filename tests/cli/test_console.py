"""stdout and stderr that fail, of a command of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from harness.cli.console import make_steady, output_lost
make_steady()
for _ in range(20000):
    print("\\u00b7 a line of output")
sys.stdout.flush()
print(output_lost(), file=sys.stderr)
sys.exit(7)
"""


def run(redirect: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", f'"$0" -c "$1" {redirect}', sys.executable, SCRIPT],
        capture_output=True,
        text=True,
        errors="replace",
        env=os.environ | more,
        check=False,
    )


@pytest.mark.parametrize(
    ("redirect", "lost"),
    [
        ("> /dev/full", "True"),
        (">&-", "False"),
        ("> /dev/null", "False"),
        ("<&- > /dev/null", "False"),
    ],
)
def test_a_command_ends_by_its_own_code(redirect: str, lost: str) -> None:
    done = run(redirect)
    assert (done.returncode, done.stderr.split()) == (7, [lost])


def test_a_closed_stderr_too() -> None:
    done = run("> /dev/full 2>&-")
    assert (done.returncode, done.stderr) == (7, "")


def test_the_reader_goes_away() -> None:
    done = run("| head -1; true")
    assert done.stderr.split() == ["True"]
    assert len(done.stdout.splitlines()) == 1


def test_characters_are_replaced() -> None:
    done = run("", PYTHONIOENCODING="ascii")
    assert done.returncode == 7
    assert done.stdout.splitlines()[0] == "? a line of output"


def test_a_short_output_that_is_lost_is_not_a_success() -> None:
    """It stays in Python's buffer until the end, unless PYTHONUNBUFFERED is set."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    for more in ([], ["--json"]):
        command = [sys.executable, "-m", "harness", "explain", "late_sends", *more]
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(command, stdout=full, env=env, check=False)
        assert done.returncode == 1
