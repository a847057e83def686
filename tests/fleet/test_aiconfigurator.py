"""The modelled step by AIConfigurator, against what version 0.12.0 printed (recorded beside), and
live where it is installed.
"""

import json
import os
import re
import shutil
import stat
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.artifacts.run_result import load_result
from harness.cli import app
from harness.core.errors import InvalidRunError, NotComparableError, PreflightError
from harness.core.records import Status
from harness.fleet.estimate import aiconfigurator
from harness.fleet.estimate.aiconfigurator import (
    COMMAND_VARIABLE,
    find_command,
    parse_answer,
    parse_fault,
    question_of,
    ratio_between,
)

RECORDED = Path(__file__).parent / "aiconfigurator"
LLAMA = "meta-llama/Meta-Llama-3.1-70B"
ON_H100, ON_B200 = 147.71, 255.71  # tokens/s/gpu of the two recordings

REPLAY = """#!{python}
import pathlib, sys
said = dict(zip(sys.argv[3::2], sys.argv[4::2]))
recorded = pathlib.Path({recorded!r})
with open({asked!r}, "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
name = said["--system"] if said["--model-path"] == {model!r} else "unknown-model"
name = "does-not-fit" if said["--tp-size"] == "1" else name
sys.stdout.write((recorded / (name + ".out")).read_text())
if not name.endswith("_sxm"):
    sys.stderr.write((recorded / (name + ".err")).read_text())
    sys.exit(2)
"""


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """A command that prints the recordings; gives the file of what it was asked."""
    asked, command = tmp_path / "asked", tmp_path / "aiconfigurator"
    command.write_text(
        REPLAY.format(python=sys.executable, recorded=str(RECORDED), asked=str(asked), model=LLAMA)
    )
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv(COMMAND_VARIABLE, str(command))
    aiconfigurator._ask.cache_clear()
    return asked


@pytest.fixture
def b200(tmp_path):
    """A site file of B200s."""
    path = tmp_path / "b200.yaml"
    path.write_text(
        "ours:\n  gpu: {value: B200, source: us, date: 2026-01}\n  gpus: {value: 800, source: us,"
        " date: 2026-01}\n"
    )
    return path


def fleet(run, site, *options, out):
    return CliRunner().invoke(
        app, ["fleet", str(run), "--site", str(site), "--years", "0", "--out", str(out), *options]
    )


# --- what it is asked, and what is taken from its answer ---


def test_it_is_asked_for_the_runs_work_on_both_gpu_types(make_run, recorded, b200, tmp_path):
    """It is asked for the run's work on both types and the ratio is labelled with tool and
    version.
    """
    run = make_run(model=LLAMA, in_flight=64.2)
    done = fleet(run, b200, "--modelled", "aiconfigurator", "--json", out=tmp_path / "o")
    assert done.exit_code == 0, done.output
    [case] = json.loads(done.stdout)["cases"]
    [step] = [
        step for step in case["estimate"]["waterfall"] if step["source"].startswith("aiconfig")
    ]
    assert step["basis"] == "modelled"
    assert step["factor"] == pytest.approx(ON_B200 / ON_H100)
    assert step["source"].startswith(
        "aiconfigurator 0.12.0, meta-llama/Meta-Llama-3.1-70B, bfloat16, 3,000 input and 200 output"
        " tokens"
    )
    assert " 1,000 (" in step["source"]
    assert "-85%" in step["source"]  # so that its error on the measured type is in sight
    assert any("aiconfigurator 0.12.0" in flag for flag in case["estimate"]["flags"])
    asked = recorded.read_text().splitlines()
    work = "--batch-size 64 --isl 3000 --osl 200 --prefix 0 --tp-size 8 --moe-tp-size 8"
    assert [re.search(r"--system (\S+)", line)[1] for line in asked] == ["h100_sxm", "b200_sxm"]
    for line in asked:
        assert work in line
        assert f"--model-path {LLAMA}" in line
        assert "--gemm-quant-mode bfloat16" in line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"replicas": 2}, {"batch": 32, "tensor_parallel": 4}),
        ({"prefix_hit_ratio": 0.9}, {"cached_tok": 2700}),
        ({"prefix_hit_ratio": 1.0}, {"cached_tok": 2999}),  # one token at least is computed
        ({"dtype": "fp8"}, {"precision": "fp8"}),
        ({"dtype": "auto"}, {"precision": None}),
        ({"engine": "sglang"}, {"engine": "sglang"}),
    ],
)
def test_the_question_follows_the_run(make_run, change, said):
    question = question_of(load_result(make_run(in_flight=64, **change)))
    assert {key: getattr(question, key) for key in said} == said


