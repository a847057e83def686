"""Which cores the load generator gets: its own if there are enough, so that it and the engine do
not compete.
"""

import os
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TRAFFIC_SHARE: Final = 0.25
"""Upper limit of the load generator's share of the physical cores. Above it, cores are shared."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Logical cores of the load generator and of everything else.

    Attributes:
        traffic: for the Locust processes and the canary's server.
        rest: for the engine (in a calibration: the reference server).
        shared: both use the same cores.
    """

    traffic: tuple[int, ...]
    rest: tuple[int, ...]
    shared: bool
    note: str


def partition(
    workers: int, *, usable: Collection[int] | None = None, root: Path = Path("/")
) -> Partition:
    """Reserve physical cores with all their threads: one per worker and one for what they share,
    from the end of the last NUMA node.

    Args:
        workers: Locust workers.
        usable: logical cores; default: this process's affinity.
        root: where `sys` is.
    """
    cores = sorted(os.sched_getaffinity(0) if usable is None else usable)
    physical = defaultdict(list)
    for core in cores:
        physical[_place(core, root)].append(core)
    needed = workers + 1
    if needed > len(physical) * TRAFFIC_SHARE:
        note = (
            f"load generator and server share {len(cores)} cores: {needed} are more than a quarter"
            f" of {len(physical)} physical cores"
        )
        return Partition(tuple(cores), tuple(cores), shared=True, note=note)
    own = {core for place in sorted(physical)[-needed:] for core in physical[place]}
    rest = tuple(core for core in cores if core not in own)
    note = f"{len(own)} logical cores for the load generator, {len(rest)} for the server"
    return Partition(tuple(sorted(own)), rest, shared=False, note=note)


@contextmanager
def confined(cores: Collection[int] | None) -> Iterator[None]:
    """Within the block, processes that this thread starts run on these cores only. None: no
    change.
    """
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _place(core: int, root: Path) -> tuple[int, str]:
    """(NUMA node, first thread of the physical core, padded so that text sorts as numbers)."""
    folder = root / f"sys/devices/system/cpu/cpu{core}"
    node = next((int(path.name[4:]) for path in folder.glob("node[0-9]*")), 0)
    try:
        siblings = (folder / "topology/thread_siblings_list").read_text(encoding="ascii").strip()
    except OSError:
        siblings = str(core)
    return node, siblings.replace("-", ",").split(",")[0].rjust(6)
