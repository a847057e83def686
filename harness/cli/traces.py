"""Commands about recorded traffic."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.base import Json, TraceKind, TracePath, add, dump, traces_app


@add("describe", to=traces_app, shown=("harness traces describe trace.jsonl --kind mooncake",))
def traces_describe(trace: TracePath, kind: TraceKind = "auto", json_output: Json = False) -> None:
    """Print a trace's counts, lengths, arrivals and sessions."""
    from harness.commands.display import print_table
    from harness.plan.traces import describe_trace

    described = describe_trace(trace, kind)
    if json_output:
        dump(described.to_dict())
        return
    print(trace)
    print_table("", ("metric", "value"), described.facts())
    print_table("", described.columns, described.rows())
    for note in described.notes:
        print(f"note: {note}")


@add("convert", to=traces_app, shown=("harness traces convert trace.csv out.jsonl --kind azure",))
def traces_convert(
    trace: TracePath,
    out: Annotated[
        Path, typer.Argument(metavar="OUT.jsonl", help="File to write; must not exist.")
    ],
    kind: TraceKind = "auto",
    seed: Annotated[
        int, typer.Option("--seed", help="Random seed, for a trace of distributions (ServeGen).")
    ] = 0,
    json_output: Json = False,
) -> None:
    """Convert a trace to JSON lines."""
    from harness.plan.traces import convert_trace

    written = convert_trace(trace, out, kind, seed=seed)
    if json_output:
        dump({"out": str(out), "requests": written})
    else:
        print(f"{out}: {written:,} requests")
