"""A profile's file -> `Profile`, or every error at once, each with its place and its fix."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from harness.checked_yaml import source as yaml_source
from harness.checked_yaml.check import check
from harness.checked_yaml.load import expect_form, read_file
from harness.checked_yaml.problems import InvalidYamlError, Place, Problem
from harness.checked_yaml.source import Data, Source
from harness.profile.rules import violations
from harness.profile.schema import Profile

_EXAMPLE: Final = "start with `purpose: smoke`, `model:` and `traffic:`; loadprofiles/ has examples"


def shipped_profiles() -> Path:
    """The folder of ready-made profiles: within the package where it was installed from a wheel,
    next to it in a checkout.
    """
    package = Path(__file__).resolve().parents[1]
    inside = package / "loadprofiles"
    return inside if inside.is_dir() else package.parent / "loadprofiles"


def profile_path(name: Path) -> Path:
    """The file that a command line names: a path, or the name of a ready-made profile. A file of
    that name in the working directory comes first.
    """
    if name.exists() or name.suffix or len(name.parts) != 1:
        return name
    shipped = shipped_profiles() / f"{name}.yaml"
    return shipped if shipped.is_file() else name


def load_profile(path: Path, overrides: Sequence[str] = ()) -> Profile:
    """Read a profile. The file is read once.

    Args:
        path: YAML, at most `MAX_BYTES`.
        overrides: `dotted.path=value` each, values as YAML, later ones win:
            `traffic.load.0.concurrency=32`.

    Raises:
        ProfileError: no such file, not readable, no UTF-8.
        InvalidYamlError: everything that is wrong with its contents.
    """
    text = read_file(path, "a profile", shipped_profiles())
    return load_profile_text(text, source=str(path), name=_name(path), overrides=overrides)


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
        InvalidYamlError: everything that is wrong with it.
    """
    document = yaml_source.read(text, source)
    expect_form(document, Profile, _EXAMPLE)
    for override in overrides:
        try:
            _apply(document, override)
        except InvalidYamlError as error:
            document.problems += error.problems
    assert isinstance(document.data, dict)
    if document.data.get("name", "") in ("", None):
        document.data["name"] = name
    return check(document, Profile, violations)


def _name(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem)[:80].strip("-") or "profile"


# --- overrides ---


def _apply(document: Source, override: str) -> None:
    """Write one `--set` into the document. Missing sections are made; whether the keys exist is for
    the types to say.
    """
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    place = Place(f"--set {override}")
    if not equals or not all(keys):
        fix = "write a dotted path and a value, as in --set traffic.load.0.concurrency=32"
        raise _wrong(place, [], "is not KEY=VALUE", fix)
    value = yaml_source.read(text, str(place), lines=False)
    if value.problems:
        raise InvalidYamlError(str(place), value.problems)
    path, container, last = _container(document, keys, place)
    if isinstance(container, dict):
        container[str(last)] = value.data
    else:
        index = int(last)
        container[index : index + 1] = [value.data]
    for old in [old for old in document.places if old[: len(path)] == path]:
        del document.places[old]
    document.places[path] = place


def _wrong(place: Place, path: list[str | int], what: str, fix: str) -> InvalidYamlError:
    return InvalidYamlError(str(place), [Problem(place, tuple(path), what, fix)])


def _container(
    document: Source, keys: list[str], place: Place
) -> tuple[tuple[str | int, ...], dict[str, Data] | list[Data], str | int]:
    here: Data = document.data
    path: list[str | int] = []
    for position, key in enumerate(keys):
        part: str | int = key
        if isinstance(here, list):
            part = _index(here, key, path, place)
        elif not isinstance(here, dict):
            at = ".".join(map(str, path))
            what = "is a single value with no keys below it"
            raise _wrong(place, path, what, f"set {at} itself, as in --set {at}=…")
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
        what = f"is a list, and {key!r} is not a position in it"
        raise _wrong(place, path, what, f"count from 0, as in {at}.0")
    index = int(key)
    if index > len(items):
        what = f"has {len(items)} items, and {index} is past them"
        raise _wrong(place, path, what, f"use 0 to {len(items)} ({len(items)} appends)")
    return index
