"""`convert_trace`: write any trace as JSON lines of the plain form."""

import json
from pathlib import Path

from harness.core.errors import ProfileError
from harness.plan.traces.open import open_trace
from harness.plan.traces.records import Clock, ReadTally, TraceRequest


def convert_trace(path: Path, out: Path, kind: str = "auto", *, seed: int = 0) -> int:
    """Write a trace in the plain form to a new file, completely or not at all. `seed` is for a
    trace of distributions (ServeGen). Returns the number of requests.

    Raises:
        ProfileError: the trace is broken, or `out` exists or cannot be written.
    """
    trace = open_trace(path, kind)
    if out.exists():
        raise ProfileError(f"{out} exists", next_step="name a new file, or remove it first")
    part = out.with_name(out.name + ".part")
    recordings = trace.clock is Clock.SESSION
    written = 0
    scope = ""
    try:
        with part.open("w", encoding="utf-8") as file:
            for request in trace.requests(seed=seed, tally=ReadTally()):
                if recordings and request.parent_id is None and request.turn == 0:
                    scope = request.session_id or ""
                row = _row(request, scope if recordings else None)
                file.write(json.dumps(row, separators=(",", ":"), ensure_ascii=False) + "\n")
                written += 1
        part.replace(out)
    except OSError as error:
        raise ProfileError(
            f"{out} cannot be written: {error.strerror or error}", next_step="name another file"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return written


def _row(request: TraceRequest, scope: str | None) -> dict[str, object]:
    row: dict[str, object] = {
        "t_s": round(request.t_s, 6),
        "input_tok": request.input_tok,
        "output_tok": request.output_tok,
    }
    optional = {
        "session_id": request.session_id,
        "class": request.workload_class,
        "hash_ids": list(request.block_hashes) if request.block_hashes is not None else None,
        "block_tok": request.block_tok,
        "stop": request.stop,
        "gap_s": request.gap_s,
        "ttft_s": request.ttft_s,
        "reasoning_share": request.reasoning_share,
        "scope": scope,
        "parent_id": request.parent_id,
        "hash_scope": "trace" if scope is not None and not request.hash_scope else None,
    }
    return row | {key: value for key, value in optional.items() if value is not None}
