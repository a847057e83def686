"""Validate data against a type: a value, or every problem with its place and its fix, in our own
words instead of pydantic's.
"""

import copy
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from harness.checked_yaml import shape
from harness.checked_yaml.fields import Correction, Strict
from harness.checked_yaml.problems import InvalidYamlError, Path, Problem, Violation
from harness.checked_yaml.source import Data, Source

T = TypeVar("T")
Rules = Callable[[T], Iterable[Violation]]
"""Find impossible combinations of keys that are each valid by themselves."""

_PASSES: Final = 4
"""Each pass repairs what the previous one found, which uncovers errors behind errors: kinds, kinds
inside them, what cannot be repaired in place, and the value that rules see.
"""
_SHOWN: Final = 60


def check(source: Source, root: type[T], rules: Rules[T] | None = None) -> T:
    """Validate a document.

    Errors are repaired in a copy, which is validated again: a wrong `kind` hides the errors behind
    it, and a wrong key those of combinations.

    Raises:
        InvalidYamlError: with every error.
    """
    found = _Findings(source, root)
    value: T | None = found.value()
    for violation in rules(value) if rules is not None and value is not None else ():
        found.add_violation(violation)
    problems = [*source.problems, *found.problems()]
    if problems or value is None:
        raise InvalidYamlError(source.name, sorted(problems, key=lambda problem: problem.order))
    return value


class _Findings:
    def __init__(self, source: Source, root: shape.Annotation) -> None:
        self._source = source
        self._root = root
        self._data = copy.deepcopy(source.data)
        self._found: dict[tuple[Path, str], Problem] = {}
        self._repaired: list[Path] = []

    def value(self) -> Any:  # noqa: ANN401 - of the type of the root
        """The repaired copy; None if it cannot be repaired."""
        adapter = TypeAdapter(self._root)
        for _ in range(_PASSES):
            try:
                return adapter.validate_python(self._data)
            except ValidationError as error:
                details = self._deepest(error.errors(include_url=False))
                repaired = [self._take(detail) for detail in details]
                if not any(repaired) and not self._drop_above(details):
                    return None
        return None

    def _deepest(self, details: list[ErrorDetails]) -> list[ErrorDetails]:
        """Without errors of a value's other forms: what is wrong inside a list is not that it is
        no word.
        """
        paths = [shape.yaml_path(detail["loc"], self._root)[0] for detail in details]
        return [
            detail
            for detail, path in zip(details, paths, strict=True)
            if not any(len(other) > len(path) and _related(path, other) for other in paths)
        ]

    def _take(self, detail: ErrorDetails) -> bool:
        """Record an error and repair it; True if the repair changed anything."""
        if detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]:
            # pydantic counts the items that passed; the others have errors of their own
            return False
        path, annotation = shape.yaml_path(detail["loc"], self._root)
        if not any(_related(path, old) for old in self._repaired):
            at = (*path, "kind") if detail["type"] == "union_tag_invalid" else path
            self._add(at, *_explain(detail, path, annotation, self._data, self._root))
        if path in self._repaired:
            return False
        repaired = _repair(self._data, path, annotation, detail, self._root)
        if repaired is not None:
            self._repaired.append(repaired)
        return repaired is not None

    def _drop_above(self, details: Sequence[ErrorDetails]) -> bool:
        """Remove the nearest section above a key whose repair did not help."""
        for detail in details:
            path, _ = shape.yaml_path(detail["loc"], self._root)
            for length in range(len(path) - 1, 0, -1):
                if path[:length] not in self._repaired and _drop(self._data, path[:length]):
                    self._repaired.append(path[:length])
                    return True
        return False

    def _add(self, path: Path, what: str, fix: str) -> None:
        self._found.setdefault((path, what), Problem(self._source.place(path), path, what, fix))

    def add_violation(self, violation: Violation) -> None:
        """Record an impossible combination, unless one of its keys is wrong by itself."""
        paths = (violation.path, *violation.rests_on)
        if not any(_related(path, old) for old in self._repaired for path in paths):
            self._add(violation.path, violation.what, violation.fix)

    def problems(self) -> list[Problem]:
        """Each problem once: the key that a misspelled one stands for is not also missing."""
        found = self._found.values()
        meant = {
            (*problem.keys[:-1], key)
            for problem in found
            for key in shape.keys_by_name(self._root)
            if problem.fix == _did_you_mean(key)
        }
        return [one for one in found if one.what != _MISSING or one.keys not in meant]


_MISSING: Final = "is missing"


def _did_you_mean(key: str) -> str:
    return f"did you mean `{key}`?"


def _related(one: Path, other: Path) -> bool:
    length = min(len(one), len(other))
    return one[:length] == other[:length]


# --- one error in words ---


