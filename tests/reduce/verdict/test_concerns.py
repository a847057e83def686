"""Every reason to doubt a run: a run directory that raises it, its severity, and whether it comes
with a value and a limit.

The base is a measurement that raises none of them but those of its shortness; each case changes one
thing.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from harness.artifacts import tables
from harness.artifacts.finalize import finalize
from harness.artifacts.journal import JournalWriter
from harness.artifacts.layout import RunDir
from harness.reduce import reduce_run

ROOT = Path(__file__).parents[3]
S = 1_000_000_000
CERTIFICATE = {
    "made_at": "2026-08-01T11:00:00+00:00",
    "quick": False,
    "bound_s": 0.005,
    "workers": 2,
    "sufficient": True,
    "certified_events_per_s": {"2": 5000.0},
    "load": {"body_bytes": 1024},
    "cores": {},
    "host": {"cpu": "AMD EPYC 9554"},
}
ANSWER = {
    "text": "a b c",
    "tokens": ["a", " b", " c"],
    "logprobs": [-1.0] * 3,
    "input_tok": 5,
    "output_tok": 3,
}
ASKED = {
    "replica-0": {
        "route": "completions",
        "logprobs": True,
        "answers": [ANSWER],
        "status": None,
        "error": None,
    }
}
QUALITY = {
    "min_agreement": 0.7,
    "logprob_tolerance": 0.1,
    "before": ASKED,
    "after": ASKED,
    "reference": {"answers": [ANSWER]},
}


def base(steady: Callable[..., Any], **fields: Any) -> Any:
    """A measurement with nothing wrong but its length: GPUs, power, certificate, checked answers."""
    builder = steady(
        **{"purpose": "measure", "window_s": 31.0, "gpus": 1, "one_batch": True, **fields}
    )
    builder.constant_power(500.0)
    return builder


def nothing(_: Any) -> None:
    pass


@dataclass(frozen=True)
class Case:
    """What raises a concern.

    Attributes:
        severity: under purpose measure.
        builder: changes the builder before the run is written.
        root: changes the run directory.
        numbers: whether it comes with a value and a limit.
        fields: of the builder from the start.
    """

    severity: str
    builder: Callable[[Any], Any] = nothing
    root: Callable[[Path], Any] = nothing
    numbers: bool = True
    fields: tuple[tuple[str, Any], ...] = ()


def every_row(**fields: Any) -> Callable[[Any], None]:
    return lambda builder: [row.update(fields) for row in builder.requests]


def lose(count: int, outcome: str) -> Callable[[Any], None]:
    return lambda builder: [builder.lost(10 + i / 100, outcome) for i in range(count)]


def write_json(name: str, content: Any) -> Callable[[Path], None]:
    return lambda root: (root / name).write_text(
        content if isinstance(content, str) else json.dumps(content)
    )


def manifest(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        fields = json.loads((root / "manifest.json").read_text())
        change(fields)
        (root / "manifest.json").write_text(json.dumps(fields))

    return apply


def planned(**fields: Any) -> Callable[[Path], None]:
    return manifest(lambda found: found["plan"].update(fields))


def event(**fields: Any) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        t0 = json.loads((root / "manifest.json").read_text())["started_ns"]
        with (root / "events.jsonl").open("a") as file:
            times = {
                key.removesuffix("_at_s") + "_ns": t0 + round(value * S)
                for key, value in fields.items()
                if key.endswith("_at_s")
            }
            rest = {key: value for key, value in fields.items() if not key.endswith("at_s")}
            file.write(json.dumps({"t_ns": t0 + round(fields["at_s"] * S), **rest, **times}) + "\n")

    return apply


def scrapes(change: Callable[[float, dict[str, float]], Any]) -> Callable[[Any], None]:
    """Change every scrape's samples; one that comes to None failed."""
    return lambda builder: builder.scrapes.__setitem__(
        slice(None),
        [
            (at, label, change(at, samples) if label is None or at < 0 else samples)
            for at, label, samples in builder.scrapes
        ],
    )


def server_ttft(unit: float) -> Callable[[Any], None]:
    """A histogram of the time to the first token, 0.15 s each, in some unit of seconds."""

    def told(_: float, samples: dict[str, float]) -> dict[str, float]:
        answers, name = samples["vllm:request_success_total"], "vllm:time_to_first_token_seconds"
        return {**samples, f"{name}_count": answers, f"{name}_sum": answers * 0.15 * unit}

    return scrapes(told)


