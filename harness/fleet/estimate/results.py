"""Parts of an estimate, all convertible to JSON: results, waterfall steps, factors, swings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from typing_extensions import TypedDict

from harness.artifacts.typed_json import json_of, to_json
from harness.core.records import Basis, Status
from harness.core.units import human_number
from harness.fleet.site.types import Site

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Work:
    """The work of a run. Estimates do not scale across these keys. None: not recorded.

    Attributes:
        precision: of the weights, as named by the server or the model.
        context_tok: mean length of input and output together.
        kv_bytes_per_tok: KV cache of one token.
        kv: text: most contexts that fit in a GPU's memory.
    """

    model: str | None = None
    precision: str | None = None
    workload: str | None = None
    api: str | None = None
    context_tok: float | None = None
    mean_input_tok: float | None = None
    mean_output_tok: float | None = None
    kv_bytes_per_tok: float | None = None
    parameters: float | None = None
    kv: str | None = None


@dataclass(frozen=True, slots=True)
class AsOf:
    """The day of an estimate, and a text on its source."""

    day: date
    source: str

    def within(self, day_or_month: str) -> str:
        """The day or its month, in the same form as another, for comparison as text."""
        return self.day.isoformat()[: len(day_or_month)]

    def text(self) -> str:
        return f"{self.day.isoformat()} ({self.source})"


@dataclass(frozen=True, slots=True)
class Stated:
    """Stated inputs, which are not drawn; None: not stated.

    Attributes:
        gpus: GPUs that are scaled.
        cap_mw: their part of the site's power.
        usd_per_h: their part of the site's price.
        tok_s_per_session: of the run.
        demand_tok_s: at peak.
    """

    gpus: float
    cap_mw: float | None
    usd_per_h: float | None
    tok_s_per_session: float | None
    demand_tok_s: float | None


@dataclass(frozen=True, slots=True)
class FleetFigure:
    """One result.

    Attributes:
        key: its suffix is the unit.
        value: with every factor at its central value; None when absent.
        p5: P5 of the draws, as p50 and p95; None for arithmetic on stated numbers only.
        basis: `modelled` if it depends on a prior or a published constant.
        boundary: scope of the value.
        assumptions: its inputs, with source and date.
        note: why it is absent, or an explanation.
    """

    key: Annotated[str, Field(exclude=True)]
    title: str
    unit: str
    value: float | None
    p5: float | None = None
    p50: float | None = None
    p95: float | None = None
    basis: Basis = Basis.MODELLED
    boundary: str = "deployment"
    assumptions: tuple[str, ...] = ()
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One step from the measured value to the site's.

    Attributes:
        part: `tokens` or `power`.
        operation: `=`, `x` or `+`.
        factor: multiplied or added, by `operation`; basis, source, p5 and p95 (None without
            spread) describe it.
        result: after the step, in `unit`.
    """

    part: str
    label: str
    operation: str
    factor: float
    p5: float | None
    p95: float | None
    result: float
    unit: str
    basis: Basis
    source: str


@dataclass(frozen=True, slots=True)
class Factor:
    """One uncertain input.

    Attributes:
        value: central.
        draws: around it; constant for an input without spread.
        source: text with its date.
    """

    key: str
    title: str
    unit: str
    value: float
    draws: Floats
    basis: Basis
    source: str

    @property
    def spread(self) -> bool:
        return bool(self.draws[0] != self.draws[-1] or np.ptp(self.draws) > 0)

    def ends(self) -> tuple[float, float]:
        low, high = np.quantile(self.draws, (0.05, 0.95))
        return float(low), float(high)

    def text(self) -> str:
        low, high = self.ends()
        span = f" ({human_number(low)} to {human_number(high)}, P5 to P95)" if self.spread else ""
        return f"{self.title}: {human_number(self.value)}{span}; {self.source}"

    def to_dict(self) -> "FactorJson":
        low, high = self.ends()
        return {
            "title": self.title,
            "unit": self.unit,
            "value": self.value,
            "p5": low,
            "p95": high,
            "spread": self.spread,
            "basis": self.basis,
            "source": self.source,
        }


