"""Read recorded traffic in published formats, describe it, and convert it to a plain form."""

from harness.plan.traces.convert import convert_trace
from harness.plan.traces.describe import TraceDescription, describe_trace
from harness.plan.traces.open import KINDS, open_trace
from harness.plan.traces.records import Clock, ReadTally, Trace, TraceRequest, TraceSession

__all__ = [
    "KINDS",
    "Clock",
    "ReadTally",
    "Trace",
    "TraceDescription",
    "TraceRequest",
    "TraceSession",
    "convert_trace",
    "describe_trace",
    "open_trace",
]
