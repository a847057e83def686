"""The `harness` command: parse arguments, call one function, print, map errors to exit codes.

Nothing is imported at the top that `harness --help` does not need: the rooms are imported inside the commands.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness import __version__
from harness.core.errors import EXIT_MEANINGS, ExitCode, HarnessError

if TYPE_CHECKING:
    from harness.profile.schema import Profile
    from harness.profile.thresholds import Threshold
    from harness.reduce.summary import Summary
    from harness.report.compare_write import Conclusion
    from harness.report.fleet import FleetAnswer

app = typer.Typer(
    name="harness",
    help="Measure what AI inference really delivers per GPU, per watt and per dollar.",
    epilog="Exit codes: " + " · ".join(f"{code.value} {meaning}" for code, meaning in EXIT_MEANINGS.items()),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models_app = typer.Typer(help="Built-in models: list them, add the one with real weights.", no_args_is_help=True)
app.add_typer(models_app, name="models")
traces_app = typer.Typer(help="Recorded traffic: describe a trace, convert it to the plain form.", no_args_is_help=True)
app.add_typer(traces_app, name="traces")
energy_app = typer.Typer(help="Joules of a run in detail; power sensors held against a meter.", no_args_is_help=True)
app.add_typer(energy_app, name="energy")
quality_app = typer.Typer(
    help="Whether a served model's answers are right: record the reference that runs hold them against.", no_args_is_help=True
)
app.add_typer(quality_app, name="quality")

ProfilePath = Annotated[Path, typer.Argument(metavar="PROFILE", help="Profile (YAML).")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key: traffic.load.0.concurrency=32")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Exports = Annotated[
    list[str] | None,
    typer.Option("--export", metavar="FORMAT", help="Write the figures beside it: csv, parquet, openmetrics, all. May be given again."),
]
TracePath = Annotated[Path, typer.Argument(metavar="FILE", help="Trace file, or folder of Claude Code sessions or ServeGen clients.")]
TraceKind = Annotated[
    str, typer.Option("--kind", help="auto, claude-code, mooncake, azure, burstgpt, servegen, or the plain form: csv, jsonl.")
]


def _exit(code: ExitCode) -> None:
    raise typer.Exit(int(code))


def _command(function: Callable[..., ExitCode | None]) -> Callable[..., None]:
    """Map errors to messages on stderr and exit codes. `--debug` (or HARNESS_DEBUG=1) adds the traceback."""

    @wraps(function)
    def call(*args: Any, debug: bool = False, **kwargs: Any) -> None:  # noqa: ANN401 - typer's own signature
        debug = debug or bool(os.environ.get("HARNESS_DEBUG"))
        try:
            code = function(*args, **kwargs)
        except HarnessError as error:
            if debug:
                traceback.print_exc()
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(int(error.exit_code)) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise typer.Exit(int(ExitCode.INTERRUPTED)) from None
        except BrokenPipeError:
            # The reader of stdout went away (`| head`): say nothing, as other commands do.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        if code:
            _exit(code)

    # typer reads the signature: the wrapped function's, and --debug.
    import inspect

    signature = inspect.signature(function)
    parameter = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
    call.__signature__ = signature.replace(parameters=[*signature.parameters.values(), parameter])  # type: ignore[attr-defined]
    call.__annotations__ = {**function.__annotations__, "debug": Debug}
    return call


def _dump(value: Any) -> None:  # noqa: ANN401 - any JSON value
    json.dump(value, sys.stdout, indent=2, allow_nan=False, ensure_ascii=False)
    print()


def _version(value: bool) -> None:
    if value:
        print(f"harness {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Nothing of its own."""


def _load(profile: Path, overrides: Sequence[str] | None) -> "Profile":
    from harness.profile.load import load_profile

    return load_profile(profile, overrides or ())