def silent(builder: Any) -> None:
    builder.scrapes[:] = [one for one in builder.scrapes if not 10 < one[0] < 20]


def restarted(at: float, samples: dict[str, float]) -> dict[str, float]:
    return {
        key: value / 2 if 15 < at < 16.6 and key.endswith("_total") else value
        for key, value in samples.items()
    }


def in_turn(builder: Any) -> None:
    """Two processes behind one address, the second with other counts."""
    builder.scrapes[:] = [
        (at, label, {k: v + 90_000 * (n % 2) * k.endswith("_total") for k, v in samples.items()})
        for n, (at, label, samples) in enumerate(builder.scrapes)
    ]


def warm(builder: Any) -> None:
    """Counters that began high, so that differences stay as they were."""
    builder.scrapes[:] = [
        (at, label, {k: v + 5000 * k.endswith("_total") for k, v in samples.items()})
        for at, label, samples in builder.scrapes
    ]


def without_power(fields: Any, between: tuple[float, float]) -> None:
    start = fields.power[0]["t_ns"] + S  # readings begin a second before the run
    fields.power[:] = [
        row for row in fields.power if not between[0] < (row["t_ns"] - start) / S < between[1]
    ]


def boards(rows: int = 40, **fields: Any) -> Callable[[Path], None]:
    """A row a second of the board's state."""

    def apply(root: Path) -> None:
        t0 = json.loads((root / "manifest.json").read_text())["started_ns"]
        row = {
            "device_id": "GPU-0",
            "sm_clock_mhz": 1800,
            "mem_clock_mhz": 2600,
            "temperature_c": 60.0,
            "power_limit_w": 700.0,
            "utilization_ratio": 0.9,
            "throttle_reasons": 0,
            "ecc_uncorrected": 0,
            "foreign_processes": 0,
            **fields,
        }
        with JournalWriter(RunDir(root).boards_journal, tables.BOARDS) as journal:
            empty = dict.fromkeys(tables.BOARDS.names)
            journal.append([{**empty, **row, "t_ns": t0 + i * S} for i in range(rows)])

    return apply


def stop(builder: Any, at_s: float) -> None:
    """Nothing was recorded after this moment."""
    start = builder.requests[0]["intended_ns"]
    builder.requests[:] = [row for row in builder.requests if row["done_ns"] < start + at_s * S]
    builder.scrapes[:] = [one for one in builder.scrapes if one[0] < at_s]
    builder.host[:] = [row for row in builder.host if row["t_ns"] < start + at_s * S]
    without_power(builder, (at_s, 1e9))


def canaries(errors_ms: float, *, outcome: str = "ok") -> Callable[[Path], None]:
    """One canary whose tokens were read so much later than they were written."""

    def apply(root: Path) -> None:
        t0 = json.loads((root / "manifest.json").read_text())["started_ns"] + 10 * S
        written = [t0 + i * 20_000_000 for i in range(5)]
        read = [t + round(errors_ms * 1e6) for t in written]
        row = dict.fromkeys(tables.REQUESTS.names) | {
            "request_id": "canary-0/0",
            "session_id": "canary-0",
            "turn": 0,
            "class": "canary",
            "stage": "main",
            "replica": "canary",
            "worker": 0,
            "intended_ns": t0 - 50_000_000,
            "sent_ns": t0 - 50_000_000,
            "first_byte_ns": read[0],
            "first_token_ns": read[0],
            "last_token_ns": read[-1],
            "done_ns": read[-1] + 1,
            "outcome": outcome,
            "output_tok": 5,
            "chunk_dt_us": [0, *[20_000] * 4],
            "chunk_bytes": [4] * 5,
        }
        with JournalWriter(RunDir(root).requests_journal(7), tables.REQUESTS) as journal:
            journal.append([row])
        truth = {
            "request_id": "canary-0/0",
            "received_ns": row["sent_ns"],
            "content_ns": written,
            "content_bytes": [4] * 5,
        }
        RunDir(root).canary_truth.write_text(json.dumps(truth) + "\n")

    return apply


def changed(**fields: Any) -> dict[str, Any]:
    return QUALITY | fields


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