@dataclass(frozen=True, slots=True)
class Swing:
    """Effect of one factor on one result: the result with the factor at its P5 and P95 and all
    others central.
    """

    figure: str
    factor: str
    title: str
    at_p5: float
    at_p95: float

    @property
    def width(self) -> float:
        return abs(self.at_p95 - self.at_p5)


@dataclass(frozen=True, slots=True)
class FleetEstimate:
    """A site's results for the measured work.

    Attributes:
        status: the run's verdict; unless valid, every result is marked.
        as_of: the day of the estimate, which is compared with the site's term.
        gpu: type of the site's GPUs.
        binding: `power`, `count` or `unknown`: the site's limit at central values.
        flags: red flags; to be read before the results.
        contradictions: published values of the site that disagree.
        factors: every input of the model by key.
        tornado: swings, widest first for each result.
        central: every output of the model at central values, by key.
        peak_draws: output tokens per second at peak, one value per draw.
        demonstration: the run's GPUs are a test double, so that no result applies to real hardware.
        measured_gpu: type of the run's GPUs; differs from `gpu` if a ratio between them is modeled.
    """

    run_id: str
    run: str
    run_name: str
    status: Status
    as_of: AsOf
    site: Site
    gpu: str
    work: Work
    figures: tuple[FleetFigure, ...]
    waterfall: tuple[Step, ...]
    binding: str
    flags: tuple[str, ...]
    contradictions: tuple[str, ...]
    draws: int
    seed: int
    stated: Stated
    factors: Mapping[str, Factor] = field(default_factory=dict)
    tornado: tuple[Swing, ...] = ()
    central: Mapping[str, float] = field(default_factory=dict)
    peak_draws: Floats = field(default_factory=lambda: np.zeros(0))
    demonstration: bool = False
    measured_gpu: str = ""

    def figure(self, key: str) -> FleetFigure:
        return next(figure for figure in self.figures if figure.key == key)

    def to_dict(self) -> "EstimateJson":
        return {
            "schema_version": 1,
            "run_id": self.run_id,
            "run": self.run,
            "run_name": self.run_name,
            "run_status": self.status,
            "as_of": self.as_of.day.isoformat(),
            "demonstration": self.demonstration,
            "site": {**self.site.to_dict(), "contradictions": list(self.contradictions)},
            "gpu": self.gpu,
            "measured_gpu": self.measured_gpu,
            "work": {
                key: value
                for key, value in to_json(self.work).items()
                if key != "kv" or value is not None
            },
            "binding": self.binding,
            "figures": {figure.key: to_json(figure) for figure in self.figures},
            "waterfall": [to_json(step) for step in self.waterfall],
            "factors": {key: factor.to_dict() for key, factor in self.factors.items()},
            "tornado": [to_json(swing) for swing in self.tornado],
            "flags": list(self.flags),
            "contradictions": list(self.contradictions),
            "assumptions": list(self.assumptions()),
            "draws": self.draws,
            "seed": self.seed,
        }

    def assumptions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(text for figure in self.figures for text in figure.assumptions))


class FactorJson(TypedDict):
    """A factor in fleet.json."""

    title: str
    unit: str
    value: float
    p5: float
    p95: float
    spread: bool
    basis: Basis
    source: str


class EstimateJson(TypedDict):
    """An estimate in fleet.json."""

    schema_version: int
    run_id: str
    run: str
    run_name: str
    run_status: Status
    as_of: str
    demonstration: bool
    site: Annotated[Any, json_of(Site)]
    gpu: str
    measured_gpu: str
    work: Annotated[Any, json_of(Work)]
    binding: str
    figures: dict[str, Annotated[Any, json_of(FleetFigure)]]
    waterfall: list[Annotated[Any, json_of(Step)]]
    factors: dict[str, FactorJson]
    tornado: list[Annotated[Any, json_of(Swing)]]
    flags: list[str]
    contradictions: list[str]
    assumptions: list[str]
    draws: int
    seed: int
