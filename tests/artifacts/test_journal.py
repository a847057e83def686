"""Journals: what was appended is there, whatever happened afterwards."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.artifacts.journal import (
    JournalTail,
    JournalWriter,
    next_part,
    parts,
    read_batches,
    read_table,
)
from harness.core.errors import ArtifactError

SCHEMA = pa.schema(
    [
        pa.field("n", pa.int64(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("gaps", pa.list_(pa.uint32())),
    ]
)
ROWS = [
    [{"n": 0, "text": "ä", "gaps": [1, 2]}],
    [{"n": 1}, {"n": 2, "text": ""}],
    [{"n": 3, "gaps": []}],
    [{"n": 4, "text": "x" * 40}],
]


def numbers(path: Path) -> list[int]:
    return [n for batch in read_batches(path) for n in batch.column("n").to_pylist()]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "j.arrows"
    with JournalWriter(path, SCHEMA) as journal:
        for rows in ROWS:
            journal.append(rows)
        journal.append([])
    expected = [{"n": None, "text": None, "gaps": None} | row for rows in ROWS for row in rows]
    assert read_table([path], SCHEMA).to_pylist() == expected


def test_it_is_an_ordinary_arrow_stream(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / "j.arrows", SCHEMA) as journal:
        journal.append(ROWS[0])
    with pa.ipc.open_stream(tmp_path / "j.arrows") as stream:
        assert stream.schema.equals(SCHEMA)
        assert stream.read_all().num_rows == 1


def test_a_journal_cut_anywhere_gives_a_prefix_of_its_batches(tmp_path: Path) -> None:
    path = tmp_path / "j.arrows"
    ends = []
    with JournalWriter(path, SCHEMA) as journal:
        for rows in ROWS:
            journal.append(rows)
            ends.append(path.stat().st_size)
    whole = path.read_bytes()
    cut = tmp_path / "cut.arrows"
    near = {size for end in (0, *ends, len(whole)) for size in range(end - 9, end + 10)}
    for size in sorted(
        {size for size in near if 0 <= size <= len(whole)} | set(range(0, len(whole), 7))
    ):
        cut.write_bytes(whole[:size])
        expected = [
            row for rows, end in zip(ROWS, ends, strict=True) if end <= size for row in rows
        ]
        assert numbers(cut) == [row["n"] for row in expected], f"cut at {size}"


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(
        st.lists(
            st.tuples(st.integers(-(2**63), 2**63 - 1), st.none() | st.text(max_size=20)),
            min_size=1,
            max_size=4,
        ),
        max_size=5,
    ),
    data=st.data(),
)
def test_any_rows_cut_anywhere_are_a_prefix(
    tmp_path_factory: pytest.TempPathFactory, batches: list, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("j") / "j.arrows"
    with JournalWriter(path, SCHEMA) as journal:
        for batch in batches:
            journal.append([{"n": n, "text": text} for n, text in batch])
    size = path.stat().st_size
    os.truncate(path, data.draw(st.integers(0, size)))
    everything = [n for batch in batches for n, _ in batch]
    found = numbers(path)
    assert found == everything[: len(found)]


WRITER = """
import sys
from pathlib import Path
import pyarrow as pa
from harness.artifacts.journal import JournalWriter
journal = JournalWriter(Path(sys.argv[1]), pa.schema([pa.field("n", pa.int64(), nullable=False)]))
n = 0
while True:
    journal.append([{"n": n}])
    sys.stdout.write(f"{n}\\n")
    sys.stdout.flush()
    n += 1
