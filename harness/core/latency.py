"""Time per output token (TPOT) of one request, for the live exporter and the report.

TPOT is (last token - first token) / tokens after the first chunk. `genai-perf`, vLLM's benchmarks
and others divide by output tokens - 1, which is the same for a first chunk of one token. With a
first chunk of several tokens (speculative decoding, batched events), that would understate TPOT.
"""

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Numbers = TypeVar("Numbers", float, npt.NDArray[np.float64])


def tokens_after_first_chunk(
    output_tok: int | None, chunk_tok: int | None, first_chunk_tok: int | None
) -> int | None:
    """Output tokens after the first chunk. None means unknown, also for the arguments.

    Args:
        output_tok: the server's count.
        chunk_tok: tokens of all chunks, if the stream reports them.
        first_chunk_tok: tokens of the first chunk, if the stream reports them.
    """
    if chunk_tok is not None and first_chunk_tok is not None:
        return chunk_tok - first_chunk_tok
    return None if output_tok is None else output_tok - 1


def tpot_s(span_ns: "Numbers", tok_after_first_chunk: "Numbers") -> "Numbers":
    """Seconds per output token; `span_ns` is from first to last token. Both must be > 0."""
    return span_ns * 1e-9 / tok_after_first_chunk
