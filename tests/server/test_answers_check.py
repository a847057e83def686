"""The quality check's questions, asked of real servers over loopback."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.layout import RunDir
from harness.artifacts.quality import Reference, read_reference, write_reference
from harness.core.errors import PreflightError
from harness.core.records import Api, Endpoint, ModelFacts, ServerInfo
from harness.profile.schema import Profile
from harness.reference_server.server import MODEL, Pace, PacedServer
from harness.server.answers_check import TEXTS, QualityCheck, Route, ask, routes_for, texts_sha256

FACTS = ModelFacts("some-model", fingerprint="f" * 64, dtype="bfloat16")
INFO = ServerInfo("vllm", "0.25.0", settings={"dtype": "auto"})


def profile(reference: Path | None = None, **quality: Any) -> Profile:
    return Profile.model_validate(
        {
            "purpose": "measure",
            "model": {"id": "some-model", "max_context_tok": 4000, "tok_per_word": 1.4},
            "server": {"kind": "attach", "urls": ["http://127.0.0.1:1"]},
            "traffic": {
                "api": "chat",
                "workload": {"kind": "chat"},
                "load": [{"kind": "concurrency", "concurrency": 2, "window_s": 30}],
            },
            "quality": {**quality, **({} if reference is None else {"reference": str(reference)})},
        }
    )


class _OpenAi(BaseHTTPRequestHandler):
    """Completions as vLLM answers them; what it refuses and says is set on the server."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        server: Any = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server.seen.append((self.path, body))
        status, document = server.reply(self.path, body)
        raw = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


@pytest.fixture(name="serve")
def _serve() -> Iterator[Callable[..., Any]]:
    servers = []

    def serve(reply: Callable[[str, Any], tuple[int, Any]]) -> Any:
        server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _OpenAi)
        server.reply, server.seen = reply, []
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        servers.append(server)
        server.endpoint = Endpoint(
            "replica-0", f"http://127.0.0.1:{server.server_address[1]}", "some-model", pid=1
        )
        return server

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def completion(path: str, body: Any) -> tuple[int, Any]:
    if path != "/v1/completions":
        return 404, {"error": {"message": "Not Found"}}
    words = [f" w{i}" for i in range(body["max_tokens"])]
    told = (
        {"tokens": words, "token_logprobs": [-0.25] * len(words)} if body.get("logprobs") else None
    )
    usage = {"prompt_tokens": 11, "completion_tokens": len(words)}
    return 200, {"choices": [{"text": "".join(words), "logprobs": told}], "usage": usage}


def test_every_text_is_asked_greedily_with_log_probabilities(serve: Callable[..., Any]) -> None:
    server = serve(completion)
    asked = ask(server.endpoint, routes_for(Api.MESSAGES), None, 6)
    assert asked.error is None
    assert asked.route == Route(Api.COMPLETIONS, logprobs=True)
    assert [body["prompt"] for _, body in server.seen] == list(TEXTS)
    assert {
        (body["temperature"], body["max_tokens"], body["model"]) for _, body in server.seen
    } == {(0, 6, "some-model")}
    assert asked.answers[0].logprobs == (-0.25,) * 6
    assert asked.answers[0].tokens == (" w0", " w1", " w2", " w3", " w4", " w5")


def test_a_server_without_log_probabilities_is_asked_without_them(
    serve: Callable[..., Any],
) -> None:
    server = serve(
        lambda path, body: (
            (400, {"error": {"message": "logprobs?"}})
            if body.get("logprobs")
            else completion(path, body)
        )
    )
    asked = ask(server.endpoint, routes_for(Api.MESSAGES), None, 4)
    assert (asked.error, asked.route, asked.answers[0].logprobs) == (
        None,
        Route(Api.COMPLETIONS, logprobs=False),
        None,
    )


def test_a_chat_only_server_is_asked_over_chat(serve: Callable[..., Any]) -> None:
    def reply(path: str, body: Any) -> tuple[int, Any]:
        if path != "/v1/chat/completions":
            return 404, {"error": "no such route"}
        listed = [{"token": "a", "logprob": -1.0}, {"token": "b", "logprob": float("-1e3")}]
        return 200, {
            "choices": [{"message": {"content": "ab"}, "logprobs": {"content": listed}}],
            "usage": {},
        }

    asked = ask(serve(reply).endpoint, routes_for(Api.CHAT), None, 4)
    assert asked.route == Route(Api.CHAT, logprobs=True)
    assert (asked.answers[0].text, asked.answers[0].logprobs) == ("ab", (-1.0, -1000.0))