"""


def test_nothing_that_was_appended_is_lost_by_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "j.arrows"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(200)]
        process.send_signal(signal.SIGKILL)
        said += [int(line) for line in process.stdout]
    found = numbers(path)
    assert found[: len(said)] == said
    assert len(found) - len(said) in {0, 1}  # one more may have been written and not yet said


FULL_DISK = """
import json, resource, sys
from pathlib import Path
from harness.artifacts.journal import JournalWriter, read_batches
from harness.core.errors import ArtifactError
import pyarrow as pa
schema = pa.schema([pa.field("n", pa.int64(), nullable=False), pa.field("text", pa.string())])
path = Path(sys.argv[1])
journal = JournalWriter(path, schema)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
written, refusals, message = [], 0, ""
for n in range(40):
    try:
        journal.append([{"n": n, "text": "x" * 1000}])
        written.append(n)
    except ArtifactError as error:
        refusals, message = refusals + 1, str(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
journal.append([{"n": 99, "text": "space again"}])
journal.close()
found = [n for batch in read_batches(path) for n in batch.column("n").to_pylist()]
print(json.dumps({"written": written, "refusals": refusals, "message": message, "found": found}))
"""


def test_a_full_disk_is_told_and_costs_no_row_before_or_after_it(tmp_path: Path, in_child) -> None:
    told = in_child(f"import sys; sys.argv = ['', {str(tmp_path / 'j.arrows')!r}]\n{FULL_DISK}")
    assert told["refusals"] > 10
    assert len(told["written"]) > 5
    assert told["found"] == [*told["written"], 99]
    assert "cannot write" in told["message"]
    assert "next step" in told["message"]


@pytest.mark.skipif(
    os.geteuid() != 0,
    reason="mounting a small tmpfs needs root; the file size limit above covers the same path",
)
def test_a_disk_without_space_for_the_schema(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("this container may not mount")
    try:
        (disk / "filler").write_bytes(b"x" * resource.getpagesize())
        with pytest.raises(ArtifactError, match=r"cannot (write|create)"):
            JournalWriter(disk / "j.arrows", SCHEMA)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_journal_is_never_written_over(tmp_path: Path) -> None:
    JournalWriter(tmp_path / "j.arrows", SCHEMA).close()
    with pytest.raises(ArtifactError, match=r"j\.arrows: File exists"):
        JournalWriter(tmp_path / "j.arrows", SCHEMA)


def test_columns_added_since_are_null_in_an_old_journal(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / "old.arrows", pa.schema([SCHEMA.field("n")])) as journal:
        journal.append([{"n": 7}])
    assert read_table([tmp_path / "old.arrows"], SCHEMA).to_pylist() == [
        {"n": 7, "text": None, "gaps": None}
    ]


def test_a_missing_journal_is_an_error_with_a_next_step(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="cannot read"):
        list(read_batches(tmp_path / "none.arrows"))


def test_a_tail_follows_a_journal_batch_by_batch_however_much_of_it_is_there(
    tmp_path: Path,
) -> None:
    """The file grows by a few bytes at a time; each batch is given once, when it has become whole."""
    path, seen = tmp_path / "j.arrows", tmp_path / "seen.arrows"
    tail = JournalTail(seen)
    assert tail.new_batches() == []
    with JournalWriter(path, SCHEMA) as journal:
        for rows in ROWS:
            journal.append(rows)
    whole = path.read_bytes()
    found: list[list[int]] = []
    for size in range(0, len(whole), 53):
        seen.write_bytes(whole[:size])
        found += [batch.column("n").to_pylist() for batch in tail.new_batches()]
        assert tail.new_batches() == []
    seen.write_bytes(whole)
    found += [batch.column("n").to_pylist() for batch in tail.new_batches()]
    assert found == [[row["n"] for row in rows] for rows in ROWS]


def test_a_journal_goes_on_in_parts_until_one_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "j.arrows"
    assert (parts(path), next_part(path)) == ([], path)
    for name in ("j.arrows", "j-1.arrows", "j-3.arrows"):
        (tmp_path / name).touch()
    assert [part.name for part in parts(path)] == ["j.arrows", "j-1.arrows"]
    assert next_part(path).name == "j-2.arrows"


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    journal = JournalWriter(tmp_path / "j.arrows", SCHEMA)
    journal.append([])  # no batch
    journal.close()
    journal.close()
    assert list(read_batches(tmp_path / "j.arrows")) == []
