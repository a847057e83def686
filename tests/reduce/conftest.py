"""A run directory whose truth is known, written with the journals, manifest and events of a real
one.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from harness.artifacts import tables
from harness.artifacts.events import EventLog
from harness.artifacts.journal import JournalWriter
from harness.artifacts.layout import RunDir

S = 1_000_000_000
T0 = 5_000_000 * S  # two months of uptime: times must stay exact


class Steps:
    """Two sums that grow at known moments."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, int, int]] = []
        self._taken = 0
        self._sums = (0, 0)

    def add(self, at_ns: int, first: int, second: int) -> None:
        self._steps.append((at_ns, first, second))

    def until(self, t: float) -> tuple[int, int]:
        """Both at a moment; asked in ascending order, after everything was added."""
        if not self._taken:
            self._steps.sort()
        first, second = self._sums
        while self._taken < len(self._steps) and self._steps[self._taken][0] <= t:
            _, a, b = self._steps[self._taken]
            first, second, self._taken = first + a, second + b, self._taken + 1
        self._sums = (first, second)
        return self._sums


@dataclass
class Builder:
    """Parts of a run; change them, then `write`."""

    purpose: str = "smoke"
    state: str | None = "complete"
    warmup_s: float = 2.0
    find_warmup: bool = (
        False  # the profile leaves warmup_s open; the window opens with the stage then
    )
    window_s: float = 20.0
    drain_s: float = 6.0
    gpus: int = 0
    price: dict[str, Any] | None = None
    slos: dict[str, float | None] = field(
        default_factory=lambda: {"ttft_s": 1.0, "tpot_s": None, "e2e_s": None}
    )
    requests: list[dict[str, Any]] = field(default_factory=list)
    scrapes: list[tuple[float, str | None, dict[str, float] | None]] = field(default_factory=list)
    power: list[dict[str, Any]] = field(default_factory=list)
    host: list[dict[str, Any]] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)
    stage_ended: bool = True
    workers: int = 2
    one_batch: bool = False  # else a batch a request, so that a torn tail loses few

    @property
    def window(self) -> tuple[float, float]:
        return self.warmup_s, self.warmup_s + self.window_s

    def request(self, start_s: float, **fields: Any) -> dict[str, Any]:
        """An answered request: sent 1 ms late, first token 200 ms after, then ten chunks of one
        token every 50 ms.
        """
        n = len(self.requests)
        tokens = int(fields.pop("tokens", 10))
        gap_us = int(fields.pop("gap_us", 50_000))
        ttft_s = float(fields.pop("ttft_s", 0.2))
        intended = T0 + round(start_s * S)
        first = intended + round(ttft_s * S)
        last = first + (tokens - 1) * gap_us * 1000
        row: dict[str, Any] = {
            "request_id": f"s{n:05d}/0",
            "session_id": f"s{n:05d}",
            "turn": 0,
            "class": "chat",
            "stage": "main",
            "replica": "replica-0",
            "worker": n % self.workers,
            "intended_ns": intended,
            "sent_ns": intended + S // 1000,
            "first_byte_ns": first - S // 1000,
            "first_token_ns": first,
            "last_token_ns": last,
            "done_ns": last + S // 1000,
            "outcome": "ok",
            "http_status": 200,
            "stop_reason": "end_turn",
            "content_kinds": ["text"],
            "target_input_tok": 100,
            "target_output_tok": tokens,
            "input_tok": 100,
            "cache_read_tok": 60,
            "cache_write_tok": 0,
            "output_tok": tokens,
            "request_bytes": 500,
            "response_bytes": 900,
            "chunk_dt_us": [0, *[gap_us] * (tokens - 1)],
            "chunk_bytes": [4] * tokens,
            "chunk_tok": [1] * tokens,
        }
        row.update(fields)
        self.requests.append(row)
        return row

    def lost(self, start_s: float, outcome: str, **fields: Any) -> dict[str, Any]:
        """A request without an answer."""
        nothing = dict.fromkeys(
            (
                "first_byte_ns",
                "first_token_ns",
                "last_token_ns",
                "output_tok",
                "input_tok",
                "cache_read_tok",
                "cache_write_tok",
                "chunk_dt_us",
                "chunk_bytes",
                "chunk_tok",
                "stop_reason",
                "content_kinds",
                "http_status",
            )
        )
        row = self.request(
            start_s, **{**nothing, "outcome": outcome, "error": f"it was {outcome}", **fields}
        )
        if outcome == "dropped":
            row.update(sent_ns=None, done_ns=row["intended_ns"], replica=None)
        return row

    def scrape_counters(self, every_s: float = 1.0) -> None:
        """Counters that agree with the requests: prompts when their first token comes, output as it
        comes.
        """
        end = self.window[1] + self.drain_s
        moments = [-0.5 + every_s * i for i in range(int((end + 0.5) / every_s))] + [end]
        answered = [
            row
            for row in self.requests
            if row["first_token_ns"] is not None and row["output_tok"] is not None
        ]
        prompts, tokens, busy = Steps(), Steps(), Steps()
        for row in answered:
            prompts.add(row["first_token_ns"], row["input_tok"], row["cache_read_tok"] or 0)
            busy.add(row["sent_ns"], 1, 0)
            busy.add(row["done_ns"], -1, 1)
            at = row["first_token_ns"]
            for gap, tok in zip(row["chunk_dt_us"], row["chunk_tok"] or [], strict=False):
                at += gap * 1000
                tokens.add(at, tok, 0)
            if row["chunk_tok"] is None:
                tokens.add(row["done_ns"], row["output_tok"], 0)
        for i, at_s in enumerate(moments):
            t = T0 + at_s * S
            (prompt, cached), (out, _), (running, finished) = (
                prompts.until(t),
                tokens.until(t),
                busy.until(t),
            )
            label = (
                "first_after_ready"
                if i == 0
                else "last_after_drain"
                if i == len(moments) - 1
                else None
            )
            samples = {
                "vllm:generation_tokens_total": out,
                "vllm:prompt_tokens_total": prompt,
                "vllm:prefix_cache_hits_total": cached,
                "vllm:prefix_cache_queries_total": prompt,
                "vllm:num_requests_running": running,
                "vllm:num_requests_waiting": 0,
                "vllm:kv_cache_usage_perc": running / 100,
                "vllm:request_success_total": finished,
                "vllm:num_preemptions_total": 0,
            }
            self.scrapes.append(
                (at_s, label, {name: float(value) for name, value in samples.items()})
            )

    def constant_power(
        self, watts: float, *, counter: bool = True, until_s: float | None = None
    ) -> None:
        """Readings every 100 ms, the counter every second, of every GPU."""
        for gpu in range(self.gpus):
            for i in range(-10, round((until_s or self.window[1] + self.drain_s) * 10)):
                row = {
                    "t_ns": T0 + i * S // 10,
                    "boundary": "gpu_board",
                    "device_id": f"GPU-{gpu}",
                    "power_w": watts,
                    "energy_j": None,
                    "source": "nvml-instant",
                }
                self.power.append(row)
                if counter and i % 10 == 0:
                    self.power.append(
                        {
                            **row,
                            "power_w": None,
                            "energy_j": 7000.0 + watts * i / 10,
                            "source": "nvml-counter",
                        }
                    )

    def idle_host(self, client_cores: float = 0.2) -> None:
        for i in range(int(self.window[1] + self.drain_s)):
            for scope, cores in (
                ("host", 1.2),
                ("traffic:0", client_cores),
                ("server:replica-0", 1.0),
            ):
                self.host.append(
                    {
                        "t_ns": T0 + i * S,
                        "scope": scope,
                        "cpu_s": 10 + cores * i,
                        "cpus": 2.0 if scope == "host" else None,
                        "rss_bytes": 100_000_000,
                        "processes": 1,
                        "net_rx_bytes": None,
                        "net_tx_bytes": None,
                    }
                )

    def write(self, root: Path) -> Path:
        run = RunDir(root)
        root.mkdir(parents=True)
        (root / "logs").mkdir()
        start, end = T0, T0 + round((self.window[1] + self.drain_s) * S)
        manifest: dict[str, Any] = {
            "schema_version": 1,
            "run_id": "20260801T120000Z-oracle-abc123",
            "state": self.state,
            "harness": {"version": "0.1.0", "commit": "0123456789abcdef", "dirty": False},
            "profile": {
                "name": "oracle",
                "purpose": self.purpose,
                "description": "A run with a known truth.",
                "seed": 7,
                "model": {"id": "builtin:tiny", "load_format": "auto"},
                "server": {"kind": "torch"},
                "traffic": {
                    "api": "chat",
                    "workload": {"kind": "chat", "system_tok": 60},
                    "load": [
                        {
                            "kind": "concurrency",
                            "name": "main",
                            "concurrency": 4,
                            "window_s": self.window_s,
                        }
                        | {"warmup_s": None if self.find_warmup else self.warmup_s}
                    ],
                },
                "slos": self.slos,
                "telemetry": {"scrape_interval_s": 1.0},
                "price": self.price,
            },
            "workload_sha256": "a" * 64,
            "plan_sha256": "b" * 64,
            "seed": 7,
            "plan": {
                "context_scale": 1.0,
                "context_scale_reason": None,
                "tok_per_word": 1.4,
                "tok_per_word_source": "counted",
                "output_length": "forced",
                "planned_requests": len(self.requests),
                "planned_sessions": len(self.requests),
                "notes": [],
            },
            "model": {
                "model_id": "builtin:tiny",
                "max_context_tok": 4096,
                "parameters": 3_000_000,
                "dtype": "float32",
            },
            "hardware": {
                "gpus": [
                    {
                        "uuid": f"GPU-{i}",
                        "index": i,
                        "name": "NVIDIA H100 80GB HBM3",
                        "memory_bytes": 85_899_345_920,
                        "power_limit_w": 700.0,
                        "power_limit_default_w": 700.0,
                        "sm_clock_max_mhz": 1980,
                        "driver_version": "580.1",
                    }
                    for i in range(self.gpus)
                ],
                "cpu": {"model": "AMD EPYC 9554", "logical_cores": 2, "usable_cores": 2},
                "ram_bytes": 24 * 1024**3,
                "os": "Debian GNU/Linux 12",
                "kernel": "6.1",
            },
            "software": {"python": "3.11.9", "packages": {"locust": "2.47.0", "pandas": "3.1.1"}},
            "server": {
                "kind": "torch",
                "version": "0.1.0",
                "argv": [["python", "-m", "harness.server.torch_app", "--port", "8000"]],
                "software": {"torch": "2.13.0"},
                "settings": {"max_model_len": 4096},
                "log_paths": ["logs/server.log"],
                "ready_s": 4.2,
            },
            "endpoints": [
                {
                    "name": "replica-0",
                    "base_url": "http://127.0.0.1:8000",
                    "model": "builtin:tiny",
                    "metrics_url": "http://127.0.0.1:8000/metrics",
                    "gpu_uuids": [],
                    "pid": 1,
                }
            ],
            "clock_anchors": [
                {
                    "host": "h",
                    "monotonic_ns": start,
                    "unix_ns": 1_785_585_600 * S,
                    "uncertainty_ns": 900,
                    "boot_id": "b",
                }
            ],
            "started_ns": start,
            "ended_ns": end if self.state != "running" else None,
            "workers": self.workers,
            "concerns": [],
            "error": None,
        }
        manifest.update(self.manifest)
        run.manifest.write_text(json.dumps(manifest))
        events = EventLog(run.events)
        events.append("phase", t_ns=start, phase="server_start")
        events.append("phase", t_ns=start, phase="traffic_start")
        window_ns = [T0 + round(s * S) for s in self.window]
        events.append(
            "stage_started",
            t_ns=start,
            stage="main",
            start_ns=start,
            window_start_ns=window_ns[0],
            window_end_ns=window_ns[1],
        )
        if self.stage_ended:
            events.append(
                "stage_ended",
                t_ns=end,
                stage="main",
                end_ns=end,
                window_end_ns=window_ns[1],
                turns_not_happened=0,
            )
            events.append("phase", t_ns=end, phase="done")
        for worker in range(self.workers):
            with JournalWriter(run.requests_journal(worker), tables.REQUESTS) as journal:
                mine = [row for row in self.requests if row["worker"] == worker]
                for rows in [mine] if self.one_batch else [[row] for row in mine]:
                    journal.append(rows)
        if self.scrapes:
            with JournalWriter(run.scrapes_journal, tables.SCRAPES_RAW) as journal:
                journal.append(
                    [_scrape(at_s, label, samples) for at_s, label, samples in self.scrapes]
                )
        if self.power:
            with JournalWriter(run.power_journal, tables.POWER) as journal:
                journal.append(self.power)
        if self.host:
            with JournalWriter(run.host_journal, tables.HOST) as journal:
                journal.append(self.host)
        return root


