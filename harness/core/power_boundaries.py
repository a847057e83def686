"""Published factors between power boundaries: host over GPUs, network over servers, facility over
IT.

They model the boundaries that a run did not measure and never replace a measurement. The data of
`harness fleet` has the same numbers and more; a test compares the two.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class PublishedFactor:
    """A published number with its plausible range, source and date (YYYY-MM)."""

    value: float
    low: float
    high: float
    source: str
    date: str

    def cite(self) -> str:
        return f"{self.source} ({self.date})"


HOST_POWER_SHARE: Final = PublishedFactor(
    0.7,
    0.4,
    0.9,
    "published for whole nodes (0.7 of the rated power, P5-P95 0.4-0.9; Energy Use of AI Inference,"
    " arXiv 2509.20241), applied to the host's part",
    "2025-09",
)
"""A host's power / its rated power."""

NETWORK_STORAGE_RATIO: Final = PublishedFactor(
    0.10,
    0.05,
    0.15,
    "SemiAnalysis, 100,000 H100 Clusters: about 10% more for storage, switches and optics; the"
    " range is an assumption of this harness",
    "2024-06",
)
"""Power of storage, switches and optics / power of servers."""

PUE: Final = PublishedFactor(
    1.225,
    1.05,
    1.40,
    "range of Energy Use of AI Inference (arXiv 2509.20241); used if a site states none",
    "2025-09",
)
"""Power at the utility meter / power of the IT load."""

_H100_HOST: Final = "SemiAnalysis, 100,000 H100 Clusters: about 575 W of CPU, NIC and PSU per GPU"
_REGISTRY: Final = "InferenceX, registry of hardware"


def _exactly(value: float, source: str, date: str) -> PublishedFactor:
    return PublishedFactor(value, value, value, source, date)


HOST_RATED_W: Final[Mapping[str, PublishedFactor]] = {
    "NVIDIA H100 (80GB HBM3|SXM.*)": _exactly(575, _H100_HOST, "2024-06"),
    "NVIDIA H200( SXM.*)?": _exactly(
        575, f"that of the H100, whose 8-GPU system it shares ({_H100_HOST})", "2024-06"
    ),
    "NVIDIA B200( SXM.*)?": _exactly(
        787.5, "NVIDIA DGX B200, 14.3 kW at most, less 8 x 1,000 W, over 8", "2024-03"
    ),
    "NVIDIA GB200.*": _exactly(670, f"{_REGISTRY}: all-in 1.87 kW less TDP 1.2 kW", "2026-07"),
    "NVIDIA B300.*": _exactly(700, f"{_REGISTRY}: all-in 1.90 kW less TDP 1.2 kW", "2026-07"),
    "NVIDIA GB300.*": _exactly(720, f"{_REGISTRY}: all-in 2.12 kW less TDP 1.4 kW", "2026-07"),
    "AMD Instinct MI300X.*": _exactly(
        640, f"{_REGISTRY}: all-in 1.39 kW less TDP 0.75 kW", "2026-07"
    ),
}
"""Rated watts of a system without its GPUs, per GPU, by a pattern of the driver's full GPU name."""


def host_rated_w(nvml_name: str | None) -> PublishedFactor | None:
    """Rated watts of the host per GPU of this name; None if none are published."""
    for pattern, factor in HOST_RATED_W.items():
        if nvml_name and re.fullmatch(pattern, nvml_name):
            return factor
    return None
