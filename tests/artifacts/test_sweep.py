import json
from dataclasses import replace

import pytest

from harness.artifacts.sweep.index import (
    SCHEMA_VERSION,
    SWEEP_FILE,
    Axis,
    Point,
    PointState,
    SweepIndex,
    is_sweep,
    read_sweep,
    write_sweep,
)
from harness.core.errors import ArtifactError

KEY = "traffic.load.0.concurrency"
INDEX = SweepIndex(
    sweep_id="s",
    kind="sweep",
    profile="cpu-sweep",
    profile_sha256="0" * 64,
    overrides=("seed=3",),
    axes=(Axis(KEY, (1, 2)), Axis("server.max_num_seqs", (4,), zipped=0)),
    order="random",
    seed=3,
    repeats=1,
    points=(
        Point(0, {KEY: 2, "server.max_num_seqs": 4}, 1, "a", 7, PointState.DONE, "r", wall_s=9.5),
        Point(1, {KEY: 1.5, "x": True, "y": None}, 1, "a", 8, PointState.SKIPPED, error="why"),
    ),
)


def test_index_survives_the_disk(tmp_path) -> None:
    assert not is_sweep(tmp_path)
    write_sweep(tmp_path, INDEX)
    assert is_sweep(tmp_path)
    assert read_sweep(tmp_path) == INDEX
    # 1 stays an integer, and True a truth value
    values = [point.values for point in read_sweep(tmp_path).points]
    assert [type(one) for one in values[1].values()] == [float, bool, type(None)]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sweep_id": 1}', "\0"])
def test_other_files_are_refused(tmp_path, text: str) -> None:
    (tmp_path / SWEEP_FILE).write_text(text)
    with pytest.raises(ArtifactError):
        read_sweep(tmp_path)


def test_newer_schema_is_refused(tmp_path) -> None:
    write_sweep(tmp_path, replace(INDEX, schema_version=SCHEMA_VERSION + 1))
    with pytest.raises(ArtifactError, match=str(SCHEMA_VERSION + 1)):
        read_sweep(tmp_path)
    assert json.loads((tmp_path / SWEEP_FILE).read_text())["points"][0]["state"] == "done"
