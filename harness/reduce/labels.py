"""A column of names: a small number for each row in place of a string, since ten million rows know but a handful of names."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Names of rows. Compared with a name it gives, like an array of strings, which rows have it.

    Attributes:
        codes: of each row: the position of its name.
        names: each once.
    """

    codes: npt.NDArray[np.int32]
    names: tuple[str, ...]

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> "Labels":
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

    @classmethod
    def joined(cls, parts: Sequence["Labels"]) -> "Labels":
        """One column of several, one after the other."""
        names = tuple(dict.fromkeys(name for part in parts for name in part.names))
        place = {name: code for code, name in enumerate(names)}
        codes = [np.array([place[name] for name in part.names] or [0], dtype=np.int32)[part.codes] for part in parts]
        return cls(np.concatenate([np.zeros(0, np.int32), *codes]), names)

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[str]:
        return (self.names[code] for code in self.codes)

    def __getitem__(self, rows: Any) -> "Labels":  # noqa: ANN401 - any index of an array
        """The same of some rows."""
        return Labels(self.codes[rows], self.names)

    def __eq__(self, name: object) -> Bools:  # type: ignore[override]  # as arrays compare
        return self.where(lambda own: own == name)

    def __ne__(self, name: object) -> Bools:  # type: ignore[override]
        return ~(self == name)

    __hash__ = None  # type: ignore[assignment]  # compared element by element, like an array

    def where(self, wanted: Callable[[str], bool]) -> Bools:
        """Which rows have a name that is wanted."""
        return np.array([wanted(name) for name in self.names] or [False], dtype=bool)[self.codes]

    def renamed(self, rename: Callable[[str], str]) -> "Labels":
        """With other names, some of which may become one."""
        new = [rename(name) for name in self.names]
        names = tuple(dict.fromkeys(new))
        position = np.array([names.index(name) for name in new] or [0], dtype=np.int32)
        return Labels(position[self.codes], names)

    def counts(self) -> dict[str, int]:
        """Rows of each name that has any, by name."""
        numbers = np.bincount(self.codes, minlength=len(self.names))
        total: dict[str, int] = {}
        for name, number in zip(self.names, numbers, strict=True):
            if number:
                total[name] = total.get(name, 0) + int(number)
        return dict(sorted(total.items()))
