"""summary.json read back: exactly, over versions, and with a clear word where that cannot be."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from harness.artifacts.summaries import migrated
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.artifacts.run_result import load_result
from harness.artifacts.run_summary import (
    Agreement,
    ClassSummary,
    Distribution,
    Figure,
    RequestCounts,
    StageSummary,
    Summary,
    Verdict,
    Window,
    read_summary,
)
from harness.core.errors import ArtifactError
from harness.core.records import Basis, Concern, Severity, Status
from harness.reduce import reduce_run, write_summary

text = st.text(max_size=8)
number = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**6), 10**6)
maybe = st.none() | number
whole = st.integers(0, 10**9)
figure = st.builds(
    Figure,
    maybe,
    text,
    maybe,
    maybe,
    st.sampled_from(Basis),
    st.none() | text,
    st.none() | text,
    st.none() | text,
    maybe,
    maybe,
    maybe,
)
interval = st.none() | st.tuples(number, number)
distribution = st.builds(
    Distribution, *[maybe] * 8, whole, whole, st.dictionaries(text, interval, max_size=2)
)
value = st.recursive(
    maybe | text | st.booleans(), lambda inner: st.lists(inner, max_size=2), max_leaves=3
)
anything = st.dictionaries(text, value, max_size=2)
window = st.builds(Window, maybe, maybe, maybe, text, st.none() | anything)
by_outcome = st.dictionaries(text, whole, max_size=3)
counts = st.builds(
    RequestCounts,
    st.none() | whole,
    whole,
    whole,
    whole,
    whole,
    whole,
    by_outcome,
    st.none() | whole,
    st.none() | whole,
    whole,
)
figures = st.dictionaries(text, figure, max_size=3)
distributions = st.dictionaries(text, distribution, max_size=2)
concern = st.builds(Concern, text, st.sampled_from(Severity), text, maybe, maybe)
agreement = st.builds(
    Agreement, maybe, maybe, maybe, maybe, st.none() | st.booleans(), st.none() | text, anything
)
summaries = st.builds(
    Summary,
    schema_version=st.just(1),
    metric_version=whole,
    run_id=text,
    state=text,
    profile=st.dictionaries(text, st.none() | text, max_size=2),
    verdict=st.builds(Verdict, st.sampled_from(Status), st.lists(concern, max_size=3).map(tuple)),
    window=window,
    requests=counts,
    metrics=figures,
    latency=distributions,
    reconciliation=st.dictionaries(text, agreement, max_size=2),
    stages=st.lists(
        st.builds(StageSummary, text, st.none() | text, window, counts, figures, distributions),
        max_size=2,
    ).map(tuple),
    labels=st.dictionaries(text, st.none() | text | number, max_size=2),
    slos=st.dictionaries(text, maybe, max_size=2),
    server=anything,
    host=anything,
    client=anything,
    notes=st.lists(text, max_size=2).map(tuple),
    classes=st.lists(st.builds(ClassSummary, text, counts, figures, distributions), max_size=2).map(
        tuple
    ),
    rosetta=anything,
    quality=anything,
    energy=anything,
)


@given(summary=summaries)
@settings(max_examples=30, deadline=None)
def test_any_summary_comes_back_as_it_was(summary: Summary) -> None:
    stored = json.dumps(summary.to_dict(), allow_nan=False)
    again = Summary.from_dict(json.loads(stored))
    assert again == summary
    assert json.dumps(again.to_dict()) == stored


def test_every_field_of_a_summary_is_drawn() -> None:
    """A field that was added since must be added above."""
    source = Path(__file__).read_text()
    for field in fields(Summary):
        assert f"    {field.name}=" in source, field.name


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


def test_a_summary_that_the_first_version_of_the_reduction_wrote() -> None:
    """fixtures/summary-early.json: written by the first commit that had a reduction."""
    stored = Path(__file__).parent / "fixtures" / "summary-early.json"
    raw = json.loads(stored.read_text())
    summary = read_summary(stored)
    assert not {"classes", "rosetta", "quality", "energy", "client"} & set(raw)
    assert (summary.classes, summary.rosetta, summary.quality, summary.client) == ((), {}, {}, {})
    assert summary.metrics["output_tok_s"].value == raw["metrics"]["output_tok_s"]["value"]
    assert summary.latency["ttft_s"].p50 == raw["latency"]["ttft_s"]["p50"]
    assert summary.latency["ttft_s"].ci == {}
    assert Summary.from_dict(summary.to_dict()) == summary


def test_a_summary_of_early_version_1_lacks_what_came_later(stored: Path) -> None:
    before = read_summary(stored)
    early = read_summary(
        changed(stored, classes="gone", rosetta="gone", quality="gone", client="gone")
    )
    assert early == replace(before, classes=(), rosetta={}, quality={}, client={})


def test_keys_of_a_later_version_1_are_left_out(stored: Path) -> None:
    before = read_summary(stored)
    assert read_summary(changed(stored, invented_later=[1, 2])) == before


def test_older_versions_go_through_every_migration_in_between() -> None:
    table = {
        1: lambda old: {**old, "requests": old["counts"]},
        2: lambda old: {key: value for key, value in old.items() if key != "counts"},
    }
    assert migrated({"schema_version": 1, "counts": 7}, table=table, to=3) == {
        "schema_version": 3,
        "requests": 7,
    }
    assert migrated({"schema_version": 3, "requests": 7}, table=table, to=3) == {
        "schema_version": 3,
        "requests": 7,
    }
    with pytest.raises(ArtifactError, match="no longer reads"):
        migrated({"schema_version": 0}, table=table, to=3)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"schema_version": 2}, "schema_version 2; this harness reads up to 1"),
        ({"schema_version": "gone"}, "schema_version None"),
        ({"schema_version": True}, "schema_version True"),
        ({"window": "gone"}, "summary has no window"),
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
    [("{", "is not JSON"), ('{"a": NaN}', "NaN is no number"), ("[]", "no JSON object")],
)
def test_a_torn_file_is_refused(stored: Path, content: str, says: str) -> None:
    stored.write_text(content)
    with pytest.raises(ArtifactError, match=says):
        read_summary(stored)
    with pytest.raises(ArtifactError, match=says):
        load_result(stored.parent)
