"""The GPUs that a sum must cover to be the deployment's."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePath

from harness.reduce.read.run import Run, gpu_count, gpu_uuids


@dataclass(frozen=True, slots=True)
class ExpectedGpus:
    """GPUs of the deployment.

    Attributes:
        uuids: if known; other GPUs are then not the deployment's.
        count: None if unknown.
        whole_meters: devices of meters that do not distinguish GPUs: each covers the deployment.
    """

    uuids: Collection[str] = ()
    count: int | None = None
    whole_meters: Collection[str] = ()

    def mine(self, found: Collection[str]) -> list[str]:
        """The devices that belong to the deployment, sorted."""
        return sorted(one for one in found if not self.uuids or one in self.uuids)

    def why_not(self, mine: Collection[str]) -> str | None:
        """Why a sum over these devices is not the deployment's, or None."""
        missing = sorted(set(self.uuids) - set(mine))
        if missing:
            return f"no power readings of {', '.join(missing)}"
        if self.count is None or len(mine) == self.count:
            return None
        if len(mine) > self.count and self.uuids:
            return None
        if len(mine) == 1 and set(mine) <= set(self.whole_meters):
            return None
        return f"expected {self.count} GPUs, found {len(mine)}: {', '.join(sorted(mine))}"


def expected_gpus(run: Run) -> ExpectedGpus:
    """From the manifest; the profile's power sources give the meters of the whole deployment."""
    whole = set()
    power = run.profile.telemetry.power
    for source in power if isinstance(power, tuple) else ():
        if source.kind == "promql" and not source.device_label:
            whole.add("meter")  # a series without labels: a sum
        if source.kind == "csv" and not source.device_column:
            whole.add(PurePath(str(source.path)).stem)
    return ExpectedGpus(tuple(gpu_uuids(run)), gpu_count(run), frozenset(whole))
