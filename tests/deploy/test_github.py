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
GATES = [path for path in WORKFLOWS if path.stem != "release"]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request):
    return request.param


@pytest.fixture(params=GATES, ids=lambda path: path.stem)
def gate_workflow(request):
    return request.param


def load(path):
    return YAML(typ="safe", pure=True).load(path.read_text())


def steps(path):
    return [
        (job.get("env", {}), step) for job in load(path)["jobs"].values() for step in job["steps"]
    ]


def test_both_runners_have_a_workflow():
    assert [path.stem for path in GATES] == ["harness-cpu", "harness-gpu"]


@pytest.mark.parametrize(
    ("schema", "files"), [("github-workflows", WORKFLOWS), ("github-issue-forms", FORMS)]
)
def test_workflows_and_issue_forms_are_what_github_takes(schema, files):
    assert files
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        f"vendor.{schema}",
        *map(str, files),
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


def test_every_harness_command_of_a_step_exists_with_its_options_and_files(gate_workflow):
    group = get_command(app)
    seen = 0
    for env, step in steps(gate_workflow):
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
    data = load(workflow)
    assert data["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] for job in data["jobs"].values())
    writers = [name for name, job in data["jobs"].items() if "permissions" in job]
    assert writers == (["publish"] if workflow.stem == "release" else [])


def test_the_release_uses_actions_by_commit_and_publishes_what_was_tested():
    release = load(GITHUB / "workflows" / "release.yml")
    used = [
        step["uses"] for job in release["jobs"].values() for step in job["steps"] if "uses" in step
    ]
    assert len(used) == 8
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", name) for name in used)
    assert (release["jobs"]["publish"]["needs"], release["jobs"]["test"]["needs"]) == (
        "test",
        "build",
    )
    assert not any("run" in step for step in release["jobs"]["publish"]["steps"])


def test_versions_of_a_release_agree():
    found = {
        re.search(pattern, (ROOT / name).read_text(), re.MULTILINE)[1]
        for name, pattern in (
            ("pyproject.toml", r'^version = "(.+)"$'),
            ("harness/__init__.py", r'^__version__ = "(.+)"$'),
            ("CITATION.cff", r"^version: (.+)$"),
        )
    }
    assert len(found) == 1
