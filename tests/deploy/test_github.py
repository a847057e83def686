"""The shipped workflows: what GitHub's schema takes, shell that parses, and commands that this
harness has.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.main import get_command

from harness.cli import app
from harness.compare.gates import read_gates

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / "deploy" / "github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request):
    return request.param


def steps(path):
    data = YAML(typ="safe", pure=True).load(path.read_text())
    return [(job["env"], step) for job in data["jobs"].values() for step in job["steps"]]


def test_both_runners_have_a_workflow():
    assert [path.stem for path in WORKFLOWS] == ["harness-cpu", "harness-gpu"]


def test_workflows_are_what_github_takes():
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
        *map(str, WORKFLOWS),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_step_is_shell_that_parses_and_names_no_expression(workflow):
    for _, step in steps(workflow):
        if "run" in step:
            assert (
                "${{" not in step["run"]
            )  # values of a pull request reach the shell through variables only
            subprocess.run(["bash", "-n", "-c", step["run"]], check=True)


def test_every_harness_command_of_a_step_exists_with_its_options_and_files(workflow):
    group = get_command(app)
    seen = 0
    for env, step in steps(workflow):
        for line in re.findall(
            r"\.venv/bin/harness (.+)", step.get("run", "").replace("\\\n", " ")
        ):
            words = shlex.split(line)
            command = group.commands[words[0]]
            if hasattr(command, "commands"):
                command = command.commands[words[1]]
            known = {option for parameter in command.params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= known
            if "--gate" in words:
                assert read_gates(ROOT / words[words.index("--gate") + 1])
            profile = re.search(r"loadprofiles/[\w.-]+\.yaml", env["PROFILE"])
            assert (ROOT / profile[0]).is_file()
            seen += 1
    assert seen


def test_tokens_may_read_and_nothing_else(workflow):
    data = YAML(typ="safe", pure=True).load(workflow.read_text())
    assert data["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] for job in data["jobs"].values())
