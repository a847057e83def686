"""Starts the engine: `python -m harness.server.engine --model DIR --port N`.

Exit status: 0 after SIGTERM or SIGINT, 1 if it could not start (the last line on stderr has the
reason), 2 for wrong arguments.
"""

import argparse
import logging
import os
import socket
import sys
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final

log = logging.getLogger("harness.engine")

DRAIN_S: Final = 2
"""For open connections to end after SIGTERM; their requests are canceled at once."""
THREAD_S: Final = 1.5
"""For the generation thread to end its forward pass; then the process ends anyway."""


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.server.engine", description="The embedded engine of the harness."
    )
    add = parser.add_argument
    integer = partial(add, type=int)
    dtypes = ("auto", "float32", "bfloat16", "float16")
    add("--model", required=True, help="folder of the model")
    add("--served-name", help="name that requests use (default: the folder's)")
    add("--host", default="127.0.0.1")
    integer("--port", required=True)
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--dtype", default="auto", choices=dtypes)
    add("--load-format", default="auto", choices=("auto", "dummy"))
    integer(
        "--max-context",
        dest="max_context_tok",
        help="maximum tokens of prompt and response together (default: the model's)",
    )
    integer(
        "--threads",
        help="torch threads on CPU (default: 1 on two cores or fewer, else the cores minus two)",
    )
    integer("--num-blocks", help="blocks of the KV cache (default: sized from memory)")
    integer("--kv-cache-tokens", help="KV cache in tokens, instead of --num-blocks")
    integer("--page-size", dest="page_tok", help="tokens per block (default: 32)")
    integer(
        "--max-batch-tokens",
        dest="max_batch_tok",
        help="maximum tokens in one forward pass (default: 512 on CPU, 4096 on CUDA)",
    )
    add("--no-prefix-caching", dest="prefix_caching", action="store_false")
    integer("--seed", default=0, help="seed of sampling")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Load and serve; return the exit status."""
    arguments = parse(argv)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    # The model is on this machine: no hub requests, and no progress bars in the log.
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    try:
        status = serve(arguments)
    except SystemExit as error:  # uvicorn could not start and has logged why
        status = error.code if isinstance(error.code, int) else 1
    except Exception as error:
        log.exception("the engine could not start")
        sys.stderr.write(f"engine error: {type(error).__name__}: {error}\n")
        status = 1
    sys.stderr.flush()
    # Not sys.exit: a generation thread within a long forward pass would keep the process alive.
    os._exit(status)


def serve(arguments: argparse.Namespace) -> int:
    """Serve until a signal; return the exit status."""
    # First, so that a port in use is noticed before imports and model loading.
    listener = _bind(arguments.host, arguments.port)
    import uvicorn
    from transformers.utils import logging as transformers_logging

    from harness.server.engine.api import EngineApp
    from harness.server.engine.batching import PAGE_TOK, Engine, EngineSettings
    from harness.server.engine.prompts import Prompts

    transformers_logging.disable_progress_bar()
    if arguments.num_blocks is None and arguments.kv_cache_tokens is not None:
        arguments.num_blocks = -(-arguments.kv_cache_tokens // (arguments.page_tok or PAGE_TOK))
    # Arguments are named like the settings.
    engine = Engine(
        EngineSettings(**{key: vars(arguments)[key] for key in EngineSettings.__slots__})
    )
    name = arguments.served_name or Path(arguments.model).name
    api = EngineApp(engine, Prompts(arguments.model), name)
    log.info(
        "model %s as %s on %s, %s; context %d tokens, KV cache %d x %d tokens, %d tokens a batch",
        arguments.model,
        name,
        engine.device,
        engine.model.dtype,
        engine.max_context_tok,
        engine.num_blocks,
        engine.page_tok,
        engine.max_batch_tok,
    )

    class Server(uvicorn.Server):  # type: ignore[misc]  # uvicorn is not typed here
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
            log.info("signal %d: stopping", sig)
            engine.cancel_all()  # so that draining is short
            # uvicorn's own handler would raise the signal again at the end, which would become the
            # exit status.
            self.should_exit = True

    server = Server(
        uvicorn.Config(
            api.app(),
            host=arguments.host,
            port=arguments.port,
            http="httptools",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=DRAIN_S,
            timeout_keep_alive=120,
        )
    )
    server.run(sockets=[listener])
    engine.stop(THREAD_S)
    return 0 if server.started else 1


def _bind(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"{error.strerror}: {host}:{port}") from error
    return listener


if __name__ == "__main__":
    sys.exit(main())
