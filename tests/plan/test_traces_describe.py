"""Figures of a trace: by hand on small files, and against the published figures on real ones."""

import json

import pytest

from harness.plan.traces import describe_trace
from harness.plan.traces.counts import Counts, SeenBlocks


def p(described, name, q):
    return described.distributions[name].to_dict()[q]


def test_quantiles_are_those_of_the_sorted_values():
    counts = Counts()
    for value in (5, 1, 9, 1):
        counts.add(value)
    assert counts.quantiles([0, 0.5, 0.75, 1]) == [1, 3, 6, 9]
    assert counts.mean() == 4


def test_the_ideal_hit_counts_blocks_from_the_start_that_were_seen_before(tmp_path):
    rows = [
        {"timestamp": 0, "input_length": 1100, "output_length": 1, "hash_ids": [0, 1, 2]},
        {
            "timestamp": 1,
            "input_length": 1100,
            "output_length": 1,
            "hash_ids": [0, 1, 2],
        },  # whole: the last block up to the prompt's end
        {
            "timestamp": 2,
            "input_length": 1536,
            "output_length": 1,
            "hash_ids": [0, 7, 2],
        },  # 2 was seen, but not from the start
        {"timestamp": 3, "input_length": 512, "output_length": 1, "hash_ids": [8]},
    ]
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    described = describe_trace(path)
    assert described.ideal_hit == pytest.approx((1100 + 512) / (1100 + 1100 + 1536 + 512))
    assert p(described, "new_input_tok", "p50") == (512 + 1024) / 2


def test_an_absent_hit_rate_says_why(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("t_s,input_tok,output_tok\n0,1,1\n1,2,2\n")
    described = describe_trace(path)
    assert described.ideal_hit is None
    assert described.to_dict()["ideal_hit"] is None
    assert any("no block ids" in note for note in described.notes)


def test_ids_of_any_kind_are_told_apart():
    seen = SeenBlocks()
    assert seen.leading((1, "a", 2**40)) == 0
    assert seen.leading((1, "a", 2**40, "b")) == 3
    seen.forget()
    assert seen.leading((1,)) == 0


def test_azure_conv_has_the_published_figures(shared_data):
    described = describe_trace(shared_data / "traces" / "azure" / "AzureLLMInferenceTrace_conv.csv")
    assert described.requests == 19_366
    assert (p(described, "input_tok", "p50"), p(described, "input_tok", "p99")) == (1020, 4142)
    assert (p(described, "output_tok", "p50"), p(described, "output_tok", "p99")) == (129, 601)
    assert described.arrival_cv == pytest.approx(1.09, abs=0.005)


def test_mooncake_conversation_has_the_published_figures(shared_data):
    described = describe_trace(shared_data / "traces" / "mooncake" / "conversation_trace.jsonl")
    assert described.requests == 12_031
    assert described.distributions["input_tok"].mean == pytest.approx(12_035, abs=0.5)
    assert p(described, "input_tok", "p50") == 6909
    assert p(described, "input_tok", "p99") == pytest.approx(85_000, rel=0.01)
    assert described.distributions["output_tok"].mean == pytest.approx(343, abs=0.5)
    assert described.ideal_hit == pytest.approx(0.374, abs=0.0005)
    assert described.distinct_times == 1180
    assert any("1,180" in note for note in described.notes)


def test_servegen_clients_are_described_without_drawing(shared_data):
    described = describe_trace(shared_data / "traces" / "servegen" / "reason" / "deepseek-r1")
    assert len(described.classes) == 5
    assert described.requests == pytest.approx(3030)
    assert described.distributions["client_cv"].n == pytest.approx(5.05)
    assert p(described, "reasoning_share", "p50") == pytest.approx(0.978, abs=0.001)


def test_ten_claude_code_sessions_look_like_the_710(shared_data):
    described = describe_trace(shared_data / "traces" / "claude-code")
    assert (described.requests, described.sessions, described.subagents) == (418, 10, 0)
    assert described.ideal_hit == pytest.approx(0.954, abs=0.0005)
    assert described.stops == {"tool_use": 346, "": 53, "end_turn": 19}
    # Ten of 710 sessions: near the published fits (5.565/0.895 and 2.51/1.22), not equal to them.
    output, tool_gap = (
        described.distributions["output_tok"],
        described.distributions["gap_after_tool_use_s"],
    )
    assert (output.ln_mu, output.ln_sigma) == (
        pytest.approx(5.565, abs=0.1),
        pytest.approx(0.895, abs=0.1),
    )
    assert (tool_gap.ln_mu, tool_gap.ln_sigma) == (
        pytest.approx(2.51, abs=0.05),
        pytest.approx(1.22, abs=0.1),
    )
    assert p(described, "input_tok", "p50") == pytest.approx(104_000, rel=0.01)
