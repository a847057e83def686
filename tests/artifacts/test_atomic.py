"""Whole files or none, and an error that says why."""

from pathlib import Path

import pytest

from harness.artifacts.atomic import write_bytes
from harness.core.errors import ArtifactError


def test_a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"old")
    write_bytes(tmp_path / "a", b"new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a", b"new")]


def test_a_folder_that_takes_no_file_is_an_artifact_error(
    tmp_path: Path,
) -> None:
    """Where nothing can be written not even a temporary file the error is one for people."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArtifactError, match="cannot write") as caught:
        write_bytes(
            tmp_path / "file" / "a", b"x"
        )  # opening fails, and so does removing what was not made
    assert caught.value.next_step


def test_a_folder_in_the_way_is_told_and_stays(tmp_path: Path) -> None:
    (tmp_path / "a" / "kept").mkdir(parents=True)
    with pytest.raises(ArtifactError, match="cannot write"):
        write_bytes(tmp_path / "a", b"x")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
