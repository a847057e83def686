"""ServeGen clients: rates and distributions, from which requests are drawn.

A client is two files. `chunk-i-trace.csv`, without a header, has a row per window (start, rate per
second, CV of the gaps, law, shape, scale). `chunk-i-dataset.json` has the lengths of each six
hours, as dictionaries in Python text; they are read as literals, never evaluated.
"""

import ast
import math
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Final

from harness.plan.rng import stream
from harness.plan.traces.records import Clock, ReadTally, Trace, TraceRequest, TraceSession, bad
from harness.plan.traces.text import MAX_TOK, parse_json, raw_lines, read_text, text_seconds

DEFAULT_WINDOW_S: Final = 600.0
"""Length of a client's only window."""
MAX_REQUESTS: Final = 1e9
"""Most expected requests of one window."""
SUM_TOLERANCE: Final = 1e-3
"""Largest difference of a sum of probabilities from 1."""
LAWS: Final = ("Gamma", "Weibull")

TRACE_NAME = re.compile(r"chunk-(\d+)-trace\.csv")


@dataclass(frozen=True, slots=True)
class Distribution:
    """Values with their probabilities."""

    values: tuple[float, ...]
    weights: tuple[float, ...]
    summed: tuple[float, ...]

    def draw(self, rng: Random) -> float:
        index = bisect_right(self.summed, rng.random() * self.summed[-1])
        return self.values[min(index, len(self.values) - 1)]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Lengths of the requests of a few hours."""

    input_tok: Distribution
    output_tok: Distribution
    reasoning_share: Distribution | None


@dataclass(frozen=True, slots=True)
class Window:
    """A time window of one client with a rate above 0.

    Attributes:
        start_s: from the trace's start.
        cv: of the gaps, as recorded.
        law: Gamma or Weibull.
        lengths: None if the client has none for this time.
    """

    start_s: float
    length_s: float
    rate_per_s: float
    cv: float
    law: str
    shape: float
    lengths: Lengths | None

    @property
    def expected(self) -> float:
        return self.rate_per_s * self.length_s


@dataclass(frozen=True, slots=True)
class Client:
    """One client."""

    name: str
    windows: tuple[Window, ...]


class ServeGenTrace(Trace):
    """A folder of ServeGen clients, or the trace file of one. Requests are drawn: gaps by each
    window's law and shape with the mean of its rate, input and output length independently. Memory:
    the clients' files.
    """

    def __init__(self, path: Path) -> None:
        notes = ("requests are drawn from rates and distributions, by a seed",)
        super().__init__(path, "servegen", Clock.TRACE, drawn=True, notes=notes)

    def clients(self) -> Iterator[Client]:
        files = [self.path]
        if not self.path.is_file():
            files = [file for file in self.path.iterdir() if TRACE_NAME.fullmatch(file.name)]
            files.sort(key=lambda file: int(file.name.split("-")[1]))
        if not files:
            raise bad(self.path, "has no chunk-<n>-trace.csv")
        for file in files:
            yield _client(file)

    def requests(self, *, seed: int = 0, tally: ReadTally | None = None) -> Iterator[TraceRequest]:
        """Requests of all clients, drawn and merged in order of time; the first is at 0 s."""
        tally = tally or ReadTally()
        drawn = [_draw(client, seed, tally) for client in self.clients()]
        first: float | None = None
        for t_s, client, number, input_tok, output_tok, share in merge(*drawn):
            first = t_s if first is None else first
            where = f"{self.path} {client}, request {number}"
            yield TraceRequest(
                t_s - first,
                input_tok,
                output_tok,
                workload_class=client,
                reasoning_share=share,
                where=where,
            )
        if first is None:
            cause = "the clients' rates are 0, or very small"
            raise bad(self.path, "no request was drawn", cause=cause)

    def sessions(self, *, seed: int = 0, tally: ReadTally | None = None) -> Iterator[TraceSession]:
        """A session per request: ServeGen has no sessions."""
        for number, request in enumerate(self.requests(seed=seed, tally=tally)):
            yield TraceSession(f"drawn-{number}", None, (request,))


def _draw(
    client: Client, seed: int, tally: ReadTally
) -> Iterator[tuple[float, str, int, int, int, float | None]]:
    rng = stream(seed, "servegen", client.name)
    number = 0
    for window in client.windows:
        if window.lengths is None:
            tally.without_lengths += window.expected
            continue
        # The file's own scale is not used: the number of requests would not match the rate.
        lengths, shape, gamma = window.lengths, window.shape, window.law == "Gamma"
        scale = 1 / (window.rate_per_s * (shape if gamma else math.gamma(1 + 1 / shape)))
        at_s = 0.0
        while True:
            at_s += rng.gammavariate(shape, scale) if gamma else rng.weibullvariate(scale, shape)
            if not at_s < window.length_s:
                break
            share = lengths.reasoning_share.draw(rng) if lengths.reasoning_share else None
            input_tok = max(1, int(lengths.input_tok.draw(rng)))
            output_tok = int(lengths.output_tok.draw(rng))
            yield window.start_s + at_s, client.name, number, input_tok, output_tok, share
            number += 1


def _client(file: Path) -> Client:
    dataset = file.with_name(file.name.replace("-trace.csv", "-dataset.json"))
    lengths = _lengths(dataset)
    starts = sorted(lengths)
    rows = list(_rows(file))
    windows: list[Window] = []
    for index, (number, start_s, rate, cv, law, shape) in enumerate(rows):
        if not rate:
            continue
        # A window ends where the next begins; the last one is as long as the one before it.
        length_s = DEFAULT_WINDOW_S
        if index + 1 < len(rows):
            length_s = rows[index + 1][1] - start_s
        elif index:
            length_s = start_s - rows[index - 1][1]
        if rate * length_s > MAX_REQUESTS:
            raise bad(f"{file}:{number}", f"expects {rate * length_s:.3g} requests in one window")
        position = bisect_right(starts, start_s) - 1
        found = lengths[starts[position]] if position >= 0 else None
        windows.append(Window(start_s, length_s, rate, cv, law, shape, found))
    if not rows:
        raise bad(file, "is empty")
    return Client(file.name.removesuffix("-trace.csv"), tuple(windows))


def _rows(file: Path) -> Iterator[tuple[int, float, float, float, str, float]]:
    before = -1.0
    for number, _, text in raw_lines(file):
        where = f"{file}:{number}"
        cells = [cell.strip() for cell in text.split(",")]
        if len(cells) != 6:
            cause = "a row is start, rate, cv, law, shape, scale"
            raise bad(where, f"has {len(cells)} fields, not 6", cause=cause)
        law = cells.pop(3)
        names = ("start", "rate", "cv", "shape", "scale")
        start_s, rate, cv, shape, scale = (
            text_seconds(where, name, cell) for name, cell in zip(names, cells, strict=True)
        )
        if start_s <= before:
            raise bad(where, "the time does not increase", cause="the windows are not in order")
        before = start_s
        if rate and (law not in LAWS or not 0.01 <= shape <= 1e6 or not scale > 0):
            laws = " or ".join(LAWS)
            raise bad(where, f"needs {laws} with a shape from 0.01 to 1e6 and a scale above 0")
        yield number, start_s, rate, cv, law, shape


def _lengths(file: Path) -> dict[float, Lengths | None]:
    value = parse_json(str(file), read_text(file), file)
    if not isinstance(value, dict):
        raise bad(file, "is not a JSON object of times")
    found: dict[float, Lengths | None] = {}
    for key, tables in value.items():
        where = f"{file} [{key!r}]"
        start_s = text_seconds(where, "the time", key)
        if not isinstance(tables, dict):
            raise bad(where, "is not an object of distributions")
        input_tok = _distribution(where, "input_tokens", tables, whole=True)
        output_tok = _distribution(where, "output_tokens", tables, whole=True)
        share = None
        if "reason_ratio" in tables:
            share = _distribution(where, "reason_ratio", tables, whole=False)
        found[start_s] = Lengths(input_tok, output_tok, share) if input_tok and output_tok else None
    return found


def _distribution(
    where: str, name: str, tables: dict[str, object], *, whole: bool
) -> Distribution | None:
    """A distribution, or None for an empty one."""
    text = tables.get(name)
    if not isinstance(text, str):
        raise bad(where, f"has no {name}, a dictionary in Python text")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise bad(where, f"{name} is not a dictionary in Python text") from None
    if not isinstance(value, dict):
        raise bad(where, f"{name} is not a dictionary")
    for key, weight in value.items():
        good_key = (
            type(key) is int and 0 <= key <= MAX_TOK
            if whole
            else type(key) in (int, float) and 0 <= key <= 1
        )
        if not good_key or type(weight) not in (int, float) or not 0 <= weight <= 1 + SUM_TOLERANCE:
            raise bad(where, f"{name} has invalid {str(key)[:40]}: {str(weight)[:40]}")
    if not value:
        return None
    total = math.fsum(value.values())
    if abs(total - 1) > SUM_TOLERANCE:
        raise bad(where, f"the probabilities of {name} add up to {total:.6g}, not 1")
    weights = tuple(map(float, value.values()))
    return Distribution(tuple(map(float, value)), weights, tuple(accumulate(weights)))
