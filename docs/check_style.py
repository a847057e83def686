"""Find words that docs/STYLE.md rules out, in docs, templates, YAML and prose of Python files.

Usage: python docs/check_style.py [PATH ...]. Exit code 1 and one line per place if there are any.
In Python files, comments and strings of two words and more are prose; identifiers are not.
"""

import os
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEFAULT = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs",
    "harness",
    "loadprofiles",
    "deploy",
)
ENDINGS = {".md", ".py", ".j2", ".yaml", ".yml", ".json", ".ipynb"}
PROSE = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
CODE = re.compile(r"`[^`\n]*`|https?://\S+|</?figure\b|\{[^{}\n]*\}|\"not told\"")


def patterns() -> list[tuple[re.Pattern[str], str]]:
    """Rows of STYLE.md's table: pattern, replacement."""
    rows = re.findall(r"^\| `(.+)` \| (.+) \|$", (ROOT / "docs/STYLE.md").read_text(), re.MULTILINE)
    return [(re.compile(row.replace(r"\|", "|"), re.IGNORECASE), instead) for row, instead in rows]


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and text of each piece of prose, without code spans and addresses."""
    if path.suffix == ".py":
        with path.open("rb") as file:
            for token in tokenize.tokenize(file.readline):
                if token.type in PROSE and " " in token.string.strip():
                    for offset, line in enumerate(token.string.split("\n")):
                        yield token.start[0] + offset, CODE.sub("", line)
        return
    fenced = False
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        fenced ^= line.lstrip().startswith("```")
        if not fenced:
            yield number, CODE.sub("", line)


def main(arguments: list[str]) -> int:
    """Print every place; the exit code."""
    rules = patterns()
    roots = [Path(one) for one in arguments] or [ROOT / one for one in DEFAULT]
    files = sorted(
        path
        for root in roots
        for path in ([root] if root.is_file() else root.rglob("*"))
        if path.suffix in ENDINGS
        and path.name != "STYLE.md"
        and path.resolve() != Path(__file__).resolve()
        and not (path.suffix == ".json" and "sample" in path.parts)  # recorded runs
        and path.parent.name != "schemas"  # JSON keys and docstrings, which are checked in the code
    )
    found = 0
    for path in files:
        for number, line in prose(path):
            for pattern, instead in rules:
                if hit := pattern.search(line):
                    found += 1
                    where = os.path.relpath(path, ROOT)
                    sys.stdout.write(f"{where}:{number}: {hit[0]!r}: use {instead}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
