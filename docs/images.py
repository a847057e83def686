"""Draw the pictures of the documentation (docs/img) from the sample runs (docs/sample).

Usage: python docs/images.py [--record]. `make docs-images` and `make docs-sample` call it.
Sample runs are reduced again first, so summaries, reports and pictures are those of this version.
`--record` measures the sample runs anew: real vLLM on CPU, and two sides with three repeats.
Pictures have a fixed size; their fonts are those of the machine (DejaVu on Debian).
"""

import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "docs" / "sample"
IMAGES = ROOT / "docs" / "img"
TERMINAL = SAMPLE / "terminal.ansi"
"""What tmux showed in the last load stage of the sample run, with its colors."""
SIDES = ("threads-2", "threads-1")
COLUMNS, LINES = 100, 24
SCALE = 1.5
"""Pixels per CSS pixel."""
MOST_BYTES = 150_000


@dataclass(frozen=True)
class Picture:
    """One picture of a page, from its top; sizes in CSS pixels."""

    name: str
    page: Path
    width: int = 1000
    height: int = 1100
    theme: str = "light"


def harness(*arguments: object) -> None:
    """Run one command in the root of the repository; its output is shown if it fails."""
    command = [sys.executable, "-m", "harness", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")


def runs() -> Iterator[Path]:
    """Run directories of the sample."""
    yield from sorted(path.parent for path in SAMPLE.glob("*/*/manifest.json"))


def reduce_again(work: Path) -> None:
    """Write summary.json of each sample run, and report.html of the first, as this version does."""
    for run in runs():
        copy = work / run.name
        shutil.copytree(run, copy)
        harness("reduce", copy)
        shutil.copyfile(copy / "summary.json", run / "summary.json")
    harness("report", work / vllm_run().name)
    shutil.copyfile(work / vllm_run().name / "report.html", SAMPLE / "report.html")


def vllm_run() -> Path:
    """The sample run of vLLM on CPU."""
    (run,) = (path for path in runs() if path.parent.name == "vllm-cpu")
    return run


def pages(work: Path) -> Sequence[Picture]:
    """Write all pages below `work`; what to draw of them."""
    report = SAMPLE / "report.html"
    harness("compare", *(SAMPLE / side for side in SIDES), "--report", work / "compare")
    shutil.copytree(ROOT / "tests" / "golden" / "runs", work / "golden")
    harness("reduce", work / "golden" / "energy")
    site = work / "golden" / "fleet" / "hall.yaml"
    site.write_text(site.read_text().replace("A hall", "Simulated GPUs, invented site"))
    fixed = ("--years", 1, "--as-of", "2026-11-30", "--min-attainment", 0.6)
    harness("fleet", work / "golden" / "energy", "--site", site, *fixed, "--out", work / "fleet")
    return (
        Picture("report", report, height=1180),
        Picture("report-dark", report, height=1180, theme="dark"),
        Picture("report-narrow", report, width=390, height=1400),
        Picture("comparison", work / "compare" / "comparison.html", height=1000),
        Picture("fleet", work / "fleet" / "fleet.html"),
        Picture("terminal", terminal_page(work), width=880, height=400, theme="dark"),
    )


def terminal_page(work: Path) -> Path:
    """A page with the recorded terminal."""
    from rich.console import Console
    from rich.terminal_theme import MONOKAI
    from rich.text import Text

    console = Console(record=True, file=io.StringIO(), width=COLUMNS, height=LINES)
    console.print(Text.from_ansi(TERMINAL.read_text()))
    code = console.export_html(theme=MONOKAI, inline_styles=True, code_format="{code}")
    page = work / "terminal.html"
    page.write_text(
        "<!doctype html><meta charset=utf-8><body style='margin:0;padding:16px;background:#0c0c0c;"
        f"color:#d9d9d9'><pre style='margin:0;font:14px/18px DejaVu Sans Mono'>{code}</pre>"
    )
    return page


def chromium() -> ModuleType:
    """The browser of the tests; folders of tests are not packages."""
    path = ROOT / "tests" / "report" / "conftest.py"
    spec = importlib.util.spec_from_file_location("report_browser", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw(page: Any, picture: Picture) -> None:  # noqa: ANN401 - a class of a test folder
    """Write one picture, with at most 128 colors."""
    page.open(picture.page, width=picture.width, theme=picture.theme, mobile=picture.width < 500)
    full = IMAGES / f"{picture.name}.png"
    page.screenshot(full, height=picture.height, scale=SCALE)
    with Image.open(full) as image:
        small = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(full, optimize=True)
    size = full.stat().st_size
    sys.stdout.write(f"{full.relative_to(ROOT)} {size / 1000:.0f} kB\n")
    if size > MOST_BYTES:
        sys.exit(f"{full.name} has {size} bytes, more than {MOST_BYTES}: make it less high")


def record(work: Path) -> None:
    """Measure the sample runs: the first in tmux, where its terminal is kept."""
    for name in ("vllm-cpu", *SIDES):
        shutil.rmtree(SAMPLE / name, ignore_errors=True)
    record_vllm(work / "vllm")
    harness("baseline", "save", "vllm-cpu", *(work / "vllm").iterdir(), "--out", SAMPLE)
    profiles = [SAMPLE / f"{side}.yaml" for side in SIDES]
    harness("repeat", *profiles, "--repeats", 3, "--cooldown", "2s", "--out", work / "repeats")
    (series,) = (work / "repeats").iterdir()
    for side in SIDES:
        harness("baseline", "save", side, series, "--variant", side, "--out", SAMPLE)
    leave_out_paths(work)


def leave_out_paths(work: Path) -> None:
    """Shorten the paths of this machine in manifests and baselines; nothing else is changed."""
    places = {f"{work}/": "", f"{ROOT}/": "", str(Path.home()): "~"}
    for name in ("baseline.json", "manifest.json"):
        for path in SAMPLE.rglob(name):
            text = path.read_text()
            for place, instead in places.items():
                text = text.replace(place, instead)
            path.write_text(text)


def record_vllm(out: Path) -> None:
    """Run docs/sample/vllm-cpu.yaml in tmux; keep its terminal 20 to 29 s into the last stage."""
    profile = SAMPLE.relative_to(ROOT) / "vllm-cpu.yaml"
    command = f"exec {sys.executable} -m harness run {profile} --out {out}"
    tmux = ("tmux", "-L", f"sample-{os.getpid()}")
    size = ("-x", str(COLUMNS), "-y", str(LINES))
    start = ("-f", "/dev/null", "new-session", "-d", *size, command)
    subprocess.run((*tmux, *start), cwd=ROOT, check=True)
    while (shown := _capture(tmux)) is not None:
        if "c4 · window · 2" in shown[0]:
            TERMINAL.write_text(shown[1])
        time.sleep(1)


def _capture(tmux: Sequence[str]) -> tuple[str, str] | None:
    """The terminal without and with its colors; None once the run has ended."""
    both = []
    for colors in ((), ("-e",)):
        done = subprocess.run(
            (*tmux, "capture-pane", "-p", *colors), capture_output=True, text=True, check=False
        )
        if done.returncode:
            return None
        both.append(done.stdout)
    return both[0], both[1]


def main(arguments: Sequence[str]) -> int:
    """Record if asked to, then reduce, report and draw."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if "--record" in arguments:
            record(work)
        reduce_again(work / "reduced")
        IMAGES.mkdir(exist_ok=True)
        drawn = pages(work)
        with chromium().browser(work / "chromium") as page:
            for picture in drawn:
                draw(page, picture)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
