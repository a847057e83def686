"""The sources that a profile's `telemetry.power` names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from harness.core.network import Network
from harness.core.records import Boundary
from harness.telemetry.sources.base import PowerSource
from harness.telemetry.sources.csvfile import CsvPowerSource
from harness.telemetry.sources.dcgm import URL, DcgmPowerSource
from harness.telemetry.sources.ipmi import IpmiPowerSource
from harness.telemetry.sources.modelled import ModelledPowerSource
from harness.telemetry.sources.nvml import NvmlPowerSource
from harness.telemetry.sources.promql import PromqlPowerSource
from harness.telemetry.sources.rapl import RaplPowerSource
from harness.telemetry.sources.redfish import RedfishPowerSource
from harness.telemetry.sources.replay import ReplayPowerSource

Spec = Mapping[str, Any]
"""One entry of `telemetry.power`, as JSON."""


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What sources need besides their own settings; the intervals are for GPU power and energy
    counters.
    """

    gpu_uuids: tuple[str, ...] = ()
    power_interval_s: float = 0.1
    energy_interval_s: float = 1.0
    network: Network | None = None


def specs_of(power: str | Sequence[Spec], gpu_uuids: Sequence[str]) -> tuple[Spec, ...]:
    """The selected sources; `auto` is NVML if there are GPUs, and RAPL, whose probe shows if it is
    readable.
    """
    if power == "none":
        return ()
    if isinstance(power, str):
        return ({"kind": "nvml"}, {"kind": "rapl"}) if gpu_uuids else ({"kind": "rapl"},)
    return tuple(power)


def make_source(spec: Spec, around: SourceContext) -> PowerSource:
    """One source, not yet probed."""
    options = {key: value for key, value in spec.items() if key != "kind"}
    if "boundary" in options:
        options["boundary"] = Boundary(options["boundary"])
    for key in ("path", "root"):
        if key in options:
            options[key] = Path(options[key])
    return _MAKERS[spec["kind"]](options, around)


def _nvml(_options: dict[str, Any], around: SourceContext) -> PowerSource:
    return NvmlPowerSource(
        around.gpu_uuids,
        power_interval_s=around.power_interval_s,
        energy_interval_s=around.energy_interval_s,
    )


def _dcgm(options: dict[str, Any], around: SourceContext) -> PowerSource:
    uuids = options.pop("gpus", ()) or around.gpu_uuids
    return DcgmPowerSource(options.pop("url", URL), uuids, network=around.network, **options)


_MAKERS: Final[Mapping[str, Callable[[dict[str, Any], SourceContext], PowerSource]]] = {
    "nvml": _nvml,
    "dcgm": _dcgm,
    "rapl": lambda options, _: RaplPowerSource(**options),
    "ipmi": lambda options, _: IpmiPowerSource(**options),
    "redfish": lambda options, _: RedfishPowerSource(**options),
    "promql": lambda options, around: PromqlPowerSource(network=around.network, **options),
    "csv": lambda options, _: CsvPowerSource(**options),
    "replay": lambda options, around: ReplayPowerSource(
        options["path"], interval_s=around.power_interval_s
    ),
    "modelled": lambda options, around: ModelledPowerSource(uuids=around.gpu_uuids, **options),
}
