"""Recorded traffic: readers of published trace formats, their description, and a plain form that
all of them convert to.
"""

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
