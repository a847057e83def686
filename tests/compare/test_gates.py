import json
import math
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from harness.artifacts.recorded_run import RecordedRun
from harness.artifacts.run_result import RunResult
from harness.artifacts.run_summary import Figure
from harness.artifacts.typed_json import to_json
from harness.checked_yaml.problems import InvalidYamlError
from harness.compare.compare import compare_runs
from harness.compare.gate_output import github, junit, sentence, summary
from harness.compare.gates import (
    GATE_ALPHA,
    GateResult,
    Outcome,
    evaluate_gates,
    read_gates,
)
from harness.compare.hypothesis_tests import two_samples
from harness.core.errors import ProfileError
from harness.profile.thresholds import parse_threshold

QUIET = (1000.0, 1002.0, 999.0, 1001.0, 998.0)


@pytest.fixture
def judge(make_run):
    """Gates on a side against a baseline, by output_tok_s (and whatever `others` sets) of their
    runs.
    """
    made = iter(range(10_000))

    def evaluate(texts, b, a=QUIET, **changes):
        def runs(values, **more):
            from harness.artifacts.run_result import load_result

            return [
                load_result(make_run(f"r{next(made)}", seed=i, values={"output_tok_s": x}, **more))
                for i, x in enumerate(values)
            ]

        sides = (
            {"A": runs(a), "B": runs(b, **changes)} if a is not None else {"A": runs(b, **changes)}
        )
        return evaluate_gates([parse_threshold(text) for text in texts], sides)

    return evaluate


def scaled(factor, values=QUIET):
    return [factor * x for x in values]


# --- shares of a baseline ---


@pytest.mark.parametrize(
    ("factor", "gate", "outcome"),
    [
        (0.90, "output_tok_s >= 0.95 * baseline", Outcome.FAILED),
        (1.00, "output_tok_s >= 0.95 * baseline", Outcome.PASSED),
        (0.97, "output_tok_s >= 0.95 * baseline", Outcome.PASSED),
        (1.30, "output_tok_s >= 0.95 * baseline", Outcome.PASSED),
        (0.90, "output_tok_s >= baseline - 15%", Outcome.PASSED),
        (
            1.00,
            "output_tok_s >= 105% * baseline",
            Outcome.FAILED,
        ),  # a gain that was asked for and did not come
        (1.10, "output_tok_s >= 105% * baseline", Outcome.PASSED),
        (1.10, "output_tok_s <= 1.05 * baseline", Outcome.FAILED),
        (1.00, "output_tok_s <= 1.05 * baseline", Outcome.PASSED),
    ],
)
def test_quiet_repeats_decide_a_share_of_the_baseline(judge, factor, gate, outcome):
    [result] = judge([gate], scaled(factor))
    assert result.outcome is outcome
    assert result.ratio == pytest.approx(factor)
    assert result.low < factor < result.high
    assert (result.n, result.n_baseline) == (5, 5)


def test_noise_that_could_hide_a_loss_is_too_few_repeats_and_says_how_many_would_do(judge):
    noisy = (900.0, 1100.0, 1000.0, 1050.0, 950.0)
    [result] = judge(["output_tok_s >= 0.975 * baseline"], noisy, noisy)
    assert result.outcome is Outcome.TOO_FEW
    assert "within the limit" in result.reason
    assert result.repeats_wanted > 5
    assert f"about {result.repeats_wanted} repeats" in result.reason
    assert not result.failed()
    assert result.failed(strict=True)


def test_a_noise_band_within_the_limit_passes(judge):
    """A noise band within the limit passes whatever a smaller loss would have needed."""
    base = (980.0, 1020.0, 1000.0, 1010.0, 990.0)
    [gain] = judge(["output_tok_s >= 0.99 * baseline"], scaled(1.1, base), base)
    assert gain.detectable > 0.03
    assert gain.low > 0.99
    assert gain.outcome is Outcome.PASSED
    [equal] = judge(["output_tok_s >= 0.99 * baseline"], base, base)
    assert equal.outcome is Outcome.TOO_FEW
    [lower] = judge(["output_tok_s <= 1.01 * baseline"], scaled(0.9, base), base)
    assert lower.outcome is Outcome.PASSED


