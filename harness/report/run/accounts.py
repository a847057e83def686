"""Tables and sentences of a report: request classes, other tools' definitions, recount by the
model's tokenizer, quality.
"""

from collections.abc import Mapping
from typing import Final

from harness.artifacts.run_summary import Recount, Summary
from harness.reduce.figures.other_tools import TERMS, TOOLS, rosetta_table
from harness.report.headline import rows_of
from harness.report.numbers import DASH, figure, plain, share
from harness.report.tables import Table

_CLASS_COLUMNS: Final = {
    "output_tok_s": "Output",
    "input_computed_tok_s": "Computed input",
    "ttft_s.p50": "TTFT p50",
    "ttft_s.p99": "TTFT p99",
    "tpot_s.p50": "TPOT p50",
    "e2e_s.p99": "E2E p99",
    "slo_met_ratio": "SLO attainment",
    "error_ratio": "Failed",
}


def classes(summary: Summary) -> Table | None:
    """Request classes next to each other; None if there is only one."""
    if len(summary.classes) < 2:
        return None
    rows = []
    for one in summary.classes:
        by_key = {row.key: row for row in rows_of(one.metrics, one.latency)}
        cells = [
            f"{by_key[key].value} {by_key[key].unit}".strip() if key in by_key else DASH
            for key in _CLASS_COLUMNS
        ]
        rows.append([one.name, plain(one.requests.in_window), *cells])
    head = ("Class", "Requests", *_CLASS_COLUMNS.values())
    return Table("Request classes in the measurement window", head, rows)


_SHORT: Final[Mapping[str, str]] = {
    "output_tok_s": "Output",
    "tok_s_user": "Per user",
    "tok_s_gpu": "Per GPU",
    "power_w": "Power",
    "output_tok_per_j": "Per J",
    "tok_s_per_mw": "Per MW",
    "duration_s": "Window",
}
"""Short headings; the unit follows."""


def rosetta(summary: Summary) -> Table | None:
    """The run under other tools' definitions: one row per tool, one column per metric that any tool
    has.
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
        "Definition",
        *(
            names[i]
            + (f", {units[i]}" if units[i] not in _IN_CELLS else "")
            + (", p50 / p99" if pair else "")
            for i, pair in zip(columns, paired, strict=True)
        ),
    ]
    return Table("The same data under other tools' metric definitions", head, rows)


_IN_CELLS: Final = frozenset({"s", "1"})
"""Units that differ by cell; other units are in the heading."""


def _cell(cell: tuple[float | None, float | None] | float | None, unit: str) -> str:
    if cell is None:
        return DASH
    if isinstance(cell, tuple):
        low, high = (figure(value, unit) for value in cell)
        if unit not in _IN_CELLS:
            return f"{low[0]} / {high[0]}"
        if low[1] == high[1]:
            return f"{low[0]} / {high[0]} {low[1]}".strip()
        return f"{low[0]} {low[1]} / {high[0]} {high[1]}".strip()
    value, shown = figure(cell, unit)
    shown = shown if unit in _IN_CELLS else ""
    return f"{value} {shown}".strip()


def rosetta_notes(summary: Summary) -> list[str]:
    """Explanations of the table."""
    found = summary.rosetta
    if found is None:
        return []
    first = (
        f"All tools: the {found.requests:,} completed requests of stage {found.stage}, timed from"
        " sending, including ramp and drain. A dash: the tool does not define the metric, or it is"
        " absent here. Definitions and sources: docs/reference/metrics.md."
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
    """The tokenizer's count as a row of the reconciliation table: name, usage, its count,
    difference, tolerance, result, note.
    """
    name = f"{key.replace('_', ' ').capitalize()}, model's tokenizer"
    if found.usage is None or found.tokenizer is None:
        note = found.note or "the prompts were not recounted"
        return (name, *[DASH] * 4, "not available", note)
    return (
        name,
        plain(found.usage, 12),
        f"{plain(found.tokenizer, 12)} (tokenizer)",
        plain(found.usage - found.tokenizer, 12),
        f"{share(found.expected)} expected",
        "as expected" if found.ok else "larger difference than expected",
        f"{found.requests:,} of {found.of:,} requests; {found.note}",
    )


def quality(summary: Summary) -> list[str]:
    """Results of the quality check, in sentences."""
    found = summary.quality
    if found is None:
        return ["Quality unverified: the responses were not checked."]
    label = "Quality verified" if found.label == "verified" else "Quality unverified"
    out = [f"{label}. {found.reason[:1].upper()}{found.reason[1:]}."]
    least, most = found.min_agreement, found.logprob_tolerance
    if least is not None and most is not None:
        logprobs = "with" if found.logprobs else "without (not in this API)"
        out.append(
            f"Check: {found.texts} greedy completions of {found.max_output_tok} tokens, {logprobs}"
            f" log-probabilities. On average, at least {share(least)} of each text must"
            f" agree from the beginning, within {most:g} nats."
        )
    if (reference := found.reference) is not None:
        precision = ", ".join(part for part in (reference.dtype, reference.quantization) if part)
        out.append(
            f"Reference: {reference.model_id} ({precision or 'precision unknown'}) on"
            f" {reference.engine or 'an unknown engine'}."
        )
    for compared, name in (
        (found.before, "Before the load"),
        (found.after, "After the load"),
        (found.change, "After the load compared with before"),
    ):
        if compared is not None:
            difference = compared.logprob_difference
            apart = (
                "" if difference is None else f", log-probabilities differ by {difference:.3g} nats"
            )
            equal = f"{compared.texts_equal} of {found.texts} texts identical"
            out.append(f"{name}: {share(compared.agreement)} agreement, {equal}{apart}.")
    return out
