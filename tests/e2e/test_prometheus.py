"""A run whose metrics a Prometheus of its own scrapes, and that shows its own."""

import json
import re
import threading
import urllib.request

import pytest

from harness.artifacts.prometheus.text import parse

pytestmark = pytest.mark.needs("prometheus")


@pytest.fixture
def profile(paced, write_profile):
    path = write_profile(paced.url, load="{kind: concurrency, concurrency: 3, window_s: 3s}")
    path.write_text(
        path.read_text().replace(
            "telemetry: {", "telemetry: {prometheus: managed, exporter_port: 0, "
        )
    )
    return path


def test_counts_agree_the_page_tells_and_nothing_is_left(harness, profile, until, summary_of):
    told: list[str] = []
    with harness.start("run", profile) as run:
        readers = [
            threading.Thread(target=lambda stream=stream: told.extend(stream), daemon=True)
            for stream in (run.stdout, run.stderr)
        ]
        for reader in readers:
            reader.start()
        try:
            url = until(
                lambda: re.search(r"metrics of this run: (\S+)", "".join(told)),
                "the address of its own metrics",
            )[1]
            page: set[str] = set()

            def shows(name: str) -> bool:
                with urllib.request.urlopen(url, timeout=10) as answer:
                    page.update(name for name, _, _ in parse(answer.read(), None))
                return name in page

            for name in (
                "harness_stage_info",
                "harness_requests_total",
                "harness_server_requests_running",
                "harness_ttft_seconds_count",
            ):
                until(lambda name=name: shows(name), name)
            assert run.wait(60) == 0, "".join(told)
        finally:
            run.kill()
            for reader in readers:
                reader.join(10)
    (folder,) = harness.runs()
    summary = summary_of(folder)
    assert summary["verdict"]["status"] == "functional", summary["verdict"]
    output_tok = summary["reconciliation"]["output_tokens"]
    assert output_tok["ok"] is True
    assert output_tok["client"] == output_tok["server"] > 0
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["prometheus"]["kind"] == "managed"
    assert manifest["prometheus"]["version"]
    assert (folder / "scrapes" / "prometheus.arrows").stat().st_size > 0
    assert not (folder / "scrapes" / "raw.arrows").exists()
    scopes = summary["host"]
    assert "prometheus" in scopes
    assert harness.processes() == []
