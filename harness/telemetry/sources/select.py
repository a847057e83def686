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
from harness.telemetry.sources.rapl import ROOT, RaplPowerSource
from harness.telemetry.sources.redfish import RedfishPowerSource
from harness.telemetry.sources.replay import ReplayPowerSource

Spec = Mapping[str, Any]
"""One entry of `telemetry.power`, as JSON."""


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What sources need besides their own settings.

    Attributes:
        gpu_uuids: the deployment's boards on this machine.
        power_interval_s: between two readings of boards' power.
        energy_interval_s: between two readings of boards' counters.
        network: certificates to trust.
    """

    gpu_uuids: tuple[str, ...] = ()
    power_interval_s: float = 0.1
    energy_interval_s: float = 1.0
    network: Network | None = None


def specs_of(power: str | Sequence[Spec], gpu_uuids: Sequence[str]) -> tuple[Spec, ...]:
    """The sources that are meant: `auto` is NVML where there are boards, and RAPL, whose probe says
    whether it can be read.
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


def _rapl(options: dict[str, Any], _around: SourceContext) -> PowerSource:
    return RaplPowerSource(Path(options.pop("root", ROOT)), **options)


def _promql(options: dict[str, Any], around: SourceContext) -> PowerSource:
    return PromqlPowerSource(
        options.pop("url"), options.pop("query"), network=around.network, **options
    )


def _replay(options: dict[str, Any], around: SourceContext) -> PowerSource:
    return ReplayPowerSource(Path(options["path"]), interval_s=around.power_interval_s)


_MAKERS: Final[Mapping[str, Callable[[dict[str, Any], SourceContext], PowerSource]]] = {
    "nvml": _nvml,
    "dcgm": _dcgm,
    "rapl": _rapl,
    "ipmi": lambda options, _: IpmiPowerSource(**options),
    "redfish": lambda options, _: RedfishPowerSource(options.pop("url"), **options),
    "promql": _promql,
    "csv": lambda options, _: CsvPowerSource(Path(options.pop("path")), **options),
    "replay": _replay,
    "modelled": lambda options, around: ModelledPowerSource(
        options.pop("of"), uuids=around.gpu_uuids, **options
    ),
}
