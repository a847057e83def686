"""Percentiles, rates and energies against an independent computation: SQL in DuckDB over the run
directory's own Parquet files.

The queries know the tables (docs/reference/run-directory.md) and the metrics' definitions (docs/reference/metrics.md),
and share no code with the reduction.
"""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.artifacts.finalize import finalize
from harness.artifacts.layout import RunDir
from harness.artifacts.run_summary import summary_json
from harness.reduce import reduce_run

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}

LATENCIES = {
    "ttft_s": "(first_token_ns - intended_ns) / 1e9",
    "e2e_s": "(last_token_ns - intended_ns) / 1e9",
    "ttft_from_sent_s": "(first_token_ns - sent_ns) / 1e9",
    # Tokens after the first chunk over the time since it; requests with nothing after it have no
    # pace.
    "tpot_s": (
        """case when list_sum(chunk_tok) > chunk_tok[1] and last_token_ns > first_token_ns
                 then (last_token_ns - first_token_ns) / 1e9 / (list_sum(chunk_tok) - chunk_tok[1]) end"""
    ),
}

CHUNKS = """
    with chunk as (
        select request_id, output_tok, first_token_ns, unnest(chunk_dt_us) as dt_us, unnest(chunk_tok) as tok,
               generate_subscripts(chunk_dt_us, 1) as i
        from requests where chunk_tok is not null
    ), placed as (
        select first_token_ns + 1000 * sum(dt_us) over (partition by request_id order by i) as t_ns,
               tok * output_tok / sum(tok) over (partition by request_id) as tok
        from chunk
    )
    select coalesce(sum(tok), 0) from placed where t_ns >= {start} and t_ns < {end}
"""

RATES = {
    "input_tok_s": (
        """select sum(input_tok * greatest(0, least(first_token_ns, {end}) - greatest(sent_ns, {start}))
                                 / (first_token_ns - sent_ns)) from requests where input_tok is not null"""
    ),
    "input_cache_read_tok_s": (
        """select sum(cache_read_tok * greatest(0, least(first_token_ns, {end}) - greatest(sent_ns, {start}))
                                            / (first_token_ns - sent_ns)) from requests where input_tok is not null"""
    ),
    "output_tok_s": CHUNKS,
    "requests_per_s": (
        "select count(*) from requests where outcome = 'ok' and done_ns >= {start} and done_ns <"
        " {end}"
    ),
    "requests_in_flight": (
        """select sum(greatest(0, least(done_ns, {end}) - greatest(sent_ns, {start}))) / 1e9
                             from requests where sent_ns is not null"""
    ),
    "goodput_rps": (
        """select count(*) from requests where outcome = 'ok' and intended_ns >= {start} and intended_ns < {end}
                      and first_token_ns - intended_ns <= {ttft_slo}"""
    ),
    "goodput_tok_s": (
        """select sum(output_tok) from requests where outcome = 'ok' and intended_ns >= {start} and intended_ns < {end}
                        and first_token_ns - intended_ns <= {ttft_slo}"""
    ),
}

COUNTER = """
    with edge as (select unnest([{start}, {end}]) as at_ns, unnest([-1, 1]) as sign),
    around as (
        select device_id, at_ns, sign,
               max_by((t_ns, energy_j), t_ns) filter (t_ns <= at_ns) as before,
               min_by((t_ns, energy_j), t_ns) filter (t_ns >= at_ns) as after
        from power, edge where energy_j is not null group by all
    )
    select sum(sign * case when after[1] = before[1] then before[2]
                      else before[2] + (after[2] - before[2]) * (at_ns - before[1]) / (after[1] - before[1]) end) from around
"""

INTEGRAL = """
    with step as (
        select t_ns as t0, power_w as p0, lead(t_ns) over w as t1, lead(power_w) over w as p1
        from power where power_w is not null window w as (partition by device_id order by t_ns)
    ), cut as (
        select greatest(t0, {start}) as a, least(t1, {end}) as b, * from step where t1 > {start} and t0 < {end}
    )
    select sum((b - a) / 1e9 * ((p0 + (p1 - p0) * (a - t0) / (t1 - t0)) + (p0 + (p1 - p0) * (b - t0) / (t1 - t0))) / 2) from cut
"""


def opened(run: Path) -> tuple[duckdb.DuckDBPyConnection, dict[str, int]]:
    """The tables as views, and the window as events.jsonl has it."""
    database = duckdb.connect()
    for name in ("requests", "power"):
        path = run / f"{name}.parquet"
        if path.exists():
            database.execute(f"create view {name} as select * from read_parquet('{path}')")
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    stage = next(e for e in events if e["event"] == "stage_started")
    return database, {"start": stage["window_start_ns"], "end": stage["window_end_ns"]}


