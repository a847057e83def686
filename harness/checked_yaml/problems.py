"""What is wrong with a YAML text: where, which key, what, and the fix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from harness.core.errors import ProfileError

Path: TypeAlias = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was written.

    Attributes:
        source: the file as messages call it, or the `--set` of the command line.
        line: from 1; None for a `--set`, which has no lines.
        column: from 1.
    """

    source: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong.

    Attributes:
        place: where it was written, or the section that it is missing from.
        keys: path of the key; empty for the whole text.
        what: what is wrong.
        fix: what to do.
    """

    place: Place
    keys: Path
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.headline}\n    fix: {self.fix}"

    @property
    def where(self) -> str:
        """`file:line:column`, or the `--set` that brought it in."""
        return str(self.place)

    @property
    def path(self) -> str:
        """Dotted path of the key, `traffic.load.0.concurrency`."""
        return ".".join(map(str, self.keys))

    @property
    def headline(self) -> str:
        """Where and what, in one line."""
        return ": ".join(part for part in (self.where, self.path, self.what) if part)

    @property
    def order(self) -> tuple[int, int]:
        """Sorts problems as they stand in the file, overrides last."""
        return (2**31 if self.place.line is None else self.place.line, self.place.column or 0)


class InvalidYamlError(ProfileError):
    """A file or an override is wrong (exit 2).

    Args:
        name: what was read, as messages call it.
        problems: everything that is wrong, in the order of the file.
    """

    def __init__(self, name: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        if len(self.problems) == 1:
            super().__init__(self.problems[0].headline, next_step=self.problems[0].fix)
        else:
            super().__init__(
                f"{name} has {len(self.problems)} errors",
                next_step="fix all of them and run again",
                details="\n".join(map(str, self.problems)),
            )


@dataclass(frozen=True, slots=True)
class Violation:
    """One impossible combination of keys that are each right by themselves.

    Attributes:
        path: the key to change first.
        what: what is wrong, with the values.
        fix: what to write instead.
        rests_on: other keys or sections that it follows from; where one of those is wrong by
            itself, nothing is said of the combination.
    """

    path: Path
    what: str
    fix: str
    rests_on: tuple[Path, ...] = ()
