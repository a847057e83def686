"""The environment of a run: hardware, software, server and seed."""

from itertools import groupby

from harness.core.records import Gpu
from harness.reduce.reduction import Reduction
from harness.report.numbers import DASH, duration, plain, size


def environment(reduction: Reduction) -> list[tuple[str, str]]:
    """Names and values, in reading order."""
    run, manifest = reduction.run, reduction.run.manifest
    hardware, software, server, harness, model = (
        manifest.hardware,
        manifest.software,
        manifest.server,
        manifest.harness,
        manifest.model,
    )
    rows: list[tuple[str, str]] = [("Run", reduction.summary.run_id)]
    if manifest.started_at is not None:
        rows.append(("Started", manifest.started_at.strftime("%Y-%m-%d %H:%M:%S UTC")))
    if manifest.ended_ns is not None:
        rows.append(("Duration", duration(run.at(manifest.ended_ns) * 1e-9)))
    for text, same in groupby(hardware.gpus, key=_gpu):
        first, *more = [gpu.index for gpu in same]
        rows.append((f"GPUs {first} – {more[-1]}" if more else f"GPU {first}", text))
    if not hardware.gpus:
        rows.append(("GPU", "none"))
    cpu = hardware.cpu
    if cpu is not None:
        cores = f"{cpu.usable_cores} of {cpu.logical_cores} logical cores usable"
        rows.append(("CPU", f"{cpu.model or 'unknown'}, {cores}"))
    if hardware.ram_bytes is not None:
        rows.append(("Memory", size(hardware.ram_bytes)))
    if hardware.os:
        rows.append(("System", f"{hardware.os}, kernel {hardware.kernel or 'unknown'}"))
    if model is not None:
        parts = [model.model_id]
        if model.parameters is not None:
            parts.append(f"{plain(model.parameters)} parameters")
        parts += [model.dtype] if model.dtype else []
        rows.append(("Model", ", ".join(parts)))
        if model.fingerprint:
            rows.append(("Model fingerprint", model.fingerprint))
    if server is not None:
        inner = ", ".join(f"{k} {v}" for k, v in server.software.items())
        name = f"{server.kind} {server.version or ''}".strip()
        rows.append(("Server", name + (f" ({inner})" if inner else "")))
        rows += [("Server command", " ".join(argv)) for argv in server.argv]
        settings = ", ".join(f"{k}={v}" for k, v in server.settings.items() if v is not None)
        if settings:
            rows.append(("Server settings", settings))
        if server.ready_s is not None:
            rows.append(("Server startup time", duration(server.ready_s)))
    if harness is not None:
        changed = " (modified)" if harness.dirty else ""
        commit = f", commit {harness.commit[:12]}{changed}" if harness.commit else ""
        rows.append(("Harness", f"{harness.version}{commit}"))
    if software is not None:
        packages = ", ".join(f"{k} {v}" for k, v in software.packages.items())
        rows.append(("Python", f"{software.python}" + (f"; {packages}" if packages else "")))
    for scope, row in reduction.summary.host.items():
        listed = scope == "host" or scope.startswith(("traffic:", "server:"))
        if row.cpu_cores_mean is not None and listed:
            title = f"CPU usage, {scope}"
            rss = row.rss_bytes_max
            memory = f", {size(rss)} of memory" if rss is not None else ""
            mean, p95 = plain(row.cpu_cores_mean, 2), plain(row.cpu_cores_p95, 2)
            rows.append((title, f"{mean} {'core' if mean == '1' else 'cores'} (p95 {p95}){memory}"))
    rows.append(("Seed", DASH if manifest.seed is None else str(manifest.seed)))
    if manifest.workload_sha256:
        rows.append(("Workload (sha256)", manifest.workload_sha256))
    if manifest.plan_sha256:
        rows.append(("Plan (sha256)", manifest.plan_sha256))
    return rows


def _gpu(gpu: Gpu) -> str:
    held = gpu.memory_bytes
    parts = [gpu.name or "GPU", size(held) if held is not None else "memory unknown"]
    limit, default = gpu.power_limit_w, gpu.power_limit_default_w
    if limit is not None:
        parts.append(
            f"power limit {plain(limit)} W"
            + (f" of {plain(default)} W" if default is not None else "")
        )
    if gpu.driver_version:
        parts.append(f"driver {gpu.driver_version}")
    return ", ".join(parts)
