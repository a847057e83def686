"""A column of names as one code per row: ten million rows have only a few distinct names."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Categorical:
    """Names of rows; a comparison with a name is element-wise, as for an array of strings.

    Attributes:
        codes: per row, the position of its name in `names`.
    """

    codes: npt.NDArray[np.int32]
    names: tuple[str, ...]

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> "Categorical":
        """From a column of text, plain or dictionary-encoded; null is the empty name."""
        if isinstance(column, pa.ChunkedArray):
            column = column.unify_dictionaries().combine_chunks()
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
        return Categorical(self.codes[rows], self.names)

    def __eq__(self, name: object) -> Bools:  # type: ignore[override]  # as arrays compare
        return self.where(lambda own: own == name)

    def __ne__(self, name: object) -> Bools:  # type: ignore[override]
        return ~(self == name)

    __hash__ = None  # type: ignore[assignment]  # compared element by element, like an array

    def where(self, wanted: Callable[[str], bool]) -> Bools:
        """Which rows have a name that meets the condition."""
        found = [code for code, name in enumerate(self.names) if wanted(name)]
        if len(found) <= 1:  # a comparison is ten times faster than a lookup
            return np.asarray(self.codes == (found[0] if found else -1), dtype=bool)
        return np.isin(np.arange(len(self.names)), found)[self.codes]

    def renamed(self, rename: Callable[[str], str]) -> "Categorical":
        """With other names, some of which may be equal."""
        new = [rename(name) for name in self.names]
        names = tuple(dict.fromkeys(new))
        position = np.array([names.index(name) for name in new] or [0], dtype=np.int32)
        return Categorical(position[self.codes], names)

    def counts(self) -> dict[str, int]:
        """Number of rows per name, without zeros, ordered by name."""
        total: Counter[str] = Counter()
        for code, rows in enumerate(np.bincount(self.codes).tolist()):
            total[self.names[code]] += rows
        return {name: rows for name, rows in sorted(total.items()) if rows}