def quantile(
    database: duckdb.DuckDBPyConnection, window: dict[str, int], value: str, q: float
) -> float | None:
    """By linear interpolation between order statistics; requests without an answer are infinitely
    late, cancelled ones take no part.
    """
    low, high, position = database.execute(f"""
        with took as (
            select case when outcome = 'ok' then {value} else 'infinity'::double end as x
            from requests where intended_ns >= {window["start"]} and intended_ns < {window["end"]} and outcome != 'cancelled'
        ), ranked as (
            select x, row_number() over (order by x) - 1 as i, (count(*) over () - 1) * cast({q} as double) as position
            from took where x is not null
        )
        select max(x) filter (i = floor(position)), max(x) filter (i = ceil(position)), max(position) from ranked
        """).fetchone() or (None, None, None)
    if high is None or math.isinf(high):
        return None
    return float(low + (high - low) * (position - math.floor(position)))


def close(value: float | None, truth: float | None) -> bool:
    if value is None or truth is None:
        return value is None and truth is None
    return math.isclose(value, truth, rel_tol=1e-9, abs_tol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_percentiles_and_rates_equal_those_of_sql(
    noisy: Callable[..., Any], tmp_path: Path, seed: int
) -> None:
    run = noisy(seed, requests=150 + 100 * (seed % 3)).write(tmp_path / "run")
    summary = reduce_run(run)
    finalize(RunDir(run))
    database, window = opened(run)
    for key, value in LATENCIES.items():
        for name, q in QUANTILES.items():
            got, truth = getattr(summary.latency[key], name), quantile(database, window, value, q)
            assert close(got, truth), (key, name, got, truth)
    length_s = (window["end"] - window["start"]) / 1e9
    for key, query in RATES.items():
        found = database.execute(query.format(**window, ttft_slo=1_000_000_000)).fetchone()
        assert found is not None
        got, truth = summary.metrics[key].value, float(found[0]) / length_s
        assert close(got, truth), (key, got, truth)


@pytest.mark.parametrize(
    ("read", "query", "method"),
    [
        ("counter", COUNTER, "counter"),
        ("power", INTEGRAL, "integral"),
        ("both", INTEGRAL, "counter"),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_energies_equal_those_of_sql(
    steady: Callable[..., Any],
    tmp_path: Path,
    times: tuple[int, int],
    seed: int,
    read: str,
    query: str,
    method: str,
) -> None:
    """Boards whose power wanders smoothly, read at irregular moments, with a counter that is read
    about once a second.

    A counter by itself is cut evenly at the window's edges. Where power was read as well, it is cut
    as power went there: a counter that is the integral times a gain gives the integral times that
    gain.
    """
    gain = 1.02 if read == "both" else 1.0
    start_ns, second = times
    draw = random.Random(seed)
    builder = steady(gpus=2, window_s=40.0)
    for gpu in range(2):
        swing, phase, joules, last = (
            draw.uniform(50, 100),
            draw.uniform(0, 6),
            draw.uniform(0, 1e6),
            None,
        )
        t, readings = -1.0, 0
        while t < 46:
            watts = 400 + swing * math.sin(t / 5 + phase)
            if last is not None:
                joules += (t - last[0]) * (watts + last[1]) / 2
            last = (t, watts)
            row = {
                "t_ns": start_ns + round(t * second),
                "boundary": "gpu_board",
                "device_id": f"GPU-{gpu}",
                "source": "nvml-instant",
            }
            if read != "counter":
                builder.power.append({**row, "power_w": watts, "energy_j": None})
            if read != "power" and readings % 8 == 0:
                builder.power.append(
                    {**row, "power_w": None, "energy_j": gain * joules, "source": "nvml-counter"}
                )
            t, readings = t + draw.uniform(0.05, 0.15), readings + 1
    run = builder.write(tmp_path / "run")
    summary = reduce_run(run)
    finalize(RunDir(run))
    database, window = opened(run)
    found = database.execute(query.format(**window)).fetchone()
    assert found is not None
    truth = gain * float(found[0])
    figure = summary.metrics["energy_j"]
    assert method in (figure.note or "")
    assert close(figure.value, truth), (figure, found)
    watts = summary.metrics["power_w"].value
    assert close(watts, truth / 40.0)
    tokens = database.execute(CHUNKS.format(**window)).fetchone()
    assert tokens is not None
    assert close(summary.metrics["output_tok_per_j"].value, float(tokens[0]) / truth)


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(order=st.randoms(use_true_random=False), seed=st.integers(0, 50))
def test_the_order_of_rows_never_matters(
    noisy: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
    order: random.Random,
    seed: int,
) -> None:
    """Requests and power readings in any order, and any of two workers' journals."""
    kept, shuffled = noisy(seed, requests=60, gpus=1), noisy(seed, requests=60, gpus=1)
    for builder in (kept, shuffled):
        builder.constant_power(300)
    order.shuffle(shuffled.requests)
    order.shuffle(shuffled.power)
    for row in shuffled.requests:
        row["worker"] = order.randrange(2)
    root = tmp_path_factory.mktemp("order")
    a, b = (
        summary_json(reduce_run(builder.write(root / name)))
        for name, builder in (("a", kept), ("b", shuffled))
    )
    assert a == b
