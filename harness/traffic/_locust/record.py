"""One request's record, and records as an Arrow batch of `artifacts.tables.REQUESTS`."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from harness.artifacts.tables import REQUESTS
from harness.core.latency import tpot_s
from harness.core.records import Outcome
from harness.profile.search import Condition
from harness.traffic._locust.answer import Answer


@dataclass(slots=True)
class Record:
    """One request that was sent, attempted or dropped. Fields are those of
    `artifacts.tables.REQUESTS`.
    """

    session_id: str
    turn: int
    workload_class: str
    stage: str
    worker: int
    intended_ns: int
    target_input_tok: int
    target_output_tok: int
    answer: Answer
    replica: str | None = None
    sent_ns: int | None = None
    done_ns: int | None = None
    request_bytes: int | None = None

    @property
    def request_id(self) -> str:
        return f"{self.session_id}/{self.turn}"

    def met(self, conditions: Sequence[Condition]) -> list[bool]:
        """Which conditions the request met, as the reduction counts them later except for responses
        in bursts.
        """
        answer = self.answer
        if answer.outcome is not Outcome.OK or self.done_ns is None:
            return [False] * len(conditions)
        last_ns = answer.last_token_ns or self.done_ns
        first_ns = answer.first_token_ns or last_ns
        gaps = (answer.output_tok or 0) - 1
        tpot = tpot_s(last_ns - first_ns, gaps) if gaps > 0 and last_ns > first_ns else None
        ttft_s, e2e_s = (first_ns - self.intended_ns) * 1e-9, (last_ns - self.intended_ns) * 1e-9
        return [one.is_met(ttft_s, tpot, e2e_s) for one in conditions]


_ELSEWHERE = {"class": "workload_class"}
_OF_ANSWER = frozenset(Answer.__slots__)
_ARRAYS = ("chunk_dt_us", "chunk_bytes", "chunk_tok")


def to_batch(records: Sequence[Record]) -> pa.RecordBatch:
    """Records as one batch. Chunk lists are copied as memory, not element by element."""
    columns: list[pa.Array] = []
    for field in REQUESTS:
        name = field.name
        if name in _ARRAYS:
            columns.append(_lists([getattr(record.answer, name) for record in records], field.type))
        else:
            columns.append(pa.array([_value(record, name) for record in records], field.type))
    return pa.RecordBatch.from_arrays(columns, schema=REQUESTS)


def _value(record: Record, name: str) -> Any:  # noqa: ANN401 - one cell
    if name in _OF_ANSWER:
        value = getattr(record.answer, name)
        if isinstance(value, str):  # a lone surrogate cannot be stored
            return value.encode("utf-8", "replace").decode()
        return (value or None) if name == "content_kinds" else value
    return getattr(record, _ELSEWHERE.get(name, name))


def _lists(values: "Sequence[array[int] | None]", kind: pa.DataType) -> pa.Array:
    offsets = array("i", [0])
    missing = []
    for value in values:
        offsets.append(offsets[-1] + (0 if value is None else len(value)))
        missing.append(value is None)
    data = b"".join(value.tobytes() for value in values if value is not None)
    flat = pa.Array.from_buffers(pa.uint32(), offsets[-1], [None, pa.py_buffer(data)])
    starts = pa.Array.from_buffers(
        pa.int32(), len(offsets), [None, pa.py_buffer(offsets.tobytes())]
    )
    return pa.ListArray.from_arrays(starts, flat, type=kind, mask=pa.array(missing, pa.bool_()))
