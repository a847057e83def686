"""Where tokens are in time: of everybody, and of some."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.reduce import reduce_run
from harness.reduce.energy.attribution import decode_context
from harness.reduce.over_time.flows import Flows, flows, flows_of
from harness.reduce.over_time.tokens import gaps, moments, output, output_of, tpot
from harness.reduce.read.run import Run, load_run

S = 1e9


def loaded(builder: Any, root: Path) -> Run:
    return load_run(builder.write(root), wanted=lambda _: True)


def test_a_token_s_context_is_its_prompt_and_what_came_before(builder: Any, tmp_path: Path) -> None:
    """A token was generated in the context of its prompt and of what came before it."""
    builder.request(3, tokens=4)  # after 100 tokens of prompt, half of each token itself counted
    builder.request(9, tokens=2, chunk_tok=[1, 3], output_tok=4)
    builder.request(
        15, tokens=4, chunk_dt_us=None, chunk_bytes=None, chunk_tok=None
    )  # evenly, in its mean context
    run = loaded(builder, tmp_path / "run")
    context = decode_context(run.requests, output(run.requests))
    assert context.between(0, 6 * S) == pytest.approx(100.5 + 101.5 + 102.5 + 103.5)
    assert context.between(6 * S, 9.21 * S) == pytest.approx(100.5)
    assert context.between(9.21 * S, 12 * S) == pytest.approx(3 * 102.5)
    assert context.between(12 * S, 30 * S) == pytest.approx(4 * 102)


def test_parts_add_up_to_the_whole_in_every_account(
    noisy: Callable[..., Any], tmp_path: Path
) -> None:
    builder = noisy(4, requests=120)
    for number, row in enumerate(builder.requests):
        row["class"] = "agent" if number % 3 else "chat"
        row["cache_write_tok"] = 7
        if number % 10 == 4 and row["outcome"] == "ok":  # no chunks were kept
            row.update(chunk_dt_us=None, chunk_bytes=None, chunk_tok=None)
        if number % 10 == 7 and row["outcome"] == "ok":  # no count: estimated
            row.update(outcome="interrupted", output_tok=None, chunk_tok=None)
    run = loaded(builder, tmp_path / "run")
    whole = flows(run)
    parts = [
        flows_of(run, whole, run.requests.workload_class == name) for name in ("agent", "chat")
    ]
    edges = np.linspace(0, 30 * S, 41)

    def all_of(flow: Flows) -> list[Any]:
        return [
            flow.output.flow,
            flow.input,
            flow.computed,
            flow.cache_read,
            flow.cache_write,
            flow.in_flight,
            flow.live,
        ]

    for one, *others in zip(all_of(whole), *(all_of(part) for part in parts), strict=True):
        assert np.sum(one.per_bin(edges)) > 0
        assert sum(other.per_bin(edges) for other in others) == pytest.approx(
            one.per_bin(edges), rel=1e-9, abs=1e-6
        )
    assert sum(part.output.estimated_tok for part in parts) == pytest.approx(
        whole.output.estimated_tok
    )
    assert all(0 < part.output.estimated_tok < whole.output.estimated_tok for part in parts)


def test_whose_chunks_tell_tokens_is_said_of_those_alone(builder: Any, tmp_path: Path) -> None:
    builder.request(3, **{"class": "tells"})
    builder.request(4, chunk_tok=None, **{"class": "silent"})
    requests = loaded(builder, tmp_path / "run").requests
    whole = output(requests)
    assert not whole.told
    assert output_of(requests, whole, requests.workload_class == "tells").told
    assert not output_of(requests, whole, requests.workload_class == "silent").told


def test_gaps_are_those_of_the_counted_requests(builder: Any, tmp_path: Path) -> None:
    builder.request(3, tokens=3, gap_us=10_000)
    builder.request(4, tokens=4, gap_us=30_000, chunk_tok=[1, 0, 2, 1], output_tok=4)
    requests = loaded(builder, tmp_path / "run").requests
    first, second = np.array([True, False]), np.array([False, True])
    assert gaps(requests, first, told=True)[0] == pytest.approx([0.01, 0.01])
    values, weight = gaps(requests, second, told=True)
    assert values == pytest.approx([0.03, 0.03])  # 60 ms before two tokens
    assert weight is not None
    assert weight.tolist() == [2, 1]
    assert gaps(requests, second, told=True, by_tok=False)[0] == pytest.approx([0.06, 0.03])
    assert gaps(requests, second, told=False)[0] == pytest.approx([0.03, 0.03, 0.03])


def test_pace_is_of_the_tokens_after_the_first_chunk(builder: Any, tmp_path: Path) -> None:
    builder.request(3, tokens=3, gap_us=10_000, chunk_tok=[2, 1, 3], output_tok=6)
    builder.request(4, tokens=1)
    requests = loaded(builder, tmp_path / "run").requests
    pace = tpot(requests)
    assert pace[0] == pytest.approx(0.02 / 4)
    assert np.isnan(pace[1])


def test_moments_are_of_those_asked_for(builder: Any, tmp_path: Path) -> None:
    for start in (3, 4, 5):
        builder.request(start)
    requests = loaded(builder, tmp_path / "run").requests
    some = np.array([True, False, True])
    assert moments(requests, requests.intended, some).between(0, 4.5 * S) == 1
    assert moments(requests, requests.intended, some, requests.output_tok).between(0, 30 * S) == 20


def test_lost_requests_are_slower_than_any_in_an_interval_too(builder: Any, tmp_path: Path) -> None:
    """A fifth is lost: where p90 would lie nobody knows, and so it is with its interval; p50 has
    both.
    """
    draw = random.Random(3)
    for number in range(800):
        if number % 5:
            builder.request(2 + number / 40, ttft_s=draw.uniform(0.1, 0.9))
        else:
            builder.lost(2 + number / 40, "timeout_first_byte")
    latency = reduce_run(builder.write(tmp_path / "run")).latency["ttft_s"]
    assert latency.p90 is None
    assert latency.ci["p90"] is None
    assert latency.p50 is not None
    assert latency.ci["p50"] is not None


def test_stages_that_only_requests_name_are_in_the_order_of_their_requests(
    builder: Any, tmp_path: Path
) -> None:
    builder.request(3, stage="zeta")
    builder.request(12, stage="alpha")
    root = builder.write(tmp_path / "run")
    (root / "events.jsonl").unlink()
    assert [stage.name for stage in reduce_run(root).stages] == ["zeta", "alpha"]
