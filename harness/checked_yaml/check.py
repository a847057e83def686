"""Data -> a value of a type, or every problem that a person can act on: where, what, and the fix.
No word of pydantic's comes through.
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
"""What single keys cannot say: combinations that are impossible. Rules see a value whose keys are
each right by themselves.
"""

_PASSES: Final = 4
"""Each pass repairs what the one before found, so that errors behind errors show too: kinds, kinds
inside them, what cannot be repaired in place, and the value that rules see.
"""
_SHOWN: Final = 60


def check(source: Source, root: type[T], rules: Rules[T] | None = None) -> T:
    """The value that a document holds.

    What is wrong is repaired in a copy and asked again, since a wrong `kind` hides the errors
    behind it, and a wrong key those of combinations.

    Raises:
        InvalidYamlError: everything that is wrong.
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
    """What is wrong with a document, found in a copy that is repaired on the way."""

    def __init__(self, source: Source, root: shape.Annotation) -> None:
        self._source = source
        self._root = root
        self._data = copy.deepcopy(source.data)
        self._found: dict[tuple[Path, str], Problem] = {}
        self._repaired: list[Path] = []

    def value(self) -> Any:  # noqa: ANN401 - of the type of the root
        """What the repaired copy holds; None where it cannot be repaired."""
        adapter = TypeAdapter(self._root)
        for _ in range(_PASSES):
            try:
                return adapter.validate_python(self._data)
            except ValidationError as error:
                details = error.errors(include_url=False)
                repaired = [self._take(detail) for detail in details]
                if not any(repaired) and not self._drop_above(details):
                    return None
        return None

    def _take(self, detail: ErrorDetails) -> bool:
        """Note an error and repair it; whether that changed anything."""
        if detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]:
            # pydantic counts the items that passed; those that did not have errors of their own
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
        """Note an impossible combination, unless it rests on a key that is wrong by itself."""
        paths = (violation.path, *violation.rests_on)
        if not any(_related(path, old) for old in self._repaired for path in paths):
            self._add(violation.path, violation.what, violation.fix)

    def problems(self) -> list[Problem]:
        """Each once: a misspelt key is missing as well."""
        found = list(self._found.values())
        meant = {
            (*problem.keys[:-1], key)
            for problem in found
            for key in shape.keys_by_name(self._root)
            if problem.fix == _did_you_mean(key)
        }
        return [
            problem for problem in found if problem.what != _MISSING or problem.keys not in meant
        ]


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
            return _MISSING, _add(str(path[-1]), annotation)
        case "union_tag_not_found" | "union_tag_invalid":
            return _wrong_kind(detail, annotation)
        case "string_pattern_mismatch":
            return f"{shown(detail['input'])} does not fit", (
                _correction(annotation) or f"it must match {detail['ctx']['pattern']}"
            )
        case "string_too_long":
            return f"is longer than {detail['ctx']['max_length']} characters", "shorten it"
        case "string_unicode":
            return "holds half of a surrogate pair, which is no text", "write the character itself"
        case "value_error":
            return _own_message(detail, annotation)
        case _:
            return _wrong_value(detail["input"], annotation)


def _correction(annotation: shape.Annotation) -> str | None:
    """What the type itself says to write."""
    said = [item.text for item in shape.metadata_of(annotation) if isinstance(item, Correction)]
    return said[0] if said else None


def _own_message(detail: ErrorDetails, annotation: shape.Annotation) -> tuple[str, str]:
    message = str(detail["ctx"]["error"])
    value = detail["input"]
    if not isinstance(value, dict | list) and str(value) not in message:
        message = f"{message}; it is {shown(value)}"
    return message, _correction(annotation) or f"write {shape.describe(annotation)}"


def _wrong_value(value: object, annotation: shape.Annotation) -> tuple[str, str]:
    wanted = shape.describe(annotation)
    if value is None:
        return "is empty", f"write {wanted}, or remove the line"
    if value == [] or value == ():
        return "is an empty list", f"write {wanted}"
    what = f"must be {wanted}; it is {shown(value)}"
    words = shape.allowed(annotation)
    near = difflib.get_close_matches(str(value), words, n=1)
    if near:
        return what, f"did you mean `{near[0]}`?"
    if words and shape.describe(annotation) == shape.choices(annotation):
        return what, f"write {shape.choices(annotation)}"
    plain = shape.plain(annotation)
    if plain is bool and str(value).lower() in {"yes", "no", "on", "off", "y", "n"}:
        return (
            what,
            (
                f"write {'true' if str(value).lower() in {'yes', 'on', 'y'} else 'false'}: YAML 1.2"
                " knows no yes and no"
            ),
        )
    if isinstance(value, bool | int | float) and (
        plain is str or shape.value_of(annotation) is str
    ):
        return what, f'quote it: "{str(value).lower() if isinstance(value, bool) else value}"'
    if shape.item_of(annotation) is not None and not isinstance(value, dict | list):
        return what, f"write a list: [{value}]"
    if isinstance(value, str) and plain in {int, float} and _is_number(value):
        return what, f"write it without quotes or suffix, as in {1 if plain is int else 1.5}"
    return what, f"write {wanted}"


def _is_number(text: str) -> bool:
    return text.strip()[:1].isdigit()


def shown(value: object) -> str:
    """A value as it might stand in YAML, cut to a line."""
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


def _add(key: str, annotation: shape.Annotation) -> str:
    words = shape.allowed(annotation)
    if words:
        return "add " + " or ".join(f"`{key}: {word}`" for word in words)
    return f"add `{key}`: {shape.describe(annotation)}"


