"""Runs kept under a name: what a copy holds, what it can still do, and what is refused."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from harness.artifacts.finalize import finalize
from harness.artifacts.layout import RunDir
from harness.artifacts.manifest import read_manifest_json
from harness.artifacts.recorded_run import saved_of
from harness.cli import app
from harness.compare import baseline as baselines
from harness.compare.baseline import BASELINE_FILE, list_baselines, save_baseline
from harness.compare.compare import compare_runs
from harness.compare.ratios import Word
from harness.core.errors import ArtifactError, InvalidRunError, NotComparableError, ProfileError
from harness.core.records import Status
from harness.profile.thresholds import parse_threshold
from harness.reduce.reduction import reduce_run, write_summary


def small(path, name, **changes):
    """A change to one of the two small files of a run."""
    file = path / f"{name}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.fixture
def five(make_run):
    """Five repeats of one system, without what they were reduced from."""

    def make(name, tok_s=1000.0, **changes):
        return [
            make_run(f"{name}{i}", seed=i, values={"output_tok_s": tok_s + i}, **changes)
            for i in range(5)
        ]

    return make


@pytest.fixture(scope="session")
def recorded(reduction_builder, tmp_path_factory) -> Path:
    """A run with everything that the reduction reads, finalized and reduced. Nobody changes it."""
    builder = reduction_builder(purpose="measure", gpus=1, window_s=10.0)
    for i in range(60):
        builder.request(0.2 * i, ttft_s=0.1 + 0.001 * i)
    builder.scrape_counters()
    builder.constant_power(300)
    builder.idle_host()
    run = builder.write(tmp_path_factory.mktemp("recorded") / "run")
    (run / "logs").mkdir(exist_ok=True)
    (run / "logs" / "server.log").write_text("a line\n")
    (run / "report.html").write_text("<p>the page</p>")
    finalize(RunDir(run))
    write_summary(run, reduce_run(run))
    return run


# --- round trip ---


def test_a_saved_baseline_is_found_by_its_name_compared_with_and_gated_against(
    five, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    command = CliRunner().invoke(app, ["baseline", "save", "h100-chat", *map(str, five("a"))])
    assert command.exit_code == 0, command.output
    assert "--baseline h100-chat" in command.output
    found = list_baselines([Path("results/reference")])
    assert [(row["name"], row["runs"], row["verdict"]) for row in found] == [
        ("h100-chat", 5, "valid")
    ]
    assert "h100-chat" in CliRunner().invoke(app, ["baseline", "list"]).output
    slow = [str(path) for path in five("b", 900.0)]
    gates = tmp_path / "gates.yaml"
    gates.write_text("- output_tok_s >= 0.95 * baseline\n")
    arguments = ["--baseline", "h100-chat", "--gate", str(gates), "--json"]
    done = CliRunner().invoke(app, ["compare", *slow, *arguments])
    assert done.exit_code == 99, done.output
    result = json.loads(done.stdout)
    assert [len(side["runs"]) for side in result["sides"]] == [5, 5]
    assert (
        next(row for row in result["metrics"] if row["key"] == "output_tok_s")["sides"][0]["word"]
        == "worse"
    )
    same = [str(path) for path in five("c", 1001.0)]
    assert CliRunner().invoke(app, ["compare", *same, *arguments]).exit_code == 0


def test_a_series_is_saved_with_its_finished_repeats_alone(five, tmp_path):
    series = tmp_path / "series"
    series.mkdir()
    for i, run in enumerate(five("a")):
        label = {"series": "s", "variant": "base", "repeat": i + 1, "of": 5}
        small(run, "manifest", repeat=label, state="running" if i == 4 else "complete")
        run.rename(series / run.name)
    saved = save_baseline("base", [series], into=tmp_path / "reference")
    assert len(saved.runs) == 4
    assert any("a4 did not finish" in note for note in saved.notes)
    assert len(compare_runs([*five("b", 900.0)], baseline=saved.folder).sides[0].runs) == 4


def test_how_it_was_made_is_written_beside_it(make_run, tmp_path):
    run = make_run("a", seed=7)
    small(run, "manifest", overrides=["seed=7"], clock_anchors=[{"unix_ns": 1_795_319_575 * 10**9}])
    saved = save_baseline(
        "base", [run], into=tmp_path, command=["harness", "baseline", "save", "base", "a folder"]
    )
    written = json.loads((saved.folder / BASELINE_FILE).read_text())
    assert written["command"] == "harness baseline save base 'a folder'"
    assert written["harness"]["version"]
    assert written["saved_at"].endswith("Z")
    [one] = written["runs"]
    assert one["made"] == {
        "profile": "chat",
        "overrides": ["seed=7"],
        "seed": 7,
        "harness": {"version": "0.1.0", "commit": None, "dirty": None},
        "started_at": "2026-11-22T03:52:55Z",
    }
    assert written["treatment"]["gpu"] == "1 x NVIDIA H100 80GB HBM3"
    assert any("single run" in note for note in written["notes"])


# --- what a copy holds ---


def test_a_run_that_fits_is_kept_whole_and_reduces_to_the_same_summary(recorded, tmp_path):
    saved = save_baseline("base", [recorded], into=tmp_path)
    [one] = saved.runs
    copy = saved.folder / one.run
    assert one.reducible
    assert one.left_out == ()
    assert (copy / "summary.json").read_bytes() == (recorded / "summary.json").read_bytes()
    done = CliRunner().invoke(app, ["reduce", str(copy)])
    assert done.exit_code == 0, done.output
    assert (copy / "summary.json").read_bytes() == (recorded / "summary.json").read_bytes()
    assert not list(copy.rglob("*.arrows"))
    assert not (copy / "logs").exists()
    assert not (copy / "report.html").exists()


def test_missing_tables_are_made_in_the_copy_alone(recorded, tmp_path):
    """Tables that were never made are made in the copy and the source stays as it is."""
    source = tmp_path / "source"
    shutil.copytree(recorded, source)
    for table in source.rglob("*.parquet"):
        if table.name != "plan.parquet":
            table.unlink()
    before = sorted(source.rglob("*"))
    saved = save_baseline("base", [source], into=tmp_path / "reference")
    assert saved.runs[0].reducible
    assert sorted(source.rglob("*")) == before
    assert (saved.folder / saved.runs[0].run / "requests.parquet").is_file()
    assert not list(saved.folder.rglob("*.arrows"))


def test_samples_that_no_figure_takes_go_first(recorded, tmp_path, monkeypatch):
    source = tmp_path / "source"
    shutil.copytree(recorded, source)
    samples = RunDir(source).samples
    table = pq.read_table(samples)
    noise = pa.array(["noise"] * len(table)).cast(table["metric"].type)
    noisy = table.set_column(table.column_names.index("metric"), table.field("metric"), noise)
    pq.write_table(pa.concat_tables([table, noisy]).unify_dictionaries(), samples)
    whole = save_baseline("whole", [source], into=tmp_path / "reference").runs[0]
    monkeypatch.setattr(baselines, "MOST_BYTES", whole.size_bytes)  # a little is kept free
    trimmed = save_baseline("trimmed", [source], into=tmp_path / "reference").runs[0]
    assert trimmed.reducible
    assert len(trimmed.left_out) == 1
    assert "samples of server metrics" in trimmed.left_out[0]
    assert trimmed.size_bytes < whole.size_bytes


def test_a_large_run_is_copied_as_far_as_comparisons_read_it(recorded, tmp_path, monkeypatch):
    """A run that is too large keeps what comparisons read and says that it cannot be reduced."""
    monkeypatch.setattr(
        baselines, "MOST_BYTES", (recorded / "summary.json").stat().st_size + 12_000
    )
    saved = save_baseline("base", [recorded], into=tmp_path)
    [one] = saved.runs
    copy = saved.folder / one.run
    assert not one.reducible
    assert one.size_bytes <= baselines.MOST_BYTES
    assert "cannot be reduced again" in saved.notes[-1]
    before = (copy / "summary.json").read_bytes()
    for command in ("reduce", "report"):
        done = CliRunner().invoke(app, [command, str(copy)])
        assert done.exit_code == 7
        assert "trimmed copy" in done.stderr
        assert recorded.name in done.stderr
    assert (copy / "summary.json").read_bytes() == before
    assert "chunk_dt_us" not in pq.read_schema(copy / "requests.parquet").names
    assert (copy / "report.html").read_text() == "<p>the page</p>"
    # A copy of the copy is what the copy is.
    again = save_baseline("again", [copy], into=tmp_path)
    assert not again.runs[0].reducible
    assert saved_of(read_manifest_json(RunDir(again.folder / again.runs[0].run))).source == one.run


def test_latency_curves_go_where_even_they_are_too_large(recorded, tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "MOST_BYTES", (recorded / "summary.json").stat().st_size + 3_000)
    [one] = save_baseline("base", [recorded], into=tmp_path).runs
    assert any("no latency curves" in text for text in one.left_out)
    assert not any(name.endswith(".parquet") for name in one.files)


def test_a_copy_that_does_not_reduce_alike_is_called_so(recorded, tmp_path, monkeypatch):
    source = tmp_path / "source"
    shutil.copytree(recorded, source)
    monkeypatch.setattr(
        baselines, "_INPUTS", tuple(name for name in baselines._INPUTS if name != "power.parquet")
    )
    monkeypatch.setattr(baselines, "parts", lambda path: [])
    [one] = save_baseline("base", [source], into=tmp_path / "reference").runs
    assert not one.reducible


# --- what is refused ---


def test_nothing_is_overwritten_unless_asked(make_run, tmp_path):
    save_baseline("base", [make_run("a")], into=tmp_path)
    with pytest.raises(ArtifactError, match="already") as error:
        save_baseline("base", [make_run("b")], into=tmp_path)
    assert "--replace" in error.value.next_step
    save_baseline("base", [tmp_path / "b"], into=tmp_path, replace=True)
    assert {path.name for path in (tmp_path / "base").iterdir()} == {"b", BASELINE_FILE}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_save_that_fails_leaves_the_old_one_and_nothing_else(make_run, tmp_path, monkeypatch):
    save_baseline("base", [make_run("a")], into=tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(baselines.shutil, "copyfile", full)
    with pytest.raises(ArtifactError, match="No space left"):
        save_baseline("base", [make_run("b")], into=tmp_path, replace=True)
    assert (tmp_path / "base" / "a" / "summary.json").is_file()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_of_two_that_save_one_name_at_once_one_is_refused(make_run, tmp_path, monkeypatch):
    a, b = make_run("a"), make_run("b")
    write = baselines.atomic.write_json

    def meanwhile(path, value):
        write(path, value)
        if path.name == BASELINE_FILE:
            monkeypatch.setattr(baselines.atomic, "write_json", write)
            save_baseline("base", [a], into=tmp_path)

    monkeypatch.setattr(baselines.atomic, "write_json", meanwhile)
    with pytest.raises(ArtifactError, match="cannot save"):
        save_baseline("base", [b], into=tmp_path)
    assert (tmp_path / "base" / "a").is_dir()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", ".hidden", "a b", "x" * 81, "-x"])
def test_names_are_names_of_folders(make_run, tmp_path, name):
    with pytest.raises(ProfileError, match="valid baseline name"):
        save_baseline(name, [make_run("a")], into=tmp_path)


def test_invalid_runs_make_no_baseline_unless_told(make_run, tmp_path):
    run = make_run("a", status=Status.INVALID)
    with pytest.raises(InvalidRunError) as error:
        save_baseline("base", [run], into=tmp_path)
    assert "--allow-invalid" in error.value.next_step
    assert (
        save_baseline("base", [run], into=tmp_path, allow_invalid=True).runs[0].status == "invalid"
    )


def test_what_is_no_set_of_repeats_is_refused(make_run, five, tmp_path):
    a = make_run("a")
    with pytest.raises(ProfileError, match="same run, a"):
        save_baseline("base", [a, a], into=tmp_path)
    with pytest.raises(NotComparableError, match="workload_sha256"):
        save_baseline("base", [a, make_run("other", workload="w2")], into=tmp_path)
    with pytest.raises(ArtifactError, match="metric_version 1") as error:
        save_baseline("base", [make_run("old", metric_version=1)], into=tmp_path)
    assert "harness reduce" in error.value.next_step
    unreduced = make_run("unreduced")
    (unreduced / "summary.json").unlink()
    with pytest.raises(ArtifactError, match="has no summary"):
        save_baseline("base", [unreduced], into=tmp_path)
    assert not (tmp_path / "base").exists()


def test_a_baseline_is_one_variant(five, tmp_path):
    series = tmp_path / "series"
    series.mkdir()
    for variant in ("base", "new"):
        for i, run in enumerate(five(variant)):
            small(
                run,
                "manifest",
                repeat={"series": "s", "variant": variant, "repeat": i + 1, "of": 5},
            )
            run.rename(series / run.name)
    with pytest.raises(ProfileError, match="base, new") as error:
        save_baseline("x", [series], into=tmp_path)
    assert "--variant" in error.value.next_step
    with pytest.raises(ProfileError, match="'old'"):
        save_baseline("x", [series], into=tmp_path, variant="old")
    saved = save_baseline("x", [series], into=tmp_path, variant="new")
    assert {run.run for run in saved.runs} == {f"new{i}" for i in range(5)}
    with pytest.raises(ProfileError, match="2 variants") as error:
        compare_runs(five("later"), baseline=series)
    assert "--variant base" in error.value.next_step
    assert [
        side.name
        for side in compare_runs([series / "base0", series / "base1"], baseline=saved.folder).sides
    ]


def test_runs_from_which_nothing_is_claimed_are_kept_and_told(five, tmp_path):
    saved = save_baseline("base", five("a", status=Status.FUNCTIONAL), into=tmp_path)
    assert any("functional" in note and "no claim" in note for note in saved.notes)
    gate = [parse_threshold("output_tok_s >= 0.95 * baseline")]
    found = compare_runs(five("b"), baseline=saved.folder, gates=gate)
    assert {cell.word for row in found.metrics for cell in row.cells} <= {
        Word.NO_CLAIM,
        Word.ABSENT,
        Word.NOT_JUDGED,
    }
    assert not found.gates[0].failed()


def test_ids_that_are_no_names_become_names(make_run, tmp_path):
    runs = [make_run("a"), make_run("b")]
    for run, odd in zip(runs, ("../../x", "_/_/x"), strict=True):
        small(run, "summary", run_id=odd)
    saved = save_baseline("base", runs, into=tmp_path / "reference")
    assert all((saved.folder / run.run).is_dir() for run in saved.runs)
    assert len({run.run for run in saved.runs}) == 2
    assert sorted(path.name for path in (tmp_path / "reference").iterdir()) == ["base"]


def test_a_folder_that_is_no_baseline_is_listed_as_that(tmp_path, make_run):
    (tmp_path / "reference" / "broken").mkdir(parents=True)
    by_hand = tmp_path / "reference" / "by-hand"
    by_hand.mkdir()
    make_run("a").rename(by_hand / "a")
    broken, hand = list_baselines([tmp_path / "reference", tmp_path / "none"])
    assert "reference/broken" in broken["problem"]
    assert (hand["runs"], hand["saved_at"]) == (1, None)
    assert (
        "unreadable"
        in CliRunner().invoke(app, ["baseline", "list", str(tmp_path / "reference")]).output
    )


def test_a_name_means_the_baseline_though_a_folder_here_has_it_too(make_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_baseline("h100", [make_run("a")])
    (tmp_path / "h100").mkdir()
    from harness.compare.groups import find_baseline

    assert find_baseline("h100") == Path("results/reference/h100")
    assert find_baseline("./h100") == Path("h100")
