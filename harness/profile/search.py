"""Section `search` of a profile: the highest load that still meets SLOs, in tiers.

A tier is a set of conditions, each on the share of requests within limits. `ttft_s.p95 < 5s` is
the same as "at least 95% of requests have a TTFT of at most 5 s". `speed_tok_s.p25 > 60` is the
same as "at least 75% stream faster than 60 tokens per second", which is a TPOT below 1/60 s.
"""

import difflib
import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, create_model

from harness.checked_yaml.fields import Flag, Form, Number, Seconds, Strict, Text, Whole
from harness.core.metrics import METRICS
from harness.core.units import parse_duration_s
from harness.profile.stages import STAGE_NAME

SPEED: Final = "speed_tok_s"
"""Output speed of one request: 1 / TPOT."""
PER_REQUEST: Final = ("ttft_s", "tpot_s", "e2e_s")
"""Metrics of which every request has one value."""
DEFAULT_SHARE: Final = 0.95

_CONDITION: Final = re.compile(
    r"\s*(?P<metric>[a-z][a-z0-9_]*)(?:\.(?P<statistic>[a-z0-9]+))?\s*(?P<operator><=|>=|<|>)"
    r"\s*(?P<number>\d+\.?\d*|\.\d+)\s*(?P<unit>[a-z]*)\s*"
)
_PERCENTILE: Final = re.compile(r"p(\d{1,2})(\d*)")
_EXAMPLE: Final = "write, for example, 'ttft_s.p95 < 5s' or 'speed_tok_s.p25 > 60'"


@dataclass(frozen=True, slots=True)
class Condition:
    """At least `share` of the requests stay within every limit; None: no limit. Failed and dropped
    requests do not.
    """

    text: str
    share: float
    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    def is_met(self, ttft_s: float, tpot_s: float | None, e2e_s: float) -> bool:
        """Whether the latencies of one completed request are within the limits; an unknown TPOT
        (of one token) is.
        """
        return (
            (self.ttft_s is None or ttft_s <= self.ttft_s)
            and (self.tpot_s is None or tpot_s is None or tpot_s <= self.tpot_s)
            and (self.e2e_s is None or e2e_s <= self.e2e_s)
        )


def parse_condition(text: str) -> Condition:
    """Parse a condition of a tier.

    Raises:
        ValueError: not in the grammar; no percentile; or a metric that single requests do not have.
    """
    match = _CONDITION.fullmatch(text) if len(text) <= 200 else None
    if match is None:
        raise ValueError(f"{text[:200]!r} is not METRIC.PERCENTILE OPERATOR NUMBER; {_EXAMPLE}")
    metric = match["metric"]
    if metric not in (*PER_REQUEST, SPEED):
        raise ValueError(_unknown(metric))
    share = _share_below(match["statistic"], metric)
    above = match["operator"].startswith(">")
    if above != (metric == SPEED):
        better = "above (>)" if metric == SPEED else "below (<)"
        raise ValueError(
            f"{text.strip()!r} limits from the wrong side; {metric} is better {better}"
        )
    limit = _limit(metric, match["number"], match["unit"])
    if metric == SPEED:
        return Condition(text.strip(), 1 - share, tpot_s=1 / limit)
    return Condition(text.strip(), share, **{metric: limit})


def _unknown(metric: str) -> str:
    names = (*PER_REQUEST, SPEED)
    if metric in METRICS:
        return (
            f"{metric} is not a metric of single requests, so no share of them can meet a limit;"
            f" use {', '.join(names)}"
        )
    near = difflib.get_close_matches(metric, names, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"unknown metric {metric!r}; {meant}Use {', '.join(names)}"


def _share_below(statistic: str | None, metric: str) -> float:
    match = _PERCENTILE.fullmatch(statistic or "")
    share = float(f"0.{int(match[1]):02d}{match[2]}") if match else 0.0
    if not 0 < share < 1:
        what = "has no percentile" if statistic is None else f"has no percentile {statistic!r}"
        raise ValueError(f"{metric} {what}; write p1 to p99, or p999, as in '{metric}.p95'")
    return share


def _limit(metric: str, number: str, unit: str) -> float:
    if metric == SPEED:
        if unit:
            raise ValueError(f"{unit!r} does not fit {metric}; write a bare number of tokens/s")
        limit = float(number)
    else:
        limit = parse_duration_s(number + unit)
    if not (math.isfinite(limit) and limit > 0):
        raise ValueError("the limit must be greater than 0")
    return limit


def _part_of_one(value: object) -> object:
    """`3%` as 0.03; anything else is left to the type."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d+(\.\d+)?\s*%\s*", value):
        return float(value.strip().removesuffix("%")) / 100
    return value


Part = Annotated[
    Number,
    BeforeValidator(_part_of_one),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"%\s*$"}]}),
    Form("a share", "3%"),
]


class Tier(Strict):
    """A set of conditions that a load has to meet. Without conditions, the tier is the share of
    requests that meet all of `slos`.
    """

    name: str = Field(pattern=rf"^{STAGE_NAME}$", max_length=40)
    """Name in results, and in thresholds as `capacity.NAME`."""
    share: Part | None = Field(default=None, gt=0, lt=1)
    """Share of requests that meet all of `slos`; default: 95%. Not together with conditions."""
    conditions: tuple[Text, ...] = ()
    """Conditions `METRIC.PERCENTILE OPERATOR LIMIT`, all of them at once: `ttft_s`, `tpot_s` and
    `e2e_s` below a limit, `speed_tok_s` (1 / TPOT) above one. `ttft_s.p95 < 5s` holds if at least
    95% of requests have it, `speed_tok_s.p25 > 60` if at least 75% do. Failed requests never do.
    """


_FROM: Any = {
    "from": (
        Number,
        Field(
            default=1.0,
            gt=0,
            description="Load at which the search starts; it should meet every tier.",
        ),
    )
}
# `from` is a keyword of Python, so its class cannot be written.
_From: Any = create_model("_From", __base__=Strict, **_FROM)


class Search(_From):
    """Search for the highest load that meets SLOs (`harness search`). The load generator's setting
    varies; everything else is the profile's one load stage.
    """

    load: Literal["concurrency", "arrival_rate"] = "concurrency"
    """`concurrency`: live sessions, in whole numbers; every load has a steady state.
    `arrival_rate`: session starts per second, for open systems; above its capacity a server has no
    steady state.
    """
    to: Number = Field(default=1024.0, gt=0, le=100_000)
    """Highest load to try."""
    tiers: tuple[Tier, ...] = (Tier(name="slo"),)
    """SLO tiers, all answered from the same probes. Default: 95% of requests meet all of `slos`."""
    precision: Part = Field(default=0.03, gt=0, lt=0.5)
    """The search ends when half of the 95% interval of each tier's capacity is at most this share
    of it.
    """
    max_points: Whole = Field(default=20, ge=2, le=200)
    """Most probes, without the confirmation run."""
    max_time_s: Seconds = 7200.0
    """Time after which no further probe starts."""
    probe_s: Seconds = 60.0
    """Longest window of a probe. It is shorter if `probe_requests` are expected sooner."""
    probe_requests: Whole = Field(default=300, ge=30, le=100_000)
    """Requests of a probe."""
    confirm: Flag = True
    """Measure the lower end of the first tier's interval once more, with the profile's own windows
    and a fresh server and seed.
    """

    @property
    def lowest(self) -> float:
        """`from`."""
        return float(getattr(self, "from"))

    @property
    def whole(self) -> bool:
        """Whether loads are whole numbers."""
        return self.load == "concurrency"