WRONG = {
    "replica-0": {
        **ASKED["replica-0"],
        "answers": [{**ANSWER, "text": "x", "tokens": ["x"], "logprobs": [-1.0]}],
    }
}
REFUSED = {"replica-0": {"route": "completions", "answers": [], "status": 404, "error": "no route"}}

CHUNKS = ("chunk_dt_us", "chunk_bytes", "chunk_tok")

CASES = {
    # client saturated
    "client_saturated": Case("degraded", lambda b: (b.host.clear(), b.idle_host(0.9))),
    "client_not_watched": Case("degraded", lambda b: b.host.clear(), numbers=False),
    "event_loop_lag": Case("degraded", root=event(event="loop_lag", at_s=12, lag_s=0.4)),
    "client_error": Case("degraded", root=canaries(400.0)),
    "canary_failed": Case("degraded", root=canaries(0.0, outcome="timeout_idle")),
    "canary_missing": Case(
        "degraded", root=manifest(lambda m: m.update(canary=True)), numbers=False
    ),
    # drops and late sends
    "requests_dropped": Case("degraded", lose(3, "dropped")),
    "late_sends": Case(
        "degraded",
        lambda b: [row.update(sent_ns=row["intended_ns"] + S // 5) for row in b.requests],
    ),
    "turns_not_happened": Case(
        "note", root=event(event="stage_ended", at_s=39, stage="main", turns_not_happened=4)
    ),
    # token counts
    "not_reconciled": Case("invalid", lambda b: b.requests[50].update(output_tok=9)),
    "window_not_reconciled": Case(
        "degraded",
        scrapes(lambda at, s: {k: v * (1.05 if 10 < at < 40 else 1) for k, v in s.items()}),
    ),
    "usage_missing": Case("degraded", lambda b: b.requests[50].update(output_tok=None)),
    "usage_zero": Case("degraded", every_row(notes="usage_zero")),
    "usage_unusable": Case("degraded", every_row(notes="content_form usage_unusable")),
    "usage_disagrees": Case("degraded", every_row(notes="usage_disagrees")),
    "usage_repeated": Case("note", every_row(notes="usage_repeated")),
    # form of responses
    "response_form": Case("note", lambda b: b.requests[50].update(notes="no_end_marker")),
    "response_compressed": Case("note", lambda b: b.requests[50].update(notes="compressed")),
    "no_content": Case(
        "degraded", every_row(**dict.fromkeys(("first_token_ns", *CHUNKS, "last_token_ns")))
    ),
    "stream_in_bursts": Case("degraded", every_row(notes="burst")),
    "no_arrival_times": Case("note", every_row(notes="read_times")),
    "server_ttft_below_client": Case("note", server_ttft(0.1)),
    "tokenizer_disagrees": Case(
        "degraded",
        root=write_json(
            "recount.json",
            {"api": "chat", "usage_tok": 100, "text_tok": 80, "template_tok": 80, "requests": 1},
        ),
    ),
    # window
    "window_short": Case("preliminary"),
    "few_completions": Case("preliminary", lambda b: b.requests.__delitem__(slice(20, None))),
    "energy_window_short": Case("preliminary", fields=(("window_s", 12.0),)),
    "window_cut": Case(
        "invalid",
        lambda b: (setattr(b, "state", "running"), setattr(b, "stage_ended", False), stop(b, 20)),
        numbers=False,
    ),
    "window_with_ramp": Case(
        "preliminary",
        root=event(event="stage_ended", at_s=39, stage="main", window_end_at_s=20),
        numbers=False,
    ),
    "empty_window": Case("invalid", lambda b: [row.update(stage="other") for row in b.requests]),
    "no_window": Case(
        "invalid",
        root=lambda root: (
            (root / "events.jsonl").unlink(),
            [p.unlink() for p in root.glob("requests/*")],
        ),
        numbers=False,
    ),
    # server
    "scrapes_missed": Case(
        "degraded", scrapes(lambda at, s: None if round(at + 0.5) % 4 == 0 else s)
    ),
    "scrape_gap": Case("degraded", silent),
    "server_restarted": Case("invalid", scrapes(restarted)),
    "metrics_mixed": Case("degraded", in_turn),
    "server_warm": Case("degraded", warm),
    "server_ttft_above_client": Case("degraded", server_ttft(1000)),
    # power
    "power_gap": Case("degraded", lambda b: without_power(b, (10, 20))),
    "power_missing": Case("degraded", lambda b: b.power.clear(), numbers=False),
    "energy_disagrees": Case(
        "degraded", lambda b: [r.update(power_w=800.0) for r in b.power if r["power_w"]]
    ),
    "gpu_set": Case("degraded", lambda b: setattr(b, "gpus", 2)),
    "throttled": Case("invalid", root=boards(throttle_reasons=0x40)),
    "power_capped": Case("note", root=boards(throttle_reasons=0x4), numbers=False),
    "power_limit": Case("note", root=boards(power_limit_w=500.0)),
    "foreign_processes": Case("degraded", root=boards(foreign_processes=1)),
    # answers
    "client_limit": Case("invalid", lose(2, "client_limit")),
    "requests_failed": Case("degraded", lose(6, "http_error")),
    "no_answer": Case("invalid", lambda b: (b.requests.clear(), lose(3, "timeout_total")(b))),
    "no_requests": Case("invalid", lambda b: b.requests.clear()),
    "output_length": Case("degraded", lambda b: b.requests[50].update(target_output_tok=11)),
    "input_length": Case("note", every_row(target_input_tok=50)),
    "lengths_scaled": Case("note", root=planned(context_scale=0.5)),
    "lengths_clipped": Case("degraded", root=planned(clipped_requests=50, planned_requests=200)),
    "duplicate_requests": Case("invalid", lambda b: b.requests.append(dict(b.requests[7]))),
    "times_backwards": Case("invalid", lambda b: b.requests[50].update(last_token_ns=1)),
    "usage_impossible": Case("invalid", lambda b: b.requests[50].update(cache_read_tok=101)),
    "chunk_tokens_disagree": Case("degraded", every_row(chunk_tok=[2] * 10)),
    "chunk_times_disagree": Case("degraded", every_row(chunk_dt_us=[0] + [50] * 9)),
    # certificate
    "calibration_missing": Case(
        "degraded", root=lambda root: (root / "calibration.json").unlink(), numbers=False
    ),
    "calibration_unreadable": Case(
        "degraded", root=write_json("calibration.json", "{"), numbers=False
    ),
    "calibration_stale": Case(
        "degraded",
        root=write_json("calibration.json", CERTIFICATE | {"made_at": "2026-05-01T11:00:00+00:00"}),
    ),
    "calibration_insufficient": Case(
        "degraded",
        root=write_json("calibration.json", CERTIFICATE | {"sufficient": False}),
        numbers=False,
    ),
    "beyond_certificate": Case(
        "degraded",
        root=write_json("calibration.json", CERTIFICATE | {"certified_events_per_s": {"2": 5.0}}),
    ),
    # quality
    "quality_failed": Case("invalid", root=write_json("quality.json", changed(after=WRONG))),
    "quality_missing": Case(
        "degraded",
        root=write_json("quality.json", changed(before=REFUSED, after=REFUSED)),
        numbers=False,
    ),
    "quality_unverified": Case("note", root=write_json("quality.json", changed(reference=None))),
    # the directory
    "interrupted": Case("degraded", lambda b: setattr(b, "state", "interrupted"), numbers=False),
    "killed": Case("invalid", lambda b: setattr(b, "state", "running"), numbers=False),
    "failed": Case("invalid", lambda b: setattr(b, "state", None), numbers=False),
    "manifest_missing": Case(
        "invalid", root=lambda root: (root / "manifest.json").unlink(), numbers=False
    ),
    "manifest_unreadable": Case("invalid", root=write_json("manifest.json", "{"), numbers=False),
    "purpose_unknown": Case(
        "invalid", root=manifest(lambda m: m["profile"].pop("purpose")), numbers=False
    ),
    "requests_torn": Case(
        "invalid", root=lambda root: [cut(path) for path in root.glob("requests/*")], numbers=False
    ),
    "requests_missing": Case(
        "invalid",
        root=lambda root: [path.unlink() for path in root.glob("requests/*")],
        numbers=False,
    ),
    "table_unreadable": Case("note", root=write_json("power.parquet", "PAR1 torn"), numbers=False),
}

NUMBERS: dict[str, tuple[float, float]] = {
    "client_saturated": (0.9, 0.85),
    "event_loop_lag": (0.4, 0.05),
    "client_error": (0.4, 0.05),
    "requests_dropped": (3, 0),
    "late_sends": (0.2, 0.05),
    "turns_not_happened": (4, 0),
    "not_reconciled": (1, 0),
    "window_not_reconciled": (1 - 31 / (1.05 * 33 - 2), 0.01),
    "usage_missing": (1, 0),
    "tokenizer_disagrees": (0.2, 0.005),
    "window_short": (31, 600),
    "few_completions": (9 / 4, 20),
    "energy_window_short": (12, 30),
    "empty_window": (0, 1),
    "scrapes_missed": (0.25, 0.05),
    "scrape_gap": (11, 5),
    "server_restarted": (1, 0),
    "metrics_mixed": (2, 1),
    "client_limit": (2, 0),
    "server_warm": (5000, 1000),
    "power_gap": (10, 3),
    "energy_disagrees": (0.375, 0.05),
    "gpu_set": (1, 0),
    "throttled": (1, 0),
    "power_limit": (500, 700),
    "foreign_processes": (1, 0),
    "no_answer": (0, 1),
    "no_requests": (0, 1),
    "output_length": (1, 0),
    "input_length": (2, 1),
    "lengths_scaled": (0.5, 1),
    "lengths_clipped": (0.25, 0.05),
    "duplicate_requests": (1, 0),
    "times_backwards": (1, 0),
    "calibration_stale": (92.04, 30),
    "quality_failed": (0, 0.7),
    "quality_unverified": (1, 0.7),
}
"""What was found and what is allowed, where the case tells it."""

ELSEWHERE = {
    "energy_counter_reset": "test_energy*.py",
    "energy_sources_disagree": "test_energy*.py",
    "power_replayed": "test_energy*.py",
    "ecc_errors": "test_energy*.py",
    "xid": "test_energy*.py",
    "throttling_not_watched": "test_energy*.py",
    "meter_calibration_unreadable": "test_energy*.py",
    "power_below_idle": "test_energy*.py",
    "power_implausible": "test_energy*.py",
    "power_part_above_whole": "test_energy*.py",
    "energy_absent": "test_energy*.py",
    "not_stationary": "test_stationarity.py",
    "steady_state_untested": "test_stationarity.py",
    "warmup_in_window": "test_stationarity.py",
    "rows_damaged": "test_bad_input.py",
    "events_torn": "test_truncated.py",
    "scrape_problem": "test_scrapes.py",
    "target_unreachable": "test_scrapes.py",
}
"""Code -> the tests of the part that raises it."""


def write(builder: Any, case: Case, root: Path) -> Path:
    case.builder(builder)
    builder.write(root)
    write_json("calibration.json", CERTIFICATE)(root)
    write_json("quality.json", QUALITY)(root)
    case.root(root)
    return root


def raised(root: Path) -> dict[str, Any]:
    return {concern.code: concern for concern in reduce_run(root).verdict.concerns}


@pytest.mark.parametrize("code", CASES)
def test_a_run_directory_that_raises_it(
    code: str, steady: Callable[..., Any], tmp_path: Path
) -> None:
    case = CASES[code]
    found = raised(write(base(steady, **dict(case.fields)), case, tmp_path / "run"))
    assert code in found, sorted(found)
    concern = found[code]
    assert str(concern.severity) == case.severity
    assert concern.message.endswith((".", ")"))
    if case.numbers:
        assert concern.value is not None
        assert concern.limit is not None
    if code in NUMBERS:
        assert (concern.value, concern.limit) == pytest.approx(NUMBERS[code], rel=0.02)


@pytest.mark.parametrize(
    ("server", "severity"),
    [
        ({"kind": "torch", "kept_from": "first", "cache_cleared": False}, "note"),
        ({"kind": "vllm", "kept_from": "first", "cache_cleared": True}, None),
        ({"kind": "attach", "kept_from": "first", "cache_cleared": False}, "degraded"),
        ({"kind": "attach", "kept_from": "first", "cache_cleared": True}, None),
    ],
)
def test_a_server_that_a_sweep_kept_is_warm_by_its_own_points(
    server: dict[str, Any], severity: str | None, steady: Callable[..., Any], tmp_path: Path
) -> None:
    kept = manifest(lambda fields: fields["server"].update(server))
    found = raised(write(base(steady), replace(CASES["server_warm"], root=kept), tmp_path / "run"))
    concern = found.get("server_warm")
    assert (None if concern is None else str(concern.severity)) == severity


def test_nothing_else_is_wrong_with_the_base(steady: Callable[..., Any], tmp_path: Path) -> None:
    found = raised(write(base(steady), Case("note"), tmp_path / "run"))
    short = {"window_short", "steady_state_untested"}
    assert set(found) <= short | {"throttling_not_watched"}, sorted(found)


def test_every_concern_of_the_reduction_has_a_run_that_raises_it() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "harness" / "reduce").rglob("*.py"))
    codes = set(re.findall(r'Concern\(\s*"([a-z_]+)"', source))
    assert len(codes) > 40
    assert codes - set(CASES) - set(ELSEWHERE) == set()
    for code, pattern in ELSEWHERE.items():
        assert any(code in path.read_text() for path in Path(__file__).parents[1].rglob(pattern)), (
            f"{code} is tested nowhere"
        )


