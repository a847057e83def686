"""Describe the types of a YAML file: its keys, where each key belongs, and its values in words.

Error messages and the profile reference are made from this, so they cannot fall behind the types.
"""

import enum
import functools
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from harness.checked_yaml.fields import FROM_KEY, Form, Strict
from harness.checked_yaml.problems import Path

Annotation = Any  # a type expression

ITEM: Final = "N"
"""Any position in a list: `traffic.load.N.window_s`."""
NAME: Final = "NAME"
"""A name that the file chooses."""


def _origin(annotation: Annotation) -> Annotation:
    return get_origin(annotation)  # as Any: its own type would make comparisons errors


def plain(annotation: Annotation) -> Annotation:
    """An annotation without its metadata and without `| None`."""
    annotation = _bare(annotation)
    if _is_union(annotation):
        rest = [arg for arg in get_args(annotation) if arg is not type(None)]
        if len(rest) == 1:
            return plain(rest[0])
        return Union[tuple(rest)]  # noqa: UP007 - built at run time
    return annotation


def _is_union(annotation: Annotation) -> bool:
    return _origin(annotation) in {Union, types.UnionType}


def model_of(annotation: Annotation) -> type[Strict] | None:
    """The section that an annotation is, if it is exactly one."""
    annotation = plain(annotation)
    return annotation if isinstance(annotation, type) and issubclass(annotation, Strict) else None


def variants_of(annotation: Annotation) -> dict[str, type[Strict]]:
    """The sections that `kind` chooses from, by kind; empty if there is no such choice."""
    annotation = plain(annotation)
    if not _is_union(annotation):
        return {}
    models = [model_of(arg) for arg in get_args(annotation)]
    return {_kind_of(model): model for model in models if model is not None} if all(models) else {}


def sections_of(annotation: Annotation) -> list[type[Strict]]:
    """The section of an annotation, or all that its `kind` chooses from."""
    model = model_of(annotation)
    return [model] if model is not None else list(variants_of(annotation).values())


def annotations_at(path: Path, root: Annotation) -> list[Annotation]:
    """The types that a path may have, over all kinds of the sections above."""
    here = [root]
    for part in path:
        here = [inner for annotation in here for inner in _inside(annotation, part)]
    return here


def _inside(annotation: Annotation, part: str | int) -> Iterator[Annotation]:
    for section in sections_of(annotation):
        if part in section.model_fields:
            yield field_annotation(section.model_fields[str(part)])
    for inner in (item_of(annotation), value_of(annotation)):
        if inner is not None:
            yield inner


def keys_of(model: type[Strict]) -> list[str]:
    """The keys that a section accepts."""
    return [name for name, field in model.model_fields.items() if FROM_KEY not in field.metadata]


def _kind_of(model: type[Strict]) -> str:
    return str(get_args(model.model_fields["kind"].annotation)[0])


def item_of(annotation: Annotation) -> Annotation | None:
    """The type of a list's items; None if it is not a list."""
    annotation = plain(annotation)
    return get_args(annotation)[0] if _origin(annotation) is tuple else None


def value_of(annotation: Annotation) -> Annotation | None:
    """The type of a mapping's values; None if it is not a mapping with free keys."""
    annotation = plain(annotation)
    return get_args(annotation)[1] if _origin(annotation) is dict else None


def field_annotation(field: FieldInfo) -> Annotation:
    """A field's complete annotation: pydantic keeps the metadata separately."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def yaml_path(loc: tuple[str | int, ...], root: Annotation) -> tuple[Path, Annotation]:
    """Path in the YAML of a pydantic error location, and the type there (None for an unknown key).

    pydantic's locations also name the chosen variant of a union and the members of a plain union,
    which are not in the YAML.
    """
    path: list[str | int] = []
    here = root
    for part in loc:
        model, variants = model_of(here), variants_of(here)
        item, value = item_of(here), value_of(here)
        if model is not None:
            path.append(part)
            if part not in model.model_fields:
                return tuple(path), None
            here = field_annotation(model.model_fields[str(part)])
        elif variants:
            here = variants[str(part)]
        elif item is not None and isinstance(part, int):
            path.append(part)
            here = item
        elif value is not None:
            if part != "[key]":
                path.append(part)
                here = value
        elif (member := _list_member(here, part)) is not None:
            here = member
        else:
            break
    return tuple(path), here


def _list_member(annotation: Annotation, part: str | int) -> Annotation | None:
    """The list of a plain union, where pydantic's location names it: `tuple[…]`."""
    if not str(part).startswith(("tuple[", "list[")) or not _is_union(plain(annotation)):
        return None
    members = get_args(plain(annotation))
    return next((member for member in members if item_of(member) is not None), None)


