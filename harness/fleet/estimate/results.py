"""What an estimate consists of: figures, the waterfall's steps, factors and their swings. All of it
turns into JSON.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from harness.artifacts.typed_json import to_json
from harness.core.records import Basis, Status
from harness.core.units import human_number
from harness.fleet.site.types import Site

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Work:
    """What a run measured: the keys across which nothing is scaled. None is not recorded.

    Attributes:
        precision: of the weights, as the server or the model names it.
        context_tok: mean length of input and output together.
        kv_bytes_per_tok: key and value cache of one token.
        kv: how many contexts a board's memory could hold at most, in words.
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
    """The day for which an answer holds, and where it is from, in words."""

    day: date
    source: str

    def within(self, day_or_month: str) -> str:
        """The day or its month, in the form of another one, so that the two compare as text."""
        return self.day.isoformat()[: len(day_or_month)]

    def text(self) -> str:
        """In words."""
        return f"{self.day.isoformat()} ({self.source})"


@dataclass(frozen=True, slots=True)
class Stated:
    """What is stated and not drawn; None where it is not.

    Attributes:
        gpus: that are scaled.
        cap_mw: of the site's power that is theirs.
        usd_per_h: of the site's price that is theirs.
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
    """One answer.

    Attributes:
        key: its name; the suffix is the unit.
        value: with every factor at its central value; None when absent.
        p5: P5 of the draws; None for plain arithmetic on stated numbers.
        p50: their median.
        p95: P95.
        basis: modelled whenever a prior or a published constant is in it.
        boundary: what it is taken over.
        assumptions: what it stands on, with source and date.
        note: why it is absent, or what it is.
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
    """One factor between the measured number and the site's.

    Attributes:
        part: `tokens` or `power`.
        label: what is done.
        factor: multiplied (or, where `operation` is +, added) by this.
        operation: `=`, `x` or `+`.
        result: after it.
        unit: of the result.
        basis: of the factor.
        source: of the factor.
        p5: of the factor; None where it has no spread.
        p95: of the factor.
    """

    part: str
    label: str
    operation: str
    factor: float
    result: float
    unit: str
    basis: Basis
    source: str
    p5: float | None = None
    p95: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "part": self.part,
            "label": self.label,
            "operation": self.operation,
            "factor": self.factor,
            "p5": self.p5,
            "p95": self.p95,
            "result": self.result,
            "unit": self.unit,
            "basis": str(self.basis),
            "source": self.source,
        }


@dataclass(frozen=True, slots=True)
class Factor:
    """One uncertain input.

    Attributes:
        value: central.
        draws: around it; all alike for an input without spread.
        source: with its date, in words.
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
        """Whether it varies."""
        return bool(self.draws[0] != self.draws[-1] or np.ptp(self.draws) > 0)

    def ends(self) -> tuple[float, float]:
        """P5 and P95."""
        low, high = np.quantile(self.draws, (0.05, 0.95))
        return float(low), float(high)

    def text(self) -> str:
        """In words, with the range where there is one."""
        low, high = self.ends()
        span = f" ({human_number(low)} to {human_number(high)}, P5 to P95)" if self.spread else ""
        return f"{self.title}: {human_number(self.value)}{span}; {self.source}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without the draws."""
        low, high = self.ends()
        return {
            "title": self.title,
            "unit": self.unit,
            "value": self.value,
            "p5": low,
            "p95": high,
            "spread": self.spread,
            "basis": str(self.basis),
            "source": self.source,
        }


@dataclass(frozen=True, slots=True)
class Swing:
    """How far one factor moves one answer: the answer with that factor at its P5 and its P95, all
    others central.
    """

    figure: str
    factor: str
    title: str
    at_p5: float
    at_p95: float

    @property
    def width(self) -> float:
        """Distance of the ends."""
        return abs(self.at_p95 - self.at_p5)


@dataclass(frozen=True, slots=True)
class FleetEstimate:
    """What a site would do with the measured work.

    Attributes:
        status: the run's verdict; anything but valid marks every figure.
        as_of: the day for which it holds: what of the site's term is over or yet to come.
        gpu: type of the site's GPUs.
        work: what was measured: model, precision, workload, lengths.
        binding: `power`, `count` or `unknown`: what limits the site at central values.
        flags: red flags; read them before the figures.
        contradictions: where published figures of the site disagree.
        factors: every input of the model by key.
        tornado: swings, widest first within each figure.
        central: every output of the model at central values, by key.
        peak_draws: output tokens per second at peak, one of each draw.
        demonstration: the run's boards are a test double: no figure says anything about real
            hardware.
        measured_gpu: type of the run's GPUs; other than `gpu` where a modelled step lies between
            them.
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
        """One figure by its key."""
        return next(figure for figure in self.figures if figure.key == key)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "schema_version": 1,
            "run_id": self.run_id,
            "run": self.run,
            "run_name": self.run_name,
            "run_status": str(self.status),
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
            "waterfall": [step.to_dict() for step in self.waterfall],
            "factors": {key: factor.to_dict() for key, factor in self.factors.items()},
            "tornado": [to_json(swing) for swing in self.tornado],
            "flags": list(self.flags),
            "contradictions": list(self.contradictions),
            "assumptions": list(self.assumptions()),
            "draws": self.draws,
            "seed": self.seed,
        }

    def assumptions(self) -> tuple[str, ...]:
        """Every assumption that any figure stands on, once."""
        return tuple(dict.fromkeys(text for figure in self.figures for text in figure.assumptions))
