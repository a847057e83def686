"""Price and power of a number of GPUs."""

from typing import Final

HOURS_PER_MONTH: Final = 730.5
"""365.25 days / 12, in hours."""


def usd_per_gpu_h(usd_per_month: float, gpus: float) -> float:
    """Price of a GPU-hour that a monthly price for a number of GPUs implies."""
    return usd_per_month / gpus / HOURS_PER_MONTH


def site_mw(gpus: float, kw_per_gpu: float) -> float:
    """Megawatts of a number of GPUs."""
    return gpus * kw_per_gpu / 1000


def gpus_within(power_mw: float, kw_per_gpu: float) -> int:
    """Whole GPUs that a power supports."""
    return int(power_mw * 1000 / kw_per_gpu)