def _explain(
    detail: ErrorDetails,
    path: Path,
    annotation: shape.Annotation,
    data: Data,
    root: shape.Annotation,
) -> tuple[str, str]:
    match detail["type"]:
        case "extra_forbidden":
            return _unknown_key(path, data, root)
        case "missing":
            words = [f"`{path[-1]}: {word}`" for word in shape.allowed(annotation)]
            return _MISSING, f"add {' or '.join(words)}" if words else (
                f"add `{path[-1]}`: {shape.describe(annotation)}"
            )
        case "union_tag_not_found" | "union_tag_invalid":
            return _wrong_kind(detail, annotation)
        case "string_pattern_mismatch":
            return f"{_shown(detail['input'])} has the wrong format", (
                _correction(annotation) or f"it must match {detail['ctx']['pattern']}"
            )
        case "string_too_long":
            return f"is longer than {detail['ctx']['max_length']} characters", "shorten it"
        case "string_unicode":
            return "contains half of a surrogate pair", "write the character itself"
        case "value_error":
            return _own_message(detail, annotation)
        case _:
            return _wrong_value(detail["input"], annotation)


def _correction(annotation: shape.Annotation) -> str | None:
    metadata = shape.metadata_of(annotation)
    return next((item.text for item in metadata if isinstance(item, Correction)), None)


def _own_message(detail: ErrorDetails, annotation: shape.Annotation) -> tuple[str, str]:
    message = str(detail["ctx"]["error"])
    value = detail["input"]
    if not isinstance(value, dict | list) and str(value) not in message:
        message = f"{message}; it is {_shown(value)}"
    return message, _correction(annotation) or f"write {shape.describe(annotation)}"


def _wrong_value(value: object, annotation: shape.Annotation) -> tuple[str, str]:
    required = shape.describe(annotation)
    if value is None:
        return "is empty", f"write {required}, or remove the line"
    if value == [] or value == ():
        return "is an empty list", f"write {required}"
    what = f"must be {required}; it is {_shown(value)}"
    if near := difflib.get_close_matches(str(value), shape.allowed(annotation), n=1):
        return what, _did_you_mean(near[0])
    plain, lower = shape.plain(annotation), str(value).lower()
    if plain is bool and lower in {"yes", "no", "on", "off", "y", "n"}:
        meant = "true" if lower in {"yes", "on", "y"} else "false"
        return what, f"write {meant}: YAML 1.2 has no yes and no"
    if isinstance(value, bool | int | float) and (
        plain is str or shape.value_of(annotation) is str
    ):
        return what, f'quote it: "{lower if isinstance(value, bool) else value}"'
    if shape.item_of(annotation) is not None and not isinstance(value, dict | list):
        return what, f"write a list: [{value}]"
    if isinstance(value, str) and plain in {int, float} and value.strip()[:1].isdigit():
        return what, f"write it without quotes or suffix, as in {1 if plain is int else 1.5}"
    return what, f"write {required}"


def _shown(value: object) -> str:
    """A value as YAML would show it, cut to one line."""
    match value:
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case None:
            return "empty"
        case bool():
            return str(value).lower()
        case str():
            text = repr(value)
        case _:
            text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _wrong_kind(detail: ErrorDetails, annotation: shape.Annotation) -> tuple[str, str]:
    variants = shape.variants_of(annotation)
    value = detail["input"]
    kinds = ", ".join(f"`{kind}`" for kind in variants)
    meant = _meant_kind(value, variants)
    suggestion = f"did you mean `kind: {meant}`? " if meant else ""
    if detail["type"] == "union_tag_not_found":
        if not isinstance(value, dict):
            return (
                f"must be {shape.describe(annotation)}; it is {_shown(value)}",
                f"write `kind: …` below it; kinds are {kinds}",
            )
        return "has no `kind`", f"{suggestion or 'add one. '}Kinds are {kinds}"
    kind = value.get("kind") if isinstance(value, dict) else value
    return f"unknown kind {_shown(kind)}", f"{suggestion}Kinds are {kinds}"


def _meant_kind(value: object, variants: Mapping[str, type[Strict]]) -> str | None:
    """The variant with a name near the written `kind`; else the one that has most of the written
    keys, or None if several have as many.
    """
    if not isinstance(value, dict):
        return None
    if near := difflib.get_close_matches(str(value.get("kind", "")), variants, n=1):
        return near[0]
    scores = {
        kind: sum(key in model.model_fields for key in value if key != "kind")
        for kind, model in variants.items()
    }
    best = max(scores.values(), default=0)
    winners = [kind for kind, score in scores.items() if score == best]
    return winners[0] if best > 0 and len(winners) == 1 else None


# --- unknown keys ---


def _unknown_key(path: Path, data: Data, root: shape.Annotation) -> tuple[str, str]:
    key, section = str(path[-1]), _at(data, path[:-1])
    here = _section_fields(path[:-1], section, root)
    valid = [name for name in here if name != "kind"] + (["kind"] if "kind" in here else [])
    fix = _suggestion(key, path, section, valid, root)
    return "unknown key", fix or f"remove it; keys here: {', '.join(valid)}"