def _wrong_kind(detail: ErrorDetails, annotation: shape.Annotation) -> tuple[str, str]:
    variants = shape.variants_of(annotation)
    guess = _guess_kind(detail["input"], variants)
    kinds = ", ".join(f"`{kind}`" for kind in variants)
    suggestion = f"`kind: {guess}`? " if guess is not None else ""
    if detail["type"] == "union_tag_not_found":
        if not isinstance(detail["input"], dict):
            return (
                f"must be {shape.describe(annotation)}; it is {shown(detail['input'])}",
                f"write `kind: …` below it; kinds are {kinds}",
            )
        return (
            "has no `kind`",
            f"{f'did you mean {suggestion}' if suggestion else 'add one. '}Kinds are {kinds}",
        )
    kind = detail["input"].get("kind") if isinstance(detail["input"], dict) else detail["input"]
    near = difflib.get_close_matches(str(kind), variants, n=1)
    meant = near[0] if near else guess
    return (
        f"there is no kind {shown(kind)} here",
        f"{f'did you mean `kind: {meant}`? ' if meant else ''}Kinds are {kinds}",
    )


def _guess_kind(value: object, variants: Mapping[str, type[Strict]]) -> str | None:
    """The variant that has most of the keys that were written; None where none has more than
    another.
    """
    if not isinstance(value, dict):
        return None
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
    return (
        "is not a key here",
        _suggestion(key, path, section, valid, root) or f"remove it; keys here: {', '.join(valid)}",
    )


def _suggestion(
    key: str, path: Path, section: Data, valid: list[str], root: shape.Annotation
) -> str | None:
    """The key that was meant: a near one of this section, the same one elsewhere, a near one
    elsewhere.
    """
    known = shape.keys_by_name(root)
    absent = [name for name in valid if not (isinstance(section, dict) and name in section)]
    here = ".".join(shape.ITEM if isinstance(part, int) else str(part) for part in path)
    if key in known:
        kinds = [kind for dotted, kind in known[key] if dotted == here and kind is not None]
        if kinds:
            return f"`{key}` belongs to `kind: {'` or `'.join(kinds)}`"
        near = _close(key, absent, 0.8)
        if near:
            return _did_you_mean(near)
        places = dict.fromkeys(_under(dotted, kind) for dotted, kind in known[key])
        return f"`{key}` belongs at {' or '.join(list(places)[:3])}"
    near = _close(key, absent, 0.6) or _close(key, valid, 0.6)
    if near:
        return _did_you_mean(near)
    elsewhere = _close(key, list(known), 0.75)
    return f"did you mean {_under(*known[elsewhere][0])}?" if elsewhere else None


def _close(key: str, names: list[str], cutoff: float) -> str | None:
    """The nearest name; units are what people forget, so `window` and `window_ms` are near
    `window_s`.
    """
    stem = key.replace("-", "_").lower()
    near = difflib.get_close_matches(stem, names, n=1, cutoff=cutoff)
    if near:
        return near[0]
    stems = {name.rsplit("_", 1)[0]: name for name in names if "_" in name}
    near = difflib.get_close_matches(stem.rsplit("_", 1)[0], stems, n=1, cutoff=max(cutoff, 0.8))
    return stems[near[0]] if near else None


def _under(dotted: str, kind: str | None) -> str:
    return f"`{dotted}`" + (f" (kind: {kind})" if kind is not None else "")


def _section_fields(path: Path, section: Data, root: shape.Annotation) -> list[str]:
    """Keys of the section at a path, as the document chooses its variants."""
    for annotation in shape.annotations_at(path, root)[:1]:
        variants = shape.variants_of(annotation)
        kind = section.get("kind") if variants and isinstance(section, dict) else None
        model = variants.get(str(kind)) if variants else shape.model_of(annotation)
        return shape.keys_of(model) if model is not None else []
    return []


# --- repairs, to see what else is wrong ---


def _at(data: Data, path: Path) -> Data:
    here: Data = data
    for part in path:
        if isinstance(here, dict) and part in here:
            here = here[str(part)]
        elif isinstance(here, list) and isinstance(part, int) and 0 <= part < len(here):
            here = here[part]
        else:
            return None
    return here


def _repair(
    data: Data,
    path: Path,
    annotation: shape.Annotation,
    detail: ErrorDetails,
    root: shape.Annotation,
) -> Path | None:
    """Change a copy so that this error is gone: the path of which nothing more can be said, or None
    if nothing could be done.
    """
    if detail["type"] in {"union_tag_not_found", "union_tag_invalid"}:
        section = _at(data, path)
        variants = shape.variants_of(annotation)
        if isinstance(section, dict):
            near = difflib.get_close_matches(str(section.get("kind")), variants, n=1)
            kind = near[0] if near else _guess_kind(section, variants)
            if kind is not None and kind != section.get("kind"):
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
    """Whether no variant of the section lets the key out."""
    fields = [
        section.model_fields[str(path[-1])]
        for annotation in shape.annotations_at(path[:-1], root)
        for section in shape.sections_of(annotation)
        if path[-1] in section.model_fields
    ]
    return bool(fields) and all(field.is_required() for field in fields)


def _filler(annotation: shape.Annotation) -> Data:
    """Some valid value; None where there is no obvious one."""
    words = shape.allowed(annotation)
    if words:
        return words[0]
    plain = shape.plain(annotation)
    fillers: dict[object, Data] = {int: 1, float: 1, str: "x", bool: False}
    return fillers.get(plain) if isinstance(plain, type) else None


def _drop(data: Data, path: Path) -> bool:
    """Remove the nearest key on the way up; items of lists stay, since the places of their
    neighbours would shift.
    """
    for length in range(len(path), 0, -1):
        parent, key = _at(data, path[: length - 1]), path[length - 1]
        if isinstance(parent, dict) and isinstance(key, str) and key in parent:
            del parent[key]
            return True
    return False
