"""What is found at a running endpoint, and the keys of a profile that it fills in."""

import json
import socket
import ssl
import subprocess
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import pytest

from harness.core.errors import PreflightError, ProfileError, ServerError
from harness.core.network import Network
from harness.core.records import Api
from harness.models.facts import facts_of
from harness.plan.build import make_plan
from harness.profile.load import load_profile_text
from harness.server.detect import KEYS, OPTIONS, Detected, complete, complete_or_assume, detect
from harness.server.ready import listed_models


@pytest.fixture
def endpoint():
    """A server that speaks as much as `served` says: model names, paths that answer, and whether it
    takes `ignore_eos`.
    """
    served = {"models": ["m"], "paths": ["/v1/chat/completions"], "ignore_eos": True, "status": 200}
    served["seen"] = []

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
            served["seen"].append(dict(self.headers))
            rows = [{"id": name, "max_model_len": 4096} for name in served["models"]]
            self._send(served["status"], {"data": rows})

        def do_POST(self):
            served["seen"].append(dict(self.headers))
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


def probe(endpoint, model=None, api=None, names=OPTIONS):
    return detect(endpoint[0], model, api, None, Network(), names)


def test_model_context_and_api_are_found(endpoint):
    assert probe(endpoint) == Detected("m", 4096, Api.CHAT, forced=True)


def test_a_server_without_ignore_eos(endpoint):
    endpoint[1]["ignore_eos"] = False
    assert probe(endpoint).forced is False


def test_the_next_api_is_tried_where_chat_is_missing(endpoint):
    endpoint[1]["paths"] = ["/v1/messages"]
    assert probe(endpoint) == Detected("m", 4096, Api.MESSAGES, forced=False)


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


@pytest.mark.parametrize("data", [5, "m", [5, None, {"id": 7}]])
def test_a_list_of_models_in_another_form_lists_none(data):
    assert listed_models(httpx.Response(200, json={"data": data})) == {}


def test_no_server():
    with pytest.raises(ServerError, match="--url"):
        detect("http://127.0.0.1:9", None, None, None, Network(), OPTIONS)


# --- the keys of a profile ---

OPEN = """\
purpose: {purpose}
server: {{kind: attach, urls: ["{url}"]}}
traffic:
  workload: {{kind: chat, system_tok: 0, turns: 1, context_limit_tok: 2k}}
  load: [{{kind: concurrency, concurrency: 1, sessions: 2}}]
"""


def open_profile(url, *overrides, purpose="measure"):
    return load_profile_text(OPEN.format(url=url, purpose=purpose), overrides=overrides)


def test_model_api_and_context_of_a_profile_are_found(endpoint):
    completed = complete(open_profile(endpoint[0]))
    model, traffic = completed.profile.model, completed.profile.traffic
    assert (model.id, model.served_name, model.max_context_tok) == ("m", "m", 4096)
    assert (traffic.api, completed.profile.output_length) == ("chat", "forced")
    assert len(completed.choices) == 2
    assert "'m'" in completed.choices[0]
    assert "chat" in completed.choices[1]


def test_what_the_profile_sets_is_kept(endpoint):
    given = open_profile(endpoint[0], "model.id=builtin:tiny", "model.max_context_tok=2048")
    model = complete(given).profile.model
    assert (model.id, model.served_name, model.max_context_tok) == ("builtin:tiny", "m", 2048)


def test_a_profile_with_model_and_api_asks_nothing():
    given = open_profile(
        "http://127.0.0.1:9", "model.id=m", "traffic.api=messages", purpose="smoke"
    )
    assert complete(given).profile == given
    assert complete(given).choices == ()


def test_lengths_are_natural_where_the_found_api_cannot_force_them(endpoint):
    endpoint[1]["paths"] = ["/v1/messages"]
    completed = complete(open_profile(endpoint[0]))
    assert completed.profile.traffic.api is Api.MESSAGES
    assert completed.profile.output_length == "natural"
    assert len(completed.choices) == 3


def test_forced_lengths_that_are_asked_for_are_not_dropped(endpoint):
    endpoint[1]["paths"] = ["/v1/messages"]
    with pytest.raises(ProfileError, match=r"traffic\.output_length"):
        complete(open_profile(endpoint[0], "traffic.output_length=forced"))


def test_two_models_need_the_key_of_the_profile(endpoint):
    endpoint[1]["models"] = ["a", "b"]
    with pytest.raises(PreflightError, match="'a', 'b'") as caught:
        complete(open_profile(endpoint[0]))
    assert KEYS.model in caught.value.next_step
    chosen = complete(open_profile(endpoint[0], "model.served_name=b")).profile
    assert (chosen.model.id, chosen.model.served_name) == ("b", "b")


