"""Gates of an attached server: what is asked, which responses are taken, and what an error states."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx
import pytest

from harness.core.errors import PreflightError
from harness.core.records import AS_IT_IS, Api, BodyForm, Endpoint
from harness.server import base
from harness.server.one_request import Reply, body_key_step
from harness.server.ready import Deadline, NotReadyError, Served, listed_models, wait_ready

ANSWER = {
    "choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "length"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1},
}
ROW = {"id": "m", "max_model_len": 2048}
LIST = {"object": "list", "data": [ROW]}


@contextmanager
def serving(health: int = 200, models: Any = LIST, status: int = 200, **post: Any) -> Iterator[str]:
    """A scripted server: `models` is a body or a status, `post` status, location, refuse."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def say(self, code: int, body: Any = None, **headers: str) -> None:
            data = json.dumps(body).encode()
            self.send_response(code)
            for name, value in {"content-length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            if self.path == "/health":
                self.say(health)
            elif self.path == "/v1/models":
                self.say(models if isinstance(models, int) else 200, models)
            else:
                self.say(404)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if (refused := post.get("refuse")) in body:
                self.say(400, {"error": {"message": f"unsupported: {refused}"}})
            elif "location" in post:
                self.say(308, None, location=post["location"])
            else:
                self.say(status, ANSWER)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def attach(
    url: str, model: str = "m", form: BodyForm = AS_IT_IS, timeout_s: float = 20.0, **more: Any
) -> Served:
    endpoint = Endpoint("replica-0", url, model)
    deadline = Deadline(timeout_s)
    watch = {"watch": lambda: None, "health_required": False, "form": form}
    return wait_ready(endpoint, Api.CHAT, None, deadline, **watch, **more)


@pytest.mark.parametrize("health", [200, 204, 302, 400, 401, 403, 404, 405, 501])
def test_any_response_to_health_but_an_overload_is_a_server(health: int) -> None:
    with serving(health) as url:
        assert attach(url) == Served(("m",), 2048, None)


@pytest.mark.parametrize("health", [429, 500, 503, 529])
def test_health_is_advice_for_a_foreign_server(health: int) -> None:
    with serving(health) as url:
        (note,) = attach(url, timeout_s=4.0).notes
    assert f"HTTP {health}" in note


@pytest.mark.parametrize("models", [{"data": []}, [{"id": "other"}], 400, 401, 500, 404, "text"])
def test_with_a_name_the_list_is_advice(models: Any) -> None:
    with serving(models=models) as url:
        served = attach(url, timeout_s=4.0)
    assert served.names == ("m",)
    assert len(served.notes) == (models != 404)


@pytest.mark.parametrize(
    "models",
    [
        LIST,
        [ROW],
        {"models": [ROW]},
        {"data": {"m": {"max_model_len": 2048}}},
        {"models": [{"name": "m", "max_model_len": 2048}]},
    ],
)
def test_forms_of_a_model_list(models: Any) -> None:
    response = httpx.Response(200, json=models)
    assert listed_models(response) == {"m": 2048}


@pytest.mark.parametrize("models", [["m"], {"data": ["m"]}, {"data": [None, {"id": "m"}, {}]}])
def test_a_list_without_lengths(models: Any) -> None:
    assert listed_models(httpx.Response(200, json=models)) == {"m": None}


@pytest.mark.parametrize("status", [401, 403, 400])
def test_without_a_name_the_list_is_needed(status: int) -> None:
    with serving(models=status) as url, pytest.raises(NotReadyError) as raised:
        attach(url, model="")
    assert str(status) in raised.value.what


def test_a_redirect_is_named_and_not_followed() -> None:
    moved = {"location": "/moved/v1/chat/completions"}
    with serving(**moved) as url, pytest.raises(NotReadyError) as raised:
        attach(url)
    assert f"{url}/moved/v1/chat/completions" in raised.value.what
    assert str(raised.value.next_step).endswith(f"server.urls: {url}/moved")


@pytest.mark.parametrize(
    ("key", "form", "named"),
    [
        ("max_tokens", BodyForm(length_key="max_completion_tokens"), "traffic.length_key"),
        ("temperature", BodyForm(omit=("temperature",)), "traffic.omit"),
    ],
)
def test_a_refused_key_has_a_key_of_the_profile(key: str, form: BodyForm, named: str) -> None:
    with serving(refuse=key) as url:
        with pytest.raises(NotReadyError) as raised:
            attach(url, temperature=0.0)
        assert named in str(raised.value.next_step)
        assert attach(url, form=form, temperature=0.0).names == ("m",)


def test_an_unknown_status_is_shown_and_not_called_loading() -> None:
    with serving(status=418) as url, pytest.raises(NotReadyError) as raised:
        attach(url)
    assert "HTTP 418" in raised.value.what
    assert "loading" not in str(raised.value)


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk-one\r\nsk-two", "sk-one # old", "sk-é"])
def test_a_key_is_one_line_and_never_quoted(key: str, tmp_path, monkeypatch) -> None:
    file = tmp_path / "key"
    file.write_text(key + "\n", encoding="utf-8")
    monkeypatch.setenv("SOME_KEY", key)

    class Named:
        api_key_env: str | None = None
        api_key_file: str | None = None

    for name, value in (("api_key_file", str(file)), ("api_key_env", "SOME_KEY")):
        named = Named()
        setattr(named, name, value)
        with pytest.raises(PreflightError) as raised:
            base.read_api_key(named)  # type: ignore[arg-type]
        assert "sk-" not in str(raised.value)


@pytest.mark.parametrize(
    ("api", "text", "named"),
    [
        (Api.CHAT, "Unsupported parameter: max_tokens", "length_key"),
        (Api.MESSAGES, "Unsupported parameter: max_tokens", None),
        (Api.CHAT, "'max_tokens' is too large: 4096. This model's maximum context length is", None),
        (Api.COMPLETIONS, "max_tokens exceeds the context length", None),
        (Api.RESPONSES, "temperature is not supported", "traffic.omit"),
    ],
)
def test_the_key_to_change_is_named_only_if_it_helps(
    api: Api, text: str, named: str | None
) -> None:
    step = body_key_step(Reply(400, text), api)
    assert (step is None) if named is None else (named in str(step))
