"""The names of `import harness`."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import harness

STUB = Path(harness.__file__).with_name("__init__.pyi")


def test_importing_the_package_loads_nothing_heavy(in_child: Callable[[str], Any]) -> None:
    heavy = in_child(
        "import json, sys, harness\n"
        "print(json.dumps([m for m in ('pandas', 'numpy', 'pydantic', 'pyarrow', 'httpx')"
        " if m in sys.modules]))"
    )
    assert heavy == []


def test_the_stub_names_what_there_is() -> None:
    names = {
        alias.asname
        for node in ast.parse(STUB.read_text()).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert names == {
        "Comparison",
        "HarnessError",
        "Run",
        "Summary",
        "bench",
        "compare",
        "load",
        "run",
    }
    assert names <= set(dir(harness))
    for name in names:
        assert getattr(harness, name).__name__ == name
    assert STUB.with_name("py.typed").is_file()


@pytest.mark.parametrize("first", ["compare.gates", "compare", "python_api", "commands.run"])
def test_compare_is_a_function_whatever_is_imported(
    in_child: Callable[[str], Any], first: str
) -> None:
    code = f"import json, importlib, harness; importlib.import_module('harness.{first}')\n"
    assert in_child(code + "print(json.dumps(callable(harness.compare)))") is True


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        harness.no_such_name  # noqa: B018 - reading it is the test
