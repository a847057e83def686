"""The arithmetic that published figures are made with. Reproducing them tests the arithmetic, no
more.
"""

from typing import Final

HOURS_PER_MONTH: Final = 730.5
"""365.25 days / 12, in hours."""


def usd_per_gpu_h(usd_per_month: float, gpus: float) -> float:
    """Price of a GPU-hour that a monthly price for a number of GPUs implies."""
    return usd_per_month / gpus / HOURS_PER_MONTH


def usd_per_mtok(usd_per_gpu_h: float, tok_s_per_gpu: float) -> float:
    """Dollars per million tokens at a price of a GPU-hour and a throughput per GPU."""
    return usd_per_gpu_h / (tok_s_per_gpu * 3600 / 1e6)


def tok_s_per_mw(tok_s_per_gpu: float, kw_per_gpu: float) -> float:
    """Tokens per second per megawatt; the boundary is that of the kilowatts."""
    return tok_s_per_gpu * 1000 / kw_per_gpu


def j_per_tok(tok_s_per_gpu: float, kw_per_gpu: float) -> float:
    """Joules per token: an allocation of all power to the tokens counted."""
    return kw_per_gpu * 1000 / tok_s_per_gpu


def site_mw(gpus: float, kw_per_gpu: float) -> float:
    """Megawatts of a number of GPUs."""
    return gpus * kw_per_gpu / 1000


def gpus_within(power_mw: float, kw_per_gpu: float) -> int:
    """Whole GPUs that a power supports."""
    return int(power_mw * 1000 / kw_per_gpu)


def facility_w_per_gpu(board_w: float, host_w: float, network_storage: float, pue: float) -> float:
    """Watts at the utility's meter that one GPU stands for: hosts add to boards, networks and
    storage and then cooling multiply both.
    """
    return (board_w + host_w) * (1 + network_storage) * pue


def tok_s_per_gpu_of_day(tok_per_day: float, gpus: float) -> float:
    """Tokens per second per GPU of a day's tokens over the GPUs that were held on average."""
    return tok_per_day / 86400.0 / gpus


def mwh(power_mw: float, hours: float) -> float:
    """Energy of a constant power."""
    return power_mw * hours


def boundary_ladder(
    accelerator: float, *, host: float, idle: float, pue: float
) -> dict[str, float]:
    """Energy at widening boundaries, in the unit of its parts: active accelerators, with hosts,
    with idle machines, at the meter.
    """
    node = accelerator + host
    fleet = node + idle
    return {"accelerator": accelerator, "node": node, "fleet": fleet, "facility": fleet * pue}