@functools.cache
def keys_by_name(root: Annotation) -> Mapping[str, Sequence[tuple[str, str | None]]]:
    """Every key of a type, with each place it can have: dotted path and `kind` (None: any)."""
    found: dict[str, list[tuple[str, str | None]]] = {}
    for path, kind, model in sections(root):
        for name in keys_of(model):
            found.setdefault(name, []).append((".".join((*path, name)), kind))
    return found


def sections(
    annotation: Annotation, path: tuple[str, ...] = (), kind: str | None = None
) -> Iterator[tuple[tuple[str, ...], str | None, type[Strict]]]:
    """Every section of a type, outer ones first: its path, its `kind` (None: any), its model."""
    model = model_of(annotation)
    if model is not None:
        yield path, kind, model
        for name in keys_of(model):
            yield from sections(model.model_fields[name].annotation, (*path, name))
    variants = variants_of(annotation)
    for variant, section in variants.items():
        yield from sections(section, path, variant)
    if not variants and _is_union(plain(annotation)):
        for arg in get_args(plain(annotation)):
            yield from sections(arg, path)
    for inner, name in ((item_of(annotation), ITEM), (value_of(annotation), NAME)):
        if inner is not None:
            yield from sections(inner, (*path, name))


def metadata_of(annotation: Annotation) -> list[object]:
    """The metadata of an `Annotated` type."""
    return list(get_args(annotation)[1:]) if _origin(annotation) is Annotated else []


def _bare(annotation: Annotation) -> Annotation:
    return get_args(annotation)[0] if _origin(annotation) is Annotated else annotation


def describe(annotation: Annotation) -> str:
    """The valid values, in words that end a sentence: `a whole number, at least 1`."""
    metadata = metadata_of(annotation)
    annotation = _bare(annotation)
    form = next((item for item in metadata if isinstance(item, Form)), None)
    kinds = ", ".join(variants_of(annotation))
    if form is not None:
        distribution = f", or a distribution (`kind`: {kinds})" if kinds else ""
        return f"{form.text} such as {form.example}{distribution}"
    if _is_union(annotation):
        if kinds:
            return f"a section with `kind`: {kinds}"
        if type(None) in get_args(annotation):
            inner = plain(annotation) if len(get_args(annotation)) > 2 else get_args(annotation)[0]
            return describe(Annotated[(inner, *metadata)] if metadata else inner)
        return " or ".join(describe(arg) for arg in get_args(annotation))
    if words := allowed(annotation):
        return " or ".join(f"`{word}`" for word in words)
    if (model := model_of(annotation)) is not None:
        required = [key for key in keys_of(model) if model.model_fields[key].is_required()]
        keys = ", ".join(f"{key}: …" for key in required)
        return f"a section {{{keys}}}" if keys else "a section of keys"
    item, value = item_of(annotation), value_of(annotation)
    if item is not None:
        return f"a list (each {describe(item)})"
    if value is not None:
        return "a mapping of " + ("text to text" if value is str else f"names to {describe(value)}")
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return ", ".join([names[annotation], *_bounds(metadata)])


def _bounds(metadata: list[object]) -> Iterator[str]:
    for item in metadata:
        match item:
            case FieldInfo():
                yield from _bounds(item.metadata)
            case annotated_types.Ge(ge=limit):
                yield f"at least {limit:,g}"
            case annotated_types.Gt(gt=limit):
                yield f"above {limit:,g}"
            case annotated_types.Le(le=limit):
                yield f"at most {limit:,g}"
            case annotated_types.Lt(lt=limit):
                yield f"below {limit:,g}" if limit != 2**63 else "below 2^63"
            case _:
                pass


def allowed(annotation: Annotation) -> tuple[str, ...]:
    """The words of a type that is one of a few words, over all members of a union; else empty."""
    annotation = plain(annotation)
    if _is_union(annotation):
        return tuple(word for arg in get_args(annotation) for word in allowed(arg))
    if _origin(annotation) is Literal:
        return tuple(str(arg) for arg in get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return tuple(str(member.value) for member in annotation)
    return ()
