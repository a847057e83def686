"""Calibration: pairing against a known truth, a certificate from a real run of the load generator,
its cache, and the canaries.
"""

import itertools
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.artifacts.canary_truth import pair, read_truth, spread
from harness.artifacts.certificate import Certificate
from harness.artifacts.typed_json import from_json, to_json
from harness.core.progress import TrafficProgress
from harness.core.records import CANARY, Api, Endpoint, ModelFacts
from harness.plan.build import make_plan
from harness.profile.rules import violations
from harness.profile.schema import Profile
from harness.reference_server.server import MODEL, Fault, Pace, PacedServer, token_bytes
from harness.traffic import fidelity
from harness.traffic.fidelity import (
    Load,
    cache_path,
    cached,
    host_fingerprint,
    load_class,
    load_of,
    make_certificate,
    standard_load,
    store,
)

MS = 1_000_000


def record(
    request_id: str, sent_ns: int, reads: list[tuple[int, int]], **more: Any
) -> dict[str, Any]:
    """A record whose content came in reads of (time, bytes)."""
    times = [t_ns for t_ns, _ in reads]
    gaps = [0] + [(b - a) // 1000 for a, b in pairwise(times)]
    return {
        "request_id": request_id,
        "outcome": "ok",
        "intended_ns": sent_ns - 2 * MS,
        "sent_ns": sent_ns,
        "first_token_ns": times[0],
        "chunk_dt_us": gaps,
        "chunk_bytes": [size for _, size in reads],
        **more,
    }


class TestPairing:
    def test_errors_are_those_of_each_token_also_where_a_read_holds_several(self) -> None:
        truth = {
            "a/0": {
                "received_ns": 1 * MS,
                "content_ns": [50 * MS, 70 * MS, 90 * MS, 110 * MS],
                "content_bytes": [4, 5, 1, 3],
            }
        }
        # Token 0 came 1 ms late; tokens 1 and 2 together, 23 and 3 ms late; token 3 in time.
        rows = [record("a/0", 0, [(51 * MS, 4), (93 * MS, 6), (110 * MS, 3)])]
        errors = pair(rows, truth)
        assert errors.ttft_s == pytest.approx([0.001])
        assert errors.gap_s == pytest.approx([0.022, 0.020, 0.003])
        assert errors.lag_s == pytest.approx([0.002])
        assert errors.sent_s == [0.0]
        assert (errors.events, errors.unpaired) == (4, 0)

    def test_sending_that_was_noted_after_the_server_had_it_all_is_an_error(self) -> None:
        truth = {"a/0": {"received_ns": 1 * MS, "content_ns": [50 * MS], "content_bytes": [4]}}
        assert pair([record("a/0", 4 * MS, [(50 * MS, 4)])], truth).sent_s == pytest.approx([0.003])

    @pytest.mark.parametrize(
        "line",
        [
            None,
            {"received_ns": 0, "content_ns": [1, 2], "content_bytes": None},
            {"received_ns": 0, "content_ns": [], "content_bytes": []},
            {"received_ns": 0, "content_ns": [1], "content_bytes": [9]},
        ],
    )
    def test_an_answer_that_is_not_the_servers_is_counted_and_not_compared(
        self, line: dict[str, Any] | None
    ) -> None:
        errors = pair([record("a/0", 0, [(50 * MS, 4)])], {} if line is None else {"a/0": line})
        assert (errors.ttft_s, errors.gap_s, errors.unpaired) == ([], [], 1)

    def test_requests_that_failed_have_no_error_but_a_lag(self) -> None:
        errors = pair([record("a/0", 0, [(50 * MS, 4)], outcome="truncated")], {})
        assert (errors.ttft_s, errors.unpaired, len(errors.lag_s)) == ([], 0, 1)

    @given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 6))
    def test_whatever_the_reads_the_errors_are_the_delays_that_were_put_in(
        self, seed: int, tokens: int, most: int
    ) -> None:
        rng = random.Random(seed)
        size = [rng.randint(1, 9) for _ in range(tokens)]
        written = [10**15 + 20 * MS * i for i in range(tokens)]
        reads, delays, at = [], [], 0
        while at < tokens:
            count = min(rng.randint(1, most), tokens - at)
            t_ns = written[at + count - 1] + 1000 * rng.randint(0, 5000)
            delays += [t_ns - written[at + i] for i in range(count)]
            reads.append((t_ns, sum(size[at : at + count])))
            at += count
        reads.sort()
        errors = pair(
            [record("a/0", 10**15, reads)],
            {"a/0": {"received_ns": 10**15, "content_ns": written, "content_bytes": size}},
        )
        assert errors.ttft_s == pytest.approx([delays[0] / 1e9])
        assert errors.gap_s == pytest.approx([abs(b - a) / 1e9 for a, b in pairwise(delays)])

    def test_nothing_has_no_quantiles(self) -> None:
        assert to_json(spread([])) == {"p50_s": None, "p99_s": None, "max_s": None, "n": 0}

    def test_a_torn_truth_file_keeps_its_whole_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "truth"
        path.write_text(
            '{"request_id": "a", "x": 1}\n{"request_id": null}\n[]\n{"request_id": "b", "co'
        )
        assert read_truth(path) == {"a": {"request_id": "a", "x": 1}}
        assert read_truth(tmp_path / "none") == {}

    def test_the_paced_server_tells_the_content_of_each_write_where_each_held_one_token(
        self, tmp_path: Path, traffic: Any
    ) -> None:
        pace = Pace(ttft_ms=1, gap_ms=1, faults=(Fault.NONE, Fault.SEVERAL_PER_WRITE))
        with PacedServer(pace, tmp_path / "truth") as server:
            one = traffic([server.url], [{"kind": "concurrency", "concurrency": 1, "sessions": 2}])
            one.run()
            server.stop()
            lines = server.truth()
        assert [line["content_bytes"] for line in lines] == [
            [token_bytes(i) for i in range(6)],
            None,
        ]


