"""Counters, percentiles and intervals by themselves."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.metric_names import Concept
from harness.reduce.counters import ServerCounters, unwrap
from harness.reduce.load import Samples
from harness.reduce.stats import BATCH_COUNTS, distribution, percentile, ratio_interval

steps = st.lists(st.integers(0, 1000), min_size=1, max_size=40)


@given(steps=steps, resets=st.sets(st.integers(1, 39)))
def test_counters_survive_resets(steps: list[int], resets: set[int]) -> None:
    """Whatever is counted after a reset is found again; a reset to a value as high as before cannot be seen by anyone."""
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


@given(values=st.lists(st.floats(0.001, 1000), min_size=1, max_size=60), censored=st.integers(0, 20))
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
                float(np.quantile(whole[np.isfinite(whole)], min(1.0, position / max(1, len(values) - 1)))), rel=1e-9
            )


@given(data=st.lists(st.tuples(st.floats(0.001, 10), st.integers(1, 5)), min_size=1, max_size=40), censored=st.integers(0, 3))
def test_weights_are_repetition(data: list[tuple[float, int]], censored: int) -> None:
    values, weights = np.array([v for v, _ in data]), np.array([float(w) for _, w in data])
    weighted = distribution(values, censored, weights)
    repeated = distribution(np.repeat(values, weights.astype(int)), censored)
    for key in ("p50", "p90", "p95", "p99", "p999", "max", "min", "n", "censored"):
        assert getattr(weighted, key) == getattr(repeated, key)
    assert weighted.mean == pytest.approx(repeated.mean)


def batches(rates: np.ndarray) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    top, bottom = {}, {}
    for n in BATCH_COUNTS:
        if len(rates) >= n:
            parts = np.array_split(rates, n)
            top[n] = np.array([float(np.sum(part)) for part in parts])
            bottom[n] = np.array([float(len(part)) for part in parts])
    return top, bottom


def test_a_trend_and_too_few_batches_have_no_interval() -> None:
    assert ratio_interval(*batches(np.linspace(10, 100, 600))) is None
    assert ratio_interval(*batches(np.array([1.0, 2.0, 1.5]))) is None
    assert ratio_interval(*batches(np.full(600, 5.0))) is None


def series(values: dict[str, list[float]], label: str = "{}") -> dict[tuple[str, str, str], tuple[np.ndarray, np.ndarray]]:
    return {
        ("replica-0", name, label): (np.arange(len(v), dtype=np.float64) * 1e9, np.array(v, dtype=np.float64)) for name, v in values.items()
    }


def test_counters_are_interpolated_and_summed_over_replicas() -> None:
    one = series({"vllm:generation_tokens_total": [0, 10, 20, 30]})
    two = {("replica-1", name, labels): points for (_, name, labels), points in one.items()}
    times = np.arange(4, dtype=np.float64) * 1e9
    counters = ServerCounters(Samples({**one, **two}, {"replica-0": times, "replica-1": times}, {}))
    assert counters.difference(Concept.GENERATED_TOKENS, 0.5e9, 2.25e9) == pytest.approx(35)
    assert counters.difference(Concept.GENERATED_TOKENS, 0.5e9, 3.5e9) is None  # nobody asked the server after 3 s
    assert counters.difference(Concept.PROMPT_TOKENS, 0.5e9, 2e9) is None  # it does not tell
    assert counters.whole(Concept.GENERATED_TOKENS, None, None) == 60


def test_a_counter_that_shows_up_late_counted_from_zero() -> None:
    times = np.arange(4, dtype=np.float64) * 1e9
    late = {("replica-0", "vllm:generation_tokens_total", "{}"): (times[2:], np.array([50.0, 70.0]))}
    counters = ServerCounters(Samples(late, {"replica-0": times}, {}))
    assert counters.difference(Concept.GENERATED_TOKENS, 0.0, 3e9) == 70
    assert counters.whole(Concept.GENERATED_TOKENS, 0.0, 3e9) == 70


def test_histograms_are_differenced() -> None:
    name = "vllm:time_to_first_token_seconds"
    points = {
        **series({f"{name}_sum": [5, 5, 9], f"{name}_count": [10, 10, 30]}),
        **series({f"{name}_bucket": [8, 8, 10]}, '{"le":"0.1"}'),
        **series({f"{name}_bucket": [10, 10, 30]}, '{"le":"0.5"}'),
        **series({f"{name}_bucket": [10, 10, 30]}, '{"le":"+Inf"}'),
    }
    counters = ServerCounters(Samples(points, {"replica-0": np.arange(3, dtype=np.float64) * 1e9}, {}))
    found = counters.histogram(Concept.TTFT, 0.0, 2e9)
    assert found == {"count": 20, "mean_s": pytest.approx(0.2), "p50_bucket_s": [0.1, 0.5], "p99_bucket_s": [0.1, 0.5]}


def test_shuffled_values_have_the_same_distribution() -> None:
    values = [random.Random(i).expovariate(1) for i in range(500)]
    a = distribution(np.array(values), 3)
    random.Random(1).shuffle(values)
    assert distribution(np.array(values), 3) == a
