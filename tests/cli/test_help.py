"""Help, completion and environment variables of the command line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup, TyperOption
from typer.testing import CliRunner

import harness
from harness.cli import app
from harness.cli.help import PANELS, variable

PACKAGE = Path(harness.__file__).parent
PROFILE = """\
purpose: smoke
model: {id: builtin:tiny}
traffic:
  workload: {kind: chat, system_tok: 10, user_tok: 8, output_tok: 4, turns: 1}
  load: [{kind: concurrency, concurrency: 2, over: sessions, sessions: 2}]
"""


def walk(command, context=None):
    """Every command below `command` with its context."""
    context = context or command.context_class(command, info_name="harness")
    if not isinstance(command, TyperGroup):
        yield command, context
        return
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        yield from walk(below, below.context_class(below, info_name=name, parent=context))


COMMANDS = list(walk(typer.main.get_command(app)))
PATHS = [context.command_path.split()[1:] for _, context in COMMANDS]


def invoke(*arguments, **kwargs):
    return CliRunner().invoke(app, [*map(str, arguments)], **kwargs)


def test_every_command_is_in_one_panel():
    root = typer.main.get_command(app)
    assert sorted(name for names in PANELS.values() for name in names) == sorted(root.commands)


def test_the_panels_come_in_order_with_their_commands():
    shown = re.sub(r"\x1b\[\d*m", "", invoke("--help").stdout)
    places = [shown.index(f"\n{panel}:\n") for panel in PANELS]
    assert places == sorted(places)
    for panel, names in PANELS.items():
        section = shown.split(f"\n{panel}:\n")[1].split("\n\n")[0]
        assert [line.split()[0] for line in section.splitlines()] == list(names)


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_h_is_help_and_every_text_fits(path):
    done = invoke(*path, "-h")
    assert done.exit_code == 0
    assert done.stdout == invoke(*path, "--help").stdout
    assert "..." not in invoke(*path[:-1], "--help").stdout.replace("[ARGS]...", "")


@pytest.mark.parametrize(("command", "context"), COMMANDS, ids=[" ".join(one) for one in PATHS])
def test_commands_are_imperatives_and_options_noun_phrases(command, context):
    assert re.match(r"[A-Z][a-z]+ ", command.help)
    assert command.get_short_help_str(100).endswith(".")
    for option in command.params:
        assert option.help, option.name
        if isinstance(option, TyperOption):
            assert not re.match(r"(Print|Write|Show|Take|Keep|Serve|Of|For|By|Only) ", option.help)


@pytest.mark.parametrize(("command", "context"), COMMANDS, ids=[" ".join(one) for one in PATHS])
def test_examples_parse(command, context):
    """Options and arguments of the examples exist; nothing is run."""
    import shlex

    lines = [line.strip() for line in (command.epilog or "").splitlines() if "  harness" in line]
    for line in lines:
        words = shlex.split(line)[1:]
        path = context.command_path.split()[1:]
        assert words[: len(path)] == path
        command.make_parser(context).parse_args(words[len(path) :])


def variables():
    return {
        variable(context, option): (command, option)
        for command, context in COMMANDS
        for option in command.params
        if isinstance(option, TyperOption) and option.name not in ("help", "debug")
    }


def test_no_variable_of_an_option_is_used_for_something_else():
    used = set()
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "cli":
            used |= set(re.findall(r"HARNESS_[A-Z_]+[A-Z]", path.read_text()))
    assert {"HARNESS_CACHE_DIR", "HARNESS_VLLM_PYTHON", "HARNESS_RUN_ID"} <= used
    assert not used & set(variables())
    assert len(variables()) == sum(
        isinstance(option, TyperOption) and option.name not in ("help", "debug")
        for command, _ in COMMANDS
        for option in command.params
    )


def test_variables_carry_the_names_of_options_not_of_parameters():
    assert {
        "HARNESS_RUN_SET",
        "HARNESS_RUN_JSON",
        "HARNESS_BENCH_API_KEY_ENV",
        "HARNESS_ENERGY_CALIBRATE_METER",
        "HARNESS_REPORT_OPEN",
    } <= set(variables())


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(PROFILE)
    return path


def sessions(done):
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)["stages"][0]["sessions"]


def test_the_profile_gives_way_to_the_environment_and_that_to_the_command_line(profile):
    set_three = {"HARNESS_PLAN_SET": "traffic.load.0.sessions=3", "HARNESS_PLAN_JSON": "1"}
    assert sessions(invoke("plan", profile, "--json")) == 2
    assert sessions(invoke("plan", profile, env=set_three)) == 3
    option = ("--set", "traffic.load.0.sessions=5")
    assert sessions(invoke("plan", profile, *option, env=set_three)) == 5


def test_several_values_in_one_variable(profile):
    both = {"HARNESS_PLAN_SET": "traffic.load.0.sessions=3 traffic.load.0.sessions=4"}
    assert sessions(invoke("plan", profile, "--json", env=both)) == 4


@pytest.mark.parametrize(
    ("name", "value"), [("HARNESS_RUN_REPEATS", "many"), ("HARNESS_RUN_DRY_RUN", "perhaps")]
)
def test_a_bad_value_in_a_variable_is_a_usage_error(profile, name, value):
    done = invoke("run", profile, env={name: value})
    assert done.exit_code == 2
    assert name in done.stderr


def test_an_empty_variable_and_those_of_other_commands_are_nothing(profile):
    env = {"HARNESS_PLAN_SET": "", "HARNESS_RUN_SET": "no.such.key=1", "HARNESS_VERSION": "1"}
    assert sessions(invoke("plan", profile, "--json", env=env)) == 2


def child(*arguments, **env):
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | env,
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_a_shell(shell):
    done = child("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert done.returncode == 0
    assert "_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("harness exp", ["explain"]),
        ("harness explain late", ["late_sends"]),
        ("harness init --template gpu-ch", ["gpu-chat"]),
        ("harness bench --concur", ["--concurrency"]),
    ],
)
def test_words_are_completed(words, completed):
    place = str(len(words.split()) - 1)
    asked = {"_HARNESS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": place}
    done = CliRunner().invoke(app, [], prog_name="harness", env=asked)
    assert done.stdout.split() == completed


def test_no_color_leaves_no_escapes():
    coloured = CliRunner().invoke(app, ["--help"], color=True, env={"NO_COLOR": ""})
    assert "\x1b[1m" in coloured.stdout
    plain = CliRunner().invoke(app, ["--help"], color=True, env={"NO_COLOR": "1"})
    assert "\x1b" not in plain.stdout
    assert re.sub(r"\x1b\[\d*m", "", coloured.stdout) == plain.stdout


def test_help_imports_neither_rich_nor_pandas():
    code = (
        "import sys\n"
        "sys.argv = ['harness', '--help']\n"
        "from harness.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"rich", "pandas", "numpy", "pydantic", "pyarrow", "httpx"}
    assert not heavy & set(done.stderr.split())
