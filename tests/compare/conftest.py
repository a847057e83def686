"""Run directories with only the two small files that comparing needs."""

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.run_summary import (
    Distribution,
    Figure,
    Labels,
    ProfileName,
    RequestCounts,
    Summary,
    Verdict,
    Window,
    summary_json,
)
from harness.core.metrics import METRIC_VERSION, METRICS
from harness.core.records import Basis, Concern, Severity, Status

MakeRun = Callable[..., Path]


@pytest.fixture
def summary() -> Summary:
    return Summary(
        schema_version=1,
        metric_version=METRIC_VERSION,
        run_id="run",
        state="complete",
        profile=ProfileName(name="chat", purpose="measure", workload_sha256="w1", plan_sha256="p1"),
        verdict=Verdict(Status.VALID),
        window=Window(10.0, 640.0, 630.0, "explicit"),
        requests=RequestCounts(100, 100, 100, 0, 0, 0, {"ok": 100}, 90),
        metrics={
            "output_tok_s": Figure(1000.0, "tok/s", 980.0, 1020.0, boundary="client", window="0"),
            "mean_output_tok": Figure(200.0, "tok", boundary="client", window="0"),
            "goodput_rps": Figure(None, "1/s", basis=Basis.ABSENT, note="the profile has no SLO"),
        },
        latency={
            "ttft_s": Distribution(
                mean=0.4, p50=0.3, p90=0.7, p95=0.9, p99=1.2, p999=1.4, max=1.5, min=0.1, n=90
            ),
            "tpot_s": Distribution(p50=0.02, p90=0.03, n=80, censored=10),
        },
        reconciliation={},
        stages=(),
        labels=Labels(output_length="forced", context_scale=1.0, load_format="auto"),
    )


@pytest.fixture
def make_run(tmp_path: Path, summary: Summary) -> MakeRun:
    """A run directory; keywords change its treatment, its identity or its figures."""

    def make(
        run_id: str,
        *,
        gpu: str | None = "NVIDIA H100 80GB HBM3",
        uuid: str = "GPU-1",
        power_limit_w: float = 700.0,
        engine_version: str = "0.32.0",
        settings: dict[str, Any] | None = None,
        model_id: str = "org/model-8b",
        fingerprint: str | None = "f1",
        workload: str = "w1",
        status: Status = Status.VALID,
        seed: int = 1,
        labels: dict[str, Any] | None = None,
        values: dict[str, float | None] | None = None,
        intervals: bool = True,
        ttft_p50: float = 0.3,
        power_boundary: str = "gpu_board",
        metric_version: int = METRIC_VERSION,
        half_width: dict[str, float] | None = None,
    ) -> Path:
        metrics = dict(summary.metrics)
        for key, value in (values or {}).items():
            base = METRICS[key.partition("@")[0]]
            boundary = power_boundary if base.boundary == "power" else base.boundary
            metrics[key] = (
                Figure(value, base.unit, boundary=boundary)
                if value is not None
                else Figure(None, base.unit, basis=Basis.ABSENT)
            )
            if value is not None and half_width and key in half_width:
                metrics[key] = replace(
                    metrics[key], ci_low=value - half_width[key], ci_high=value + half_width[key]
                )
        if not intervals:
            metrics = {
                key: replace(figure, ci_low=None, ci_high=None) for key, figure in metrics.items()
            }
        concerns = (
            (Concern("drops", Severity.INVALID, "Half of the requests were dropped."),)
            if status is Status.INVALID
            else ()
        )
        mine = replace(
            summary,
            run_id=run_id,
            metric_version=metric_version,
            profile=replace(summary.profile, workload_sha256=workload),
            verdict=Verdict(status, concerns),
            metrics=metrics,
            latency={**summary.latency, "ttft_s": replace(summary.latency["ttft_s"], p50=ttft_p50)},
            labels=replace(summary.labels, **(labels or {})),
        )
        manifest = {
            "schema_version": 1,
            "run_id": run_id,
            "state": "complete",
            "harness": {"version": "0.1.0"},
            "seed": seed,
            "profile": {"name": "chat", "model": {"id": model_id, "dtype": "auto"}},
            "model": {"model_id": model_id, "fingerprint": fingerprint},
            "hardware": {
                "gpus": (
                    []
                    if gpu is None
                    else [{"uuid": uuid, "index": 0, "name": gpu, "power_limit_w": power_limit_w}]
                ),
                "cpu": {"model": "EPYC"},
            },
            "server": {
                "kind": "vllm",
                "version": engine_version,
                "settings": {
                    "dtype": "bfloat16",
                    "tensor_parallel_size": 1,
                    "max_num_seqs": 256,
                    "port": seed,
                    **(settings or {}),
                },
            },
            "endpoints": [{"name": "replica-0"}],
        }
        folder = tmp_path / run_id
        folder.mkdir()
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / "summary.json").write_text(json.dumps(summary_json(mine)))
        return folder

    return make


@pytest.fixture(scope="session")
def reduction_builder() -> Callable[..., Any]:
    """Builds run directories with everything in them; it lives with the reduction's tests, and
    folders of tests are no packages.
    """
    name = "reduce_test_builders"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, Path(__file__).parents[1] / "reduce" / "conftest.py"
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    builder: Callable[..., Any] = sys.modules[name].Builder
    return builder
