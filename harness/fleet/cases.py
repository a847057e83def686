"""Results of `harness fleet`: estimates for runs at sites, and refusals."""

from dataclasses import asdict, dataclass
from typing import Any

from harness.artifacts.typed_json import to_json
from harness.fleet.estimate.results import FleetEstimate
from harness.fleet.over_time.forecast import Forecast


@dataclass(frozen=True, slots=True)
class Case:
    """One run at one site, over time if requested."""

    estimate: FleetEstimate
    forecast: Forecast | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Reason why one run cannot be scaled to one site."""

    run: str
    site: str
    why: str


@dataclass(frozen=True, slots=True)
class FleetAnswer:
    """Estimates, at least one, and refusals."""

    cases: tuple[Case, ...]
    refused: tuple[Refusal, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """fleet.json."""
        return {
            "schema_version": 1,
            "cases": [
                {
                    "estimate": case.estimate.to_dict(),
                    "forecast": to_json(case.forecast) if case.forecast is not None else None,
                }
                for case in self.cases
            ],
            "refused": [asdict(item) for item in self.refused],
        }
