"""What the manifest says of the host."""

import json
import os
import platform
from pathlib import Path

import pytest

from harness.hardware.host import cpu_quota_cores, describe_host


def test_this_host_is_described_in_json_and_without_its_name() -> None:
    host = describe_host()
    assert (
        host["cpu"]["usable_cores"] == len(os.sched_getaffinity(0)) <= host["cpu"]["logical_cores"]
    )
    assert host["ram_bytes"] == pytest.approx(
        os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), rel=0.01
    )
    assert host["kernel"] == platform.release()
    text = json.dumps(host, allow_nan=False)
    assert len(platform.node()) < 4 or platform.node() not in text.replace(platform.release(), "")


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, None),
        ({"a/b": "max 100000"}, None),
        ({"a/b": "150000 100000"}, 1.5),
        ({"a": "200000 100000", "a/b": "max 100000"}, 2.0),
        ({"a": "100000 100000", "a/b": "400000 100000"}, 1.0),
    ],
)
def test_the_tightest_quota_above_the_process_counts(
    tmp_path: Path, limits: dict[str, str], expected: float | None
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n")
    for group, text in limits.items():
        folder = tmp_path / "sys/fs/cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(text + "\n")
    assert cpu_quota_cores(tmp_path) == expected
