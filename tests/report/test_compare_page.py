"""The page of a comparison in a real browser, from run directories that were reduced as real ones
are.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts.finalize import finalize
from harness.artifacts.layout import RunDir
from harness.compare.compare import compare_runs
from harness.profile.thresholds import parse_threshold
from harness.reduce.reduction import reduce_run, write_summary
from harness.report.comparison.write import write_comparison


@pytest.fixture(name="written", scope="session")
def _written(new_builder: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """comparison.html of two repeats each of two variants with boards and a price; B is slower."""
    root = tmp_path_factory.mktemp("comparison")
    price = {"usd_per_gpu_h": 2.5, "source": "list", "date": "2026-08"}
    for variant, factor in (("base", 1.0), ("slower", 1.25)):
        for repeat in range(2):
            builder = new_builder(
                gpus=2,
                window_s=20.0,
                price=price,
                slos={"ttft_s": 0.25, "tpot_s": None, "e2e_s": None},
            )
            for i in range(90):
                ttft_s = (0.1 + 0.002 * ((i + 7 * repeat) % 90)) * factor
                builder.request(
                    0.25 * i, ttft_s=ttft_s, tokens=8 + i % 5, gap_us=round(20_000 * factor)
                )
            builder.scrape_counters()
            builder.constant_power(400)
            run = builder.write(root / "series" / f"{variant}-{repeat}")
            manifest = json.loads((run / "manifest.json").read_text())
            label = {"series": "s", "variant": variant, "repeat": repeat + 1, "of": 2}
            manifest |= {
                "run_id": run.name,
                "repeat": label,
                "seed": repeat,
                "plan": {**manifest.get("plan", {}), "context_scale": 1.0},
            }
            manifest["plan"].setdefault("output_length", "forced")
            (run / "manifest.json").write_text(json.dumps(manifest))
            finalize(RunDir(run))
            write_summary(run, reduce_run(run))
    gates = [
        parse_threshold(text)
        for text in ("ttft_s.p50 <= 1.10 * baseline", "output_tok_s >= 0.5 * baseline")
    ]
    html, _, _ = write_comparison(compare_runs([root / "series"], gates=gates), root / "page")
    shutil.rmtree(root / "series")  # the page needs nothing but itself
    return html


@pytest.mark.needs("chromium")
class TestComparisonInABrowser:
    def test_it_opens_from_disk_without_network_or_complaints_and_draws_its_charts(
        self, written: Path, page: Any
    ) -> None:
        page.open(written)
        assert page.complaints == []
        assert page.requested == [written.as_uri()]
        keys = page.js("[...document.querySelectorAll('figure.chart')].map(f => f.id)")
        assert keys == ["chart-ratios", "chart-ttft", "chart-e2e", "chart-trade"]
        heights = page.js(
            "[...document.querySelectorAll('figure.chart .wide svg')].map(f =>"
            " f.getBoundingClientRect().height)"
        )
        assert all(height > 100 for height in heights)
        marks = page.js(
            "[...document.querySelectorAll('#chart-ratios .wide .mark-symbol path')].map(p =>"
            " getComputedStyle(p).fill)"
        )
        assert marks
        assert all(fill.startswith("rgb(") for fill in marks)

    def test_the_gates_lead_and_tables_stand_beside_charts(self, written: Path, page: Any) -> None:
        page.open(written)
        assert page.js("document.querySelector('.badge').innerText") == "gate failed"
        headings = page.js("[...document.querySelectorAll('h2')].map(h => h.innerText)")
        assert headings[1:3] == ["Gates", "Headline"]
        assert "Energy and cost" in headings
        assert page.js(
            "[...document.querySelectorAll('figure.chart')].every(f => f.querySelector('details"
            " table'))"
        )

    @pytest.mark.parametrize(
        ("width", "mobile", "theme"), [(390, True, "light"), (1100, False, "dark")]
    )
    def test_nothing_sticks_out(
        self, written: Path, page: Any, width: int, theme: str, *, mobile: bool
    ) -> None:
        page.open(written, width=width, mobile=mobile, theme=theme)
        assert page.js("document.documentElement.scrollWidth") <= width
        shown = (
            "[...document.querySelectorAll('#chart-ratios > div > svg')].filter(s =>"
            " s.getBoundingClientRect().width > 0)"
        )
        assert page.js(f"{shown}.length") == 1
        # No label of the chart is cut off at its edges.
        edges = (
            f"(() => {{ const s = {shown}[0], b = s.getBoundingClientRect(); return"
            " [...s.querySelectorAll('text')].map(t => t.getBoundingClientRect()).every(r =>"
            " r.left >= b.left - 1 && r.right <= b.right + 1); })()"
        )
        assert page.js(edges)
