"""Damaged and odd run directories: a degraded account or a clear refusal, never a traceback, never
0 in the place of unknown.
"""

import contextlib
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.artifacts import tables
from harness.artifacts.finalize import finalize
from harness.artifacts.layout import RunDir
from harness.artifacts.run_summary import Summary, read_summary
from harness.core.errors import ArtifactError, HarnessError
from harness.reduce import reduce_run, write_summary
from harness.reduce.reduction import reduce_fully
from harness.report.export import as_csv, as_openmetrics, rows

S = 1_000_000_000
MIDDLE = 5_000_008 * S  # of the window, as in conftest.py
tables_of = {"power": tables.POWER, "host": tables.HOST, "samples": tables.SAMPLES}


@pytest.fixture(name="whole")
def _whole(steady: Callable[..., Any], tmp_path: Path) -> Path:
    """A measurement of every kind of record, with its tables made."""
    builder = steady(purpose="measure", gpus=1, window_s=12.0, one_batch=True)
    builder.constant_power(300.0)
    root: Path = builder.write(tmp_path / "run")
    finalize(RunDir(root))
    return root


def codes(summary: Summary) -> set[str]:
    return {concern.code for concern in summary.verdict.concerns}


def accounts(root: Path) -> Summary:
    """Everything that is made of a run directory, made; nothing in it is NaN or infinite."""
    reduction = reduce_fully(root)
    summary = reduction.summary
    path = write_summary(root, summary)  # refuses NaN
    assert read_summary(path) == summary
    found = rows(summary)
    assert all(row.value is None or math.isfinite(row.value) for row in found)
    assert all(row.note for row in found if row.value is None)
    as_csv(found)
    as_openmetrics(summary)
    return summary


def columns(path: Path, **values: Callable[[list[Any]], list[Any]]) -> None:
    """Change columns of a table."""
    table = pq.read_table(path)
    for name, change in values.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(
            place,
            table.schema.field(place),
            pa.array(change(table[name].to_pylist()), table.schema.field(place).type),
        )
    pq.write_table(table, path)


