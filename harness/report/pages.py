"""What the pages share: the templates, and Markdown from them."""

import re
from typing import Final

import jinja2

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~])")


def spaced(text: str) -> str:
    """Blank lines around headings, tables and HTML, which Markdown needs to tell them apart;
    nothing else, and never two of them.
    """
    lines = text.splitlines()
    out: list[str] = []
    fenced = False
    for i, line in enumerate(lines):
        before = out[-1] if out else ""
        if not fenced and line and before:
            heads_table = (
                line.startswith("|") and i + 1 < len(lines) and lines[i + 1].startswith("|--")
            )
            other_kind = before.startswith("|") != line.startswith("|")
            if (
                heads_table
                or other_kind
                or line.startswith(("#", "<picture", "<details", "</details"))
                or before.startswith(("#", "</"))
            ):
                out.append("")
        if line.startswith("```"):
            fenced = not fenced
        if fenced or line or before:
            out.append(line)
    return "\n".join(out).strip() + "\n"


def markdown_environment() -> jinja2.Environment:
    """Templates of this folder, with filters that escape text for Markdown."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.report"),
        autoescape=jinja2.select_autoescape(
            enabled_extensions=("html.j2",)
        ),  # Markdown is escaped by the filters below
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["text"] = _escaped
    environment.filters["cell"] = lambda value: _escaped(value).replace("\n", " ")
    environment.filters["figure"] = lambda value: _unbroken(_escaped(value))
    return environment


def _escaped(value: object) -> str:
    """Text that Markdown takes as it is; in table cells a bar would end the cell."""
    return _MARKDOWN.sub(r"\\\1", str(value))


_SHORT: Final = 24


def _unbroken(text: str) -> str:
    """A short figure on one line: a unit is not parted from its number. Longer ones are parted
    where they have to be.
    """
    return text.replace(" ", "\u00a0") if len(text) <= _SHORT else text.replace("\n", " ")
