"""What the embedded engine does with builtin:tiny on this machine: time to ready, tokens a second,
reuse of prefixes.

`python benchmarks/bench_engine.py [--streams 32] [--tokens 128]` prints one JSON object. Client and
engine share the cores.
"""

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import models
from harness.plan import corpus

BARS = {"ready_s": 15.0, "output_tok_s": 500.0}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def post(port: int, path: str, body: dict[str, object]) -> dict[str, object]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply)


def metrics(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    return {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1])
        for line in lines
        if not line.startswith("#")
    }


@contextmanager
def engine(model_path: str, extra: list[str]) -> Iterator[tuple[int, float]]:
    port = free_port()
    argv = [
        sys.executable,
        "-m",
        "harness.server.engine",
        "--model",
        model_path,
        "--served-name",
        "m",
        "--port",
        str(port),
        *extra,
    ]
    with tempfile.TemporaryFile() as log:
        started = time.monotonic()
        process = subprocess.Popen(argv, stdout=log, stderr=log)
        try:
            while True:
                if process.poll() is not None:
                    log.seek(0)
                    raise SystemExit(log.read().decode())
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                        break
                except (urllib.error.URLError, OSError):
                    time.sleep(0.05)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=10):
                pass
            post(port, "/v1/completions", {"model": "m", "prompt": "ready", "max_tokens": 1})
            yield port, time.monotonic() - started
        finally:
            process.terminate()
            process.wait(10)


async def stream(port: int, body: dict[str, object]) -> tuple[float, float, int]:
    """One streamed answer: seconds to the first content event, seconds in all, output tokens by the
    server's usage.
    """
    raw = json.dumps(body).encode()
    started = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)
    writer.write(
        b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-type:"
        b" application/json\r\ncontent-length: %d\r\n\r\n" % len(raw) + raw
    )
    first, received = None, bytearray()
    while b"message_stop" not in received[-400:]:
        chunk = await reader.read(65536)
        if not chunk:
            raise SystemExit(f"the stream broke: {bytes(received[-500:])!r}")
        received += chunk
        if first is None and b"content_block_delta" in received:
            first = time.monotonic() - started
    ended = time.monotonic() - started
    writer.close()
    at = received.rindex(b'"output_tokens": ') + len(b'"output_tokens": ')
    assert first is not None
    return first, ended, int(received[at : received.index(b"}", at)])


async def load(
    port: int, streams: int, tokens: int, prompt_words: int, rounds: int
) -> dict[str, float]:
    words = corpus.words()

    async def one_user(user: int) -> list[tuple[float, float, int]]:
        done = []
        for turn in range(rounds):
            at = (user * 131 + turn * 17) % (len(words) - prompt_words)
            text = f"{user} {turn} " + " ".join(words[at : at + prompt_words])
            done.append(
                await stream(
                    port,
                    {
                        "model": "m",
                        "max_tokens": tokens,
                        "stream": True,
                        "messages": [{"role": "user", "content": text}],
                    },
                )
            )
        return done

    started = time.monotonic()
    users = await asyncio.gather(*(one_user(user) for user in range(streams)))
    wall_s = time.monotonic() - started
    requests = [request for user in users for request in user]
    return {
        "requests": len(requests),
        "wall_s": wall_s,
        "output_tok": sum(out for _, _, out in requests),
        "output_tok_s": sum(out for _, _, out in requests) / wall_s,
        "ttft_p50_s": statistics.median(first for first, _, _ in requests),
        "tpot_p50_s": statistics.median(
            (ended - first) / (out - 1) for first, ended, out in requests
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="builtin:tiny")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--prompt-words", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--prefix-words", type=int, default=2000)
    parser.add_argument("engine_args", nargs="*", help="passed to the engine, after --")
    args = parser.parse_args()
    facts = models.resolve(args.model)
    assert facts.path is not None
    with engine(facts.path, args.engine_args) as (port, ready_s):
        before = metrics(port)
        asyncio.run(load(port, args.streams, 16, args.prompt_words, 1))
        loaded = asyncio.run(load(port, args.streams, args.tokens, args.prompt_words, args.rounds))
        single = asyncio.run(load(port, 1, args.tokens, args.prompt_words, 1))
        prefix = " ".join(corpus.words()[: args.prefix_words])
        body = {
            "model": "m",
            "max_tokens": 2,
            "stream": True,
            "messages": [{"role": "user", "content": prefix}],
        }
        cold, warm = asyncio.run(stream(port, body))[0], asyncio.run(stream(port, body))[0]
        after = metrics(port)
    labels = '{engine="0",model_name="m"}'
    generated = "vllm:generation_tokens_total" + labels
    cached = (
        after["vllm:prompt_tokens_cached_total" + labels]
        - before["vllm:prompt_tokens_cached_total" + labels]
    )
    client_tok = loaded["output_tok"] + single["output_tok"] + args.streams * 16 + 4
    result = {
        "benchmark": "engine",
        "model": args.model,
        "machine": {
            "cpu": next(
                (
                    line.split(":", 1)[1].strip()
                    for line in Path("/proc/cpuinfo").read_text().splitlines()
                    if "model name" in line
                ),
                None,
            ),
            "cores": len(os.sched_getaffinity(0)),
            "system": platform.platform(),
            "python": platform.python_version(),
            "load_before": os.getloadavg()[0],
        },
        "ready_s": ready_s,
        "streams": args.streams,
        **loaded,
        "single_stream_tok_s": 1 / single["tpot_p50_s"],
        "prefix_ttft_cold_s": cold,
        "prefix_ttft_warm_s": warm,
        "prefix_cached_tok": cached,
        "client_tok_equal_server_tok": client_tok == after[generated] - before[generated],
        "bars": BARS,
        "met": (
            ready_s <= BARS["ready_s"]
            and loaded["output_tok_s"] >= BARS["output_tok_s"]
            and cached > 0
        ),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
