"""The same records under other tools' definitions, worked out by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from harness.artifacts.finalize import finalize
from harness.artifacts.layout import RunDir
from harness.reduce import reduce_run
from harness.reduce.figures.other_tools import HARNESS, TERMS, TOOLS, provisioned_kw, rosetta_table


@pytest.fixture(name="two")
def _two(builder: Any, tmp_path: Path) -> Callable[..., Any]:
    """Two answers at 3 s and 5 s: sent 1 ms late, first chunk of 2 tokens 400 ms later, then 4
    chunks of 2 tokens every 100 ms.
    """

    def make(*, told: bool = True, gpus: int = 0, watts: float | None = None) -> Any:
        builder.gpus = gpus
        for start in (3.0, 5.0):
            builder.request(
                start,
                ttft_s=0.401,
                tokens=5,
                gap_us=100_000,
                output_tok=10,
                chunk_tok=[2] * 5 if told else None,
                input_tok=190,
            )
        builder.lost(4, "timeout_first_byte")
        if watts is not None:
            builder.constant_power(watts)
        return reduce_run(builder.write(tmp_path / "run")).rosetta

    return make


def figure(found: Any, tool: str, term: str) -> Any:
    return found.tools[tool].figures[term]


# Sent to first: 0.4 s; to last chunk: 0.8 s; to the end 0.801 s (a millisecond after the last
# chunk). 10 tokens in chunks of 2.
@pytest.mark.parametrize(
    ("tool", "term", "seconds"),
    [
        ("vllm_bench", "ttft_s", 0.4),
        ("vllm_bench", "tpot_s", 0.4 / 9),
        ("vllm_bench", "itl_s", 0.1),
        ("aiperf", "itl_s", 0.4 / 9),
        ("guidellm", "itl_s", 0.4 / 9),
        ("guidellm", "tpot_s", 0.8 / 10),
        ("inference_perf", "tpot_s", 0.4 / 9),
        ("inference_perf", "itl_s", 0.4 / 9),  # 4 gaps of 0.1 s and 5 of nothing
        ("genai_bench", "tpot_s", 0.401 / 9),
        ("llmperf", "itl_s", 0.8 / 10),
        ("mlperf_endpoints", "tpot_s", 0.401 / 8),
        ("inferencex", "itl_s", 0.1),
    ],
)
def test_latencies_by_hand(two: Callable[..., Any], tool: str, term: str, seconds: float) -> None:
    found = figure(two(), tool, term)
    assert found.mean == pytest.approx(seconds, rel=1e-9)
    assert found.unit == "s"


@pytest.mark.parametrize(
    ("tool", "value"),
    [
        ("vllm_bench", 20 / 2.801 / 4),  # output per second / concurrency 4
        ("inferencex", 9 / 0.4),
        ("mlperf_endpoints", 8 / 0.401),
    ],
)
def test_a_users_pace_by_hand(two: Callable[..., Any], tool: str, value: float) -> None:
    # From the first sending at 3.001 s to the last answer's end at 5.802 s are 2.801 s.
    found = two()
    assert figure(found, tool, "tok_s_user").value == pytest.approx(value, rel=1e-9)
    assert figure(found, "aiperf", "tok_s_user").p50 == pytest.approx(9 / 0.4)
    assert figure(found, "guidellm", "tok_s_user").p50 == pytest.approx(10 / 0.801)


ORACLE = """
with seen as (
    select
        (first_token_ns - sent_ns) / 1e9 as to_first, (last_token_ns - sent_ns) / 1e9 as to_last, (done_ns - sent_ns) / 1e9 as to_done,
        output_tok as n, input_tok, list_sum(chunk_tok) - chunk_tok[1] as after_first, sent_ns, done_ns
    from read_parquet(?) where outcome = 'ok' and stage = 'main'
), paced as (
    select
        *, case when n > 1 then (to_last - to_first) / (n - 1) end as pace,
        case when n > 1 then (to_done - to_first) / (n - 1) end as to_end,
        case when after_first > 0 then (to_done - to_first) / after_first end as after_chunk
    from seen
)
select
    avg(to_first), quantile_cont(to_first, 0.99), avg(pace), quantile_cont(pace, 0.99), avg(to_last / n), quantile_cont(to_end, 0.5),
    1 / quantile_cont(after_chunk, 0.9), quantile_cont(1 / pace, 0.9), quantile_cont(n / to_done, 0.5),
    sum(n) / ((max(done_ns) - min(sent_ns)) / 1e9)
