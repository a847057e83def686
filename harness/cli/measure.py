"""Commands that measure, or describe what would be measured."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.base import (
    PROFILE_HELP,
    Json,
    NoCalibrate,
    Overrides,
    ProfilePath,
    Quiet,
    app,
    command,
    dump,
    models_app,
    named_profile,
    print_result,
    quality_app,
    read_profile,
)
from harness.cli.compare import repeat_series
from harness.core.errors import ExitCode

if TYPE_CHECKING:
    from harness.profile.schema import Profile


@app.command("run")
@command
def run_command(
    profile: ProfilePath,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for run directories.")] = Path(
        "results"
    ),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be sent.")
    ] = False,
    json_output: Json = False,
    quiet: Quiet = False,
    no_calibrate: NoCalibrate = False,
    repeats: Annotated[
        int | None,
        typer.Option(
            "--repeats",
            min=1,
            help="Run it this often, with fresh seeds, into one folder; default: the profile's.",
        ),
    ] = None,
) -> ExitCode | None:
    """Start the server, drive the traffic, measure, reduce, report."""
    loaded = read_profile(profile, overrides)
    if dry_run:
        _print_plan(loaded, json_output=json_output)
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


@app.command("plan")
@command
def plan_command(
    profile: ProfilePath, overrides: Overrides = None, json_output: Json = False
) -> None:
    """Print what would be sent, when, and how many tokens in all."""
    _print_plan(read_profile(profile, overrides), json_output=json_output)


def _print_plan(profile: "Profile", *, json_output: bool) -> None:
    from harness.commands.display import print_table
    from harness.commands.plan_description import describe_plan

    described = describe_plan(profile)
    if json_output:
        dump(described.to_dict())
        return
    for line in described.lines:
        print(line)
    print_table("", described.columns, described.rows)
    for note in described.notes:
        print(f"note: {note}")


@app.command("check")
@command
def check_command(
    profile: Annotated[
        Path | None, typer.Argument(metavar="[PROFILE]", help=PROFILE_HELP, callback=named_profile)
    ] = None,
    overrides: Overrides = None,
    system: Annotated[
        bool,
        typer.Option("--system", help="Describe this machine: CPU, GPUs, power sources, engines."),
    ] = False,
    start: Annotated[
        bool,
        typer.Option("--start", help="Start the server and send one real request of the workload."),
    ] = False,
    json_output: Json = False,
) -> ExitCode | None:
    """Say what is wrong here before an hour is spent."""
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


@app.command("calibrate")
@command
def calibrate_command(
    profile: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PROFILE]", help="Profile whose load is certified.", callback=named_profile
        ),
    ] = None,
    overrides: Overrides = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Two short levels, some 15 s, in place of four in a minute."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="This many Locust workers only.")
    ] = None,
    gap_ms: Annotated[
        float | None,
        typer.Option(
            "--gap-ms", min=0.1, help="Between tokens of a stream; default: TPOT target, or 20."
        ),
    ] = None,
    budget_s: Annotated[
        float | None,
        typer.Option("--budget-s", min=1, help="Start nothing that would end after this."),
    ] = None,
    bound_ms: Annotated[
        float | None,
        typer.Option(
            "--bound-ms",
            min=0.001,
            help="p99 of every error within which a load is certified; default: 5.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write calibration.json there as well."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Measure what this host's load generator can do, and how wrong its clock is."""
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
        from harness.models.facts import resolve
        from harness.plan.build import make_plan

        loaded = read_profile(profile, overrides)
        plan = make_plan(loaded, resolve(loaded.model.id, load_format=loaded.model.load_format))
        load = load_of(loaded, plan, gap_ms=gap_ms)
        workers = workers or (None if loaded.traffic.workers == "auto" else loaded.traffic.workers)
    with RunRegistry.open(f"calibrate-{now_ns()}", Path.cwd()) as registry:
        certificate = make_certificate(
            load,
            workers=workers,
            quick=quick,
            budget_s=budget_s,
            bound_s=bound_ms / 1000 if bound_ms else BOUND_S,
            note=lambda text: print(text, file=sys.stderr),
            registry=registry,
        )
    # Another bound than the runs' own is a question of its own, and no certificate for them.
    kept = store(certificate, workers=workers) if certificate.bound_s == BOUND_S else certificate
    if out is not None:
        write_json(out, to_json(kept))
    if json_output:
        dump(to_json(kept))
        return
    print_table("", LEVEL_COLUMNS, [level_row(level) for level in certificate.levels])
    print(certificate.cores.note)
    print(certificate.sentence())


@models_app.command("list")
@command
def models_list(json_output: Json = False) -> None:
    """Built-in models and whether they are made."""
    from harness.models.facts import available

    rows = [
        {
            "model": model.model_id,
            "state": "made" if model.cached else model.add_command or "made at first use",
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


@models_app.command("add")
@command
def models_add(name: Annotated[str, typer.Argument(help="smollm2")]) -> None:
    """Install and convert a built-in model's weights."""
    from harness.models.facts import add_smollm2

    if name not in ("smollm2", "builtin:smollm2-135m"):
        raise typer.BadParameter(f"{name!r} cannot be added; smollm2 can")
    facts = add_smollm2()
    print(f"{facts.model_id}: {facts.path}")


@quality_app.command("record")
@command
def quality_record(
    profile: ProfilePath,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="Where to; default: quality.reference of the profile."
        ),
    ] = None,
    json_output: Json = False,
) -> None:
    """Start the server, ask the check's texts, store the answers as the reference."""
    from harness.commands.steps.answers import record_answers

    path = record_answers(
        read_profile(profile, overrides), out, lambda text: print(text, file=sys.stderr)
    )
    if json_output:
        dump({"reference": str(path)})
    else:
        print(path)
