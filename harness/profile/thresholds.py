"""The grammar of `thresholds`: `[STAGE:] METRIC[@BOUNDARY][.STATISTIC] OPERATOR LIMIT`, such as
`ttft_s.p99 < 1.5`, `c64: output_tok_s >= 1.2k` or `*: error_ratio <= 1%`.

The stage is the name of a load stage, or `*` for every stage; without it, the headline stage.

The limit is a number with a unit, or a share of a baseline:
`output_tok_s_per_gpu >= 0.95 * baseline`, `tpot_s.p50 <= baseline + 5%`. Metrics are those of
`harness.core.metrics`: distributions need a statistic, single values have none. `harness.compare`
evaluates thresholds.

`capacity.TIER >= 8` is on the capacity that a search found at one of its tiers.
"""

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal, cast

from pydantic import BeforeValidator

from harness.core.metrics import METRICS, MetricDef
from harness.core.records import Boundary
from harness.core.units import COUNT, parse_duration_s
from harness.profile.stages import STAGE_NAME

Operator = Literal["<", "<=", ">", ">="]
_OPERATORS: Final[dict[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

CAPACITY: Final = "capacity"
"""Metric of a search, with its tier in place of a statistic."""
_CAPACITY: Final = MetricDef(CAPACITY, "Capacity", "sessions", "", "higher")
STATISTICS: Final = ("mean", "p50", "p90", "p95", "p99", "p999", "max")
"""Statistics of a distribution, as under `latency` in `summary.json`."""
_NUMBER: Final = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_GRAMMAR: Final = re.compile(
    rf"(?:\s*(?P<stage>{STAGE_NAME}|\*)\s*:)?"
    r"\s*(?P<metric>[A-Za-z][A-Za-z0-9_]*)(?:@(?P<boundary>[a-z_]+))?(?:\.(?P<statistic>[A-Za-z0-9._-]+))?\s*(?P<operator><=|>=|==|!=|=<|=>|<|>|=)\s*"
    rf"(?:(?P<number>{_NUMBER})\s*(?P<unit>%|[A-Za-z]*)|(?P<relative>[^<>=]*\bbaseline\b[^<>=]*?))\s*"
)
_RELATIVE: Final = re.compile(
    rf"(?:(?P<before>{_NUMBER})\s*(?P<before_percent>%?)\s*\*\s*)?baseline"
    rf"(?:\s*\*\s*(?P<after>{_NUMBER})\s*(?P<after_percent>%?)|\s*(?P<sign>[+-])\s*(?P<change>\d+\.?\d*|\.\d+)\s*%)?"
)
_LONGEST: Final = 200
EVERY_STAGE: Final = "*"
"""Stage of a threshold on every stage."""


def _as_text(value: object) -> object:
    """`c64: ttft_s.p99 < 1.5` as text: without quotes, YAML reads it as a mapping."""
    if isinstance(value, Mapping) and len(value) == 1:
        return ": ".join(str(part) for part in next(iter(value.items())))
    return value


ThresholdText = Annotated[str, BeforeValidator(_as_text)]
"""A threshold in a YAML file."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """One condition on a result.

    Attributes:
        metric: a key of `harness.core.metrics.METRICS`, or `capacity`.
        boundary: a power boundary other than the summary's first, else None; the summary then has
            the value under `metric@boundary`.
        statistic: one of `STATISTICS` for a distribution, the tier of a capacity, else None.
        stage: name of a load stage, or `*` for every stage; None: the headline stage.
        limit: in the metric's own unit (seconds for `_s`), or the factor on the baseline's value.
        relative: whether the limit is a factor on a baseline.
    """

    text: str
    metric: str
    boundary: str | None
    statistic: str | None
    operator: Operator
    limit: float
    relative: bool = False
    stage: str | None = None

    @property
    def figure(self) -> str:
        """Name of its value in reports: `ttft_s.p99`, `power_w@node`, `c64: ttft_s.p99`."""
        stage = f"{self.stage}: " if self.stage else ""
        boundary = f"@{self.boundary}" if self.boundary else ""
        return stage + self.metric + boundary + (f".{self.statistic}" if self.statistic else "")

    def at_stages(self, names: Iterable[str]) -> "tuple[Threshold, ...]":
        """One threshold per stage if it is on every stage, else itself alone."""
        if self.stage != EVERY_STAGE:
            return (self,)
        condition = self.text.partition(":")[2].strip()
        return tuple(replace(self, text=f"{name}: {condition}", stage=name) for name in names)

    @property
    def at_least(self) -> bool:
        """Whether the limit is a minimum."""
        return self.operator in {">", ">="}

    def met_by(self, value: float, baseline: float = 1.0) -> bool:
        """Whether a value meets the condition. Callers handle missing values.

        Args:
            value: in the metric's own unit; with the default baseline, the ratio to it.
            baseline: the baseline's value, for a relative condition.
        """
        limit = self.limit * baseline if self.relative else self.limit
        return _OPERATORS[self.operator](value, limit)


def parse_threshold(text: str) -> Threshold:
    """Parse one threshold.

    Raises:
        ValueError: not in the grammar; an unknown or missing statistic; or a unit that does not fit
            the metric.
    """
    match = _GRAMMAR.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise ValueError(
            f"{text[:_LONGEST]!r} is not [STAGE:] METRIC[.STATISTIC] OPERATOR NUMBER[UNIT]; write,"
            " for example, 'ttft_s.p99 < 1.5' or 'output_tok_s >= 0.95 * baseline'"
        )
    definition = _CAPACITY if match["metric"] == CAPACITY else _metric(match["metric"])
    boundary, statistic, symbol = match["boundary"], match["statistic"], match["operator"]
    if symbol not in _OPERATORS:
        raise ValueError(f"{symbol!r} is not an operator; use one of: {', '.join(_OPERATORS)}")
    if boundary is not None and (definition.boundary != "power" or boundary not in set(Boundary)):
        raise ValueError(
            f"{definition.key} has no boundary {boundary!r}; power and energy have:"
            f" {', '.join(Boundary)}"
        )
    if definition is _CAPACITY:
        _check_tier(match)
    else:
        _check_statistic(definition, statistic)
    relative = match["relative"]
    if relative is None:
        limit = _limit(definition, match["number"], match["unit"])
    else:
        limit = _factor(relative.strip())
    symbol = cast("Operator", symbol)
    return Threshold(
        text.strip(),
        definition.key,
        boundary,
        statistic,
        symbol,
        limit,
        relative is not None,
        match["stage"],
    )


def _metric(name: str) -> MetricDef:
    if name in METRICS:
        return METRICS[name]
    near = difflib.get_close_matches(name, METRICS, n=3, cutoff=0.5)
    fix = f"did you mean {' or '.join(near)}?" if near else f"metrics: {', '.join(METRICS)}"
    raise ValueError(f"unknown metric {name!r}; {fix}")


def _check_tier(match: re.Match[str]) -> None:
    if match["statistic"] is None:
        raise ValueError("a capacity is at a tier; write it as in 'capacity.slo >= 8'")
    if match["stage"] is not None:
        raise ValueError("a capacity is of a whole search and has no stage; write 'capacity.slo'")


def _check_statistic(definition: MetricDef, statistic: str | None) -> None:
    key = definition.key
    if definition.kind == "value":
        if statistic is not None:
            raise ValueError(
                f"{key} is one value and has no statistic {statistic!r}; write only {key!r}"
            )
    elif statistic is None:
        raise ValueError(f"{key} is a distribution; add a statistic, as in '{key}.p99'")
    elif statistic not in STATISTICS:
        near = difflib.get_close_matches(statistic, STATISTICS, n=1)
        fix = f"did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"unknown statistic {statistic!r}; {fix}Use one of: {', '.join(STATISTICS)}"
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
        raise ValueError(
            f"{unit!r} does not fit {definition.key}, which is in {definition.unit}; write a bare"
            " number in that unit"
        )
    if not math.isfinite(limit):
        raise ValueError("the limit must be finite")
    return limit


def _factor(text: str) -> float:
    match = _RELATIVE.fullmatch(text)
    if match is None or (match["before"] and (match["after"] or match["change"])):
        raise ValueError(
            f"{text!r} is not relative to the baseline; write 0.95 * baseline, baseline, or"
            " baseline - 5%"
        )
    factor = 1.0
    for side in ("before", "after"):
        if match[side] is not None:
            factor = float(match[side]) / (100 if match[f"{side}_percent"] else 1)
    if match["change"] is not None:
        factor = 1 + float(match["sign"] + match["change"]) / 100
    if not 0 < factor <= 1000:
        raise ValueError(
            f"the factor on the baseline must be above 0 and at most 1000; it is {factor:g}"
        )
    return factor