@app.command("run")
@_command
def run_command(
    profile: ProfilePath,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for run directories.")] = Path("results"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be sent.")] = False,
    json_output: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors, warnings and the result only.")] = False,
    no_calibrate: Annotated[bool, typer.Option("--no-calibrate", help="Hold no certificate of the load generator, and say so.")] = False,
    repeats: Annotated[
        int | None, typer.Option("--repeats", min=1, help="Run it this often, with fresh seeds, into one folder; default: the profile's.")
    ] = None,
) -> ExitCode | None:
    """Start the server, drive the traffic, measure, reduce, report."""
    loaded = _load(profile, overrides)
    if dry_run:
        _print_plan(loaded, json_output=json_output)
        return None
    if (loaded.repeats if repeats is None else repeats) > 1:
        from harness.repeat import load_variants, start_series

        series = start_series(load_variants([profile], tuple(overrides or ())), repeats=repeats, out=out)
        return _repeat(series, quiet=quiet, calibrate=not no_calibrate, json_output=json_output)
    from harness.console import choose_view
    from harness.run import run_profile

    with choose_view(quiet=quiet, json_output=json_output) as view:
        result = run_profile(loaded, out=out, view=view, source=profile, overrides=tuple(overrides or ()), calibrate=not no_calibrate)
    if json_output:
        _dump(result.summary.to_dict())
    else:
        _print_result(result.run_dir, result.summary)
    for message in result.messages:
        print(message, file=sys.stderr)
    return result.exit_code


@app.command("plan")
@_command
def plan_command(profile: ProfilePath, overrides: Overrides = None, json_output: Json = False) -> None:
    """Print what would be sent, when, and how many tokens in all."""
    _print_plan(_load(profile, overrides), json_output=json_output)


def _print_plan(profile: "Profile", *, json_output: bool) -> None:
    from harness.check import describe_plan
    from harness.console import print_table

    described = describe_plan(profile)
    if json_output:
        _dump(described.to_dict())
        return
    for line in described.lines:
        print(line)
    print_table("", described.columns, described.rows)
    for note in described.notes:
        print(f"note: {note}")


@app.command("check")
@_command
def check_command(
    profile: Annotated[Path | None, typer.Argument(metavar="[PROFILE]", help="Profile (YAML).")] = None,
    overrides: Overrides = None,
    system: Annotated[bool, typer.Option("--system", help="Describe this machine: CPU, GPUs, power sources, engines.")] = False,
    start: Annotated[bool, typer.Option("--start", help="Start the server and send one real request of the workload.")] = False,
    json_output: Json = False,
) -> ExitCode | None:
    """Say what is wrong here before an hour is spent."""
    from harness.check import check_profile, describe_system, print_power, survey_power
    from harness.console import print_table

    if profile is None and not system:
        raise typer.BadParameter("give a PROFILE, --system, or both")
    code: ExitCode | None = None
    shown: dict[str, Any] = {}
    if system:
        rows = describe_system()
        shown["system"] = [{"what": what, "finding": finding} for what, finding in rows]
        if not json_output:
            print_table("This machine", ("what", "finding"), rows)
        power = survey_power(None if profile is None else _load(profile, overrides))
        shown["power"] = [source.to_dict() for source in power]
        if not json_output:
            print_power(power)
    if profile is not None:
        findings = check_profile(_load(profile, overrides), start=start)
        shown["findings"] = [finding.to_dict() for finding in findings]
        if any(not finding.ok for finding in findings):
            code = ExitCode.PREFLIGHT
        if not json_output:
            for finding in findings:
                print(finding.line())
    if json_output:
        _dump(shown)
    return code