def test_input_missing_from_the_server_s_count_is_a_concern(
    steady: Callable[..., Any], tmp_path: Path
) -> None:
    """Prompts of 100 tokens, six a second. The counter runs ahead by so many in the window, and is
    right again at the end.
    """
    for ahead_tok, seen in ((0.0, False), (600.0, False), (2400.0, True)):

        def change(
            at: float, samples: dict[str, float], ahead_tok: float = ahead_tok
        ) -> dict[str, float]:
            more = min(max((at - 5) / 25, 0.0), 1.0) * ahead_tok if at < 34 else 0.0
            return {
                key: value + (more if key == "vllm:prompt_tokens_total" else 0.0)
                for key, value in samples.items()
            }

        found = raised(
            write(base(steady), Case("", scrapes(change)), tmp_path / f"run-{ahead_tok:.0f}")
        )
        messages = [
            concern.message for code, concern in found.items() if code == "window_not_reconciled"
        ]
        assert bool(messages) is seen
        assert all("input tokens" in message for message in messages)


def test_a_servers_first_tokens_before_the_clients_are_as_they_should_be(
    steady: Callable[..., Any], tmp_path: Path
) -> None:
    assert "server_ttft_above_client" not in raised(
        write(base(steady), Case("", server_ttft(1.0)), tmp_path / "run")
    )


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"sent_ns": -2_000_000}, "times_backwards"),  # against the intended time
        ({"last_token_ns": 10 * S}, "times_backwards"),
        ({"cache_read_tok": -1}, "usage_impossible"),
        ({"cache_write_tok": 101}, "usage_impossible"),
        ({"output_tok": -1}, "usage_impossible"),
        ({"chunk_tok": [1] * 8 + [3, 3]}, "chunk_tokens_disagree"),
        ({"chunk_tok": [1] * 9 + [2]}, None),  # the end of the text, which some servers count
        ({"chunk_dt_us": [0, *[50_000] * 8, 51_500]}, "chunk_times_disagree"),
        ({"chunk_dt_us": [0, *[50_000] * 8, 50_100]}, None),
        ({"cache_read_tok": 100, "cache_write_tok": 100}, None),
        ({"sent_ns": 0, "chunk_tok": None}, None),
        ({"outcome": "truncated", "chunk_tok": [3] * 10}, None),  # of an answer that never ended
    ],
)
def test_a_record_that_contradicts_itself_is_told(
    fields: dict[str, Any], code: str | None, steady: Callable[..., Any], tmp_path: Path
) -> None:
    builder = base(steady)
    row = builder.requests[50]
    row.update(
        {
            key: row["intended_ns"] + value if key.endswith("_ns") else value
            for key, value in fields.items()
        }
    )
    found = raised(write(builder, Case(""), tmp_path / "run"))
    odd = {"times_backwards", "usage_impossible", "chunk_tokens_disagree", "chunk_times_disagree"}
    assert code in found if code else not set(found) & odd
    assert code is None or (found[code].value, found[code].limit) == (1, 0)
    assert (
        code is None
        or not code.startswith("chunk")
        or f"1 of {len(builder.requests)} " in found[code].message
    )