def every(n: int, value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda column: [value if i % n == 0 else cell for i, cell in enumerate(column)]


class TestNaN:
    def test_in_readings_of_power_and_energy(self, whole: Path) -> None:
        columns(RunDir(whole).power, power_w=every(3, math.nan), energy_j=every(5, math.nan))
        watts = accounts(whole).metrics["power_w"].value
        assert watts is None or watts == pytest.approx(300.0, rel=0.02)

    def test_in_every_reading_of_power(self, whole: Path) -> None:
        columns(RunDir(whole).power, power_w=every(1, math.nan), energy_j=every(1, math.nan))
        figure = accounts(whole).metrics["power_w"]
        assert (figure.value, str(figure.basis)) == (None, "absent")

    def test_in_the_servers_samples(self, whole: Path) -> None:
        columns(RunDir(whole).samples, value=every(2, math.nan))
        accounts(whole)

    def test_in_every_sample(self, whole: Path) -> None:
        columns(RunDir(whole).samples, value=every(1, math.nan))
        summary = accounts(whole)
        assert summary.reconciliation["output_tokens"].ok is None

    def test_in_the_hosts_readings(self, whole: Path) -> None:
        columns(RunDir(whole).host, cpu_s=every(1, math.nan))
        assert accounts(whole).host["traffic:0"].cpu_cores_mean is None

    @pytest.mark.parametrize("value", ["NaN", "1e999", "-1e300", '"1"', "null", str(10**400)])
    def test_in_the_events(self, whole: Path, value: str) -> None:
        path = RunDir(whole).events
        lines = path.read_text().splitlines()
        stage = next(i for i, line in enumerate(lines) if "stage_ended" in line)
        fields = json.loads(lines[stage])
        ended = fields | dict.fromkeys(("t_ns", "end_ns", "window_end_ns"), "HERE")
        idle = {"t_ns": 1, "event": "idle", "when": "ready", "start_ns": 1, "end_ns": "HERE"}
        odd = [json.dumps(event).replace('"HERE"', value) for event in (ended, idle)]
        path.write_text("\n".join([*lines[:stage], *odd, *lines[stage + 1 :]]) + "\n")
        accounts(whole)

    @pytest.mark.parametrize(
        ("name", "content", "code"),
        [
            ("calibration", '{"load": {"body_bytes": NaN}}', "calibration_unreadable"),
            (
                "meter_calibration",
                '{"schema_version": 1, "devices": {"GPU-0": {"gain": 1e999, "error_ratio": 0}}}',
                "calibration_unreadable",
            ),
            ("quality", '{"texts": Infinity}', "quality_missing"),
            ("recount", '{"usage_tok": NaN}', None),
        ],
    )
    def test_in_the_files_beside_the_tables(
        self, whole: Path, name: str, content: str, code: str | None
    ) -> None:
        getattr(RunDir(whole), name).write_text(content)
        summary = accounts(whole)
        assert code is None or code in codes(summary)
        assert (
            name != "recount"
            or "recount.json" in summary.reconciliation["input_tokens"].tokenizer.note
        )

    def test_in_the_manifest(self, whole: Path) -> None:
        path = RunDir(whole).manifest
        path.write_text(
            path.read_text()
            .replace('"context_scale": 1.0', '"context_scale": NaN')
            .replace('"seed": 7', '"seed": Infinity')
        )
        assert accounts(whole).labels.context_scale is None


class TestClocks:
    @pytest.mark.parametrize("jump_s", [-3600, 3600])
    def test_a_clock_that_jumped_in_the_middle(self, whole: Path, jump_s: int) -> None:
        """Everything after the middle moved by an hour: no token is lost silently, and the run is
        not valid.
        """
        times = (
            "intended_ns",
            "sent_ns",
            "first_byte_ns",
            "first_token_ns",
            "last_token_ns",
            "done_ns",
        )

        def jumped(column: list[int | None]) -> list[int | None]:
            return [
                cell + jump_s * S if cell is not None and i > len(column) // 2 else cell
                for i, cell in enumerate(column)
            ]

        columns(RunDir(whole).requests, **dict.fromkeys(times, jumped))
        assert accounts(whole).verdict.status == "degraded"

    @pytest.mark.parametrize(
        ("name", "change", "found"),
        [
            ("power", lambda t: t // S, "energy_absent"),  # seconds
            ("power", lambda t: t - 10 * S if t > MIDDLE else t, "energy_absent"),
            ("power", lambda t: t + 10 * S if t > MIDDLE else t, "power_gap"),
            ("samples", lambda t: t // S, "scrape_gap"),
            ("samples", lambda t: t - 10 * S if t > MIDDLE else t, "metrics_mixed"),
            ("host", lambda t: t // 1000, "client_not_watched"),
        ],
    )
    def test_times_of_one_table_that_are_not_the_runs(
        self, whole: Path, name: str, change: Callable[[int], int], found: str
    ) -> None:
        columns(getattr(RunDir(whole), name), t_ns=lambda column: [change(t) for t in column])
        summary = accounts(whole)
        assert found in codes(summary)
        assert summary.verdict.status == "degraded"

    @pytest.mark.parametrize(
        "change",
        [lambda t: t // S, lambda t: -t, lambda t: t - 10 * S if t > MIDDLE else t],
        ids=["s", "-", "jump"],
    )
    def test_times_of_requests_that_are_not_the_runs(
        self, whole: Path, change: Callable[[int], int]
    ) -> None:
        times = (
            "intended_ns",
            "sent_ns",
            "first_byte_ns",
            "first_token_ns",
            "last_token_ns",
            "done_ns",
        )
        columns(
            RunDir(whole).requests,
            **dict.fromkeys(
                times, lambda column: [change(t) if t is not None else None for t in column]
            ),
        )
        summary = accounts(whole)
        assert summary.verdict.status == "invalid"
        assert {"empty_window", "times_backwards"} & codes(summary)

    def test_a_response_that_ended_before_it_was_sent(self, whole: Path) -> None:
        columns(RunDir(whole).requests, done_ns=every(4, 1))
        summary = accounts(whole)
        assert "times_backwards" in codes(summary)
        assert summary.verdict.status == "invalid"

    def test_times_that_overflow_a_float(self, whole: Path) -> None:
        columns(RunDir(whole).requests, last_token_ns=every(7, 2**62))
        accounts(whole)


class TestDamagedTables:
    @pytest.mark.parametrize(
        ("name", "column"),
        [
            ("power", "device_id"),
            ("power", "boundary"),
            ("power", "t_ns"),
            ("host", "scope"),
            ("samples", "target"),
            ("samples", "value"),
        ],
    )
    def test_rows_that_do_not_say_of_what_they_are_are_left_out_and_told(
        self, whole: Path, name: str, column: str
    ) -> None:
        path = getattr(RunDir(whole), name)
        table = pq.read_table(path)
        kind = pa.string() if pa.types.is_dictionary(table[column].type) else table[column].type
        cells = pa.array(every(3, None)(table[column].to_pylist()), kind)
        pq.write_table(table.set_column(table.schema.get_field_index(column), column, cells), path)
        summary = accounts(whole)
        concern = next(
            concern for concern in summary.verdict.concerns if concern.code == "rows_damaged"
        )
        assert (concern.value, str(concern.severity)) == (-(-len(table) // 3), "degraded")
        if name == "power":
            assert summary.metrics["power_w"].value == pytest.approx(300.0)

    @pytest.mark.parametrize("name", ["power", "host", "samples"])
    def test_a_table_without_a_required_column_counts_as_missing(
        self, whole: Path, name: str
    ) -> None:
        """A table without a column that it cannot do without is as if it were not there."""
        path = getattr(RunDir(whole), name)
        table = pq.read_table(path)
        for column in table.column_names:
            if not tables_of[name].field(column).nullable:
                pq.write_table(table.drop_columns([column]), path)
                assert "rows_damaged" in codes(accounts(whole)), column


class TestVersions:
    @pytest.mark.parametrize("version", [0, -1, "1", True, 0.5, [1]])
    def test_a_number_that_no_harness_wrote_makes_the_run_invalid(
        self, whole: Path, version: Any
    ) -> None:
        path = RunDir(whole).manifest
        path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": version}))
        summary = accounts(whole)
        assert summary.verdict.status == "invalid"
        concern = next(
            concern for concern in summary.verdict.concerns if concern.code == "manifest_unreadable"
        )
        assert repr(version) in concern.message

    def test_a_newer_directory_is_refused_by_its_number(self, whole: Path) -> None:
        manifest = json.loads(RunDir(whole).manifest.read_text())
        RunDir(whole).manifest.write_text(json.dumps(manifest | {"schema_version": 7}))
        with pytest.raises(ArtifactError, match="schema_version 7"):
            reduce_run(whole)

    def test_an_early_directory_lacks_columns_and_sections_that_came_later(
        self, whole: Path
    ) -> None:
        run = RunDir(whole)
        table = pq.read_table(run.requests).drop_columns(
            ["retry_after_s", "content_kinds", "response_bytes", "cache_write_tok"]
        )
        pq.write_table(table, run.requests)
        manifest = json.loads(run.manifest.read_text())
        for key in ("workers", "plan", "clock_anchors", "concerns", "model"):
            manifest.pop(key)
        run.manifest.write_text(json.dumps(manifest))
        summary = accounts(whole)
        assert summary.metrics["output_tok_s"].value
        assert summary.metrics["input_cache_write_tok_s"].value is None

    def test_columns_of_a_later_version_are_left_out(self, whole: Path) -> None:
        run = RunDir(whole)
        before = reduce_run(whole)
        table = pq.read_table(run.requests)
        pq.write_table(
            table.append_column("invented_later", pa.array([1] * len(table))), run.requests
        )
        assert reduce_run(whole) == before


class TestMixedUp:
    def test_rows_that_were_written_twice(self, whole: Path) -> None:
        """Readings that are there twice are the same readings; requests that are there twice are
        told.
        """
        before = reduce_run(whole)
        run = RunDir(whole)
        for path in (run.power, run.samples, run.host):
            table = pq.read_table(path)
            pq.write_table(pa.concat_tables([table, table]), path)
        twice = accounts(whole)
        assert twice.metrics == before.metrics
        assert twice.reconciliation == before.reconciliation
        assert twice.server.resets == 0
        table = pq.read_table(run.requests)
        pq.write_table(pa.concat_tables([table, table]), run.requests)
        assert {"duplicate_requests", "not_reconciled"} <= codes(accounts(whole))

    def test_the_journals_of_another_run(
        self, whole: Path, new_builder: Callable[..., Any], tmp_path: Path
    ) -> None:
        """Ids that occur twice, and tokens that the server never counted: nobody takes this for one
        run.
        """
        other = new_builder(one_batch=True)
        for i in range(50):
            other.request(3 + i / 10)
        foreign = other.write(tmp_path / "other")
        RunDir(whole).requests.unlink()
        (foreign / "requests" / "worker-0.arrows").rename(whole / "requests" / "worker-9.arrows")
        summary = accounts(whole)
        assert {"duplicate_requests", "not_reconciled"} <= codes(summary)
        assert summary.verdict.status == "invalid"

    def test_records_of_a_stage_that_the_run_never_had(self, whole: Path) -> None:
        columns(RunDir(whole).requests, stage=every(2, "elsewhere"))
        accounts(whole)


@pytest.mark.parametrize("seed", range(12))
def test_any_file_cut_anywhere(whole: Path, seed: int) -> None:
    """Each part of the directory in turn, cut or filled with noise at a random place."""
    draw = random.Random(seed)
    files = sorted(path for path in whole.rglob("*") if path.is_file())
    path = draw.choice(files)
    content = path.read_bytes()
    at = draw.randrange(len(content) + 1)
    path.write_bytes(
        content[:at] if seed % 2 else content[:at] + draw.randbytes(20) + content[at + 20 :]
    )
    with contextlib.suppress(HarnessError):  # a clear refusal; anything else is a traceback
        accounts(whole)


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "events.jsonl",
        "requests.parquet",
        "host.parquet",
        "power.parquet",
        "scrapes/samples.parquet",
    ],
)
def test_a_file_that_is_a_folder(whole: Path, name: str) -> None:
    (whole / name).unlink()
    (whole / name).mkdir()
    accounts(whole)