def _scrape(at_s: float, label: str | None, samples: Mapping[str, float] | None) -> dict[str, Any]:
    row = {
        "t_ns": T0 + round(at_s * S),
        "duration_ns": 2_000_000,
        "target": "replica-0",
        "http_status": 200,
        "error": None,
        "content_type": "text/plain; version=0.0.4",
        "label": label,
    }
    if samples is None:
        return {
            **row,
            "http_status": None,
            "error": "connection refused",
            "body_zstd": None,
            "body_bytes": None,
        }
    lines = []
    for name, value in samples.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [
            f"# HELP {name} of the oracle",
            f"# TYPE {name} {kind}",
            f'{name}{{engine="0",model_name="m"}} {value}',
        ]
    body = ("\n".join(lines) + "\n").encode()
    return {
        **row,
        "body_zstd": pa.Codec("zstd").compress(body, asbytes=True),
        "body_bytes": len(body),
    }


@pytest.fixture(name="builder")
def _builder() -> Builder:
    return Builder()


@pytest.fixture(name="new_builder")
def _new_builder() -> Callable[..., Builder]:
    """Makes builders, for tests that need several."""
    return Builder


@pytest.fixture(name="steady")
def _steady() -> Callable[..., Builder]:
    """A run of four streams back to back: 10 tokens per 0.65 s and stream, from before the window
    until after it.
    """

    def make(**fields: Any) -> Builder:
        builder = Builder(**{"one_batch": True, **fields})
        for stream in range(4):
            at = 0.01 * stream
            while at < builder.window[1] + 1:
                builder.request(at)
                at += 0.66
        builder.requests.sort(key=lambda row: row["intended_ns"])
        builder.scrape_counters()
        builder.idle_host()
        return builder

    return make


