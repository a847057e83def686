"""A YAML file -> a value of a type, or every error at once, each with its place and its fix."""

import difflib
from pathlib import Path
from typing import Final, TypeVar

from harness.checked_yaml import shape
from harness.checked_yaml.check import Rules, check
from harness.checked_yaml.fields import FROM_KEY
from harness.checked_yaml.problems import InvalidYamlError, Place, Problem
from harness.checked_yaml.source import Source, read
from harness.core.errors import ProfileError

T = TypeVar("T")

MAX_BYTES: Final = 1024 * 1024
"""Size of a file; ready-made profiles have some 2 kB, the largest data file 14 kB."""


def load_text(text: str, name: str, root: type[T], rules: Rules[T] | None = None) -> T:
    """Read a value from YAML text.

    Args:
        text: YAML.
        name: what messages call it.
        root: type of the whole document: a section, or a mapping or list of sections.
        rules: what single keys cannot say.

    Raises:
        InvalidYamlError: everything that is wrong with it.
    """
    document = read(text, name)
    expect_form(document, root)
    return check(document, root, rules)


def expect_form(document: Source, root: shape.Annotation, example: str | None = None) -> None:
    """Refuse a document that is empty or has another outer form than a type asks for.

    Args:
        document: what was read.
        root: type of the whole document.
        example: how to begin such a file.

    Raises:
        InvalidYamlError: it has.
    """
    wanted = list if shape.item_of(root) is not None else dict
    if not isinstance(document.data, wanted) or not document.data:
        form = "a list" if wanted is list else "a mapping of keys to values"
        what = f"must be {form}" if document.data not in (None, {}, []) else "is empty"
        fix = example or f"write {shape.describe(root)}"
        place = Place(document.name, 1, 1)
        raise InvalidYamlError(document.name, [Problem(place, (), what, fix)])
    _name_sections(document, root)


def _name_sections(document: Source, root: shape.Annotation) -> None:
    """Give each named section of a document its name, where its type has a field for it."""
    model = shape.model_of(shape.value_of(root))
    fields = model.model_fields if model is not None else {}
    for field in (name for name in fields if FROM_KEY in fields[name].metadata):
        assert isinstance(document.data, dict)
        for name, section in document.data.items():
            if isinstance(section, dict):
                if field in section:
                    path = (name, field)
                    fix = "remove it: the name above the section is meant"
                    problem = Problem(document.place(path), path, "is not a key here", fix)
                    document.problems.append(problem)
                section[field] = name


def read_file(path: Path, wanted: str, examples: Path | None = None) -> str:
    """The text of a file.

    Args:
        path: YAML, at most `MAX_BYTES`.
        wanted: what it should be, in words: "a profile".
        examples: folder that has some.

    Raises:
        ProfileError: no such file, not readable, too large, no UTF-8.
    """
    give = f"give the path of {wanted}"
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ProfileError(
            f"there is no file {path}",
            cause=_nearest_file(path, examples),
            next_step=f"{give}; {examples}/ has examples" if examples is not None else give,
        ) from error
    except IsADirectoryError as error:
        names = ", ".join(sorted(file.name for file in path.glob("*.y*ml"))[:6])
        raise ProfileError(
            f"{path} is a folder",
            next_step=f"give one of its files: {names or 'it holds no *.yaml'}",
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ProfileError(
            f"cannot read {path}: {reason}", next_step="check the path and its permissions"
        ) from error
    if len(raw) > MAX_BYTES:
        raise ProfileError(
            f"{path} is larger than {MAX_BYTES // 1024} KiB",
            cause=f"this is not {wanted}",
            next_step=give,
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ProfileError(
            f"{path}:{line}: is not UTF-8 text",
            cause="saved in another encoding, or no text at all",
            next_step="save it as UTF-8",
        ) from error


def _nearest_file(path: Path, examples: Path | None) -> str | None:
    for folder in (path.parent, examples):
        if folder is not None and folder.is_dir():
            names = {file.stem: file for file in sorted(folder.glob("*.y*ml"))[:1000]}
            near = difflib.get_close_matches(path.stem, names, n=1, cutoff=0.5)
            if near:
                return f"did you mean {names[near[0]]}?"
    return None