@pytest.mark.parametrize(
    ("reply", "status", "says"),
    [
        (lambda path, body: (500, {"error": {"message": "engine died"}}), 500, "engine died"),
        (lambda path, body: (404, {"error": {"message": "no route"}}), 404, "no route"),
        (lambda path, body: (200, {"choices": []}), 200, "IndexError"),
        (lambda path, body: (200, [1, 2]), 200, "JSON object"),
    ],
)
def test_what_a_server_does_wrong_is_told_and_never_raised(
    serve: Callable[..., Any], reply: Any, status: int, says: str
) -> None:
    asked = ask(serve(reply).endpoint, routes_for(Api.CHAT), None, 4)
    assert asked.status == status
    assert says in str(asked.error)


def test_a_server_that_is_gone_is_told(serve: Callable[..., Any]) -> None:
    asked = ask(
        Endpoint("replica-0", "http://127.0.0.1:9", "m", pid=1), routes_for(Api.CHAT), None, 4
    )
    assert (asked.status, "Connect" in str(asked.error)) == (None, True)


@pytest.mark.parametrize("api", list(Api))
def test_every_api_of_the_paced_server_is_read(api: Api) -> None:
    with PacedServer(Pace(ttft_ms=0, gap_ms=0)) as server:
        asked = ask(
            Endpoint("replica-0", server.url, MODEL, pid=1), (Route(api, logprobs=False),), None, 16
        )
    assert asked.error is None
    assert len(asked.answers) == len(TEXTS)
    assert all(
        answer.text and answer.output_tok == 16 and answer.input_tok for answer in asked.answers
    )


def test_the_first_run_records_the_reference_and_the_next_one_reads_it(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    server, run_dir, path = serve(completion), RunDir(tmp_path), tmp_path / "refs" / "model.json"
    first = QualityCheck(profile(path), FACTS)
    assert first.reference is None
    for when in ("before", "after"):
        first.ask(when, run_dir, (server.endpoint,), None)
    assert first.record_first(run_dir, INFO) == path
    assert json.loads(run_dir.quality.read_text())["recorded"] is True
    second = QualityCheck(profile(path), FACTS)
    assert second.reference is not None
    assert (second.reference.dtype, second.reference.engine, second.reference.fingerprint) == (
        "bfloat16",
        "vllm 0.25.0",
        "f" * 64,
    )
    second.ask("before", run_dir, (server.endpoint,), None)
    assert second.record_first(run_dir, INFO) is None
    written = json.loads(run_dir.quality.read_text())
    assert written["reference"]["answers"] == written["before"]["replica-0"]["answers"]


def test_answers_that_changed_or_failed_are_never_recorded(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    path, run_dir = tmp_path / "ref.json", RunDir(tmp_path)
    answers = iter(range(1000))
    server = serve(lambda path, body: (200, {"choices": [{"text": f"{next(answers)}"}]}))
    changed = QualityCheck(profile(path), FACTS)
    for when in ("before", "after"):
        changed.ask(when, run_dir, (server.endpoint,), None)
    assert changed.record_first(run_dir, INFO) is None
    failed = QualityCheck(profile(path), FACTS)
    for when in ("before", "after"):
        failed.ask(when, run_dir, (Endpoint("replica-0", "http://127.0.0.1:9", "m", pid=1),), None)
    assert "replica-0" in str(failed.failure("after"))
    assert failed.record_first(run_dir, INFO) is None
    assert not path.exists()


GOOD = Reference(
    1, texts_sha256(), 24, "completions", "some-model", "f" * 64, "bfloat16", None, "vllm 0.25", ()
)


@pytest.mark.parametrize(
    ("changes", "facts", "says"),
    [
        ({"fingerprint": "e" * 64}, FACTS, "e" * 12),
        ({"fingerprint": None, "model_id": "other"}, FACTS, "other"),
        ({"max_output_tok": 32}, FACTS, "32"),
        ({"texts_sha256": "0"}, FACTS, "harness quality record"),
        ({"check_version": 2}, FACTS, "2"),
        ({"kind": "else"}, FACTS, "ref.json"),
        ({"answers": 3}, FACTS, "ref.json"),
        ("{", FACTS, "ref.json"),
    ],
)
def test_a_reference_of_something_else_stops_a_run_before_it_starts(
    tmp_path: Path, changes: Any, facts: ModelFacts, says: str
) -> None:
    path = tmp_path / "ref.json"
    path.write_text(
        changes if isinstance(changes, str) else json.dumps({**GOOD.to_dict(), **changes})
    )
    with pytest.raises(PreflightError) as caught:
        QualityCheck(profile(path), facts)
    assert says in str(caught.value)


def test_a_reference_is_found_again_as_it_was_written(tmp_path: Path) -> None:
    write_reference(tmp_path / "a" / "ref.json", GOOD)
    assert read_reference(tmp_path / "a" / "ref.json") == GOOD
    assert read_reference(tmp_path / "none.json") is None


def test_when_a_run_checks(tmp_path: Path) -> None:
    assert profile().checks_quality
    assert not profile(check=False).checks_quality
    smoke = profile(tmp_path / "r.json").model_copy(update={"purpose": "smoke"})
    assert smoke.checks_quality
