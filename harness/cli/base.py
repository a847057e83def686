"""The application, what its commands share, and how errors become exit codes."""

import inspect
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
from harness.cli.console import output_lost
from harness.cli.help import Command, Group, examples, lines
from harness.core.errors import EXIT_MEANINGS, ExitCode, HarnessError

if TYPE_CHECKING:
    from harness.artifacts.run_summary import Summary
    from harness.profile.schema import Profile

app = typer.Typer(
    name="harness",
    cls=Group,
    help="Measure LLM inference throughput per GPU, per watt and per dollar.",
    epilog="\n\n".join(
        (
            examples(
                "harness bench --url http://localhost:8000",
                "harness run cpu-smoke",
                "harness compare results/A results/B",
            ),
            (
                "Options can be set in the environment: HARNESS_RUN_OUT is --out of `harness run`."
                " Precedence: defaults < profile < environment < command line."
            ),
            lines(
                "Exit codes (harness explain CODE):",
                *(f"{code.value:3} {meaning}" for code, meaning in EXIT_MEANINGS.items()),
            ),
        )
    ),
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _group(name: str, text: str) -> typer.Typer:
    group = typer.Typer(cls=Group, help=text, no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(group, name=name)
    return group


baseline_app = _group("baseline", "Save runs as a named baseline, and list baselines.")
energy_app = _group("energy", "Show a run's energy breakdown; calibrate power sensors.")
models_app = _group("models", "List built-in models, and add the one with real weights.")
traces_app = _group("traces", "Describe recorded traffic, and convert it to JSON lines.")
quality_app = _group("quality", "Record reference responses for the quality check.")


def add(
    name: str, *, to: typer.Typer = app, shown: Sequence[str] = ()
) -> Callable[[Callable[..., ExitCode | None]], Callable[..., None]]:
    """Register a function as a command whose errors become messages and exit codes.

    Args:
        name: of the command.
        to: its group.
        shown: examples below its help.
    """

    def register(function: Callable[..., ExitCode | None]) -> Callable[..., None]:
        wrapped = command(function)
        to.command(name, cls=Command, epilog=examples(*shown) if shown else None)(wrapped)
        return wrapped

    return register


def named_profile(value: Path | None) -> Path | None:
    """Path of a profile, given as a file or as the name of a ready-made profile."""
    from harness.profile.load import profile_path

    return None if value is None else profile_path(value)


def named_profiles(values: list[Path] | None) -> list[Path] | None:
    """Paths of several profiles, see `named_profile`."""
    return None if values is None else [path for one in values if (path := named_profile(one))]


PROFILE_HELP = "Profile: a YAML file, or a name from `harness profiles`."
ProfilePath = Annotated[
    Path, typer.Argument(metavar="PROFILE", help=PROFILE_HELP, callback=named_profile)
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Profile key to override, such as traffic.load.0.concurrency=32; repeatable.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Errors, warnings and result only.")]
NoCalibrate = Annotated[
    bool,
    typer.Option(
        "--no-calibrate", help="No load generator calibration (the report mentions this)."
    ),
]
CaFile = Annotated[
    Path | None,
    typer.Option(
        "--ca-file",
        metavar="FILE",
        help="PEM file of certificate authorities to trust for https.",
    ),
]
Header = Annotated[
    list[str] | None,
    typer.Option(
        "--header",
        metavar="NAME=VALUE",
        help="Additional header; env:NAME as the value of a secret. Repeatable.",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Tracebacks of errors.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for run directories.")]
Exports = Annotated[
    list[str] | None,
    typer.Option(
        "--export",
        metavar="FORMAT",
        help="Additional output format: csv, parquet, openmetrics or all; repeatable.",
    ),
]
TracePath = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="Trace file, or folder of Claude Code sessions or ServeGen clients."
    ),
]
TraceKind = Annotated[
    str,
    typer.Option(
        "--kind",
        help="Format: auto, claude-code, mooncake, azure, burstgpt, servegen, csv or jsonl.",
    ),
]


def command(function: Callable[..., ExitCode | None]) -> Callable[..., None]:
    """Turn errors into messages on stderr and exit codes. `--debug` or HARNESS_DEBUG=1 adds the
    traceback.
    """

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
        if code is None and output_lost():
            # The output was all that this command was for; a run ends by its verdict.
            raise typer.Exit(1)
        if code:
            raise typer.Exit(int(code))

    # typer reads the signature: the wrapped function's, and --debug.
    signature = inspect.signature(function)
    parameter = inspect.Parameter(
        "debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug
    )
    call.__signature__ = signature.replace(parameters=[*signature.parameters.values(), parameter])  # type: ignore[attr-defined]
    call.__annotations__ = {**function.__annotations__, "debug": Debug}
    return call


def dump(value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Print a JSON value on stdout."""
    json.dump(value, sys.stdout, indent=2, allow_nan=False, ensure_ascii=False)
    print()


def _version(value: bool) -> None:
    if value:
        print(f"harness {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Version of the harness."),
    ] = False,
) -> None:
    """Options of `harness` itself."""


def read_profile(profile: Path, overrides: Sequence[str] | None) -> "Profile":
    """Load a profile with its `--set` arguments."""
    from harness.profile.load import load_profile

    return load_profile(profile, overrides or ())


def key_value(text: str) -> tuple[str, str]:
    """Split KEY=VALUE.

    Raises:
        typer.BadParameter: there is no `=`.
    """
    key, sign, value = text.partition("=")
    if not sign:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE")
    return key, value


def print_result(run: Path, summary: "Summary") -> None:
    """Print verdict, concerns and headline of a run."""
    from harness.commands.display import print_table, print_wide_table
    from harness.core.records import Severity
    from harness.report.terminal import COLUMNS, result

    shown = result(run, summary)
    print()
    print(shown.verdict)
    for concern in shown.concerns:
        print(f"  {concern}")
    doubts = [one.code for one in summary.verdict.concerns if one.severity is not Severity.NOTE]
    if doubts:
        print(f"for an explanation: harness explain {' '.join(dict.fromkeys(doubts))}")
    print()
    if shown.stages is not None:
        table = shown.stages
        print_wide_table(table.caption, table.head, table.rows)
        print()
        print(shown.headline)
        print()
    print_table("", COLUMNS, shown.rows)
    if shown.absent:
        print(shown.absent)
    print()
    for line in shown.paths:
        print(line)
