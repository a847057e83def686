"""The host as the manifest describes it: processor, memory, system. No machine name or address is
kept.
"""

import hashlib
import os
import platform
import socket
from pathlib import Path
from typing import Any

import psutil


def usable_cores() -> int:
    """Online cores that this process may run on (its affinity)."""
    return len(os.sched_getaffinity(0))


def cpu_quota_cores(root: Path = Path("/")) -> float | None:
    """CPU limit of the control group (v2), in cores; None: no limit."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    path = next((line[3:].strip("/") for line in groups if line.startswith("0::")), None)
    if path is None:
        return None
    limits = []
    folder = root / "sys/fs/cgroup"
    for group in (folder / path, *(folder / path).parents):
        try:
            quota, period = (group / "cpu.max").read_text().split()
        except (OSError, ValueError):
            quota, period = "max", "1"
        if quota != "max":
            limits.append(int(quota) / int(period))
        if group == folder:
            break
    return min(limits, default=None)


def describe_host(root: Path = Path("/")) -> dict[str, Any]:
    """Processor, memory and system, as JSON values; None is unknown.

    `hostname_sha256` (first 12 hex digits) distinguishes machines without naming them.
    """
    return {
        "cpu": {
            "model": _cpu_model(root),
            "architecture": platform.machine() or None,
            "logical_cores": psutil.cpu_count(logical=True),
            "physical_cores": psutil.cpu_count(logical=False),
            "usable_cores": usable_cores(),
            "quota_cores": cpu_quota_cores(root),
            "numa_nodes": len(list((root / "sys/devices/system/node").glob("node[0-9]*"))) or None,
        },
        "ram_bytes": psutil.virtual_memory().total,
        "kernel": platform.release() or None,
        "os": _os_name(),
        "hostname_sha256": hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12],
    }


def _cpu_model(root: Path) -> str | None:
    try:
        lines = (root / "proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for key in ("model name", "Model", "cpu"):  # x86 and most; some Arm systems; POWER
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == key and value.strip():
                return value.strip()
    return platform.processor() or None


def _os_name() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return platform.system() or None
