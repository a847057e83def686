"""Load a YAML file as a value of a type. All errors are reported at once, with places and fixes."""

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
"""Size of a file. Shipped profiles have about 2 kB, the largest data file 14 kB."""


def load_text(text: str, name: str, root: type[T], rules: Rules[T] | None = None) -> T:
    """Read a value of type `root` (a section, or a mapping or list of sections) from YAML text.
    `name` is for messages; `rules` check combinations of keys.

    Raises:
        InvalidYamlError: with every error.
    """
    document = read(text, name)
    expect_form(document, root)
    return check(document, root, rules)


def expect_form(document: Source, root: shape.Annotation, example: str | None = None) -> None:
    """Check that a document is a list or a mapping, as its type `root` requires, and name its
    sections (`FROM_KEY`). `example` is a fix that shows how to begin such a file.

    Raises:
        InvalidYamlError: it is empty or has the wrong form.
    """
    form = list if shape.item_of(root) is not None else dict
    if not isinstance(document.data, form) or not document.data:
        required = "a list" if form is list else "a mapping of keys to values"
        what = f"must be {required}" if document.data not in (None, {}, []) else "is empty"
        fix = example or f"write {shape.describe(root)}"
        place = Place(document.name, 1, 1)
        raise InvalidYamlError(document.name, [Problem(place, (), what, fix)])
    model = shape.model_of(shape.value_of(root))
    fields = model.model_fields if model is not None else {}
    for field in (name for name in fields if FROM_KEY in fields[name].metadata):
        assert isinstance(document.data, dict)
        for name, section in document.data.items():
            if isinstance(section, dict):
                if field in section:
                    path = (name, field)
                    fix = "remove it: the name above the section is used"
                    problem = Problem(document.place(path), path, "unknown key", fix)
                    document.problems.append(problem)
                section[field] = name


def read_file(path: Path, form: str, examples: Path | None = None) -> str:
    """The text of a YAML file of at most `MAX_BYTES`. `form` is what it should be, in words ("a
    profile"); `examples` is a folder with examples.

    Raises:
        ProfileError: not found, not readable, too large, or not UTF-8.
    """
    give = f"give the path of {form}"
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ProfileError(
            f"{path} not found",
            cause=_nearest_file(path, examples),
            next_step=f"{give}; {examples}/ has examples" if examples is not None else give,
        ) from error
    except IsADirectoryError as error:
        names = ", ".join(sorted(file.name for file in path.glob("*.y*ml"))[:6])
        step = f"give one of its files: {names or 'it has no *.yaml'}"
        raise ProfileError(f"{path} is a folder", next_step=step) from error
    except (OSError, ValueError) as error:
        what = f"cannot read {path}: {getattr(error, 'strerror', None) or error}"
        raise ProfileError(what, next_step="check the path and its permissions") from error
    if len(raw) > MAX_BYTES:
        raise ProfileError(
            f"{path} is larger than {MAX_BYTES // 1024} KiB",
            cause=f"it is not {form}",
            next_step=give,
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ProfileError(
            f"{path}:{line}: is not UTF-8 text",
            cause="it has another encoding or is not text",
            next_step="save it as UTF-8",
        ) from error


def _nearest_file(path: Path, examples: Path | None) -> str | None:
    for folder in (path.parent, *([examples] if examples is not None else ())):
        names = {file.stem: file for file in sorted(folder.glob("*.y*ml"))[:1000]}
        if near := difflib.get_close_matches(path.stem, names, n=1, cutoff=0.5):
            return f"did you mean {names[near[0]]}?"
    return None
