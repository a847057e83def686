"""Combinations that are impossible are errors that name the key to change; unwise ones load."""

import pytest

from harness.core.metrics import METRICS
from harness.profile.load import load_profile_text
from harness.profile.thresholds import parse_threshold

VLLM = "server={kind: vllm, %s}"
SECOND = "traffic.load.1={kind: concurrency, concurrency: 1, sessions: 1%s}"
LOAD = "traffic.load.0={%s, window_s: 1}"
MIX = "traffic.workload={kind: mix, parts: [%s]}"
ATTACH = "server={kind: attach, urls: [http://h:1], %s}"


@pytest.mark.parametrize(
    ("overrides", "path", "word"),
    [
        (["model.id=builtin:tinny"], "model.id", "did you mean `builtin:tiny`"),
        ([ATTACH % "", "model.load_format=dummy"], "model.load_format", "drop it"),
        (["model.quantization=fp8"], "model.quantization", "kind: vllm"),
        # lengths that the API cannot force
        (
            ["model.id=org/m", "purpose=measure"],
            "traffic.api",
            "`output_length: natural`, or `api: chat`",
        ),
        (
            ["model.id=builtin:smollm2-135m", "traffic.output_length=forced"],
            "traffic.output_length",
            "`load_format: dummy`",
        ),
        # headline and stages of thresholds
        (["headline=0-concurency"], "headline", "did you mean `0-concurrency`?"),
        (["headline=best_under_slo"], "headline", "`highest_throughput`"),
        (["headline=last", "traffic.load.0.name=last"], "headline", "rename"),
        (["thresholds=['c4: output_tok_s > 1']"], "thresholds.0", "`0-concurrency`"),
        # secrets
        (["server.api_key_env=A", "server.api_key_file=b"], "server.api_key_file", "keep one"),
        (["server.env={HF_TOKEN: x}"], "server.env.HF_TOKEN", "export it"),
        (["server.env={VLLM_API_KEY: x}"], "server.env.VLLM_API_KEY", "api_key_env"),
        (["server.env={'A=B': x}"], "server.env.A=B", "letters"),
        ([VLLM % "extra_args: [--api-key, x]"], "server.extra_args.0", "server.api_key_env"),
        ([ATTACH.replace("h:1", "u:p@h:1") % ""], "server.urls.0", "api_key_env"),
        # arguments that the harness passes itself
        (
            [VLLM % "extra_args: [--foo, --max_model_len=3]"],
            "server.extra_args.1",
            "model.max_context_tok",
        ),
        # boards
        ([VLLM % "gpus: none, device: cuda"], "server.gpus", "device: cpu"),
        (
            [VLLM % "gpus: none, tensor_parallel_size: 2"],
            "server.tensor_parallel_size",
            "gpus: all",
        ),
        ([VLLM % "gpus: [0], device: cpu"], "server.gpus", "drop gpus"),
        (
            [VLLM % "gpus: [0, 1], tensor_parallel_size: 4"],
            "server.tensor_parallel_size",
            "more GPUs",
        ),
        ([VLLM % "gpus: [0, 1], replicas: 3"], "server.replicas", "more GPUs"),
        ([VLLM % "gpus: [0, 0]"], "server.gpus", "once"),
        ([VLLM % "gpus: []"], "server.gpus", "none"),
        ([VLLM % "gpus: [-1]"], "server.gpus.0", "from 0"),
        ([VLLM % "port: 65535, replicas: 2"], "server.port", "lower port"),
        # attach
        ([ATTACH.replace("h:1", "h:1/v1") % ""], "server.urls.0", "write 'http://h:1'"),
        (["server={kind: attach, urls: ['http://h:1', 'http://h:1/']}"], "server.urls.1", "once"),
        (["server={kind: attach, urls: ['http://']}"], "server.urls.0", "http://127.0.0.1:8000"),
        (["server={kind: attach, urls: ['http://[::']}"], "server.urls.0", "http://127.0.0.1:8000"),
        (
            [ATTACH % "metrics_urls: ['http://h:1/metrics', 'http://h:2/metrics']"],
            "server.metrics_urls",
            "one for each",
        ),
        ([ATTACH % "gpus: all, gpu_count: 3"], "server.gpu_count", "keep one"),
        # the way to it
        (["traffic.proxy=https://p:3128"], "traffic.proxy", "http://HOST:PORT"),
        (["traffic.proxy=http://u:pw@p:3128"], "traffic.proxy", "HTTP_PROXY"),
        (["traffic.tls={ca_file: a.pem, verify: false}"], "traffic.tls.ca_file", "keep one"),
        # headers
        (["traffic.headers={X-Tenant: a}"], "traffic.headers", "attach"),
        (
            [ATTACH % "", "traffic.headers={X-Api-Token: abc}"],
            "traffic.headers.X-Api-Token",
            "env:NAME",
        ),
        ([ATTACH % "", "traffic.headers={Host: a}"], "traffic.headers.Host", "drop"),
        (
            [ATTACH % "api_key_env: K", "traffic.headers={Authorization: 'env:K'}"],
            "traffic.headers.Authorization",
            "drop",
        ),
        ([ATTACH % "", "traffic.headers={'a b': c}"], "traffic.headers.a b", "ASCII"),
        ([ATTACH % "", "traffic.headers={X-A: 'env:'}"], "traffic.headers.X-A", "env:NAME"),
        ([ATTACH % "", "traffic.headers={X-A: a, x-a: b}"], "traffic.headers", "once"),
        # model
        (["model={served_name: m}"], "model.id", "attach"),
        # load
        (["traffic.load.0.window_s=null"], "traffic.load.0", "`window_s` or `sessions`"),
        (["traffic.load.0.window_s=0"], "traffic.load.0.window_s", "10m"),
        (["traffic.load.0.name=a", SECOND % ", name: a"], "traffic.load.1.name", "each stage"),
        (["traffic.load.0.name=1-concurrency", SECOND % ""], "traffic.load.1.name", "each stage"),
        (
            [LOAD % "kind: arrival_rate, rate_per_s: 1, cv: 2"],
            "traffic.load.0.cv",
            "process: gamma",
        ),
        (
            [LOAD % "kind: arrival_rate, rate_per_s: 1, process: weibull"],
            "traffic.load.0.process",
            "weibull_shape",
        ),
        (
            [LOAD % "kind: ramp, from_per_s: 0, to_per_s: 0, ramp_s: 1"],
            "traffic.load.0.to_per_s",
            "above 0",
        ),
        (
            [LOAD % "kind: ramp, from_per_s: 0, to_per_s: 1, ramp_s: 0"],
            "traffic.load.0.ramp_s",
            "kind: step",
        ),
        (
            [LOAD % "kind: step, steps: [{rate_per_s: 0, for_s: 1}]"],
            "traffic.load.0.steps",
            "above 0",
        ),
        (
            [LOAD % "kind: step, steps: [{rate_per_s: 1, for_s: 0}]"],
            "traffic.load.0.steps.0.for_s",
            "above 0",
        ),
        (
            [LOAD % "kind: diurnal, rate_per_s: 1, curve: [{hour: 1, factor: 0}]"],
            "traffic.load.0.curve",
            "above 0",
        ),
        (
            [
                LOAD % "kind: diurnal, rate_per_s: 1, curve: [{hour: 1, factor: 1}, {hour: 1,"
                " factor: 2}]"
            ],
            "traffic.load.0.curve",
            "one",
        ),
        (
            [LOAD % "kind: concurrency, concurrency: 1, over: requests, start: steady"],
            "traffic.load.0.start",
            "over: sessions",
        ),
        ([LOAD % "kind: replay"], "traffic.load.0", "kind: replay"),
        # workloads
        (
            ["traffic.api=chat", "traffic.cache_control=true"],
            "traffic.cache_control",
            "api: messages",
        ),
        (["traffic.workload={kind: batch}", "slos.ttft_s=1"], "slos", "drop it"),
        (
            [MIX % "{weight: 1, workload: {kind: batch}}, {weight: 1, workload: {kind: batch}}"],
            "traffic.workload.parts.1",
            "`name`",
        ),
        (
            [
                MIX
                % "{weight: 1, workload: {kind: batch, user_tok: {kind: uniform, min: 3, max: 2}}}"
            ],
            "traffic.workload.parts.0.workload.user_tok.max",
            "in order",
        ),
        (
            ["traffic.workload.user_tok={kind: quantiles, at: [0, 0.5], values: [1, 2]}"],
            "traffic.workload.user_tok.at",
            "[0, 0.5, 1]",
        ),
        (
            ["traffic.workload.user_tok={kind: quantiles, at: [0, 1], values: [2, 1]}"],
            "traffic.workload.user_tok.values",
            "in order",
        ),
        (
            ["traffic.workload.user_tok={kind: quantiles, at: [0, 1], values: [1, 2, 3]}"],
            "traffic.workload.user_tok.values",
            "each share",
        ),
        (
            [MIX % "{weight: 1, name: canary, workload: {kind: batch}}"],
            "traffic.workload.parts.0.name",
            "another name",
        ),
        # reasoning
        (
            [
                "traffic.workload={kind: thinking}",
                "traffic.thinking=effort",
                "traffic.thinking_effort=low",
            ],
            "traffic.thinking",
            "off",
        ),
        (
            ["traffic.workload={kind: thinking}", "traffic.api=chat", "traffic.thinking=budget"],
            "traffic.thinking",
            "`off`",
        ),
        (
            ["traffic.workload={kind: thinking}", "traffic.api=chat", "traffic.thinking=effort"],
            "traffic.thinking",
            "thinking_effort",
        ),
        (["traffic.thinking=budget"], "traffic.thinking", "thinking_share"),
        (["traffic.thinking_effort=low"], "traffic.thinking_effort", "thinking: effort"),
        (
            [
                "traffic.workload={kind: thinking}",
                "traffic.thinking=adaptive",
                "traffic.thinking_effort=none",
            ],
            "traffic.thinking_effort",
            "medium",
        ),
        # times at which everything fails
        (["traffic.timeouts.idle_s=0"], "traffic.timeouts.idle_s", "above 0"),
        (["slos.ttft_s=0"], "slos.ttft_s", "above 0"),
        (["server.ready_timeout_s=0"], "server.ready_timeout_s", "above 0"),
        (["telemetry.power_interval_s=1ms"], "telemetry.power_interval_s", "10ms"),
        # distributions
        (
            ["traffic.workload.user_tok={kind: uniform, min: 3, max: 2}"],
            "traffic.workload.user_tok.max",
            "in order",
        ),
        (["traffic.workload.output_tok=0"], "traffic.workload.output_tok", "at least 1"),
        (
            ["traffic.workload.turns={kind: uniform, min: 0, max: 0.5}"],
            "traffic.workload.turns",
            "at least 1",
        ),
        # what cannot be watched
        (
            ["server.gpus=none", "telemetry.require=[gpu_power]"],
            "telemetry.require.0",
            "server.gpus",
        ),
        (
            [ATTACH % "metrics_urls: []", "telemetry.require=[server_metrics]"],
            "telemetry.require.0",
            "drop one",
        ),
        # thresholds
        (["thresholds=[ttft_s.p98 < 1]"], "thresholds.0", "ttft_s.p99 < 1.5"),
        (["thresholds=[goodput_rps > 1]"], "thresholds.0", "add `slos`"),
        (["thresholds=[usd_per_mtok < 1]"], "thresholds.0", "add `price`"),
        (["server.device=cpu", "thresholds=[output_tok_per_j > 1]"], "thresholds.0", "server.gpus"),
        (["price={usd_per_gpu_h: 2, source: x, date: 2026-02-30}"], "price.date", "YYYY-MM"),
    ],
)
def test_an_impossible_combination_is_an_error(valid, problems, overrides, path, word):
    [problem] = problems(valid, *overrides)
    assert problem.path == path
    assert word in problem.fix


