"""The shipped data files."""

from importlib import resources
from typing import TypeVar

from harness.checked_yaml.check import Rules
from harness.checked_yaml.load import load_text

T = TypeVar("T")


def load_data(name: str, root: type[T], rules: Rules[T] | None = None) -> T:
    """A file of `data/` as a value of a type."""
    text = (resources.files("harness.fleet.site") / "data" / name).read_text(encoding="utf-8")
    return load_text(text, name, root, rules)