@pytest.mark.parametrize(("until_s", "seen"), [(12.0, True), (25.0, False)])
def test_a_load_generator_that_was_watched_for_less_than_half_of_the_window(
    until_s: float, seen: bool, steady: Callable[..., Any], tmp_path: Path
) -> None:
    builder = base(steady)
    start = builder.requests[0]["intended_ns"]
    builder.host[:] = [row for row in builder.host if row["t_ns"] < start + until_s * S]
    found = raised(write(builder, Case(""), tmp_path / "run"))
    assert ("client_not_watched" in found) is seen
    if seen:
        assert found["client_not_watched"].value == pytest.approx(9 / 31, rel=0.1)


def test_a_finalized_directory_raises_the_same(steady: Callable[..., Any], tmp_path: Path) -> None:
    root = write(base(steady), CASES["throttled"], tmp_path / "run")
    before = raised(root)
    finalize(RunDir(root))
    assert raised(root) == before


def test_ten_minutes_with_everything_that_a_headline_wants_are_valid(
    new_builder: Callable[..., Any], tmp_path: Path
) -> None:
    builder = new_builder(purpose="measure", window_s=600.0, gpus=1, one_batch=True)
    for stream in range(4):
        at = 0.01 * stream
        while at < builder.window[1] + 1:
            builder.request(
                at, gap_us=500_000
            )  # half a second a token, so that few requests make ten minutes
            at += 4.71
    builder.requests.sort(key=lambda row: row["intended_ns"])
    builder.scrape_counters(every_s=4.0)
    builder.idle_host()
    builder.constant_power(500.0)
    root = write(builder, Case("note"), tmp_path / "run")
    boards(throttle_reasons=0, rows=640)(root)
    verdict = reduce_run(root).verdict
    assert verdict.status == "valid", verdict.concerns
    assert {str(concern.severity) for concern in verdict.concerns} <= {"note"}


