"""The catalog of concerns has every code that the package raises, and no other."""

import ast
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import harness
from harness.cli import app, generate
from harness.core.concerns import CONCERNS, EXITS, GROUPS, find
from harness.core.errors import EXIT_MEANINGS, ProfileError

PACKAGE = Path(harness.__file__).parent
CALLBACKS = {"on_problem": 0}
"""Attributes and parameters that are called with a code: name -> its position."""


def name_of(call):
    """Name of what is called, without leading underscores; of a method with a dot in front."""
    if isinstance(call.func, ast.Attribute):
        name = call.func.attr.lstrip("_")
        return name if name in CALLBACKS else f".{name}"
    return getattr(call.func, "id", "").lstrip("_")


def texts(node):
    """String constants of an expression: both arms of a conditional one."""
    return {
        one.value
        for one in ast.walk(node)
        if isinstance(one, ast.Constant) and isinstance(one.value, str)
    }


def functions(tree):
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def raised_codes(package=PACKAGE):
    """Codes in calls of `Concern`, and of functions that pass a parameter `code` on to it."""
    trees = {
        path: ast.parse(path.read_text())
        for path in sorted(package.rglob("*.py"))
        if path.name != "concerns.py"
    }
    passing = {"Concern": 0, **CALLBACKS}
    for tree in trees.values():
        for function in functions(tree):
            names = [one.arg for one in function.args.args if one.arg not in ("self", "cls")]
            inner = [n for n in ast.walk(function) if isinstance(n, ast.Call)]
            if "code" in names and any(
                name_of(call) == "Concern" or name_of(call) in CALLBACKS for call in inner
            ):
                dot = "." if len(names) < len(function.args.args) else ""
                passing[dot + function.name.lstrip("_")] = names.index("code")
    found, unresolved = set(), []
    for path, tree in trees.items():
        for function in functions(tree):
            # `code = "a" if missed else "b"` before `Concern(code, ...)`
            assigned = {
                one.targets[0].id: texts(one.value)
                for one in ast.walk(function)
                if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name)
            }
            parameters = {one.arg for one in function.args.args}
            for call in (n for n in ast.walk(function) if isinstance(n, ast.Call)):
                place = passing.get(name_of(call))
                if place is None or len(call.args) <= place:
                    continue
                code = call.args[place]
                if isinstance(code, ast.Name) and code.id in assigned:
                    found |= assigned[code.id]
                elif isinstance(code, ast.Constant):
                    found.add(code.value)
                elif not (
                    (isinstance(code, ast.Name) and code.id in parameters)
                    # read back from a file or another process, which had it from a literal
                    or ast.unparse(code) in ("self.code", "message['code']")
                ):
                    unresolved.append(f"{path.name}:{call.lineno}: {ast.unparse(call)}")
    return found, unresolved


def test_every_code_is_found_by_the_scan():
    assert raised_codes()[1] == []


def test_the_catalog_has_the_codes_that_are_raised():
    assert sorted(raised_codes()[0]) == sorted(CONCERNS)


def test_the_scan_sees_codes_that_are_passed_on(tmp_path):
    (tmp_path / "a.py").write_text(
        """
class A:
    def _once(self, target, code, text):
        self._tell(Concern(code, 1, text))

    def look(self, bad):
        self._once(1, "passed_on", "text")
        self._on_problem("called_back", "text")
        code = "worse" if bad else "better"
        return [Concern(code, 1, ""), Concern("plain", 1, ""), Concern(self.made(), 1, "")]
"""
    )
    found, unresolved = raised_codes(tmp_path)
    assert found == {"passed_on", "called_back", "worse", "better", "plain"}
    assert len(unresolved) == 1


def test_each_code_is_there_once():
    codes = [one.code for group in GROUPS.values() for one in group]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


@pytest.mark.parametrize("one", [*CONCERNS.values(), *EXITS.values()], ids=lambda one: one.code)
def test_an_entry_has_three_texts_of_short_sentences(one):
    for text in (one.meaning, one.why, one.fix):
        assert text.strip() == text != ""
        assert "|" not in text  # of the table
        assert all(len(part.split()) <= 25 for part in re.split(r"(?<=[.;:]) ", text))
    for text in (one.why, one.fix):
        assert text[0].isupper()
        assert text.endswith(".")
    assert one.fix != one.why


def test_every_exit_code_is_explained():
    assert list(EXITS) == [str(code.value) for code in EXIT_MEANINGS]


def test_the_page_is_current():
    assert generate.main(["--check"]) == 0


def test_a_page_that_is_stale_or_missing_is_found_and_written(tmp_path, monkeypatch, capsys):
    path = tmp_path / "concerns.md"
    monkeypatch.setattr(generate, "PATH", path)
    assert generate.main(["--check"]) == 1
    assert not path.exists()
    assert generate.main([]) == 0
    assert generate.main(["--check"]) == 0
    path.write_text("stale")
    assert generate.main(["--check"]) == 1
    assert str(path) in capsys.readouterr().err


def explain(*arguments):
    return CliRunner().invoke(app, ["explain", *arguments])


@pytest.mark.parametrize("code", ["late_sends", "LATE-SENDS", " late_sends "])
def test_a_concern_is_explained(code):
    done = explain(code)
    assert done.exit_code == 0
    one = CONCERNS["late_sends"]
    assert all(text in done.stdout for text in (one.code, one.meaning, one.why, one.fix))


def test_several_codes_as_json():
    done = explain("throttled", "10", "--json")
    shown = json.loads(done.stdout)
    assert [one["code"] for one in shown] == ["throttled", "10"]
    assert set(shown[0]) == {"code", "meaning", "why", "fix"}


def test_without_a_code_all_are_listed():
    lines = explain().stdout.splitlines()
    assert [line.split()[0] for line in lines] == [*CONCERNS, *EXITS]
    assert len(json.loads(explain("--json").stdout)) == len(lines)


@pytest.mark.parametrize(
    ("code", "near"),
    [("late_send", "late_sends"), ("xids", "xid"), ("telemetry", "telemetry_died")],
)
def test_an_unknown_code_suggests_near_ones(code, near):
    done = explain(code)
    assert done.exit_code == 2
    assert f"'{code}'" in done.stderr
    assert near in done.stderr


@pytest.mark.parametrize("code", ["", "qqqq", "1", "\x1b[2J", "ß" * 10_000])
def test_a_code_that_resembles_nothing_is_refused(code):
    with pytest.raises(ProfileError) as caught:
        find(code)
    assert "harness explain" in str(caught.value.next_step)
    assert "\x1b" not in str(caught.value)