# --- certificates ---

SMALL = Load("messages", "closed", 4, None, 10.0, 16, 1024)


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    """Of a small load, with a bound that any machine keeps."""
    return make_certificate(SMALL, workers=1, quick=True, bound_s=30.0)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


class TestCertificate:
    def test_levels_carry_what_the_server_wrote(self, certificate: Certificate) -> None:
        first, last = certificate.levels
        assert (first.workers, first.factor, first.streams) == (1, 1, 4)
        assert last.streams is not None
        assert last.streams >= 8
        for level in certificate.levels:
            assert level.failed == 0
            assert level.requests == level.ttft_error.n > 0
            assert level.gap_error.n > level.requests
            # 100 tokens/s a stream less the pauses for first tokens. A busy machine writes fewer,
            # and more when it catches up.
            assert 0 < level.events_per_s <= level.streams * 200
            assert level.ttft_error.p50_s is not None
            assert level.ttft_error.p50_s > 0  # read after it was written
            assert level.client_us_per_event is not None
            assert level.client_us_per_event > 0
            assert level.server_us_per_event is not None
        assert last.events_per_s > first.events_per_s

    def test_it_certifies_the_highest_level_within_bounds(self, certificate: Certificate) -> None:
        """Whether this machine was quiet enough just now or not, the certificate follows from its
        levels.
        """
        within = list(itertools.takewhile(lambda level: level.within, certificate.levels))
        assert certificate.sufficient == bool(within)
        assert certificate.certified_events_per_s == {
            "1": within[-1].events_per_s if within else None
        }
        assert certificate.at_load == certificate.levels[0]
        assert (certificate.highest is not None) == bool(within)
        if within:
            assert f"{within[-1].events_per_s:,.0f}" in certificate.sentence()

    def test_a_level_beyond_one_that_failed_certifies_nothing(
        self, certificate: Certificate
    ) -> None:
        bad = replace(certificate.levels[0], within=False, why_not="p99 of ttft error is 7.0 ms")
        good = replace(certificate.levels[1], within=True)
        assert fidelity._certified([bad, good], 1) is None
        assert fidelity._certified([good, bad], 1) == good.events_per_s
        refused = replace(
            certificate, levels=(bad, good), sufficient=False, certified_events_per_s={"1": None}
        )
        assert "not certified" in refused.sentence()
        assert "7.0 ms" in refused.sentence()

    @pytest.mark.parametrize(
        ("key", "value", "words"),
        [
            ("ttft_error", 0.006, "ttft error"),
            ("gap_error", 0.006, "gap error"),
            ("send_lag", 1.0, "send lag"),
            ("sent_error", 0.1, "sent"),
        ],
    )
    def test_each_error_has_to_be_within_the_bound(
        self, key: str, value: float, words: str
    ) -> None:
        fine = {
            name: spread([0.001]) for name in ("ttft_error", "gap_error", "sent_error", "send_lag")
        }
        assert fidelity._why_not(fine, 0, 0.5, 0.005) is None
        assert words in (fidelity._why_not(fine | {key: spread([value])}, 0, 0.5, 0.005) or "")
        assert words in (fidelity._why_not(fine | {key: spread([])}, 0, 0.5, 0.005) or "")

    def test_failures_and_a_full_core_are_out_of_bounds_too(self) -> None:
        fine = {
            name: spread([0.001]) for name in ("ttft_error", "gap_error", "sent_error", "send_lag")
        }
        assert "1" in (fidelity._why_not(fine, 1, 0.5, 0.005) or "")
        assert "90%" in (fidelity._why_not(fine, 0, 0.9, 0.005) or "")

    def test_it_is_json(self, certificate: Certificate) -> None:
        assert from_json(Certificate, to_json(certificate), "certificate") == certificate
        value = json.loads(json.dumps(to_json(certificate), allow_nan=False))
        assert value["load"]["events_per_s"] == 400
        assert value["at_load"]["streams"] == 4
        assert value["host"] == to_json(host_fingerprint())


