"""The few figures that the live view shows, taken from a raw body without parsing the rest of it.

The whole parse happens after the run, from the recorded bodies; here a scrape may cost a fraction of a millisecond.
"""

import re
from dataclasses import dataclass, field
from typing import Final

from harness.core.metric_names import Concept, Source, combine, pick

SHOWN: Final = (Concept.RUNNING, Concept.WAITING, Concept.KV_USAGE, Concept.GENERATED_TOKENS, Concept.PROMPT_TOKENS)

_NAMES = re.compile(rb"^([A-Za-z_:][A-Za-z0-9_:]*)", re.MULTILINE)
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"')


@dataclass(slots=True)
class LiveReader:
    """Reads the shown figures of one target, body by body."""

    _sources: dict[Concept, Source] = field(default_factory=dict)
    _lines: re.Pattern[bytes] | None = None

    def read(self, body: bytes) -> dict[str, float]:
        """Concept -> value, of those that this body has; a missing one is left out."""
        if self._lines is None or not self._lines.search(body):
            self._learn(body)  # first body, or a server of another kind behind the same address
        if self._lines is None:
            return {}
        samples = []
        for name, labels, value in self._lines.findall(body):
            try:
                number = float(value)
            except ValueError:
                continue  # the recorded body keeps the line; its parse will tell
            samples.append((name.decode(), dict(_LABEL.findall(labels.decode(errors="replace"))), number))
        shown = {concept: combine(source, samples) for concept, source in self._sources.items()}
        return {concept.value: value for concept, value in shown.items() if value is not None}

    def _learn(self, body: bytes) -> None:
        names = {name.decode() for name in _NAMES.findall(body)}
        self._sources = {concept: source for concept in SHOWN if (source := pick(concept, names)) is not None}
        wanted = sorted({series.name for source in self._sources.values() for series in source.series})
        if wanted:
            names_pattern = "|".join(re.escape(name) for name in wanted).encode()
            # The label part is greedy, for label values may hold braces; it stays within its line.
            self._lines = re.compile(rb"^(" + names_pattern + rb")(\{.*\})?[ \t]+(\S+)", re.MULTILINE)
        else:
            self._lines = None
