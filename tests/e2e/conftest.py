"""`harness run` as a person starts it: the real command, real Locust, the paced test double as an
attached server.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.reference_server.server import Pace, PacedServer

PROFILE = """\
purpose: {purpose}
model: {{id: paced-test-double, served_name: paced-test-double, max_context_tok: 8000, tok_per_word: 1.4}}
server: {{kind: attach, urls: ["{url}"]}}
traffic:
  api: {api}
  workload:
    kind: chat
    system_tok: 100
    user_tok: 20
    output_tok: 12
    turns: 3
    think_s: 20ms
    context_limit_tok: 3000
  load:
    - {load}
  drain_timeout_s: 10s
telemetry: {{scrape_interval_s: 200ms, host_interval_s: 200ms}}
"""


@pytest.fixture(scope="session")
def paced():
    with PacedServer(Pace(ttft_ms=20, gap_ms=5)) as server:
        yield server


def writer(folder):
    def write(
        url,
        *,
        purpose="smoke",
        api="messages",
        load="{kind: concurrency, concurrency: 3, sessions: 6}",
        name="e2e",
        extra="",
    ):
        path = folder / f"{name}.yaml"
        path.write_text(PROFILE.format(url=url, purpose=purpose, api=api, load=load) + extra)
        return path

    return write


@pytest.fixture
def write_profile(tmp_path):
    return writer(tmp_path)


@pytest.fixture(scope="session")
def write_profile_in():
    return writer


class Command:
    """`harness …` in a folder of its own, with a cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "HARNESS_CACHE_DIR": str(folder / "cache"), "COLUMNS": "160"}

    def __call__(self, *args, timeout_s=120, env=None):
        return subprocess.run(
            [sys.executable, "-m", "harness", *map(str, args)],
            cwd=self.folder,
            env={**self.env, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def start(self, *args, stdout=subprocess.PIPE, stderr=subprocess.PIPE):
        return subprocess.Popen(
            [sys.executable, "-m", "harness", *map(str, args)],
            cwd=self.folder,
            env=self.env,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )

    def runs(self):
        return (
            sorted((self.folder / "results").glob("*"))
            if (self.folder / "results").exists()
            else []
        )

    def processes(self):
        """What lives of any run that was started here, by the mark in its environment."""
        ids = {run.name for run in self.runs()}
        return _marked(lambda mark: mark in ids)

    def marked(self):
        """What lives of any run or series of runs that was started here: a series has the name of
        its folder in its mark.
        """
        names = tuple(run.name for run in self.runs())
        return _marked(lambda mark: mark is not None and mark.startswith(names)) if names else []

    def in_flight(self):
        """Wait until a run that was started has recorded at least one request; its folder."""

        def recorded():
            for run in self.runs():
                journals = list((run / "requests").glob("*.arrows"))
                if any(journal.stat().st_size > 20_000 for journal in journals):
                    return run
            return None

        return until(recorded, "a request in the journal")


def _marked(ours):
    found = []
    for process in psutil.process_iter():
        try:
            if (
                ours(process.environ().get("HARNESS_RUN_ID"))
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def harness(tmp_path):
    command = Command(tmp_path)
    yield command
    for process in command.marked():
        process.kill()


@pytest.fixture(scope="module")
def module_harness(tmp_path_factory):
    """One for runs that several tests of a module look at."""
    command = Command(tmp_path_factory.mktemp("shared"))
    yield command
    for process in command.processes():
        process.kill()


def until(condition, what, timeout_s=90.0):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s: {what}")


@pytest.fixture(name="until")
def until_fixture():
    return until


@pytest.fixture
def in_flight(harness):
    """Wait until a run that was started has recorded at least one request; gives its folder."""
    return harness.in_flight


@pytest.fixture
def summary_of():
    return lambda run: json.loads((run / "summary.json").read_text())


@pytest.fixture
def shared_cache(harness, tmp_path_factory):
    """One cache of built-in models for the session, so that the tiny model is made once."""
    harness.env["HARNESS_CACHE_DIR"] = str(tmp_path_factory.getbasetemp() / "model-cache")


@pytest.fixture(scope="module")
def module_cache(module_harness, tmp_path_factory):
    """The same cache for the runs that several tests look at."""
    module_harness.env["HARNESS_CACHE_DIR"] = str(tmp_path_factory.getbasetemp() / "model-cache")
