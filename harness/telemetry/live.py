"""The live view's values, taken from a raw body without parsing all of it.

Full parsing is done after the run, from the recorded bodies. Here a scrape may cost a fraction of a
millisecond.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from harness.core.metric_names import Concept, Source, combine, pick

Sample = tuple[str, Mapping[str, str], float]
"""Name, labels, value."""

SHOWN: Final = (Concept.RUNNING, Concept.WAITING, Concept.KV_USAGE, Concept.GENERATED_TOKENS)

_NAMES = re.compile(rb"^([A-Za-z_:][A-Za-z0-9_:]*)", re.MULTILINE)
# The label part is greedy, because label values may contain braces; it stays within its line.
_SAMPLE = re.compile(rb"([A-Za-z_:][A-Za-z0-9_:]*)(\{.*\})?[ \t]+(\S+)")
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"')


@dataclass(slots=True)
class LiveReader:
    """Reads the shown values of one target, body by body."""

    _sources: dict[Concept, Source] = field(default_factory=dict)

    def read(self, body: bytes) -> dict[str, float]:
        """Concept -> value; missing ones are left out."""
        samples = self._samples(body)
        if not samples:
            # The first body, or a server of another kind behind the same address.
            self._sources = _sources({name.decode() for name in _NAMES.findall(body)})
            samples = self._samples(body)
        return _combined(self._sources, samples)

    def _samples(self, body: bytes) -> list[Sample]:
        names = {series.name for source in self._sources.values() for series in source.series}
        return [sample for name in sorted(names) for sample in _samples_of(name, body)]


def live_values(samples: Sequence[Sample]) -> dict[str, float]:
    """Concept -> value from these samples; missing ones are left out."""
    return _combined(_sources({name for name, _, _ in samples}), samples)


def _sources(names: set[str]) -> dict[Concept, Source]:
    return {concept: source for concept in SHOWN if (source := pick(concept, names)) is not None}


def _combined(sources: Mapping[Concept, Source], samples: Sequence[Sample]) -> dict[str, float]:
    shown = {concept.value: combine(source, samples) for concept, source in sources.items()}
    return {concept: value for concept, value in shown.items() if value is not None}


def together(shown: Sequence[Mapping[str, float] | None]) -> dict[str, float | None]:
    """One value per concept for all targets: the sum, or the maximum of KV usage. None unless every
    target has a value (None: its last scrape failed), because a partial sum is another metric.
    """
    found: dict[str, float | None] = {}
    for concept in SHOWN:
        known = [one[concept.value] for one in shown if one and concept.value in one]
        total = max if concept is Concept.KV_USAGE else sum
        found[concept.value] = total(known) if known and len(known) == len(shown) else None
    return found


def _samples_of(name: str, body: bytes) -> Iterator[Sample]:
    """Samples of one name. Searching for its lines costs a tenth of matching every line."""
    encoded = name.encode()
    at = 0 if body.startswith(encoded) else body.find(b"\n" + encoded) + 1
    while at or body.startswith(encoded):
        match = _SAMPLE.match(body, at)
        if match is not None and match[1] == encoded:
            with suppress(ValueError):  # not a number; the later full parse reports it
                labels = dict(_LABEL.findall((match[2] or b"").decode(errors="replace")))
                yield name, labels, float(match[3])
        at = body.find(b"\n" + encoded, at) + 1
        if not at:
            return
