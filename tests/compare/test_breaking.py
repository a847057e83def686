"""What is wrong, missing or contradictory ends in a named refusal, a figure that is absent, or a
gate that fails: never in a pass.
"""

import json
import os
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.artifacts import atomic
from harness.artifacts.typed_json import to_json
from harness.cli import app
from harness.compare.compare import compare_runs
from harness.compare.gates import Outcome
from harness.core.errors import ArtifactError
from harness.core.records import Status
from harness.profile.thresholds import parse_threshold
from harness.report.comparison import view as compare_view
from harness.report.comparison import write as compare_write
from harness.report.comparison.write import write_comparison


@pytest.fixture
def harness():
    return lambda *arguments: CliRunner().invoke(app, ["compare", *map(str, arguments)])


@pytest.fixture
def five(make_run):
    """Repeats with these values of a metric; a noise of 0.1 % is put on a single number."""

    def make(name, values, metric="output_tok_s", **changes):
        listed = (
            [values * (1 + 0.001 * i) for i in range(5)] if isinstance(values, float) else values
        )
        return [
            make_run(f"{name}{i}", seed=i, engine_version=name, values={metric: x}, **changes)
            for i, x in enumerate(listed)
        ]

    return make


def change(run, name, **fields):
    path = run / f"{name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def gate(runs, *texts, **options):
    return compare_runs(runs, gates=[parse_threshold(text) for text in texts], **options).gates


# --- directories ---


@pytest.mark.parametrize(
    ("damage", "code", "says"),
    [
        (lambda run: change(run, "manifest", schema_version=99), 7, "schema_version 99"),
        (lambda run: change(run, "summary", schema_version=99), 7, "schema_version 99"),
        (lambda run: change(run, "summary", metric_version=1), 8, "harness reduce"),
        (
            lambda run: (run / "summary.json").write_text(
                '{"schema_version": 1, "metrics": {"power_w": {"value": NaN}}}'
            ),
            7,
            "NaN",
        ),
        (lambda run: (run / "summary.json").write_text('{"schema_version": 1, '), 7, "not JSON"),
        (lambda run: (run / "summary.json").unlink(), 7, "harness reduce"),
        (lambda run: (run / "manifest.json").unlink(), 7, "run"),
        (lambda run: change(run, "summary", verdict={"status": ["valid"]}), 10, "is invalid"),
    ],
)
def test_damage_is_named_with_its_exit_code(harness, make_run, damage, code, says):
    a, b = make_run("a"), make_run("b")
    damage(b)
    done = harness(a, b)
    assert done.exit_code == code, done.output
    assert says in done.stderr
    assert "Traceback" not in done.output
    assert str(b) in done.stderr


def test_an_older_metric_version_names_both_and_how_to_make_them_equal(harness, make_run):
    done = harness(make_run("old", metric_version=1), make_run("new"))
    assert done.exit_code == 8
    assert "metric_version: 1 in" in done.stderr
    assert ", 2 in" in done.stderr
    assert "`harness reduce RUN`" in done.stderr


def test_one_run_named_twice_is_refused(harness, make_run, tmp_path):
    a = make_run("a")
    assert harness(a, a).exit_code == 2
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in a.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    done = harness(a, copy)
    assert done.exit_code == 2
    assert "the same run" in done.stderr


def test_keys_that_group_nothing_are_refused(harness, make_run):
    a, b = make_run("a"), make_run("b")
    for key, says in (
        ("variant", "'variant'"),
        ("settings.max_num_sqs", "settings.max_num_sqs"),
    ):
        done = harness(a, b, "--group-by", key)
        assert done.exit_code == 2
        assert says in done.stderr


@pytest.mark.parametrize(
    "odd", ["1e999", "-1e999", "1" + "0" * 400, "true", '"600"', "[600]", "{}"]
)
def test_what_is_no_number_is_no_figure(make_run, odd):
    a, b = (
        make_run("a", values={"power_w": 600.0}),
        make_run("b", engine_version="0.33.0", values={"power_w": 600.0}),
    )
    path = b / "summary.json"
    path.write_text(path.read_text().replace('"value": 600.0', f'"value": {odd}'))
    found = compare_runs(
        [a, b], gates=[parse_threshold("power_w > 1"), parse_threshold("power_w < 1M")]
    )
    [cell] = next(row for row in found.metrics if row.key == "power_w").cells
    assert (cell.value, cell.word) == (None, "absent")
    assert [one.outcome for one in found.gates] == [Outcome.ABSENT] * 2
    json.dumps(to_json(found), allow_nan=False)


