"""The page of the command line has every command, argument and option."""

import pytest
import typer
from typer.core import TyperGroup, TyperOption

from harness.cli import app, generate, reference
from harness.cli.help import PANELS, variable

TOP = typer.Context(typer.main.get_command(app), info_name="harness")


def commands(command=TOP.command, ctx=TOP):
    if not isinstance(command, TyperGroup):
        return [(command, ctx)]
    return [
        found
        for name, inner in command.commands.items()
        for found in commands(inner, typer.Context(inner, info_name=name, parent=ctx))
    ]


@pytest.fixture(scope="module", name="sections")
def _sections():
    parts = reference.page().split("\n### ")[1:]
    return {part.partition("\n")[0]: part for part in parts}


def test_every_command_has_a_section(sections):
    assert sorted(sections) == sorted(ctx.command_path for _, ctx in commands())
    assert {"harness bench", "harness energy show"} <= set(sections)


@pytest.mark.parametrize("one", commands(), ids=lambda one: one[1].command_path)
def test_a_section_has_usage_every_parameter_and_the_examples(one, sections):
    command, ctx = one
    rows = [line for line in sections[ctx.command_path].splitlines() if line.startswith("| `")]
    options = [p for p in command.params if isinstance(p, TyperOption) and p.name != "debug"]
    shown = [p for p in command.params if p.name != "debug" and p.get_help_record(ctx)]
    assert len(rows) == len(shown)
    for option in options:
        (row,) = [line for line in rows if f"`{variable(ctx, option)}`" in line]
        assert max(option.opts, key=len) in row
    assert f"$ {ctx.command_path} " in sections[ctx.command_path]
    assert sections[ctx.command_path].count(f"$ {ctx.command_path}") >= (2 if command.epilog else 1)


def test_sections_are_in_panels():
    page = reference.page()
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == list(PANELS)


def test_a_stale_page_is_found_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate, "PATH", tmp_path / "concerns.md")
    assert generate.main([]) == 0
    (tmp_path / "cli.md").write_text("old")
    assert generate.main(["--check"]) == 1
    assert "cli.md" in capsys.readouterr().err
    assert (tmp_path / "cli.md").read_text() == "old"
    assert generate.main([]) == 0
    assert (tmp_path / "cli.md").read_text() == reference.page()
