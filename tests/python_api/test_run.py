"""`harness.run` and `harness.bench` against the paced reference server."""

import json
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

import harness
from harness.reference_server.server import Pace, PacedServer
from harness.report.json_schemas import FOLDER

PROFILE = """\
purpose: smoke
model: {{id: paced-test-double, served_name: paced-test-double, max_context_tok: 8000, tok_per_word: 1.4}}
server: {{kind: attach, urls: ["{url}"]}}
traffic:
  api: chat
  workload: {{kind: chat, system_tok: 100, user_tok: 20, output_tok: 12, turns: 2, think_s: 20ms, context_limit_tok: 3000}}
  load:
    - {{name: few, kind: concurrency, concurrency: 3, sessions: 6}}
  drain_timeout_s: 10s
thresholds: ["output_tok_s > 1e9"]
telemetry: {{scrape_interval_s: 200ms, host_interval_s: 200ms}}
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with PacedServer(Pace(ttft_ms=20, gap_ms=5)) as server:
        yield server.url


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))


def test_a_profile_is_run_and_loaded(tmp_path: Path, url: str) -> None:
    profile = tmp_path / "few.yaml"
    profile.write_text(PROFILE.format(url=url))
    with pytest.warns(UserWarning, match="output_tok_s > 1e9"):
        run = harness.run(profile, overrides=["seed=5"], out=tmp_path / "out", quiet=True)
    assert run.path.parent == tmp_path / "out"
    assert run.manifest.seed == 5
    assert list(run.stages.index) == ["few"]
    assert len(run.requests) == 12
    assert set(run.requests["outcome"]) == {"ok"}
    assert (run.requests["output_tok"] == 12).all()
    # A busy machine reads several tokens at once, so chunks may be fewer than tokens.
    assert (run.chunks.groupby("request_id", observed=True)["output_tok"].sum() == 12).all()
    assert run.requests["ttft_s"].min() > 0.02
    assert run.power.empty
    for name in ("summary", "manifest"):
        schema = json.loads((FOLDER / f"{name}.json").read_text())
        jsonschema.validate(json.loads((run.path / f"{name}.json").read_text()), schema)


def test_an_endpoint_is_measured_and_loaded(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = harness.bench(
        f"{url}/v1",
        concurrency=[1, 2],
        isl=64,
        osl=8,
        duration_s=2,
        slo="ttft=1s",
        out=tmp_path,
        calibrate=False,
    )
    assert list(run.stages.index) == ["c1", "c2"]
    assert run.summary.metrics["mean_output_tok"].value == 8
    assert run.summary.slos.ttft_s == 1
    saved = (run.path / "profile.yaml").read_text()
    assert saved.startswith("# Made by: harness.bench")
    assert capsys.readouterr().out != ""


@pytest.mark.parametrize(
    "options",
    [
        {"api": "telepathy"},
        {"concurrency": [1, 1]},
        {"concurrency": 0},
        {"rate": -1.0},
        {"isl": "long"},
        {"isl": 64, "workload": "chat"},
    ],
)
def test_a_wrong_argument_is_an_error(tmp_path: Path, url: str, options: dict[str, object]) -> None:
    with pytest.raises(harness.HarnessError) as caught:
        harness.bench(url, out=tmp_path / "out", **options)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()
