"""Processes by identity rather than by number, read from Linux's /proc.

A pid says little: it is given out again. A process is named here by its pid together with its start
time (clock ticks since boot), which no later process of the same boot shares, and signals go
through a pidfd, so that what was checked is what gets the signal.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.core.clock import NS_PER_S, now_ns

Finder = Callable[[], list["Proc"]]
"""Looks processes up afresh at every call."""

_GONE: Final = frozenset("ZXx")
_POLL_S: Final = 0.05
_KILL_DEADLINE_S: Final = 10.0  # longer means a process stuck in the kernel


@dataclass(frozen=True, slots=True)
class Proc:
    """One process as /proc/<pid>/stat shows it.

    Attributes:
        pid: process id.
        ppid: the parent's.
        pgid: process group.
        sid: session.
        start_ticks: start in clock ticks since boot; with the pid, an identity.
        name: the kernel's short name of the command (15 characters at most).
    """

    pid: int
    ppid: int
    pgid: int
    sid: int
    start_ticks: int
    name: str


def read(pid: int) -> Proc | None:
    """The process with this pid, or None when there is none or it is a zombie: a zombie holds no
    memory, port or GPU.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name stands in brackets and may itself hold brackets and spaces: the last one closes it.
    head, _, rest = text.rpartition(")")
    fields = rest.split()
    if fields[0] in _GONE:
        return None
    # proc_pid_stat(5): state ppid pgrp session … starttime is field 22 of the line, so the 20th
    # after the name.
    return Proc(
        pid, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]), head.partition("(")[2]
    )


def processes() -> Iterator[Proc]:
    """All live processes that this one can see."""
    for entry in os.listdir("/proc"):  # noqa: PTH208 (names are enough, and there are hundreds)
        if entry.isdigit() and (found := read(int(entry))) is not None:
            yield found


def environ(pid: int) -> dict[str, str]:
    """The environment with which the process was started; empty where it may not be read (another
    user's) or is gone.
    """
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.partition(b"=") for item in raw.split(b"\0") if item)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def marked(markers: dict[str, str]) -> list[Proc]:
    """Live processes whose environment carries all the markers. Children inherit them, wherever
    they moved since.
    """
    own = os.getpid()
    wanted = markers.items()
    return [
        found for found in processes() if found.pid != own and wanted <= environ(found.pid).items()
    ]


def in_group(pgid: int) -> list[Proc]:
    """Live members of a process group."""
    return [found for found in processes() if found.pgid == pgid]


def same(recorded_pid: int, start_ticks: int) -> bool:
    """Whether the pid still belongs to the process that started then."""
    found = read(recorded_pid)
    return found is not None and found.start_ticks == start_ticks


def send(target: Proc, signum: signal.Signals) -> bool:
    """Send a signal to exactly this process; False when it is gone.

    The pidfd is opened first and the start time read after: had the pid been reused before the
    opening, the start time tells; after it, the pidfd does.
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
    """SIGTERM once, then SIGKILL until nothing is found.

    Args:
        find: looks the processes up afresh, so that children forked in the meantime are met by the
            next look.
        grace_s: longest time between the SIGTERM and the first SIGKILL; 0 leaves the SIGTERM out.
        seen: collects what was signalled, by pid.

    Returns:
        The processes that would not go within ten seconds of the first SIGKILL.
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