@pytest.mark.parametrize(("name", "value"), [("h100_sxm", ON_H100), ("b200_sxm", ON_B200)])
def test_the_box_that_it_prints_is_read(name, value):
    answer = parse_answer((RECORDED / f"{name}.out").read_text(), "")
    assert (answer.tok_s_per_gpu, answer.backend, answer.version) == (
        value,
        "vllm (0.24.0)",
        "0.12.0",
    )


@pytest.mark.parametrize(
    "out", ["", "  tokens/s/gpu:     nan\n", "  tokens/s/gpu:     0.00\n", "  tokens/s/gpu:\n"]
)
def test_no_throughput_is_no_answer(out):
    assert parse_answer(out, "") is None


# --- what it cannot do ---


def test_where_it_is_not_installed_the_error_says_how_to(make_run, b200, tmp_path, monkeypatch):
    monkeypatch.delenv(COMMAND_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PreflightError) as error:
        find_command()
    assert "pip install aiconfigurator==0.12.0" in error.value.next_step
    assert (
        fleet(
            make_run(in_flight=64), b200, "--modelled", "aiconfigurator", out=tmp_path / "o"
        ).exit_code
        == PreflightError.exit_code
    )


@pytest.mark.parametrize(
    ("change", "types", "what", "cause"),
    [
        (
            {},
            ("H100", "B200"),
            "org/some-model",
            "is not a valid HuggingFace model path",
        ),
        (
            {"model": LLAMA, "replicas": 8},
            ("H100", "B200"),
            LLAMA,
            "does not fit in GPU memory",
        ),
        ({}, ("H100", "MI300X"), "MI300X", "H100"),
        ({"engine": "torch"}, ("H100", "B200"), "torch", "vllm"),
        ({"dtype": "float32"}, ("H100", "B200"), "float32", "bfloat16"),
        ({"in_flight": None}, ("H100", "B200"), "requests_in_flight", None),
        ({"replicas": 3}, ("H100", "B200"), "GPUs per replica", None),
    ],
)
def test_what_it_does_not_know_is_refused_with_its_own_words(
    make_run, recorded, change, types, what, cause
):
    run = load_result(make_run(**{"in_flight": 64, **change}))
    with pytest.raises(NotComparableError, match=what) as error:
        ratio_between(run, *types)
    assert cause is None or cause in error.value.cause
    assert error.value.next_step


def test_a_model_of_the_same_shape_can_be_named(make_run, recorded):
    run = load_result(make_run(in_flight=64))
    with pytest.raises(NotComparableError) as error:
        ratio_between(run, "H100", "B200")
    assert "--modelled aiconfigurator:" in error.value.next_step
    assert ratio_between(run, "H100", "B200", model=LLAMA).value == pytest.approx(ON_B200 / ON_H100)


def test_a_run_that_may_not_be_scaled_is_refused_before_it_is_asked(make_run, recorded):
    with pytest.raises(InvalidRunError):
        ratio_between(load_result(make_run(status=Status.INVALID, in_flight=64)), "H100", "B200")
    assert not recorded.exists()


def test_a_log_without_an_error_gives_its_last_line():
    assert parse_fault("one\ntwo\n\n") == "two"
    assert parse_fault("")


# --- the real one ---


@pytest.mark.live
@pytest.mark.skipif(
    not shutil.which(os.environ.get(COMMAND_VARIABLE, "aiconfigurator")),
    reason="aiconfigurator is not installed here",
)
def test_the_real_command_gives_what_was_recorded(make_run):
    ratio = ratio_between(load_result(make_run(model=LLAMA, in_flight=64)), "H100", "B200")
    assert 1 < ratio.value < 4
    assert ratio.source.startswith("aiconfigurator ")
    if "aiconfigurator 0.12.0," in ratio.source:
        assert ratio.value == pytest.approx(ON_B200 / ON_H100, rel=1e-3)
