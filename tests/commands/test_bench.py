"""`harness bench`: options of the command line as a profile, and what it finds at an endpoint."""

import pytest

from harness.commands import bench
from harness.core.errors import ProfileError
from harness.core.records import Api
from harness.profile.load import load_profile_text
from harness.server.detect import Detected

PROBED = Detected("m", 8000, Api.CHAT, forced=True)
URLS = ("http://127.0.0.1:9",)


def profile_of(probed=PROBED, **options):
    text = bench.to_yaml(
        bench.document(bench.BenchOptions(URLS, **options), probed), ["harness", "bench"]
    )
    return load_profile_text(text)


def test_the_defaults_are_one_stage_of_1024_input_and_128_output_tokens():
    profile = profile_of()
    (stage,) = profile.traffic.load
    assert (stage.concurrency, stage.over, stage.window_s) == (8, "requests", 30.0)
    workload = profile.traffic.workload
    assert (workload.user_tok.value, workload.output_tok.value) == (1024, 128)
    assert workload.context_limit_tok >= 1024 + 128 + 64
    assert (profile.purpose, profile.model.served_name) == ("measure", "m")


def test_each_concurrency_and_rate_is_a_stage():
    profile = profile_of(concurrency=(1, 16), rates=(2.5,), duration_s=60.0, warmup_s=5.0)
    assert [stage.name for stage in profile.traffic.load] == ["c1", "c16", "r2.5"]
    assert {(stage.window_s, stage.warmup_s) for stage in profile.traffic.load} == {(60.0, 5.0)}


def test_conversations_keep_their_turns():
    profile = profile_of(workload="claude-code", concurrency=(4,))
    assert profile.traffic.workload.kind == "claude-code"
    assert profile.traffic.load[0].over == "sessions"


def test_slos_price_and_gpus_reach_the_profile():
    profile = profile_of(slos="ttft=1s, tpot=50ms", usd_per_gpu_h=2.5, gpu_count=4)
    assert (profile.slos.ttft_s, profile.slos.tpot_s, profile.slos.e2e_s) == (1.0, 0.05, None)
    assert (profile.price.usd_per_gpu_h, profile.server.gpu_count) == (2.5, 4)


@pytest.mark.parametrize("seed", [None, 0, 7])
def test_a_seed_reaches_the_profile(seed):
    assert profile_of(seed=seed).seed == (1 if seed is None else seed)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_is_none_names_its_option(seed):
    text = bench.to_yaml(bench.document(bench.BenchOptions(URLS, seed=seed), PROBED), ["bench"])
    with pytest.raises(ProfileError, match="--seed"):
        bench.load(text)


def test_lengths_are_natural_where_ignore_eos_is_refused():
    assert profile_of(Detected("m", None, Api.CHAT, forced=False)).output_length == "natural"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1024", 1024),
        ("2k", 2000),
        ("100±20", {"kind": "uniform", "min": 80, "max": 120}),
        ("100+-20", {"kind": "uniform", "min": 80, "max": 120}),
    ],
)
def test_a_length(text, expected):
    assert bench.length(text, "--isl") == expected


@pytest.mark.parametrize("text", ["", "0", "-5", "x", "100±100", "10±", "1e9999", "99999999999"])
def test_a_length_that_is_none_names_its_option(text):
    with pytest.raises(ProfileError, match="--isl"):
        bench.length(text, "--isl")


@pytest.mark.parametrize("text", ["", "0", "1,x", "-1", "inf", "nan", "1,1"])
def test_numbers_that_are_none_name_their_option(text):
    with pytest.raises(ProfileError, match="--rate"):
        bench.numbers(text, "--rate", float)


@pytest.mark.parametrize(
    "text", ["ttft", "ttft=", "latency=1s", "tpot=0", "e2e=soon", ",", "ttft=1s,ttft=2s"]
)
def test_slos_that_cannot_be_read(text):
    with pytest.raises(ProfileError, match="--slo"):
        bench.slos(text)


def test_kinds_of_traffic_exclude_each_other():
    with pytest.raises(ProfileError, match="--workload"):
        profile_of(isl="100", workload="chat")


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://h:8000/v1", "http://h:8000"),
        ("http://h:8000/", "http://h:8000"),
        ("http://[::1]:8000/v1/", "http://[::1]:8000"),
        ("https://h", "https://h"),
        ("http://h:8000/v1/chat/completions", "http://h:8000"),
        ("http://h:8000/v1/messages/", "http://h:8000"),
        ("http://h/openai/v1", "http://h/openai"),
    ],
)
def test_the_path_that_other_tools_want_is_dropped(url, base):
    assert bench.base_url(url) == base


