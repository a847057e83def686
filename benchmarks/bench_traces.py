"""What a long trace costs: `python benchmarks/bench_traces.py [--lines 10000000]`.

A plain trace of ten million lines, some of them out of order, is written to a temporary folder (200
MB) and described, once with single requests and once at a tenth of the length with conversations,
in a process of its own each. Memory must not grow with the lines of the first (bar: 200 MB). Prints
one JSON object.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from harness.plan.traces import describe_trace

LINES = 10_000_000
BAR_BYTES = 200 * 1024**2
LINES_OF_A_CONVERSATION = 5
_SWAP_EVERY = 1000


def write(path: Path, lines: int, *, conversations: bool) -> None:
    """Requests 10 ms apart; every thousandth line changes places with the one behind it."""
    head = "t_s,input_tok,output_tok" + (",session_id" if conversations else "")
    with path.open("w", encoding="utf-8") as file:
        file.write(head + "\n")
        for start in range(0, lines, _SWAP_EVERY):
            rows = [
                f"{at / 100},{at * 7919 % 4000 + 1},{at * 104_729 % 900}"
                + (f",c{at // LINES_OF_A_CONVERSATION}" if conversations else "")
                for at in range(start, min(start + _SWAP_EVERY, lines))
            ]
            if len(rows) > 1:
                rows[0], rows[1] = rows[1], rows[0]
            file.write("\n".join(rows) + "\n")


def describe(path: Path) -> dict[str, float]:
    """Describe a trace in this process."""
    start = perf_counter()
    found = describe_trace(path)
    wall_s = perf_counter() - start
    return {
        "requests": found.requests,
        "wall_s": round(wall_s, 2),
        "lines_per_s": round(found.requests / wall_s),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def in_a_process(path: Path) -> dict[str, float]:
    """So that each has a peak of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--describe", str(path)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lines", type=int, default=LINES)
    parser.add_argument("--describe", type=Path)
    args = parser.parse_args()
    if args.describe is not None:
        print(json.dumps(describe(args.describe)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        single, small, talks = (
            Path(name) / f"{kind}.csv" for kind in ("single", "small", "conversations")
        )
        write(single, args.lines, conversations=False)
        write(small, max(1, args.lines // 100), conversations=False)
        write(talks, max(1, args.lines // 10), conversations=True)
        result = {
            "file_bytes": single.stat().st_size,
            "single_requests": in_a_process(single),
            "a_hundredth": in_a_process(small),
            "conversations": in_a_process(talks),
            "bars": {"single_requests.peak_rss_bytes": BAR_BYTES},
        }
    print(json.dumps(result))
    return 0 if result["single_requests"]["peak_rss_bytes"] < BAR_BYTES else 1  # type: ignore[index]


if __name__ == "__main__":
    sys.exit(main())