@pytest.mark.parametrize(
    ("acted_late_s", "found"), [(0.0, None), (0.2, "degraded"), (3.0, "invalid")]
)
def test_drops_that_the_load_generator_came_to_late_are_late_sends(
    acted_late_s: float, found: str | None, steady: Callable[..., Any], tmp_path: Path
) -> None:
    """What a full server makes drop is dropped in time; what the load generator did not get to is
    not.
    """
    builder = base(steady)
    for row in [builder.lost(10 + i / 10, "dropped") for i in range(40)]:
        row["done_ns"] = row["intended_ns"] + round(acted_late_s * S)
    concern = raised(write(builder, Case("note"), tmp_path / "run")).get("late_sends")
    assert (concern and str(concern.severity)) == found
    if concern is not None:
        assert concern.value == pytest.approx(acted_late_s)
        assert "sent or dropped" in concern.message


def test_a_server_that_counted_nothing_within_the_window_is_told(
    steady: Callable[..., Any], tmp_path: Path
) -> None:
    """Its counters stood still while answers came, and jumped to the right sum at the end."""

    def still(at: float, samples: dict[str, float]) -> dict[str, float]:
        return {
            key: 0.0 if key.endswith("_total") and at < 34 else value
            for key, value in samples.items()
        }

    found = raised(write(base(steady), Case("", scrapes(still)), tmp_path / "run"))
    assert found["window_not_reconciled"].value == 1.0
    assert "not_reconciled" not in found