from paced
"""


@pytest.mark.parametrize("seed", [11, 12])
def test_an_independent_computation_agrees(
    noisy: Callable[..., Any], tmp_path: Path, seed: int
) -> None:
    run = noisy(seed, requests=150).write(tmp_path / "run")
    finalize(RunDir(run))
    with duckdb.connect() as database:
        (expected,) = database.execute(ORACLE, [str(RunDir(run).requests)]).fetchall()
    found = reduce_run(run).rosetta
    cells = [
        ("vllm_bench", "ttft_s", "mean"),
        ("aiperf", "ttft_s", "p99"),
        ("aiperf", "itl_s", "mean"),
        ("vllm_bench", "tpot_s", "p99"),
        ("guidellm", "tpot_s", "mean"),
        ("genai_bench", "tpot_s", "p50"),
        ("mlperf_endpoints", "tok_s_user", "value"),
        ("aiperf", "tok_s_user", "p90"),
        ("llmperf", "tok_s_user", "p50"),
        ("inference_perf", "output_tok_s", "value"),
    ]
    got = [getattr(figure(found, tool, term), statistic) for tool, term, statistic in cells]
    assert got == pytest.approx(list(expected), rel=1e-9)


def test_throughput_is_over_the_whole_stage_and_per_gpu_of_what_the_tool_counts(
    two: Callable[..., Any],
) -> None:
    found = two(gpus=2, watts=300.0)
    for tool in TOOLS:
        assert figure(found, tool, "duration_s").value == pytest.approx(2.801)
        assert figure(found, tool, "output_tok_s").value == pytest.approx(20 / 2.801)
    assert figure(found, "vllm_bench", "tok_s_gpu").value == pytest.approx(20 / 2.801 / 2)
    assert figure(found, "inferencex", "tok_s_gpu").value == pytest.approx(400 / 2.801 / 2)
    assert figure(found, "inferencex", "tok_s_per_mw").value == pytest.approx(
        400 / 2.801 / 2 * 1000 / 1.73
    )


def test_power_of_less_than_five_seconds_is_absent_and_says_so(two: Callable[..., Any]) -> None:
    short = figure(two(gpus=1, watts=300.0), "aiperf", "power_w")
    assert short.value is None
    assert short.note


def test_power_as_measured_at_the_boards(steady: Callable[..., Any], tmp_path: Path) -> None:
    builder = steady(gpus=2)
    builder.constant_power(300.0)
    found = reduce_run(builder.write(tmp_path / "run")).rosetta
    assert figure(found, "aiperf", "power_w").value == pytest.approx(600.0, rel=1e-3)
    assert figure(found, "inferencex", "power_w").value == pytest.approx(300.0, rel=1e-3)
    tokens_s = figure(found, "aiperf", "output_tok_s").value
    assert figure(found, "aiperf", "output_tok_per_j").value == pytest.approx(
        tokens_s / 600, rel=1e-3
    )


def test_without_a_gpu_its_figures_are_absent_with_the_reason(two: Callable[..., Any]) -> None:
    found = two()
    for tool, term in (
        ("vllm_bench", "tok_s_gpu"),
        ("inferencex", "tok_s_per_mw"),
        ("aiperf", "power_w"),
    ):
        assert figure(found, tool, term).value is None
        assert "no GPU" in figure(found, tool, term).note


def test_where_chunks_do_not_tell_tokens_what_needs_them_is_absent(two: Callable[..., Any]) -> None:
    found = two(told=False)
    absent = figure(found, "mlperf_endpoints", "tpot_s")
    assert (absent.mean, absent.n) == (None, None)
    assert "tokens per chunk" in absent.note
    assert figure(found, "vllm_bench", "itl_s").mean == pytest.approx(0.1)


def test_a_run_without_an_answer_has_no_rosetta(builder: Any, tmp_path: Path) -> None:
    builder.lost(3, "connection_error")
    assert reduce_run(builder.write(tmp_path / "run")).rosetta is None
    assert rosetta_table(None) is None


def test_one_answer_of_one_token_is_enough_for_a_table(builder: Any, tmp_path: Path) -> None:
    builder.request(3, tokens=1)
    found = reduce_run(builder.write(tmp_path / "run")).rosetta
    absent = figure(found, "vllm_bench", "tpot_s")
    assert (absent.mean, absent.n, bool(absent.note)) == (None, None, True)
    table = rosetta_table(found)
    assert table is not None
    assert table.head[:3] == ("term", "this harness", "vllm bench serve")
    assert len(table.rows) == len(table.terms) == len(TERMS)


def test_the_dictionary_is_whole() -> None:
    assert set(HARNESS) | {"duration_s"} == set(TERMS)
    for tool in TOOLS.values():
        assert set(tool.terms) <= set(TERMS)
        assert {"ttft_s", "output_tok_s", "duration_s"} <= set(tool.terms)
        assert "/" in tool.source
        assert tool.window


def test_provisioned_power_is_what_the_fleets_catalog_says() -> None:
    from harness.fleet.site.catalog import gpu_type, gpus

    for name in ("NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA B200", "NVIDIA GB200"):
        all_in_kw = gpus()[gpu_type(name) or ""].all_in_kw
        assert all_in_kw is not None
        assert provisioned_kw(name) == all_in_kw.value
    assert provisioned_kw("NVIDIA A100-SXM4-80GB") is None
    assert provisioned_kw(None) is None
