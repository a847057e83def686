"""Behaves like a model server, in a tenth of a second and without a model. Faults come through
FAKE_* variables.

It stands in for `vllm.entrypoints.openai.api_server` and for `harness.server.engine`: the fixtures
put it where `-m` finds it.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FAULT = os.environ.get("FAKE_FAULT", "")
KEY = os.environ.get("VLLM_API_KEY")


def parse():
    parser = argparse.ArgumentParser(prog="api_server.py")
    parser.add_argument("--served-model-name", "--served-name", dest="served", default="m")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    for name in (
        "model",
        "seed",
        "dtype",
        "tool-call-parser",
        "max-model-len",
        "max-context",
        "device",
        "threads",
        "load-format",
    ):
        parser.add_argument(f"--{name}")
    for option in (
        "--enable-prompt-tokens-details",
        "--enforce-eager",
        "--enable-prefix-caching",
        "--enable-auto-tool-choice",
    ):
        parser.add_argument(option, action="store_true")
    if "--help=all" in sys.argv:
        parser.print_help()
        sys.exit(0)
    return parser.parse_args()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body, kind="application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def allowed(self):
        if KEY is None or self.headers.get("authorization") == f"Bearer {KEY}":
            return True
        self.answer(401, {"error": "Unauthorized"})
        return False

    def do_GET(self):
        if self.path == "/health":
            self.answer(503 if FAULT == "never_healthy" else 200, b"")
        elif self.path == "/version":
            self.answer(200, {"version": "0.32.0"})
        elif self.path == "/metrics":
            self.answer(
                200,
                b"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 0\n",
                "text/plain",
            )
        elif self.path == "/v1/models" and self.allowed():
            self.answer(200, {"data": [{"id": args.served, "max_model_len": 4096}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/die":
            print("RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB", flush=True)
            os._exit(3)
        if not self.allowed():
            return
        if FAULT == "hangs_on_request":
            time.sleep(1000)
        if body["model"] != args.served:
            message = f"The model `{body['model']}` does not exist."
            self.answer(
                404, {"type": "error", "error": {"type": "not_found_error", "message": message}}
            )
            return
        tools = body.get("tools")
        if tools and "vllm" in __package__ and not args.enable_auto_tool_choice:
            message = (
                '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to'
                " be set"
            )
            self.answer(400, {"error": {"message": message}})
            return
        prompt = len(json.dumps(body["messages"]).split())
        if tools and FAULT != "drops_tools":
            prompt += len(json.dumps(tools).split())
        out = body["max_tokens"]
        if self.path == "/v1/messages":
            usage = {
                "input_tokens": prompt - 2,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 2,
                "output_tokens": out,
            }
            if not body.get("stream"):
                self.answer(200, {"type": "message", "stop_reason": "max_tokens", "usage": usage})
                return
            events = [
                {
                    "type": "message_start",
                    "message": {"usage": {"input_tokens": prompt, "output_tokens": 0}},
                },
                {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "x"}},
                {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": usage},
                {"type": "message_stop"},
            ]
            text = "".join(
                f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events
            )
            self.answer(200, text.encode(), "text/event-stream")
        else:
            usage = {
                "prompt_tokens": prompt,
                "completion_tokens": out,
                "prompt_tokens_details": {"cached_tokens": 2},
            }
            self.answer(200, {"choices": [{"finish_reason": "length"}], "usage": usage})


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


args = parse()
print("secret in the environment:", KEY, flush=True)
if FAULT == "dies_at_start":
    print(os.environ["FAKE_LOG"], flush=True)
    sys.exit(1)
if FAULT == "ignores_sigterm":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.environ.get("FAKE_CHILDREN"):
    sleeper = [
        sys.executable,
        "-S",
        "-c",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)",
    ]
    children = [
        subprocess.Popen(sleeper),  # in the group
        subprocess.Popen(sleeper, start_new_session=True),  # left the group, carries the marker
        subprocess.Popen(
            sleeper, env={}
        ),  # in the group without marker, as processes that write a title over their environment
    ]
    Path(os.environ["FAKE_CHILDREN"]).write_text(" ".join(str(child.pid) for child in children))
server = Server((args.host, args.port), Handler)
server.serve_forever()
