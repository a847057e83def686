"""Text of prompts: a pure function of seed and key."""

import itertools
import json
from collections.abc import Iterator
from functools import cache

from harness.plan import corpus
from harness.plan.rng import stream
from harness.plan.types import Block

CHUNK_WORDS = 24
"""Consecutive words in one run. Shorter runs do not read as text; longer ones share more between
different blocks by chance.
"""


class Texts:
    """Text of blocks: runs of consecutive words of the corpus, chosen by (seed, key).

    Args:
        seed: of the run. Another seed gives other text, so runs do not reuse each other's cache.
        tok_per_word: tokens per word of the corpus under the model's tokenizer.
    """

    def __init__(self, seed: int, tok_per_word: float) -> None:
        self._seed = seed
        self._tok_per_word = tok_per_word
        self._plain, self._escaped = _running(escape=False), _running(escape=True)

    def text(self, block: Block) -> str:
        """Text of about `block.tok` tokens; at least one word."""
        return " ".join(self._plain[start:end] for start, end in self._runs(block, 0))

    def escaped(self, block: Block) -> bytes:
        """The text as a JSON string, quotes included."""
        return f'"{" ".join(self._escaped[start:end] for start, end in self._runs(block, 1))}"'.encode()  # noqa: E501

    def _runs(self, block: Block, form: int) -> Iterator[tuple[int, int]]:
        """Starts and ends of the block's word runs in the plain (0) or escaped (1) running text."""
        starts, ends = _offsets()[form]
        count = len(starts)
        left = max(1, round(block.tok / self._tok_per_word))
        draw = stream(self._seed, "text", block.key).random
        while left > 0:
            first = int(draw() * count)
            last = min(first + min(left, CHUNK_WORDS), count) - 1
            yield starts[first], ends[last]
            left -= last - first + 1


def _escape(word: str) -> str:
    return json.dumps(word, ensure_ascii=False)[1:-1]


@cache
def _running(*, escape: bool) -> str:
    """The corpus as one line of words, plain or escaped for JSON."""
    return " ".join(map(_escape, corpus.words()) if escape else corpus.words())


@cache
def _offsets() -> tuple[tuple[list[int], list[int]], ...]:
    """Starts and ends of the words in the plain and in the escaped running text."""
    forms = []
    for words in (corpus.words(), tuple(map(_escape, corpus.words()))):
        starts = list(itertools.accumulate((len(word) + 1 for word in words[:-1]), initial=0))
        ends = [start + len(word) for start, word in zip(starts, words, strict=True)]
        forms.append((starts, ends))
    return tuple(forms)
