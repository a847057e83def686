"""docs/reference/metrics.md says what the table of metrics says."""

from pathlib import Path

import pytest

from harness.core.metrics import INPUTS, METRICS, MODELLED
from harness.report import generate
from harness.report.headline import HEADLINE_KEYS


def test_the_page_is_what_the_tables_say() -> None:
    assert generate.METRICS_PATH.read_text() == generate.page(), (
        "run `make fmt` (or python -m harness.report.generate)"
    )
    assert generate.main(["--check"]) == 0


def test_a_stale_page_fails_the_check_and_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "metrics.md"
    page.write_text("old")
    monkeypatch.setattr(generate, "METRICS_PATH", page)
    assert generate.main(["--check"]) == 1
    assert page.read_text() == "old"
    assert generate.main([]) == 0
    assert page.read_text() == generate.page()
    assert "stale" in capsys.readouterr().err


def test_every_metric_has_a_row_and_says_what_it_is_made_of() -> None:
    page = generate.page()
    assert set(INPUTS) == set(METRICS)
    for key, definition in METRICS.items():
        assert page.count(f"| `{key}` |") == 3
        assert definition.formula.replace("|", "\\|") in page
    assert set(HEADLINE_KEYS) | MODELLED <= set(METRICS)
    modelled = [line for line in page.splitlines() if line.endswith("| `modelled` |")]
    assert len(modelled) == len(MODELLED)


def test_a_metric_is_made_of_what_there_is() -> None:
    from harness.artifacts import tables

    columns = set(tables.REQUESTS.names)
    for inputs in INPUTS.values():
        for name in inputs:
            assert (
                name in columns
                or name in METRICS
                or " " in name
                or "." in name
                or name in ("slos", "price")
            ), name
