"""Commands that compare runs: compare, repeat, baseline."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.base import (
    Json,
    NoCalibrate,
    Overrides,
    Quiet,
    add,
    baseline_app,
    dump,
    named_profiles,
)
from harness.core.errors import ExitCode, HarnessError

if TYPE_CHECKING:
    from harness.compare.compare import Comparison
    from harness.compare.sweeps import SweepComparison
    from harness.profile.thresholds import Threshold
    from harness.report.comparison.write import Conclusion

AllowMismatch = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-mismatch", metavar="KEY", help="Identity key that may differ; repeatable."
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="NAME|PATH",
        help="Baseline: a folder, or a name from `harness baseline list`.",
    ),
]
GateFile = Annotated[
    Path | None,
    typer.Option(
        "--gate", metavar="FILE", help="YAML list of thresholds; a failed one exits with 99."
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Failure also for gates with too few repeats.")
]
Junit = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="JUnit XML file of the gates.")
]
Github = Annotated[
    bool,
    typer.Option(
        "--github",
        help="GitHub annotations of the gates, and a summary on the job's page.",
    ),
]
SummaryFile = Annotated[
    Path | None,
    typer.Option("--summary", metavar="FILE", help="Markdown summary for a pull request."),
]
CompareOut = Annotated[
    Path | None,
    typer.Option(
        "--report",
        metavar="DIR",
        help="Folder for comparison.html, .md and .json.",
    ),
]


@add(
    "compare",
    shown=(
        "harness compare results/A results/B",
        "harness compare results/NEW --baseline h100-chat --gate gates.yaml",
        "harness compare results/* --group-by gpu --report comparison",
        "harness compare results/SWEEP_A results/SWEEP_B --report comparison",
    ),
)
def compare_command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN",
            help="Runs, folders of repeats, or two sweeps or searches; the first is the baseline.",
        ),
    ],
    allow_mismatch: AllowMismatch = None,
    baseline: Baseline = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            "--group-by",
            metavar="KEY,…",
            help="Keys whose equal values form one variant: gpu, model, engine, precision, …",
        ),
    ] = None,
    gate: GateFile = None,
    strict: Strict = False,
    junit: Junit = None,
    github: Github = False,
    summary: SummaryFile = None,
    report: CompareOut = None,
    sensor_error: Annotated[
        float | None,
        typer.Option(
            "--sensor-error",
            min=0,
            max=1,
            help="Largest GPU power sensor error, as a ratio; default: 0.05.",
        ),
    ] = None,
    json_output: Json = False,
) -> ExitCode | None:
    """Compare runs, repeats, sweeps or searches, and evaluate gates.

    Points of two sweeps pair by their values, capacities of two searches by tier.
    """
    from harness.compare.compare import compare_runs
    from harness.compare.gates import read_gates
    from harness.compare.groups import find_baseline
    from harness.compare.ratios import BOARD_SENSOR_ERROR
    from harness.compare.sweeps import are_sweeps, compare_sweeps
    from harness.report.comparison.write import conclude, conclude_comparison
    from harness.report.sweep.comparison import (
        sweep_comparison_markdown,
        sweep_comparison_view,
        write_sweep_comparison,
    )

    found = find_baseline(baseline) if baseline is not None else None
    sensors = BOARD_SENSOR_ERROR if sensor_error is None else sensor_error
    if are_sweeps(runs if found is None else [found, *runs]):
        if group_by:
            raise typer.BadParameter("--group-by is for runs, not for sweeps")
        swept = compare_sweeps(
            runs if found is None else [found, *runs],
            tuple(allow_mismatch or ()),
            gates=read_gates(gate) if gate is not None else (),
            sensor_error=sensors,
        )
        text = sweep_comparison_markdown(sweep_comparison_view(swept, charts=False))
        pages = write_sweep_comparison(swept, report) if report is not None else ()
        concluded = conclude(
            swept.gates,
            text,
            pages,
            strict=strict,
            junit=junit,
            github=github,
            summary=summary,
        )
        return _print_comparison(swept, text, concluded, json_output=json_output)
    comparison = compare_runs(
        runs,
        tuple(allow_mismatch or ()),
        baseline=found,
        group_by=[key.strip() for key in group_by.split(",")] if group_by else (),
        gates=read_gates(gate) if gate is not None else (),
        sensor_error=sensors,
    )
    concluded = conclude_comparison(
        comparison, strict=strict, junit=junit, github=github, summary=summary, report=report
    )
    return _print_comparison(
        comparison, comparison.to_markdown(), concluded, json_output=json_output
    )


def _print_comparison(
    comparison: "Comparison | SweepComparison",
    text: str,
    concluded: "Conclusion",
    *,
    json_output: bool,
) -> ExitCode | None:
    if json_output:
        from harness.artifacts.typed_json import to_json

        dump(to_json(comparison))
    else:
        print(text)
    for line in concluded.annotations:
        print(line, file=sys.stderr if json_output else sys.stdout)
    for line in concluded.lines:
        print(line, file=sys.stderr)
    return concluded.exit_code


@add(
    "repeat",
    shown=(
        "harness repeat a.yaml b.yaml --repeats 5 --gate gates.yaml",
        "harness repeat --resume results/SERIES",
    ),
)
def repeat_command(
    profiles: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PROFILE", help="Profiles; the first is the baseline.", callback=named_profiles
        ),
    ] = None,
    overrides: Overrides = None,
    repeats: Annotated[
        int | None,
        typer.Option(
            "--repeats", min=1, help="Runs of each profile; default: `repeats` of the first."
        ),
    ] = None,
    cooldown: Annotated[
        str | None,
        typer.Option(
            "--cooldown", metavar="TIME", help="Pause between runs; default: `cooldown_s`."
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="DIR", help="Interrupted series to continue."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the series.")] = Path("results"),
    allow_mismatch: AllowMismatch = None,
    baseline: Baseline = None,
    gate: GateFile = None,
    strict: Strict = False,
    junit: Junit = None,
    github: Github = False,
    summary: SummaryFile = None,
    quiet: Quiet = False,
    no_calibrate: NoCalibrate = False,
    json_output: Json = False,
) -> ExitCode | None:
    """Run profiles several times each, and compare them.

    The order is random; each run has a new seed and a new server.
    """
    from harness.commands.repeat import load_variants, start_series
    from harness.compare.gates import read_gates
    from harness.compare.groups import find_baseline
    from harness.core.units import parse_duration_s

    if (resume is None) == (not profiles):
        raise typer.BadParameter("give one or more PROFILEs, or --resume DIR")
    gates = read_gates(gate) if gate is not None else ()
    against = find_baseline(baseline) if baseline is not None else None
    if resume is None:
        try:
            pause_s = None if cooldown is None else parse_duration_s(cooldown)
        except ValueError as error:
            raise typer.BadParameter(f"--cooldown: {error}") from error
        variants = load_variants(profiles or [], tuple(overrides or ()))
        resume = start_series(
            variants,
            repeats=repeats,
            out=out,
            cooldown_s=pause_s,
            allow_mismatch=tuple(allow_mismatch or ()),
        )
    return repeat_series(
        resume,
        gates=gates,
        baseline=against,
        strict=strict,
        junit=junit,
        github=github,
        summary=summary,
        quiet=quiet,
        calibrate=not no_calibrate,
        json_output=json_output,
    )


def repeat_series(
    folder: Path,
    *,
    gates: "Sequence[Threshold]" = (),
    baseline: Path | None = None,
    strict: bool = False,
    junit: Path | None = None,
    github: bool = False,
    summary: Path | None = None,
    quiet: bool,
    calibrate: bool,
    json_output: bool,
) -> ExitCode | None:
    """Run a series to its end, compare its variants and evaluate gates."""
    from harness.commands.display import choose_view
    from harness.commands.repeat import allowed_of, run_series, variants_of
    from harness.compare.compare import compare_runs
    from harness.profile.thresholds import CAPACITY, parse_threshold
    from harness.report.comparison.write import conclude_comparison

    variants = variants_of(folder)
    stated = [
        *gates,
        *(
            threshold
            for one in variants
            for text in one.profile.thresholds
            if (threshold := parse_threshold(text)).metric != CAPACITY
        ),
    ]
    alone = baseline is None and len(variants) == 1
    if alone and any(gate.relative for gate in gates):
        raise typer.BadParameter(
            "a gate is relative to a baseline: pass --baseline, or a second PROFILE"
        )
    result = run_series(
        folder, view=lambda: choose_view(quiet=quiet, json_output=json_output), calibrate=calibrate
    )
    for message in result.messages:
        print(message, file=sys.stderr)
    if result.exit_code is ExitCode.INTERRUPTED:
        return result.exit_code
    judged = list({gate.text: gate for gate in stated if not (alone and gate.relative)}.values())
    for gate in stated:
        if gate not in judged and alone:
            print(
                f"threshold not judged: {gate.text}: no baseline (pass --baseline NAME)",
                file=sys.stderr,
            )
    try:
        comparison = compare_runs([folder], allowed_of(folder), baseline=baseline, gates=judged)
    except HarnessError as error:
        if result.exit_code is ExitCode.OK:
            raise
        # A run failed, which determines the exit code.
        print(f"not compared: {error}", file=sys.stderr)
        return result.exit_code
    concluded = conclude_comparison(
        comparison, strict=strict, junit=junit, github=github, summary=summary, report=folder
    )
    code = _print_comparison(
        comparison, comparison.to_markdown(), concluded, json_output=json_output
    )
    return result.exit_code or code


@add("save", to=baseline_app, shown=("harness baseline save h100-chat results/SERIES",))
def baseline_save(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name for --baseline.")],
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Run directories, or a folder of repeats.")
    ],
    variant: Annotated[
        str | None,
        typer.Option(
            "--variant", metavar="NAME", help="Variant of a series with several profiles."
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of baselines.")] = Path(
        "results/reference"
    ),
    replace: Annotated[
        bool, typer.Option("--replace", help="Overwriting of a baseline of this name.")
    ] = False,
    allow_invalid: Annotated[
        bool, typer.Option("--allow-invalid", help="Invalid runs included.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Save runs as a baseline, trimmed to 5 MB each."""
    from harness.compare.baseline import save_baseline

    saved = save_baseline(
        name,
        runs,
        into=out,
        variant=variant,
        replace=replace,
        allow_invalid=allow_invalid,
        command=["harness", *sys.argv[1:]],
    )
    if json_output:
        dump(saved.to_dict())
        return
    for note in saved.notes:
        print(f"note: {note}", file=sys.stderr)
    size = sum(run.size_bytes for run in saved.runs)
    print(
        f"{saved.folder}: {len(saved.runs)} run{'' if len(saved.runs) == 1 else 's'},"
        f" {size / 1e6:.1f} MB"
    )
    print(
        "harness compare RUN… --baseline"
        f" {saved.folder if out != Path('results/reference') else name}"
    )


@add("list", to=baseline_app)
def baseline_list(
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="Folder of baselines.")
    ] = None,
    json_output: Json = False,
) -> None:
    """List baselines."""
    from harness.commands.display import print_table
    from harness.compare.baseline import LIST_COLUMNS, list_baselines, list_row
    from harness.compare.groups import reference_folders

    rows = list_baselines(reference_folders() if folder is None else (folder,))
    if json_output:
        dump(rows)
    else:
        print_table("", LIST_COLUMNS, [list_row(row) for row in rows])