@pytest.mark.parametrize(
    "overrides",
    [
        ["server.gpus=none", "telemetry.require=[gpu_power]", "telemetry.power=[{kind: dcgm}]"],
        ["purpose=measure"],  # builtin:tiny never ends an answer by itself
        ["purpose=measure", "model.id=org/m", "traffic.api=chat"],
        ["purpose=measure", "model.id=org/m", "traffic.output_length=natural"],
        ["purpose=measure", "model.id=org/m", "model.load_format=dummy", VLLM % ""],
        ["traffic.load.0.max_in_flight=1"],
        ["traffic.load.0.warmup_s=1h"],
        ["traffic.load.0.sessions=1"],
        ["server.env={OMP_NUM_THREADS: '2', TOKENIZERS_PARALLELISM: 'false'}"],
        [VLLM % "device: cpu, tensor_parallel_size: 2"],
        [VLLM % "gpus: [0, 1, 2], tensor_parallel_size: 2"],
        [VLLM % "gpus: [GPU-0a], extra_args: [--kv-cache-dtype, fp8]"],
        [ATTACH % "gpu_count: 8", "thresholds=[output_tok_s_per_gpu > 3]"],
        [ATTACH % "metrics_urls: []"],
        ["slos.ttft_s=1", "thresholds=[goodput_rps > 1, 'ttft_s.p99 < 500ms']"],
    ],
)
def test_what_is_possible_loads(valid, overrides):
    load_profile_text(valid, overrides=overrides)


