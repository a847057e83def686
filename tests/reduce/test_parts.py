"""Counters, percentiles and intervals by themselves."""

import itertools
import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.artifacts.run_summary import Histogram
from harness.core.metric_names import Concept
from harness.reduce.over_time.counters import ServerCounters, unwrap
from harness.reduce.read.run import Samples
from harness.reduce.statistics.intervals import (
    BATCHES,
    distribution,
    percentile,
    ratio_interval,
)

steps = st.lists(st.integers(0, 1000), min_size=1, max_size=40)


@given(steps=steps, resets=st.sets(st.integers(1, 39)))
def test_counters_survive_resets(steps: list[int], resets: set[int]) -> None:
    """Whatever is counted after a reset is found again; a reset to a value as high as before cannot
    be seen by anyone.
    """
    exposed, truth, value, whole = [], [], 0, 0
    for i, step in enumerate(steps):
        if i in resets and value > step:
            value = 0
        value += step
        whole += step
        exposed.append(value)
        truth.append(whole)
    values, _ = unwrap(np.array(exposed, dtype=np.float64))
    assert values.tolist() == truth


@given(
    values=st.lists(st.floats(0.001, 1000), min_size=1, max_size=60), censored=st.integers(0, 20)
)
def test_censoring_only_takes_away(values: list[float], censored: int) -> None:
    """Percentiles with censored requests are those of the same requests had they taken for ever."""
    whole = np.sort(np.concatenate([values, np.full(censored, np.inf)]))
    ordered = np.sort(np.array(values))
    for q in (0.0, 0.5, 0.9, 0.99):
        got = percentile(ordered, q, censored)
        position = (len(whole) - 1) * q
        above = whole[int(np.ceil(position))]
        assert (got is None) == np.isinf(above)
        if got is not None:
            assert got == pytest.approx(
                float(
                    np.quantile(
                        whole[np.isfinite(whole)], min(1.0, position / max(1, len(values) - 1))
                    )
                ),
                rel=1e-9,
            )


@given(
    data=st.lists(st.tuples(st.floats(0.001, 10), st.integers(1, 5)), min_size=1, max_size=40),
    censored=st.integers(0, 3),
)
def test_weights_are_repetition(data: list[tuple[float, int]], censored: int) -> None:
    values, weights = np.array([v for v, _ in data]), np.array([float(w) for _, w in data])
    weighted = distribution(values, censored, weights)
    repeated = distribution(np.repeat(values, weights.astype(int)), censored)
    for key in ("p50", "p90", "p95", "p99", "p999", "max", "min", "n", "censored"):
        assert getattr(weighted, key) == getattr(repeated, key)
    assert weighted.mean == pytest.approx(repeated.mean)


