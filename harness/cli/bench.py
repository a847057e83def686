"""`harness bench`: measure a running endpoint without a profile."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.base import CaFile, Header, Json, NoCalibrate, Out, Quiet, add
from harness.cli.measure import run_once
from harness.core.errors import ExitCode
from harness.core.records import Api

if TYPE_CHECKING:
    from harness.profile.schema import Profile

LOAD, GPUS = "Load", "GPUs"
"""Sections of the help."""


@add(
    "bench",
    shown=(
        "harness bench --url http://localhost:8000",
        "harness bench --url http://localhost:8000 --concurrency 1,4,16 --isl 1k --osl 128",
        "harness bench --url http://localhost:8000 --rate 2,4 --workload chat --slo ttft=1s",
    ),
)
def bench_command(
    url: Annotated[
        list[str], typer.Option("--url", metavar="URL", help="Endpoint to measure; repeatable.")
    ],
    model: Annotated[
        str | None, typer.Option("--model", help="Model name; default: the only model served.")
    ] = None,
    api: Annotated[
        Api | None,
        typer.Option(
            "--api", help="API; default: the first that responds, chat completions first."
        ),
    ] = None,
    concurrency: Annotated[
        str | None,
        typer.Option(
            "--concurrency",
            rich_help_panel=LOAD,
            metavar="N,N…",
            help="Concurrent requests, one load stage per number; default: 8.",
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            "--rate",
            rich_help_panel=LOAD,
            metavar="R,R…",
            help="Requests per second (or sessions), one load stage per number.",
        ),
    ] = None,
    isl: Annotated[
        str | None,
        typer.Option(
            "--isl",
            rich_help_panel=LOAD,
            metavar="N[±S]",
            help="Input sequence length in tokens; default: 1024.",
        ),
    ] = None,
    osl: Annotated[
        str | None,
        typer.Option(
            "--osl",
            rich_help_panel=LOAD,
            metavar="N[±S]",
            help="Output sequence length in tokens; default: 128.",
        ),
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(
            "--workload",
            rich_help_panel=LOAD,
            help="Sessions of a workload in place of --isl and --osl: chat, claude-code, …",
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace", rich_help_panel=LOAD, metavar="FILE", help="Recorded trace to replay."
        ),
    ] = None,
    duration: Annotated[
        str,
        typer.Option("--duration", rich_help_panel=LOAD, help="Measurement window of each stage."),
    ] = "30s",
    warmup: Annotated[
        str | None,
        typer.Option(
            "--warmup", rich_help_panel=LOAD, help="Warm-up before each window; default: detected."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            rich_help_panel=LOAD,
            metavar="N",
            help="Random seed of prompts and send times; default: 1.",
        ),
    ] = None,
    slo: Annotated[
        str | None,
        typer.Option(
            "--slo",
            rich_help_panel=LOAD,
            metavar="ttft=1s,tpot=50ms",
            help="SLOs for goodput: ttft, tpot, e2e.",
        ),
    ] = None,
    gpu_count: Annotated[
        int | None,
        typer.Option(
            "--gpu-count",
            rich_help_panel=GPUS,
            min=1,
            help="Number of GPUs that serve, on other machines.",
        ),
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option(
            "--gpus",
            rich_help_panel=GPUS,
            help="GPUs of this machine that serve, such as 0,1 or all.",
        ),
    ] = None,
    price: Annotated[
        float | None,
        typer.Option("--price", rich_help_panel=GPUS, min=0, help="Price in dollars per GPU-hour."),
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option("--api-key-env", help="Name of the environment variable with the API key."),
    ] = None,
    ca_file: CaFile = None,
    header: Header = None,
    out: Out = Path("results"),
    save_profile: Annotated[
        Path | None,
        typer.Option("--save-profile", metavar="FILE", help="File to save the profile in."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Profile on stdout, without a run.")
    ] = False,
    no_calibrate: NoCalibrate = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> ExitCode | None:
    """Benchmark a running endpoint, without a profile."""
    import tempfile

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
        trace=None if trace is None else bench.existing(trace, "--trace", folder=True),
        duration_s=bench.duration_s(duration, "--duration"),
        warmup_s=None if warmup is None else bench.duration_s(warmup, "--warmup"),
        seed=seed,
        slos=slo,
        gpu_count=gpu_count,
        gpus=gpus,
        usd_per_gpu_h=price,
        api_key_env=api_key_env,
        ca_file=None if ca_file is None else bench.existing(ca_file, "--ca-file"),
        headers=bench.headers(header or ()),
    )
    profile, text = bench.bench_profile(options, ["harness", *sys.argv[1:]])
    if save_profile is not None:
        write_bytes(save_profile, text.encode())
    if dry_run:
        print(text, end="")
        _print_time(profile, calibrate=not no_calibrate)
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


def _print_time(profile: "Profile", *, calibrate: bool) -> None:
    """Planned time of a run, on stderr: stdout is a profile."""
    from harness.commands.display import print_table
    from harness.commands.plan_description import describe_plan
    from harness.commands.planned_time import COLUMNS

    time = describe_plan(profile, calibrate=calibrate).time
    print_table("", COLUMNS, time.rows(), sys.stderr, text=(2,))