@app.command("calibrate")
@_command
def calibrate_command(
    profile: Annotated[Path | None, typer.Argument(metavar="[PROFILE]", help="Profile whose load is certified.")] = None,
    overrides: Overrides = None,
    quick: Annotated[bool, typer.Option("--quick", help="Two short levels, some 15 s, in place of four in a minute.")] = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="This many Locust workers only.")] = None,
    gap_ms: Annotated[
        float | None, typer.Option("--gap-ms", min=0.1, help="Between tokens of a stream; default: TPOT target, or 20.")
    ] = None,
    budget_s: Annotated[float | None, typer.Option("--budget-s", min=1, help="Start nothing that would end after this.")] = None,
    bound_ms: Annotated[
        float | None, typer.Option("--bound-ms", min=0.001, help="p99 of every error within which a load is certified; default: 5.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write calibration.json there as well.")] = None,
    json_output: Json = False,
) -> None:
    """Measure what this host's load generator can do, and how wrong its clock is."""
    from harness.artifacts.atomic import write_json
    from harness.console import print_table
    from harness.core.records import Api
    from harness.traffic.calibrate import BOUND_S, LEVEL_COLUMNS, level_row, load_of, make_certificate, standard_load, store

    if profile is None:
        load = standard_load(api=Api.MESSAGES, gap_ms=gap_ms)
    else:
        from harness.models.facts import resolve
        from harness.plan.build import make_plan

        loaded = _load(profile, overrides)
        plan = make_plan(loaded, resolve(loaded.model.id, load_format=loaded.model.load_format))
        load = load_of(loaded, plan, gap_ms=gap_ms)
        workers = workers or (None if loaded.traffic.workers == "auto" else loaded.traffic.workers)
    certificate = make_certificate(
        load,
        workers=workers,
        quick=quick,
        budget_s=budget_s,
        bound_s=bound_ms / 1000 if bound_ms else BOUND_S,
        note=lambda text: print(text, file=sys.stderr),
    )
    # Another bound than the runs' own is a question of its own, and no certificate for them.
    kept = store(certificate, workers=workers) if certificate.bound_s == BOUND_S else certificate.to_dict()
    if out is not None:
        write_json(out, kept)
    if json_output:
        _dump(kept)
        return
    print_table("", LEVEL_COLUMNS, [level_row(level) for level in certificate.levels])
    print(certificate.cores.note)
    print(certificate.sentence())


@app.command("reduce")
@_command
def reduce_command(run: RunPath, exports: Exports = None, json_output: Json = False) -> ExitCode | None:
    """Reduce a run directory again: summary.json from what was recorded."""
    from harness.artifacts.finalize import finalize
    from harness.artifacts.layout import RunDir
    from harness.report.terminal import reduce_and_report

    finalize(RunDir(run))
    summary = reduce_and_report(run, report=False, exports=exports or ())
    if json_output:
        _dump(summary.to_dict())
    else:
        _print_result(run, summary)
    return ExitCode.INVALID_RUN if summary.verdict.status == "invalid" else None


@app.command("report")
@_command
def report_command(
    run: RunPath,
    exports: Exports = None,
    open_page: Annotated[bool, typer.Option("--open", help="Serve the report on loopback and open it.")] = False,
    json_output: Json = False,
) -> None:
    """Write report.html and report.md of a run directory."""
    from harness.artifacts.layout import RunDir
    from harness.report.export import exported_names
    from harness.report.serve import serve_page
    from harness.report.terminal import reduce_and_report

    summary = reduce_and_report(run, report=True, exports=exports or ())
    if json_output:
        _dump(summary.to_dict())
    else:
        for name in ("report.html", "report.md", *exported_names(exports or ())):
            print(run / name)
    if open_page:
        serve_page(RunDir(run).report_html)


AllowMismatch = Annotated[list[str] | None, typer.Option("--allow-mismatch", metavar="KEY", help="Compare although KEY differs.")]
Baseline = Annotated[
    str | None, typer.Option("--baseline", metavar="NAME|PATH", help="Side A: a folder, or a name below results/reference/.")
]
GateFile = Annotated[Path | None, typer.Option("--gate", metavar="FILE", help="YAML list of thresholds; one that fails exits 99.")]
Strict = Annotated[bool, typer.Option("--strict", help="Too few repeats for a gate are a failure as well.")]
Junit = Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Write the gates as JUnit XML.")]
Github = Annotated[bool, typer.Option("--github", help="Print GitHub annotations of the gates, and add the summary to the job's page.")]
SummaryFile = Annotated[Path | None, typer.Option("--summary", metavar="FILE", help="Write a Markdown summary for a pull request.")]
CompareOut = Annotated[
    Path | None, typer.Option("--report", metavar="DIR", help="Write comparison.html, comparison.md and comparison.json there.")
]