def _suggestion(
    key: str, path: Path, section: Data, valid: list[str], root: shape.Annotation
) -> str | None:
    """The key that was probably meant: in this section, of the same name elsewhere, or a similar
    one elsewhere.
    """
    known = shape.keys_by_name(root)
    absent = [name for name in valid if not (isinstance(section, dict) and name in section)]
    here = ".".join(shape.ITEM if isinstance(part, int) else str(part) for part in path)
    if key in known:
        kinds = [kind for dotted, kind in known[key] if dotted == here and kind is not None]
        if kinds:
            return f"`{key}` belongs to `kind: {'` or `'.join(kinds)}`"
        if near := _close(key, absent, 0.8):
            return _did_you_mean(near)
        places = dict.fromkeys(_under(dotted, kind) for dotted, kind in known[key])
        return f"`{key}` belongs at {' or '.join(list(places)[:3])}"
    if near := _close(key, absent, 0.6) or _close(key, valid, 0.6):
        return _did_you_mean(near)
    elsewhere = _close(key, list(known), 0.75)
    return f"did you mean {_under(*known[elsewhere][0])}?" if elsewhere else None


def _close(key: str, names: list[str], cutoff: float) -> str | None:
    """The nearest name. People forget units, so `window` and `window_ms` are near `window_s`."""
    stem = key.replace("-", "_").lower()
    if near := difflib.get_close_matches(stem, names, n=1, cutoff=cutoff):
        return near[0]
    stems = {name.rsplit("_", 1)[0]: name for name in names if "_" in name}
    near = difflib.get_close_matches(stem.rsplit("_", 1)[0], stems, n=1, cutoff=max(cutoff, 0.8))
    return stems[near[0]] if near else None


def _under(dotted: str, kind: str | None) -> str:
    return f"`{dotted}`" + (f" (kind: {kind})" if kind is not None else "")


def _section_fields(path: Path, section: Data, root: shape.Annotation) -> list[str]:
    """Keys of the section at a path, of the variant that the document chooses."""
    annotation = next(iter(shape.annotations_at(path, root)), None)
    variants = shape.variants_of(annotation)
    kind = section.get("kind") if variants and isinstance(section, dict) else None
    model = variants.get(str(kind)) if variants else shape.model_of(annotation)
    return shape.keys_of(model) if model is not None else []


# --- repairs, which uncover further errors ---


def _at(data: Data, path: Path) -> Any:  # noqa: ANN401 - part of a document
    here: Any = data
    for part in path:
        try:
            here = here[part]
        except (LookupError, TypeError):
            return None
    return here


def _repair(
    data: Data,
    path: Path,
    annotation: shape.Annotation,
    detail: ErrorDetails,
    root: shape.Annotation,
) -> Path | None:
    """Remove an error from the copy. Returns the changed path, below which later errors are
    ignored, or None if nothing could be changed.
    """
    if detail["type"] in {"union_tag_not_found", "union_tag_invalid"}:
        section = _at(data, path)
        kind = _meant_kind(section, shape.variants_of(annotation))
        if isinstance(section, dict) and kind is not None and kind != section.get("kind"):
            section["kind"] = kind
            return (*path, "kind")
    elif detail["type"] != "extra_forbidden" and annotation is not None and _required(path, root):
        filler = _filler(annotation)
        parent = _at(data, path[:-1])
        if filler is not None and isinstance(parent, dict) and parent.get(str(path[-1])) != filler:
            parent[str(path[-1])] = filler
            return path
    return path if _drop(data, path) else None


def _required(path: Path, root: shape.Annotation) -> bool:
    """Whether every variant of the section that has the key requires it."""
    fields = [
        section.model_fields[str(path[-1])]
        for annotation in shape.annotations_at(path[:-1], root)
        for section in shape.sections_of(annotation)
        if path[-1] in section.model_fields
    ]
    return bool(fields) and all(field.is_required() for field in fields)


def _filler(annotation: shape.Annotation) -> Data:
    """Any valid value; None if there is no obvious one."""
    if words := shape.allowed(annotation):
        return words[0]
    plain = shape.plain(annotation)
    fillers: dict[object, Data] = {int: 1, float: 1, str: "x", bool: False}
    return fillers.get(plain) if isinstance(plain, type) else None


def _drop(data: Data, path: Path) -> bool:
    """Remove the nearest key on the way up. Items of lists stay, since the places of those after
    them would shift.
    """
    for length in range(len(path), 0, -1):
        parent, key = _at(data, path[: length - 1]), path[length - 1]
        if isinstance(parent, dict) and isinstance(key, str) and key in parent:
            del parent[key]
            return True
    return False
