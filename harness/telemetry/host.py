"""CPU time, memory and network of this host and of process trees, read from /proc.

A scope is a process and its descendants, up to the next scope's root: the supervisor's values
exclude the server and the traffic.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import psutil

from harness.core.clock import now_ns
from harness.hardware.host import usable_cores
from harness.processes import identity

# The search for new processes may take 1/100 of the time; with thousands of them it is rarer.
_SEARCH_SHARE: Final = 100


@dataclass(slots=True)
class _Scope:
    root: int
    started: int | None  # of the root; None if it ended before it was seen
    # (pid, started) -> CPU time when last seen
    members: dict[tuple[int, int], float] = field(default_factory=dict)
    ended_cpu_s: float = 0.0


class HostSampler:
    """Rows for the host table. Not thread-safe.

    A tree's CPU time is that of its living processes and of those seen before they ended. It never
    decreases. It excludes what a process used after it was last seen, and children that lived only
    between two samples.
    """

    def __init__(self) -> None:
        self._scopes: dict[str, _Scope] = {}
        self._next_search_ns = 0

    def add(self, scope: str, pid: int) -> bool:
        """Watch a process and its descendants as `scope`. An existing scope continues with the new
        process.

        Returns:
            False if there is no such process.
        """
        stat = identity.stat(pid)
        old = self._scopes.get(scope)
        if old and stat and (old.root, old.started) == (pid, stat.start_ticks):
            return True
        carried = 0.0 if old is None else old.ended_cpu_s + sum(old.members.values())
        self._scopes[scope] = _Scope(
            pid, None if stat is None else stat.start_ticks, ended_cpu_s=carried
        )
        self._next_search_ns = 0
        return stat is not None

    def sample(self) -> list[dict[str, Any]]:
        """One row per scope; scopes without a live process are skipped."""
        rows = self._host_rows()
        t_ns = now_ns()
        if t_ns >= self._next_search_ns:
            self._search()
            self._next_search_ns = t_ns + (now_ns() - t_ns) * _SEARCH_SHARE
        for name, scope in self._scopes.items():
            row = self._row(scope)
            if row is not None:
                rows.append({"t_ns": now_ns(), "scope": name, **row})
        return rows

    def _row(self, scope: _Scope) -> dict[str, Any] | None:
        rss_bytes = 0
        alive = 0
        for key in list(scope.members):
            stat = identity.stat(key[0])
            if stat is None or stat.start_ticks != key[1]:
                scope.ended_cpu_s += scope.members.pop(key)
                continue
            scope.members[key] = max(stat.cpu_s, scope.members[key])
            rss_bytes += stat.rss_bytes
            alive += 1
        if not alive:
            return None
        return {
            "cpu_s": scope.ended_cpu_s + sum(scope.members.values()),
            "rss_bytes": rss_bytes,
            "processes": alive,
        }

    def _search(self) -> None:
        """Assign processes to scopes: the nearest root above counts."""
        stats = {pid: stat for pid in identity.pids() if (stat := identity.stat(pid)) is not None}
        roots = {
            scope.root: scope
            for scope in self._scopes.values()
            if (s := stats.get(scope.root)) is not None and s.start_ticks == scope.started
        }
        known = {key: scope for scope in self._scopes.values() for key in scope.members}
        owner: dict[int, _Scope | None] = {}
        for pid in stats:
            path = []
            at = pid
            while at in stats and at not in owner:
                owner[at] = None  # for now: ends the walk even if reused ids form a cycle
                path.append(at)
                at = stats[at].ppid
            for step in reversed(path):
                # An orphan's new parent is init: it stays in its earlier scope.
                owner[step] = (
                    roots.get(step)
                    or owner.get(stats[step].ppid)
                    or known.get((step, stats[step].start_ticks))
                )
        for pid, stat in stats.items():
            scope = owner.get(pid)
            key = (pid, stat.start_ticks)
            before = known.get(key)
            if before is not None and before is not scope:
                # It now has its own scope; the CPU time so far stays here.
                before.ended_cpu_s += before.members.pop(key)
            if scope is not None:
                scope.members.setdefault(key, stat.cpu_s)

    def _host_rows(self) -> list[dict[str, Any]]:
        times = psutil.cpu_times()
        busy_s = sum(
            getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq")
        )  # `user` includes guests
        memory = psutil.virtual_memory()
        t_ns = now_ns()
        row: dict[str, Any] = {
            "t_ns": t_ns,
            "scope": "host",
            "cpu_s": busy_s,
            "cpus": float(usable_cores()),
            "rss_bytes": memory.total - memory.available,
        }
        rows = [row]
        nics: Mapping[str, Any] = psutil.net_io_counters(pernic=True, nowrap=False) or {}
        outside = [counters for name, counters in nics.items() if name != "lo"]
        if outside:
            row["net_rx_bytes"] = sum(counters.bytes_recv for counters in outside)
            row["net_tx_bytes"] = sum(counters.bytes_sent for counters in outside)
        if "lo" in nics:
            traffic = {"net_rx_bytes": nics["lo"].bytes_recv, "net_tx_bytes": nics["lo"].bytes_sent}
            rows.append({"t_ns": t_ns, "scope": "host-loopback", **traffic})
        return rows
