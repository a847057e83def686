"""A column of names: a small number for each row in place of a string, since ten million rows know
but a handful of names.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Categorical:
    """Names of rows. Compared with a name it gives, like an array of strings, which rows have it.

    Attributes:
        codes: of each row: the position of its name.
        names: each once.
    """

    codes: npt.NDArray[np.int32]
    names: tuple[str, ...]

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> "Categorical":
        """From a column of text, plain or by dictionary; null is the empty name."""
        if isinstance(column, pa.ChunkedArray):
            column = column.unify_dictionaries().combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # no rows
            return cls(np.zeros(0, np.int32), ())
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        names = [name or "" for name in column.dictionary.to_pylist()]
        codes = column.indices
        if codes.null_count:
            names.append("")
            codes = codes.fill_null(len(names) - 1)
        return cls(np.asarray(codes.to_numpy(zero_copy_only=False)).astype(np.int32), tuple(names))

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[str]:
        return (self.names[code] for code in self.codes)

    def __getitem__(self, rows: Any) -> "Categorical":  # noqa: ANN401 - any index of an array
        """The same of some rows."""
        return Categorical(self.codes[rows], self.names)

    def __eq__(self, name: object) -> Bools:  # type: ignore[override]  # as arrays compare
        return self.where(lambda own: own == name)

    def __ne__(self, name: object) -> Bools:  # type: ignore[override]
        return ~(self == name)

    __hash__ = None  # type: ignore[assignment]  # compared element by element, like an array

    def where(self, wanted: Callable[[str], bool]) -> Bools:
        """Which rows have a name that is wanted."""
        found = [code for code, name in enumerate(self.names) if wanted(name)]
        if len(found) <= 1:  # a comparison is ten times faster than a look-up
            return np.asarray(self.codes == (found[0] if found else -1), dtype=bool)
        return np.isin(np.arange(len(self.names)), found)[self.codes]

    def renamed(self, rename: Callable[[str], str]) -> "Categorical":
        """With other names, some of which may become one."""
        new = [rename(name) for name in self.names]
        names = tuple(dict.fromkeys(new))
        position = np.array([names.index(name) for name in new] or [0], dtype=np.int32)
        return Categorical(position[self.codes], names)

    def counts(self) -> dict[str, int]:
        """Rows of each name that has any, by name."""
        numbers = np.bincount(self.codes, minlength=len(self.names))
        total: dict[str, int] = {}
        for name, number in zip(self.names, numbers, strict=True):
            if number:
                total[name] = total.get(name, 0) + int(number)
        return dict(sorted(total.items()))
