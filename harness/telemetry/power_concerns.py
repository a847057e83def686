"""What the probes of the power sources mean for a run."""

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
    """Simulated hardware, and sources that the profile names and that give nothing.

    Args:
        settings: the profile's telemetry.
        gpus: of the deployment on this machine.
        probes: one for each source.
        double_severity: of the concern that power comes from no real hardware.
    """
    boards = simulated_by(gpus)
    if boards is not None and not any(
        probe["double"] for probe in probes if probe["source"] == "nvml"
    ):
        text = f"The deployment's boards are no real hardware: {boards}."
        yield Concern("double_hardware", double_severity, text)
    for probe in probes:
        if probe["double"] is not None:
            text = f"Power comes from no real hardware and measures nothing: {probe['double']}."
            yield Concern("double_hardware", double_severity, text)
        if not isinstance(settings.power, str) and not probe["devices"]:
            text = (
                f"telemetry.power names {probe['source']}, which gives nothing here:"
                f" {probe['why_not']}."
            )
            yield Concern("power_source_missing", Severity.DEGRADED, text)


def why_no_gpu_power(gpus: Sequence[Gpu], probes: Sequence[Probe]) -> str | None:
    """Why the power of the deployment's GPUs cannot be read; None where it can."""
    uuids = [gpu.uuid for gpu in gpus]
    boards = [
        device
        for probe in probes
        for device in probe["devices"]
        if device["boundary"] == Boundary.GPU_BOARD
    ]
    known = {board["device_id"] for board in boards if board["power"] or board["energy"]}
    wanted = uuids or [board["device_id"] for board in boards]
    if wanted and known.issuperset(wanted):
        return None
    reasons = [
        reason
        for probe in probes
        for reason in (probe["why_not"], *(device["why_not"] for device in probe["devices"]))
    ]
    if not uuids:
        reasons.insert(0, "the deployment has no GPU on this machine")
    if not probes:
        reasons.append("telemetry.power names no source")
    return "; ".join(reason for reason in reasons if reason)
