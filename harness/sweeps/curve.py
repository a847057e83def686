"""Load curves: the metrics of a sweep over its load, with peak and knee."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

from harness.artifacts.sweep.index import Value
from harness.sweeps.points import Setting, Sweep

REACHED: Final = 0.95
"""Share of the peak's throughput from which on a load counts as saturating."""
THROUGHPUT: Final = "output_tok_s"

_LOADS: Final = {"concurrency": "concurrency", "rate_per_s": "arrival rate (1/s)"}
"""Last part of a key that sets the load -> name of the axis."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Settings that differ in their load only, by load.

    Attributes:
        others: values of the other varied keys.
        peak: the setting with the highest output throughput; of equal ones the smallest load.
        knee: the smallest load from which on, up to the peak, the interval of every throughput
            reaches 95% of the peak's.
        rising: the peak is the highest load of several, so more load may give more.
    """

    key: str
    others: Mapping[str, Value]
    settings: tuple[Setting, ...]
    peak: Setting
    knee: Setting
    rising: bool

    def load(self, setting: Setting) -> float:
        """The load of one of the settings."""
        value = setting.values[self.key]
        assert isinstance(value, int | float)
        return value


def load_key(sweep: Sweep) -> str | None:
    """The varied key that sets the load; None if there is none, or several."""
    found = [
        key
        for key in sweep.keys
        if key.startswith("traffic.load.") and key.rpartition(".")[2] in _LOADS
    ]
    return found[0] if len(found) == 1 else None


def load_title(key: str) -> str:
    """Name and unit of a load axis."""
    return _LOADS[key.rpartition(".")[2]]


def load_curves(sweep: Sweep) -> tuple[Curve, ...]:
    """One curve per setting of the other keys, that with the highest peak first; empty without a
    load axis. Only settings that support a claim are on it.
    """
    if (key := load_key(sweep)) is None:
        return ()
    groups: dict[tuple[Value, ...], list[Setting]] = {}
    others = [one for one in sweep.keys if one != key]
    for setting in sweep.usable:
        if THROUGHPUT in setting.metrics and isinstance(setting.values[key], int | float):
            groups.setdefault(tuple(setting.values[one] for one in others), []).append(setting)
    curves = [
        _curve(key, dict(zip(others, values, strict=True)), settings)
        for values, settings in groups.items()
    ]
    return tuple(sorted(curves, key=lambda one: -throughput(one.peak)))


def throughput(setting: Setting) -> float:
    """Output throughput of a setting of a curve, tok/s."""
    return setting.metrics[THROUGHPUT].value


def _curve(key: str, others: Mapping[str, Value], settings: Sequence[Setting]) -> Curve:
    ordered = sorted(settings, key=lambda one: float(str(one.values[key])))
    peak = max(ordered, key=throughput)  # the first of equal ones
    upward = ordered[: ordered.index(peak) + 1]
    *_, knee = takewhile(lambda one: _reaches(one, REACHED * throughput(peak)), reversed(upward))
    rising = len(ordered) > 1 and peak is ordered[-1]
    return Curve(key, others, tuple(ordered), peak, knee, rising)


def _reaches(setting: Setting, least: float) -> bool:
    found = setting.metrics[THROUGHPUT]
    return max(found.value, found.value if found.high is None else found.high) >= least
