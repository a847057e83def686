"""Which GPUs must be read for a sum over them to be the deployment's."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePath

from harness.reduce.read.run import Run, gpu_count, gpu_uuids


@dataclass(frozen=True, slots=True)
class ExpectedGpus:
    """GPUs of the deployment.

    Attributes:
        uuids: those that are known by name; others are then not the deployment's.
        count: all of them; None if unknown.
        whole_meters: devices of meters that tell no GPUs apart: each covers the deployment.
    """

    uuids: Collection[str] = ()
    count: int | None = None
    whole_meters: Collection[str] = ()

    def mine(self, found: Collection[str]) -> list[str]:
        """Those of the devices found that are the deployment's."""
        return sorted(one for one in found if not self.uuids or one in self.uuids)

    def why_not(self, mine: Collection[str]) -> str | None:
        """Why a sum over these devices is not the deployment's; None where it is."""
        missing = sorted(set(self.uuids) - set(mine))
        if missing:
            return f"no power of {', '.join(missing)}"
        if self.count is None or len(mine) == self.count:
            return None
        if len(mine) > self.count and self.uuids:
            return None
        if len(mine) == 1 and set(mine) <= set(self.whole_meters):
            return None
        names = ", ".join(sorted(mine))
        return f"{self.count} GPUs were expected and {len(mine)} were found: {names}"


def expected_gpus(run: Run) -> ExpectedGpus:
    """The deployment's GPUs by the manifest, and the meters that its profile gives for all of them
    at once.
    """
    whole = set()
    for source in run.profile.telemetry.power:
        if source.kind == "promql" and not source.device_label:
            whole.add("meter")  # a series without labels: a sum
        if source.kind == "csv" and not source.device_column:
            whole.add(PurePath(str(source.path)).stem)
    return ExpectedGpus(tuple(gpu_uuids(run)), gpu_count(run), frozenset(whole))
