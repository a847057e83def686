"""Serves a folder on loopback and shows its page in a browser."""

import functools
import http.server
import os
import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Log nothing: the terminal belongs to the command."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder's files on loopback, at a free port; yields the URL of the folder."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="page", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def show(url: str) -> bool:
    """Open a page in a graphical browser; False without one."""
    if not (
        sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return False
    return webbrowser.open(url)


def serve_page(page: Path) -> None:
    """Serve a page, open it in a browser if there is one, and wait for Ctrl-C."""
    with served(page.parent) as folder:
        url = f"{folder}{page.name}"
        sys.stderr.write(
            f"{url if show(url) else f'no browser here: open {url}'}\nPress Ctrl-C to stop\n"
        )
        sys.stderr.flush()
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
