"""Bytes that must not change while the code behind them does: what commands make of committed run
directories.

Every output below `expected/` is compared as it was written, but for the last digits of fractions
(`TOLERANCE`): sums and logarithms differ in them between processors, whose vector instructions add
in another order. After a change that is meant to alter a figure, a name or a word:

    HARNESS_GOLDEN_UPDATE=1 python -m pytest tests/golden

writes them anew, and the difference in git is what the change did. Commands run in this process,
from a copy of `runs/`, with relative paths, so that no path depends on the machine.

- runs/energy: two GPUs, meters of node and utility, idle, board state, price, carbon, two classes,
  canaries, certificate, checked answers.
- runs/faults: journals only; throttled, restarted, unreachable, failed requests of every kind,
  streams that do not tell their tokens.
- runs/killed: journals only, one of them torn; no GPU, no end of the stage, warm-up to be found.
- runs/attribution: stages from which joules of input and output can be told apart; a calibrated
  power sensor.
- runs/repeats: three runs each of two treatments, as `harness repeat` leaves them.
- runs/fleet: manifests and summaries alone, as an earlier day's harness wrote them.
- early: a run of an early commit, from tests/reduce/fixtures.
"""

import csv
import difflib
import hashlib
import io
import json
import math
import os
import re
import runpy
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq
import pytest

HERE = Path(__file__).parent
EXPECTED = HERE / "expected"
CHECKOUT = HERE.parents[1]
UPDATE = os.environ.get("HARNESS_GOLDEN_UPDATE") == "1"
AS_OF = "2026-11-30"

RUNS = ("early", "energy", "faults", "killed", "attribution")
REPEATS = tuple(f"repeats/{variant}-{number}" for variant in ("b16", "fp8") for number in (1, 2, 3))
INVALID = ("faults", "killed")
EXPORTED = ("energy", "killed")
PROFILES = sorted(path.stem for path in (CHECKOUT / "loadprofiles").glob("*.yaml"))

COMPARISONS = {
    "compare-gates": (99, "repeats --gate gates.yaml --strict"),
    "compare-baseline": (
        99,
        "repeats/fp8-1 repeats/fp8-2 repeats/fp8-3 --baseline reference/b16 --gate gates.yaml",
    ),
    "compare-runs": (
        0,
        "repeats/b16-1 repeats/fp8-1 faults --group-by precision --sensor-error 0.01 --allow-mismatch verdict",
    ),
}
FLEET = {
    "fleet-scenarios": "fleet/two --site fleet/hall.yaml --scenario all --years 1 --limits fleet/at-450w --limits fleet/at-300w"
    " --loads fleet/light --replicas fleet/four --demand-tok-s 2000000 --assume pue=1.2:1.4",
    "fleet-measured": "energy --site fleet/hall.yaml --years 1 --policy queue --oversubscribe 0.1 --seed 3"
    " --min-attainment 0.6",
    "fleet-sites": "fleet/node --compare-sites --years 0",
    "fleet-modelled": "fleet/one faults --site fleet/hall-h200.yaml --modelled table --years 0 --work precision=bfloat16",
}

TOLERANCE: Final = 1e-8
"""Relative difference of fractions that is rounding alone."""
ROUNDING: Final = 1e-13
"""Absolute difference that is rounding alone: residuals of sums that are near 1."""
NUMBER: Final = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?")

MASKED = {
    # which version of the harness saved the baseline, and when
    "baseline.json": [("harness", "version"), ("saved_at",)],
}
"""Keys of expected files that change with the day, the place or the release."""


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    code: int
    out: str
    err: str


