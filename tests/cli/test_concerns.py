"""The catalog of concerns has every code that the package raises, and no other."""

import ast
import functools
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


def parameters(function):
    """Parameters without `self`, and the default of `code`."""
    names = [one.arg for one in function.args.args]
    defaults = dict(zip(reversed(names), reversed(function.args.defaults), strict=False))
    return [name for name in names if name not in ("self", "cls")], defaults.get("code")


def argument(call, place):
    """What a call passes as its code: by position or by name."""
    named = next((one.value for one in call.keywords if one.arg == "code"), None)
    return named or (call.args[place] if len(call.args) > place else None)


def calls(tree):
    return [n for n in ast.walk(tree) if isinstance(n, ast.Call)]


def functions_that_pass_a_code(trees):
    """Called name -> position of the code, of `Concern` and all that pass a parameter on to it; and
    codes that are defaults of such a parameter.
    """
    passing, defaults = {"Concern": 0, **CALLBACKS}, set()
    known = -1
    while known != len(passing):
        known = len(passing)
        for function in (one for tree in trees for one in functions(tree)):
            names, default = parameters(function)
            passes = any(
                isinstance(code := argument(call, passing[name_of(call)]), ast.Name)
                and code.id == "code"
                for call in calls(function)
                if name_of(call) in passing
            )
            if "code" in names and passes:
                dot = "." if len(names) < len(function.args.args) else ""
                passing[dot + function.name.lstrip("_")] = names.index("code")
                defaults |= texts(default) if default is not None else set()
    return passing, defaults


@functools.cache
def raised_codes(package=PACKAGE):
    """Codes that are raised, and the calls whose code is not clear."""
    trees = {
        path: ast.parse(text)
        for path in sorted(package.rglob("*.py"))
        if path.name != "concerns.py" and re.search("Concern|problem", text := path.read_text())
    }
    passing, found = functions_that_pass_a_code(trees.values())
    unresolved = []
    for path, tree in trees.items():
        for function in functions(tree):
            # `code = "a" if missed else "b"` before `Concern(code, ...)`
            assigned = {
                one.targets[0].id: texts(one.value)
                for one in ast.walk(function)
                if isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Name)
            }
            given = {name for inner in functions(function) for name in parameters(inner)[0]}
            for call in (one for one in calls(function) if name_of(one) in passing):
                code = argument(call, passing[name_of(call)])
                if code is None:
                    continue  # the default
                if isinstance(code, ast.Name) and code.id in assigned:
                    found |= assigned[code.id]
                elif isinstance(code, ast.Constant | ast.IfExp):
                    found |= texts(code)
                elif not (
                    (isinstance(code, ast.Name) and code.id in given)
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
    def _raise(self, code, text):
        self._tell(Concern(code, 1, text))

    def _once(self, target, code, text):
        self._raise(code, text)

    def look(self, bad):
        self._once(1, "passed_on", "text")
        self._on_problem("called_back", "text")
        def inner(text, code="by_default"):
            self._raise(code, text)
        inner("text")
        inner("text", code="by_name")
        code = "worse" if bad else "better"
        return [Concern(code, 1, ""), Concern("plain", 1, ""), Concern(self.made(), 1, "")]
"""
    )
    found, unresolved = raised_codes(tmp_path)
    assert found == {
        "passed_on",
        "called_back",
        "by_default",
        "by_name",
        "worse",
        "better",
        "plain",
    }
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