@app.command("compare")
@_command
def compare_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run directories, or folders of repeats; the first is the baseline.")],
    allow_mismatch: AllowMismatch = None,
    baseline: Baseline = None,
    group_by: Annotated[
        str | None,
        typer.Option("--group-by", metavar="KEY,…", help="Runs with equal values are one side: gpu, model, engine, precision, …"),
    ] = None,
    gate: GateFile = None,
    strict: Strict = False,
    junit: Junit = None,
    github: Github = False,
    summary: SummaryFile = None,
    report: CompareOut = None,
    sensor_error: Annotated[
        float | None, typer.Option("--sensor-error", min=0, max=1, help="Bound of a board's power sensor error; default: 0.05.")
    ] = None,
    json_output: Json = False,
) -> ExitCode | None:
    """Hold runs or sets of repeats against each other, or say why they cannot be; judge gates."""
    from harness.compare.compare import compare_runs
    from harness.compare.gates import read_gates
    from harness.compare.sides import find_baseline
    from harness.compare.table import BOARD_SENSOR_ERROR
    from harness.report.compare_write import conclude

    comparison = compare_runs(
        runs,
        tuple(allow_mismatch or ()),
        baseline=find_baseline(baseline) if baseline is not None else None,
        group_by=[key.strip() for key in group_by.split(",")] if group_by else (),
        gates=read_gates(gate) if gate is not None else (),
        sensor_error=BOARD_SENSOR_ERROR if sensor_error is None else sensor_error,
    )
    said = conclude(comparison, strict=strict, junit=junit, github=github, summary=summary, report=report)
    return _print_comparison(said, json_output=json_output)


def _print_comparison(said: "Conclusion", *, json_output: bool) -> ExitCode | None:
    if json_output:
        _dump(said.comparison.to_dict())
    else:
        print(said.comparison.to_markdown())
    for line in said.annotations:
        print(line, file=sys.stderr if json_output else sys.stdout)
    for line in said.lines:
        print(line, file=sys.stderr)
    return said.exit_code


@app.command("repeat")
@_command
def repeat_command(
    profiles: Annotated[list[Path] | None, typer.Argument(metavar="PROFILE…", help="Profiles; the first is the baseline.")] = None,
    overrides: Overrides = None,
    repeats: Annotated[
        int | None, typer.Option("--repeats", min=1, help="Runs of each profile; default: the first one's `repeats`.")
    ] = None,
    cooldown: Annotated[str | None, typer.Option("--cooldown", metavar="TIME", help="Pause between runs; default: `cooldown_s`.")] = None,
    resume: Annotated[Path | None, typer.Option("--resume", metavar="DIR", help="Go on with a series that was cut off.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for the series.")] = Path("results"),
    allow_mismatch: AllowMismatch = None,
    baseline: Baseline = None,
    gate: GateFile = None,
    strict: Strict = False,
    junit: Junit = None,
    github: Github = False,
    summary: SummaryFile = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors, warnings and the result only.")] = False,
    no_calibrate: Annotated[bool, typer.Option("--no-calibrate", help="Hold no certificate of the load generator, and say so.")] = False,
    json_output: Json = False,
) -> ExitCode | None:
    """Run profiles several times each in random order, fresh seed and server every time, and compare."""
    from harness.compare.gates import read_gates
    from harness.compare.sides import find_baseline
    from harness.core.units import parse_duration_s
    from harness.repeat import load_variants, start_series

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
        resume = start_series(variants, repeats=repeats, out=out, cooldown_s=pause_s, allow_mismatch=tuple(allow_mismatch or ()))
    return _repeat(
        resume, gates=gates, baseline=against, strict=strict, junit=junit, github=github, summary=summary,
        quiet=quiet, calibrate=not no_calibrate, json_output=json_output,
    )  # fmt: skip