@pytest.mark.parametrize("code", ["late_sends", "quality_failed", "power_limit"])
def test_a_run_is_as_good_as_its_worst_concern(
    code: str, steady: Callable[..., Any], tmp_path: Path
) -> None:
    root = write(base(steady), CASES[code], tmp_path / "run")
    if code != "power_limit":
        boards(throttle_reasons=0, rows=60)(root)
    worst = {"degraded": "degraded", "invalid": "invalid", "note": "preliminary"}[
        CASES[code].severity
    ]  # it is too short as well
    assert reduce_run(root).verdict.status == worst


def test_too_short_is_preliminary_at_worst(steady: Callable[..., Any], tmp_path: Path) -> None:
    root = write(base(steady), Case("note"), tmp_path / "run")
    boards(throttle_reasons=0, rows=60)(root)
    assert reduce_run(root).verdict.status == "preliminary"


@pytest.mark.parametrize("case", [Case("note"), CASES["quality_failed"]])
def test_a_smoke_run_is_functional_or_invalid(
    case: Case, steady: Callable[..., Any], tmp_path: Path
) -> None:
    root = write(base(steady, purpose="smoke"), case, tmp_path / "run")
    assert reduce_run(root).verdict.status == (
        "functional" if case.severity == "note" else "invalid"
    )