def harness(*argv: str) -> Done:
    """Run a command in this process, as `python -m harness` does."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
        patched.setattr(sys, "argv", ["harness", *argv])
        try:
            runpy.run_module("harness", run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture(name="place", scope="module")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory of all commands: a copy of the runs, reduced, without a cache of models
    from a hub.
    """
    place = tmp_path_factory.mktemp("golden") / "runs"
    shutil.copytree(HERE / "runs", place)
    shutil.copytree(HERE.parent / "reduce" / "fixtures" / "run-early", place / "early")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(place)
        patched.setenv("HF_HOME", str(place / "no-hub"))
        for run in (*RUNS, *REPEATS):
            exports = ["--export", "all"] if run in EXPORTED else []
            before = Path(run, "manifest.json").read_bytes()
            done = harness("reduce", run, "--json", *exports)
            assert done.code == (10 if run in INVALID else 0), done.err
            assert json.loads(done.out) == json.loads(Path(run, "summary.json").read_bytes())
            assert Path(run, "manifest.json").read_bytes() == before
        yield place


def differences(old: Any, new: Any, path: str = "$") -> Iterator[str]:
    """Key paths at which two JSON values differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            if key in old and key in new:
                yield from differences(old[key], new[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}: {'is new' if key in new else 'is gone'}"
        if list(old) != list(new) and set(old) == set(new):
            yield f"{path}: other order of keys"
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{path}: {len(old)} entries, now {len(new)}"
        for position, (a, b) in enumerate(zip(old, new, strict=False)):
            yield from differences(a, b, f"{path}[{position}]")
    elif type(old) is not type(new) or not same(old, new):
        yield f"{path}: {old!r}, now {new!r}"


def same(old: Any, new: Any) -> bool:
    """Whether two values are equal, fractions but for rounding."""
    if isinstance(old, float) and isinstance(new, float):
        both_nan = math.isnan(old) and math.isnan(new)
        return both_nan or math.isclose(old, new, rel_tol=TOLERANCE, abs_tol=ROUNDING)
    return bool(old == new)


def text_differences(old: str, new: str) -> Iterator[str]:
    """Lines at which two texts differ, both in unified form; fractions may differ by rounding."""
    before, after = old.splitlines(), new.splitlines()
    for position, (a, b) in enumerate(zip(before, after, strict=False)):
        fractions = [list(map(float, NUMBER.findall(line))) for line in (a, b)]
        if NUMBER.sub("#", a) == NUMBER.sub("#", b) and all(map(same, *fractions)):
            after[position] = a
    yield from difflib.unified_diff(before, after, "expected", "found", lineterm="", n=0)


def check(name: str, found: bytes) -> None:
    """Compare with expected/NAME, byte for byte but for what is masked and rounding; the first
    differences are the message.
    """
    file = EXPECTED / name
    if file.suffix == ".json" and (masked := MASKED.get(name.rpartition("/")[2])):
        found = _mask(found, masked)
    if UPDATE:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(found)
        return
    expected = file.read_bytes()
    if found == expected:
        return
    if file.suffix == ".json":
        value = json.loads(found)
        assert found.decode() == json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        lines = differences(json.loads(expected), value)
    else:
        lines = text_differences(expected.decode(), found.decode())
    if shown := list(islice(lines, 20)):
        pytest.fail("\n".join([f"{name} is not what it was:", *shown]), pytrace=False)


def _mask(raw: bytes, paths: list[tuple[str, ...]]) -> bytes:
    value = json.loads(raw)
    for *parents, last in paths:
        inner = value
        for key in parents:
            inner = inner[key]
        assert last in inner
        inner[last] = "masked"
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def check_table(name: str, path: Path) -> None:
    """Compare a Parquet file by its schema and its values: bytes of the format may differ between
    versions of its library.
    """
    file = EXPECTED / name
    if UPDATE:
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, file)
        return
    expected, found = pq.read_table(file), pq.read_table(path)
    assert found.schema.equals(expected.schema, check_metadata=False)
    if not found.equals(expected):
        shown = list(islice(differences(expected.to_pylist(), found.to_pylist()), 20))
        assert not shown, "\n".join([f"{name} is not what it was:", *shown])


@pytest.mark.parametrize("run", [*RUNS, REPEATS[0]])
def test_summary(place: Path, run: str) -> None:
    check(f"{run}/summary.json", (place / run / "summary.json").read_bytes())


@pytest.mark.parametrize("run", EXPORTED)
def test_exports(place: Path, run: str) -> None:
    for name in ("figures.csv", "figures.openmetrics", "series.csv"):
        check(f"{run}/{name}", (place / run / name).read_bytes())
    for name in ("figures.parquet", "series.parquet"):
        check_table(f"{run}/{name}", place / run / name)


@pytest.mark.parametrize("table", ["requests", "scrapes/samples", "power", "boards", "host"])
def test_tables_of_journals(place: Path, table: str) -> None:
    check_table(f"faults/{table}.parquet", place / "faults" / f"{table}.parquet")


def test_report_in_words(place: Path, tmp_path: Path) -> None:
    """Words change on purpose now and then: update the file then."""
    shutil.copytree(place / "energy", tmp_path / "energy")
    done = harness("report", str(tmp_path / "energy"), "--json")
    assert done.code == 0, done.err
    assert (tmp_path / "energy" / "summary.json").read_bytes() == (
        place / "energy" / "summary.json"
    ).read_bytes()
    check("energy/report.md", (tmp_path / "energy" / "report.md").read_bytes())


def test_energy_in_detail(place: Path) -> None:
    for run in ("energy", "attribution"):
        done = harness("energy", "show", run, "--json")
        assert done.code == 0, done.err
        assert (
            json.loads(done.out)
            == json.loads((place / run / "summary.json").read_bytes())["energy"]
        )
    meter = ("--meter", "meter.csv", "--accuracy", "0.002", "--name", "WT310", "--device", "GPU-0")
    done = harness("energy", "calibrate", "energy", *meter, "--json")
    assert done.code == 0, done.err
    check("meter-calibration.json", done.out.encode())


def test_list_of_results(place: Path) -> None:
    check("results.json", harness("results", ".", "--json").out.encode())


@pytest.fixture(name="reference", scope="module")
def _reference(place: Path) -> Path:
    done = harness("baseline", "save", "b16", "repeats", "--variant", "b16", "--out", "reference")
    assert done.code == 0, done.err
    return place / "reference" / "b16"


def test_baseline(reference: Path) -> None:
    check("baseline.json", (reference / "baseline.json").read_bytes())


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparison(reference: Path, name: str) -> None:
    code, argv = COMPARISONS[name]
    done = harness("compare", *argv.split(), "--json", "--report", name)
    assert done.code == code, done.err
    written = Path(name, "comparison.json").read_bytes()
    assert json.loads(done.out) == json.loads(written)
    check(f"{name}.json", written)


@pytest.mark.parametrize("name", FLEET)
def test_fleet(place: Path, name: str) -> None:
    fixed = ("--draws", "500", "--as-of", AS_OF, "--json", "--out", name)
    done = harness("fleet", *FLEET[name].split(), *fixed)
    assert done.code == 0, done.err
    written = Path(name, "fleet.json").read_bytes()
    assert json.loads(done.out) == json.loads(written)
    check(f"{name}.json", written)
    hours = Path(name, "fleet-hours.csv")
    if hours.exists():
        check(f"{name}-hours.csv.sha256", f"{rounded_sha256(hours)}\n".encode())


def rounded_sha256(path: Path) -> str:
    """Of a CSV file's cells, numbers with six digits."""
    found = hashlib.sha256()
    with path.open(newline="") as file:
        for row in csv.reader(file):
            found.update("".join(f"{_rounded(cell)}\n" for cell in row).encode())
    return found.hexdigest()


def _rounded(cell: str) -> str:
    return f"{round(float(cell), 6):.6g}" if NUMBER.fullmatch(cell) else cell


def test_shipped_sites(place: Path) -> None:
    check("sites.json", harness("fleet", "sites", "--json").out.encode())


@pytest.mark.parametrize("profile", PROFILES)
def test_plan(place: Path, profile: str) -> None:
    path = CHECKOUT / "loadprofiles" / f"{profile}.yaml"
    nobody = ("--set", "server.urls.0=http://127.0.0.1:9") if profile == "attach" else ()
    done = harness("plan", str(path), *nobody, "--json")
    assert done.code == 0, done.err
    check(f"plans/{profile}.json", done.out.encode())