def batches(rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    parts = np.array_split(rates, BATCHES)
    return (
        np.array([float(np.sum(part)) for part in parts]),
        np.array([float(len(part)) for part in parts]),
    )


def test_a_trend_and_a_constant_have_no_interval() -> None:
    assert ratio_interval(*batches(np.linspace(10, 100, 600))) is None
    assert ratio_interval(*batches(np.full(600, 5.0))) is None


def series(
    values: dict[str, list[float]], label: str = "{}"
) -> dict[tuple[str, str, str], tuple[np.ndarray, np.ndarray]]:
    return {
        ("replica-0", name, label): (
            np.arange(len(v), dtype=np.float64) * 1e9,
            np.array(v, dtype=np.float64),
        )
        for name, v in values.items()
    }


def test_counters_are_interpolated_and_summed_over_replicas() -> None:
    one = series({"vllm:generation_tokens_total": [0, 10, 20, 30]})
    two = {("replica-1", name, labels): points for (_, name, labels), points in one.items()}
    times = np.arange(4, dtype=np.float64) * 1e9
    counters = ServerCounters(Samples({**one, **two}, {"replica-0": times, "replica-1": times}, {}))
    assert counters.difference(Concept.GENERATED_TOKENS, 0.5e9, 2.25e9) == pytest.approx(35)
    assert (
        counters.difference(Concept.GENERATED_TOKENS, 0.5e9, 3.5e9) is None
    )  # nobody asked the server after 3 s
    assert counters.difference(Concept.PROMPT_TOKENS, 0.5e9, 2e9) is None  # it does not tell
    assert counters.whole(Concept.GENERATED_TOKENS, None, None) == 60


def test_a_counter_that_shows_up_late_counted_from_zero() -> None:
    times = np.arange(4, dtype=np.float64) * 1e9
    late = {
        ("replica-0", "vllm:generation_tokens_total", "{}"): (times[2:], np.array([50.0, 70.0]))
    }
    counters = ServerCounters(Samples(late, {"replica-0": times}, {}))
    assert counters.difference(Concept.GENERATED_TOKENS, 0.0, 3e9) == 70
    assert counters.whole(Concept.GENERATED_TOKENS, 0.0, 3e9) == 70


TTFT = "vllm:time_to_first_token_seconds"


def histogram(
    total_s: list[float], buckets: dict[str, list[float]], extra: str = ""
) -> dict[tuple[str, str, str], tuple[np.ndarray, np.ndarray]]:
    """Cumulative buckets by upper bound, the last of which is `+Inf`; `extra` are further labels."""
    plain = "{" + extra.rstrip(",") + "}"
    points = series({f"{TTFT}_sum": total_s, f"{TTFT}_count": buckets["+Inf"]}, plain)
    for bound, counts in buckets.items():
        points |= series({f"{TTFT}_bucket": counts}, "{" + extra + f'"le":"{bound}"' + "}")
    return points


def counted(*parts: Any, scrapes: int = 4) -> ServerCounters:
    times = np.arange(scrapes, dtype=np.float64) * 1e9
    merged = {key: points for part in parts for key, points in part.items()}
    return ServerCounters(
        Samples(merged, dict.fromkeys(sorted({target for target, *_ in merged}), times), {})
    )


class TestHistograms:
    def test_they_are_differenced(self) -> None:
        found = counted(
            histogram([5, 5, 9], {"0.1": [8, 8, 10], "0.5": [10, 10, 30], "+Inf": [10, 10, 30]})
        ).histogram(Concept.TTFT, 0.0, 2e9)
        assert found == Histogram(
            count=20, mean_s=pytest.approx(0.2), p50_bucket_s=(0.1, 0.5), p99_bucket_s=(0.1, 0.5)
        )

    def test_the_first_bucket_begins_at_0_and_the_last_has_no_end(
        self,
    ) -> None:
        """What lies beyond the last bound has no upper one and the first bucket begins at 0."""
        found = counted(histogram([0, 90], {"0.1": [0, 6], "+Inf": [0, 10]})).histogram(
            Concept.TTFT, 0.0, 1e9
        )
        assert found is not None
        assert (found.p50_bucket_s, found.p99_bucket_s) == ((0.0, 0.1), (0.1, None))

    def test_a_reset_loses_nothing_of_what_came_after_it(self) -> None:
        found = counted(histogram([5, 8, 1], {"0.1": [10, 12, 3], "+Inf": [10, 14, 4]})).histogram(
            Concept.TTFT, 0.0, 2e9
        )
        assert found is not None
        assert (found.count, found.mean_s) == (8, pytest.approx(4 / 8))
        assert found.p50_bucket_s == (0.0, 0.1)  # 5 of 8

    def test_replicas_add_up_and_ranks_that_repeat_a_figure_do_not(self) -> None:
        one = {"0.1": [0.0, 8.0], "+Inf": [0.0, 10.0]}
        other = {
            ("replica-1", name, labels): points
            for (_, name, labels), points in histogram(
                [0, 30], {"0.1": [0, 0], "+Inf": [0, 20]}
            ).items()
        }
        both = counted(histogram([0, 1], one), other).histogram(Concept.TTFT, 0.0, 1e9)
        assert both == Histogram(
            count=30,
            mean_s=pytest.approx(31 / 30),
            p50_bucket_s=(0.1, None),
            p99_bucket_s=(0.1, None),
        )
        ranks = [
            {
                (target, name.replace("vllm", "sglang"), labels): points
                for (target, name, labels), points in histogram([0, s], one, rank).items()
            }
            for rank, s in (('"tp_rank":"0",', 1), ('"tp_rank":"1",', 1))
        ]
        found = counted(*ranks).histogram(Concept.TTFT, 0.0, 1e9)
        assert found == Histogram(
            count=10, mean_s=pytest.approx(0.1), p50_bucket_s=(0.0, 0.1), p99_bucket_s=(0.1, None)
        )

    def test_one_that_shows_up_within_the_window_counted_from_zero(self) -> None:
        late = {
            key: (points[0][2:], points[1][2:])
            for key, points in histogram(
                [0, 0, 1, 2], {"0.1": [0, 0, 10, 20], "+Inf": [0, 0, 10, 20]}
            ).items()
        }
        found = counted(late).histogram(Concept.TTFT, 0.0, 3e9)
        assert found == Histogram(
            count=20, mean_s=pytest.approx(0.1), p50_bucket_s=(0.0, 0.1), p99_bucket_s=(0.0, 0.1)
        )

    def test_nothing_counted_and_nobody_asked_are_absent(self) -> None:
        still = counted(histogram([5, 5, 5], {"0.1": [8, 8, 8], "+Inf": [8, 8, 8]}))
        assert still.histogram(Concept.TTFT, 0.0, 2e9) is None
        assert still.histogram(Concept.TTFT, 0.0, 9e9) is None
        assert still.histogram(Concept.ITL, 0.0, 2e9) is None
        assert still.histogram(Concept.GENERATED_TOKENS, 0.0, 2e9) is None


class TestGauges:
    def test_they_add_up_over_replicas_or_the_highest_counts_where_they_are_shares(self) -> None:
        one = series(
            {"vllm:num_requests_running": [1, 2, 3], "vllm:kv_cache_usage_perc": [0.1, 0.9, 0.2]}
        )
        two = {
            ("replica-1", name, labels): (t + 5e8, values)
            for (_, name, labels), (t, values) in one.items()
        }
        counters = counted(one, two)
        running = counters.gauge(Concept.RUNNING)
        assert running is not None
        assert running[0].tolist() == [0, 5e8, 1e9, 1.5e9, 2e9, 2.5e9]
        assert running[1].tolist() == [
            2,
            2.5,
            3.5,
            4.5,
            5.5,
            6,
        ]  # interpolated, and held at its ends
        usage = counters.gauge(Concept.KV_USAGE, share=True)
        assert usage is not None
        assert usage[1].tolist() == pytest.approx([0.1, 0.5, 0.9, 0.9, 0.55, 0.2])

    def test_what_the_server_does_not_tell_is_absent(self) -> None:
        counters = counted(series({"vllm:generation_tokens_total": [1, 2]}))
        assert counters.gauge(Concept.RUNNING) is None
        assert counters.gauge(Concept.GENERATED_TOKENS) is None


class TestCountersOverTime:
    """A counter read now and then, through resets, with scrapes missing: what is found in
    neighbouring windows adds up.
    """

    @given(
        steps=st.lists(st.integers(1, 1000), min_size=3, max_size=25),
        resets=st.sets(st.integers(1, 24), max_size=4),
        missing=st.sets(st.integers(1, 24), max_size=8),
        cuts=st.lists(st.floats(0, 1), max_size=4),
    )
    def test_neighbouring_windows_add_up(
        self, steps: list[int], resets: set[int], missing: set[int], cuts: list[float]
    ) -> None:
        value, points = 0, [(0.0, 0.0)]
        for i, step in enumerate(steps):
            value = step if i in resets and value > step else value + step
            if i not in missing or i == len(steps) - 1:
                points.append(((i + 1) * 1e9, float(value)))
        t, values = (np.array(column) for column in zip(*points, strict=True))
        counters = ServerCounters(
            Samples({("a", "vllm:generation_tokens_total", "{}"): (t, values)}, {"a": t}, {})
        )
        edges = sorted({0.0, *(cut * t[-1] for cut in cuts), t[-1]})
        parts = [
            counters.difference(Concept.GENERATED_TOKENS, a, b)
            for a, b in itertools.pairwise(edges)
        ]
        assert None not in parts
        assert all(part >= -1e-9 for part in parts)  # nothing is ever counted backwards
        whole = counters.difference(Concept.GENERATED_TOKENS, 0.0, t[-1])
        assert sum(parts) == pytest.approx(whole)
        assert whole <= sum(steps)  # a reset between two readings may hide what came before it
        if not resets:
            assert whole == sum(steps)

    def test_only_the_label_values_that_are_the_concept_count(self) -> None:
        name = "vllm:prompt_tokens_by_source_total"
        by_source = {
            "local_compute": [0, 5, 9],
            "local_cache_hit": [0, 1, 2],
            "external_kv_transfer": [0, 10, 20],
            "else": [0, 500, 900],
        }
        counters = counted(
            *(
                series({name: values}, json.dumps({"source": source}))
                for source, values in by_source.items()
            )
        )
        assert counters.difference(Concept.COMPUTED_TOKENS, 0.0, 2e9) == 9
        assert counters.difference(Concept.CACHED_TOKENS, 0.0, 2e9) == 22

    def test_the_value_at_the_first_scrape_is_what_was_there_before_the_run(self) -> None:
        counters = counted(
            series({"vllm:prompt_tokens_total": [7, 9]}),
            {
                ("b", *key[1:]): points
                for key, points in series({"vllm:prompt_tokens_total": [5, 30]}).items()
            },
        )
        assert counters.value_at_first(Concept.PROMPT_TOKENS) == 12


def test_shuffled_values_have_the_same_distribution() -> None:
    values = [random.Random(i).expovariate(1) for i in range(500)]
    a = distribution(np.array(values), 3)
    random.Random(1).shuffle(values)
    assert distribution(np.array(values), 3) == a