def test_a_combination_is_not_reported_while_one_of_its_keys_is_wrong(valid, problems):
    found = problems(valid, "purpose=measure", "model.id=org/m", "traffic.output_length=naturl")
    assert [problem.path for problem in found] == ["traffic.output_length"]


def test_combinations_are_told_beside_errors_of_single_keys(valid, problems):
    found = problems(valid, "purpose=measure", "model.id=org/m", "seed=-1", "trafic=1")
    assert {problem.path for problem in found} == {"seed", "trafic", "traffic.api"}


# --- thresholds ---


@pytest.mark.parametrize(
    ("text", "metric", "statistic", "operator", "limit"),
    [
        ("ttft_s.p99 < 1.5", "ttft_s", "p99", "<", 1.5),
        ("ttft_s.p99<1500ms", "ttft_s", "p99", "<", 1.5),
        ("tpot_s.mean <= 2m", "tpot_s", "mean", "<=", 120),
        ("output_tok_s >= 1.2k", "output_tok_s", None, ">=", 1200),
        ("error_ratio<1%", "error_ratio", None, "<", 0.01),
        ("usd_per_mtok < .5", "usd_per_mtok", None, "<", 0.5),
        ("prefix_hit_ratio > 9e-1", "prefix_hit_ratio", None, ">", 0.9),
    ],
)
def test_a_threshold_in_the_metrics_own_unit(text, metric, statistic, operator, limit):
    threshold = parse_threshold(text)
    assert (threshold.metric, threshold.statistic, threshold.operator) == (
        metric,
        statistic,
        operator,
    )
    assert threshold.limit == pytest.approx(limit)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ttft_s < 1", "ttft_s.p99"),
        ("ttft.p99 < 1", "did you mean ttft_s"),
        ("ttft_s.p98 < 1", "did you mean p99"),
        ("output_tok_s.p99 > 1", "one value"),
        ("output_tok_s > 1s", "output_tok_s, which is in"),
        ("output_tok_s > 1%", "output_tok_s, which is in"),
        ("ttft_s.p99 < 1k", "'k'"),
        ("ttft_s.p99 = 1", "not an operator"),
        ("ttft_s.p99 => 1", "not an operator"),
        ("ttft_s.p99 < 1e999", "finite"),
        ("energy_j@moon < 1", "no boundary 'moon'"),
        ("output_tok_s@node < 1", "no boundary 'node'"),
        ("1 < ttft_s.p99", r"is not \[STAGE:\] METRIC"),
        ("", r"is not \[STAGE:\] METRIC"),
    ],
)
def test_a_threshold_outside_the_grammar(text, message):
    with pytest.raises(ValueError, match=message):
        parse_threshold(text)


