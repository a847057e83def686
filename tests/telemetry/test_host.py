"""CPU, memory and network of process trees."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest

from harness.telemetry.host import HostSampler

# Starts a child that uses some CPU; on each line of input does the next thing.
PARENT = """
import subprocess, sys, time
def burn(s):
    end = time.process_time() + s
    while time.process_time() < end:
        pass
child = subprocess.Popen([sys.executable, "-c", '''
import sys, time
end = time.process_time() + 0.3
while time.process_time() < end: pass
print("burnt", flush=True)
sys.stdin.readline()
'''], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
sys.stdin.readline()
child.stdin.close(); child.wait()
print("child gone", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def say(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def scopes(sampler: HostSampler) -> dict[str, dict]:
    return {row["scope"]: row for row in sampler.sample()}


def sampled_anew(sampler: HostSampler) -> dict[str, dict]:
    sampler._next_search_ns = 0  # do not wait until a search is due again
    return scopes(sampler)


def test_a_tree_keeps_the_cpu_time_of_its_ended_children(parent) -> None:
    sampler = HostSampler()
    assert sampler.add("server:replica-0", parent.pid)
    hear(parent)
    with_child = sampled_anew(sampler)["server:replica-0"]
    assert with_child["processes"] == 2
    assert (
        with_child["cpu_s"] >= 0.28
    )  # the child burns 0.3 s; user and system time are each counted in ticks of 10 ms
    assert with_child["rss_bytes"] > 1_000_000
    say(parent)
    assert hear(parent) == "child gone"
    alone = sampled_anew(sampler)["server:replica-0"]
    assert alone["processes"] == 1
    assert alone["cpu_s"] >= with_child["cpu_s"]
    assert alone["rss_bytes"] < with_child["rss_bytes"]


def test_a_scope_inside_another_is_counted_apart(parent) -> None:
    sampler = HostSampler()
    sampler.add("supervisor", parent.pid)
    child = int(hear(parent))
    before = sampled_anew(sampler)["supervisor"]
    sampler.add("traffic:0", child)
    after = sampled_anew(sampler)
    assert (
        before["processes"],
        after["supervisor"]["processes"],
        after["traffic:0"]["processes"],
    ) == (2, 1, 1)
    assert (
        after["traffic:0"]["cpu_s"] >= 0.28
    )  # the child burns 0.3 s; user and system time are each counted in ticks of 10 ms
    assert after["supervisor"]["cpu_s"] >= before["cpu_s"]  # never backwards


def test_a_tree_that_ended_gives_no_row_and_a_new_root_goes_on_from_it(parent) -> None:
    sampler = HostSampler()
    sampler.add("server:replica-0", parent.pid)
    hear(parent)
    used_s = sampled_anew(sampler)["server:replica-0"]["cpu_s"]
    say(parent)
    hear(parent)
    say(parent)
    parent.wait()
    assert "server:replica-0" not in sampled_anew(sampler)
    sampler.add("server:replica-0", os.getpid())
    again = sampled_anew(sampler)["server:replica-0"]
    assert again["cpu_s"] >= used_s


def test_adding_a_scope_twice_changes_nothing() -> None:
    sampler = HostSampler()
    sampler.add("telemetry", os.getpid())
    first = scopes(sampler)["telemetry"]["cpu_s"]
    sampler.add("telemetry", os.getpid())
    assert sampled_anew(sampler)["telemetry"]["cpu_s"] < 2 * first + 1


def test_a_process_that_is_gone_is_said_to_be(parent) -> None:
    parent.kill()
    parent.wait()
    sampler = HostSampler()
    assert not sampler.add("traffic:0", parent.pid)
    assert "traffic:0" not in scopes(sampler)


def test_orphans_stay_in_the_tree_they_came_from(until: Callable) -> None:
    code = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'import sys;"
        " sys.stdin.readline()']);print(p.pid, flush=True); sys.stdin.readline()"
    )
    sampler = HostSampler()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        sampler.add("server:replica-0", process.pid)
        orphan = psutil.Process(int(hear(process)))
        try:
            assert sampled_anew(sampler)["server:replica-0"]["processes"] == 2
            process.kill()
            process.wait()
            assert sampled_anew(sampler)["server:replica-0"]["processes"] == 1
        finally:
            orphan.kill()
    until(
        lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE,
        "the orphan is gone",
    )


def test_the_host_itself() -> None:
    rows = scopes(HostSampler())
    assert rows["host"]["cpu_s"] > 0
    assert rows["host"]["cpus"] == len(os.sched_getaffinity(0))
    assert 0 < rows["host"]["rss_bytes"] < psutil.virtual_memory().total
    assert rows["host-loopback"].get("cpu_s") is None


def test_bytes_over_loopback_count_as_loopback() -> None:
    sampler = HostSampler()
    before = scopes(sampler)["host-loopback"]
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0] as taken,
    ):
        client.sendall(bytes(100_000))
        left = 100_000
        while left:
            left -= len(taken.recv(left))
    after = scopes(sampler)["host-loopback"]
    assert after["net_rx_bytes"] - before["net_rx_bytes"] >= 100_000
    assert after["net_tx_bytes"] - before["net_tx_bytes"] >= 100_000
