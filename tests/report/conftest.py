"""Headless Chromium over its debugging protocol, and the run builder of the reduction's tests."""

import base64
import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import websocket


class Page:
    """One page of a headless Chromium: open a file, ask it things, see what it complained about."""

    def __init__(self, socket: websocket.WebSocket) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def open(
        self,
        path: Path,
        *,
        width: int = 1100,
        theme: str = "light",
        mobile: bool = False,
        media: str = "screen",
    ) -> None:
        self.events.clear()
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=1000,
            deviceScaleFactor=1,
            mobile=mobile,
        )
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self._socket.recv()))
        # Whatever the page complains about while it loads is reported before this answer.
        self.js("1")

    def js(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    @property
    def complaints(self) -> list[dict[str, Any]]:
        """Console errors and warnings, exceptions, log entries, failed loads."""
        bad = ("Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed")
        return [
            event
            for event in self.events
            if event["method"] in bad
            or (
                event["method"] == "Runtime.consoleAPICalled"
                and event["params"]["type"] in ("error", "warning", "assert")
            )
        ]

    @property
    def requested(self) -> list[str]:
        """Addresses that the page asked for."""
        urls = [
            event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith("data:")]

    def screenshot(
        self, path: Path, top: int = 0, height: int | None = None, scale: float = 1
    ) -> None:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {
            "x": 0,
            "y": top,
            "width": size["width"],
            "height": height or size["height"] - top,
            "scale": scale,
        }
        data = self.call(
            "Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True
        )["data"]
        path.write_bytes(base64.b64decode(data))


@contextmanager
def browser(data: Path) -> Iterator[Page]:
    """A headless Chromium with its own profile folder, for as long as the block lasts.

    Raises:
        RuntimeError: it does not start.
    """
    data.mkdir(parents=True, exist_ok=True)
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-default-apps",
        "--remote-debugging-port=0",
        "--remote-allow-origins=*",
        f"--user-data-dir={data}",
    ]
    with (data / "log").open("wb") as log:
        process = subprocess.Popen(
            ["chromium", *flags, "about:blank"], stdout=log, stderr=log, start_new_session=True
        )
    try:
        port_file = data / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not (port_file.exists() and port_file.read_text().count("\n")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Chromium did not start: {(data / 'log').read_text()[-2000:]}")
            time.sleep(0.05)
        port = int(port_file.read_text().splitlines()[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30) as answer:
            targets = json.load(answer)
        url = next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
        socket = websocket.create_connection(url, timeout=60)
        try:
            yield Page(socket)
        finally:
            socket.close()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="session", name="page")
def _page(tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None]) -> Iterator[Page]:
    require("chromium")
    with browser(tmp_path_factory.mktemp("chromium")) as page:
        yield page


def _builders() -> ModuleType:
    """The run builder lives with the reduction's tests; folders of tests are no packages."""
    name = "reduce_test_builders"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, Path(__file__).parents[1] / "reduce" / "conftest.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(name="new_builder", scope="session")
def _new_builder() -> Callable[..., Any]:
    return _builders().Builder


@pytest.fixture(name="run_dir", scope="session")
def _run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A measured run on two GPUs with a few failures, prices and SLOs. Nobody changes it."""
    module = _builders()
    builder = module.Builder(
        purpose="measure",
        gpus=2,
        window_s=40.0,
        price={"usd_per_gpu_h": 2.5, "source": "list <price>", "date": "2026-08"},
        slos={"ttft_s": 0.25, "tpot_s": None, "e2e_s": None},
    )
    for i in range(300):
        start = 0.14 * i
        if i % 50 == 49:
            builder.lost(start, "timeout_first_byte", error="no byte | after <300> s")
        else:
            builder.request(start, ttft_s=0.1 + 0.002 * (i % 100), tokens=5 + i % 30)
    builder.scrape_counters()
    builder.idle_host()
    builder.constant_power(400)
    return builder.write(tmp_path_factory.mktemp("reported") / "run")


@pytest.fixture(name="written", scope="session")
def _written(run_dir: Path) -> tuple[Path, Path]:
    """Its report: page and Markdown."""
    from harness.report import write_report

    return write_report(run_dir)
