"""The grammar of `thresholds`: `METRIC[@BOUNDARY][.STATISTIC] OPERATOR NUMBER[UNIT]`, such as `ttft_s.p99 < 1.5` or `output_tok_s >= 1.2k`.

Metrics are those of `harness.core.metrics`: distributions need a statistic, single values take none. Here text becomes a `Threshold`;
whether a result meets it is decided on the reading side.
"""

import difflib
import math
import re
from dataclasses import dataclass
from typing import Final, Literal, cast

from harness.core.metrics import METRICS, MetricDef
from harness.core.records import Boundary
from harness.core.units import COUNT, parse_duration_s

Operator = Literal["<", "<=", ">", ">="]

STATISTICS: Final = ("mean", "p50", "p90", "p95", "p99", "p999", "max")
"""Statistics of a distribution, as `summary.json` names them under `latency`."""
_GRAMMAR: Final = re.compile(
    r"\s*(?P<metric>[A-Za-z][A-Za-z0-9_]*)(?:@(?P<boundary>[a-z_]+))?(?:\.(?P<statistic>[a-z0-9]+))?\s*(?P<operator><=|>=|==|!=|=<|=>|<|>|=)\s*"
    r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(?P<unit>%|[A-Za-z]*)\s*"
)
_LONGEST: Final = 200


@dataclass(frozen=True, slots=True)
class Threshold:
    """One condition on a result.

    Attributes:
        text: as it was written.
        metric: a key of `harness.core.metrics.METRICS`.
        boundary: a power boundary other than the summary's first, else None; the summary then has the figure under `metric@boundary`.
        statistic: one of `STATISTICS` for a distribution, else None.
        operator: how the result is held against the limit.
        limit: in the metric's own unit (seconds for `_s`).
    """

    text: str
    metric: str
    boundary: str | None
    statistic: str | None
    operator: Operator
    limit: float

    def met_by(self, value: float) -> bool:
        """Whether a value satisfies the condition. A value that is absent satisfies none: that is for the caller to say."""
        match self.operator:
            case "<":
                return value < self.limit
            case "<=":
                return value <= self.limit
            case ">":
                return value > self.limit
            case ">=":
                return value >= self.limit


def parse_threshold(text: str) -> Threshold:
    """Read one threshold.

    Raises:
        ValueError: not in the grammar, an unknown statistic, a missing one, or a unit that does not fit the metric.
    """
    match = _GRAMMAR.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise ValueError(f"{text[:_LONGEST]!r} is not METRIC[.STATISTIC] OPERATOR NUMBER[UNIT]; write for example 'ttft_s.p99 < 1.5'")
    definition = _metric(match["metric"])
    boundary, statistic, operator = match["boundary"], match["statistic"], match["operator"]
    if operator not in {"<", "<=", ">", ">="}:
        raise ValueError(f"{operator!r} is not an operator of a threshold; use one of: <, <=, >, >=")
    if boundary is not None and (definition.boundary != "power" or boundary not in set(Boundary)):
        raise ValueError(f"{definition.key} has no boundary {boundary!r}; power and energy have: {', '.join(Boundary)}")
    _check_statistic(definition, statistic)
    limit = _limit(definition, match["number"], match["unit"])
    return Threshold(text.strip(), definition.key, boundary, statistic, cast("Operator", operator), limit)


def _metric(name: str) -> MetricDef:
    if name in METRICS:
        return METRICS[name]
    near = difflib.get_close_matches(name, METRICS, n=3, cutoff=0.5)
    raise ValueError(
        f"there is no metric {name!r}; did you mean {' or '.join(near)}?"
        if near
        else f"there is no metric {name!r}; metrics: {', '.join(METRICS)}"
    )


def _check_statistic(definition: MetricDef, statistic: str | None) -> None:
    if definition.kind == "value":
        if statistic is not None:
            raise ValueError(f"{definition.key} is one value and has no statistic {statistic!r}; write {definition.key!r} alone")
    elif statistic is None:
        raise ValueError(f"{definition.key} is a distribution; name a statistic, as in {definition.key + '.p99'!r}")
    elif statistic not in STATISTICS:
        near = difflib.get_close_matches(statistic, STATISTICS, n=1)
        raise ValueError(
            f"{statistic!r} is not a statistic; {f'did you mean {near[0]}? ' if near else ''}Use one of: {', '.join(STATISTICS)}"
        )


def _limit(definition: MetricDef, number: str, unit: str) -> float:
    if unit == "":
        limit = float(number)
    elif definition.unit == "s":
        limit = parse_duration_s(number + unit)
    elif unit == "%" and definition.unit == "1":
        limit = float(number) / 100
    elif unit in COUNT and definition.unit != "1":
        limit = float(number) * COUNT[unit]
    else:
        raise ValueError(f"{unit!r} does not fit {definition.key}, which is in {definition.unit}; write the bare number in that unit")
    if not math.isfinite(limit):
        raise ValueError("the limit must be finite")
    return limit
