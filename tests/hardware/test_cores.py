"""Cores of the load generator and the engine."""

import os
from pathlib import Path

from harness.hardware.cores import confined, partition


def machine(root: Path, *, nodes: int, cores_a_node: int) -> list[int]:
    """A fake /sys: two threads a core, siblings half the machine apart."""
    physical = nodes * cores_a_node
    for core in range(2 * physical):
        folder = root / f"sys/devices/system/cpu/cpu{core}"
        (folder / "topology").mkdir(parents=True)
        (folder / f"node{core % physical // cores_a_node}").mkdir()
        first = core % physical
        (folder / "topology/thread_siblings_list").write_text(f"{first},{first + physical}\n")
    return list(range(2 * physical))


def test_whole_physical_cores_of_the_last_node_are_set_apart(tmp_path: Path) -> None:
    usable = machine(tmp_path, nodes=2, cores_a_node=8)
    found = partition(2, usable=usable, root=tmp_path)
    assert not found.shared
    assert found.traffic == (13, 14, 15, 29, 30, 31)
    assert sorted((*found.traffic, *found.rest)) == usable


def test_nothing_is_set_apart_where_it_would_take_more_than_a_quarter(tmp_path: Path) -> None:
    usable = machine(tmp_path, nodes=1, cores_a_node=4)
    found = partition(1, usable=usable, root=tmp_path)
    assert found.shared
    assert found.traffic == found.rest == tuple(usable)
    assert "8 cores" in found.note


def test_cores_outside_the_affinity_are_left_alone(tmp_path: Path) -> None:
    usable = machine(tmp_path, nodes=2, cores_a_node=8)[:8]  # one thread of each core of node 0
    found = partition(1, usable=usable, root=tmp_path)
    assert found.traffic == (6, 7)
    assert found.rest == (0, 1, 2, 3, 4, 5)


def test_a_host_that_tells_nothing_has_one_thread_a_core(tmp_path: Path) -> None:
    assert partition(1, usable=range(12), root=tmp_path).traffic == (10, 11)


def test_confined_holds_for_what_is_started_within_and_ends() -> None:
    before = os.sched_getaffinity(0)
    one = {min(before)}
    with confined(one):
        assert os.sched_getaffinity(0) == one
    assert os.sched_getaffinity(0) == before
    with confined(None):
        assert os.sched_getaffinity(0) == before
