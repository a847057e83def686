"""Errors in YAML text: place, key, what is wrong, and the fix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from harness.core.errors import ProfileError

Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a file, or a `--set` of the command line.

    Attributes:
        source: the file's name in messages, or the `--set`.
        line: from 1; None for a `--set`.
    """

    source: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One error.

    Attributes:
        place: of the key, or of the section that lacks it.
        keys: path of the key; empty for the complete text.
    """

    place: Place
    keys: Path
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.headline}\n    fix: {self.fix}"

    @property
    def where(self) -> str:
        """`file:line:column`, or the `--set`."""
        return str(self.place)

    @property
    def path(self) -> str:
        """Dotted path of the key, `traffic.load.0.concurrency`."""
        return ".".join(map(str, self.keys))

    @property
    def headline(self) -> str:
        """Place, key and what is wrong, in one line."""
        return ": ".join(part for part in (self.where, self.path, self.what) if part)

    @property
    def order(self) -> tuple[int, int]:
        """Sort key: the order in the file, overrides last."""
        return (2**31 if self.place.line is None else self.place.line, self.place.column or 0)


class InvalidYamlError(ProfileError):
    """A file or an override has errors (exit 2).

    Args:
        name: the file's name in messages.
        problems: every error, in the order of the file.
    """

    def __init__(self, name: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        if len(self.problems) == 1:
            super().__init__(self.problems[0].headline, next_step=self.problems[0].fix)
        else:
            super().__init__(
                f"{name} has {len(self.problems)} errors",
                next_step="fix these errors and rerun",
                details="\n".join(map(str, self.problems)),
            )


@dataclass(frozen=True, slots=True)
class Violation:
    """An impossible combination of keys that are each valid by themselves.

    Attributes:
        path: the key to change first.
        what: what is wrong, with the values.
        fix: what to write instead.
        rests_on: the other keys or sections involved. If one of them is wrong by itself, the
            combination is not reported.
    """

    path: Path
    what: str
    fix: str
    rests_on: tuple[Path, ...] = ()
