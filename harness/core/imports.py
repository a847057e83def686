"""Modules that a process must not import."""

import sys


class _NoPandas:
    """First finder: raises for pandas and passes on everything else."""

    @staticmethod
    def find_spec(name: str, *_path: object) -> None:
        if name == "pandas":
            raise ImportError("pandas is blocked in this process", name=name)


def keep_pandas_out() -> None:
    """Make `import pandas` fail in this process from now on.

    Arrow imports pandas, if installed, at its first conversion. That would cost a measuring process
    about 0.3 s of CPU and 40 MB for nothing.
    """
    if not any(isinstance(finder, _NoPandas) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NoPandas())
