"""The harness's own English text, for prompts and for training the built-in tokenizer.

It was written for this project (engineering prose, small dialogues, code and tool-output-like
lines), in plain ASCII, one paragraph per line. Any change to it changes prompts, plan hashes, the
built-in tokenizer and its fingerprint.
"""

from functools import cache
from importlib.resources import files


@cache
def paragraphs() -> tuple[str, ...]:
    """The paragraphs of the corpus, in order, without line ends."""
    text = files("harness.plan").joinpath("corpus.txt").read_text(encoding="ascii")
    return tuple(text.splitlines())


@cache
def words() -> tuple[str, ...]:
    """The whitespace-separated words of the corpus, in order."""
    return tuple(word for paragraph in paragraphs() for word in paragraph.split())
