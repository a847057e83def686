"""Commands about recorded traffic."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.base import Json, TraceKind, TracePath, command, dump, traces_app


@traces_app.command("describe")
@command
def traces_describe(trace: TracePath, kind: TraceKind = "auto", json_output: Json = False) -> None:
    """Print what is in a trace: counts, lengths, arrivals, sessions, ideal prefix hit."""
    from harness.commands.display import print_table
    from harness.plan.traces import describe_trace

    described = describe_trace(trace, kind)
    if json_output:
        dump(described.to_dict())
        return
    print(trace)
    print_table("", ("figure", "value"), described.facts())
    print_table("", described.columns, described.rows())
    for note in described.notes:
        print(f"note: {note}")


@traces_app.command("convert")
@command
def traces_convert(
    trace: TracePath,
    out: Annotated[
        Path, typer.Argument(metavar="OUT.jsonl", help="File to write; must not exist.")
    ],
    kind: TraceKind = "auto",
    seed: Annotated[
        int, typer.Option("--seed", help="Of the draw, for a trace of distributions (ServeGen).")
    ] = 0,
    json_output: Json = False,
) -> None:
    """Write a trace in the plain form, JSON lines."""
    from harness.plan.traces import convert_trace

    written = convert_trace(trace, out, kind, seed=seed)
    if json_output:
        dump({"out": str(out), "requests": written})
    else:
        print(f"{out}: {written:,} requests")
