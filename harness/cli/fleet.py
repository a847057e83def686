"""`harness fleet`: from measured runs to a site."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.base import Json, add, dump, key_value

if TYPE_CHECKING:
    from harness.fleet.cases import FleetAnswer
    from harness.report.fleet.view import FleetView


@add(
    "fleet",
    shown=(
        "harness fleet results/RUN --site colossus-1",
        "harness fleet results/SWEEP --site colossus-1",
        "harness fleet sites",
    ),
)
def fleet_command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|sites",
            help="Run directories, or folders of sweeps; `sites` lists the known sites.",
        ),
    ],
    site: Annotated[
        list[str] | None,
        typer.Option(
            "--site",
            metavar="NAME|FILE",
            help="Name from `harness fleet sites`, or a YAML file; repeatable.",
        ),
    ] = None,
    compare_sites: Annotated[
        bool, typer.Option("--compare-sites", help="All known sites side by side.")
    ] = False,
    scenario: Annotated[
        list[str] | None, typer.Option("--scenario", help="Name of a scenario, or all; repeatable.")
    ] = None,
    years: Annotated[
        int, typer.Option("--years", min=0, max=500, help="Simulated years; 0 for no simulation.")
    ] = 4,
    demand_tok_s: Annotated[
        float | None, typer.Option("--demand-tok-s", help="Peak demand in output tokens/s.")
    ] = None,
    demand_sessions: Annotated[
        float | None, typer.Option("--demand-sessions", help="Peak demand in live sessions.")
    ] = None,
    demand_trace: Annotated[
        Path | None,
        typer.Option(
            "--demand-trace", metavar="FILE", help="Demand per hour, one number per line."
        ),
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            "--policy", help="Handling of demand beyond capacity: shed, queue or degrade."
        ),
    ] = "shed",
    assume: Annotated[
        list[str] | None,
        typer.Option(
            "--assume",
            metavar="KEY=VALUE",
            help="Value of an assumption, or KEY=LOW:HIGH; repeatable.",
        ),
    ] = None,
    work: Annotated[
        list[str] | None,
        typer.Option(
            "--work",
            metavar="KEY=VALUE",
            help="Workload of the site; a run of another one is refused.",
        ),
    ] = None,
    oversubscribe: Annotated[
        float,
        typer.Option("--oversubscribe", help="Share of GPUs beyond the provisioned power."),
    ] = 0.0,
    limits: Annotated[
        list[Path] | None,
        typer.Option(
            "--limits",
            metavar="RUN",
            help="Run of the same workload at another power limit; repeatable.",
        ),
    ] = None,
    loads: Annotated[
        list[Path] | None,
        typer.Option(
            "--loads", metavar="RUN", help="Run of the same workload at another load; repeatable."
        ),
    ] = None,
    replicas: Annotated[
        list[Path] | None,
        typer.Option(
            "--replicas",
            metavar="RUN",
            help="Run of the same workload on several replicas; repeatable.",
        ),
    ] = None,
    modelled: Annotated[
        str | None,
        typer.Option(
            "--modelled",
            metavar="RATIO",
            help="Throughput ratio, site's GPU to the run's: table, aiconfigurator, X or LOW:HIGH.",
        ),
    ] = None,
    modelled_source: Annotated[
        str | None,
        typer.Option("--modelled-source", help="Source of the ratio given to --modelled."),
    ] = None,
    min_attainment: Annotated[
        float,
        typer.Option(
            "--min-attainment",
            metavar="SHARE",
            help="Smallest share of the run's requests that must meet every SLO.",
        ),
    ] = 0.9,
    demonstrate: Annotated[
        bool,
        typer.Option("--demonstrate", help="Simulated hardware allowed, and marked on every page."),
    ] = False,
    draws: Annotated[int, typer.Option("--draws", min=1, help="Monte Carlo draws.")] = 10_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed.")] = 0,
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="Worker processes for the simulation.")
    ] = 1,
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address", help="Address of a Ray cluster for the simulation; local starts one."
        ),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of",
            metavar="YYYY-MM-DD",
            help="Date of the estimate; default: the date of the run.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help="Folder for fleet.html, .md and .json; default: RUN/fleet.",
        ),
    ] = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="The page in a browser, served on loopback.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Estimate a site's throughput, power and cost from runs.

    Estimates have error bars, and cover years and scenarios. Of a sweep, the best point is scaled,
    and its neighbors replace assumptions, as with --loads, --limits and --replicas.
    """
    if [str(run) for run in runs] == ["sites"] and not runs[0].exists():
        _print_sites(json_output=json_output)
        return
    from harness.commands.fleet import FleetRequest, fleet
    from harness.fleet.estimate.estimate import Options, parse_day
    from harness.fleet.over_time.forecast import TimeOptions, policy_of
    from harness.report.fleet.view import fleet_view
    from harness.report.fleet.write import write_fleet
    from harness.report.serve import serve_page

    time = TimeOptions(
        years=max(years, 1),
        scenarios=tuple(scenario or ()),
        policy=policy_of(policy),
        demand_trace=demand_trace,
        processes=processes,
        ray_address=ray_address,
        seed=seed,
    )
    options = Options(
        draws=draws,
        seed=seed,
        assume=tuple(assume or ()),
        work=dict(key_value(item) for item in work or ()),
        demand_tok_s=demand_tok_s,
        demand_sessions=demand_sessions,
        oversubscribe=oversubscribe,
        limits=tuple(limits or ()),
        loads=tuple(loads or ()),
        replicas=tuple(replicas or ()),
        demonstrate=demonstrate,
        min_attainment=min_attainment,
        as_of=None if as_of is None else parse_day(as_of),
    )
    over_time = time if years or scenario else None
    sites = tuple(site or ("colossus-1",))
    answer = fleet(
        FleetRequest(
            tuple(runs), sites, compare_sites, options, over_time, modelled, modelled_source
        )
    )
    shown = fleet_view(answer)
    paths = write_fleet(answer, shown, out or runs[0] / "fleet")
    if json_output:
        dump(answer.to_dict())
    else:
        _print_fleet(answer, shown)
        for path in paths:
            print(path)
    if open_page:
        serve_page(paths[0])


