"""Figures for the live view, without a whole parse."""

from pathlib import Path

from harness.artifacts.prometheus.text import parse
from harness.core.metric_names import combine, pick
from harness.telemetry.live import SHOWN, LiveReader


def test_ranks_add_up_and_the_fullest_cache_counts(metrics_server) -> None:
    assert LiveReader().read(metrics_server.body()) == {
        "running": 4.0,
        "waiting": 2.0,
        "kv_usage": 0.5,
        "generated_tokens": 0.0,
    }


def test_another_kind_of_server_behind_the_same_address_is_learned_anew() -> None:
    reader = LiveReader()
    assert reader.read(b"vllm:num_requests_running 1\n") == {"running": 1.0}
    assert reader.read(b"sglang:num_running_reqs 2\nsglang:num_queue_reqs 5\n") == {
        "running": 2.0,
        "waiting": 5.0,
    }


def test_bodies_that_tell_nothing_give_nothing() -> None:
    reader = LiveReader()
    for body in (
        b"",
        b"<html>\n",
        b"up 1\n",
        b"vllm:num_requests_running\n",
        b"vllm:num_requests_running x\n",
        b"\xff\xfe{} 1\n",
    ):
        assert reader.read(body) == {}


def test_it_says_what_the_whole_parse_says(shared_data: Path) -> None:
    for file in sorted((shared_data / "expositions").glob("*.prom")):
        samples = parse(file.read_bytes(), None)
        names = {name for name, _, _ in samples}
        expected = {
            c.value: combine(source, samples)
            for c in SHOWN
            if (source := pick(c, names)) is not None
        }
        assert LiveReader().read(file.read_bytes()) == expected
        assert expected
