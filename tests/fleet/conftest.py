"""A synthetic measured run: eight H100s with measured board power, written as the two small files
that scaling needs.
"""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from harness.artifacts.run_summary import (
    Figure,
    Labels,
    ProfileName,
    RequestCounts,
    Slos,
    Summary,
    Verdict,
    Window,
    summary_json,
)
from harness.core.metrics import METRIC_VERSION
from harness.core.records import Basis, Concern, Severity, Status

MakeRun = Callable[..., Path]

H100 = "NVIDIA H100 80GB HBM3"


def _report_conftest() -> Any:
    """Headless Chromium lives with the report's tests; folders of tests are no packages."""
    spec = importlib.util.spec_from_file_location(
        "report_test_browser", Path(__file__).parents[1] / "report" / "conftest.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


page = _report_conftest()._page


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A run directory; the defaults are one replica of 8 x H100 at 1,000 output tok/s and 600 W a
    GPU that meets its SLOs.
    """
    return maker(tmp_path)


@pytest.fixture(scope="session")
def run_maker() -> Callable[[Path], MakeRun]:
    """`make_run` for a folder of one's own, in fixtures that outlive a test."""
    return maker


def maker(tmp_path: Path) -> MakeRun:
    """Makes run directories in a folder."""

    def make(
        *,
        gpus: tuple[str, ...] = (H100,) * 8,
        status: Status = Status.VALID,
        purpose: str = "measure",
        tok_s_per_gpu: float | None = 1000.0,
        interval: tuple[float, float] | Literal["2 %"] | None = "2 %",
        power: dict[str, float] | None = None,
        good_share: float | None = 1.0,
        slo_met: tuple[float, float] | None = None,
        replicas: int = 1,
        window_s: float = 600.0,
        context_scale: float = 1.0,
        power_limit_w: float | None = 700.0,
        model: str = "org/some-model",
        dtype: str = "bfloat16",
        workload: dict[str, Any] | None = None,
        concurrency: int | None = 64,
        input_tok: float = 3000.0,
        kv_bytes_per_tok: int | None = None,
        parameters: int | None = None,
        j_per_output_tok: float | None = None,
        in_flight: float | None = None,
        prefix_hit_ratio: float | None = None,
        engine: str = "vllm",
        host_w_per_gpu: float | None = None,
        ready_power: tuple[float, str] | None = None,
        concerns: tuple[Concern, ...] | None = None,
    ) -> Path:
        boards = max(1, len(gpus))
        watts = {"gpu_board": 600.0 * boards} if power is None else power
        whole = (tok_s_per_gpu or 0.0) * boards
        ends = (
            (0.98 * (tok_s_per_gpu or 0.0), 1.02 * (tok_s_per_gpu or 0.0))
            if interval == "2 %"
            else interval
        )
        low, high = ends or (None, None)
        metrics = {
            "output_tok_s": Figure(whole, "tok/s", boundary="client"),
            "output_tok_s_per_gpu": (
                Figure(tok_s_per_gpu, "tok/s/GPU", low, high, boundary="deployment")
                if tok_s_per_gpu is not None
                else Figure(None, "tok/s/GPU", basis=Basis.ABSENT, note="no GPU")
            ),
        }
        metrics["mean_input_tok"] = Figure(input_tok, "tok", boundary="client")
        metrics["mean_output_tok"] = Figure(200.0, "tok", boundary="client")
        if in_flight is not None:
            metrics["requests_in_flight"] = Figure(in_flight, "1", boundary="client")
        if prefix_hit_ratio is not None:
            metrics["prefix_hit_ratio"] = Figure(prefix_hit_ratio, "1", boundary="client")
        if j_per_output_tok is not None:
            metrics["j_per_output_tok"] = Figure(j_per_output_tok, "J/tok", boundary="gpu_board")
        if (
            slo_met is not None
        ):  # share of requests that met every SLO, and how many a second those are
            metrics["slo_met_ratio"] = Figure(slo_met[0], "1", boundary="client")
            metrics["goodput_rps"] = Figure(slo_met[1], "1/s", boundary="client")
        if good_share is not None:
            metrics["goodput_tok_s"] = Figure(whole * good_share, "tok/s", boundary="client")
        for position, (boundary, value) in enumerate(watts.items()):
            metrics["power_w" if position == 0 else f"power_w@{boundary}"] = Figure(
                value, "W", boundary=boundary
            )
        if ready_power is not None:
            metrics["ready_power_w"] = Figure(ready_power[0], "W", boundary=ready_power[1])
        default = {
            Status.INVALID: (
                Concern("drops", Severity.INVALID, "Half of the requests were dropped."),
            ),
            Status.DEGRADED: (Concern("not_implemented", Severity.DEGRADED, "No certificate."),),
        }
        summary = Summary(
            schema_version=1,
            metric_version=METRIC_VERSION,
            run_id="measured",
            state="complete",
            profile=ProfileName(name="chat", purpose=purpose, workload_sha256="w", plan_sha256="p"),
            verdict=Verdict(status, default.get(status, ()) if concerns is None else concerns),
            window=Window(0.0, window_s, window_s, "explicit"),
            requests=RequestCounts(100, 100, 100, 0, 0, 0, {"ok": 100}, 100),
            metrics=metrics,
            latency={},
            reconciliation={},
            stages=(),
            labels=Labels(output_length="forced", context_scale=context_scale, load_format="auto"),
            slos=Slos(ttft_s=1.5) if good_share is not None else Slos(),
        )
        manifest: dict[str, Any] = {
            "schema_version": 1,
            "run_id": "measured",
            "state": "complete",
            "profile": {
                "name": "chat",
                "purpose": purpose,
                "server": {"kind": "vllm"},
                "energy": {
                    "host_w_per_gpu": (
                        {"value": host_w_per_gpu, "source": "our meter"} if host_w_per_gpu else None
                    )
                },
                "traffic": {
                    "api": "chat",
                    "workload": workload or {"kind": "claude-code"},
                    "load": [
                        (
                            {"kind": "concurrency", "concurrency": concurrency}
                            if concurrency
                            else {"kind": "arrival_rate"}
                        )
                    ],
                },
            },
            "model": {
                "model_id": model,
                "dtype": dtype,
                "kv_bytes_per_tok": kv_bytes_per_tok,
                "parameters": parameters,
            },
            "hardware": {
                "gpus": [
                    {"uuid": f"GPU-{i}", "index": i, "name": name, "power_limit_w": power_limit_w}
                    for i, name in enumerate(gpus)
                ],
            },
            "server": {"kind": engine, "settings": {}},
            "endpoints": [{"name": f"replica-{i}"} for i in range(replicas)],
        }
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "manifest.json").write_text(json.dumps(manifest))
        (folder / "summary.json").write_text(json.dumps(summary_json(summary)))
        return folder

    return make
