"""Commands that measure, or describe a measurement."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.base import (
    PROFILE_HELP,
    Json,
    NoCalibrate,
    Out,
    Overrides,
    ProfilePath,
    Quiet,
    add,
    dump,
    models_app,
    named_profile,
    print_result,
    quality_app,
    read_profile,
)
from harness.cli.compare import repeat_series
from harness.cli.sweep import sweep_profile
from harness.core.errors import ExitCode

if TYPE_CHECKING:
    from harness.profile.schema import Profile


@add(
    "run",
    shown=(
        "harness run cpu-smoke",
        "harness run gpu-chat --set 'server.gpus=[1]' --out results",
        "harness run mine.yaml --repeats 5",
    ),
)
def run_command(
    profile: ProfilePath,
    overrides: Overrides = None,
    out: Out = Path("results"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Planned requests on stdout; no run.")
    ] = False,
    json_output: Json = False,
    quiet: Quiet = False,
    no_calibrate: NoCalibrate = False,
    repeats: Annotated[
        int | None,
        typer.Option(
            "--repeats",
            min=1,
            help="Number of runs, each with a new seed, in one folder; default: the profile's.",
        ),
    ] = None,
) -> ExitCode | None:
    """Run a profile: start the server, apply load, report."""
    loaded = read_profile(profile, overrides)
    if loaded.sweep is not None:
        from harness.commands.sweep import SweepOptions

        return sweep_profile(
            profile,
            tuple(overrides or ()),
            SweepOptions(repeats=repeats),
            out=out,
            dry_run=dry_run,
            yes=False,
            calibrate=not no_calibrate,
            json_output=json_output,
            quiet=quiet,
        )
    if dry_run:
        _print_plan(loaded, json_output=json_output, calibrate=not no_calibrate)
        return None
    if (loaded.repeats if repeats is None else repeats) > 1:
        from harness.commands.repeat import load_variants, start_series

        series = start_series(
            load_variants([profile], tuple(overrides or ())), repeats=repeats, out=out
        )
        return repeat_series(
            series, quiet=quiet, calibrate=not no_calibrate, json_output=json_output
        )
    return run_once(
        loaded,
        profile,
        out=out,
        overrides=tuple(overrides or ()),
        calibrate=not no_calibrate,
        quiet=quiet,
        json_output=json_output,
    )


def run_once(
    profile: "Profile",
    source: Path,
    *,
    out: Path,
    overrides: Sequence[str] = (),
    calibrate: bool = True,
    quiet: bool = False,
    json_output: bool = False,
) -> ExitCode:
    """Run a profile and print its result."""
    from harness.commands.display import choose_view
    from harness.commands.run import run_profile

    with choose_view(quiet=quiet, json_output=json_output) as view:
        result = run_profile(
            profile, out=out, view=view, source=source, overrides=overrides, calibrate=calibrate
        )
    if json_output:
        from harness.artifacts.run_summary import summary_json

        dump(summary_json(result.summary))
    else:
        print_result(result.run_dir, result.summary)
    for message in result.messages:
        print(message, file=sys.stderr)
    return result.exit_code


@add("plan", shown=("harness plan gpu-chat",))
def plan_command(
    profile: ProfilePath, overrides: Overrides = None, json_output: Json = False
) -> None:
    """Print the planned requests, their times and tokens."""
    _print_plan(read_profile(profile, overrides), json_output=json_output)


def _print_plan(profile: "Profile", *, json_output: bool, calibrate: bool = True) -> None:
    from harness.commands.display import print_table
    from harness.commands.plan_description import describe_plan
    from harness.commands.planned_time import COLUMNS

    described = describe_plan(profile, calibrate=calibrate)
    if json_output:
        dump(described.to_dict())
        return
    for line in described.lines:
        print(line)
    print_table("", described.columns, described.rows)
    print()
    print_table("", COLUMNS, described.time.rows(), text=(2,))
    for note in described.notes:
        print(f"note: {note}")


@add(
    "check",
    shown=(
        "harness check --system",
        "harness check mine.yaml --start",
    ),
)
def check_command(
    profile: Annotated[
        Path | None, typer.Argument(metavar="PROFILE", help=PROFILE_HELP, callback=named_profile)
    ] = None,
    overrides: Overrides = None,
    system: Annotated[
        bool,
        typer.Option("--system", help="Description of this machine: CPU, GPUs, power sources."),
    ] = False,
    start: Annotated[
        bool,
        typer.Option("--start", help="Server start and one real request."),
    ] = False,
    json_output: Json = False,
) -> ExitCode | None:
    """Check a profile and this machine before a run (preflight)."""
    from harness.commands.check import check_profile
    from harness.commands.display import print_table
    from harness.commands.system import describe_system, print_power, survey_power

    if profile is None and not system:
        raise typer.BadParameter("give a PROFILE, --system, or both")
    code: ExitCode | None = None
    shown: dict[str, Any] = {}
    if system:
        rows = describe_system()
        shown["system"] = [{"what": what, "finding": finding} for what, finding in rows]
        if not json_output:
            print_table("This machine", ("what", "finding"), rows)
        power = survey_power(None if profile is None else read_profile(profile, overrides))
        shown["power"] = [source.to_dict() for source in power]
        if not json_output:
            print_power(power)
    if profile is not None:
        findings = check_profile(read_profile(profile, overrides), start=start)
        shown["findings"] = [finding.to_dict() for finding in findings]
        if any(not finding.ok for finding in findings):
            code = ExitCode.PREFLIGHT
        if not json_output:
            for finding in findings:
                print(finding.line())
    if json_output:
        dump(shown)
    return code


@add(
    "calibrate",
    shown=(
        "harness calibrate",
        "harness calibrate mine.yaml --quick",
    ),
)
def calibrate_command(
    profile: Annotated[
        Path | None,
        typer.Argument(
            metavar="PROFILE",
            help="Profile whose load is to be certified.",
            callback=named_profile,
        ),
    ] = None,
    overrides: Overrides = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Two short levels (15 s) in place of four (60 s)."),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            help="Number of Locust workers to test; default: the fewest that suffice.",
        ),
    ] = None,
    gap_ms: Annotated[
        float | None,
        typer.Option(
            "--gap-ms",
            min=0.1,
            help="Time between tokens of a stream; default: the TPOT SLO, or 20.",
        ),
    ] = None,
    budget_s: Annotated[
        float | None,
        typer.Option("--budget-s", min=1, help="Time limit for trying further numbers of workers."),
    ] = None,
    bound_ms: Annotated[
        float | None,
        typer.Option(
            "--bound-ms",
            min=0.001,
            help="Largest p99 of every timing error at a certified load; default: 5.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Additional file for calibration.json."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Measure capacity and timing error of the load generator."""
    from harness.artifacts.atomic import write_json
    from harness.artifacts.typed_json import to_json
    from harness.commands.display import print_table
    from harness.core.clock import now_ns
    from harness.core.records import Api
    from harness.processes.registry import RunRegistry
    from harness.traffic.fidelity import (
        BOUND_S,
        LEVEL_COLUMNS,
        level_row,
        load_of,
        make_certificate,
        standard_load,
        store,
    )

    if profile is None:
        load = standard_load(api=Api.MESSAGES, gap_ms=gap_ms)
    else:
        from harness.models.facts import facts_of
        from harness.plan.build import make_plan
        from harness.server.detect import complete_or_assume

        loaded = complete_or_assume(read_profile(profile, overrides)).profile
        plan = make_plan(loaded, facts_of(loaded))
        load = load_of(loaded, plan, gap_ms=gap_ms)
        workers = workers or (None if loaded.traffic.workers == "auto" else loaded.traffic.workers)
    with RunRegistry.open(f"calibrate-{now_ns()}", Path()) as registry:
        certificate = make_certificate(
            load,
            workers=workers,
            quick=quick,
            budget_s=budget_s,
            bound_s=bound_ms / 1000 if bound_ms else BOUND_S,
            note=lambda text: print(text, file=sys.stderr),
            registry=registry,
        )
    # Runs use BOUND_S: a certificate for another bound is not cached for them.
    kept = store(certificate, workers=workers) if certificate.bound_s == BOUND_S else certificate
    if out is not None:
        write_json(out, to_json(kept))
    if json_output:
        dump(to_json(kept))
        return
    print_table("", LEVEL_COLUMNS, [level_row(level) for level in certificate.levels])
    print(certificate.cores.note)
    print(certificate.sentence())