class TestCache:
    def test_a_certificate_is_found_for_its_class_of_load_only(
        self, certificate: Certificate, cache: Path
    ) -> None:
        assert cached(SMALL, quick=True) is None
        stored = store(certificate)
        assert cached(SMALL, quick=True) == stored
        assert (
            cached(replace(SMALL, streams=3, output_tok=15, body_bytes=700), quick=True) == stored
        )
        others = [
            {"streams": 5},
            {"gap_ms": 5.0},
            {"api": "chat"},
            {"body_bytes": 600_000},
            {"process": "poisson", "requests_per_s": 3.0},
            {"process": "gamma", "requests_per_s": 3.0, "shape": 0.5},
        ]
        for other in others:
            assert cached(replace(SMALL, **other), quick=True) is None, other  # type: ignore[arg-type]
        assert cached(SMALL, workers=2, quick=True) is None

    def test_a_quick_one_is_not_taken_where_a_full_one_is_wanted(
        self, certificate: Certificate, cache: Path
    ) -> None:
        store(certificate)
        assert cached(SMALL) is None
        store(replace(certificate, quick=False))
        assert cached(SMALL) is not None

    @pytest.mark.parametrize(
        "change", [{"made_unix_s": 1.7e9}, {"version": 0}, {"made_unix_s": None}]
    )
    def test_an_old_one_is_stale(
        self, certificate: Certificate, cache: Path, change: dict[str, Any]
    ) -> None:
        stored = store(certificate)
        cache_path(SMALL, None).write_text(json.dumps(to_json(stored) | change))
        assert cached(SMALL, quick=True) is None

    def test_another_host_or_version_needs_its_own(
        self, certificate: Certificate, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store(certificate)
        monkeypatch.setattr(
            fidelity, "host_fingerprint", lambda: replace(host_fingerprint(), kernel="another")
        )
        assert cached(SMALL, quick=True) is None

    def test_a_cache_that_cannot_be_written_is_no_failure(
        self, certificate: Certificate, tmp_path: Path, monkeypatch: Any
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "file"))
        assert store(certificate).workers == 1
        assert cached(SMALL, quick=True) is None


class TestLoad:
    def profile(self, load: dict[str, Any], **more: Any) -> Profile:
        workload = {
            "kind": "chat",
            "system_tok": 2000,
            "user_tok": 10,
            "output_tok": 50,
            "turns": 2,
            "think_s": 0,
        }
        return Profile.model_validate(
            {
                "purpose": "smoke",
                "model": {"id": MODEL},
                "server": {"kind": "attach", "urls": ["http://h"]},
                "traffic": {
                    "api": "chat",
                    "workload": workload,
                    "load": [load],
                    "context_scale": 1,
                },
                **more,
            }
        )

    def of(self, profile: Profile, **more: Any) -> Load:
        return load_of(profile, make_plan(profile, ModelFacts(MODEL, tok_per_word=1.35)), **more)

    def test_a_closed_loop_is_its_streams_at_the_pace_of_its_slo(self) -> None:
        load = self.of(
            self.profile(
                {"kind": "concurrency", "concurrency": 7, "window_s": 5}, slos={"tpot_s": "40ms"}
            )
        )
        assert (load.api, load.process, load.streams, load.gap_ms, load.output_tok) == (
            "chat",
            "closed",
            7,
            40,
            50,
        )
        assert load.events_per_s == pytest.approx(7 * 25)
        assert 6_000 < load.body_bytes < 20_000

    def test_an_open_loop_starts_as_many_requests_as_its_sessions_have(self) -> None:
        load = self.of(
            self.profile({"kind": "arrival_rate", "rate_per_s": 3, "window_s": 5}), gap_ms=10
        )
        assert (load.process, load.requests_per_s, load.gap_ms) == ("poisson", 6, 10)
        assert load.events_per_s == 300

    @pytest.mark.parametrize(
        ("law", "shape"),
        [
            ({"process": "gamma", "cv": 3}, 1 / 9),
            ({"process": "weibull", "weibull_shape": 0.6}, 0.6),
            ({"process": "constant"}, None),
        ],
    )
    def test_arrivals_are_calibrated_with_their_own_law(
        self, law: dict[str, Any], shape: float | None
    ) -> None:
        profile = self.profile({"kind": "arrival_rate", "rate_per_s": 3, "window_s": 5, **law})
        load = self.of(profile).in_class()
        assert (load.process, load.shape) == (
            law["process"],
            pytest.approx(shape) if shape else None,
        )
        made = fidelity._profile(load, [1.0, 2.0], quick=True)
        assert violations(made) == ()
        tried = make_plan(made, ModelFacts(MODEL, tok_per_word=1.35))
        asked = make_plan(profile, ModelFacts(MODEL, tok_per_word=1.35)).stages[0].schedule
        assert asked is not None
        for stage in tried.stages:
            assert stage.schedule is not None
            assert (stage.schedule.process, stage.schedule.shape) == (
                asked.process,
                pytest.approx(shape) if shape else None,
            )
        ramp = self.of(
            self.profile(
                {"kind": "ramp", "from_per_s": 1, "to_per_s": 3, "ramp_s": 5, "window_s": 5, **law}
            )
        )
        assert (ramp.process, ramp.shape) == (load.process, load.shape)

    def test_what_is_measured_is_the_heaviest_of_its_class(self) -> None:
        load = standard_load()
        heaviest = load.in_class()
        assert load_class(heaviest) == load_class(load) == load_class(heaviest.in_class())
        assert heaviest.streams == 128
        assert heaviest.events_per_s >= load.events_per_s

    @pytest.mark.parametrize("process", ["closed", "poisson", "constant"])
    @pytest.mark.parametrize("api", [Api.MESSAGES, Api.CHAT])
    @pytest.mark.parametrize("body_bytes", [1024, 524_288])
    def test_the_calibration_sends_bodies_of_the_loads_size(
        self, process: str, api: Api, body_bytes: int
    ) -> None:
        rate = None if process == "closed" else 10.0
        load = Load(api.value, process, 8, rate, 20.0, 128, body_bytes)
        profile = fidelity._profile(load, [1.0, 2.0], quick=False)
        assert violations(profile) == ()
        again = self.of(profile, gap_ms=20)
        assert again.body_bytes == pytest.approx(body_bytes, rel=0.15)
        assert again.events_per_s == pytest.approx(2 * load.events_per_s, rel=0.35)


