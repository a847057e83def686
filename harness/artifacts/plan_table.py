"""plan.parquet: every planned request, written while iterating over the plan, to limit memory."""

from itertools import islice
from pathlib import Path
from typing import Final

import pyarrow as pa

from harness.artifacts.atomic import parquet_writer
from harness.artifacts.tables import PLAN
from harness.plan.build import RunPlan
from harness.plan.plan_table import PlanTotals, plan_rows

ROWS_AT_ONCE: Final = 20_000
"""Rows in memory; also the size of the file's row groups."""


def write_plan(path: Path, plan: RunPlan) -> PlanTotals:
    """Write the plan's table atomically and return its totals.

    Raises:
        ArtifactError: no space, no permission.
        ProfileError: a trace is broken or has a request that is too long.
    """
    totals = PlanTotals()
    rows = plan_rows(plan, totals)
    with parquet_writer(path, PLAN) as writer:
        while batch := list(islice(rows, ROWS_AT_ONCE)):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=PLAN))
    return totals