def _repeat(
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
    """Run a series to its end, compare its variants, judge gates."""
    from harness.compare.compare import compare_runs
    from harness.compare.gates import parse_gates
    from harness.console import choose_view
    from harness.repeat import allowed_of, run_series, variants_of
    from harness.report.compare_write import conclude

    variants = variants_of(folder)
    wanted = [*gates, *parse_gates([text for variant in variants for text in variant.profile.thresholds], where=str(folder))]
    alone = baseline is None and len(variants) == 1
    if alone and any(gate.relative for gate in gates):
        raise typer.BadParameter("--gate names a share of a baseline, and there is none: pass --baseline, or a second PROFILE")
    result = run_series(folder, view=lambda: choose_view(quiet=quiet, json_output=json_output), calibrate=calibrate)
    for message in result.messages:
        print(message, file=sys.stderr)
    if result.exit_code is ExitCode.INTERRUPTED:
        return result.exit_code
    judged = list({gate.text: gate for gate in wanted if not (alone and gate.relative)}.values())
    for gate in wanted:
        if gate not in judged and alone:
            print(f"threshold not judged: {gate.text}: there is no baseline (--baseline NAME)", file=sys.stderr)
    comparison = compare_runs([folder], allowed_of(folder), baseline=baseline, gates=judged)
    said = conclude(comparison, strict=strict, junit=junit, github=github, summary=summary, report=folder)
    code = _print_comparison(said, json_output=json_output)
    return result.exit_code or code


@app.command("fleet")
@_command
def fleet_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN… | sites", help="Run directories, or the word sites to list the sites.")],
    site: Annotated[list[str] | None, typer.Option("--site", metavar="NAME|FILE", help="A shipped site, or a YAML file of one.")] = None,
    compare_sites: Annotated[bool, typer.Option("--compare-sites", help="All shipped sites side by side.")] = False,
    scenario: Annotated[list[str] | None, typer.Option("--scenario", help="all, or one by name; may be repeated.")] = None,
    years: Annotated[int, typer.Option("--years", min=0, help="Simulated years; 0 simulates none.")] = 4,
    demand_tok_s: Annotated[float | None, typer.Option("--demand-tok-s", help="Output tokens per second asked at peak.")] = None,
    demand_sessions: Annotated[float | None, typer.Option("--demand-sessions", help="Live sessions asked at peak.")] = None,
    demand_trace: Annotated[Path | None, typer.Option("--demand-trace", metavar="FILE", help="Demand by hour, one number a line.")] = None,
    policy: Annotated[str, typer.Option("--policy", help="For demand beyond capacity: shed, queue or degrade.")] = "shed",
    assume: Annotated[list[str] | None, typer.Option("--assume", metavar="KEY=VALUE", help="Or KEY=LOW:HIGH, in place of a prior.")] = None,
    work: Annotated[list[str] | None, typer.Option("--work", metavar="KEY=VALUE", help="What the site is to serve; else refused.")] = None,
    oversubscribe: Annotated[float, typer.Option("--oversubscribe", help="Share of GPUs powered beyond the cap's provision.")] = 0.0,
    limits: Annotated[list[Path] | None, typer.Option("--limits", metavar="RUN", help="The same work at another power limit.")] = None,
    loads: Annotated[list[Path] | None, typer.Option("--loads", metavar="RUN", help="The same work at another load.")] = None,
    replicas: Annotated[list[Path] | None, typer.Option("--replicas", metavar="RUN", help="The same work on two or more replicas.")] = None,
    modelled: Annotated[
        str | None, typer.Option("--modelled", metavar="RATIO", help="From the run's GPU to the site's: table, aiconfigurator, X or X:Y.")
    ] = None,
    modelled_source: Annotated[str | None, typer.Option("--modelled-source", help="Who says so.")] = None,
    demonstrate: Annotated[bool, typer.Option("--demonstrate", help="Take a run on a test double; every page says so.")] = False,
    draws: Annotated[int, typer.Option("--draws", min=1, help="Monte Carlo draws.")] = 10_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of all draws.")] = 0,
    processes: Annotated[int, typer.Option("--processes", min=1, help="For simulated years and scenarios.")] = 1,
    ray_address: Annotated[str | None, typer.Option("--ray-address", help="Of a Ray cluster for them; local starts one.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="For fleet.html, .md and .json; default: RUN/fleet.")] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Serve the page on loopback and open it.")] = False,
    json_output: Json = False,
) -> None:
    """From a measured run to what a site of many GPUs would deliver, draw and cost, with error bars, over years and in scenarios."""
    if [str(run) for run in runs] == ["sites"] and not runs[0].exists():
        _print_sites(json_output=json_output)
        return
    from harness.fleet.estimate import Options
    from harness.fleet.forecast import TimeOptions, policy_of
    from harness.report.fleet import FleetRequest, fleet
    from harness.report.fleet_write import fleet_json, write_fleet
    from harness.report.serve import serve_page

    time = TimeOptions(
        years=max(years, 1), scenarios=tuple(scenario or ()), policy=policy_of(policy), demand_trace=demand_trace, processes=processes,
        ray_address=ray_address, seed=seed,
    )  # fmt: skip
    options = Options(
        draws=draws, seed=seed, assume=tuple(assume or ()), work=dict(_key_value(item) for item in work or ()), demand_tok_s=demand_tok_s,
        demand_sessions=demand_sessions, oversubscribe=oversubscribe, limits=tuple(limits or ()), loads=tuple(loads or ()),
        replicas=tuple(replicas or ()), demonstrate=demonstrate,
    )  # fmt: skip
    over_time = time if years or scenario else None
    sites = tuple(site or ("colossus-1",))
    answer = fleet(FleetRequest(tuple(runs), sites, compare_sites, options, over_time, modelled, modelled_source))
    paths = write_fleet(answer.cases, answer.refused, out or runs[0] / "fleet")
    if json_output:
        _dump(fleet_json(answer.cases, answer.refused))
    else:
        _print_fleet(answer)
        for path in paths:
            print(path)
    if open_page:
        serve_page(paths[0])


