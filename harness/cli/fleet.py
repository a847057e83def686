"""The command that goes from a run to a site."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.base import Json, app, command, dump, key_value

if TYPE_CHECKING:
    from harness.fleet.cases import FleetAnswer
    from harness.report.fleet.view import FleetView


@app.command("fleet")
@command
def fleet_command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN… | sites", help="Run directories, or the word sites to list the sites."
        ),
    ],
    site: Annotated[
        list[str] | None,
        typer.Option("--site", metavar="NAME|FILE", help="A shipped site, or a YAML file of one."),
    ] = None,
    compare_sites: Annotated[
        bool, typer.Option("--compare-sites", help="All shipped sites side by side.")
    ] = False,
    scenario: Annotated[
        list[str] | None, typer.Option("--scenario", help="all, or one by name; may be repeated.")
    ] = None,
    years: Annotated[
        int, typer.Option("--years", min=0, max=500, help="Simulated years; 0 simulates none.")
    ] = 4,
    demand_tok_s: Annotated[
        float | None, typer.Option("--demand-tok-s", help="Output tokens per second asked at peak.")
    ] = None,
    demand_sessions: Annotated[
        float | None, typer.Option("--demand-sessions", help="Live sessions asked at peak.")
    ] = None,
    demand_trace: Annotated[
        Path | None,
        typer.Option("--demand-trace", metavar="FILE", help="Demand by hour, one number a line."),
    ] = None,
    policy: Annotated[
        str, typer.Option("--policy", help="For demand beyond capacity: shed, queue or degrade.")
    ] = "shed",
    assume: Annotated[
        list[str] | None,
        typer.Option("--assume", metavar="KEY=VALUE", help="Or KEY=LOW:HIGH, in place of a prior."),
    ] = None,
    work: Annotated[
        list[str] | None,
        typer.Option(
            "--work", metavar="KEY=VALUE", help="What the site is to serve; else refused."
        ),
    ] = None,
    oversubscribe: Annotated[
        float,
        typer.Option("--oversubscribe", help="Share of GPUs powered beyond the cap's provision."),
    ] = 0.0,
    limits: Annotated[
        list[Path] | None,
        typer.Option("--limits", metavar="RUN", help="The same work at another power limit."),
    ] = None,
    loads: Annotated[
        list[Path] | None,
        typer.Option("--loads", metavar="RUN", help="The same work at another load."),
    ] = None,
    replicas: Annotated[
        list[Path] | None,
        typer.Option("--replicas", metavar="RUN", help="The same work on two or more replicas."),
    ] = None,
    modelled: Annotated[
        str | None,
        typer.Option(
            "--modelled",
            metavar="RATIO",
            help="From the run's GPU to the site's: table, aiconfigurator, X or X:Y.",
        ),
    ] = None,
    modelled_source: Annotated[
        str | None, typer.Option("--modelled-source", help="Who says so.")
    ] = None,
    demonstrate: Annotated[
        bool, typer.Option("--demonstrate", help="Take a run on a test double; every page says so.")
    ] = False,
    draws: Annotated[int, typer.Option("--draws", min=1, help="Monte Carlo draws.")] = 10_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of all draws.")] = 0,
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="For simulated years and scenarios.")
    ] = 1,
    ray_address: Annotated[
        str | None,
        typer.Option("--ray-address", help="Of a Ray cluster for them; local starts one."),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of",
            metavar="YYYY-MM-DD",
            help="The day on which the site is asked; default: the day of the run.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FOLDER", help="For fleet.html, .md and .json; default: RUN/fleet."
        ),
    ] = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="Serve the page on loopback and open it.")
    ] = False,
    json_output: Json = False,
) -> None:
    """From a measured run to what a site of many GPUs would deliver, draw and cost, with error
    bars, over years and in scenarios.
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
    from harness.fleet.site.catalog import SITE_COLUMNS, contradictions, list_sites

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
    """What the page tells, in short: what it delivers, draws and costs and how sure that is, then
    reasons to doubt it, then the figures.
    """
    from harness.commands.display import print_table

    print(f"{shown.title} ({shown.badge})")
    print(shown.lead)
    print(f"as of {answer.cases[0].estimate.as_of.text()}")
    for line in shown.sure:
        print(f"  {line}")
    for flag in (*shown.flags, *shown.notes):
        print(f"doubt: {flag}")
    first, *rest = [
        table
        for table in (shown.figures, shown.waterfall, *shown.time[:1], shown.scenarios)
        if table is not None
    ]
    tables = [first] if shown.side_by_side is None else [shown.side_by_side, first]
    for table in (*tables, *rest):
        print()
        # Sources and boundaries fill a page, not a terminal.
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
        print(f"published figures disagree: {line}")
    for refusal in answer.refused:
        print(f"refused: {refusal.site} from {refusal.run}: {refusal.why}")
