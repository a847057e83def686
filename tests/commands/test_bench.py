"""`harness bench`: options of the command line as a profile, and what it finds at an endpoint."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from harness.commands import bench
from harness.core.errors import PreflightError, ProfileError, ServerError
from harness.core.network import Network
from harness.core.records import Api
from harness.profile.load import load_profile_text
from harness.server.ready import listed_models

PROBED = bench.Probed("m", 8000, Api.CHAT, forced=True)
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


def test_lengths_are_natural_where_ignore_eos_is_refused():
    assert profile_of(bench.Probed("m", None, Api.CHAT, forced=False)).output_length == "natural"


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


@pytest.fixture
def endpoint():
    """A server that speaks as much as `served` says: model names, paths that answer, and whether it
    takes `ignore_eos`.
    """
    served = {"models": ["m"], "paths": ["/v1/chat/completions"], "ignore_eos": True, "status": 200}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def _send(self, status, body):
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            rows = [{"id": name, "max_model_len": 4096} for name in served["models"]]
            self._send(served["status"], {"data": rows})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if self.path not in served["paths"]:
                self._send(404, {"error": {"message": "no such route"}})
            elif "ignore_eos" in body and not served["ignore_eos"]:
                self._send(400, {"error": {"message": "unknown field ignore_eos"}})
            elif self.path == "/v1/messages":
                usage = {"input_tokens": 3, "output_tokens": 1}
                content = [{"type": "text", "text": "a"}]
                self._send(200, {"content": content, "stop_reason": "max_tokens", "usage": usage})
            else:
                choice = {"message": {"content": "a"}, "finish_reason": "length"}
                usage = {"prompt_tokens": 3, "completion_tokens": 1}
                self._send(200, {"choices": [choice], "usage": usage})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", served
    server.shutdown()
    server.server_close()


def probe(endpoint, model=None, api=None):
    return bench.probe(endpoint[0], model, api, None, Network())


def test_model_context_and_api_are_found(endpoint):
    assert probe(endpoint) == bench.Probed("m", 4096, Api.CHAT, forced=True)


def test_a_server_without_ignore_eos(endpoint):
    endpoint[1]["ignore_eos"] = False
    assert probe(endpoint).forced is False


def test_the_next_api_is_tried_where_chat_is_missing(endpoint):
    endpoint[1]["paths"] = ["/v1/messages"]
    assert probe(endpoint) == bench.Probed("m", 4096, Api.MESSAGES, forced=False)


def test_several_models_want_a_name(endpoint):
    endpoint[1]["models"] = ["a", "b"]
    with pytest.raises(PreflightError, match="--model"):
        probe(endpoint)
    assert probe(endpoint, model="b").model == "b"
    with pytest.raises(PreflightError, match="'c'"):
        probe(endpoint, model="c")


def test_an_api_that_does_not_answer_and_a_key_that_is_missing(endpoint):
    with pytest.raises(ServerError, match="/v1/responses"):
        probe(endpoint, api=Api.RESPONSES)
    endpoint[1]["status"] = 401
    with pytest.raises(ServerError, match="--api-key-env"):
        probe(endpoint)


@pytest.mark.parametrize("data", [5, "m", {"id": "m"}, [5, None, {"id": 7}]])
def test_a_list_of_models_in_another_form_lists_none(data):
    import httpx

    assert listed_models(httpx.Response(200, json={"data": data})) == {}


def test_no_server():
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:9"):
        bench.probe("http://127.0.0.1:9", None, None, None, Network())


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
