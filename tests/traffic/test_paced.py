"""The paced server is what the load generator is held against: it must answer as real clients
expect and know when it wrote.
"""

import itertools
from pathlib import Path

import httpx
import pytest

from harness.core.clock import now_ns
from harness.reference_server.faults import Fault
from harness.reference_server.server import MODEL, Pace, PacedServer, text_of


def test_the_official_clients_work_against_it() -> None:
    import anthropic
    import openai

    with PacedServer(Pace(ttft_ms=1, gap_ms=0.5, tokens=20)) as server:
        with anthropic.Anthropic(api_key="k", base_url=server.url, max_retries=0) as claude:
            ask = [{"role": "user", "content": "x"}]
            with claude.messages.stream(model=MODEL, max_tokens=50, messages=ask) as stream:
                streamed = stream.get_final_message()
            whole = claude.messages.create(model=MODEL, max_tokens=7, messages=ask)
        with openai.OpenAI(api_key="k", base_url=server.url + "/v1", max_retries=0) as client:
            chunks = list(
                client.chat.completions.create(model=MODEL, max_tokens=9, messages=ask, stream=True)
            )
            completion = client.chat.completions.create(model=MODEL, messages=ask)
            models = client.models.list().data
            plain = list(
                client.completions.create(model=MODEL, max_tokens=8, prompt="x", stream=True)
            )
            plain_whole = client.completions.create(model=MODEL, max_tokens=8, prompt="x")
            with client.responses.stream(model=MODEL, max_output_tokens=50, input="x") as told:
                response = told.get_final_response()
            response_whole = client.responses.create(model=MODEL, max_output_tokens=7, input="x")
    assert streamed.content[0].text == text_of(20)
    assert (streamed.stop_reason, streamed.usage.output_tokens) == ("end_turn", 20)
    assert whole.content[0].text == text_of(7)
    assert (whole.stop_reason, whole.usage.output_tokens) == ("max_tokens", 7)
    assert "".join(
        chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices
    ) == text_of(9)
    assert completion.choices[0].message.content == text_of(20)
    assert (
        "".join(chunk.choices[0].text for chunk in plain if chunk.choices)
        == text_of(8)
        == plain_whole.choices[0].text
    )
    assert plain[-1].usage.completion_tokens == 8
    assert (response.output_text, response.status, response.usage.output_tokens) == (
        text_of(20),
        "completed",
        20,
    )
    assert (response_whole.output_text, response_whole.incomplete_details.reason) == (
        text_of(7),
        "max_output_tokens",
    )
    assert [(model.id, model.owned_by) for model in models] == [
        (MODEL, "harness-paced-test-double")
    ]


def test_it_cannot_be_mistaken_for_an_engine() -> None:
    with PacedServer(Pace()) as server:
        assert httpx.get(server.url + "/health").headers["server"] == "harness-paced-test-double"
        metrics = httpx.get(server.url + "/metrics").text
        assert httpx.get(server.url + "/v1/nothing").status_code == 404
    assert 'vllm:generation_tokens_total{engine="0",model_name="paced-test-double"} 0' in metrics


def test_its_truth_is_the_time_of_each_write(tmp_path: Path) -> None:
    before_ns = now_ns()
    with PacedServer(Pace(ttft_ms=30, gap_ms=5, hash_bodies=True), tmp_path / "truth") as server:
        body = {"model": MODEL, "max_tokens": 6, "stream": True, "messages": []}
        for name in ("a", "b"):
            httpx.post(
                server.url + "/v1/messages", json=body, headers={"x-harness-request-id": name}
            )
        counted = httpx.get(server.url + "/metrics").text
        server.stop()
        after_ns = now_ns()
        first, second = server.truth()
    assert (first["request_id"], second["request_id"]) == ("a", "b")
    assert first["body_sha256"] == second["body_sha256"]
    for line in (first, second):
        times = [before_ns, line["received_ns"], *line["content_ns"], line["done_ns"], after_ns]
        assert times == sorted(times)
        assert line["content_ns"][0] - line["received_ns"] >= 30e6
        # the schedule has no drift: token k is due 5k ms behind the first's due time, and may only
        # be late
        assert all(
            at - line["received_ns"] >= (30 + 5 * k) * 1e6
            for k, at in enumerate(line["content_ns"])
        )
        assert (line["tokens"], line["aborted"], len(line["content_ns"])) == (6, False, 6)
    assert "vllm:generation_tokens_total" in counted
    assert (
        f'vllm:prompt_tokens_total{{engine="0",model_name="{MODEL}"}} {first["input_tok"] * 2}'
        in counted
    )
    assert (
        'vllm:request_success_total{finished_reason="length",engine="0",model_name="paced-test-double"} 2'
        in counted
    )


@pytest.mark.parametrize(
    "fault",
    [
        Fault.CRLF,
        Fault.SPLIT_BYTES,
        Fault.SEVERAL_PER_WRITE,
        Fault.COMMENTS,
        Fault.EVENT_OVER_WRITES,
        Fault.CONTENT_LENGTH,
        Fault.UNTIL_CLOSE,
    ],
)
def test_odd_but_right_streams_are_right(fault: Fault) -> None:
    import anthropic

    with (
        PacedServer(Pace(ttft_ms=1, gap_ms=0.2, faults=(fault,))) as server,
        anthropic.Anthropic(api_key="k", base_url=server.url, max_retries=0) as claude,
        claude.messages.stream(
            model=MODEL, max_tokens=25, messages=[{"role": "user", "content": "x"}]
        ) as stream,
    ):
        assert stream.get_final_message().content[0].text == text_of(25)


def test_a_client_that_leaves_is_noted(tmp_path: Path) -> None:
    with PacedServer(Pace(ttft_ms=1, gap_ms=20), tmp_path / "truth") as server:
        body = {"model": MODEL, "max_tokens": 1000, "stream": True, "messages": []}
        with httpx.stream("POST", server.url + "/v1/messages", json=body) as response:
            list(itertools.islice(response.iter_lines(), 9))
        server.stop()
        (line,) = server.truth()
    assert line["aborted"]
    assert 0 < line["tokens"] < 1000
