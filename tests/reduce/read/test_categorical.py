"""A column of names that compares like an array of strings."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from harness.reduce.read.categorical import Categorical

NAMES = st.lists(st.sampled_from(["ok", "dropped", "http_error", ""]), max_size=40)


def column(names: list[str], pieces: int = 1, *, dictionary: bool = False) -> pa.ChunkedArray:
    step = max(1, len(names) // pieces)
    parts = [pa.array(names[at : at + step], pa.string()) for at in range(0, len(names), step)]
    return pa.chunked_array(
        [part.dictionary_encode() for part in parts] if dictionary else parts,
        None if parts else pa.string(),
    )


@given(NAMES, st.integers(1, 4), st.booleans())
def test_it_says_what_an_array_of_strings_says(
    names: list[str], pieces: int, dictionary: bool
) -> None:
    labels = Categorical.of(column(names, pieces, dictionary=dictionary))
    strings = np.array(names, dtype=object)
    assert list(labels) == names
    assert len(labels) == len(names)
    for name in ("ok", "", "never"):
        assert ((labels == name) == (strings == name)).all()
        assert ((labels != name) == (strings != name)).all()
    assert labels.counts() == {name: names.count(name) for name in sorted(set(names))}
    some = np.arange(len(names))[::2]
    assert list(labels[some]) == names[::2]


def test_null_is_the_empty_name() -> None:
    assert list(Categorical.of(pa.chunked_array([pa.array(["a", None, "a"])]))) == ["a", "", "a"]


@given(NAMES)
def test_renaming_may_join_names(names: list[str]) -> None:
    joined = Categorical.of(column(names)).renamed(
        lambda name: "bad" if name.endswith("error") or name == "dropped" else name
    )
    assert list(joined) == ["bad" if name in {"http_error", "dropped"} else name for name in names]
    assert len(set(joined.names)) == len(joined.names)
