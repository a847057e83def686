"""`make bench`: run every benchmark of this folder and keep the results, with the machine they were
taken on.

Each `bench_*.py` prints one JSON object; those that study how often intervals and tests are right
are in coverage/. Results go to benchmarks/out/<name>.json and one line each to the terminal.
Absolute figures hold for the machine that is named beside them; compare ratios within one run.
"""

import json
import subprocess
import sys
from pathlib import Path

from harness.core.clock import now_ns, seconds, wall_now
from harness.hardware.host import describe_host

HERE = Path(__file__).parent


def main(names: list[str]) -> int:
    out = HERE / "out"
    out.mkdir(exist_ok=True)
    failed = []
    for script in sorted(HERE.rglob("bench_*.py"), key=lambda path: path.stem):
        name = script.stem.removeprefix("bench_")
        if (
            name not in names if names else name.endswith("_live")
        ):  # half an hour of real runs: only where it is named
            continue
        start_ns = now_ns()
        done = subprocess.run(
            [sys.executable, script], stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            failed.append(name)
            print(f"{name}: FAILED (exit {done.returncode})")
            continue
        result = {
            "benchmark": name,
            "at": wall_now().isoformat(),
            "host": describe_host(),
            "result": json.loads(done.stdout),
        }
        (out / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
        print(
            f"{name} ({seconds(now_ns() - start_ns):.0f} s): {json.dumps(result['result'])}",
            flush=True,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