def _print_sites(*, json_output: bool) -> None:
    from harness.console import print_table
    from harness.fleet.catalog import SITE_COLUMNS, contradictions, list_sites

    sites = list_sites()
    if json_output:
        _dump([{**known.to_dict(), "contradictions": list(contradictions(known))} for known in sites])
        return
    print_table("", SITE_COLUMNS, [known.row() for known in sites])
    for known in sites:
        for line in contradictions(known):
            print(f"{known.name}: {line}")


def _print_fleet(answer: "FleetAnswer") -> None:
    from harness.console import print_table

    for case in answer.cases:
        e = case.estimate
        print_table(f"{e.site.name} as {e.run_name} would serve it", e.columns(), e.rows())
        print()
    first = answer.cases[0]
    columns, rows = first.estimate.waterfall_columns()[:-1], [row[:-1] for row in first.estimate.waterfall_rows()]
    print_table("From the measured number to the site's (sources: see the report)", columns, rows)
    if first.forecast is not None and first.forecast.scenarios:
        print()
        print_table("Scenarios", first.forecast.columns(), first.forecast.rows())
    for line in dict.fromkeys(line for case in answer.cases for line in (*case.estimate.contradictions, *case.estimate.flags)):
        print(f"note: {line}")
    for refusal in answer.refused:
        print(f"refused: {refusal.site} from {refusal.run}: {refusal.why}")


def _key_value(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign:
        raise typer.BadParameter(f"{text!r}: write KEY=VALUE")
    return key, value


@app.command("results")
@_command
def results_command(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Folder of run directories.")] = Path("results"),
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", metavar="KEY=VALUE", help="Only runs like this: verdict=valid, model=*llama*, gpu=*H100*; repeat for several."
        ),
    ] = None,
    sort: Annotated[str, typer.Option("--sort", metavar="KEY", help="By this key; -KEY for the largest first.")] = "run",
    json_output: Json = False,
) -> None:
    """List runs with their verdicts and headlines."""
    from harness.console import print_table
    from harness.report.results import LIST_COLUMNS, list_results, list_row, selected

    rows = selected(list_results(folder), dict(_key_value(item) for item in where or ()), sort)
    if json_output:
        _dump(rows)
    else:
        print_table("", LIST_COLUMNS, [list_row(row) for row in rows])


def _print_result(run: Path, summary: "Summary") -> None:
    from harness.console import print_table
    from harness.report.terminal import COLUMNS, result

    shown = result(run, summary)
    print()
    print(shown.verdict)
    for concern in shown.concerns:
        print(f"  {concern}")
    print()
    print_table("", COLUMNS, shown.rows)
    if shown.absent:
        print(shown.absent)
    print()
    for line in shown.paths:
        print(line)