@pytest.mark.parametrize(
    ("text", "stage", "figure"),
    [
        ("ttft_s.p99 < 1", None, "ttft_s.p99"),
        ("c64: ttft_s.p99 < 1", "c64", "c64: ttft_s.p99"),
        (" 0-ramp.up :output_tok_s>1", "0-ramp.up", "0-ramp.up: output_tok_s"),
        ("*: power_w@node < 1", "*", "*: power_w@node"),
    ],
)
def test_a_threshold_on_a_stage(text, stage, figure):
    threshold = parse_threshold(text)
    assert (threshold.stage, threshold.figure) == (stage, figure)


def test_a_threshold_on_every_stage_is_one_per_stage():
    found = parse_threshold("*: error_ratio <= 1%").at_stages(["c1", "c2"])
    assert [(one.text, one.stage) for one in found] == [
        ("c1: error_ratio <= 1%", "c1"),
        ("c2: error_ratio <= 1%", "c2"),
    ]
    assert all(parse_threshold(one.text) == one for one in found)


def test_a_stage_in_yaml_without_quotes(valid):
    text = valid + "thresholds:\n  - 0-concurrency: output_tok_s > 1\n"
    assert load_profile_text(text).thresholds == ("0-concurrency: output_tok_s > 1",)


def test_a_figure_at_another_boundary():
    assert parse_threshold("energy_j@node < 3k").boundary == "node"


def test_thresholds_hold_a_value_against_the_limit():
    assert [
        parse_threshold(f"output_tok_s {operator} 5").met_by(5)
        for operator in ("<", "<=", ">", ">=")
    ] == [False, True, False, True]


def test_every_metric_can_have_a_threshold():
    for metric in METRICS.values():
        assert (
            parse_threshold(
                f"{metric.key}{'.p50' if metric.kind == 'distribution' else ''} > 0"
            ).metric
            == metric.key
        )
