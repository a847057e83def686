"""Token ids to answers: no half characters, stop strings across tokens, tool calls only where one
was written.
"""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from harness.server.engine.output import Output, StopStrings, Text, ToolCall, ToolCalls

CALL = '<tool_call>\n{"name": "look_up", "arguments": {"word": "queue"}}\n</tool_call>'


@pytest.fixture(scope="session")
def tokenizer(tiny_path):
    return Tokenizer.from_file(f"{tiny_path}/tokenizer.json")


def answer(tokenizer, text, **more):
    """Pieces of an answer that arrives a token at a time."""
    output = Output(tokenizer, **more)
    pieces = []
    for token_id in tokenizer.encode(text).ids:
        if output.stopped_by is None:
            pieces += output.feed([token_id])
    return output, pieces + output.finish()


def said(pieces):
    return "".join(piece.text for piece in pieces if isinstance(piece, Text))


@settings(deadline=None, max_examples=50)
@given(text=st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=40))
def test_any_text_comes_through_a_token_at_a_time(tiny_path, text):
    tokenizer = _cached(tiny_path)
    output, pieces = answer(tokenizer, text)
    # Special tokens written out in a text are special tokens, and those are no text.
    if "<|" not in text:
        assert said(pieces) == text
    assert output.tokens == len(tokenizer.encode(text).ids)


_TOKENIZERS: dict[str, Tokenizer] = {}


def _cached(path):
    return _TOKENIZERS.setdefault(path, Tokenizer.from_file(f"{path}/tokenizer.json"))


def test_no_piece_holds_half_a_character(tokenizer):
    _, pieces = answer(tokenizer, "Zürich 東京 🙂 done")
    assert all("�" not in piece.text for piece in pieces)


def test_bytes_that_never_become_a_character_are_flushed_at_the_end(tokenizer):
    ids = tokenizer.encode("🙂").ids
    assert len(ids) > 1
    output = Output(tokenizer)
    assert output.feed(ids[:-1]) == []
    assert "�" in said(output.finish())
    assert output.tokens == len(ids) - 1


def test_a_stop_string_is_found_across_tokens_and_cuts_before_itself(tokenizer):
    output, pieces = answer(tokenizer, "one two three four", stops=["o th"])
    assert output.stopped_by == "o th"
    assert said(pieces) == "one tw"
    assert output.tokens < len(tokenizer.encode("one two three four").ids)


def test_a_stop_string_that_is_only_begun_is_text_in_the_end(tokenizer):
    output, pieces = answer(tokenizer, "ends with a sto", stops=["stop"])
    assert (output.stopped_by, said(pieces)) == (None, "ends with a sto")


def test_no_stop_string_counts_before_the_minimum(tokenizer):
    ids = len(tokenizer.encode("aaa stop aaa").ids)
    output, pieces = answer(tokenizer, "aaa stop aaa", stops=["stop"], min_tok=ids)
    assert (output.stopped_by, said(pieces)) == (None, "aaa stop aaa")


def test_tokens_after_a_stop_string_are_not_counted(tokenizer):
    ids = tokenizer.encode("one two three").ids
    output = Output(tokenizer, stops=["one"])
    output.feed(ids)
    assert output.tokens < len(ids)


@given(
    st.text(alphabet="abc", max_size=30),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=3),
    st.integers(min_value=1, max_value=5),
)
def test_stop_strings_cut_as_a_search_in_the_whole_text_would(text, stops, step):
    found = StopStrings(stops)
    out = ""
    for at in range(0, len(text), step):
        out += found.feed(text[at : at + step])
        if found.matched:
            break
    if found.matched is None:
        out += found.rest()
    # The match that is complete first wins; within one delivery, the one that begins first.
    ends = [
        at for at in range(step, len(text) + step, step) if any(stop in text[:at] for stop in stops)
    ]
    if not ends:
        assert (out, found.matched) == (text, None)
    else:
        seen = text[: ends[0]]
        assert out == seen[: min(seen.find(stop) for stop in stops if stop in seen)]


def test_a_call_is_recognised_and_its_tags_are_no_text(tokenizer):
    output, pieces = answer(tokenizer, f"Let me see.\n{CALL}\n{CALL}\n", tool_names=["look_up"])
    calls = [piece for piece in pieces if isinstance(piece, ToolCall)]
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [
        ("look_up", {"word": "queue"})
    ] * 2
    assert said(pieces) == "Let me see.\n"
    assert output.called_tool


def test_a_call_without_its_closing_tag_counts_if_it_is_complete(tokenizer):
    _, pieces = answer(tokenizer, CALL.removesuffix("\n</tool_call>"), tool_names=["look_up"])
    assert [type(piece) for piece in pieces] == [ToolCall]


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>not json</tool_call> and on",
        '<tool_call>{"name": "look_up"}</tool_call>',
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "look_up", "arguments": "text"}</tool_call>',
        '<tool_call>{"name": "look_up", "argu',
        "almost a <tool_ca",
    ],
)
def test_what_is_no_call_stays_text(tokenizer, text):
    output, pieces = answer(tokenizer, text, tool_names=["look_up"])
    assert said(pieces) == text
    assert not output.called_tool


def test_without_tools_a_call_is_text(tokenizer):
    _, pieces = answer(tokenizer, CALL)
    assert said(pieces) == CALL


@given(st.text(alphabet="<>tol_ca/x{}", max_size=60), st.integers(min_value=1, max_value=7))
def test_no_text_is_lost_however_it_is_cut(text, step):
    calls = ToolCalls(["f"])
    pieces = [
        piece for at in range(0, len(text), step) for piece in calls.feed(text[at : at + step])
    ] + calls.rest()
    assert said(pieces) == text
