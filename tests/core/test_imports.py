"""Processes that measure do without pandas, whatever Arrow would like to have."""

import pytest

CODE = """
import json, sys
import pyarrow as pa
{first}
table = pa.table({{"a": pa.array([1, None])}})
print(json.dumps([table.to_pylist(), "pandas" in sys.modules]))
"""


@pytest.mark.parametrize(
    ("first", "imported"),
    [
        ("", True),
        (
            (
                "from harness.core.imports import keep_pandas_out; keep_pandas_out();"
                " keep_pandas_out()"
            ),
            False,
        ),
    ],
)
def test_arrow_converts_without_pandas(in_child, first, imported):
    assert in_child(CODE.format(first=first)) == [[{"a": 1}, {"a": None}], imported]