# --- canaries ---


@pytest.fixture
def with_canary(traffic: Callable[..., Any], tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """A run of some seconds with a canary; gives (real rows, canary rows, truth, the run). `during`
    is called when streams run.
    """
    truth_path = tmp_path / "canary-truth"

    def run(
        during: Callable[[Any], None] = lambda _: None,
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Any, Any]:
        with (
            PacedServer(Pace(ttft_ms=5, gap_ms=5)) as server,
            PacedServer(Pace(ttft_ms=50, gap_ms=20), truth_path, live_truth=True) as bird,
        ):
            load = [{"kind": "concurrency", "concurrency": 2, "window_s": 4}]
            one = traffic([server.url], load, canary=Endpoint(CANARY, bird.url, MODEL))
            with one.driver as driver:
                driver.start()
                driver.go(time.monotonic_ns() + 200 * MS)
                done = False
                while not driver.wait(0.2):
                    if not done and len([e for e in one.named(TrafficProgress) if e.sent]) >= 2:
                        done = True
                        during(driver)
            rows = one.rows()
        real = [row for row in rows if row["class"] != CANARY]
        return real, [row for row in rows if row["class"] == CANARY], read_truth(truth_path), one

    return run


class TestCanary:
    def test_canaries_are_recorded_and_are_no_part_of_the_load(
        self, with_canary: Callable[..., Any]
    ) -> None:
        real, canary, truth, one = with_canary()
        assert canary
        assert {row["replica"] for row in canary} == {CANARY}
        assert {row["outcome"] for row in canary} <= {"ok", "interrupted"}
        assert any(row["outcome"] == "ok" for row in canary)
        assert {row["replica"] for row in real} == {"replica-0"}
        assert one.named(TrafficProgress)[-1].sent == len(real)
        assert max(event.in_flight for event in one.named(TrafficProgress)) <= 2
        errors = pair(canary, truth)
        assert errors.unpaired == 0
        assert errors.ttft_s

    def test_a_worker_that_stood_still_shows_in_its_canarys_error(
        self, with_canary: Callable[..., Any]
    ) -> None:
        def stop(driver: Any) -> None:
            pid = driver.pids()["traffic:0"]
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.4)  # how long it stands still, not a wait for anything
            os.kill(pid, signal.SIGCONT)

        _, canary, truth, _ = with_canary(stop)
        errors = pair(canary, truth)
        assert errors.unpaired == 0
        # Tokens were due all the while: one was read at least a gap of 20 ms less than the halt
        # late, or a first token was.
        assert max([*errors.gap_s, *errors.ttft_s]) > 0.3
