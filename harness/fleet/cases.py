"""Results of `harness fleet`: estimates for runs at sites, and refusals."""

from dataclasses import dataclass
from typing import Annotated, Any

from typing_extensions import TypedDict

from harness.artifacts.typed_json import json_of, to_json
from harness.fleet.estimate.results import EstimateJson, FleetEstimate
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

    def to_dict(self) -> "FleetJson":
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
            "refused": [to_json(item) for item in self.refused],
        }


class CaseJson(TypedDict):
    """A case in fleet.json."""

    estimate: EstimateJson
    forecast: Annotated[Any, json_of(Forecast | None)]


class FleetJson(TypedDict):
    """fleet.json."""

    schema_version: int
    cases: list[CaseJson]
    refused: list[Annotated[Any, json_of(Refusal)]]
