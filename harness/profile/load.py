"""Load a profile. All errors are reported at once, with places and fixes."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, Final

from harness.checked_yaml import source as yaml_source
from harness.checked_yaml.check import check
from harness.checked_yaml.load import expect_form, read_file
from harness.checked_yaml.problems import InvalidYamlError, Path, Place, Problem
from harness.checked_yaml.source import Data, Source
from harness.profile.rules import violations
from harness.profile.schema import Profile

_EXAMPLE: Final = "start with `purpose: smoke`, `model:` and `traffic:`; loadprofiles/ has examples"


def shipped_profiles() -> FilePath:
    """The folder of shipped profiles: in an installed package, next to it in a checkout."""
    package = FilePath(__file__).resolve().parents[1]
    inside = package / "loadprofiles"
    return inside if inside.is_dir() else package.parent / "loadprofiles"


def profile_path(name: FilePath) -> FilePath:
    """The file of a path, or of the name of a shipped profile. A file of that name in the working
    directory comes first.
    """
    # unlike Path's methods, these return False for what cannot be looked up
    if name.suffix or len(name.parts) != 1 or os.path.exists(name):  # noqa: PTH110
        return name
    shipped = shipped_profiles() / f"{name}.yaml"
    return shipped if os.path.isfile(shipped) else name  # noqa: PTH113


def load_profile(
    path: FilePath, overrides: Sequence[str] = (), sections: Mapping[str, Data] | None = None
) -> Profile:
    """Read a profile.

    Args:
        path: YAML, at most `MAX_BYTES`.
        overrides: `dotted.path=value` each, values as YAML, later ones win:
            `traffic.load.0.concurrency=32`.
        sections: whole sections by key that replace those of the file, from other options.

    Raises:
        ProfileError: not found, not readable, or not UTF-8.
        InvalidYamlError: with every error in its contents.
    """
    text = read_file(path, "a profile", shipped_profiles())
    name = default_name(path)
    return load_profile_text(
        text, source=str(path), name=name, overrides=overrides, sections=sections
    )


def section_of(path: FilePath, key: str, overrides: Sequence[str] = ()) -> Data:
    """A section of a profile as written, with `--set` arguments, unchecked; None if it has none.

    Raises:
        ProfileError: not found, not readable, or not YAML.
    """
    document = yaml_source.read(read_file(path, "a profile", shipped_profiles()), str(path))
    expect_form(document, Profile, _EXAMPLE)
    for override in overrides:
        _apply(document, override)
    assert isinstance(document.data, dict)
    return document.data.get(key)


def default_name(path: FilePath) -> str:
    """The name of a profile that has none."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem)[:80].strip("-") or "profile"


def load_profile_text(
    text: str,
    *,
    source: str = "<text>",
    name: str = "profile",
    overrides: Sequence[str] = (),
    sections: Mapping[str, Data] | None = None,
) -> Profile:
    """Read a profile from YAML text. `source` is its name in messages; `name` is the default of the
    profile's name; `overrides` and `sections` are as for `load_profile`.

    Raises:
        InvalidYamlError: with every error.
    """
    document = yaml_source.read(text, source)
    expect_form(document, Profile, _EXAMPLE)
    for override in overrides:
        try:
            _apply(document, override)
        except InvalidYamlError as error:
            document.problems += error.problems
    assert isinstance(document.data, dict)
    for key, section in (sections or {}).items():
        _replace(document, key, section)
    if document.data.get("name", "") in ("", None):
        document.data["name"] = name
    return check(document, Profile, violations)


# --- overrides ---


def _apply(document: Source, override: str) -> None:
    """Write one `--set` into the document, with missing sections. Types check the keys later."""
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    place = Place(f"--set {override}")
    if not equals or not all(keys):
        fix = "write a dotted path and a value, as in --set traffic.load.0.concurrency=32"
        raise _wrong(place, (), "is not KEY=VALUE", fix)
    value = yaml_source.read(text, str(place), lines=False)
    if value.problems:
        raise InvalidYamlError(str(place), value.problems)
    here: Any = document.data
    path: Path = ()
    for position, key in enumerate(keys):
        part: str | int = key
        if isinstance(here, list):
            part = _index(here, key, path, place)
        elif not isinstance(here, dict):
            at = ".".join(map(str, path))
            fix = f"set {at} itself, as in --set {at}=…"
            raise _wrong(place, path, "is a single value without keys", fix)
        path = (*path, part)
        missing = part == len(here) if isinstance(here, list) else here.get(part) is None
        if position == len(keys) - 1:
            _set(here, part, value.data)
        elif missing:
            of_list = isinstance(here, dict) and keys[position + 1].isdecimal()
            _set(here, part, [] if of_list else {})
            document.places[path] = place
        here = here[part]
    _move(document, path, place)


def _replace(document: Source, key: str, section: Data) -> None:
    """Write a section of other options into the document."""
    assert isinstance(document.data, dict)
    document.data[key] = section
    _move(document, (key,), Place("options"))


def _move(document: Source, path: Path, place: Place) -> None:
    """Give a path and everything below it a new place."""
    for old in [old for old in document.places if old[: len(path)] == path]:
        del document.places[old]
    document.places[path] = place


def _wrong(place: Place, path: Path, what: str, fix: str) -> InvalidYamlError:
    return InvalidYamlError(str(place), [Problem(place, path, what, fix)])


def _set(section: Any, part: str | int, value: Data) -> None:  # noqa: ANN401 - a mapping or list
    if isinstance(part, int):
        section[part : part + 1] = [value]
    else:
        section[part] = value


def _index(items: list[Data], key: str, path: Path, place: Place) -> int:
    """Position in a list; one past its end appends."""
    if not (key.isascii() and key.isdecimal()) or len(key) > 6:
        what = f"is a list, and {key!r} is not a position in it"
        raise _wrong(place, path, what, f"count from 0, as in {'.'.join(map(str, path))}.0")
    if int(key) > len(items):
        what = f"has {len(items)} items; there is no position {key}"
        raise _wrong(place, path, what, f"use 0 to {len(items)} ({len(items)} appends)")
    return int(key)
