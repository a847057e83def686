"""`harness bench`: measure a server that is already up, without a profile."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.base import Json, NoCalibrate, Quiet, app, command
from harness.cli.measure import run_once
from harness.core.errors import ExitCode
from harness.core.records import Api


@app.command("bench")
@command
def bench_command(
    url: Annotated[
        list[str], typer.Option("--url", metavar="URL", help="Server to measure; may be repeated.")
    ],
    model: Annotated[
        str | None, typer.Option("--model", help="Model name; default: the only one served.")
    ] = None,
    api: Annotated[
        Api | None, typer.Option("--api", help="Wire API; default: the first that answers.")
    ] = None,
    concurrency: Annotated[
        str | None,
        typer.Option(
            "--concurrency", metavar="N,N…", help="Requests in flight, one stage per number."
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option("--rate", metavar="R,R…", help="Starts per second, one stage per number."),
    ] = None,
    isl: Annotated[
        str | None,
        typer.Option("--isl", metavar="N[±S]", help="Input tokens; default: 1024."),
    ] = None,
    osl: Annotated[
        str | None,
        typer.Option("--osl", metavar="N[±S]", help="Output tokens; default: 128."),
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option("--workload", help="Conversations instead: chat, claude-code, …"),
    ] = None,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE", help="Recorded trace to replay.")
    ] = None,
    duration: Annotated[
        str, typer.Option("--duration", help="Measurement window of each stage.")
    ] = "30s",
    warmup: Annotated[
        str | None,
        typer.Option("--warmup", help="Time before each window; default: found in the data."),
    ] = None,
    slo: Annotated[
        str | None, typer.Option("--slo", metavar="ttft=1s,tpot=50ms", help="SLOs for goodput.")
    ] = None,
    gpu_count: Annotated[
        int | None, typer.Option("--gpu-count", min=1, help="GPUs behind the server, elsewhere.")
    ] = None,
    gpus: Annotated[
        str | None, typer.Option("--gpus", help="GPUs of this machine that serve: 0,1 or all.")
    ] = None,
    price: Annotated[
        float | None, typer.Option("--price", min=0, help="Dollars per GPU-hour.")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option("--api-key-env", help="Environment variable with the API key.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for run directories.")] = Path(
        "results"
    ),
    save_profile: Annotated[
        Path | None, typer.Option("--save-profile", metavar="FILE", help="Write the profile, too.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the profile and stop.")] = False,
    no_calibrate: NoCalibrate = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> ExitCode | None:
    """Measure a running endpoint: no profile needed."""
    from harness.artifacts.atomic import write_bytes
    from harness.commands import bench

    options = bench.BenchOptions(
        urls=tuple(bench.base_url(one) for one in url),
        model=model,
        api=api,
        concurrency=()
        if concurrency is None
        else tuple(int(n) for n in bench.numbers(concurrency, "--concurrency", int)),
        rates=() if rate is None else bench.numbers(rate, "--rate", float),
        isl=isl,
        osl=osl,
        workload=workload,
        trace=None if trace is None else str(trace),
        duration_s=bench.duration_s(duration, "--duration"),
        warmup_s=None if warmup is None else bench.duration_s(warmup, "--warmup"),
        slos=slo,
        gpu_count=gpu_count,
        gpus=gpus,
        usd_per_gpu_h=price,
        api_key_env=api_key_env,
    )
    profile, text = bench.bench_profile(options, ["harness", *sys.argv[1:]])
    if save_profile is not None:
        write_bytes(save_profile, text.encode())
    if dry_run:
        print(text, end="")
        return None

    with tempfile.TemporaryDirectory(prefix="harness-bench-") as folder:
        path = Path(folder) / "bench.yaml"
        path.write_text(text, encoding="utf-8")
        return run_once(
            profile,
            path,
            out=out,
            calibrate=not no_calibrate,
            quiet=quiet,
            json_output=json_output,
        )
