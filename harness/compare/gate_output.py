"""Gates for CI: JUnit XML, GitHub annotations, and a Markdown summary for a pull request."""

import re
from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree as ET

from harness.compare.compare import Comparison, table
from harness.compare.gates import GateResult, Outcome
from harness.compare.ratios import Word

_NOT_XML: Final = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_SHOWN: Final = frozenset({Word.BETTER, Word.WORSE})


def junit(gates: Sequence[GateResult], *, strict: bool = False) -> str:
    """JUnit XML: one suite per side, one case per gate. Too few repeats are a skipped case, or with
    `strict` a failure.
    """
    root = ET.Element("testsuites", name="harness gates")
    for side in dict.fromkeys(gate.side for gate in gates):
        mine = [gate for gate in gates if gate.side == side]
        suite = ET.SubElement(
            root,
            "testsuite",
            name=f"side {side}",
            tests=str(len(mine)),
            failures=str(sum(gate.failed(strict=strict) for gate in mine)),
            errors="0",
            skipped=str(sum(gate.outcome is Outcome.TOO_FEW and not strict for gate in mine)),
        )
        for gate in mine:
            case = ET.SubElement(
                suite, "testcase", classname=f"side {side}", name=_xml(gate.threshold.text)
            )
            said = _xml(sentence(gate))
            if gate.failed(strict=strict):
                ET.SubElement(case, "failure", message=said, type=str(gate.outcome)).text = said
            elif gate.outcome is Outcome.TOO_FEW:
                ET.SubElement(case, "skipped", message=said)
            else:
                ET.SubElement(case, "system-out").text = said
    for kind in ("tests", "failures", "errors"):  # Jenkins' schema has no `skipped` here
        root.set(kind, str(sum(int(suite.get(kind, "0")) for suite in root)))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def github(gates: Sequence[GateResult], *, strict: bool = False) -> list[str]:
    """Workflow commands of GitHub Actions, one per gate: an error if it fails, a warning with too
    few repeats, else a notice.
    """
    lines = []
    for gate in gates:
        level = "warning" if gate.outcome is Outcome.TOO_FEW else "notice"
        level = "error" if gate.failed(strict=strict) else level
        title = _property(f"{gate.threshold.text}: {gate.outcome}")
        lines.append(f"::{level} title={title}::{_data(sentence(gate))}")
    return lines


def sentence(gate: GateResult) -> str:
    """One gate in one sentence, with its evidence."""
    _, side, baseline, value, change, least, outcome, reason = gate.row()
    if gate.value is None:
        return f"side {side}: {gate.threshold.text}: {outcome} ({reason})"
    parts = [f"{value} (baseline {baseline})" if gate.threshold.relative else value]
    if change != "—":
        parts.append(change)
    parts.append(f"{gate.n_baseline} + {gate.n} runs" if gate.threshold.relative else _runs(gate.n))
    if gate.detectable is not None:
        parts.append(f"minimum detectable loss {least.removeprefix('≥ ')}")
    because = f" ({reason})" if reason else ""
    metric = gate.threshold.figure
    return f"side {side}: {metric} is {', '.join(parts)}: {outcome}{because}"


def _runs(n: int) -> str:
    return f"{n} run{'' if n == 1 else 's'}"


def summary(comparison: Comparison, *, strict: bool = False) -> str:
    """Markdown for a pull request or a job's summary page: the result first, then gates, then
    differences.
    """
    gates = comparison.gates
    failed = [gate for gate in gates if gate.failed(strict=strict)]
    unclear = [gate for gate in gates if gate.outcome is Outcome.TOO_FEW and gate not in failed]
    if failed:
        head = f"❌ {len(failed)} of {len(gates)} gates failed"
    elif unclear:
        head = f"⚠️ {len(unclear)} of {len(gates)} gates had too few repeats; none failed"
    elif gates:
        head = f"✅ {len(gates)} of {len(gates)} gates passed"
    else:
        head = "Comparison"
    blocks = [f"## {head}"]
    if gates:
        blocks.append(table(GateResult.COLUMNS, [gate.row() for gate in gates]))
    if comparison.allowed:
        blocks.append("\n".join(comparison.allowed_lines()))
    verdicts, *treatments = comparison.treatment_rows()
    shown = comparison.rows()
    if len(comparison.sides) > 1:
        differing = [row for row in treatments if row[0].startswith("* ")]
        blocks.append(table(comparison.treatment_columns(), [verdicts, *differing]))
        changed = [
            cells
            for row, cells in zip(comparison.metrics, shown, strict=True)
            if any(cell.word in _SHOWN for cell in row.cells)
        ]
        if changed or shown:
            blocks.append(
                table(comparison.columns(), changed) if changed else "No metric differs detectably."
            )
    if stages := comparison.stage_blocks()[1:]:
        blocks += ["<details><summary>Stages</summary>", *stages, "</details>"]
    blocks += [
        "<details><summary>All metrics</summary>",
        table(comparison.columns(), shown),
        "</details>",
        "\n".join(f"- {note}" for note in comparison.notes),
    ]
    return "\n\n".join(blocks) + "\n"


def _xml(text: str) -> str:
    return _NOT_XML.sub("?", text)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
