"""Colossus harness: what AI inference really delivers per GPU, per watt and per dollar.

The names of the Python API load at first use, so that `harness --help` imports nothing of it. Their
types are in `__init__.pyi`.
"""

import importlib

__version__ = "0.1.0"

_API = {
    "Comparison": "harness.compare.compare",
    "HarnessError": "harness.core.errors",
    "Run": "harness.python_api",
    "Summary": "harness.artifacts.run_summary",
    "bench": "harness.python_api",
    "compare": "harness.python_api",
    "load": "harness.python_api",
    "run": "harness.python_api",
}

# Importing the package harness.compare binds this name, once: import it before the function takes
# the name.
importlib.import_module("harness.compare")
del globals()["compare"]


def __getattr__(name: str) -> object:
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_API[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_API})
