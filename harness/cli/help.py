"""Help in sections, and an environment variable for every option.

Typer's own panels import rich, which would double the time of `harness --help`.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

PANELS: Final[Mapping[str, tuple[str, ...]]] = {
    "Run": ("bench", "run", "repeat", "sweep", "search"),
    "Plan": ("profiles", "init", "plan", "check", "calibrate"),
    "Analyze": ("report", "results", "explain", "energy", "fleet", "reduce"),
    "Compare": ("compare", "baseline"),
    "Data": ("traces", "models", "quality"),
}
"""Sections of `harness --help` and their commands, in order."""

PREFIX: Final = "HARNESS"

_WITHOUT_VARIABLE: Final = ("help", "debug")
"""HARNESS_DEBUG is one variable for all commands."""


def lines(title: str, *below: str) -> str:
    """A paragraph whose lines click does not wrap."""
    return "\n".join(("\b", title, *(f"  {line}" for line in below)))


def examples(*commands: str) -> str:
    """Commands for an epilog."""
    return lines("Examples:", *commands)


def _heading(title: str) -> str:
    return title if os.environ.get("NO_COLOR") else f"\x1b[1m{title}\x1b[0m"


def _sections(
    formatter: Any,  # noqa: ANN401 - of typer's private click
    rows: Sequence[tuple[str, tuple[str, str]]],
) -> None:
    for title in dict.fromkeys(title for title, _ in rows):
        with formatter.section(_heading(title)):
            formatter.write_dl([row for of, row in rows if of == title])


def _options(command: TyperCommand | TyperGroup, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
    found = []
    for param in command.get_params(ctx):
        if isinstance(param, TyperOption):
            param.show_envvar = False  # one line below all options explains their names
        record = param.get_help_record(ctx)
        if record is not None:
            kind = "Arguments" if isinstance(param, TyperArgument) else "Options"
            found.append((getattr(param, "rich_help_panel", None) or kind, record))
    _sections(formatter, found)


def variable(ctx: Any, option: TyperOption) -> str:  # noqa: ANN401 - a context of typer's click
    """The environment variable of an option, such as `HARNESS_RUN_OUT` for `harness run --out`.

    Args:
        ctx: of the option's command.
        option: one of its options.
    """
    parts = [max(option.opts, key=len).lstrip("-")]
    while ctx.parent is not None:
        parts.append(ctx.info_name)
        ctx = ctx.parent
    return "_".join((PREFIX, *reversed(parts))).replace("-", "_").upper()


class Command(TyperCommand):
    """A command whose options can also be set in the environment."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401
        """Name the options' variables, then parse."""
        for option in self.params:
            if isinstance(option, TyperOption) and option.name not in _WITHOUT_VARIABLE:
                option.envvar = variable(ctx, option)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        _options(self, ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Examples, and how to set options in the environment."""
        super().format_epilog(ctx, formatter)
        named = [one for one in self.params if isinstance(one, TyperOption) and one.envvar]
        if named:
            name = f"{variable(ctx, named[0])} is {max(named[0].opts, key=len)}"
            formatter.write_paragraph()
            formatter.write_text(f"Options can be set in the environment: {name}.")


class Group(TyperGroup):
    """A group of commands; those of `harness` itself are listed by panel."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401
        """Names in the order of `PANELS`, or in which they were added."""
        names = super().list_commands(ctx)
        order = [name for panel in PANELS.values() for name in panel]
        return names if ctx.parent is not None else sorted(names, key=order.index)

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        _options(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """One section per panel, with equal columns."""
        panels = PANELS if ctx.parent is None else {"Commands": self.list_commands(ctx)}
        width = max(len(name) for name in self.commands)
        rows = []
        for panel, names in panels.items():
            for name in names:
                short = self.commands[name].get_short_help_str(formatter.width - 6 - width)
                rows.append((panel, (name.ljust(width), short)))
        _sections(formatter, rows)
