"""Processes by identity, read from Linux's /proc.

Pids are reused. So a process is identified by its pid and its start time (clock ticks since boot),
which is unique within a boot. Signals go through a pidfd, so that they reach the process that was
checked.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from harness.core.clock import NS_PER_S, now_ns

Finder = Callable[[], list["Proc"]]
"""Looks up processes again at every call."""

_GONE: Final = frozenset("ZXx")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_POLL_S: Final = 0.05
_KILL_DEADLINE_S: Final = 10.0  # longer means a process stuck in the kernel


class Proc(NamedTuple):
    """One process in /proc/<pid>/stat.

    Attributes:
        state: one letter; `Z` is a zombie.
        start_ticks: start in clock ticks since boot; with the pid, an identity.
        cpu_s: CPU time in user and system mode.
        rss_bytes: resident memory.
        name: the kernel's short name of the command (15 characters at most).
    """

    pid: int
    state: str
    ppid: int
    pgid: int
    start_ticks: int
    cpu_s: float
    rss_bytes: int
    name: str


def stat(pid: int) -> Proc | None:
    """The process with this pid, including zombies; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 (a Path costs more than the rest)
            text = file.read()
    except OSError:
        return None
    # The name is in parentheses and may contain some: the last one closes it.
    head, _, rest = text.rpartition(b")")
    # proc_pid_stat(5), from the third field, state.
    fields = rest.split(None, 22)
    return Proc(
        pid,
        state=fields[0].decode(),
        ppid=int(fields[1]),
        pgid=int(fields[2]),
        start_ticks=int(fields[19]),
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
        rss_bytes=max(0, int(fields[21])) * _PAGE_BYTES,
        name=head.partition(b"(")[2].decode("utf-8", errors="replace"),
    )


def read(pid: int) -> Proc | None:
    """The process with this pid; None if there is none or it is a zombie, which holds no memory,
    port or GPU.
    """
    found = stat(pid)
    return None if found is None or found.state in _GONE else found


def pids() -> Iterator[int]:
    """Ids of all processes that this one can see."""
    for entry in os.listdir("/proc"):  # noqa: PTH208 (names are enough, and there are hundreds)
        if entry.isdecimal():
            yield int(entry)


def processes() -> Iterator[Proc]:
    """All live processes that this one can see."""
    return (found for pid in pids() if (found := read(pid)) is not None)


def environ(pid: int) -> dict[str, str]:
    """Environment of a process at its start; empty if not readable (another user's) or gone."""
    pairs = (item.partition(b"=") for item in _entries(pid) if item)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def _entries(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123 (as in `stat`)
            return file.read().split(b"\0")
    except OSError:
        return []


def carries(pid: int, name: str, value: str) -> bool:
    """Whether a process was started with this variable, which children inherit."""
    return os.fsencode(f"{name}={value}") in _entries(pid)


def marked(name: str, value: str) -> list[Proc]:
    """Live processes with the variable, except this one."""
    own = os.getpid()
    return [found for found in processes() if found.pid != own and carries(found.pid, name, value)]


def in_group(pgid: int) -> list[Proc]:
    """Live members of a process group."""
    return [found for found in processes() if found.pgid == pgid]


def same(recorded_pid: int, start_ticks: int) -> bool:
    """Whether the pid is still that of the process that started then."""
    found = read(recorded_pid)
    return found is not None and found.start_ticks == start_ticks


def send(target: Proc, signum: signal.Signals) -> bool:
    """Send a signal to exactly this process; False if it is gone.

    The pidfd is opened before the start time is read: the start time shows a reuse of the pid
    before the opening, the pidfd excludes one after it.
    """
    try:
        fd = os.pidfd_open(target.pid)
    except ProcessLookupError:
        return False
    try:
        if not same(target.pid, target.start_ticks):
            return False
        signal.pidfd_send_signal(fd, signum)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def describe(targets: list[Proc]) -> str:
    """`name (pid 12), name (pid 13)`"""
    return ", ".join(f"{target.name} (pid {target.pid})" for target in targets)


def end(find: Finder, *, grace_s: float, seen: dict[int, Proc] | None = None) -> list[Proc]:
    """Send SIGTERM once, then SIGKILL until nothing is found.

    Args:
        find: called repeatedly, to find children forked in the meantime.
        grace_s: longest time from SIGTERM to the first SIGKILL; 0: no SIGTERM.
        seen: collects the signaled processes, by pid.

    Returns:
        Processes that did not end within ten seconds of the first SIGKILL.
    """
    pause = threading.Event()
    if grace_s > 0 and _signal_all(find, signal.SIGTERM, seen):
        deadline = now_ns() + int(grace_s * NS_PER_S)
        while find() and now_ns() < deadline:
            pause.wait(_POLL_S)
    deadline = now_ns() + int(_KILL_DEADLINE_S * NS_PER_S)
    while left := _signal_all(find, signal.SIGKILL, seen):
        if now_ns() > deadline:
            return left
        pause.wait(_POLL_S)
    return []


def _signal_all(find: Finder, signum: signal.Signals, seen: dict[int, Proc] | None) -> list[Proc]:
    targets = find()
    for target in targets:
        if send(target, signum) and seen is not None:
            seen[target.pid] = target
    return targets
