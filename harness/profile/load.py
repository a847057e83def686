"""A profile's file -> `Profile`, or every error at once, each with its place and its fix."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from harness.core.errors import ProfileError
from harness.profile import source as yaml_source
from harness.profile.problems import Problem, check
from harness.profile.schema import Profile
from harness.profile.source import Data, Fault, Place, Source, SourceError

MAX_BYTES: Final = 1024 * 1024
"""Size of a profile; ready-made ones have some 2 kB."""


class InvalidProfileError(ProfileError):
    """A profile or its overrides are wrong (exit 2).

    Args:
        name: what was read, as messages call it.
        problems: everything that is wrong, in the order of the file.
    """

    def __init__(self, name: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        if len(self.problems) == 1:
            only = self.problems[0]
            super().__init__(only.headline, next_step=only.fix)
        else:
            details = "\n".join(str(problem) for problem in self.problems)
            super().__init__(
                f"{name} has {len(self.problems)} errors",
                next_step="mend them all and run again",
                details=details,
            )


def load_profile(path: Path, overrides: Sequence[str] = ()) -> Profile:
    """Read a profile. The file is read once.

    Args:
        path: YAML, at most `MAX_BYTES`.
        overrides: `dotted.path=value` each, values as YAML, later ones win:
            `traffic.load.0.concurrency=32`.

    Raises:
        ProfileError: no such file, not readable, no UTF-8.
        InvalidProfileError: everything that is wrong with its contents.
    """
    return load_profile_text(_read(path), source=str(path), name=_name(path), overrides=overrides)


def load_profile_text(
    text: str, *, source: str = "<text>", name: str = "profile", overrides: Sequence[str] = ()
) -> Profile:
    """Read a profile from text.

    Args:
        text: YAML.
        source: what messages call it.
        name: the profile's name where it gives none.
        overrides: as for `load_profile`.

    Raises:
        InvalidProfileError: everything that is wrong with it.
    """
    try:
        document = yaml_source.read(text)
    except SourceError as error:
        raise InvalidProfileError(source, [_problem(source, error.fault)]) from error
    if not isinstance(document.data, dict):
        what = "is empty" if document.data is None else "must be a mapping of keys to values"
        fault = Fault(
            Place(1, 1),
            (),
            what,
            "start with `purpose: smoke`, `model:` and `traffic:`; loadprofiles/ has examples",
        )
        raise InvalidProfileError(source, [_problem(source, fault)])
    faults = list(document.faults)
    for override in overrides:
        try:
            _apply(document, override)
        except SourceError as error:
            faults.append(error.fault)
    if document.data.get("name", "") in ("", None):
        document.data["name"] = name
    profile, findings = check(document)
    faults += [Fault(document.place(path), path, what, fix) for path, what, fix in findings]
    if faults or profile is None:
        raise InvalidProfileError(
            source,
            sorted(
                (_problem(source, fault) for fault in faults), key=lambda problem: problem.order
            ),
        )
    return profile


def _problem(source: str, fault: Fault) -> Problem:
    path = ".".join(str(part) for part in fault.path)
    place = fault.place
    if place.override is not None:
        return Problem(f"--set {place.override}", (2**31, 0), path, fault.what, fault.fix)
    line, column = place.line or 1, place.column or 1
    return Problem(f"{source}:{line}:{column}", (line, column), path, fault.what, fault.fix)


def _name(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem)[:80].strip("-") or "profile"


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise ProfileError(
            f"there is no file {path}",
            cause=_nearest_file(path),
            next_step="give the path of a profile; loadprofiles/ has examples",
        ) from error
    except IsADirectoryError as error:
        raise ProfileError(
            f"{path} is a folder",
            next_step=f"give one of its files: {_examples(path) or 'it holds no *.yaml'}",
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ProfileError(
            f"cannot read {path}: {reason}", next_step="check the path and its permissions"
        ) from error
    if len(raw) > MAX_BYTES:
        raise ProfileError(
            f"{path} is larger than {MAX_BYTES // 1024} KiB",
            cause="this is no profile",
            next_step="give the path of a profile",
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


def _nearest_file(path: Path) -> str | None:
    for folder in (path.parent, Path("loadprofiles")):
        if folder.is_dir():
            names = {file.stem: file for file in sorted(folder.glob("*.y*ml"))[:1000]}
            near = difflib.get_close_matches(path.stem, names, n=1, cutoff=0.5)
            if near:
                return f"did you mean {names[near[0]]}?"
    return None


def _examples(folder: Path) -> str:
    return ", ".join(sorted(file.name for file in folder.glob("*.y*ml"))[:6])


# --- overrides ---


def _apply(document: Source, override: str) -> None:
    """Write one `--set` into the document. Missing sections are made; whether the keys exist is for
    the types to say.
    """
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    place = Place(None, None, override)
    if not equals or not all(keys):
        raise SourceError(
            Fault(
                place,
                (),
                "is not KEY=VALUE",
                "write a dotted path and a value, as in --set traffic.load.0.concurrency=32",
            )
        )
    value = yaml_source.read(text, override)
    if value.faults:
        raise SourceError(value.faults[0])
    path, container, last = _container(document, keys, place)
    if isinstance(container, dict):
        container[str(last)] = value.data
    else:
        index = int(last)
        container[index : index + 1] = [value.data]
    for old in [old for old in document.places if old[: len(path)] == path]:
        del document.places[old]
    document.places[path] = place


def _container(
    document: Source, keys: list[str], place: Place
) -> tuple[yaml_source.Path, dict[str, Data] | list[Data], str | int]:
    here: Data = document.data
    path: list[str | int] = []
    for position, key in enumerate(keys):
        part: str | int = key
        if isinstance(here, list):
            part = _index(here, key, path, place)
        elif not isinstance(here, dict):
            at = ".".join(map(str, path))
            raise SourceError(
                Fault(
                    place,
                    tuple(path),
                    "is a single value with no keys below it",
                    f"set {at} itself, as in --set {at}=…",
                )
            )
        path.append(part)
        if position == len(keys) - 1:
            return tuple(path), here, part
        following: Data
        if isinstance(here, dict):
            following = here.get(key)
            if following is None:
                following = [] if keys[position + 1].isdecimal() else {}
                here[key] = following
                document.places[tuple(path)] = place
        else:
            assert isinstance(part, int)
            if part == len(here):
                here.append({})
                document.places[tuple(path)] = place
            following = here[part]
        here = following
    raise AssertionError("a path has at least one key")


def _index(items: list[Data], key: str, path: list[str | int], place: Place) -> int:
    """Position in a list; one past its end appends."""
    at = ".".join(map(str, path))
    if not (key.isascii() and key.isdecimal()) or len(key) > 6:
        raise SourceError(
            Fault(
                place,
                tuple(path),
                f"is a list, and {key!r} is no position in it",
                f"count from 0, as in {at}.0",
            )
        )
    index = int(key)
    if index > len(items):
        raise SourceError(
            Fault(
                place,
                tuple(path),
                f"has {len(items)} items, and {index} is past them",
                f"use 0 to {len(items)} ({len(items)} appends)",
            )
        )
    return index
