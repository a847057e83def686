"""What an API's writer writes, its reader reads: streams and whole answers of every API."""

import copy
import json

import pytest

from harness.api.base import Finish, Text, ToolCall, WireApi
from harness.api.parts import AnswerParts
from harness.api.reader import Usage
from harness.api.table import WIRE_APIS

USAGE = Usage(100, 64, 32, 7)
PIECES = [Text('Grüße, "so"'), Text("\n🙂 \\ 1"), ToolCall("look_up", '{"word": "queue"}')]


@pytest.fixture(name="api", params=list(WIRE_APIS.values()), ids=lambda api: api.name.value)
def _api(request: pytest.FixtureRequest) -> WireApi:
    api: WireApi = request.param
    return api


def pieces(api: WireApi) -> list[Text | ToolCall]:
    return [piece for piece in PIECES if api.has_roles or isinstance(piece, Text)]


def test_a_stream_comes_back_as_it_was_written(api: WireApi) -> None:
    writer, parts = api.writer("m", "1"), AnswerParts()
    reader = api.reader(parts)
    written = writer.start(USAGE) + b"".join(writer.piece(piece) for piece in pieces(api))
    said = written + api.ping + copy.copy(writer).end(Finish("length"), USAGE)
    assert said == written + api.ping + writer.end(Finish("length"), USAGE)  # as often as asked
    for event, _ in api.events(said, whole=True):
        reader.read(event)
    assert (reader.error, reader.malformed, reader.ended) == (None, None, True)
    assert (reader.tokens().input_tok, reader.tokens().output_tok) == (100, 7)
    text, *calls = parts.parts()
    assert text.text == 'Grüße, "so"\n🙂 \\ 1'
    assert [(call.tool_name, json.loads(call.arguments)) for call in calls] == (
        [("look_up", {"word": "queue"})] if api.has_roles else []
    )


def test_a_whole_answer_has_the_streams_usage_and_end(api: WireApi) -> None:
    ends = []
    for streams in (True, False):
        writer, reader = api.writer("m", "1"), api.reader()
        if streams:
            for event, _ in api.events(writer.end(Finish("length"), USAGE), whole=True):
                reader.read(event)
        else:
            document = writer.whole(pieces(api)[:2], Finish("length"), USAGE)
            reader.read_document(json.dumps(document).encode())
            assert api.plain_answer(document).text.startswith('Grüße, "so"')
        assert (reader.error, reader.malformed) == (None, None)
        ends.append((reader.tokens(), reader.stop_reason))
    assert ends[0] == ends[1]


def test_an_error_within_a_stream_is_read_as_one(api: WireApi) -> None:
    reader = api.reader()
    for event, _ in api.events(api.writer("m", "1").error(500, "t", "it broke"), whole=True):
        reader.read(event)
    assert "it broke" in (reader.error or "")
    assert not reader.ended