def test_a_loss_beyond_the_margin_that_is_no_more_than_noise_does_not_fail(judge):
    noisy = (800.0, 1200.0, 1000.0)
    [result] = judge(["output_tok_s >= 0.975 * baseline"], scaled(0.95, noisy), noisy)
    assert result.outcome is Outcome.TOO_FEW
    assert "within noise" in result.reason


def test_a_band_of_two_wild_repeats_is_not_told_to_the_last_digit(judge):
    [result] = judge(["output_tok_s <= 1.05 * baseline"], (400.0, 2000.0), (900.0, 1100.0))
    assert result.outcome is Outcome.TOO_FEW
    assert result.high > 1000
    assert "> +1000%" in result.row()[4]
    assert result.row()[5] == "> 1000%"
    assert "> 1000%" in sentence(result)


def test_single_runs_never_decide_a_share_of_the_baseline(judge):
    for a, b in (((1000.0,), (500.0, 501.0)), ((1000.0, 1001.0), (500.0,))):
        [result] = judge(["output_tok_s >= 0.95 * baseline"], b, a)
        assert result.outcome is Outcome.TOO_FEW
        assert result.detectable is None


def test_repeats_without_any_spread_decide_by_the_value(judge):
    for factor, outcome in ((1.0, Outcome.PASSED), (0.9, Outcome.FAILED)):
        [result] = judge(["output_tok_s >= 0.95 * baseline"], [factor * 1000.0] * 3, [1000.0] * 3)
        assert result.outcome is outcome


def test_more_gates_make_each_harder_to_fail(judge):
    """Holm: a loss that fails alone is too doubtful as one of many questions, and only larger ones
    are called detectable.
    """
    doubtful = scaled(0.965, (1000.0, 1020.0, 985.0, 1010.0, 990.0))
    base = (1000.0, 1015.0, 990.0, 1005.0, 985.0)
    gate = "output_tok_s >= 0.975 * baseline"
    [alone] = judge([gate], doubtful, base)
    among = judge([gate, *["output_tok_s >= 0.5 * baseline"] * 20], doubtful, base)[0]
    assert (alone.outcome, among.outcome) == (Outcome.FAILED, Outcome.TOO_FEW)
    assert among.detectable > alone.detectable
    assert among.low < alone.low < alone.high < among.high


def test_energy_on_other_boards_must_be_worse_by_more_than_their_sensors(make_run):
    def runs(name, watts, uuid):
        from harness.artifacts.run_result import load_result

        return [
            load_result(make_run(f"{name}{i}", seed=i, uuid=uuid, values={"power_w": w}))
            for i, w in enumerate(watts)
        ]

    gate = [parse_threshold("power_w <= 1.02 * baseline")]
    a = runs("a", (600.0, 600.3, 599.8, 600.1), "GPU-1")
    other, same = (
        runs("b", (624.0, 624.2, 623.9, 624.1), "GPU-2"),
        runs("c", (624.0, 624.2, 623.9, 624.1), "GPU-1"),
    )
    assert evaluate_gates(gate, {"A": a, "B": same})[0].outcome is Outcome.FAILED
    held = evaluate_gates(gate, {"A": a, "B": other})[0]
    assert held.outcome is Outcome.TOO_FEW
    assert held.repeats_wanted is None  # no number of repeats removes a sensor's error
    assert held.high / held.ratio > math.exp(0.05 * 2**0.5)  # and the band holds it
    calibrated = evaluate_gates(gate, {"A": a, "B": other}, sensor_error=0.001)[0]
    assert calibrated.outcome is Outcome.FAILED


# --- numbers ---


