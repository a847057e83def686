"""Time per output token (TPOT) of one request, for the live exporter and for the report.

TPOT is (last token - first token) / tokens after the first chunk. `genai-perf`, vLLM's benchmarks
and others divide by output tokens - 1, which is the same where the first chunk holds one token;
a first chunk of several tokens (speculative decoding, a server that batches its events) would make
every token look faster than it came.
"""

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Numbers = TypeVar("Numbers", float, npt.NDArray[np.float64])


def tokens_after_first_chunk(
    output_tok: int | None, chunk_tok: int | None, first_chunk_tok: int | None
) -> int | None:
    """Tokens whose arrival can be seen to follow an earlier one's.

    Args:
        output_tok: the server's count; None: unknown.
        chunk_tok: tokens of all chunks; None where the stream does not report them.
        first_chunk_tok: tokens of the first chunk; None likewise.
    """
    if chunk_tok is not None and first_chunk_tok is not None:
        return chunk_tok - first_chunk_tok
    return None if output_tok is None else output_tok - 1


def tpot_s(span_ns: "Numbers", tok_after_first_chunk: "Numbers") -> "Numbers":
    """Seconds per output token.

    Args:
        span_ns: from first to last token, above 0.
        tok_after_first_chunk: above 0; without, or without a span, there is no pace to see.
    """
    return span_ns * 1e-9 / tok_after_first_chunk
