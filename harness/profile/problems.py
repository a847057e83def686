"""Pydantic's errors -> problems that a person can act on: where, what, and the fix. No word of
pydantic's comes through.
"""

import copy
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from harness.profile import shape
from harness.profile.fields import Strict
from harness.profile.rules import Violation
from harness.profile.schema import Profile
from harness.profile.source import Data, Path, Source

_PASSES: Final = 8
"""Each pass repairs what the one before found, so that errors behind errors show too; the types are
five levels deep.
"""
_SHOWN: Final = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a profile.

    Attributes:
        where: `file:line:column`, or the `--set` that brought it in.
        order: sorts problems as they stand in the file, overrides last.
        path: dotted path of the key, `traffic.load.0.concurrency`; empty for the whole file.
        what: what is wrong.
        fix: what to do.
    """

    where: str
    order: tuple[int, int]
    path: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.headline}\n    fix: {self.fix}"

    @property
    def headline(self) -> str:
        """Where and what, in one line."""
        return (
            f"{self.where}: {self.path}: {self.what}" if self.path else f"{self.where}: {self.what}"
        )


@dataclass(frozen=True, slots=True)
class _Finding:
    path: Path
    what: str
    fix: str


def check(source: Source) -> tuple[Profile | None, list[tuple[Path, str, str]]]:
    """The profile that a document holds, or everything that is wrong with it as (path, what, fix).

    What is wrong is repaired in a copy and asked again, since a wrong `kind` hides the errors
    behind it, and a wrong key those of combinations.
    """
    data = copy.deepcopy(source.data)
    found: dict[tuple[Path, str], _Finding] = {}
    repaired: list[Path] = []
    profile: Profile | None = None
    for _ in range(_PASSES):
        try:
            profile = Profile.model_validate(data)
        except ValidationError as error:
            progress = False
            for detail in error.errors(include_url=False):
                if detail["type"] == "impossible":
                    for violation in detail["ctx"]["violations"]:
                        if not _concerns(violation, repaired):
                            finding = _Finding(violation.path, violation.what, violation.fix)
                            found.setdefault((finding.path, finding.what), finding)
                    continue
                if (
                    detail["type"] == "too_short"
                    and len(detail["input"]) >= detail["ctx"]["min_length"]
                ):
                    # pydantic counts the items that passed; those that did not have errors of their
                    # own
                    continue
                path, annotation = shape.yaml_path(detail["loc"])
                if not any(_related(path, old) for old in repaired):
                    at = (*path, "kind") if detail["type"] == "union_tag_invalid" else path
                    finding = _Finding(at, *_explain(detail, path, annotation, data))
                    found.setdefault((finding.path, finding.what), finding)
                mended = _repair(data, path, annotation, detail) if path not in repaired else None
                if mended is not None:
                    repaired.append(mended)
                    progress = True
            if not progress:
                break
        else:
            break
    if found:
        return None, [
            (finding.path, finding.what, finding.fix)
            for finding in _without_echoes(list(found.values()))
        ]
    return profile, []


def _without_echoes(findings: list[_Finding]) -> list[_Finding]:
    """A misspelt key is missing as well: once is enough."""
    meant = {
        (*finding.path[:-1], key)
        for finding in findings
        for key in shape.keys_by_name()
        if finding.fix == _did_you_mean(key)
    }
    return [
        finding for finding in findings if not (finding.what == _MISSING and finding.path in meant)
    ]


_MISSING: Final = "is missing"


def _did_you_mean(key: str) -> str:
    return f"did you mean `{key}`?"


def _related(one: Path, other: Path) -> bool:
    length = min(len(one), len(other))
    return one[:length] == other[:length]


def _concerns(violation: Violation, repaired: Iterable[Path]) -> bool:
    """Whether a combination rests on a key whose own error has been told, so that nothing can be
    said of it.
    """
    return any(
        _related(path, old) for old in repaired for path in (violation.path, *violation.rests_on)
    )


# --- one error in words ---


def _explain(
    detail: ErrorDetails, path: Path, annotation: shape.Annotation, data: Data
) -> tuple[str, str]:
    match detail["type"]:
        case "extra_forbidden":
            return _unknown_key(path, data)
        case "missing":
            return _MISSING, _add(str(path[-1]), annotation)
        case "union_tag_not_found" | "union_tag_invalid":
            return _wrong_kind(detail, annotation)
        case "string_pattern_mismatch":
            return f"{shown(detail['input'])} does not fit", _PATTERNS.get(
                str(path[-1]), f"it must match {detail['ctx']['pattern']}"
            )
        case "string_too_long":
            return f"is longer than {detail['ctx']['max_length']} characters", "shorten it"
        case "string_unicode":
            return "holds half of a surrogate pair, which is no text", "write the character itself"
        case "value_error":
            return _own_message(detail, annotation)
        case _:
            return _wrong_value(detail["input"], annotation)


_PATTERNS: Final[Mapping[str, str]] = {
    "name": "use letters, digits, `.`, `_` and `-`: it becomes part of file names and labels",
    "date": "write YYYY-MM or YYYY-MM-DD",
}


def _own_message(detail: ErrorDetails, annotation: shape.Annotation) -> tuple[str, str]:
    message = str(detail["ctx"]["error"])
    value = detail["input"]
    if not isinstance(value, dict | list) and str(value) not in message:
        message = f"{message}; it is {shown(value)}"
    return message, f"write {shape.describe(annotation)}"


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


def _unknown_key(path: Path, data: Data) -> tuple[str, str]:
    key, section = str(path[-1]), _at(data, path[:-1])
    here = _section_fields(path[:-1], section)
    valid = [name for name in here if name != "kind"] + (["kind"] if "kind" in here else [])
    return (
        "is not a key here",
        _suggestion(key, path, section, valid) or f"remove it; keys here: {', '.join(valid)}",
    )


def _suggestion(key: str, path: Path, section: Data, valid: list[str]) -> str | None:
    """The key that was meant: a near one of this section, the same one elsewhere, a near one
    elsewhere.
    """
    known = shape.keys_by_name()
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


def _section_fields(path: Path, section: Data) -> list[str]:
    """Keys of the section at a path, as the document chooses its variants."""
    model = _model_at(path, section)
    return list(model.model_fields) if model is not None else []


def _model_at(path: Path, section: Data) -> type[Strict] | None:
    here: shape.Annotation = Profile
    chain = list(path)
    for part in chain:
        model, item = shape.model_of(here), shape.item_of(here)
        if model is not None and part in model.model_fields:
            here = shape.field_annotation(model.model_fields[str(part)])
        elif item is not None:
            here = item
        else:
            variants = shape.variants_of(here)
            options = [variant for variant in variants.values() if part in variant.model_fields]
            if not options:
                return None
            here = shape.field_annotation(options[0].model_fields[str(part)])
    variants = shape.variants_of(here)
    if variants and isinstance(section, dict):
        return variants.get(str(section.get("kind")))
    return shape.model_of(here)


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
    data: Data, path: Path, annotation: shape.Annotation, detail: ErrorDetails
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
    elif detail["type"] != "extra_forbidden" and annotation is not None and _required(path):
        filler = _filler(annotation)
        parent = _at(data, path[:-1])
        if filler is not None and isinstance(parent, dict) and parent.get(str(path[-1])) != filler:
            parent[str(path[-1])] = filler
            return path
    return path if _drop(data, path) else None


def _required(path: Path) -> bool:
    """Whether no variant of the section lets the key out."""
    here: list[shape.Annotation] = [Profile]
    field = None
    for part in path:
        following: list[shape.Annotation] = []
        for annotation in here:
            model, item = shape.model_of(annotation), shape.item_of(annotation)
            sections = (
                [model] if model is not None else list(shape.variants_of(annotation).values())
            )
            for section in sections:
                if part in section.model_fields:
                    field = section.model_fields[str(part)]
                    following.append(shape.field_annotation(field))
            if item is not None:
                field = None
                following.append(item)
        here = following
    return field is not None and field.is_required()


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