@pytest.mark.parametrize(
    ("gate", "outcome"),
    [
        ("output_tok_s >= 900", Outcome.PASSED),
        ("output_tok_s >= 1.1k", Outcome.FAILED),
        ("output_tok_s >= 1000.5", Outcome.TOO_FEW),
        ("output_tok_s >= 999.5", Outcome.TOO_FEW),  # met, by less than the noise
        ("output_tok_s < 1.1k", Outcome.PASSED),
    ],
)
def test_repeats_decide_a_number_by_their_noise_band(judge, gate, outcome):
    [result] = judge([gate], QUIET, None)
    assert result.outcome is outcome
    assert result.low < 1000 < result.high
    assert result.baseline is None


def test_one_run_decides_a_number_and_says_that_its_noise_is_not_known(judge):
    [result] = judge(["output_tok_s >= 900"], (1000.0,), None)
    assert result.outcome is Outcome.PASSED
    assert "one run" in result.reason


def test_an_absent_figure_fails_on_either_side(judge):
    for text in ("goodput_rps >= 0.5 * baseline", "goodput_rps >= 0", "power_w@node < 1"):
        [result] = judge([text], QUIET)
        assert result.outcome is Outcome.ABSENT
        assert result.failed()
        assert "absent" in result.reason


def test_a_required_gain_met_by_less_than_the_noise_is_too_few_repeats(judge):
    """A gain that was asked for and is met by less than the noise is too few repeats."""
    [result] = judge(["output_tok_s >= 1.10 * baseline"], scaled(1.101))
    assert result.outcome is Outcome.TOO_FEW
    assert "noise band" in result.reason


def test_every_side_but_the_baseline_is_judged_with_the_sensors_that_were_stated(make_run):
    def runs(name, watts, uuid):
        return [
            make_run(
                f"{name}{i}", seed=i, engine_version=name, uuid=uuid, values={"power_w": w + i / 10}
            )
            for i, w in enumerate([watts] * 4)
        ]

    gates = [parse_threshold("power_w <= 1.02 * baseline")]
    paths = [*runs("a", 600.0, "GPU-1"), *runs("b", 600.0, "GPU-1"), *runs("c", 630.0, "GPU-2")]
    words = []
    for sensor_error in (0.05, 0.001):
        found = compare_runs(paths, gates=gates, sensor_error=sensor_error)
        assert [gate.side for gate in found.gates] == ["B", "C"]
        assert found.gates[0].outcome is Outcome.PASSED
        words.append(
            (
                found.gates[1].outcome,
                str(next(row for row in found.metrics if row.key == "power_w").cells[1].word),
            )
        )
    assert words == [(Outcome.TOO_FEW, "no detectable difference"), (Outcome.FAILED, "worse")]


def test_a_share_of_a_baseline_needs_one(judge):
    with pytest.raises(ProfileError, match="needs a baseline"):
        judge(["output_tok_s >= 0.9 * baseline"], QUIET, None)


# --- the bar, in small; benchmarks/coverage/bench_gate.py has it whole ---


def simulate(run, loss, times, repeats=5, cv=0.015):
    rng = np.random.default_rng(11)
    gate = [parse_threshold("output_tok_s >= 0.975 * baseline")]
    results = []
    for _ in range(times):
        sides = {
            label: [
                RunResult(
                    Path(f"{label}{i}"),
                    RecordedRun(),
                    replace(
                        run,
                        run_id=f"{label}{i}",
                        metrics={"output_tok_s": Figure(float(x), "tok/s")},
                    ),
                )
                for i, x in enumerate(mean * (1 + cv * rng.standard_normal(repeats)))
            ]
            for label, mean in (("A", 1000.0), ("B", 1000.0 * (1 - loss)))
        }
        results += evaluate_gates(gate, sides)
    return results


def test_a_loss_of_five_percent_is_found_and_equal_systems_are_left_alone(summary):
    lost, equal = simulate(summary, 0.05, 120), simulate(summary, 0.0, 120)
    assert sum(r.outcome is Outcome.FAILED for r in lost) >= 0.9 * 120
    assert sum(r.outcome is Outcome.FAILED for r in equal) <= 0.02 * 120
    assert sum(r.outcome is Outcome.PASSED for r in equal) >= 0.9 * 120