def test_the_plan_is_that_of_a_profile_that_states_what_was_found(endpoint):
    found = complete(open_profile(endpoint[0])).profile
    stated = open_profile(
        endpoint[0], "model={id: m, served_name: m, max_context_tok: 4096}", "traffic.api=chat"
    )
    plans = [make_plan(one, facts_of(one)) for one in (found, stated)]
    assert plans[0].plan_sha256 == plans[1].plan_sha256


def test_without_a_response_a_description_assumes_the_default_api():
    given = open_profile("http://127.0.0.1:9")
    assumed = complete_or_assume(given)
    assert (assumed.profile.traffic.api, assumed.profile.model_id) == (Api.CHAT, "")
    assert "127.0.0.1:9" in assumed.choices[-1]
    assert make_plan(assumed.profile, facts_of(assumed.profile)).settings.api == "chat"
    with pytest.raises(ServerError, match=r"server\.urls"):
        complete(given)


def test_a_served_name_that_is_a_path_elsewhere_is_no_error(endpoint):
    endpoint[1]["models"] = ["/models/elsewhere"]
    assert facts_of(complete(open_profile(endpoint[0])).profile).path is None
    with pytest.raises(PreflightError, match="/models/elsewhere"):
        facts_of(open_profile(endpoint[0], "model.id=/models/elsewhere"))


def test_the_default_api_of_a_started_server_can_force_lengths():
    text = """\
        purpose: measure
        model: {id: Qwen/Qwen2.5-1.5B-Instruct}
        server: {kind: vllm}
        traffic:
          workload: {kind: chat}
          load: [{kind: concurrency, concurrency: 1, sessions: 1}]
    """
    completed = complete(load_profile_text(text))
    assert (completed.profile.traffic.api, completed.profile.output_length) == ("chat", "forced")
    assert make_plan(completed.profile, facts_of(completed.profile)).settings.force_output


# --- addresses, certificates and headers ---


def test_every_probe_carries_the_headers_of_the_profile(endpoint, monkeypatch):
    monkeypatch.setenv("GATEWAY_KEY", "s3cret")
    given = open_profile(endpoint[0], "traffic.headers={X-Key: 'env:GATEWAY_KEY', X-Tenant: a}")
    completed = complete(given)
    seen = endpoint[1]["seen"]
    assert len(seen) == 3  # the list, a token, ignore_eos
    assert {(one["X-Key"], one["X-Tenant"]) for one in seen} == {("s3cret", "a")}
    assert "s3cret" not in completed.profile.model_dump_json()


def test_headers_are_no_part_of_the_plan(endpoint):
    plans = []
    for headers in ("{}", "{X-Tenant: a}"):
        found = complete(open_profile(endpoint[0], f"traffic.headers={headers}")).profile
        plans.append(make_plan(found, facts_of(found)))
    assert plans[0].plan_sha256 == plans[1].plan_sha256


def test_an_ipv6_address(monkeypatch):
    monkeypatch.setattr(ThreadingHTTPServer, "address_family", socket.AF_INET6)
    try:
        server = ThreadingHTTPServer(("::1", 0), Lists)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with served_by(server):
        url = f"http://[::1]:{server.server_port}"
        with pytest.raises(ServerError, match=r"\[::1\]") as caught:
            detect(url, None, None, None, Network(), OPTIONS)
        assert "rejected" in caught.value.what  # it lists a model, and has no API


def test_a_certificate_of_a_private_authority_needs_its_file(tmp_path):
    certificate, key = self_signed(tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Lists)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with served_by(server):
        url = f"https://localhost:{server.server_port}"
        for names, named in ((OPTIONS, "--ca-file"), (KEYS, "traffic.tls.ca_file")):
            with pytest.raises(ServerError) as caught:
                detect(url, None, None, None, Network(), names)
            assert named in caught.value.next_step
        with pytest.raises(ServerError, match="rejected"):
            detect(url, None, None, None, Network(ca_file=str(certificate)), OPTIONS)


class Lists(BaseHTTPRequestHandler):
    """Lists one model and has no other route."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        data = b'{"data": [{"id": "m"}]}'
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def served_by(server):
    Thread(target=server.serve_forever, daemon=True).start()
    yield
    server.shutdown()
    server.server_close()


def self_signed(folder):
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key
