"""Shows what a run was made on: hardware, software, server and seed."""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from harness.core.clock import ClockAnchor
from harness.reduce.read.run import mapping, number, sequence
from harness.reduce.reduction import Reduction
from harness.report import numbers


def environment(reduction: Reduction) -> list[tuple[str, str]]:
    """Names and values, in the order of reading."""
    run, manifest = reduction.run, reduction.run.manifest
    hardware, software, server, harness, model = (
        mapping(manifest.get(key)) for key in ("hardware", "software", "server", "harness", "model")
    )
    rows: list[tuple[str, str]] = [("Run", reduction.summary.run_id)]
    started = _wall(reduction)
    if started:
        rows.append(("Started", started))
    ended = number(manifest.get("ended_ns"))
    if ended is not None:
        rows.append(("Length of the run", numbers.duration(run.at(ended) * 1e-9)))
    gpus = [mapping(gpu) for gpu in sequence(hardware.get("gpus"))]
    for text, same in groupby(gpus, key=_gpu):
        indices = [gpu.get("index") for gpu in same]
        rows.append(
            (
                f"GPU {indices[0]}" if len(indices) == 1 else f"GPUs {indices[0]} – {indices[-1]}",
                text,
            )
        )
    if not gpus:
        rows.append(("GPU", "none"))
    cpu = mapping(hardware.get("cpu"))
    if cpu:
        rows.append(
            (
                "CPU",
                (
                    f"{cpu.get('model') or 'unknown'}, {cpu.get('usable_cores')} of"
                    f" {cpu.get('logical_cores')} logical cores usable"
                ),
            )
        )
    if hardware.get("ram_bytes") is not None:
        rows.append(("Memory", numbers.size(number(hardware["ram_bytes"]))))
    if hardware.get("os"):
        rows.append(("System", f"{hardware['os']}, kernel {hardware.get('kernel') or 'unknown'}"))
    if model:
        parts = [str(model.get("model_id"))]
        if model.get("parameters") is not None:
            parts.append(f"{numbers.plain(number(model['parameters']))} parameters")
        parts += [str(model[key]) for key in ("dtype",) if model.get(key)]
        rows.append(("Model", ", ".join(parts)))
        if model.get("fingerprint"):
            rows.append(("Model's fingerprint", str(model["fingerprint"])))
    if server:
        inner = ", ".join(f"{k} {v}" for k, v in mapping(server.get("software")).items())
        rows.append(
            (
                "Server",
                f"{server.get('kind')} {server.get('version') or ''}".strip()
                + (f" ({inner})" if inner else ""),
            )
        )
        rows += [
            ("Server's command", " ".join(map(str, sequence(argv))))
            for argv in sequence(server.get("argv"))
        ]
        settings = ", ".join(
            f"{k}={v}" for k, v in mapping(server.get("settings")).items() if v is not None
        )
        if settings:
            rows.append(("Server's settings", settings))
        if number(server.get("ready_s")) is not None:
            rows.append(("Server ready after", numbers.duration(number(server["ready_s"]))))
    if harness:
        commit = (
            ", commit"
            f" {str(harness['commit'])[:12]}{' with changes' if harness.get('dirty') else ''}"
            if harness.get("commit")
            else ""
        )
        rows.append(("Harness", f"{harness.get('version')}{commit}"))
    packages = ", ".join(f"{k} {v}" for k, v in mapping(software.get("packages")).items())
    if software:
        rows.append(("Python", f"{software.get('python')}" + (f"; {packages}" if packages else "")))
    host = reduction.summary.host
    for scope, row in host.items():
        if row.cpu_cores_mean is not None and (
            scope == "host" or scope.startswith(("traffic:", "server:"))
        ):
            title = {"host": "CPU in use, whole host"}.get(scope, f"CPU in use, {scope}")
            memory = (
                f", {numbers.size(row.rss_bytes_max)} of memory"
                if row.rss_bytes_max is not None
                else ""
            )
            mean, p95 = numbers.plain(row.cpu_cores_mean, 2), numbers.plain(row.cpu_cores_p95, 2)
            rows.append((title, f"{mean} {'core' if mean == '1' else 'cores'} (p95 {p95}){memory}"))
    rows.append(
        ("Seed", str(manifest["seed"]) if manifest.get("seed") is not None else numbers.DASH)
    )
    for key, title in (("workload_sha256", "Workload (sha256)"), ("plan_sha256", "Plan (sha256)")):
        if manifest.get(key):
            rows.append((title, str(manifest[key])))
    return rows


def _gpu(gpu: Mapping[str, Any]) -> str:
    held = number(gpu.get("memory_bytes"))
    parts = [
        str(gpu.get("name") or "GPU"),
        numbers.size(held) if held is not None else "memory not known",
    ]
    limit, default = number(gpu.get("power_limit_w")), number(gpu.get("power_limit_default_w"))
    if limit is not None:
        parts.append(
            f"power limit {numbers.plain(limit)} W"
            + (f" of {numbers.plain(default)} W" if default is not None else "")
        )
    if gpu.get("driver_version"):
        parts.append(f"driver {gpu['driver_version']}")
    return ", ".join(parts)


def _wall(reduction: Reduction) -> str | None:
    for raw in sequence(reduction.run.manifest.get("clock_anchors")):
        fields = mapping(raw)
        started = reduction.run.manifest.get("started_ns")
        try:
            anchor = ClockAnchor(
                int(fields["monotonic_ns"]),
                int(fields["unix_ns"]),
                int(fields.get("uncertainty_ns") or 0),
                None,
            )
            return anchor.wall(int(str(started))).strftime("%Y-%m-%d %H:%M:%S UTC")
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
    return None