def test_the_printed_detectable_loss_is_the_one_that_is_found(summary):
    least = -math.expm1(-two_samples(0.015, 5, 5, GATE_ALPHA, margin=-math.log(0.975)).detectable())
    results = simulate(summary, least, 200)
    assert sum(r.outcome is Outcome.FAILED for r in results) / 200 == pytest.approx(0.9, abs=0.05)
    assert float(np.median([r.detectable for r in results])) == pytest.approx(least, rel=0.1)


# --- files ---


def test_a_gate_file_is_a_list_or_one_key(tmp_path):
    path = tmp_path / "gates.yaml"
    path.write_text("# what must hold\n- ttft_s.p99 < 1.5\n- output_tok_s >= 0.95 * baseline\n")
    assert [gate.relative for gate in read_gates(path)] == [False, True]
    path.write_text("thresholds:\n  - ttft_s.p99 < 1.5\n")
    assert [gate.text for gate in read_gates(path)] == ["ttft_s.p99 < 1.5"]


@pytest.mark.parametrize(
    "text", ["", "a: [", "thresholds: 3", "[]", "- 3", "gates:\n  - ttft_s.p99 < 1", "\x00"]
)
def test_what_is_no_gate_file_is_refused_by_its_name(tmp_path, text):
    path = tmp_path / "gates.yaml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=r"gates\.yaml"):
        read_gates(path)


def test_a_gate_file_that_is_missing_or_wrong_says_so(tmp_path):
    with pytest.raises(ProfileError, match=r"none\.yaml"):
        read_gates(tmp_path / "none.yaml")
    path = tmp_path / "gates.yaml"
    path.write_text("- ttft_s < 1\n- output_tok_s >= 0.9 * base\n- ttft_s.p99 < 1\n")
    with pytest.raises(InvalidYamlError) as error:
        read_gates(path)
    assert [problem.where for problem in error.value.problems] == [f"{path}:1:3", f"{path}:2:3"]
    assert "0.9 * base" in error.value.problems[1].what


# --- what machines read ---


@pytest.fixture
def judged(make_run):
    a = [make_run(f"a{i}", seed=i, values={"output_tok_s": x}) for i, x in enumerate(QUIET)]
    b = [
        make_run(f"b{i}", seed=i, engine_version="0.33.0", values={"output_tok_s": 0.9 * x})
        for i, x in enumerate(QUIET)
    ]
    texts = (
        "output_tok_s >= 0.95 * baseline",
        "mean_output_tok >= 0.9 * baseline",
        "ttft_s.p50 < 300ms",
        "goodput_rps >= 1",
    )
    return compare_runs([*a, *b], gates=[parse_threshold(text) for text in texts])


def test_junit_has_a_case_a_gate(judged):
    root = ET.fromstring(junit(judged.gates).split("\n", 1)[1])
    assert root.attrib["tests"] == "4"
    assert (
        root.attrib["failures"] == "3"
    )  # the loss, 0.3 s which is not below 0.3 s, and the absent one
    cases = {case.attrib["name"]: case for case in root.iter("testcase")}
    assert "FAILED" in cases["output_tok_s >= 0.95 * baseline"].find("failure").attrib["message"]
    assert cases["mean_output_tok >= 0.9 * baseline"].find("failure") is None
    assert "absent" in cases["goodput_rps >= 1"].find("failure").text


def test_too_few_repeats_are_skipped_in_junit_unless_strict():
    gate = GateResult(
        "B",
        parse_threshold("output_tok_s >= 0.95 * baseline"),
        Outcome.TOO_FEW,
        reason="noise \x07 <&>",
    )
    plain, strict = (
        ET.fromstring(junit([gate], strict=strict).split("\n", 1)[1]) for strict in (False, True)
    )
    assert (plain[0].attrib["skipped"], plain.attrib["failures"]) == ("1", "0")
    assert (strict[0].attrib["skipped"], strict.attrib["failures"]) == ("0", "1")