def test_hardware_that_makes_no_sense_is_unknown(make_run):
    a, b = make_run("a"), make_run("b")
    change(
        b,
        "manifest",
        hardware={
            "gpus": [
                {
                    "uuid": ["x"],
                    "name": 3,
                    "power_limit_w": "much",
                    "index": None,
                    "sm_clock_max_mhz": [],
                }
            ]
        },
    )
    values = {treatment.key: treatment.values for treatment in compare_runs([a, b]).treatments}
    assert values["gpu"] == ("1 x NVIDIA H100 80GB HBM3", "1 x unknown GPU")
    assert values["power_limit_w"][1] == "—"


# --- gates ---


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("output_tok_sec >= 1", "did you mean output_tok_s"),
        ("ttft_s.p99 < 1.5 tok", "'tok'"),
        ("output_tok_s >= 95%", "does not fit output_tok_s"),
        ("ttft_s < 1", "is a distribution"),
        ("goodput_rps@node > 1", "has no boundary"),
        ("output_tok_s >= 0 * baseline", "must be above 0"),
    ],
)
def test_a_gate_that_asks_nonsense_is_a_mistake_and_no_pass(
    harness, make_run, tmp_path, text, says
):
    file = tmp_path / "gates.yaml"
    file.write_text(json.dumps([text]))
    done = harness(make_run("a"), make_run("b"), "--gate", file)
    assert done.exit_code == 2
    assert says in done.stderr
    assert f"{file}:1:2: " in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "goodput_rps >= 0",
        "goodput_rps <= 2 * baseline",
        "power_w@node < 1M",
        "j_per_request < 1M",
        "e2e_s.p99 < 1h",
    ],
)
def test_a_gate_on_a_figure_that_is_absent_exits_99(harness, five, tmp_path, text):
    file = tmp_path / "gates.yaml"
    file.write_text(json.dumps([text]))
    done = harness(*five("a", 1000.0), *five("b", 1000.0), "--gate", file)
    assert done.exit_code == 99
    assert "ABSENT" in done.stderr


def test_one_repeat_without_the_figure_is_enough_to_fail(five):
    runs = [*five("a", 1000.0), *five("b", (1000.0, 1001.0, None, 1002.0, 999.0))]
    assert [
        one.outcome for one in gate(runs, "output_tok_s >= 0.5 * baseline", "output_tok_s > 1")
    ] == [Outcome.ABSENT] * 2


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ((0.0,) * 5, Outcome.PASSED),
        ((0.02, 0.021, 0.019, 0.02, 0.0205), Outcome.FAILED),
        ((0.0, 0.0, 0.0, 0.0, 0.01), Outcome.TOO_FEW),
    ],
)
def test_a_baseline_of_zero_has_no_ratio_and_is_judged_all_the_same(five, values, outcome):
    [found] = gate(
        [*five("a", (0.0,) * 5, "error_ratio"), *five("b", values, "error_ratio")],
        "error_ratio <= 1.05 * baseline",
    )
    assert found.outcome is outcome
    assert found.ratio is None
    json.dumps(to_json(found), allow_nan=False)


def test_a_gate_with_one_repeat_says_so_and_does_not_pass(five):
    [found] = gate([*five("a", 1000.0), five("b", 400.0)[0]], "output_tok_s >= 0.95 * baseline")
    assert found.outcome is Outcome.TOO_FEW
    assert all(part in found.reason for part in ("5 baseline", "1 candidate"))
    assert found.failed(strict=True)


def test_nothing_passes_on_invalid_runs_however_they_were_let_in(five):
    a = five("a", 1000.0)
    b = five("b", (1000.0, 1000.1, 1000.2, 1000.3, 1000.4), status=Status.INVALID)
    texts = ("output_tok_s >= 0.95 * baseline", "output_tok_s > 1", "output_tok_s > 1M")
    outcomes = [one.outcome for one in gate([*a, *b], *texts, allow_mismatch=["verdict"])]
    assert outcomes == [Outcome.ABSENT, Outcome.ABSENT, Outcome.FAILED]
    assert [one.outcome for one in gate([*b, *a], *texts[:2], allow_mismatch=["verdict"])] == [
        Outcome.ABSENT
    ] * 2


def test_nothing_passes_across_boundaries_however_they_were_let_in(five):
    a, b = five("a", 600.0, "power_w"), five("b", 300.0, "power_w", power_boundary="node")
    [found] = gate([*a, *b], "power_w <= 1.05 * baseline", allow_mismatch=["boundary"])
    assert found.outcome is Outcome.ABSENT
    assert "gpu_board, node" in found.reason


def test_boundaries_that_differ_show_beside_a_run_without_power(harness, make_run):
    """A run without power does not hide that others have it at different boundaries."""
    a, b = make_run("a"), make_run("b", values={"power_w": 600.0})
    done = harness(a, b, make_run("c", values={"power_w": 900.0}, power_boundary="node"))
    assert done.exit_code == 8
    assert "boundary: gpu_board in" in done.stderr


