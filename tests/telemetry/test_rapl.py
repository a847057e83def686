"""RAPL from a tree of powercap files: which zones count, wrapping around, permissions, and that
another tree is told.
"""

import os
from itertools import pairwise
from pathlib import Path

import pytest

from harness.core.records import Boundary
from harness.telemetry.sources.rapl import RaplPowerSource

RANGE_UJ = 262_143_328_850
S = 1_000_000_000


class Tree:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.now_ns = 0

    def zone(
        self, path: str, name: str, energy_uj: int = 1_000_000, range_uj: int | None = RANGE_UJ
    ) -> Path:
        folder = self.root / path
        folder.mkdir(parents=True)
        (folder / "name").write_text(f"{name}\n")
        (folder / "energy_uj").write_text(f"{energy_uj}\n")
        if range_uj is not None:
            (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
        return folder / "energy_uj"

    def source(self) -> RaplPowerSource:
        return RaplPowerSource(self.root, clock=lambda: self.now_ns)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_packages_and_their_memory_and_nothing_twice(tree: Tree) -> None:
    for socket in (0, 1):
        tree.zone(f"intel-rapl:{socket}", f"package-{socket}")
        tree.zone(f"intel-rapl:{socket}/intel-rapl:{socket}:0", "core")
        tree.zone(f"intel-rapl:{socket}/intel-rapl:{socket}:1", "dram")
        (tree.root / f"intel-rapl:{socket}:1").symlink_to(
            tree.root / f"intel-rapl:{socket}/intel-rapl:{socket}:1"
        )
    tree.zone("intel-rapl:2", "psys")
    tree.zone("intel-rapl-mmio:0", "package-0")
    source = tree.source()
    probe = source.probe()
    assert [(d.device_id, d.boundary, d.energy) for d in probe.devices] == [
        ("package-0", Boundary.CPU_PACKAGE, "rapl"),
        ("package-0/dram", Boundary.DRAM, "rapl"),
        ("package-1", Boundary.CPU_PACKAGE, "rapl"),
        ("package-1/dram", Boundary.DRAM, "rapl"),
    ]
    assert str(tree.root) in str(probe.double)
    assert RaplPowerSource().probe().double is None
    readings = source.sample("energy")
    assert [(r.energy_j, r.power_w, r.source) for r in readings] == [(1.0, None, "rapl")] * 4
    assert source.sample("power") == ()


def test_joules_go_on_counting_over_the_counters_end(tree: Tree) -> None:
    counter = tree.zone("intel-rapl:0", "package-0", RANGE_UJ - 150_000_000)
    source = tree.source()
    source.probe()
    joules = []
    for second in range(0, 1000, 5):
        tree.now_ns = second * S
        counter.write_text(str((RANGE_UJ - 150_000_000 + second * 300_000_000) % RANGE_UJ))
        joules += [r.energy_j for r in source.sample("energy")]
    rises = [after - before for before, after in pairwise(joules)]
    assert joules[0] == pytest.approx(RANGE_UJ / 1e6 - 150)
    assert all(rise == pytest.approx(1500.0) for rise in rises)
    assert joules[-1] > RANGE_UJ / 1e6
    assert not source.trouble.seen


def test_a_reset_is_no_wrapping_around_and_falls_for_every_reader(tree: Tree) -> None:
    counter = tree.zone("intel-rapl:0", "package-0", 5_000_000_000)
    source = tree.source()
    source.probe()
    (before,) = source.sample("energy")
    tree.now_ns = S
    counter.write_text("1000000")
    (after,) = source.sample("energy")
    assert (before.energy_j, after.energy_j) == (5000.0, 1.0)
    (message,) = source.trouble.seen
    assert "package-0" in message


def test_what_only_root_may_read_is_absent_with_the_remedy(tree: Tree, monkeypatch) -> None:
    counter = tree.zone("intel-rapl:0", "package-0")
    counter.chmod(0)
    if os.geteuid() == 0:  # root reads everything: the kernel's answer to others is played
        read = Path.read_text

        def refuse(path: Path, *args, **kwargs) -> str:
            if path == counter:
                raise PermissionError(13, "Permission denied")
            return read(path, *args, **kwargs)

        monkeypatch.setattr(Path, "read_text", refuse)
    source = tree.source()
    probe = source.probe()
    assert [device.energy for device in probe.devices] == [None] * len(probe.devices)
    assert "energy_uj" in probe.devices[0].why_not
    assert source.intervals_s == {}
    assert source.sample("energy") == ()


def test_a_file_that_goes_away_or_holds_no_number_is_told_and_comes_back(tree: Tree) -> None:
    counter = tree.zone("intel-rapl:0", "package-0")
    source = tree.source()
    source.probe()
    counter.write_text("rubbish")
    assert source.sample("energy") == ()
    counter.unlink()
    assert source.sample("energy") == ()
    counter.write_text("9000000")
    assert [r.energy_j for r in source.sample("energy")] == [9.0]
    assert len(source.trouble.seen) == 2


def test_a_machine_without_rapl_says_so(tree: Tree) -> None:
    assert str(tree.root) in tree.source().probe().why_not
