"""Readers of recorded traffic: what they read, what they refuse, and that they name the place."""

import json
import math
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from harness.cli import app
from harness.core.errors import ProfileError
from harness.plan.traces import Clock, ReadTally, convert_trace, describe_trace, open_trace
from harness.plan.traces.order import REORDER_ROWS

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109

2023-11-16 18:15:51.2224670,879,55"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:01+00:00,2399,6
2024-05-10 02:00:02.5+02:00,76,15
"""
BURST = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
5,a,1.5,ChatGPT,472,18,490,Conversation log
45,,2.0,GPT-4,1087,230,1317,API log
118,a,0,ChatGPT,417,0,417,Conversation log
130,a,3,ChatGPT,600,50,650,Conversation log
"""
MOONCAKE = """{"timestamp": 0, "input_length": 1200, "output_length": 5, "hash_ids": [0, 1, 2]}
{"timestamp": 3000, "input_length": 1024, "output_length": 7, "hash_ids": [0, 3]}
{"timestamp": 4500, "input_length": 1030, "output_length": 1, "hash_ids": [0, 1, 9]}
"""
PLAIN_CSV = """t_s,input_tok,output_tok,session_id,class,hash_ids,block_tok,stop,gap_s
1,100,10,s1,chat,1 2 x9,40,end_turn,
2.5,50,3,,,,,,
4,160,5,s1,chat,1 2 x9 4,40,,2.5
"""
PLAIN_JSONL = """{"timestamp": "2026-01-01T00:00:00Z", "input_tok": 100, "output_tok": 10, "session_id": 7}
{"timestamp": "2026-01-01T00:00:02Z", "input_tok": 130, "output_tok": 10, "session_id": 7, "hash_ids": ["a", 2], "block_tok": 64}
"""
SESSION = {
    "id": "t",
    "models": ["m"],
    "block_size": 64,
    "hash_id_scope": "local",
    "tool_tokens": 100,
    "system_tokens": 20,
    "requests": [
        {
            "t": 0.0,
            "type": "n",
            "in": 200,
            "out": 20,
            "hash_ids": [1, 2, 3],
            "stop": "tool_use",
            "api_time": 2.0,
            "think_time": 0.0,
        },
        {
            "t": 3.0,
            "type": "subagent",
            "agent_id": "agent_001",
            "duration_ms": 9000,
            "requests": [
                {
                    "t": 0.0,
                    "type": "n",
                    "in": 130,
                    "out": 9,
                    "hash_ids": [1, 7],
                    "stop": "tool_use",
                    "api_time": 1.0,
                },
                {
                    "t": 2.0,
                    "type": "n",
                    "in": 200,
                    "out": 9,
                    "hash_ids": [1, 7, 8],
                    "stop": "end_turn",
                    "api_time": 1.0,
                },
            ],
        },
        {
            "t": 12.0,
            "type": "s",
            "in": 400,
            "out": 30,
            "hash_ids": [1, 2, 3, 4, 5, 6],
            "stop": "",
            "ttft": 1.5,
        },
        {
            "t": 20.0,
            "type": "s",
            "in": 150,
            "out": 0,
            "hash_ids": [1, 2],
            "stop": "end_turn",
            "api_time": 1.0,
        },
    ],
}
CLAUDE = json.dumps(SESSION)
CHUNK = "0,0,0,,0,0\n600,0.5,1.2,Gamma,0.7,0.3\n1200,0.1,3,Weibull,0.4,0.8\n1800,0,0,,0,0\n"
DATASET = json.dumps(
    {
        "0": {
            "input_tokens": "{100: 0.25, 200: 0.75}",
            "output_tokens": "{10: 1.0}",
            "reason_ratio": "{0.4: 0.5, 0.9: 0.5}",
        }
    }
)
FILES = {
    "azure": ("a.csv", AZURE),
    "burstgpt": ("b.csv", BURST),
    "mooncake": ("m.jsonl", MOONCAKE),
    "csv": ("p.csv", PLAIN_CSV),
    "jsonl": ("p.jsonl", PLAIN_JSONL),
    "claude-code": ("trace_1.json", CLAUDE),
}


