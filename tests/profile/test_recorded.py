"""The view of a recorded profile has no key that the profile's schema has not."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import BaseModel

from harness.profile.recorded import RecordedProfile
from harness.profile.schema import Profile


def models_in(kind: Any) -> set[type[BaseModel]]:
    """Models that a type may be."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {kind}
    return {model for inner in get_args(kind) for model in models_in(inner)}


def dataclass_in(kind: Any) -> Any:
    """The dataclass that a type or the entries of a list are; None without one."""
    if is_dataclass(kind):
        return kind
    return next((found for one in get_args(kind) if (found := dataclass_in(one))), None)


def keys(view: Any, models: set[type[BaseModel]], place: str = "") -> Iterator[tuple[str, bool]]:
    """Every field of a view, and whether one of the models has it."""
    hints = get_type_hints(view)
    for field in fields(view):
        here = f"{place}{field.name}"
        found = [
            model.model_fields[field.name] for model in models if field.name in model.model_fields
        ]
        yield here, bool(found)
        if (inner := dataclass_in(hints[field.name])) is not None:
            yield from keys(
                inner, {m for one in found for m in models_in(one.annotation)}, f"{here}."
            )


FOUND = dict(keys(RecordedProfile, {Profile}))


@pytest.mark.parametrize("key", FOUND)
def test_a_key_of_the_view_is_one_of_the_schema(key: str) -> None:
    assert FOUND[key]


def test_keys_of_all_depths_are_compared() -> None:
    assert {"name", "server.gpu_count", "traffic.load.steps.rate_per_s", "energy.pue.value"} <= set(
        FOUND
    )
