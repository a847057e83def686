"""The harness's own English text: what prompts are filled with, and what the built-in tokenizer is
trained on.

The text is written for this project (engineering prose, small dialogues, code and tool-output-like
lines), plain ASCII, one paragraph a line. It is part of every plan's identity: changing it changes
prompts, the built-in tokenizer and its fingerprint.
"""

from functools import cache
from importlib.resources import files


@cache
def paragraphs() -> tuple[str, ...]:
    """The paragraphs of the corpus, in order, without line ends."""
    return tuple(
        files("harness.plan").joinpath("corpus.txt").read_text(encoding="ascii").splitlines()
    )


@cache
def words() -> tuple[str, ...]:
    """The corpus as whitespace-separated words, in order."""
    return tuple(word for paragraph in paragraphs() for word in paragraph.split())