@add("list", to=models_app)
def models_list(json_output: Json = False) -> None:
    """List built-in models and whether they are built."""
    from harness.models.facts import available

    rows = [
        {
            "model": model.model_id,
            "state": "built" if model.cached else model.add_command or "built at first use",
            "what": model.summary,
        }
        for model in available()
    ]
    if json_output:
        dump(rows)
    else:
        from harness.commands.display import print_table

        print_table(
            "", ("model", "state", "what it is"), [tuple(map(str, row.values())) for row in rows]
        )


@add("add", to=models_app, shown=("harness models add smollm2",))
def models_add(name: Annotated[str, typer.Argument(help="Model to add: smollm2.")]) -> None:
    """Install and convert the weights of a built-in model."""
    from harness.models.facts import add_smollm2

    if name not in ("smollm2", "builtin:smollm2-135m"):
        raise typer.BadParameter(f"{name!r} cannot be added: use smollm2")
    facts = add_smollm2()
    print(f"{facts.model_id}: {facts.path}")


@add("record", to=quality_app, shown=("harness quality record mine.yaml --out answers.json",))
def quality_record(
    profile: ProfilePath,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Reference file; default: quality.reference of the profile.",
        ),
    ] = None,
    json_output: Json = False,
) -> None:
    """Start the server and record its responses as a reference."""
    from harness.commands.steps.answers import record_answers

    path = record_answers(
        read_profile(profile, overrides), out, lambda text: print(text, file=sys.stderr)
    )
    if json_output:
        dump({"reference": str(path)})
    else:
        print(path)
