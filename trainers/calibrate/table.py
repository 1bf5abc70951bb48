"""A named data set's columns as numbers, with whatever is wrong named by file, row and column."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from churnsaver.errors import SchemaError
from trainers.data.csv_reader import RawCsv, read_csv

Floats = NDArray[np.float64]
Strings = NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class Table:
    """One CSV file of a data set."""

    raw: RawCsv

    @classmethod
    def read(cls, path: Path) -> Table:
        return cls(read_csv(path))

    def __len__(self) -> int:
        return len(self.raw.cells)

    def texts(self, column: str, expected: Collection[str] | None = None) -> Strings:
        """The column's cells, (n,); SchemaError where one is none of `expected`."""
        if column not in self.raw.cells.columns:
            found = ", ".join(self.raw.cells.columns)
            raise SchemaError(f"{self.raw.path}: has no column {column!r}; expected the public data set, found {found}")
        cells = self.raw.cells[column].to_numpy().astype(np.str_)
        if expected is not None and not (good := np.isin(cells, list(expected))).all():
            raise self._wrong(column, cells, good, f"one of {', '.join(sorted(expected))}")
        return cells

    def whether(self, column: str, yes: str, no: str) -> Floats:
        """A column of two values as 1 where it is `yes`, (n,); SchemaError where there is no other, or only one."""
        found = np.equal(self.texts(column, (yes, no)), yes).astype(np.float64)
        if found.min() == found.max():
            raise SchemaError(f"{self.raw.path}, column {column!r}: is the same in every row; expected {yes} and {no}")
        return found

    def numbers(self, column: str, least: float = -np.inf) -> Floats:
        """The column as finite numbers of at least `least`, (n,)."""
        cells = self.texts(column)
        try:
            values = cells.astype(np.float64)
        except ValueError:
            values = np.array([_number(cell) for cell in cells.tolist()])
        if not (good := np.isfinite(values) & (values >= least)).all():
            raise self._wrong(column, cells, good, "a number" if least == -np.inf else f"a number of {least:g} or more")
        return values

    def days(self, column: str) -> Floats:
        """A column of ISO dates as days since 1970, (n,)."""
        cells = self.texts(column)
        days = np.array([_day(cell) for cell in cells.tolist()])
        if not (good := np.isfinite(days)).all():
            raise self._wrong(column, cells, good, "a date such as 2017-03-31")
        return days

    def _wrong(self, column: str, cells: Strings, good: NDArray[np.bool_], expected: str) -> SchemaError:
        at = int(np.argmin(good))
        row = self.raw.row_number(at)
        return SchemaError(f"{self.raw.path}, row {row}, column {column!r}: {str(cells[at])!r} is not {expected}")


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return np.nan


def _day(cell: str) -> float:
    try:
        return float(np.datetime64(cell, "D").astype(np.int64))
    except ValueError:
        return np.nan
