"""Gates by simulation: how often a true loss is found, how often equal systems are called worse,
and whether the printed smallest detectable loss is the one that simulation finds.

The bar: a gate at 2.5 % against a true loss of 5 %, 5 repeats a side, CV 1.5 %: found in at least
90 % of 1,000 comparisons; equal systems fail in under 2 %; where the true loss is the printed one,
90 % are found.
"""

import argparse
import json
import math
from pathlib import Path
from statistics import median

import numpy as np

from harness.artifacts.recorded_run import RecordedRun
from harness.artifacts.run_result import RunResult
from harness.artifacts.run_summary import (
    Figure,
    ProfileName,
    RequestCounts,
    Summary,
    Verdict,
    Window,
)
from harness.compare.gates import GATE_ALPHA, Outcome, evaluate_gates
from harness.compare.hypothesis_tests import two_samples
from harness.core import metrics as definitions
from harness.core.metrics import METRIC_VERSION
from harness.core.records import Status
from harness.profile.thresholds import parse_threshold

METRICS = ("output_tok_s", "requests_per_s", "goodput_rps", "interactivity_tok_s_user")


def runs(name: str, values: np.ndarray) -> list[RunResult]:
    """Runs with one row of values each, in the order of METRICS."""
    return [
        RunResult(
            Path(f"{name}{i}"),
            RecordedRun(),
            Summary(
                schema_version=1,
                metric_version=METRIC_VERSION,
                run_id=f"{name}{i}",
                state="complete",
                profile=ProfileName(),
                verdict=Verdict(Status.VALID),
                window=Window(0.0, 60.0, 60.0, "simulated"),
                requests=RequestCounts(1, 1, 1, 0, 0, 0, {"ok": 1}, 1),
                metrics={
                    key: Figure(float(x), definitions.METRICS[key].unit)
                    for key, x in zip(METRICS, row, strict=False)
                },
                latency={},
                reconciliation={},
                stages=(),
            ),
        )
        for i, row in enumerate(values)
    ]


def simulate(
    *,
    loss: float,
    cv: float,
    repeats: int,
    margin: float,
    gates: int = 1,
    times: int = 1000,
    seed: int = 1,
) -> dict[str, float]:
    """Shares of outcomes over simulated comparisons in which every figure of the side is worse by
    `loss`.
    """
    rng = np.random.default_rng(seed)
    thresholds = [parse_threshold(f"{key} >= {1 - margin:g} * baseline") for key in METRICS[:gates]]
    counts = dict.fromkeys(Outcome, 0)
    printed = []
    for _ in range(times):
        a, b = (
            mean * (1 + cv * rng.standard_normal((repeats, gates)))
            for mean in (1000.0, 1000.0 * (1 - loss))
        )
        results = evaluate_gates(thresholds, {"A": runs("a", a), "B": runs("b", b)})
        worst = next(
            (o for o in (Outcome.FAILED, Outcome.TOO_FEW) if any(r.outcome is o for r in results)),
            Outcome.PASSED,
        )
        counts[worst] += 1
        printed += [r.detectable for r in results if r.detectable is not None]
    return {
        **{str(outcome): count / times for outcome, count in counts.items()},
        "printed_detectable_median": median(printed),
    }


def true_detectable(*, cv: float, repeats: int, margin: float, gates: int = 1) -> float:
    """The loss that the gate's arithmetic calls detectable, with the true CV in place of the
    sample's.
    """
    return -math.expm1(
        -two_samples(
            cv, repeats, repeats, GATE_ALPHA / gates, margin=-math.log(1 - margin)
        ).detectable()
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=1000)
    times = parser.parse_args().times
    bar = {"cv": 0.015, "repeats": 5, "margin": 0.025, "times": times}
    loss, equal = simulate(loss=0.05, seed=1, **bar), simulate(loss=0.0, seed=2, **bar)
    four = simulate(loss=0.0, seed=3, gates=4, **bar)
    noisy = simulate(loss=0.0, seed=4, cv=0.10, repeats=5, margin=0.025, times=times)
    agreement = []
    for cv, repeats, margin in (
        (0.015, 5, 0.025),
        (0.03, 5, 0.025),
        (0.015, 3, 0.025),
        (0.03, 10, 0.05),
    ):
        least = true_detectable(cv=cv, repeats=repeats, margin=margin)
        found = simulate(loss=least, cv=cv, repeats=repeats, margin=margin, times=times, seed=5)
        agreement.append(
            {
                "cv": cv,
                "repeats": repeats,
                "margin": margin,
                "detectable": least,
                "found_at_that_loss": found[Outcome.FAILED],
                "printed_median": found["printed_detectable_median"],
            }
        )
    agrees = all(0.87 <= one["found_at_that_loss"] <= 0.93 for one in agreement)
    result = {
        "bar": {
            "detected": loss[Outcome.FAILED],
            "wanted_at_least": 0.9,
            "false_alarms": equal[Outcome.FAILED],
            "wanted_below": 0.02,
            "met": loss[Outcome.FAILED] >= 0.9 and equal[Outcome.FAILED] < 0.02 and agrees,
        },
        "loss_of_5_percent": loss,
        "equal": equal,
        "equal_four_gates": four,
        "equal_cv_10_percent": noisy,
        "detectable_against_simulation": agreement,
    }
    print(json.dumps(result, indent=2))
    return 0 if result["bar"]["met"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
