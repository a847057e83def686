"""Runs listed, chosen and sorted."""

import json
import urllib.request
from pathlib import Path

import pytest

from harness.artifacts.run_summary import (
    Distribution,
    Figure,
    ProfileName,
    RequestCounts,
    Summary,
    Verdict,
    Window,
    summary_json,
)
from harness.core.errors import ArtifactError, ProfileError
from harness.core.metrics import METRIC_VERSION
from harness.core.records import Basis, Status
from harness.report.list_runs import KEYS, LIST_COLUMNS, list_results, list_row, selected
from harness.report.serve import served


def write_run(
    folder: Path,
    name: str,
    *,
    verdict: str = "valid",
    gpu: str | None = "NVIDIA H100",
    tok_s: float | None = 100.0,
) -> None:
    run = folder / name
    run.mkdir(parents=True)
    gpus = [] if gpu is None else [{"uuid": f"GPU-{name}", "index": 0, "name": gpu}]
    manifest = {
        "schema_version": 1,
        "run_id": name,
        "state": "complete",
        "hardware": {"gpus": gpus},
        "model": {"model_id": "llama"},
    }
    summary = Summary(
        schema_version=1,
        metric_version=METRIC_VERSION,
        run_id=name,
        state="complete",
        profile=ProfileName(name="p", purpose="measure"),
        verdict=Verdict(Status(verdict)),
        window=Window(0.0, 60.0, 60.0, "explicit"),
        requests=RequestCounts(9, 9, 9, 0, 0, 0, {"ok": 9}, 9),
        metrics={
            "output_tok_s": Figure(
                tok_s, "tok/s", basis=Basis.ABSENT if tok_s is None else Basis.MEASURED
            )
        },
        latency={"ttft_s": Distribution(p50=0.2, n=9)},
        reconciliation={},
        stages=(),
    )
    (run / "manifest.json").write_text(json.dumps(manifest))
    (run / "summary.json").write_text(json.dumps(summary_json(summary)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_run(tmp_path, "a", tok_s=100.0)
    write_run(tmp_path, "b", tok_s=300.0, gpu="NVIDIA B200", verdict="degraded")
    write_run(tmp_path, "c", tok_s=None, gpu=None)
    return tmp_path


def names(rows: list[dict[str, object]]) -> list[object]:
    return [row["run"] for row in rows]


def test_every_run_has_a_row_with_every_key(folder: Path) -> None:
    rows = list_results(folder)
    assert names(rows) == ["a", "b", "c"]
    assert all(set(row) == set(KEYS) for row in rows)
    assert [list_row(row)[4] for row in rows] == ["1 × NVIDIA H100", "1 × NVIDIA B200", "CPU"]
    assert all(len(list_row(row)) == len(LIST_COLUMNS) for row in rows)


def test_what_is_not_known_is_none_and_sorted_last(folder: Path) -> None:
    rows = list_results(folder)
    assert rows[2]["output_tok_s"] is None
    assert names(selected(rows, {}, "output_tok_s")) == ["a", "b", "c"]
    assert names(selected(rows, {}, "-output_tok_s")) == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("where", "want"),
    [
        ({"gpu": "*h100*"}, ["a"]),
        ({"verdict": "valid"}, ["a", "c"]),
        ({"gpu": ""}, ["c"]),
        ({"gpu": "*H100*", "verdict": "degraded"}, []),
    ],
)
def test_runs_are_chosen_by_what_they_are(
    folder: Path, where: dict[str, str], want: list[str]
) -> None:
    assert names(selected(list_results(folder), where, "run")) == want


@pytest.mark.parametrize(("where", "sort"), [({"colour": "red"}, "run"), ({}, "-speed")])
def test_a_key_that_runs_do_not_have_is_named(
    folder: Path, where: dict[str, str], sort: str
) -> None:
    with pytest.raises(ProfileError, match=r"colour|speed") as caught:
        selected(list_results(folder), where, sort)
    assert "output_tok_s" in str(caught.value.next_step)


def test_a_run_that_is_not_reduced_or_cannot_be_read_is_listed_all_the_same(folder: Path) -> None:
    (folder / "a" / "summary.json").unlink()
    (folder / "b" / "summary.json").write_text("{")
    rows = list_results(folder)
    assert rows[0]["state"] == "complete"
    assert list_row(rows[0])[2] == "not reduced"
    assert str(rows[1]["state"]).startswith("unreadable")
    with pytest.raises(ArtifactError, match="nowhere"):
        list_results(folder / "nowhere")


def test_a_page_is_served_on_loopback_only_while_it_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>seen</p>")
    with served(tmp_path) as url:
        assert url.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{url}report.html") as answer:
            assert answer.read() == b"<p>seen</p>"
    with pytest.raises(OSError, match=r"."):
        urllib.request.urlopen(f"{url}report.html")
