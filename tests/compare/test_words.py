"""What every output says of valid repeats: five each of a system, of one 10 % faster, of an equal
and of a noisy one, and one run alone.
"""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.artifacts.typed_json import to_json
from harness.cli import app
from harness.compare.compare import compare_runs
from harness.compare.gate_output import summary
from harness.compare.hypothesis_tests import ALPHA, welch
from harness.compare.ratios import HEADLINE
from harness.core.metrics import METRICS
from harness.core.records import Status
from harness.report.comparison.view import compare_view
from harness.report.comparison.write import comparison_html, comparison_markdown

SYSTEMS = {"base": (1.0, 0.01), "faster": (1.1, 0.01), "equal": (1.0, 0.01), "noisy": (1.1, 0.2)}
WORDS = {
    "output_tok_s": (
        "better",
        "no detectable difference",
        "no detectable difference",
        "too few repeats",
    ),
    "ttft_s.p50": (
        "better",
        "no detectable difference",
        "no detectable difference",
        "too few repeats",
    ),
    "usd_per_mtok": (
        "better",
        "no detectable difference",
        "no detectable difference",
        "too few repeats",
    ),
    "power_w": ("worse", "no detectable difference", "no detectable difference", "too few repeats"),
    "mean_output_tok": ("not judged",) * 4,
}
"""Of B (faster), C (equal), D (noisy) and E (one run)."""


@pytest.fixture
def runs(make_run):
    """Valid runs in the order of `SYSTEMS`, and one alone at the end. The faster system draws 4 %
    more power.
    """
    rng = np.random.default_rng(8)
    made = []
    for number, (name, (speed, cv)) in enumerate({**SYSTEMS, "alone": (1.3, 0.0)}.items()):
        for i in range(1 if name == "alone" else 5):
            factor = speed * (1 + cv * rng.standard_normal())
            values = {
                "output_tok_s": 1000 * factor,
                "usd_per_mtok": 2 / factor,
                "mean_output_tok": 200.0,
                "power_w": (
                    600 * (1.04 if name == "faster" else 1) * (1 + 0.002 * rng.standard_normal())
                ),
            }
            engine = f"0.3{number}"
            made.append(
                make_run(
                    f"{name}{i}",
                    seed=i,
                    engine_version=engine,
                    values=values,
                    ttft_p50=0.3 / factor,
                    status=Status.VALID,
                )
            )
    return made


class _Cells(HTMLParser):
    """Rows of the page's tables, by their caption; text alone."""

    def __init__(self):
        super().__init__()
        self.tables, self._into = {}, None

    def handle_starttag(self, tag, attrs):
        if tag == "caption":
            self._into, self._rows = "caption", []
        elif tag == "tr":
            self._rows.append([])
        elif tag in {"td", "th"}:
            self._rows[-1].append("")
            self._into = "cell"

    def handle_endtag(self, tag):
        if tag in {"td", "th", "caption"}:
            self._into = None

    def handle_data(self, data):
        if self._into == "caption":
            self.tables.setdefault(data, []).append(self._rows)
        elif self._into == "cell":
            self._rows[-1][-1] += data


def markdown_rows(text):
    return {
        row[1]: row
        for line in text.splitlines()
        if line.startswith("|")
        for row in [[cell.strip() for cell in line.split("|")]]
    }


