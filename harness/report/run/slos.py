"""The service-level objectives (SLOs) of a run, each and all together."""

import numpy as np

from harness.artifacts.run_summary import Slos
from harness.core.metrics import METRICS
from harness.reduce.figures.window_figures import good, intended_in
from harness.reduce.reduction import Reduction
from harness.report.numbers import duration, share
from harness.report.tables import Table


def slos(reduction: Reduction) -> Table | None:
    """Each limit and the share of the window's requests that met it; None without SLOs, window or
    requests in it.

    As in goodput, failed, dropped and unfinished requests miss every SLO, and requests that the
    plan canceled do not count.
    """
    summary = reduction.summary
    limits = {
        key: limit
        for key in ("ttft_s", "tpot_s", "e2e_s")
        if (limit := getattr(summary.slos, key)) is not None
    }
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
        percentiles = [duration(getattr(found, name)) for name in ("p50", "p90", "p99")]
        attained = share(met / everyone)
        rows.append([METRICS[key].title, f"≤ {duration(limit)}", attained, *percentiles])
    attained = share(summary.metrics["slo_met_ratio"].value)
    rows.append(["All SLOs", "", attained, "", "", ""])
    head = ("SLO", "Limit", "Attainment", "p50", "p90", "p99")
    left = int(np.sum(mine & requests.cancelled))
    but = f", without {left:,} canceled by plan" if left else ""
    return Table(f"SLOs, over {everyone:,} requests scheduled in the window{but}", head, rows)
