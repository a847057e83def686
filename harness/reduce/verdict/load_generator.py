"""Load-generator timing error: its certificate, and its live error by canaries."""

from collections import Counter
from datetime import datetime
from typing import Final

import numpy as np

from harness.artifacts.canary_truth import pair
from harness.artifacts.run_summary import Calibration, Canary, CarriedLoad, Client, Slos
from harness.core.records import Concern, Outcome, Severity
from harness.reduce.read.requests import Requests
from harness.reduce.read.run import Run, number
from harness.reduce.read.spill import blocks, release
from harness.reduce.statistics.intervals import Floats
from harness.reduce.windows.measurement_window import StageWindow

SLO_SHARE: Final = 0.05
"""Maximum error as a share of the SLO: the resolution of the SLO check."""
ERROR_LIMIT_S: Final = 0.010
"""Maximum error without an SLO."""
CERTIFIED_SLACK: Final = 1.1
"""Maximum load / certified load: levels are tried in steps."""
LOOP_LAG_LIMIT_S: Final = 0.05
"""Maximum event-loop lag without a TTFT SLO, as for schedule lag."""
MAX_AGE_DAYS: Final = 30.0
"""Maximum age of a certificate, as for the cache of `harness.traffic.fidelity`."""
PEAK_S: Final = 5.0
"""The busiest interval of this length is compared with the certificate."""
_STEP_NS: Final = 1e6
_MOST_STEPS: Final = 4_000_000


def bounds(window: StageWindow | None) -> tuple[float, float] | None:
    """Start and end of a measurement window, if it was reached."""
    if window is None or window.start is None or window.end is None:
        return None
    return window.start, window.end


def client(run: Run, headline: StageWindow | None) -> Client:
    """Block `client` of a run's summary."""
    return Client(
        canary=_canary(run, headline), calibration=run.calibration, load=_load(run, headline)
    )


def _canary(run: Run, headline: StageWindow | None) -> Canary | None:
    if not run.canary:
        return None
    rows = run.canary
    if (window := bounds(headline)) is not None:
        # Canaries that were streaming at any time in the window.
        rows = [
            row
            for row in rows
            if run.at(row["intended_ns"]) < window[1]
            and run.at(row["done_ns"] or row["intended_ns"]) >= window[0]
        ]
    errors = pair(rows, run.canary_truth)
    return Canary(
        requests=len(rows),
        by_outcome=dict(sorted(Counter(row["outcome"] for row in rows).items())),
        paired=len(errors.ttft_s),
        unpaired=errors.unpaired,
        events=errors.events,
        **errors.spreads(),
    )


def _load(run: Run, headline: StageWindow | None) -> CarriedLoad | None:
    """Load in the window; events are reads with content, as in the certificate."""
    window = bounds(headline)
    if window is None or window[1] <= window[0]:
        return None
    start, end = window
    length_s = (end - start) * 1e-9
    events = _arrivals(run.requests, start, end)
    bodies = run.requests.request_bytes[~np.isnan(run.requests.request_bytes)]
    lags = (
        number(event.get("lag_s")) or 0.0
        for event in run.events
        if event["event"] == "loop_lag"
        and isinstance(event.get("t_ns"), int)
        and start <= run.at(event["t_ns"]) < end
    )
    return CarriedLoad(
        events_per_s=float(np.sum(events)) / length_s,
        events_per_s_peak=_peak(events, length_s),
        body_bytes_mean=float(np.mean(bodies)) if len(bodies) else None,
        loop_lag_s_max=max(lags, default=None),
    )


def _arrivals(requests: Requests, start: float, end: float) -> Floats:
    """Number of chunks that arrived in each step of [start, end): 1 ms, longer in long windows."""
    t = requests.chunks.t
    steps = min(max(1, int((end - start) / _STEP_NS)), _MOST_STEPS)
    counts = np.zeros(steps)
    for rows in blocks(len(t)):
        part = t[rows]
        part = part[(part >= start) & (part < end)]
        if len(part):
            step = np.minimum(
                ((part - start) * (steps / (end - start))).astype(np.int64), steps - 1
            )
            first = int(np.min(step))
            found = np.bincount(step - first)
            counts[first : first + len(found)] += found
        release(t)
    return counts


def _peak(events: Floats, length_s: float) -> float:
    """Events per second in the busiest interval of `PEAK_S`."""
    width = round(PEAK_S / length_s * len(events))
    if width >= len(events) or width < 1:
        return float(np.sum(events)) / length_s
    upto = np.concatenate([np.zeros(1), np.cumsum(events)])
    return float(np.max(upto[width:] - upto[:-width])) / (width * length_s / len(events))


