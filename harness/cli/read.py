"""Commands that read run directories."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.base import (
    Exports,
    Json,
    RunPath,
    add,
    dump,
    energy_app,
    key_value,
    print_result,
)
from harness.core.errors import ExitCode

if TYPE_CHECKING:
    from harness.report.sweep.write import SweepReport


@add("reduce", shown=("harness reduce results/RUN --export parquet",))
def reduce_command(
    run: RunPath, exports: Exports = None, json_output: Json = False
) -> ExitCode | None:
    """Recompute summary.json from the records of a run."""
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


@add("report", shown=("harness report results/RUN --open", "harness report results/SWEEP"))
def report_command(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run directory, or folder of a sweep.")
    ],
    exports: Exports = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="The report in a browser, served on loopback.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Write the report of a run or of a sweep.

    A run gets report.html and report.md; a sweep gets sweep.html, sweep.md, points.csv,
    points.parquet, frontier.json and best.yaml.
    """
    from harness.artifacts.layout import RunDir
    from harness.artifacts.run_summary import summary_json
    from harness.artifacts.sweep.index import is_sweep
    from harness.report.export import exported_names
    from harness.report.serve import serve_page
    from harness.report.terminal import reduce_and_report

    if is_sweep(run):
        if exports:
            raise typer.BadParameter("--export is for runs: a sweep always has CSV and Parquet")
        page = _report_sweep(run, json_output=json_output)
    else:
        summary = reduce_and_report(run, report=True, exports=exports or ())
        page = RunDir(run).report_html
        if json_output:
            dump(summary_json(summary))
        else:
            for name in ("report.html", "report.md", *exported_names(exports or ())):
                print(run / name)
    if open_page:
        serve_page(page)


def _report_sweep(folder: Path, *, json_output: bool) -> Path:
    from harness.artifacts.typed_json import to_json
    from harness.report.sweep.write import write_sweep_report
    from harness.sweeps.frontier import frontier_file

    report = write_sweep_report(folder)
    if json_output:
        dump(to_json(frontier_file(report.sweep)))
    else:
        print_sweep(report)
    return report.paths[0]


def print_sweep(report: "SweepReport") -> None:
    """Print a sweep's sentences and tables, then the written files."""
    from harness.commands.display import print_table

    for line in report.view.lead:
        print(line)
    for table in (
        report.view.tiers,
        report.view.points,
        report.view.peaks,
        report.view.left_out,
    ):
        if table is not None:
            print()
            print_table(table.caption, table.head, table.rows)
    print()
    for path in report.paths:
        print(path)


@add(
    "results",
    shown=("harness results --where verdict=valid --where 'gpu=*H100*' --sort -output_tok_s",),
)
def results_command(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of run directories.")
    ] = Path("results"),
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="KEY=VALUE",
            help=("Filter such as verdict=valid, model=*llama* or gpu=*H100*; repeatable."),
        ),
    ] = None,
    sort: Annotated[
        str, typer.Option("--sort", metavar="KEY", help="Sort key; -KEY for descending order.")
    ] = "run",
    json_output: Json = False,
) -> None:
    """List runs with their verdicts and headline metrics."""
    from harness.commands.display import print_table
    from harness.report.list_runs import LIST_COLUMNS, list_results, list_row, selected

    rows = selected(list_results(folder), dict(key_value(item) for item in where or ()), sort)
    if json_output:
        dump(rows)
    else:
        print_table("", LIST_COLUMNS, [list_row(row) for row in rows])


@add("show", to=energy_app, shown=("harness energy show results/RUN",))
def energy_show(run: RunPath, json_output: Json = False) -> None:
    """Print a run's energy breakdown by boundary, phase and GPU."""
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


@add(
    "calibrate",
    to=energy_app,
    shown=("harness energy calibrate results/RUN --meter pdu.csv --accuracy 0.005",),
)
def energy_calibrate(
    run: RunPath,
    meter: Annotated[
        Path,
        typer.Option(
            "--meter",
            metavar="CSV",
            help="Readings of the reference meter during the run: time, power_w.",
        ),
    ],
    accuracy: Annotated[
        float, typer.Option("--accuracy", help="Accuracy of the meter, as a ratio: 0.005 is 0.5%.")
    ],
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="UUID", help="GPU to calibrate, if the run had several."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the meter.")] = None,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE", help="Calibration file, for energy.calibration."),
    ] = Path("meter-calibration.json"),
    json_output: Json = False,
) -> None:
    """Calibrate a GPU's power sensor against an external meter.

    The result replaces the sensor's default error in later runs.
    """
    from harness.artifacts.atomic import write_json
    from harness.reduce.energy.calibrate import calibrate

    found = calibrate(run, meter, accuracy=accuracy, device=device, name=name, into=out)
    write_json(out, found.document)
    if json_output:
        dump(found.document)
        return
    print(found.sentence())
    print(f"{out}: set energy.calibration in the profile to this file")