@pytest.mark.parametrize(
    "url",
    [
        "h:8000",
        "",
        "ftp://h",
        "http://",
        "http://[::1",
        "http://h:abc",
        "http://h:0",
        "http://h/v1?x=1",
        "http://h#a",
        "http://h\n:1",
    ],
)
def test_what_is_not_an_address_is_refused(url):
    with pytest.raises(ProfileError, match="--url"):
        bench.base_url(url)


@pytest.mark.parametrize("key", ["", "a\nb", "schlüssel"])
def test_a_key_that_no_header_carries_is_refused_and_not_shown(key, monkeypatch):
    monkeypatch.setenv("BENCH_KEY", key)
    with pytest.raises(ProfileError, match="BENCH_KEY") as caught:
        bench.api_key("BENCH_KEY")
    assert not key or key not in str(caught.value)


def test_the_command_in_the_saved_profile_is_one_comment():
    text = bench.to_yaml({"name": "x"}, ["harness", "bench", "--trace", "a\npurpose: smoke"])
    assert [line for line in text.splitlines() if not line.startswith("#")] == ["{name: x}"]


def test_gpus_are_indices_or_names():
    assert profile_of(gpus="0,1").server.gpus == (0, 1)
    assert profile_of(gpus="²").server.gpus == ("²",)  # no such GPU, which the run says


# --- errors name options ---


def loaded(**options):
    text = bench.to_yaml(bench.document(bench.BenchOptions(URLS, **options), PROBED), ["harness"])
    return bench.load(text)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"isl": "40000"}, "--isl 40000"),
        ({"osl": "8000"}, "--osl 8000"),
        ({"isl": "7k", "osl": "1k"}, "--isl 7k"),
    ],
)
def test_lengths_beyond_the_context_name_their_option(options, named):
    with pytest.raises(ProfileError, match=f"^{named}: .*8000"):
        loaded(**options)


def test_a_context_that_is_unknown_refuses_no_length():
    assert profile_of(Detected("m", None, Api.CHAT, forced=True), isl="40000")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"usd_per_gpu_h": -1.0}, "--price"),
        ({"gpu_count": 0}, "--gpu-count"),
        ({"gpu_count": 2, "gpus": "0"}, "--gpu-count"),
        ({"gpus": "0,0"}, "--gpus"),
        ({"api_key_env": ""}, "--api-key-env"),
        ({"headers": {"X-Token": "abc"}}, "--header"),
        ({"workload": "batch", "slos": "ttft=1s"}, "--slo"),
        ({"duration_s": -1.0}, "--duration"),
    ],
)
def test_values_that_the_profile_refuses_name_their_option(options, named):
    with pytest.raises(ProfileError) as caught:
        loaded(**options)
    assert named in caught.value.what.split(":")[0]


def test_two_urls_that_are_the_same_name_their_option():
    options = bench.BenchOptions((*URLS, *URLS))
    with pytest.raises(ProfileError, match=r"^--url"):
        bench.load(bench.to_yaml(bench.document(options, PROBED), ["harness"]))


@pytest.mark.parametrize("texts", [["X-A"], ["=b"], ["X-A="], ["X-A=b", "X-A=c"]])
def test_headers_that_are_none_name_their_option_and_hide_the_value(texts):
    with pytest.raises(ProfileError, match=r"^--header") as caught:
        bench.headers(texts)
    assert "=c" not in str(caught.value)


def test_headers_and_the_authority_reach_the_profile_and_the_probe():
    headers = bench.headers(["X-Tenant=a=b", "X-Key=env:K"])
    options = bench.BenchOptions(URLS, ca_file="/ca.pem", headers=headers)
    profile = bench.load(bench.to_yaml(bench.document(options, PROBED), ["harness"]))
    assert profile.traffic.headers == {"X-Tenant": "a=b", "X-Key": "env:K"}
    assert profile.traffic.network == options.network


def test_a_file_that_is_none_names_its_option(tmp_path):
    with pytest.raises(ProfileError, match=r"^--ca-file"):
        bench.existing(tmp_path, "--ca-file")


def test_a_trace_may_be_a_folder(tmp_path):
    assert bench.existing(tmp_path, "--trace", folder=True) == str(tmp_path)
    with pytest.raises(ProfileError, match=r"^--trace"):
        bench.existing(tmp_path / "none", "--trace", folder=True)
