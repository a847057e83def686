"""What a process must not import."""

import sys
from typing import Final

_PANDAS: Final = "pandas"


class _NoPandas:
    """Before all other finders: says of pandas that it cannot be imported, and of the rest
    nothing.
    """

    @staticmethod
    def find_spec(name: str, *_path: object) -> None:
        if name == _PANDAS:
            raise ImportError("this process has no use for pandas", name=name)


def keep_pandas_out() -> None:
    """Make `import pandas` fail in this process from now on.

    Arrow imports pandas at its first conversion where it can, which costs a process that measures
    some 0.3 s of CPU and 40 MB for nothing.
    """
    if not any(isinstance(finder, _NoPandas) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NoPandas())
