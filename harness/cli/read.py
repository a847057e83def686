"""Commands that read run directories."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.base import (
    Exports,
    Json,
    RunPath,
    app,
    command,
    dump,
    energy_app,
    key_value,
    print_result,
)
from harness.core.errors import ExitCode


@app.command("reduce")
@command
def reduce_command(
    run: RunPath, exports: Exports = None, json_output: Json = False
) -> ExitCode | None:
    """Reduce a run directory again: summary.json from what was recorded."""
    from harness.artifacts.finalize import finalize
    from harness.artifacts.layout import RunDir
    from harness.artifacts.run_summary import summary_json
    from harness.report.terminal import reduce_and_report

    finalize(RunDir(run))
    summary = reduce_and_report(run, report=False, exports=exports or ())
    if json_output:
        dump(summary_json(summary))
    else:
        print_result(run, summary)
    return ExitCode.INVALID_RUN if summary.verdict.status == "invalid" else None


@app.command("report")
@command
def report_command(
    run: RunPath,
    exports: Exports = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="Serve the report on loopback and open it.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Write report.html and report.md of a run directory."""
    from harness.artifacts.layout import RunDir
    from harness.artifacts.run_summary import summary_json
    from harness.report.export import exported_names
    from harness.report.serve import serve_page
    from harness.report.terminal import reduce_and_report

    summary = reduce_and_report(run, report=True, exports=exports or ())
    if json_output:
        dump(summary_json(summary))
    else:
        for name in ("report.html", "report.md", *exported_names(exports or ())):
            print(run / name)
    if open_page:
        serve_page(RunDir(run).report_html)


@app.command("results")
@command
def results_command(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Folder of run directories.")
    ] = Path("results"),
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="KEY=VALUE",
            help=(
                "Only runs like this: verdict=valid, model=*llama*, gpu=*H100*; repeat for several."
            ),
        ),
    ] = None,
    sort: Annotated[
        str, typer.Option("--sort", metavar="KEY", help="By this key; -KEY for the largest first.")
    ] = "run",
    json_output: Json = False,
) -> None:
    """List runs with their verdicts and headlines."""
    from harness.commands.display import print_table
    from harness.report.list_runs import LIST_COLUMNS, list_results, list_row, selected

    rows = selected(list_results(folder), dict(key_value(item) for item in where or ()), sort)
    if json_output:
        dump(rows)
    else:
        print_table("", LIST_COLUMNS, [list_row(row) for row in rows])


@energy_app.command("show")
@command
def energy_show(run: RunPath, json_output: Json = False) -> None:
    """Print a run's joules: boundaries, ladder, idle, attribution, classes, boards."""
    from harness.artifacts.run_summary import summary_json
    from harness.commands.display import print_table
    from harness.reduce.reduction import reduce_run
    from harness.report.run.energy import energy_absent, energy_view

    summary = reduce_run(run)
    if json_output:
        dump(summary_json(summary)["energy"])
        return
    shown = energy_view(summary.energy)
    if shown is None:
        print(energy_absent(summary))
        return
    for table in shown.tables:
        print_table(table.caption, table.head, table.rows)
        print()
    for note in shown.notes:
        print(note)


@energy_app.command("calibrate")
@command
def energy_calibrate(
    run: RunPath,
    meter: Annotated[
        Path,
        typer.Option(
            "--meter", metavar="CSV", help="The meter's readings during that run: time, power_w."
        ),
    ],
    accuracy: Annotated[
        float, typer.Option("--accuracy", help="Of the meter, as a ratio: 0.005 is half a percent.")
    ],
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="UUID", help="The board, where the run had several."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the meter.")] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="File to write, for energy.calibration.")
    ] = Path("meter-calibration.json"),
    json_output: Json = False,
) -> None:
    """Hold a board's power sensor against a meter; the result replaces the default error of its
    joules.
    """
    from harness.artifacts.atomic import write_json
    from harness.reduce.energy.calibrate import calibrate

    found = calibrate(run, meter, accuracy=accuracy, device=device, name=name, into=out)
    write_json(out, found.document)
    if json_output:
        dump(found.document)
        return
    print(found.sentence())
    print(f"{out}: name it as energy.calibration in the profile")
