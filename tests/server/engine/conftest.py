"""One embedded engine on builtin:tiny for all tests here: the real child process, on a free port."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness import models

READY_S = 120.0
CONTEXT_TOK = 4096


@dataclass(frozen=True)
class RunningEngine:
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> tuple[int, bytes]:
        return self._send(urllib.request.Request(self.url + path))

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, text = self._send(
            urllib.request.Request(self.url + path, raw, {"content-type": "application/json"})
        )
        return status, json.loads(text)

    def events(self, path: str, body: dict[str, Any]) -> list[tuple[str | None, Any]]:
        """Names and data of all events of a stream."""
        raw = json.dumps(body | {"stream": True}).encode()
        status, text = self._send(
            urllib.request.Request(self.url + path, raw, {"content-type": "application/json"})
        )
        assert status == 200, text
        events: list[tuple[str | None, Any]] = []
        for block in text.decode().strip().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines())
            events.append(
                (
                    fields.get("event"),
                    fields["data"] if fields["data"] == "[DONE]" else json.loads(fields["data"]),
                )
            )
        return events

    def metrics(self) -> dict[str, float]:
        """Series by name and the labels that vary, `generation_tokens_total`,
        `request_success_total{abort}`.
        """
        out = {}
        for line in self.get("/metrics")[1].decode().splitlines():
            if line.startswith("vllm:"):
                name, value = line.removeprefix("vllm:").rsplit(" ", 1)
                base, _, labels = name.rstrip("}").partition("{")
                rest = [
                    pair.split("=")[1].strip('"')
                    for pair in labels.split(",")
                    if not pair.startswith(("engine", "model_name"))
                ]
                out[base + (f"{{{','.join(rest)}}}" if rest else "")] = float(value)
        return out

    @staticmethod
    def _send(request: urllib.request.Request) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_CACHE_DIR", str(tmp_path_factory.mktemp("model_cache")))
        path = models.resolve("builtin:tiny").path
        assert path is not None
        return path


@pytest.fixture(scope="session")
def start_engine(
    tiny_path: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., RunningEngine]]:
    """Start an engine with further arguments; all are killed at the end."""
    started: list[RunningEngine] = []

    def start(*arguments: str, wait: bool = True) -> RunningEngine:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        log = tmp_path_factory.mktemp("engine") / "engine.log"
        argv = [
            sys.executable,
            "-m",
            "harness.server.engine",
            "--model",
            tiny_path,
            "--served-name",
            "tiny",
            "--port",
            str(port),
        ]
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*argv, "--device", "cpu", *arguments],
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        engine = RunningEngine(port, process, log)
        started.append(engine)
        if wait:
            until(lambda: answers(engine), READY_S, lambda: log.read_text())
        return engine

    yield start
    for engine in started:
        if engine.process.poll() is None:
            os.killpg(engine.process.pid, signal.SIGKILL)
        engine.process.wait()


@pytest.fixture(scope="session")
def engine(start_engine: Callable[..., RunningEngine]) -> RunningEngine:
    return start_engine("--max-context", str(CONTEXT_TOK), "--kv-cache-tokens", "8448")


def answers(engine: RunningEngine) -> bool:
    assert engine.process.poll() is None, engine.log.read_text()
    try:
        return engine.get("/health")[0] == 200
    except OSError:
        return False


def until(
    holds: Callable[[], bool], deadline_s: float, why: Callable[[], str] = lambda: ""
) -> None:
    """Poll until it holds; fail after the deadline."""
    end = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < end, f"not within {deadline_s} s; {why()}"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def eventually() -> Callable[..., None]:
    return until
