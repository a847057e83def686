"""Ready-made profiles by name, and that a file comes first."""

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.profile.load import profile_path, shipped_profiles

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "loadprofiles").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_ready_made_profile_has_a_name(path):
    assert profile_path(Path(path.stem)) == path


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cpu-smoke").write_text("purpose: smoke")
    assert profile_path(Path("cpu-smoke")) == Path("cpu-smoke")


@pytest.mark.parametrize("name", ["no-such-profile", "cpu-smoke.yaml", "folder/cpu-smoke"])
def test_other_names_stay_as_they_are(name):
    assert profile_path(Path(name)) == Path(name)


def test_commands_take_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["plan", "cpu-smoke", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["stages"]


def test_an_unknown_name_suggests_a_near_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["plan", "cpu-smok"])
    assert done.exit_code == 2
    assert "cpu-smoke.yaml" in done.output


def test_the_wheel_ships_the_profiles():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert wheel["targets"]["wheel"]["force-include"] == {"loadprofiles": "harness/loadprofiles"}
    assert shipped_profiles() == ROOT / "loadprofiles"