def client_concerns(run: Run, found: Client, slos: Slos, *, smoke: bool) -> list[Concern]:
    """Concerns about the load generator's clock."""
    severity = Severity.NOTE if smoke else Severity.DEGRADED
    out = _canary_concerns(run, found.canary, slos, severity)
    calibration, load = found.calibration, found.load or CarriedLoad()
    lag_s = load.loop_lag_s_max
    limit_s = SLO_SHARE * slos.ttft_s if slos.ttft_s else LOOP_LAG_LIMIT_S
    if lag_s is not None and lag_s > limit_s:
        text = (
            f"The load generator's event loop stalled for {lag_s * 1e3:.0f} ms; timings taken"
            " during the stall are unreliable."
        )
        out.append(Concern("event_loop_lag", severity, text, lag_s, limit_s))
    if calibration is None:
        if not smoke and not any(
            concern.code.startswith("calibration_") for concern in run.concerns
        ):
            text = (
                "The run has no client-fidelity certificate, so the load generator's capacity on"
                " this host is unknown."
            )
            out.append(Concern("calibration_missing", severity, text))
        return out
    out += _stale(run, calibration, severity)
    if not calibration.sufficient:
        text = "In calibration, this host's load generator did not carry the load within bounds."
        out.append(Concern("calibration_insufficient", severity, text))
    workers = int(run.manifest.workers or calibration.workers or 1)
    certified = (calibration.certified_events_per_s or {}).get(str(workers))
    peak = load.events_per_s_peak
    if certified is not None and peak is not None and peak > certified * CERTIFIED_SLACK:
        text = (
            f"Load reached {peak:,.0f} events/s; the load generator is certified up to"
            f" {certified:,.0f}."
        )
        out.append(Concern("beyond_certificate", severity, text, peak, certified))
    bytes_certified = number((calibration.load or {}).get("body_bytes"))
    bytes_mean = load.body_bytes_mean
    if (
        bytes_certified is not None
        and bytes_mean is not None
        and bytes_mean > bytes_certified * CERTIFIED_SLACK
    ):
        text = (
            f"Request bodies averaged {bytes_mean:,.0f} bytes; the load generator is certified with"
            f" {bytes_certified:,.0f}."
        )
        out.append(Concern("beyond_certificate", severity, text, bytes_mean, bytes_certified))
    return out


def _stale(run: Run, calibration: Calibration, severity: Severity) -> list[Concern]:
    """A certificate is valid for one host and a limited time: kernels and drivers change."""
    out = []
    unix_ns = next((anchor.unix_ns for anchor in run.manifest.clock_anchors), None)
    made = _unix_s(calibration.made_at)
    if unix_ns is not None and made is not None:
        days = (float(unix_ns) * 1e-9 - made) / 86400
        if abs(days) > MAX_AGE_DAYS:
            text = f"The client-fidelity certificate is {days:.0f} days older than the run."
            out.append(Concern("calibration_stale", severity, text, days, MAX_AGE_DAYS))
    its = (calibration.host or {}).get("cpu")
    here = None if (cpu := run.manifest.hardware.cpu) is None else cpu.model
    if its and here and its != here:
        text = f"The client-fidelity certificate is for another host: {its}, not {here}."
        out.append(Concern("calibration_stale", severity, text))
    return out


def _unix_s(made_at: object) -> float | None:
    try:
        return datetime.fromisoformat(str(made_at)).timestamp()
    except ValueError:
        return None


def _canary_concerns(
    run: Run, canary: Canary | None, slos: Slos, severity: Severity
) -> list[Concern]:
    if canary is None:
        text = "No canary was recorded, so the load generator's live error is unknown."
        return [Concern("canary_missing", severity, text)] if run.manifest.canary else []
    out = []
    bad = canary.unpaired + sum(
        count
        for outcome, count in canary.by_outcome.items()
        if outcome not in (Outcome.OK, Outcome.INTERRUPTED)
    )
    if bad:
        text = (
            f"{bad} of {canary.requests} canary requests failed or disagree with the reference"
            " server's timestamps."
        )
        out.append(Concern("canary_failed", severity, text, bad, 0))
    for error, words, slo in (
        (canary.ttft_error, "first tokens", slos.ttft_s),
        (canary.gap_error, "gaps between tokens", None),
    ):
        found = error.p99_s
        limit_s = SLO_SHARE * slo if slo else ERROR_LIMIT_S
        if found is not None and found > limit_s:
            text = (
                f"The load generator's timing error was up to {found * 1e3:.0f} ms for {words} (p99"
                " of the canaries)."
            )
            out.append(Concern("client_error", severity, text, found, limit_s))
    return out
