"""What a long plan costs: `python benchmarks/bench_plan.py`.

One hour at 100 requests a second of Claude Code's sessions with unscaled contexts (about 100k
tokens at the median) is planned and written as `harness run` does (bar: under 60 s and 2 GB). Then
bodies of about 0.5 MB are made as a worker makes them: the first of a session, whose history is
rendered, and later ones, which join what is there. Prints one JSON object.
"""

import json
import resource
import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter, process_time

from harness.artifacts.plan_table import write_plan
from harness.core.records import ModelFacts
from harness.plan.bodies import Conversation
from harness.plan.build import RunPlan, make_plan
from harness.plan.prompt_text import Texts
from harness.profile.schema import Profile

HOUR_S = 3600
REQUESTS_PER_S = 100
REQUESTS_PER_SESSION = 70
"""Mean of the workload's sessions, their subagents included: what turns requests into sessions a
second.
"""
BODIES = 40


def profile(rate_per_s: float) -> Profile:
    return Profile.model_validate(
        {
            "purpose": "measure",
            "model": {"id": "builtin:tiny"},
            "traffic": {
                "workload": {"kind": "claude-code"},
                "load": [{"kind": "arrival_rate", "rate_per_s": rate_per_s, "window_s": HOUR_S}],
            },
        }
    )


def bodies(plan: RunPlan) -> dict[str, float]:
    texts = Texts(plan.seed, plan.tok_per_word)
    first_ms, later_ms, sizes = [], [], []
    for session in plan.sessions(0):
        # Somewhere in the session where the body is about half a megabyte.
        turn = next((t.index for t in session.turns if t.target_input_tok > 120_000), None)
        if turn is None or turn + 1 >= len(session.turns):
            continue
        talk = Conversation(session, plan.settings, "m", texts)
        start = perf_counter()
        sizes.append(len(talk.body(turn)))
        first_ms.append((perf_counter() - start) * 1e3)
        start = perf_counter()
        talk.body(turn + 1)
        later_ms.append((perf_counter() - start) * 1e3)
        if len(sizes) == BODIES:
            break
    return {
        "body_bytes_p50": statistics.median(sizes),
        "first_body_ms_p50": round(statistics.median(first_ms), 3),
        "later_body_ms_p50": round(statistics.median(later_ms), 3),
        "later_body_ms_max": round(max(later_ms), 3),
    }


def main() -> int:
    facts = ModelFacts(
        "builtin:tiny", max_context_tok=262_144, tok_per_word=1.35, eos_reachable=False
    )
    start, cpu = perf_counter(), process_time()
    plan = make_plan(profile(REQUESTS_PER_S / REQUESTS_PER_SESSION), facts)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "plan.parquet"
        totals = write_plan(path, plan)
        size_bytes = path.stat().st_size
    wall_s, cpu_s = perf_counter() - start, process_time() - cpu
    result = {
        "sessions": totals.sessions,
        "requests": totals.requests,
        "requests_per_s": round(totals.requests / HOUR_S, 1),
        "wall_s": round(wall_s, 2),
        "cpu_s": round(cpu_s, 2),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "plan_parquet_bytes": size_bytes,
        "bars": {"wall_s": 60, "peak_rss_bytes": 2 * 1024**3},
        "bodies": bodies(plan),
    }
    print(json.dumps(result))
    return 0 if wall_s < 60 and result["peak_rss_bytes"] < 2 * 1024**3 else 1


if __name__ == "__main__":
    sys.exit(main())