def test_repeats_that_read_alike_on_two_boards_are_within_their_sensors(five):
    a = five("a", (600.0,) * 5, "power_w")
    text = "power_w <= 1.02 * baseline"
    [other] = gate([*a, *five("b", (624.0,) * 5, "power_w", uuid="GPU-2")], text)
    [same] = gate([*a, *five("c", (624.0,) * 5, "power_w")], text)
    [beyond] = gate([*a, *five("d", (700.0,) * 5, "power_w", uuid="GPU-2")], text)
    assert [one.outcome for one in (other, same, beyond)] == [
        Outcome.TOO_FEW,
        Outcome.FAILED,
        Outcome.FAILED,
    ]
    assert "sensor error" in other.reason


# --- series ---


@pytest.fixture
def series(make_run, tmp_path):
    """Folder of a series of three profiles, of which only these have runs that finished."""

    def make(*variants):
        folder = tmp_path / "series"
        folder.mkdir()
        (folder / "series.json").write_text(
            json.dumps({"variants": [{"name": name} for name in ("a", "b", "c")]})
        )
        for name in variants:
            for i in range(2):
                run = make_run(f"{name}{i}", seed=i, values={"output_tok_s": 1000.0 + i})
                change(
                    run,
                    "manifest",
                    repeat={"series": "series", "variant": name, "repeat": i + 1, "of": 2},
                )
                run.rename(folder / run.name)
        return folder

    return make


def test_without_a_run_of_the_baseline_no_other_takes_its_place(series):
    with pytest.raises(ArtifactError, match="'a'") as error:
        compare_runs([series("b", "c")])
    assert "--resume" in error.value.next_step


def test_a_variant_without_a_run_is_told(series):
    found = compare_runs([series("a", "c")])
    assert [side.name for side in found.sides] == ["a", "c"]
    assert any(note.startswith("b has no finished run") for note in found.notes)


def test_runs_of_a_series_named_one_by_one_stay_repeats_of_each_other(series, make_run, tmp_path):
    folder = series("a", "b")
    reference = tmp_path / "reference"
    reference.mkdir()
    for i in range(2):
        make_run(f"r{i}", seed=10 + i).rename(reference / f"r{i}")
    found = compare_runs(sorted(folder.glob("*/")), baseline=reference)
    assert [len(side.runs) for side in found.sides] == [2, 2, 2]


# --- two at once ---


def test_two_comparisons_into_one_folder_leave_the_files_of_one(make_run, tmp_path, monkeypatch):
    comparisons = {
        name: compare_runs([make_run(f"{name}0"), make_run(f"{name}1", engine_version=name)])
        for name in "xy"
    }
    folder = tmp_path / "page"
    order, other_wrote = [], threading.Event()
    write = compare_write.write_bytes

    def slow(path, data):
        name = threading.current_thread().name
        if order and name != order[0]:
            other_wrote.set()
        order.append(name)
        if len(order) == 1:
            threads["y"].start()
            other_wrote.wait(0.3)  # it writes meanwhile, unless it waits
        write(path, data)

    monkeypatch.setattr(compare_write, "write_bytes", slow)
    monkeypatch.setattr(compare_view, "_charts", lambda *_: [])
    threads = {
        name: threading.Thread(target=write_comparison, args=(comparisons[name], folder), name=name)
        for name in "xy"
    }
    threads["x"].start()
    threads["x"].join(60)
    threads["y"].join(60)
    assert order == sorted(order)
    assert json.loads((folder / "comparison.json").read_text())["sides"][0]["runs"] == ["y0"]
    assert "y0" in (folder / "comparison.html").read_text()


def test_two_processes_that_write_one_file_leave_it_whole(tmp_path, monkeypatch):
    path = tmp_path / "file"
    replace = Path.replace

    def meanwhile(tmp, target):
        monkeypatch.setattr(Path, "replace", replace)
        monkeypatch.setattr(os, "getpid", lambda: 1)
        atomic.write_bytes(path, b"of the other one")
        return replace(tmp, target)

    monkeypatch.setattr(Path, "replace", meanwhile)
    atomic.write_bytes(path, b"mine")
    assert path.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [path]


def test_charts_of_a_comparison_before_do_not_stay(make_run, tmp_path):
    stale = tmp_path / "page" / compare_write.CHARTS_DIR / "trade-light.svg"
    stale.parent.mkdir(parents=True)
    stale.write_text("<svg/>")
    write_comparison(
        compare_runs([make_run("a"), make_run("b", engine_version="0.33.0")]), tmp_path / "page"
    )
    assert not stale.exists()
    assert (stale.parent / "ratios-light.svg").is_file()