def _print_sites(*, json_output: bool) -> None:
    from harness.commands.display import print_table
    from harness.fleet.site.catalog import contradictions, list_sites
    from harness.fleet.site.types import SITE_COLUMNS

    sites = list_sites()
    if json_output:
        dump(
            [{**known.to_dict(), "contradictions": list(contradictions(known))} for known in sites]
        )
        return
    print_table("", SITE_COLUMNS, [known.row() for known in sites])
    for known in sites:
        for line in contradictions(known):
            print(f"{known.name}: {line}")


def _print_fleet(answer: "FleetAnswer", shown: "FleetView") -> None:
    """Print the page's lead and uncertainty, then concerns, then its tables."""
    from harness.commands.display import print_table

    print(f"{shown.title} ({shown.badge})")
    print(shown.lead)
    print(f"as of {answer.cases[0].estimate.as_of.text()}")
    for line in shown.sure:
        print(f"  {line}")
    for flag in (*shown.flags, *shown.notes):
        print(f"concern: {flag}")
    first, *rest = [
        table
        for table in (shown.metrics, shown.waterfall, *shown.time[:1], shown.scenarios)
        if table is not None
    ]
    tables = [first] if shown.side_by_side is None else [shown.side_by_side, first]
    for table in (*tables, *rest):
        print()
        # Sources and boundaries need the width of a page.
        kept = [n for n, name in enumerate(table.head) if name not in {"Boundary", "P50", "Source"}]
        print_table(
            table.caption,
            [table.head[n] for n in kept],
            [[row[n] for n in kept] for row in table.rows],
        )
    if shown.time_lead:
        print(f"\n{shown.time_lead}")
    print()
    for title, why in shown.absent:
        print(f"absent: {title}: {why}")
    for line in shown.contradictions:
        print(f"published values disagree: {line}")
    for refusal in answer.refused:
        print(f"refused: {refusal.site} from {refusal.run}: {refusal.why}")