@pytest.fixture(name="noisy")
def _noisy() -> Callable[..., Builder]:
    """A run with random lengths, lags, chunk sizes and a few failures; reproducible by seed."""

    def make(seed: int = 1, *, requests: int = 200, told: bool = True, **fields: Any) -> Builder:
        draw = random.Random(seed)
        builder = Builder(**fields)
        for _ in range(requests):
            start = draw.uniform(0, builder.window[1] + 1)
            kind = draw.random()
            if kind < 0.03:
                builder.lost(start, "dropped")
            elif kind < 0.06:
                builder.lost(start, "timeout_first_byte")
            else:
                tokens = draw.randint(1, 40)
                row = builder.request(
                    start,
                    ttft_s=draw.lognormvariate(-1.5, 0.6),
                    tokens=tokens,
                    gap_us=draw.randint(5_000, 60_000),
                )
                row["cache_read_tok"] = draw.choice([0, 60, 90])
                if not told:
                    row["chunk_tok"] = None
                    row["chunk_bytes"] = [draw.randint(1, 9) for _ in range(tokens)]
        builder.requests.sort(key=lambda row: row["intended_ns"])
        return builder

    return make


@pytest.fixture(name="times")
def _times() -> tuple[int, int]:
    """(start of a built run, nanoseconds per second)."""
    return T0, S


Rows = Sequence[Mapping[str, Any]]