def test_every_output_says_the_same_earned_words(runs):
    comparison = compare_runs(runs)
    assert [len(side.runs) for side in comparison.sides] == [5, 5, 5, 5, 1]
    found = {row.key: tuple(str(cell.word) for cell in row.cells) for row in comparison.metrics}
    assert {key: found[key] for key in WORDS} == WORDS
    as_json = {
        row["key"]: tuple(cell["word"] for cell in row["sides"])
        for row in json.loads(json.dumps(to_json(comparison)))["metrics"]
    }
    assert as_json == found
    shown = compare_view(comparison)
    terminal = CliRunner().invoke(app, ["compare", *map(str, runs)])
    assert terminal.exit_code == 0, terminal.output
    for text in (terminal.output, comparison_markdown(comparison, shown), summary(comparison)):
        rows = markdown_rows(text)
        for key, words in WORDS.items():
            says = rows["power_w @ gpu_board" if key == "power_w" else key][6::3][:4]
            assert all(said.startswith(word) for said, word in zip(says, words, strict=True)), (
                key,
                says,
            )
    page = _Cells()
    page.feed(comparison_html(shown))
    titles = {
        "output_tok_s": METRICS["output_tok_s"].title,
        "ttft_s.p50": f"{METRICS['ttft_s'].title}, p50",
        "power_w": f"{METRICS['power_w'].title}, GPU boards",
    }
    for place, side in enumerate(comparison.sides[1:]):
        headline = {
            row[0]: row for row in page.tables[f"{side.title} vs. {comparison.sides[0].title}"][0]
        }
        for key, title in titles.items():
            assert headline[title][4].startswith(WORDS[key][place]), (key, side.title)
    assert shown.badge == "differences found"
    said = [
        cell.word in {"better", "worse"}
        for row in comparison.metrics
        if row.key in HEADLINE
        for cell in row.cells[:3]
        if cell.ratio
    ]
    filled = re.findall(r'fill-opacity="(\d)"', shown.charts["ratios"].wide)
    assert filled.count("1") == sum(said) == 4
    assert filled.count("0") == len(said) - 4
    assert re.search(r"B \(vllm 0\.31\): better in .*\(\+11\.", shown.lead[0])
    assert re.search(r"worse in power \(\+4\.", shown.lead[0], re.IGNORECASE)
    assert not re.search("better|worse", " ".join(shown.lead[1:]))


def test_a_page_where_all_is_worse_has_found_differences(make_run):
    runs = [
        make_run(f"{name}{i}", seed=i, engine_version=name, values={"output_tok_s": tok_s + i})
        for name, tok_s in (("a", 1000.0), ("b", 900.0))
        for i in range(3)
    ]
    assert compare_view(compare_runs(runs)).badge == "differences found"


def test_beside_no_difference_stands_what_would_have_been_one(runs):
    row = next(row for row in compare_runs(runs).metrics if row.key == "output_tok_s")
    equal, noisy = row.cells[1:3]
    assert 0.01 < equal.detectable < 0.06
    assert noisy.detectable > 0.3
    assert equal.says().startswith("no detectable difference (")
    assert f"{equal.detectable:.1%}" in equal.says()


def test_the_headline_comes_first_and_is_corrected_for_itself_alone(runs, make_run):
    """Dozens of other figures must not hide a difference of the headline, nor are they judged as if
    they were few.
    """
    found = compare_runs(runs[:10])
    asked = [row.key for row in found.metrics if row.key in HEADLINE]
    assert [row.key for row in found.metrics][: len(asked)] == asked
    # A difference at p = 0.02: it stands alone in the headline, and would not among all six.
    a, b = (1000.0, 1002.0, 1004.0, 1006.0), (1005.5, 1007.5, 1009.5, 1011.5)
    others = (
        "requests_per_s",
        "goodput_tok_s",
        "input_tok_s",
        "input_computed_tok_s",
        "interactivity_p90_tok_s_user",
    )
    sides = [
        make_run(
            f"{name}{i}",
            seed=i,
            engine_version=name,
            values={"output_tok_s": x, **dict.fromkeys(others, x)},
        )
        for name, side in (("x", a), ("y", b))
        for i, x in enumerate(side)
    ]
    p_value = welch(np.log(a).tolist(), np.log(b).tolist()).p_value
    rows = {row.key: row for row in compare_runs(sides).metrics}
    assert ALPHA / 5 < p_value < ALPHA
    assert [rows[key].cells[0].word for key in ("output_tok_s", *others)] == [
        "better",
        *["no detectable difference"] * 5,
    ]
    assert rows["output_tok_s"].cells[0].detectable < rows["input_tok_s"].cells[0].detectable


def test_an_interval_off_one_without_a_word_says_why(make_run):
    """Each figure's interval is its own, the word is corrected for all of them: where the two
    disagree it is told.
    """
    a, b = (1000.0, 1004.0, 1008.0, 1012.0), (1010.0, 1014.0, 1018.0, 1022.0)
    metrics = (
        "output_tok_s",
        "goodput_rps",
        "slo_met_ratio",
        "interactivity_tok_s_user",
        "output_tok_s_per_gpu",
    )
    sides = [
        make_run(
            f"{name}{i}",
            seed=i,
            engine_version=name,
            values={**dict.fromkeys(metrics, 1000.0 + i), metrics[0]: x},
        )
        for name, side in (("x", a), ("y", b))
        for i, x in enumerate(side)
    ]
    [cell] = next(row for row in compare_runs(sides).metrics if row.key == "output_tok_s").cells
    assert cell.word == "no detectable difference"
    assert cell.low > 1
    assert "significant alone" in cell.says()
