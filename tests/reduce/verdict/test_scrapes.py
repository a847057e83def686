"""What scraping itself says against a run is in the verdict."""

import json

import pyarrow as pa
import pytest

from harness.artifacts import tables
from harness.artifacts.journal import JournalWriter
from harness.artifacts.layout import RunDir
from harness.reduce.reduction import reduce_run

T0 = 5_000_000 * 10**9  # as the builder's


def concerns(root) -> dict[str, object]:
    return {concern.code: concern for concern in reduce_run(root).verdict.concerns}


def append(root, target: str, *rows: tuple[int, str | None, bytes | None]) -> None:
    """Further scrapes, as those of a recorder that was started again: (t_ns, error, body)."""
    path = RunDir(root).scrapes_journal
    with JournalWriter(path.with_name("raw-1.arrows"), tables.SCRAPES_RAW) as journal:
        for t_ns, error, body in rows:
            row = {"t_ns": t_ns, "duration_ns": 1, "target": target, "error": error}
            if body is not None:
                row |= {
                    "body_zstd": pa.Codec("zstd").compress(body, asbytes=True),
                    "body_bytes": len(body),
                }
            journal.append([row])


def test_a_target_that_never_answered_is_named_with_its_reason(steady, tmp_path) -> None:
    root = steady(purpose="measure").write(tmp_path / "run")
    append(root, "replica-1", *((T0 + i, "HTTP 500", None) for i in range(3)))
    found = concerns(root)["target_unreachable"]
    assert "replica-1" in found.message
    assert "HTTP 500 (3 times)" in found.message
    assert found.severity == "degraded"


def test_a_few_failed_scrapes_are_a_note_with_their_reason(steady, tmp_path) -> None:
    builder = steady(purpose="measure")
    builder.scrapes = [
        (at, label, None if at == builder.scrapes[5][0] else samples)
        for at, label, samples in builder.scrapes
    ]
    root = builder.write(tmp_path / "run")
    found = concerns(root)["scrapes_failed"]
    assert found.severity == "note"
    assert "connection refused" in found.message
    answer = b"vllm:num_requests_running 1\n"
    append(
        root, "replica-1", (T0 - 1, None, answer), *((T0 + i, "HTTP 503", None) for i in range(3))
    )
    assert (
        "HTTP 503 (3 times)" in concerns(root)["scrapes_missed"].message
    )  # of the target that failed most


@pytest.mark.parametrize(("moved_s", "seen"), [(0.2, False), (30.0, True)])
def test_another_process_is_seen_by_its_start_time_even_where_no_counter_fell(
    steady, tmp_path, moved_s: float, seen: bool
) -> None:
    builder = steady(purpose="measure")
    for position, (_, _, samples) in enumerate(builder.scrapes):
        samples["process_start_time_seconds"] = 1.7e9 + (moved_s if position > 8 else 0.0)
    found = concerns(builder.write(tmp_path / "run"))
    assert ("server_restarted" in found) is seen
    assert not seen or (found["server_restarted"].severity, found["server_restarted"].value) == (
        "invalid",
        1,
    )


@pytest.mark.parametrize(
    ("telemetry", "every_s", "silent_s", "limit_s"),
    [
        ({"scrape_interval_s": 5.0}, 5.0, 20.0, None),
        ({"scrape_interval_s": 5.0}, 5.0, 30.0, 25.0),
        (
            {"scrape_interval_s": 1.0, "prometheus": "http://prometheus:9090"},
            5.0,
            20.0,
            None,
        ),  # which keeps its own interval
        ({"scrape_interval_s": 1.0, "prometheus": "http://prometheus:9090"}, 5.0, 30.0, 25.0),
        ({"scrape_interval_s": 1.0, "prometheus": "managed"}, 6.0, 0.0, 5.0),
    ],
)
def test_a_silence_of_more_than_five_intervals_within_the_window_is_a_gap(
    steady, tmp_path, telemetry: dict, every_s: float, silent_s: float, limit_s: float | None
) -> None:
    builder = steady(purpose="measure", window_s=80.0, one_batch=True)
    kept = {round(i * every_s * 2) for i in range(200) if not 20 < i * every_s < 20 + silent_s}
    builder.scrapes = [
        one for one in builder.scrapes if round((one[0] + 0.5) * 2) in kept or one[1]
    ]
    root = builder.write(tmp_path / "run")
    manifest = json.loads(RunDir(root).manifest.read_text())
    RunDir(root).manifest.write_text(
        json.dumps(manifest | {"profile": manifest["profile"] | {"telemetry": telemetry}})
    )
    found = concerns(root).get("scrape_gap")
    assert (found is None) is (limit_s is None)
    if found is not None:
        assert found.limit == limit_s
        assert limit_s < found.value <= limit_s + every_s + 1


def test_a_silence_before_or_after_the_window_is_none_within_it(steady, tmp_path) -> None:
    builder = steady(purpose="measure", window_s=20.0, warmup_s=20.0)
    builder.scrapes = [
        one
        for one in builder.scrapes
        if not 1 < one[0] < 18 and not (one[0] > 42 and one[1] is None)
    ]
    assert "scrape_gap" not in concerns(builder.write(tmp_path / "run"))


@pytest.mark.parametrize(("lost", "code"), [(1, "scrapes_failed"), (2, "scrapes_missed")])
def test_more_than_a_twentieth_of_the_scrapes_failed(
    steady, tmp_path, lost: int, code: str
) -> None:
    builder = steady(purpose="measure")  # 29 scrapes
    builder.scrapes = [
        (at, label, None if label is None and i in range(3, 3 + lost * 5, 5) else samples)
        for i, (at, label, samples) in enumerate(builder.scrapes)
    ]
    found = concerns(builder.write(tmp_path / "run"))
    assert found[code].value == pytest.approx(lost / len(builder.scrapes))
    assert ({"scrapes_failed", "scrapes_missed"} - {code}).isdisjoint(found)


def test_samples_that_cannot_be_used_are_told_and_do_not_spoil_the_run(steady, tmp_path) -> None:
    root = steady(purpose="measure").write(tmp_path / "run")
    body = b'vllm:num_requests_running{engine="9"} NaN\ntwice 1\ntwice 1\nstamped 1 5\n'
    append(root, "replica-1", (T0 + 1, None, body))
    problems = [
        concern for concern in reduce_run(root).verdict.concerns if concern.code == "scrape_problem"
    ]
    assert {concern.severity for concern in problems} == {"note"}
    text = " ".join(concern.message for concern in problems)
    assert "NaN" in text
    assert "duplicate" in text
    assert "own timestamps" in text
