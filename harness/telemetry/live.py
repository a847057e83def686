"""The few figures that the live view shows, taken from a raw body without parsing the rest of it.

The whole parse happens after the run, from the recorded bodies; here a scrape may cost a fraction
of a millisecond.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from harness.core.metric_names import Concept, Source, combine, pick

SHOWN: Final = (
    Concept.RUNNING,
    Concept.WAITING,
    Concept.KV_USAGE,
    Concept.GENERATED_TOKENS,
)

_NAMES = re.compile(rb"^([A-Za-z_:][A-Za-z0-9_:]*)", re.MULTILINE)
# The label part is greedy, for label values may hold braces; it stays within its line.
_SAMPLE = re.compile(rb"([A-Za-z_:][A-Za-z0-9_:]*)(\{.*\})?[ \t]+(\S+)")
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"')


@dataclass(slots=True)
class LiveReader:
    """Reads the shown figures of one target, body by body."""

    _sources: dict[Concept, Source] = field(default_factory=dict)

    def read(self, body: bytes) -> dict[str, float]:
        """Concept -> value, of those that this body has; a missing one is left out."""
        samples = self._samples(body)
        if not samples:
            # The first body, or a server of another kind behind the same address.
            names = {name.decode() for name in _NAMES.findall(body)}
            self._sources = {
                concept: source for concept in SHOWN if (source := pick(concept, names)) is not None
            }
            samples = self._samples(body)
        shown = {concept: combine(source, samples) for concept, source in self._sources.items()}
        return {concept.value: value for concept, value in shown.items() if value is not None}

    def _samples(self, body: bytes) -> list[tuple[str, dict[str, str], float]]:
        wanted = {series.name for source in self._sources.values() for series in source.series}
        return [sample for name in sorted(wanted) for sample in _samples_of(name, body)]


def figures(samples: Sequence[tuple[str, Mapping[str, str], float]]) -> dict[str, float]:
    """Concept -> value, of those that these samples (name, labels, value) have; a missing one is
    left out.
    """
    names = {name for name, _, _ in samples}
    picked = {concept: source for concept in SHOWN if (source := pick(concept, names)) is not None}
    shown = {concept: combine(source, samples) for concept, source in picked.items()}
    return {concept.value: value for concept, value in shown.items() if value is not None}


def together(shown: Sequence[Mapping[str, float] | None]) -> dict[str, float | None]:
    """One figure a concept for all targets: the sum, of KV usage the highest. None unless every
    target tells: a part is another figure.

    Args:
        shown: of each target; None where its last scrape failed.
    """
    found: dict[str, float | None] = {}
    for concept in SHOWN:
        values = [None if one is None else one.get(concept.value) for one in shown]
        known = [value for value in values if value is not None]
        whole = bool(known) and len(known) == len(values)
        found[concept.value] = (
            (max(known) if concept is Concept.KV_USAGE else sum(known)) if whole else None
        )
    return found


def _samples_of(name: str, body: bytes) -> Iterator[tuple[str, dict[str, str], float]]:
    """Samples of one name. Looking for its lines costs a tenth of matching every line against a
    pattern.
    """
    encoded = name.encode()
    at = 0 if body.startswith(encoded) else body.find(b"\n" + encoded) + 1
    while at or body.startswith(encoded):
        match = _SAMPLE.match(body, at)
        if match is not None and match[1] == encoded:
            with suppress(
                ValueError
            ):  # no number: the recorded body keeps the line, and its parse will tell
                yield (
                    name,
                    dict(_LABEL.findall((match[2] or b"").decode(errors="replace"))),
                    float(match[3]),
                )
        at = body.find(b"\n" + encoded, at) + 1
        if not at:
            return
