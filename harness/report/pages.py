"""Renders the pages of all reports and writes their charts as files."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import jinja2
from markupsafe import Markup, escape

from harness.artifacts.atomic import write_bytes
from harness.core.errors import ArtifactError
from harness.report.charts import css_variables, inline, themed

_THEMES: Final = ("light", "dark")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~])")


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart as SVG in placeholder colors: `wide` for desktop and print, `narrow` for a phone.
    `head` is a line of text above it if it is a file of its own.
    """

    wide: str
    narrow: str
    head: str = ""


def html_page(
    template: str, shown: object, drawings: Mapping[str, Drawing], *, css: Sequence[str] = ()
) -> str:
    """One file without links to others: style, script and both drawings of each chart are in it.
    `shown` is `v` in the template; `css` names style sheets in addition to the shared one.
    """
    environment = _environment()
    style = (
        _source("style.css")
        .replace("LIGHT_SERIES", css_variables("light"))
        .replace("DARK_SERIES", css_variables("dark"))
    )
    drawn = {
        key: {
            "wide": Markup(inline(drawing.wide)),  # noqa: S704 - drawn by us
            "narrow": Markup(inline(drawing.narrow)),  # noqa: S704 - drawn by us
        }
        for key, drawing in drawings.items()
    }
    return environment.get_template(template).render(
        v=shown,
        drawn=drawn,
        style=Markup(style + "".join(map(_source, css))),  # noqa: S704 - ours
        script=Markup(_source("report.js")),  # noqa: S704 - ours
    )


def markdown_page(template: str, **values: object) -> str:
    """GitHub-flavored Markdown of a template."""
    return _spaced(_environment().get_template(template).render(**values))


def chart_links(folder: str, key: str) -> dict[str, str]:
    """Theme -> path of a chart's file, for Markdown in the folder above."""
    return {theme: f"{folder}/{key}-{theme}.svg" for theme in _THEMES}


def write_charts(folder: Path, drawings: Mapping[str, Drawing]) -> None:
    """Write each chart once per theme, and remove charts of an earlier page that this one does not
    link.

    Raises:
        ArtifactError: the folder cannot be written.
    """
    if drawings:
        make_folder(folder)
    current = set()
    for key, drawing in drawings.items():
        for theme in _THEMES:
            path = folder / f"{key}-{theme}.svg"
            write_bytes(path, themed(drawing.wide, theme, drawing.head).encode())
            current.add(path)
    for theme in _THEMES:
        for old in folder.glob(f"*-{theme}.svg"):
            if old not in current:
                with suppress(OSError):
                    old.unlink()


def make_folder(folder: Path) -> None:
    """Create a folder if it is missing.

    Raises:
        ArtifactError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(
            f"cannot create {folder}: {error.strerror or error}",
            cause="no permission, or no space",
            next_step="name another folder, or free space there",
        ) from error


def _spaced(text: str) -> str:
    """Exactly one blank line around headings, tables and HTML, as Markdown requires."""
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


def _with_code(text: str) -> Markup:
    """HTML of a text whose code spans are in backticks, as messages have them."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped


@cache
def _environment() -> jinja2.Environment:
    """Templates of this package, with filters for code spans and for Markdown."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.report"),
        # Markdown is escaped by the filters below.
        autoescape=jinja2.select_autoescape(enabled_extensions=("html.j2",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = _with_code
    environment.filters["text"] = _escaped
    environment.filters["cell"] = lambda value: _escaped(value).replace("\n", " ")
    environment.filters["number"] = lambda value: _unbroken(_escaped(value))
    return environment


def _source(name: str) -> str:
    loader = _environment().loader
    assert loader is not None
    return loader.get_source(_environment(), name)[0]


def _escaped(value: object) -> str:
    """Escape Markdown, including the bar that would end a table cell."""
    return _MARKDOWN.sub(r"\\\1", str(value))


_SHORT: Final = 24


def _unbroken(text: str) -> str:
    """Keep a short value on one line, so that its unit stays with its number."""
    return text.replace(" ", "\u00a0") if len(text) <= _SHORT else text.replace("\n", " ")
