"""A sweep's folder without measuring: copies of a sample run whose values follow a saturating server.

Throughput of `threads` t at concurrency c is 400 t c / (c + 8 t) tok/s. It is not a test module, so
that benchmarks and tests of other packages can load it.
"""

import copy
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from harness.artifacts.sweep.capacity import (
    Capacity,
    CapacityFile,
    ConditionShare,
    ProbeRecord,
    write_capacity,
)
from harness.artifacts.sweep.index import (
    Axis,
    Point,
    PointState,
    SweepIndex,
    Value,
    read_sweep,
    write_sweep,
)

SAMPLE = Path(__file__).parents[2] / "docs" / "sample"
LOAD, THREADS = "traffic.load.0.concurrency", "server.threads"
SLO_TTFT_S = 1.0
GPU = "NVIDIA H100 80GB HBM3"


def throughput(concurrency: float, threads: float) -> float:
    """Tokens per second."""
    return 400 * threads * concurrency / (concurrency + 8 * threads)


def make_sweep(
    folder: Path,
    loads: Sequence[int] = (1, 2, 4, 8, 16, 32),
    threads: Sequence[int] = (1, 2),
    *,
    repeats: int = 1,
    gpus: int = 1,
    speed: float = 1.0,
    noise: float = 0.0,
    seed: int = 1,
    half_width: float | None = 0.01,
    states: Mapping[int, PointState] | None = None,
    status: str = "valid",
    statuses: Mapping[int, str] | None = None,
    gpu: str = GPU,
    uuid: str = "GPU-",
) -> Path:
    """Write sweep.json, profile.yaml and a run directory per finished point; returns the folder.

    Args:
        repeats: runs of each setting, which differ by `noise` (standard deviation of logarithms).
        gpus: 0 is a run on CPU, without power and price.
        speed: factor on throughput.
        half_width: relative, of the intervals; None for none.
        states: of points by id, default done; others have the error `made to fail`.
        status: verdict of the runs; `statuses` of single points.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    source = next((SAMPLE / "threads-1").glob("2*"))
    manifest, summary = (
        json.loads((source / f"{name}.json").read_text()) for name in ("manifest", "summary")
    )
    profile = (SAMPLE / "threads-1.yaml").read_text()
    axis = f"sweep:\n  over:\n    {LOAD}: {list(loads)}\n    {THREADS}: {list(threads)}\n"
    (folder / "profile.yaml").write_text(profile + axis)
    points = []
    for number, (t, c, repeat) in enumerate(product(threads, loads, range(1, repeats + 1))):
        state = (states or {}).get(number, PointState.DONE)
        values: dict[str, Value] = {LOAD: c, THREADS: t}
        measured = state in {PointState.DONE, PointState.PARTIAL}
        run = f"run-{number:03}" if measured else None
        error = None if measured or state is PointState.PLANNED else "made to fail"
        points.append(Point(number, values, repeat, f"t{t}", seed + number, state, run, error))
        if run is None:
            continue
        tok_s = speed * throughput(c, t) * math.exp(noise * rng.standard_normal())
        figures = dict(_figures(c, tok_s, gpus, half_width))
        mine, its = copy.deepcopy(summary), copy.deepcopy(manifest)
        run_id = f"{folder.name}-{run}"
        _fill_summary(mine, run_id, figures, (statuses or {}).get(number, status), c)
        _fill_manifest(its, run_id, c, t, [f"{uuid}{n}" for n in range(gpus)], gpu)
        if gpus:
            _fill_energy(mine, figures["power_w"]["value"], its["hardware"]["gpus"])
        (folder / run).mkdir()
        (folder / run / "summary.json").write_text(json.dumps(mine))
        (folder / run / "manifest.json").write_text(json.dumps(its))
    axes = (Axis(LOAD, tuple(loads)), Axis(THREADS, tuple(threads)))
    index = SweepIndex(
        folder.name, "sweep", "made", "0" * 64, (), axes, "random", seed, repeats, tuple(points)
    )
    write_sweep(folder, index)
    return folder


def _figures(
    c: int, tok_s: float, gpus: int, half_width: float | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    tpot_s, ttft_s = c / tok_s, 0.02 + 0.04 * c
    values: dict[str, tuple[float | None, str, str]] = {
        "output_tok_s": (tok_s, "tok/s", "client"),
        "output_tok_s_per_gpu": (tok_s / gpus if gpus else None, "tok/s/GPU", "deployment"),
        "interactivity_tok_s_user": (1 / tpot_s, "tok/s", "client"),
        "slo_met_ratio": (1 / (1 + math.exp(8 * (ttft_s / SLO_TTFT_S - 1))), "1", "client"),
        "requests_in_flight": (0.9 * c, "1", "client"),
    }
    watts = gpus * 200 + 0.5 * tok_s
    values |= {
        "power_w": (watts if gpus else None, "W", "gpu_board"),
        "output_tok_per_j": (tok_s / watts if gpus else None, "tok/J", "gpu_board"),
        "usd_per_mtok": (
            2.5 * gpus / 3600 / tok_s * 1e6 if gpus else None,
            "USD/Mtok",
            "deployment",
        ),
    }
    for key, (value, unit, boundary) in values.items():
        low, high = (
            (None, None)
            if value is None or half_width is None
            else (value * (1 - half_width), value * (1 + half_width))
        )
        modelled = "modelled" if key == "usd_per_mtok" else "measured"
        at_power = boundary == "gpu_board" and value is not None
        yield (
            key,
            {
                "value": value,
                "unit": unit,
                "ci_low": low,
                "ci_high": min(high, 1.0) if high is not None and unit == "1" else high,
                "basis": "absent" if value is None else modelled,
                "boundary": boundary,
                "window": "c4",
                "systematic_ratio": 0.05 / math.sqrt(gpus) if at_power else None,
            },
        )


def _fill_summary(
    summary: dict[str, Any], run_id: str, figures: Mapping[str, Any], status: str, c: int
) -> None:
    summary["run_id"] = run_id
    summary["metrics"] |= figures
    concerns = [{"code": "made", "severity": status, "message": "Made by a test."}]
    summary["verdict"] = {"status": status, "concerns": [] if status == "valid" else concerns}
    summary["profile"]["workload_sha256"] = f"{c:064}"
    for key, p50 in (
        ("ttft_s", 0.02 + 0.04 * c),
        ("tpot_s", 1 / figures["interactivity_tok_s_user"]["value"]),
    ):
        scaled = {name: p50 * factor for name, factor in _QUANTILES.items()}
        ends = {name: [value * 0.97, value * 1.03] for name, value in scaled.items()}
        summary["latency"][key] |= {**scaled, "ci": ends}


_QUANTILES = {"mean": 1.05, "p50": 1.0, "p90": 1.4, "p95": 1.6, "p99": 2.0}


def _fill_manifest(
    manifest: dict[str, Any], run_id: str, c: int, threads: int, uuids: Sequence[str], gpu: str
) -> None:
    manifest["run_id"] = run_id
    manifest["workload_sha256"] = f"{c:064}"
    manifest["profile"]["traffic"]["load"][0]["concurrency"] = c
    manifest["server"]["settings"]["threads"] = threads
    manifest["hardware"]["gpus"] = [
        {"uuid": uuid, "index": n, "name": gpu, "power_limit_w": 700.0}
        for n, uuid in enumerate(uuids)
    ]


def _fill_energy(summary: dict[str, Any], watts: float, gpus: Sequence[Mapping[str, Any]]) -> None:
    joules = watts * 15
    devices = [
        {"device_id": one["uuid"], "joules": joules / len(gpus), "systematic_ratio": 0.05}
        for one in gpus
    ]
    board = {"boundary": "gpu_board", "joules": joules, "watts": watts, "basis": "measured"}
    summary["energy"]["boundaries"] = {"gpu_board": {**board, "devices": devices}}
    ladder = {one["rung"]: one for one in summary["energy"]["ladder"]}
    ladder["board"] |= {"watts": watts, "joules": joules, "basis": "measured"}
    ladder["facility"] |= {"watts": watts * 2, "joules": joules * 2, "basis": "modelled"}


def as_search(folder: Path, *, confirmed: bool = True) -> Path:
    """Turn a folder of `make_sweep` with one value of threads into one of a search whose capacity
    is between loads 8 and 16; the run at 8 confirmed it.
    """
    index = read_sweep(folder)
    write_sweep(folder, replace(index, kind="search", axes=(Axis(LOAD, ()),), order="given"))
    probes = tuple(
        ProbeRecord(
            point.id,
            str(point.run),
            load,
            (
                ConditionShare("slos", 0.95, 297 if load < 16 else 120, 300, 200.0),
                ConditionShare("e2e_s.p90 < 9s", 0.9, 300, 300, 300.0),
            ),
        )
        for point in index.points
        if isinstance(load := point.values[LOAD], int)
    )
    run = next(one.run for one in probes if one.load == 8)
    slo = Capacity(
        found="interval",
        load=11.0,
        low=10.5,
        high=11.6,
        tok_s=200.0,
        sessions_per_gpu=11.0,
        sessions_per_mw=36_000.0,
        boundary="gpu_board",
        basis="measured",
        binding="slos",
        probes=len(probes),
        tau=0.012,
        confirmed=run if confirmed else None,
    )
    fast = Capacity(found="beyond", low=32.0, probes=len(probes))
    ended = "every tier is known to the precision"
    found = CapacityFile("concurrency", {"slo": slo, "fast": fast}, probes, run, ended)
    write_capacity(folder, found)
    return folder
