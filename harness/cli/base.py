"""The application, what its commands share, and how errors become exit codes."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from harness import __version__
from harness.core.errors import EXIT_MEANINGS, ExitCode, HarnessError

if TYPE_CHECKING:
    from harness.artifacts.run_summary import Summary
    from harness.profile.schema import Profile

ORDER = (
    "run",
    "plan",
    "check",
    "calibrate",
    "reduce",
    "report",
    "compare",
    "repeat",
    "baseline",
    "fleet",
    "results",
    "models",
    "traces",
    "energy",
    "quality",
)
"""Commands as `harness --help` lists them; their modules add them in another."""


class _Ordered(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 - typer's own context
        """Names in the order of reading; any that is not in it comes last."""
        return sorted(
            super().list_commands(ctx),
            key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER),
        )


app = typer.Typer(
    name="harness",
    cls=_Ordered,
    help="Measure what AI inference really delivers per GPU, per watt and per dollar.",
    epilog="Exit codes: "
    + " · ".join(f"{code.value} {meaning}" for code, meaning in EXIT_MEANINGS.items()),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models_app = typer.Typer(
    help="Built-in models: list them, add the one with real weights.", no_args_is_help=True
)
app.add_typer(models_app, name="models")
baseline_app = typer.Typer(
    help="Runs kept under a name, to hold later runs against: save them, list them.",
    no_args_is_help=True,
)
app.add_typer(baseline_app, name="baseline")
traces_app = typer.Typer(
    help="Recorded traffic: describe a trace, convert it to the plain form.", no_args_is_help=True
)
app.add_typer(traces_app, name="traces")
energy_app = typer.Typer(
    help="Joules of a run in detail; power sensors held against a meter.", no_args_is_help=True
)
app.add_typer(energy_app, name="energy")
quality_app = typer.Typer(
    help=(
        "Whether a served model's answers are right: record the reference that runs hold them"
        " against."
    ),
    no_args_is_help=True,
)
app.add_typer(quality_app, name="quality")


def named_profile(value: Path | None) -> Path | None:
    """A profile's file; a ready-made profile is named without folder and ending."""
    from harness.profile.load import profile_path

    return None if value is None else profile_path(value)


def named_profiles(values: list[Path] | None) -> list[Path] | None:
    """The same for several."""
    return None if values is None else [path for one in values if (path := named_profile(one))]


PROFILE_HELP = "Profile: a YAML file, or the name of a ready-made one."
ProfilePath = Annotated[
    Path, typer.Argument(metavar="PROFILE", help=PROFILE_HELP, callback=named_profile)
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a key: traffic.load.0.concurrency=32"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print errors, warnings and the result only.")
]
NoCalibrate = Annotated[
    bool,
    typer.Option("--no-calibrate", help="Hold no certificate of the load generator, and say so."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Exports = Annotated[
    list[str] | None,
    typer.Option(
        "--export",
        metavar="FORMAT",
        help="Write the figures beside it: csv, parquet, openmetrics, all. May be given again.",
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
        help=(
            "auto, claude-code, mooncake, azure, burstgpt, servegen, or the plain form: csv, jsonl."
        ),
    ),
]


def _exit(code: ExitCode) -> None:
    raise typer.Exit(int(code))


def command(function: Callable[..., ExitCode | None]) -> Callable[..., None]:
    """Map errors to messages on stderr and exit codes. `--debug` (or HARNESS_DEBUG=1) adds the
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
        except BrokenPipeError:
            # The reader of stdout went away (`| head`): say nothing, as other commands do.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        if code:
            _exit(code)

    # typer reads the signature: the wrapped function's, and --debug.
    import inspect

    signature = inspect.signature(function)
    parameter = inspect.Parameter(
        "debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug
    )
    call.__signature__ = signature.replace(parameters=[*signature.parameters.values(), parameter])  # type: ignore[attr-defined]
    call.__annotations__ = {**function.__annotations__, "debug": Debug}
    return call


def dump(value: Any) -> None:  # noqa: ANN401 - any JSON value
    """JSON for programs, on standard output."""
    json.dump(value, sys.stdout, indent=2, allow_nan=False, ensure_ascii=False)
    print()


def _version(value: bool) -> None:
    if value:
        print(f"harness {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Nothing of its own."""


def read_profile(profile: Path, overrides: Sequence[str] | None) -> "Profile":
    """A profile with its `--set` arguments."""
    from harness.profile.load import load_profile

    return load_profile(profile, overrides or ())


def key_value(text: str) -> tuple[str, str]:
    """KEY=VALUE in two."""
    key, sign, value = text.partition("=")
    if not sign:
        raise typer.BadParameter(f"{text!r}: write KEY=VALUE")
    return key, value


def print_result(run: Path, summary: "Summary") -> None:
    """A run in a screenful."""
    from harness.commands.display import print_table
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
