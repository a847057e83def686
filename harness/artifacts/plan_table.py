"""plan.parquet: every planned request, written as the plan is walked, so that a long plan costs no
memory.
"""

from itertools import islice
from pathlib import Path
from typing import Final

import pyarrow as pa

from harness.artifacts.atomic import parquet_writer
from harness.artifacts.tables import PLAN
from harness.plan.build import RunPlan
from harness.plan.plan_table import PlanTotals, plan_rows

ROWS_AT_ONCE: Final = 20_000
"""Rows that are held in memory; each group of so many is a row group of the file."""


def write_plan(path: Path, plan: RunPlan) -> PlanTotals:
    """Write the plan's table, whole or not at all, and say what it adds up to: one pass over the
    sessions.

    Raises:
        ArtifactError: no space, no permission.
        ProfileError: a trace is broken, or has a request that is too long.
    """
    totals = PlanTotals()
    rows = plan_rows(plan, totals)
    with parquet_writer(path, PLAN) as writer:
        while batch := list(islice(rows, ROWS_AT_ONCE)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=PLAN))
    return totals