JUNIT = {
    "testsuites": ({"testsuite"}, set(), {"name", "time", "tests", "failures", "errors"}),
    "testsuite": (
        {"testsuite", "properties", "testcase", "system-out", "system-err"},
        {"name", "tests", "failures", "errors"},
        {
            "group",
            "time",
            "skipped",
            "timestamp",
            "hostname",
            "id",
            "package",
            "file",
            "log",
            "url",
        },
    ),
    "testcase": (
        {"skipped", "error", "failure", "system-out", "system-err"},
        {"name"},
        {"time", "classname", "group"},
    ),
    **dict.fromkeys(("skipped", "failure"), (set(), set(), {"type", "message"})),
    "system-out": (set(), set(), set()),
}
"""Element -> children, required and further attributes: what Jenkins' xUnit plugin takes (its
junit-10.xsd), and no more.
"""


def test_junit_keeps_to_the_schema(judged):
    unclear = GateResult(
        "C", parse_threshold("output_tok_s >= 0.95 * baseline"), Outcome.TOO_FEW, reason="noise"
    )
    root = ET.fromstring(junit([*judged.gates, unclear]).split("\n", 1)[1])
    seen = set()
    for element in root.iter():
        children, required, further = JUNIT[element.tag]
        assert {child.tag for child in element} <= children, element.tag
        assert required <= set(element.attrib) <= required | further, element.tag
        seen.add(element.tag)
    assert seen == set(JUNIT)
    for suite in root:
        cases = list(suite)
        assert suite.attrib["tests"] == str(len(cases))
        assert suite.attrib["failures"] == str(
            sum(case.find("failure") is not None for case in cases)
        )
        assert suite.attrib["skipped"] == str(
            sum(case.find("skipped") is not None for case in cases)
        )


def test_annotations_are_one_line_each_and_escaped(judged):
    lines = github(judged.gates)
    assert [line.split(" ", 1)[0] for line in lines] == [
        "::error",
        "::notice",
        "::error",
        "::error",
    ]
    odd = GateResult("B", parse_threshold("error_ratio < 1%"), Outcome.TOO_FEW, reason="a\nb")
    [line] = github([odd])
    assert line.startswith("::warning title=error_ratio < 1%25%3A too few repeats::")
    assert "\n" not in line
    assert "%0A" in line
    assert github([odd], strict=True)[0].startswith("::error ")
    commas = GateResult(
        "B", replace(odd.threshold, text="a,b:c%d"), Outcome.ABSENT, reason="100%, a\r\nb: c"
    )
    assert github([commas]) == [
        "::error title=a%2Cb%3Ac%25d%3A ABSENT::side B: a,b:c%25d: ABSENT (100%25, a%0D%0Ab: c)"
    ]


def test_a_summary_leads_with_the_answer(judged):
    text = summary(judged)
    assert text.startswith("## ❌ 3 of 4 gates failed")
    assert "* engine" in text
    assert text.index("| gate |") < text.index("<details>")
    assert all(gate.threshold.text in text for gate in judged.gates)


def test_a_sentence_states_what_would_have_been_found(judged):
    said = sentence(judged.gates[0])
    assert "5 + 5 runs" in said
    assert f"{judged.gates[0].detectable:.1%}" in said
    assert json.loads(json.dumps(to_json(judged.gates[0])))["outcome"] == "FAILED"


def test_the_table_of_detectable_losses_in_the_docs_is_what_the_gate_computes():
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs" / "how-to" / "ci.md").read_text()
    rows = re.findall(r"^\| ([\d.]+)% \| (\d+) \| ([\d.]+)% \|$", text, re.MULTILINE)
    assert len(rows) == 6
    for cv, n, losses in rows:
        design = two_samples(float(cv) / 100, int(n), int(n), GATE_ALPHA, margin=-math.log(0.975))
        assert -math.expm1(-design.detectable()) * 100 == pytest.approx(float(losses), abs=0.06)