@pytest.fixture
def write(tmp_path):
    def write_file(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


@pytest.fixture
def client(tmp_path):
    (tmp_path / "chunk-3-trace.csv").write_text(CHUNK)
    (tmp_path / "chunk-3-dataset.json").write_text(DATASET)
    return tmp_path


@pytest.mark.parametrize("kind", FILES)
def test_the_kind_is_told_from_the_content(write, kind):
    path = write(*FILES[kind])
    assert open_trace(path).kind == kind
    assert list(open_trace(path).requests()) == list(open_trace(path, kind).requests())


def test_azure_of_2023_counts_from_its_first_request(write):
    requests = list(open_trace(write("a.csv", AZURE)).requests())
    assert [(r.input_tok, r.output_tok, r.line) for r in requests] == [
        (374, 44, 2),
        (396, 109, 3),
        (879, 55, 5),
    ]
    assert [r.t_s for r in requests] == pytest.approx([0, 4.314579, 4.541877], abs=1e-6)


def test_azure_of_2024_has_zones_and_any_number_of_decimals(write):
    assert [r.t_s for r in open_trace(write("a.csv", AZURE_2024)).requests()] == pytest.approx(
        [0, 0.99007, 2.49007], abs=1e-6
    )


def test_burstgpt_leaves_out_and_counts_failures_and_knows_conversations(write):
    trace = open_trace(write("b.csv", BURST))
    tally = ReadTally()
    assert [(r.t_s, r.input_tok, r.session_id, r.turn) for r in trace.requests(tally=tally)] == [
        (0, 472, "a", 0),
        (40, 1087, None, 0),
        (125, 600, "a", 1),
    ]
    assert tally.failed == 1
    assert [[r.line for r in s.requests] for s in trace.sessions()] == [[2, 5], [3]]
    assert "Elapsed time" in trace.notes[0]


def test_mooncake_has_milliseconds_and_blocks_of_512_for_the_whole_trace(write):
    first, second, _ = open_trace(write("m.jsonl", MOONCAKE)).requests()
    assert (second.t_s, second.block_tok, second.block_hashes, second.hash_scope) == (
        3.0,
        512,
        (0, 3),
        "",
    )
    assert first.session_id is None


def test_plain_csv_reads_blocks_and_leaves_empty_cells_unknown(write):
    first, second, third = open_trace(write("p.csv", PLAIN_CSV)).requests()
    assert first.block_hashes == (1, 2, "x9")
    assert (second.session_id, second.block_hashes, second.gap_s, second.workload_class) == (
        None,
        None,
        None,
        None,
    )
    assert (third.turn, third.gap_s, third.stop) == (1, 2.5, None)


def test_claude_code_nests_subagents_with_times_from_their_start(write):
    trace = open_trace(write("trace_1.json", CLAUDE))
    assert trace.clock is Clock.SESSION
    main, sub = trace.sessions()
    assert [r.t_s for r in main.requests] == [0, 12, 20]
    assert [r.t_s for r in sub.requests] == [3, 5]
    assert (sub.parent_id, main.parent_id) == (main.session_id, None)
    # End to start; the end of the second is not recorded, so the gap after it is unknown, not 0.
    assert [r.gap_s for r in main.requests] == [None, 10.0, None]
    assert {r.hash_scope for s in (main, sub) for r in s.requests} == {"trace_1"}
    assert main.requests[1].ttft_s == 1.5


def test_a_folder_and_a_file_of_lines_hold_many_sessions(write, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for name in ("b.json", "a.json"):
        (folder / name).write_text(json.dumps(SESSION, indent=1))
    assert [s.session_id for s in open_trace(folder).sessions()] == ["a", "a/1", "b", "b/1"]
    assert len(list(open_trace(write("many.jsonl", f"{CLAUDE}\n{CLAUDE}\n")).sessions())) == 4


def test_servegen_draws_by_seed_with_the_rates_of_its_windows(client):
    trace = open_trace(client)
    assert (trace.kind, trace.drawn) == ("servegen", True)
    one = list(trace.requests(seed=1))
    assert one == list(trace.requests(seed=1)) != list(trace.requests(seed=2))
    counts = [sum(1 for _ in trace.requests(seed=seed)) for seed in range(40)]
    # 0.5/s and 0.1/s for 600 s each; the standard error of the mean of 40 draws is about 5.
    assert sum(counts) / 40 == pytest.approx(360, abs=25)
    assert {r.input_tok for r in one} == {100, 200}
    assert {r.reasoning_share for r in one} == {0.4, 0.9}
    assert open_trace(client / "chunk-3-trace.csv").kind == "servegen"


def test_servegen_text_is_read_as_literals_and_never_run(client, tmp_path):
    ran = tmp_path / "ran"
    evil = {
        "0": {
            "input_tokens": f"__import__('pathlib').Path({str(ran)!r}).touch() or {{1: 1.0}}",
            "output_tokens": "{1: 1.0}",
        }
    }
    (client / "chunk-3-dataset.json").write_text(json.dumps(evil))
    with pytest.raises(ProfileError, match="input_tokens"):
        list(open_trace(client).requests())
    assert not ran.exists()


def test_rows_a_little_late_are_put_in_order_and_counted(write):
    rows = [f"{t},10,5" for t in (0, 2, 1, 3)]
    tally = ReadTally()
    trace = open_trace(write("p.csv", "\n".join(["t_s,input_tok,output_tok", *rows])))
    assert [r.t_s for r in trace.requests(tally=tally)] == [0, 1, 2, 3]
    assert tally.reordered == 1


def test_rows_far_out_of_order_are_an_error_that_says_what_to_do(write):
    rows = [f"{t},10,5" for t in [*range(1, REORDER_ROWS + 5), 0]]
    path = write("p.csv", "\n".join(["t_s,input_tok,output_tok", *rows]))
    with pytest.raises(
        ProfileError, match=rf"p.csv:{REORDER_ROWS + 6}: the time goes back"
    ) as error:
        list(open_trace(path).requests())
    assert "sort the file" in str(error.value)


HEAD = "t_s,input_tok,output_tok\n"
BROKEN = {
    "empty": ("x.csv", "", "x.csv: is empty"),
    "blank": ("x.csv", "\n \n", "x.csv: is empty"),
    "header only": ("x.csv", HEAD, "no requests"),
    "unknown format": ("x.csv", "hello,world\n1,2\n", "unknown format"),
    "unknown json": ("x.jsonl", '{"a": 1}\n', "unknown format"),
    "binary": ("x.csv", b"\x7fELF\x00\x01\n", "x.csv:1: contains a zero byte"),
    "not utf-8": ("x.csv", HEAD.encode() + b"1,\xff,3\n", "x.csv:2: is not UTF-8"),
    "gzip": ("x.csv", b"\x1f\x8b\x08abc\n", "compressed with gzip"),
    "lfs pointer": (
        "x.csv",
        "version https://git-lfs.github.com/spec/v1\noid sha256:4b\n",
        "Git LFS pointer",
    ),
    "unknown column": (
        "x.csv",
        "t_s,input_tok,output_tok,sesion_id\n",
        "x.csv:1: 'sesion_id' is not a column",
    ),
    "column twice": (
        "x.csv",
        "t_s,input_tok,output_tok,t_s\n",
        "x.csv:1: .*'t_s'",
    ),
    "no time": ("x.csv", "input_tok,output_tok\n1,2\n", "exactly one of t_s"),
    "too few fields": ("x.csv", HEAD + "1,2,3\n4,5\n", "x.csv:3: has 2 fields, not 3"),
    "negative time": ("x.csv", HEAD + "-1,2,3\n", "x.csv:2: t_s is negative"),
    "nan": ("x.csv", HEAD + "nan,2,3\n", "x.csv:2: t_s is not finite"),
    "negative length": ("x.csv", HEAD + "1,-2,3\n", "x.csv:2: input_tok is negative"),
    "fraction": ("x.csv", HEAD + "1,2.5,3\n", "x.csv:2: input_tok is not a whole number"),
    "underscore": ("x.csv", HEAD + "1,1_000,3\n", "x.csv:2: input_tok is not a whole number"),
    "zero input": ("x.csv", HEAD + "1,0,3\n", "x.csv:2: input_tok is 0"),
    "missing": ("x.csv", HEAD + "1,,3\n", "x.csv:2: input_tok is missing"),
    "milliseconds as date": (
        "x.csv",
        "timestamp,input_tok,output_tok\n1747000000000,2,3\n",
        "beyond any date",
    ),
    "blocks without length": (
        "x.csv",
        "t_s,input_tok,output_tok,hash_ids\n1,2,3,4\n",
        "no block_tok",
    ),
    "open quote": ("x.csv", HEAD + '1,"2,3\n', "x.csv:2: is not CSV"),
    "no such day": (
        "x.csv",
        AZURE + "\n2023-02-30 18:15:46.6805900,1,2\n",
        "x.csv:6: TIMESTAMP is not a date",
    ),
    "torn line": ("x.jsonl", MOONCAKE + '{"timestamp": 9, "inp', "x.jsonl:4: is not JSON"),
    "no hashes": (
        "x.jsonl",
        MOONCAKE + '{"timestamp": 9000, "input_length": 3, "output_length": 1}',
        "x.jsonl:4: has no hash_ids",
    ),
    "too many hashes": (
        "x.jsonl",
        '{"timestamp":0,"input_length":3,"output_length":1,"hash_ids":[1,2]}',
        "2 block ids of 512 tokens for 3",
    ),
    "negative hash": (
        "x.jsonl",
        '{"timestamp":0,"input_length":3,"output_length":1,"hash_ids":[-1]}',
        "a negative id",
    ),
    "json nan": (
        "x.jsonl",
        '{"timestamp":NaN,"input_length":3,"output_length":1,"hash_ids":[]}',
        "NaN is not a number",
    ),
    "json infinity": (
        "x.jsonl",
        '{"timestamp":1e999,"input_length":3,"output_length":1,"hash_ids":[]}',
        "timestamp is not finite",
    ),
    "json text": (
        "x.jsonl",
        '{"timestamp":0,"input_length":"3","output_length":1,"hash_ids":[]}',
        "input_length must be a whole number",
    ),
    "json true": (
        "x.jsonl",
        '{"timestamp":0,"input_length":true,"output_length":1,"hash_ids":[]}',
        "input_length must be a whole number",
    ),
    "a list": ("x.jsonl", MOONCAKE + "[]", "x.jsonl:4: is not a JSON object"),
    "scope too late": (
        "x.jsonl",
        PLAIN_JSONL + '{"t_s": 9, "input_tok": 1, "output_tok": 1, "scope": "a"}',
        "x.jsonl:3: has a scope",
    ),
    "session without requests": ("x.json", '{"block_size": 64}', "it has no list of requests"),
    "session torn": ("x.json", json.dumps(SESSION, indent=1)[:400], r"x.json:\d+: is not JSON"),
    "session backwards": (
        "x.json",
        CLAUDE.replace('"t": 20.0', '"t": 2.0'),
        r"x.json requests\[3\]: the time goes back by 10 s",
    ),
    "session without hashes": (
        "x.json",
        CLAUDE.replace('"hash_ids": [1, 7, 8], ', ""),
        r"requests\[1\] requests\[1\]: has no hash_ids",
    ),
    "session type": (
        "x.json",
        CLAUDE.replace('"type": "n"', '"type": "z"'),
        r"requests\[0\]: type is 'z'",
    ),
}


@pytest.mark.parametrize(("name", "content", "message"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_named_with_file_and_line(write, name, content, message):
    with pytest.raises(ProfileError, match=message):
        list(open_trace(write(name, content)).requests())


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("chunk-3-trace.csv", "600,0.5", "600,-0.5", "chunk-3-trace.csv:2: rate is negative"),
        ("chunk-3-trace.csv", "1200,", "600,", "chunk-3-trace.csv:3: .*time"),
        (
            "chunk-3-trace.csv",
            "Gamma",
            "Pareto",
            "chunk-3-trace.csv:2: .*Gamma or Weibull",
        ),
        ("chunk-3-trace.csv", ",0.3\n", "\n", "chunk-3-trace.csv:2: has 5 fields, not 6"),
        ("chunk-3-dataset.json", "0.75", "0.55", "probabilities of input_tokens add up to 0.8"),
        ("chunk-3-dataset.json", "{10: 1.0}", "{10.5: 1.0}", "output_tokens .*10.5: 1.0"),
    ],
)
def test_broken_clients_are_named(client, name, old, new, message):
    path = client / name
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ProfileError, match=message):
        list(open_trace(client).requests())


def test_a_client_without_its_dataset_and_an_unknown_kind_are_errors(client, write):
    (client / "chunk-3-dataset.json").unlink()
    with pytest.raises(ProfileError, match=r"chunk-3-dataset\.json"):
        list(open_trace(client).requests())
    with pytest.raises(ProfileError, match="sharegpt"):
        open_trace(write("a.csv", AZURE), "sharegpt")
    with pytest.raises(ProfileError, match=r"absent\.csv"):
        open_trace(client / "absent.csv")
    with pytest.raises(ProfileError, match="kind mooncake"):
        open_trace(client, "mooncake")


MUTATIONS = st.lists(
    st.tuples(
        st.integers(0, 10_000),
        st.integers(0, 12),
        st.binary(max_size=6)
        | st.sampled_from([b"-", b"nan", b"1e999", b",", b"\n", b"[", b"9" * 40]),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("kind", [*FILES, "servegen"])
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(mutations=MUTATIONS)
def test_any_mutation_of_a_valid_file_is_read_or_refused(tmp_path, kind, mutations):
    name, content = FILES.get(kind, ("chunk-3-dataset.json", DATASET))
    data = content.encode()
    for at, length, new in mutations:
        at %= len(data) + 1
        data = data[:at] + new + data[at + length :]
    (tmp_path / name).write_bytes(data)
    if kind == "servegen":
        (tmp_path / "chunk-3-trace.csv").write_text("0,0.01,1.2,Gamma,0.7,0.3\n")
    for chosen in ("auto", kind):
        try:
            described = describe_trace(tmp_path if kind == "servegen" else tmp_path / name, chosen)
        except ProfileError as error:
            assert str(tmp_path) in str(error)  # noqa: PT017 - both ends are fine, and each is checked
            continue
        assert described.requests > 0
        assert all(
            math.isfinite(value) for d in described.distributions.values() for value in d.values
        )
        json.dumps(described.to_dict(), allow_nan=False)


@pytest.mark.parametrize("kind", FILES)
def test_a_converted_trace_says_the_same(write, tmp_path, kind):
    path = write(*FILES[kind])
    out = tmp_path / "out.jsonl"
    written = convert_trace(path, out)
    before, after = describe_trace(path), describe_trace(out)
    assert written == after.requests
    assert after.kind == "jsonl"
    same = (
        "requests",
        "sessions",
        "subagents",
        "clock",
        "ideal_hit",
        "distinct_blocks",
        "stops",
        "classes",
        "distributions",
        "distinct_times",
    )
    assert {name: getattr(before, name) for name in same} == {
        name: getattr(after, name) for name in same
    }
    with pytest.raises(ProfileError, match="exists"):
        convert_trace(path, out)


def test_a_conversion_that_fails_leaves_nothing(write, tmp_path):
    path = write("m.jsonl", MOONCAKE + "{torn")
    with pytest.raises(ProfileError):
        convert_trace(path, tmp_path / "out.jsonl")
    assert [file.name for file in tmp_path.iterdir()] == ["m.jsonl"]


def test_ids_of_the_whole_trace_stay_so_when_recordings_are_converted(write, tmp_path):
    path = write("t.jsonl", "\n".join([CLAUDE.replace('"local"', '"global"')] * 2))
    convert_trace(path, tmp_path / "out.jsonl")
    shared, own = (
        describe_trace(tmp_path / "out.jsonl"),
        describe_trace(write("u.jsonl", f"{CLAUDE}\n{CLAUDE}")),
    )
    assert shared.ideal_hit == describe_trace(path).ideal_hit > own.ideal_hit


def test_memory_does_not_grow_with_the_file(write):
    def peak(rows):
        path = write(
            f"{rows}.csv", "".join([HEAD, *(f"{t},{t % 500 + 1},{t % 90}\n" for t in range(rows))])
        )
        tracemalloc.start()
        describe_trace(path)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(2000)
    # A float for each row would be 24 bytes a row; keeping the rows, hundreds.
    assert peak(42_000) - peak(2000) < 4 * 40_000


def test_the_command_describes_converts_and_refuses(write, tmp_path):
    path = write("m.jsonl", MOONCAKE)
    run = CliRunner().invoke
    shown = run(app, ["traces", "describe", str(path), "--json"])
    assert json.loads(shown.stdout)["ideal_hit"] == describe_trace(path).ideal_hit
    assert (
        "ideal prefix hit"
        in run(app, ["traces", "describe", str(path), "--kind", "mooncake"]).stdout
    )
    assert (
        "3 requests"
        in run(app, ["traces", "convert", str(path), str(tmp_path / "out.jsonl")]).stdout
    )
    refused = run(app, ["traces", "describe", str(write("x.jsonl", MOONCAKE + "{torn"))])
    assert (refused.exit_code, "x.jsonl:4: is not JSON" in refused.stderr) == (2, True)


def lines_of(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mooncake(timestamp: float, **more: object) -> dict:
    return {"timestamp": timestamp, "input_length": 12, "output_length": 5, "hash_ids": [0]} | more


def test_chats_in_seconds_with_blocks_of_16_tokens(tmp_path: Path) -> None:
    chats = [(0, -1, 0.0), (1, -1, 0.5), (2, 0, 1.0), (3, 1, 1.5), (4, 2, 2.5)]
    rows = [mooncake(t, chat_id=chat, parent_chat_id=parent) for chat, parent, t in chats]
    trace = open_trace(lines_of(tmp_path / "t.jsonl", *rows))
    found = [(s.session_id, [r.t_s for r in s.requests]) for s in trace.sessions()]
    assert found == [("0", [0.0, 1.0, 2.5]), ("1", [0.5, 1.5])]
    assert {r.block_tok for r in trace.requests()} == {16}
    assert "seconds" in trace.notes[0]


def test_sessions_and_delays_of_mooncake_lines(tmp_path: Path) -> None:
    rows = [mooncake(0, session_id="a"), mooncake(2000, session_id="a", delay=1500, lora="x")]
    rows[0]["lora"] = "x"
    trace = open_trace(lines_of(tmp_path / "t.jsonl", *rows))
    (session,) = trace.sessions()
    assert [(r.t_s, r.gap_s, r.block_tok) for r in session.requests] == [
        (0.0, None, 512),
        (2.0, 1.5, 512),
    ]
    assert trace.notes[1].endswith("lora")


@pytest.mark.parametrize("rows", [3, 50, 60])
@pytest.mark.parametrize(("step_ms", "is_read"), [(0.25, False), (100.25, True), (1, True)])
def test_fractional_times_of_mooncake_lines_are_milliseconds_at_a_plausible_rate(
    tmp_path: Path, rows: int, step_ms: float, is_read: bool
) -> None:
    lines = [mooncake(number * step_ms) for number in range(rows)]
    requests = open_trace(lines_of(tmp_path / "t.jsonl", *lines)).requests()
    if is_read:
        assert list(requests)[-1].t_s == pytest.approx((rows - 1) * step_ms / 1000)
    else:
        with pytest.raises(ProfileError, match="1000"):
            list(requests)


@pytest.mark.parametrize("times", [(0.0, 3.0), (12.0, 15.0)])
def test_subagents_count_from_their_marker_or_the_session(
    tmp_path: Path, times: tuple[float, float]
) -> None:
    def request(t: float) -> dict:
        return {"t": t, "type": "s", "in": 64, "out": 5, "hash_ids": [0]}

    inner = {"t": 12.0, "type": "subagent", "requests": [request(t) for t in times]}
    session = {"block_size": 64, "requests": [request(0.0), inner, request(20.0)]}
    file = tmp_path / "s.json"
    file.write_text(json.dumps(session))
    trace = open_trace(file)
    assert [r.t_s for r in trace.requests()] == [0.0, 12.0, 15.0, 20.0]
    assert ("marker" if times[0] == 0 else "session") in trace.notes[0]


@pytest.mark.parametrize("sign", [".", ","])
@pytest.mark.parametrize("zone", ["", "+00:00", "Z"])
def test_decimal_fractions_of_times(tmp_path: Path, sign: str, zone: str) -> None:
    file = tmp_path / "a.csv"
    times = [f'"2024-05-10 00:00:0{second}{sign}{ms}{zone}"' for second, ms in ((0, 1), (1, 4))]
    rows = "".join(f"{time},100,20\n" for time in times)
    file.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}")
    assert [r.t_s for r in open_trace(file).requests()] == pytest.approx([0.0, 1.3], abs=1e-6)