@models_app.command("list")
@_command
def models_list(json_output: Json = False) -> None:
    """Built-in models and whether they are made."""
    from harness.models.facts import available

    rows = [
        {"model": model.model_id, "state": "made" if model.cached else model.add_command or "made at first use", "what": model.summary}
        for model in available()
    ]
    if json_output:
        _dump(rows)
    else:
        from harness.console import print_table

        print_table("", ("model", "state", "what it is"), [tuple(map(str, row.values())) for row in rows])


@models_app.command("add")
@_command
def models_add(name: Annotated[str, typer.Argument(help="smollm2")]) -> None:
    """Install and convert a built-in model's weights."""
    from harness.models.facts import add_smollm2

    if name not in ("smollm2", "builtin:smollm2-135m"):
        raise typer.BadParameter(f"{name!r} cannot be added; smollm2 can")
    facts = add_smollm2()
    print(f"{facts.model_id}: {facts.path}")


@quality_app.command("record")
@_command
def quality_record(
    profile: ProfilePath,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to; default: quality.reference of the profile.")] = None,
    json_output: Json = False,
) -> None:
    """Start the server, ask the check's texts, store the answers as the reference."""
    from harness.check import record_quality

    path = record_quality(_load(profile, overrides), out, lambda text: print(text, file=sys.stderr))
    if json_output:
        _dump({"reference": str(path)})
    else:
        print(path)


@traces_app.command("describe")
@_command
def traces_describe(trace: TracePath, kind: TraceKind = "auto", json_output: Json = False) -> None:
    """Print what is in a trace: counts, lengths, arrivals, sessions, ideal prefix hit."""
    from harness.console import print_table
    from harness.plan.traces import describe_trace

    described = describe_trace(trace, kind)
    if json_output:
        _dump(described.to_dict())
        return
    print(trace)
    print_table("", ("figure", "value"), described.facts())
    print_table("", described.columns, described.rows())
    for note in described.notes:
        print(f"note: {note}")


@traces_app.command("convert")
@_command
def traces_convert(
    trace: TracePath,
    out: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="File to write; must not exist.")],
    kind: TraceKind = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Of the draw, for a trace of distributions (ServeGen).")] = 0,
    json_output: Json = False,
) -> None:
    """Write a trace in the plain form, JSON lines."""
    from harness.plan.traces import convert_trace

    written = convert_trace(trace, out, kind, seed=seed)
    if json_output:
        _dump({"out": str(out), "requests": written})
    else:
        print(f"{out}: {written:,} requests")


@energy_app.command("show")
@_command
def energy_show(run: RunPath, json_output: Json = False) -> None:
    """Print a run's joules: boundaries, ladder, idle, attribution, classes, boards."""
    from harness.console import print_table
    from harness.reduce.energy_text import energy_tables
    from harness.reduce.reduction import reduce_run

    energy = reduce_run(run).energy
    if json_output:
        _dump(energy)
        return
    for table in energy_tables(energy):
        print_table(table.title, table.columns, table.rows)
        print()
    reason = energy["attribution"]["reason"]
    if reason is not None:
        print(f"no attribution of joules to input and output: {reason}")


@energy_app.command("calibrate")
@_command
def energy_calibrate(
    run: RunPath,
    meter: Annotated[Path, typer.Option("--meter", metavar="CSV", help="The meter's readings during that run: time, power_w.")],
    accuracy: Annotated[float, typer.Option("--accuracy", help="Of the meter, as a ratio: 0.005 is half a percent.")],
    device: Annotated[str | None, typer.Option("--device", metavar="UUID", help="The board, where the run had several.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the meter.")] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write, for energy.calibration.")] = Path(
        "meter-calibration.json"
    ),
    json_output: Json = False,
) -> None:
    """Hold a board's power sensor against a meter; the result replaces the default error of its joules."""
    from harness.artifacts.atomic import write_json
    from harness.reduce.energy_calibrate import calibrate

    found = calibrate(run, meter, accuracy=accuracy, device=device, name=name, into=out)
    write_json(out, found.document)
    if json_output:
        _dump(found.document)
        return
    print(found.sentence())
    print(f"{out}: name it as energy.calibration in the profile")


def main() -> None:
    """Entry point of the `harness` command."""
    app()
