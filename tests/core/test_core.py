"""Units, clocks and errors: the standard library only."""

import contextlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import errors
from harness.core.clock import now_ns, take_anchor
from harness.core.errors import EXIT_MEANINGS, ExitCode, HarnessError
from harness.core.units import (
    human_duration,
    human_number,
    parse_bytes,
    parse_count,
    parse_duration_s,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("2m", 120),
        ("1.5h", 5400),
        ("250ms", 0.25),
        ("3 min", 180),
        (7, 7),
        ("7", 7),
        (0.5, 0.5),
    ],
)
def test_lengths_of_time(text, seconds):
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "count"), [("16k", 16000), ("16Ki", 16384), (5, 5), ("2M", 2_000_000), ("1.5k", 1500)]
)
def test_counts(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize(("text", "size"), [("4GiB", 4 * 2**30), ("10MB", 10**7), (512, 512)])
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("parse", [parse_duration_s, parse_count, parse_bytes])
@pytest.mark.parametrize("text", ["-1", "", "ten", "3 parsecs", "nan", "inf", "1e400", True])
def test_what_is_no_number_with_a_known_unit_is_refused(parse, text):
    with pytest.raises((ValueError, OverflowError)):
        parse(text)


def test_a_fraction_of_a_token_is_refused():
    with pytest.raises(ValueError, match="whole"):
        parse_count("1.5")


@given(st.text(max_size=20))
def test_any_text_is_a_number_or_a_value_error(text):
    for parse in (parse_duration_s, parse_count, parse_bytes):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0


def test_unknown_is_a_dash_and_zero_is_zero():
    assert human_number(None) == human_number(float("nan")) == "—"
    assert human_number(0) == "0"
    assert human_number(12345.6) == "12,346"
    assert human_number(0.012341) == "0.01234"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "12.3 ms"), (12, "12 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations_for_people(seconds, text):
    assert human_duration(seconds) == text


def test_every_exit_code_has_one_meaning_and_every_error_one_code():
    assert set(EXIT_MEANINGS) == set(ExitCode)
    assert len(set(EXIT_MEANINGS.values())) == len(ExitCode)
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, HarnessError) and kind is not HarnessError
    ]
    outcomes = {ExitCode.OK, ExitCode.THRESHOLD_FAILED}  # of commands that did their work
    assert sorted(kind.exit_code for kind in kinds) == sorted(set(ExitCode) - outcomes)


def test_an_error_says_what_why_and_what_next():
    text = str(
        errors.ServerError("it died", cause="no memory", next_step="buy some", details="log line")
    )
    assert text.splitlines() == [
        "it died",
        "  likely cause: no memory",
        "  next step: buy some",
        "log line",
    ]


def test_an_anchor_turns_monotonic_into_wall_time():
    anchor = take_anchor()
    later = anchor.wall(anchor.monotonic_ns + 5_000_000_000)
    assert (later - anchor.wall(anchor.monotonic_ns)).total_seconds() == pytest.approx(5)
    assert anchor.monotonic_ns <= now_ns()
    assert anchor.uncertainty_ns >= 0


def test_core_needs_the_standard_library_only():
    code = (
        # what an interpreter brings along is its owner's business (sitecustomize)
        "import sys; own = set(sys.modules)\n"
        "import pkgutil, importlib, harness.core as c\n"
        "[importlib.import_module('harness.core.' + m.name) for m in"
        " pkgutil.iter_modules(c.__path__)]\n"
        "foreign = {m.split('.')[0] for m in set(sys.modules) - own} - set(sys.stdlib_module_names)"
        " - {'harness'}\n"
        "print(sorted(m for m in foreign if not m.startswith('_')))"
    )
    out = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == "[]"
