"""A table as it was read: named columns of numbers or text, each of which still knows where it came from."""

import difflib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fcjax.datasets.dataset import DataError
from fcjax.datasets.table.numerals import Mark, looks_like_number

__all__ = ["Column", "Table", "as_text"]


def as_text(value: float) -> str:
    """A number as people write it: ``3`` for 3.0, and otherwise the shortest text that means the same number."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


@dataclass(frozen=True, eq=False)
class Column:
    """One column; at least one of ``texts`` and ``numbers`` is there.

    Args:
        name: as in the header.
        texts: the entries as they were written, None where one is missing; None as a whole if the file holds numbers.
        numbers: float64 with NaN where an entry is missing; None unless every entry is a number (or a date).
        dates: the numbers are days since 1970-01-01.
    """

    name: str
    texts: tuple[str | None, ...] | None
    numbers: NDArray[np.float64] | None
    dates: bool = False

    def as_texts(self) -> tuple[str | None, ...]:
        """The entries as text: as they were written, or ``3`` for the number 3.0."""
        if self.texts is not None:
            return self.texts
        assert self.numbers is not None
        return tuple(None if math.isnan(value) else as_text(value) for value in self.numbers.tolist())

    def missing(self) -> NDArray[np.bool_]:
        """Which entries are missing, shape ``(rows,)``."""
        if self.numbers is not None:
            return np.isnan(self.numbers)
        return np.array([text is None for text in self.as_texts()], bool)


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of one length.

    Args:
        source: the file, for messages.
        columns: by name, in the order of the file.
        lines: the line on which each row starts, shape ``(rows,)``; None where the file has no lines.
        mark: the decimal mark of a text file.
    """

    source: str
    columns: dict[str, Column]
    rows: int
    lines: NDArray[np.int64] | None = None
    mark: Mark = "."

    def place(self, row: int) -> str:
        """Where a row is, in words: ``line 7`` of a text file, ``row 6`` of another (counted from 1)."""
        return f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"

    def require(self, names: list[str]) -> None:
        """Raises a ``DataError`` that lists all of ``names`` that are no columns here."""
        absent = [name for name in names if name not in self.columns]
        if absent:
            listing = ", ".join(repr(name) for name in list(self.columns)[:20])
            more = f" and {len(self.columns) - 20} more" if len(self.columns) > 20 else ""
            raise DataError(
                f"{self.source}: expected column{'s' if len(absent) > 1 else ''} {', '.join(map(repr, absent))}, "
                f"found {listing}{more}{self._slip(absent[0])}"
            )

    def _slip(self, name: str) -> str:
        lower = {column.casefold(): column for column in self.columns}
        near = difflib.get_close_matches(name.casefold(), lower, 1)
        if near:
            return f"; did you mean {lower[near[0]]!r}?"
        numbers = sum(map(looks_like_number, self.columns))
        return "; is the line with the columns' names missing?" if 2 * numbers >= len(self.columns) else ""
