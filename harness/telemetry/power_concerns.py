"""What the power sources' probes mean for a run."""

from collections.abc import Iterator, Sequence
from typing import Any

from harness.core.records import Boundary, Concern, Gpu, Severity
from harness.hardware.gpus import simulated_by
from harness.profile.telemetry import Telemetry

Probe = dict[str, Any]
"""`source`, `devices`, `why_not`, `origin`, `double` (`harness.telemetry.sampling`)."""


def power_concerns(
    settings: Telemetry, gpus: Sequence[Gpu], probes: Sequence[Probe], double_severity: Severity
) -> Iterator[Concern]:
    """Simulated hardware, and sources that the profile names but that provide nothing."""
    simulated = simulated_by(gpus)
    if simulated and not any(probe["double"] for probe in probes if probe["source"] == "nvml"):
        text = f"The deployment's GPUs are simulated: {simulated}."
        yield Concern("double_hardware", double_severity, text)
    for probe in probes:
        if probe["double"] is not None:
            text = f"Power readings are simulated, not measured: {probe['double']}."
            yield Concern("double_hardware", double_severity, text)
        if not isinstance(settings.power, str) and not probe["devices"]:
            text = (
                f"telemetry.power names {probe['source']}, which is not available:"
                f" {probe['why_not']}."
            )
            yield Concern("power_source_missing", Severity.DEGRADED, text)


def why_no_gpu_power(gpus: Sequence[Gpu], probes: Sequence[Probe]) -> str | None:
    """Why the deployment's GPU power cannot be read; None if it can."""
    uuids = [gpu.uuid for gpu in gpus]
    devices = [device for probe in probes for device in probe["devices"]]
    found = [device for device in devices if device["boundary"] == Boundary.GPU_BOARD]
    known = {device["device_id"] for device in found if device["power"] or device["energy"]}
    needed = uuids or [device["device_id"] for device in found]
    if needed and known.issuperset(needed):
        return None
    reasons = [one["why_not"] for probe in probes for one in (probe, *probe["devices"])]
    if not uuids:
        reasons.insert(0, "the deployment has no GPU on this machine")
    if not probes:
        reasons.append("telemetry.power names no source")
    return "; ".join(reason for reason in reasons if reason)
