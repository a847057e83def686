"""Published factors between power boundaries: what a host adds to its boards, a network to its
servers, a building to its IT.

A run that measured only some boundaries models the others with these; each carries its source, and
none replaces a measurement. `harness fleet` has the same numbers, with more of them, in its data; a
test holds the two together.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class PublishedFactor:
    """A number somebody published, with the range that it is believed to lie in.

    Attributes:
        value: central value.
        low: lower end.
        high: upper end.
        source: who says so.
        date: when, YYYY-MM.
    """

    value: float
    low: float
    high: float
    source: str
    date: str

    def cite(self) -> str:
        """Source and date."""
        return f"{self.source} ({self.date})"


HOST_POWER_SHARE: Final = PublishedFactor(
    0.7,
    0.4,
    0.9,
    "published for whole nodes (0.7 of the rated power, P5-P95 0.4-0.9; Energy Use of AI Inference,"
    " arXiv 2509.20241), applied to the host's part",
    "2025-09",
)
"""Power of a host over its rated power."""

NETWORK_STORAGE_RATIO: Final = PublishedFactor(
    0.10,
    0.05,
    0.15,
    "SemiAnalysis, 100,000 H100 Clusters: about 10 % more for storage, switches and optics; the"
    " range is an assumption of this harness",
    "2024-06",
)
"""Power of storage, switches and optics over that of servers."""

PUE: Final = PublishedFactor(
    1.225,
    1.05,
    1.40,
    "range of Energy Use of AI Inference (arXiv 2509.20241); used where a site states none",
    "2025-09",
)
"""Power at the utility's meter over that of the IT."""

_H100_HOST: Final = "SemiAnalysis, 100,000 H100 Clusters: about 575 W of CPU, NIC and PSU a GPU"
_REGISTRY: Final = "InferenceX, registry of hardware"

HOST_RATED_W: Final[Mapping[str, PublishedFactor]] = {
    "NVIDIA H100 (80GB HBM3|SXM.*)": PublishedFactor(575, 575, 575, _H100_HOST, "2024-06"),
    "NVIDIA H200( SXM.*)?": PublishedFactor(
        575, 575, 575, f"that of the H100, whose 8-GPU system it shares ({_H100_HOST})", "2024-06"
    ),
    "NVIDIA B200( SXM.*)?": PublishedFactor(
        787.5, 787.5, 787.5, "NVIDIA DGX B200, 14.3 kW at most, less 8 x 1,000 W, over 8", "2024-03"
    ),
    "NVIDIA GB200.*": PublishedFactor(
        670, 670, 670, f"{_REGISTRY}: all-in 1.87 kW less TDP 1.2 kW", "2026-07"
    ),
    "NVIDIA B300.*": PublishedFactor(
        700, 700, 700, f"{_REGISTRY}: all-in 1.90 kW less TDP 1.2 kW", "2026-07"
    ),
    "NVIDIA GB300.*": PublishedFactor(
        720, 720, 720, f"{_REGISTRY}: all-in 2.12 kW less TDP 1.4 kW", "2026-07"
    ),
    "AMD Instinct MI300X.*": PublishedFactor(
        640, 640, 640, f"{_REGISTRY}: all-in 1.39 kW less TDP 0.75 kW", "2026-07"
    ),
}
"""Rated watts of a system less its boards, a GPU, by the pattern of the whole name that the driver
gives the board.
"""


def host_rated_w(nvml_name: str | None) -> PublishedFactor | None:
    """Rated watts of the host for each board of this name; None where nobody published them."""
    return next(
        (
            factor
            for pattern, factor in HOST_RATED_W.items()
            if nvml_name and re.fullmatch(pattern, nvml_name)
        ),
        None,
    )
