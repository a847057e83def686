"""`harness sweep`: runs over values of some keys; `harness search`: the capacity at SLOs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from harness.cli.base import (
    PROFILE_HELP,
    Json,
    NoCalibrate,
    Overrides,
    Quiet,
    add,
    dump,
    named_profile,
)
from harness.core.errors import ExitCode

if TYPE_CHECKING:
    from harness.commands.steps.sweep_plan import SweepPlan
    from harness.commands.sweep import SweepOptions, SweepResult
    from harness.profile.schema import Profile


@add(
    "sweep",
    shown=(
        "harness sweep cpu-sweep",
        "harness sweep mine.yaml --over traffic.load.0.concurrency=1..256x2 --dry-run",
        "harness sweep mine.yaml --over server.max_num_seqs=32,64 --repeats 3",
        "harness sweep --resume results/SWEEP",
    ),
)
def sweep_command(
    profile: Annotated[
        Path | None, typer.Argument(metavar="PROFILE", help=PROFILE_HELP, callback=named_profile)
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option(
            "--over",
            metavar="KEY=VALUES",
            help="Values of a key: 1,2,4 or 1..256x2 (factor) or 8..64+8 (step); repeatable.",
        ),
    ] = None,
    zip_: Annotated[
        list[str] | None,
        typer.Option(
            "--zip",
            metavar="A+B=VALUES",
            help="Keys that vary together, such as A+B=1+8,2+4; repeatable.",
        ),
    ] = None,
    order: Annotated[
        Literal["random", "given"] | None,
        typer.Option("--order", help="Order of the runs; default: the profile's, else random."),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option("--repeats", min=1, help="Runs of each combination; default: the profile's."),
    ] = None,
    max_failures: Annotated[
        int | None,
        typer.Option("--max-failures", min=1, help="Failed runs in a row that end the sweep."),
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", metavar="DIR", help="Sweep to continue."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the sweep.")] = Path("results"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Planned runs on stdout; nothing starts.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Also above 200 runs or 12 hours.")] = False,
    no_calibrate: NoCalibrate = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> ExitCode | None:
    """Run a profile once for each combination of values of some keys.

    Runs that need an equal server share it.
    """
    from harness.commands.sweep import SweepOptions, check_same, source_of

    if profile is None and resume is None:
        raise typer.BadParameter("give a PROFILE, or --resume DIR")
    options = SweepOptions(tuple(over or ()), tuple(zip_ or ()), order, repeats, max_failures)
    if profile is None and (overrides or options != SweepOptions()):
        raise typer.BadParameter("--resume without PROFILE takes the profile of the sweep")
    if resume is None:
        assert profile is not None
        return sweep_profile(
            profile,
            tuple(overrides or ()),
            options,
            out=out,
            dry_run=dry_run,
            yes=yes,
            calibrate=not no_calibrate,
            json_output=json_output,
            quiet=quiet,
        )
    if profile is not None:
        check_same(resume, source_of(profile, tuple(overrides or ()), options))
    return _run(resume, calibrate=not no_calibrate, json_output=json_output, quiet=quiet)


def sweep_profile(
    profile: Path,
    overrides: tuple[str, ...],
    options: "SweepOptions",
    *,
    out: Path,
    dry_run: bool,
    yes: bool,
    calibrate: bool,
    json_output: bool,
    quiet: bool,
) -> ExitCode | None:
    """Plan a sweep, show the plan, and run it."""
    from harness.commands.steps.sweep_plan import plan_sweep
    from harness.commands.sweep import check_size, source_of, start_sweep

    source = source_of(profile, overrides, options)
    plan = plan_sweep(source)
    if dry_run:
        _print_plan(plan, json_output=json_output)
        return None
    if not yes:
        check_size(plan)
    if not quiet and not json_output:
        _print_plan(plan, json_output=False)
    folder = start_sweep(source, plan, out=out)
    return _run(folder, calibrate=calibrate, json_output=json_output, quiet=quiet)


def _print_plan(plan: "SweepPlan", *, json_output: bool) -> None:
    from harness.commands.display import print_table

    if json_output:
        dump(plan.to_dict())
        return
    print_table("", plan.columns(), plan.rows(), text=range(1, len(plan.columns())))
    for line in plan.skipped_lines():
        print(line)
    print(plan.sentence())


def _run(folder: Path, *, calibrate: bool, json_output: bool, quiet: bool) -> ExitCode | None:
    from harness.commands.display import choose_view
    from harness.commands.sweep import run_sweep

    result = run_sweep(
        folder, view=lambda: choose_view(quiet=quiet, json_output=json_output), calibrate=calibrate
    )
    if json_output:
        from harness.artifacts.sweep.index import read_sweep
        from harness.artifacts.typed_json import to_json

        dump({"folder": str(folder), **to_json(read_sweep(folder))})
    else:
        _print_result(result)
    for message in result.messages:
        print(message, file=sys.stderr)
    return result.exit_code


def _print_result(result: "SweepResult") -> None:
    from harness.commands.display import print_table
    from harness.commands.steps.sweep_progress import curve_lines, table

    columns, rows = table(result.folder, result.points)
    print()
    print_table("", columns, rows)
    print()
    for line in curve_lines(result.folder):
        print(line)
    print()
    for path in result.paths or (result.folder,):
        print(path)


@add(
    "search",
    shown=(
        "harness search cpu-search",
        "harness search mine.yaml --load concurrency --from 1 --to 1024",
        'harness search mine.yaml --tier "fast: ttft_s.p95<5s, speed_tok_s.p25>60"',
        "harness search --resume results/SEARCH",
    ),
)
def search_command(
    profile: Annotated[
        Path | None, typer.Argument(metavar="PROFILE", help=PROFILE_HELP, callback=named_profile)
    ] = None,
    load: Annotated[
        Literal["concurrency", "arrival_rate"] | None,
        typer.Option("--load", help="Load to search; default: the profile's."),
    ] = None,
    lowest: Annotated[
        float | None, typer.Option("--from", metavar="LOAD", help="Load of the first probe.")
    ] = None,
    to: Annotated[
        float | None, typer.Option("--to", metavar="LOAD", help="Highest load to try.")
    ] = None,
    tier: Annotated[
        list[str] | None,
        typer.Option(
            "--tier",
            metavar="NAME: CONDITIONS",
            help="SLO tier such as 'fast: ttft_s.p95<5s, speed_tok_s.p25>60'; repeatable.",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            metavar="SHARE",
            help="Half of the 95% interval at which the search ends; default: 3%.",
        ),
    ] = None,
    max_points: Annotated[
        int | None, typer.Option("--max-points", min=2, help="Most probes; default: 20.")
    ] = None,
    max_time: Annotated[
        str | None,
        typer.Option("--max-time", metavar="TIME", help="Time for all probes; default: 2h."),
    ] = None,
    confirm: Annotated[
        bool | None,
        typer.Option("--confirm/--no-confirm", help="Confirmation run at the end."),
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="DIR", help="Search to continue.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the search.")] = Path("results"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Plan of the search on stdout; nothing starts.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Also above 12 hours.")] = False,
    no_calibrate: NoCalibrate = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> ExitCode | None:
    """Find the highest load that meets SLOs, with its 95% interval."""
    from harness.commands.search import (
        SearchOptions,
        check_length,
        plan_lines,
        source_of,
        start_search,
    )
    from harness.commands.sweep import check_same

    if profile is None and resume is None:
        raise typer.BadParameter("give a PROFILE, or --resume DIR")
    options = SearchOptions(
        load, lowest, to, tuple(tier or ()), precision, max_points, max_time, confirm
    )
    if profile is None and (overrides or options != SearchOptions()):
        raise typer.BadParameter("--resume without PROFILE takes the profile of the search")
    source = None if profile is None else source_of(profile, tuple(overrides or ()), options)
    if resume is not None:
        if source is not None:
            check_same(resume, source)
    else:
        assert source is not None
        planned = source.base()
        if dry_run:
            _show_search(planned, json_output=json_output)
            return None
        if not yes:
            check_length(planned)
        if not quiet and not json_output:
            print("\n".join(plan_lines(planned)))
        resume = start_search(source, out=out)
    return _run_search(resume, calibrate=not no_calibrate, json_output=json_output, quiet=quiet)


def _show_search(profile: "Profile", *, json_output: bool) -> None:
    from harness.commands.search import plan_lines

    if json_output:
        assert profile.search is not None
        dump(profile.search.model_dump(mode="json"))
    else:
        print("\n".join(plan_lines(profile)))


def _run_search(
    folder: Path, *, calibrate: bool, json_output: bool, quiet: bool
) -> ExitCode | None:
    from harness.artifacts.typed_json import to_json
    from harness.commands.display import choose_view, print_table
    from harness.commands.search import TIER_COLUMNS, run_search, tier_row

    result = run_search(
        folder, view=lambda: choose_view(quiet=quiet, json_output=json_output), calibrate=calibrate
    )
    if json_output:
        dump({"folder": str(folder), **to_json(result.capacity)})
    else:
        print()
        rows = [tier_row(name, tier) for name, tier in result.capacity.tiers.items()]
        print_table("", TIER_COLUMNS, rows)
        print("\n".join(map(str, result.paths or (folder,))))
    for message in result.messages:
        print(message, file=sys.stderr)
    return result.exit_code
