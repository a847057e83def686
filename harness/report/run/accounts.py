"""Tables and sentences of a report: by class of requests, in other tools' terms, by the model's
tokenizer, against a reference.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from harness.artifacts.run_summary import Recount, Summary
from harness.reduce.figures.other_tools import TERMS, TOOLS, rosetta_table
from harness.report import numbers
from harness.report.headline import rows_of

Cells = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""Caption, head and rows of a table."""

_CLASS_KEYS: Final = (
    "output_tok_s",
    "input_computed_tok_s",
    "ttft_s.p50",
    "ttft_s.p99",
    "tpot_s.p50",
    "e2e_s.p99",
    "slo_met_ratio",
    "error_ratio",
)


def classes(summary: Summary) -> Cells | None:
    """Classes of requests beside each other; None where there is only one."""
    if len(summary.classes) < 2:
        return None
    rows = []
    for one in summary.classes:
        by_key = {row.key: row for row in rows_of(one.metrics, one.latency)}
        cells = [
            f"{by_key[key].value} {by_key[key].unit}".strip() if key in by_key else numbers.DASH
            for key in _CLASS_KEYS
        ]
        rows.append([one.name, numbers.plain(one.requests.in_window), *cells])
    head = (
        "Class",
        "Requests",
        "Output",
        "Computed input",
        "TTFT p50",
        "TTFT p99",
        "TPOT p50",
        "E2E p99",
        "Within SLOs",
        "Failed",
    )
    return "Classes of requests, in the same window", head, rows


_SHORT: Final[Mapping[str, str]] = {
    "output_tok_s": "Output",
    "tok_s_user": "Per user",
    "tok_s_gpu": "Per GPU",
    "power_w": "Power",
    "output_tok_per_j": "Per joule",
    "tok_s_per_mw": "Per megawatt",
    "duration_s": "Window",
}
"""Headings that let the table fit; the cells have units."""


def rosetta(summary: Summary) -> Cells | None:
    """The run under other tools' definitions: tools down, terms across, those that no tool could
    fill left out.
    """
    table = rosetta_table(summary.rosetta)
    if table is None:
        return None
    columns = [i for i, row in enumerate(table.rows) if any(cell is not None for cell in row)]
    rows = [
        [tool, *(_cell(table.rows[i][position], table.terms[i][1]) for i in columns)]
        for position, tool in enumerate(table.head[1:])
    ]
    paired = [any(isinstance(cell, tuple) for cell in table.rows[i]) for i in columns]
    names = [_SHORT.get(key, heading) for key, (heading, _) in TERMS.items()]
    units = [unit for _, unit in table.terms]
    head = [
        "Definitions of",
        *(
            names[i]
            + (f", {units[i]}" if units[i] not in _IN_CELLS else "")
            + (", p50 / p99" if pair else "")
            for i, pair in zip(columns, paired, strict=True)
        ),
    ]
    return (
        "The same records under other tools' definitions: latencies, tokens per second, power",
        head,
        rows,
    )


_IN_CELLS: Final = frozenset({"s", "1"})
"""Times have units that suit each of them; the other units stand in the heading."""


def _cell(cell: tuple[float | None, float | None] | float | None, unit: str) -> str:
    if cell is None:
        return numbers.DASH
    if isinstance(cell, tuple):
        low, high = (numbers.figure(value, unit) for value in cell)
        if unit not in _IN_CELLS:
            return f"{low[0]} / {high[0]}"
        if low[1] == high[1]:
            return f"{low[0]} / {high[0]} {low[1]}".strip()
        return f"{low[0]} {low[1]} / {high[0]} {high[1]}".strip()
    value, shown = numbers.figure(cell, unit)
    shown = shown if unit in _IN_CELLS else ""
    return f"{value} {shown}".strip()


def rosetta_notes(summary: Summary) -> list[str]:
    """What to know of the table."""
    found = summary.rosetta
    if found is None:
        return []
    first = (
        f"Every tool is given the {found.requests:,} answered requests of stage"
        f" {found.stage}, timed from sending, ramp and drain included. A dash: the tool has no"
        " such term, or it is absent here. docs/reference/metrics.md has the definitions and"
        " where they were read."
    )
    remarks = {
        f"{TOOLS[key].title}, {TERMS[term][0]}: {entry.note}."
        for key, tool in found.tools.items()
        if key in TOOLS
        for term, entry in tool.figures.items()
        if entry.note and (entry.value is not None or entry.n)
    }
    return [first, *sorted(remarks)]


def recount_row(key: str, found: Recount) -> tuple[str, ...]:
    """The tokenizer's account as a row of the table of reconciliation: whole run, usage, its count,
    difference, tolerance, result, note.
    """
    name = f"{key.replace('_', ' ').capitalize()}, model's tokenizer"
    if found.usage is None or found.tokenizer is None:
        note = found.note or "the prompts were not counted again"
        return (name, *[numbers.DASH] * 4, "not known", note)
    return (
        name,
        numbers.plain(found.usage, 12),
        f"{numbers.plain(found.tokenizer, 12)} (tokenizer)",
        numbers.plain(found.usage - found.tokenizer, 12),
        f"{numbers.share(found.expected)} expected",
        "as expected" if found.ok else "further apart than expected",
        f"{found.requests:,} of {found.of:,} requests; {found.note}",
    )


def quality(summary: Summary) -> list[str]:
    """What the check of the answers found, in sentences."""
    found = summary.quality
    if found is None:
        return ["The answers were not checked: quality unverified."]
    label = "The answers are verified" if found.label == "verified" else "Quality unverified"
    out = [f"{label}. {found.reason[:1].upper()}{found.reason[1:]}."]
    asked = f"{found.texts} greedy completions of {found.max_output_tok} tokens"
    told = (
        "with log-probabilities"
        if found.logprobs
        else "without log-probabilities, which the API does not tell"
    )
    least, most = found.min_agreement, found.logprob_tolerance
    if least is not None and most is not None:
        out.append(
            f"Asked: {asked}, {told}. At least {numbers.share(least)} must agree from the"
            f" beginning, within {most:g} nats in the mean."
        )
    reference = found.reference
    if reference is not None:
        precision = ", ".join(part for part in (reference.dtype, reference.quantization) if part)
        out.append(
            f"The reference: {reference.model_id} ({precision or 'precision not known'}) on"
            f" {reference.engine}."
        )
    for compared, name in (
        (found.before, "Before the load"),
        (found.after, "After the load"),
        (found.change, "After against before the load"),
    ):
        if compared is not None:
            difference = compared.logprob_difference
            apart = "" if difference is None else f", log-probabilities {difference:.3g} nats apart"
            whole = f"{compared.texts_equal} of {found.texts} texts word for word"
            out.append(f"{name}: {numbers.share(compared.agreement)} agree, {whole}{apart}.")
    return out
