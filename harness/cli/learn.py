"""Commands for a start: ready-made profiles, a new profile, explanations of codes."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.base import CaFile, Header, Json, add, dump


def _codes(incomplete: str) -> list[str]:
    from harness.core.concerns import CONCERNS, EXITS

    return [code for code in (*CONCERNS, *EXITS) if code.startswith(incomplete)]


def _names(incomplete: str) -> list[str]:
    from harness.profile.load import shipped_profiles

    names = sorted(path.stem for path in shipped_profiles().glob("*.yaml"))
    return [name for name in names if name.startswith(incomplete)]


@add("profiles")
def profiles_command(json_output: Json = False) -> None:
    """List ready-made profiles."""
    from dataclasses import asdict

    from harness.commands.profiles import ready_made

    found = ready_made()
    if json_output:
        dump([asdict(one) for one in found])
        return
    width = max(len(one.name) for one in found)
    for one in found:
        print(f"{one.name:{width}}  {one.purpose:7}  {one.description}")


@add(
    "init",
    shown=(
        "harness init --url http://localhost:8000 mine.yaml",
        "harness init --template gpu-chat mine.yaml",
    ),
)
def init_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Profile to write.")] = Path(
        "profile.yaml"
    ),
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="Running endpoint, asked for its model and API."),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            "--template",
            metavar="NAME",
            help="Name from `harness profiles`; default: cpu-smoke.",
            autocompletion=_names,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="With --url: model name, if several are served.")
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(
            "--api-key-env", help="With --url: name of the environment variable with the API key."
        ),
    ] = None,
    ca_file: CaFile = None,
    header: Header = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwriting of an existing file.")
    ] = False,
) -> None:
    """Write a commented profile to edit."""
    from harness.commands import bench
    from harness.commands.profiles import DEFAULT_TEMPLATE, for_endpoint, from_template, write_new

    if url is not None and template is not None:
        raise typer.BadParameter("--url and --template exclude each other")
    if url is None and any((model, api_key_env, ca_file, header)):
        raise typer.BadParameter("--model, --api-key-env, --ca-file and --header require --url")
    if url is None:
        text = from_template(DEFAULT_TEMPLATE if template is None else template)
    else:
        ca = None if ca_file is None else bench.existing(ca_file, "--ca-file")
        text = for_endpoint(url, model, api_key_env, ca, bench.headers(header or ()))
    write_new(file, text, force=force)
    print(file)
    print(f"next: harness plan {file}, then harness run {file}", file=sys.stderr)


@add("explain", shown=("harness explain late_sends", "harness explain 10"))
def explain_command(
    codes: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CODE",
            help="Concern codes or exit codes; default: a list of all.",
            autocompletion=_codes,
        ),
    ] = None,
    json_output: Json = False,
) -> None:
    """Explain a concern of a verdict, or an exit code."""
    from dataclasses import asdict

    from harness.cli.generate import shown
    from harness.core.concerns import CONCERNS, EXITS, find

    found = [find(code) for code in codes] if codes else [*CONCERNS.values(), *EXITS.values()]
    if json_output:
        dump([asdict(one) for one in found])
        return
    if not codes:
        width = max(map(len, CONCERNS))
        for one in found:
            print(f"{one.code:{width}}  {one.meaning}")
        return
    print("\n\n".join(shown(one) for one in found))
