"""Reports, looked at with a real browser."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from ruamel.yaml import YAML

from harness.core.metrics import METRICS
from harness.core.records import Concern, Severity
from harness.reduce import reduce_run
from harness.report import headline_rows, numbers, write_report
from harness.report.charts import draw, inline, line_chart, themed
from harness.report.headline import purpose_sentence
from harness.report.run.view import _concern


@pytest.mark.needs("chromium")
class TestInABrowser:
    def test_it_opens_from_disk_without_network_or_complaints_and_draws_its_charts(
        self, written: tuple[Path, Path], page: Any
    ) -> None:
        html, _ = written
        page.open(html)
        assert page.complaints == []
        assert page.requested == [html.as_uri()]
        keys = page.js("[...document.querySelectorAll('figure.chart')].map(f => f.id)")
        assert keys == [
            f"chart-{key}"
            for key in (
                "latency",
                "throughput",
                "input",
                "in_flight",
                "context",
                "power",
                "prefix",
                "kv",
            )
        ]
        drawn = page.js(
            "[...document.querySelectorAll('figure.chart .wide')].map(f => { const p ="
            " f.querySelector('.mark-line path'); return [p.getTotalLength(),"
            " getComputedStyle(p).stroke, f.getBoundingClientRect().height]; })"
        )
        for length, stroke, height in drawn:
            assert length > 300
            assert stroke.startswith("rgb(")
            assert height > 150
        assert html.stat().st_size < 3_000_000

    def test_the_verdict_leads_and_every_concern_is_shown(
        self, run_dir: Path, written: tuple[Path, Path], page: Any
    ) -> None:
        html, _ = written
        summary = reduce_run(run_dir)
        page.open(html)
        assert page.js("document.querySelector('h2').innerText").startswith(
            str(summary.verdict.status)
        )
        shown = page.js(
            "[...document.querySelectorAll('.concerns code.key')].map(c => c.innerText)"
        )
        assert shown == [concern.code for concern in summary.verdict.concerns]
        assert len(shown) > 2

    @pytest.mark.parametrize(("width", "mobile"), [(390, True), (1100, False)])
    def test_nothing_sticks_out_and_the_chart_fits_the_screen(
        self, written: tuple[Path, Path], page: Any, width: int, *, mobile: bool
    ) -> None:
        html, _ = written
        page.open(html, width=width, mobile=mobile)
        assert page.js("document.documentElement.scrollWidth") <= width
        shown = (
            "[...document.querySelectorAll('#chart-throughput > div > svg')].filter(s =>"
            " s.getBoundingClientRect().width > 0)"
        )
        assert page.js(f"{shown}.length") == 1
        boxes = (
            "[...document.querySelectorAll('.scroll')].filter(b => b.offsetParent && b.scrollWidth"
            " > b.clientWidth + 1)"
        )
        assert page.js(f"{boxes}.map(b => b.getAttribute('aria-label'))") == []
        # Text in a chart stays as large as it was drawn, instead of shrinking with a wide chart.
        scale = page.js(
            f"{shown}.map(s => s.getBoundingClientRect().width / s.viewBox.baseVal.width)[0]"
        )
        assert scale > 0.85

    def test_light_and_dark_differ_and_both_are_readable(
        self, written: tuple[Path, Path], page: Any
    ) -> None:
        html, _ = written
        grounds = []
        for theme in ("light", "dark"):
            page.open(html, theme=theme)
            colours = page.js(
                "(() => { const style = e => getComputedStyle(document.querySelector(e)); return"
                " [style('body').backgroundColor, style('body').color,"
                " style('.chart').backgroundColor, style('#chart-throughput .mark-line"
                " path').stroke, style('.soft').color, style('.verdict').backgroundColor,"
                " style('.badge').backgroundColor, style('.badge').color]; })()"
            )
            ground, ink, card, line, soft, verdict, badge, badge_ink = map(_rgb, colours)
            assert _contrast(ground, ink) > 7
            assert _contrast(ground, soft) > 4.5
            assert _contrast(card, line) > 3
            assert _contrast(verdict, ink) > 7
            assert _contrast(badge, badge_ink) > 4.5
            grounds.append(ground)
        assert grounds[0] != grounds[1]

    def test_printing_is_light_in_a_dark_room(self, written: tuple[Path, Path], page: Any) -> None:
        html, _ = written
        page.open(html, theme="dark", media="print")
        assert _rgb(page.js("getComputedStyle(document.body).backgroundColor")) == (255, 255, 255)
        assert (
            _contrast((255, 255, 255), _rgb(page.js("getComputedStyle(document.body).color"))) > 7
        )

    def test_columns_sort_by_number_and_come_back(
        self, written: tuple[Path, Path], page: Any
    ) -> None:
        html, _ = written
        page.open(html)
        values = (
            "[...document.querySelectorAll('.headline tbody tr')].map(r =>"
            " parseFloat(r.cells[1].innerText.replaceAll(',', '')))"
        )
        click = "document.querySelectorAll('.headline thead button')[1].click()"
        written = page.js(values)
        page.js(click)
        assert page.js(values) == sorted(written)
        assert (
            page.js("document.querySelectorAll('.headline thead th')[1].getAttribute('aria-sort')")
            == "ascending"
        )
        page.js(click)
        assert page.js(values) == sorted(written, reverse=True)
        page.js(click)
        assert page.js(values) == written

    def test_every_chart_has_its_table_and_tables_their_captions(
        self, written: tuple[Path, Path], page: Any
    ) -> None:
        html, _ = written
        page.open(html)
        assert page.js(
            "[...document.querySelectorAll('figure.chart')].every(f => f.querySelectorAll('table"
            " tbody tr').length > 2)"
        )
        assert page.js(
            "[...document.querySelectorAll('table')].every(t => t.caption &&"
            " t.caption.textContent.length > 5)"
        )
        assert page.js(
            "[...document.querySelectorAll('tbody tr')].every(r => r.cells[0].scope === 'row')"
        )

    @pytest.mark.parametrize(
        "part", ["nothing", "manifest.json", "requests", "scrapes/raw.arrows", "events.jsonl"]
    )
    def test_a_run_with_parts_missing_has_a_report_that_says_so(
        self, new_builder: Callable[..., Any], tmp_path: Path, page: Any, part: str
    ) -> None:
        builder = new_builder()
        if part != "nothing":
            for i in range(30):
                builder.request(1 + i / 2)
            builder.scrape_counters()
        run = builder.write(tmp_path / "run")
        target = run / part
        if target.is_dir():
            for file in target.iterdir():
                file.unlink()
        elif target.exists():
            target.unlink()
        html, markdown = write_report(run)
        page.open(html)
        assert page.complaints == []
        assert "None" not in page.js("document.querySelector('main').textContent")
        status = str(reduce_run(run).verdict.status)
        assert page.js("document.querySelector('.badge').innerText") == status
        assert markdown.read_text().splitlines()[0].endswith(f": {status}")


def _rgb(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def _contrast(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """Contrast ratio of WCAG 2.2."""

    def luminance(colour: tuple[int, ...]) -> float:
        parts = [
            c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4
            for c in colour
        ]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


class TestText:
    def test_markdown_is_whole_tables_and_its_pictures_exist(
        self, run_dir: Path, written: tuple[Path, Path]
    ) -> None:
        _, markdown = written
        text = markdown.read_text()
        rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
        assert rendered.count("<table>") >= 6
        assert "|---" not in rendered  # every table was taken for one
        pictures = re.findall(r'(?:src|srcset)="([^"]+)"', text)
        assert len(pictures) == 16
        for picture in pictures:
            svg = (run_dir / picture).read_text()
            assert svg.startswith("<svg")
            assert "#0101" not in svg

    def test_what_a_server_says_is_text_and_not_markup(self, written: tuple[Path, Path]) -> None:
        html, markdown = written
        assert "after &lt;300&gt; s" in html.read_text()
        assert "list &lt;price&gt;" in html.read_text()
        assert r"no byte \| after \<300\> s" in markdown.read_text()

    def test_the_profile_in_the_report_is_the_profile_of_the_run(
        self, run_dir: Path, written: tuple[Path, Path]
    ) -> None:
        _, markdown = written
        block = re.search(r"```yaml\n(.*?)```", markdown.read_text(), re.DOTALL)
        assert block is not None
        shown = YAML(typ="safe").load(block[1])
        profile = json.loads((run_dir / "manifest.json").read_text())["profile"]
        assert shown["traffic"] == profile["traffic"]
        assert shown["price"]["date"] == "2026-08"
        assert shown["slos"] == {"ttft_s": 0.25}

    def test_terminal_markdown_and_page_say_the_same(
        self, run_dir: Path, written: tuple[Path, Path]
    ) -> None:
        rows = headline_rows(reduce_run(run_dir))
        html, markdown = (path.read_text() for path in written)
        for row in rows:
            if row.basis == "absent":
                assert row.note
                assert row.value == numbers.DASH
                continue
            value = row.value.replace(" ", "\u00a0")
            assert (f"**{value}**&nbsp;{row.unit}" if row.unit else f"**{value}**") in markdown
            assert f"<b>{row.value}</b>" in html
        keys = [row.key for row in rows]
        assert keys[0] == "output_tok_s_per_gpu"
        assert {
            "ttft_s.p50",
            "ttft_s.p99",
            "usd_per_mtok",
            "output_tok_per_j",
            "output_tok_s_per_mw",
        } <= set(keys)

    def test_writing_twice_gives_the_same_bytes(
        self, run_dir: Path, written: tuple[Path, Path]
    ) -> None:
        first = [path.read_bytes() for path in written]
        assert [path.read_bytes() for path in write_report(run_dir)] == first

    def test_charts_of_an_earlier_report_do_not_stay(
        self, new_builder: Callable[..., Any], tmp_path: Path
    ) -> None:
        builder = new_builder()
        builder.request(3.0)
        run = builder.write(tmp_path / "run")
        (run / "report-charts").mkdir()
        (run / "report-charts" / "trade-light.svg").write_text("<svg/>")
        (run / "report-charts" / "mine.svg").write_text("<svg/>")
        _, report = write_report(run)
        files = {file.name for file in (run / "report-charts").iterdir()} - {"mine.svg"}
        assert files == set(re.findall(r'report-charts/([^"]+)"', report.read_text()))
        assert (run / "report-charts" / "mine.svg").exists()

    def test_definitions_are_complete_and_units_match_their_keys(
        self, written: tuple[Path, Path]
    ) -> None:
        text = written[0].read_text()
        suffixes = {
            "s": "_s",
            "J": "_j",
            "W": "_w",
            "tok": "_tok",
            "tok/J": "_tok_per_j",
            "tok/s/GPU": "_per_gpu",
        }
        for key, definition in METRICS.items():
            assert f">{key}</td>" in text
            assert key.endswith(suffixes.get(definition.unit, ""))
            assert definition.formula.endswith(".")


class TestWords:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (None, "—"),
            (0, "0"),
            (1234567, "1,234,567"),
            (60.15, "60.15"),
            (1234.567, "1,235"),
            (0.10025, "0.1003"),
            (float("nan"), "—"),
        ],
    )
    def test_numbers(self, value: float | None, text: str) -> None:
        assert numbers.plain(value) == text

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (None, "—"),
            (0.0000213, "21.3 µs"),
            (0.2, "200 ms"),
            (1.234, "1.23 s"),
            (600, "10 min"),
            (9000, "2.50 h"),
        ],
    )
    def test_times(self, seconds: float | None, text: str) -> None:
        assert numbers.duration(seconds) == text

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0.0009999, "1.00 ms"), (0.9999, "1.00 s"), (119.96, "2.00 min"), (7199.9, "2.00 h")],
    )
    def test_times_that_round_up_to_a_larger_unit_are_told_in_it(
        self, seconds: float, text: str
    ) -> None:
        assert numbers.duration(seconds) == text

    @pytest.mark.parametrize(
        ("low", "high", "unit", "text"),
        [
            (1.0101, 1.0102, "s", "1.0101 s – 1.0102 s"),
            (1, 1, "s", "1 s – 1 s"),
            (3.5, 4, "tok", "3.500 – 4"),
            (20_000, 20_001, "J", "20 – 20.001"),
            (None, 4, "s", ""),
        ],
    )
    def test_ends_of_an_interval_differ_as_they_are_read(
        self, low: float | None, high: float | None, unit: str, text: str
    ) -> None:
        assert numbers.interval(low, high, unit) == text

    @pytest.mark.parametrize(
        ("ratio", "text"),
        [(None, "—"), (1, "100%"), (0.99999, "> 99.9%"), (0, "0%"), (0.00001, "< 0.1%")],
    )
    def test_shares_never_round_to_all_or_nothing(self, ratio: float | None, text: str) -> None:
        assert numbers.share(ratio) == text


def test_what_a_run_was_for_is_not_guessed(run_dir: Path) -> None:
    summary = reduce_run(run_dir)
    assert "Measurement" in purpose_sentence(summary)
    assert "unverified" in purpose_sentence(summary)
    verified = replace(summary, labels=replace(summary.labels, quality="verified"))
    assert "unverified" not in purpose_sentence(verified)
    smoke, unknown = (
        replace(summary, profile=replace(summary.profile, purpose=purpose))
        for purpose in ("smoke", None)
    )
    assert "Smoke" in purpose_sentence(smoke)
    assert not {"Smoke", "Measurement"} & set(purpose_sentence(unknown).split())


@pytest.mark.parametrize(
    ("code", "value", "text"),
    [
        ("client_error", 0.0202, "20.2 ms"),
        ("quality_unverified", 0.7, "0.7"),
        ("requests_failed", 1.0, "1"),
    ],
)
def test_figures_of_concerns_have_their_unit_and_no_filling_zeros(
    code: str, value: float, text: str
) -> None:
    assert _concern(Concern(code, Severity.NOTE, "m", value, 0.0))["value"] == text


def test_one_drawing_serves_all_themes(run_dir: Path) -> None:
    from harness.reduce.reduction import reduce_fully
    from harness.report.run.view import view

    chart = view(reduce_fully(run_dir)).charts["throughput"].chart
    drawing = draw(line_chart(chart, (330, 210)))
    assert "var(--series-1)" in inline(drawing)
    assert "#0101" not in inline(drawing)
    assert themed(drawing, "light") != themed(drawing, "dark")
