"""summary.json read back: exactly, over versions, and with a clear word where that cannot be."""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.artifacts.run_result import load_result
from harness.artifacts.run_summary import Client, Figure, Summary, read_summary, summary_json
from harness.core.errors import ArtifactError
from harness.reduce import reduce_run, write_summary

EARLY = Path(__file__).parent / "fixtures" / "summary-early.json"

text = st.text(max_size=8)


@cache
def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a type of the summary."""
    inner = [values_of(one) for one in get_args(kind) if one is not Ellipsis]
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(kind, **{f.name: values_of(hints[f.name]) for f in fields(kind)})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return st.sampled_from(kind)
    if get_origin(kind) is Mapping:
        return st.dictionaries(text, inner[1], max_size=2)
    if get_origin(kind) is tuple:
        whole = Ellipsis in get_args(kind)
        return st.lists(inner[0], max_size=2).map(tuple) if whole else st.tuples(*inner)
    if inner:
        return st.one_of(*inner)
    return {
        float: st.floats(allow_nan=False, allow_infinity=False),
        int: st.integers(-(10**9), 10**9),
        str: text,
        bool: st.booleans(),
        object: st.none() | text | st.integers(0, 9),
        type(None): st.none(),
    }[kind]


@given(summary=values_of(Summary).map(lambda drawn: replace(drawn, schema_version=1)))
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_any_summary_comes_back_as_it_was(summary: Summary, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    stored = json.dumps(summary_json(summary), allow_nan=False)
    path.write_text(stored)
    again = read_summary(path)
    assert again == summary
    assert json.dumps(summary_json(again)) == stored


def test_nan_is_never_written(tmp_path: Path) -> None:
    figure = Figure(float("nan"), "W")
    summary = read_summary(EARLY)
    with pytest.raises(ValueError, match="JSON"):
        write_summary(tmp_path, replace(summary, metrics={"power_w": figure}))
    assert not list(tmp_path.iterdir())


def test_a_reduced_run_comes_back_from_its_file(noisy: Callable[..., Any], tmp_path: Path) -> None:
    run = noisy(seed=3, gpus=1).write(tmp_path / "run")
    summary = reduce_run(run)
    path = write_summary(run, summary)
    assert read_summary(path) == summary
    assert write_summary(run, read_summary(path)).read_bytes() == path.read_bytes()


@pytest.fixture(name="stored")
def _stored(steady: Callable[..., Any], tmp_path: Path) -> Path:
    run = steady(window_s=4.0).write(tmp_path / "run")
    return write_summary(run, reduce_run(run))


def changed(path: Path, **fields: Any) -> Path:
    raw = json.loads(path.read_text())
    path.write_text(
        json.dumps({key: value for key, value in (raw | fields).items() if value != "gone"})
    )
    return path


def test_a_summary_that_the_first_version_of_the_reduction_wrote(tmp_path: Path) -> None:
    """fixtures/summary-early.json: written by the first commit that had a reduction."""
    raw = json.loads(EARLY.read_text())
    summary = read_summary(EARLY)
    assert not {"classes", "rosetta", "quality", "energy", "client"} & set(raw)
    assert (summary.classes, summary.rosetta, summary.quality) == ((), None, None)
    assert summary.client == Client()
    assert summary.metrics["output_tok_s"].value == raw["metrics"]["output_tok_s"]["value"]
    assert summary.latency["ttft_s"].p50 == raw["latency"]["ttft_s"]["p50"]
    assert summary.latency["ttft_s"].ci == {}
    assert read_summary(write_summary(tmp_path, summary)) == summary


def test_a_summary_of_early_version_1_lacks_what_came_later(stored: Path) -> None:
    before = read_summary(stored)
    early = read_summary(
        changed(stored, classes="gone", rosetta="gone", quality="gone", client="gone")
    )
    assert early == replace(before, classes=(), rosetta=None, quality=None, client=Client())


def test_keys_of_a_later_version_1_are_left_out(stored: Path) -> None:
    before = read_summary(stored)
    assert read_summary(changed(stored, invented_later=[1, 2])) == before


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"schema_version": 2}, "schema_version 2"),
        ({"schema_version": "gone"}, "schema_version None"),
        ({"schema_version": True}, "schema_version True"),
        ({"window": "gone"}, "window"),
        ({"window": [1]}, "summary.window is"),
        ({"verdict": {"status": "fine", "concerns": []}}, "summary.verdict.status is 'fine'"),
        (
            {"metrics": {"power_w": {"value": "much", "unit": "W"}}},
            "summary.metrics.power_w.value is 'much'",
        ),
        ({"stages": {}}, "summary.stages is"),
    ],
)
def test_what_is_newer_or_damaged_is_refused_by_name(
    stored: Path, fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(ArtifactError) as caught:
        read_summary(changed(stored, **fields))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [("{", "JSON"), ('{"a": NaN}', "NaN"), ("[]", "JSON")],
)
def test_a_torn_file_is_refused(stored: Path, content: str, says: str) -> None:
    stored.write_text(content)
    with pytest.raises(ArtifactError, match=says):
        read_summary(stored)
    with pytest.raises(ArtifactError, match=says):
        load_result(stored.parent)


@pytest.mark.parametrize("version", [0, -1, True, 2, None, "1"])
def test_a_summary_of_another_schema_is_refused(version: object, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(json.loads(EARLY.read_text()) | {"schema_version": version}))
    for lenient in (False, True):
        with pytest.raises(ArtifactError, match="schema_version"):
            read_summary(path, lenient=lenient)


@pytest.mark.parametrize("damage", [b"\xff\xfe{", b"[" * 100_000, b'{"schema_version": 1}'])
def test_a_summary_that_is_none_names_its_file(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_bytes(damage)
    with pytest.raises(ArtifactError, match=r"summary\.json"):
        read_summary(tmp_path / "summary.json", lenient=True)
