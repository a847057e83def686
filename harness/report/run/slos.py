"""The service-level objectives of a run, each by itself and all together."""

import numpy as np

from harness.artifacts.run_summary import Slos
from harness.core.metrics import METRICS
from harness.reduce.figures.figures import good, intended_in
from harness.reduce.reduction import Reduction
from harness.report import numbers
from harness.report.tables import Table


def objectives(reduction: Reduction) -> Table | None:
    """What was asked and what share of the window's requests met it; None without objectives,
    window or requests in it.

    As in goodput, failed, dropped and unfinished requests are misses of every objective, and those
    that the user cancelled do not count.
    """
    summary = reduction.summary
    slos = summary.slos
    named = {"ttft_s": slos.ttft_s, "tpot_s": slos.tpot_s, "e2e_s": slos.e2e_s}
    limits = {key: limit for key, limit in named.items() if limit is not None}
    if not limits or reduction.headline is None:
        return None
    requests = reduction.run.requests
    mine = intended_in(requests, reduction.headline)
    everyone = int(np.sum(mine & ~requests.cancelled))
    if not everyone:
        return None
    rows = []
    for key, limit in limits.items():
        met = int(np.sum(good(requests, mine, reduction.flows, Slos(**{key: limit}))))
        found = summary.latency[key]
        percentiles = [numbers.duration(getattr(found, name)) for name in ("p50", "p90", "p99")]
        rows.append(
            [
                METRICS[key].title,
                f"≤ {numbers.duration(limit)}",
                numbers.share(met / everyone),
                *percentiles,
            ]
        )
    everything = summary.metrics["slo_met_ratio"].value
    rows.append(["All of them", "", numbers.share(everything), "", "", ""])
    head = ("Objective", "Limit", "Met by", "p50", "p90", "p99")
    left = int(np.sum(mine & requests.cancelled))
    but = f", without {left:,} that the plan cancelled" if left else ""
    return Table(
        f"Objectives, over the {everyone:,} requests intended in the window{but}", head, rows
    )
