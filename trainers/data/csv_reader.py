"""A CSV file as columns of text, with faults of its structure named by row."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from churnsaver.errors import SchemaError

HEADER_ROWS = 1
GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class RawCsv:
    """What a CSV file says before a schema gives it meaning.

    Attributes:
        path: the file.
        sha256: hash of its bytes, compressed as it may be.
        cells: every column as text, surrounding space removed; a blank cell is "".
    """

    path: Path
    sha256: str
    cells: pl.DataFrame

    @staticmethod
    def row_number(index: int) -> int:
        """The number of data row `index` in the file, where the header is row 1."""
        return index + HEADER_ROWS + 1


def read_csv(path: Path) -> RawCsv:
    """Reads a comma-separated file, gzipped or not.

    Raises:
        SchemaError: it cannot be read, is not UTF-8, has no header or no rows, or a row is ragged.
    """
    try:
        content = path.read_bytes()
        text = gzip.decompress(content) if content[:2] == GZIP_MAGIC else content
    except FileNotFoundError:
        raise SchemaError(f"{path}: no such file; name a CSV file or a folder that `data prepare` wrote") from None
    except (OSError, EOFError) as error:
        raise SchemaError(f"{path}: cannot be read ({error})") from None
    header, rows = _parse(path, _decode(path, text))
    columns = zip(*rows, strict=True)
    cells = {name: pl.Series(name, column, dtype=pl.String) for name, column in zip(header, columns, strict=True)}
    stripped = pl.DataFrame(cells).with_columns(pl.all().str.strip_chars())
    return RawCsv(path, hashlib.sha256(content).hexdigest(), stripped)


def _decode(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + HEADER_ROWS
        raise SchemaError(
            f"{path}, row {row}: byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None


def _parse(path: Path, text: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows, every row as long as the header."""
    try:
        records = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise SchemaError(f"{path}: is not a CSV file ({error}); look for an unclosed quote") from None
    while records and not any(records[-1]):
        records.pop()  # blank lines at the end are an editor's, not a customer's
    if not records:
        raise SchemaError(f"{path}: is empty; expected a header and at least one row")
    header, rows = [name.strip() for name in records[0]], records[HEADER_ROWS:]
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        raise SchemaError(f"{path}, row 1: column {repeated[0]!r} appears twice; rename one")
    if not rows:
        raise SchemaError(f"{path}: has a header but no rows; expected at least one customer")
    for index, row in enumerate(rows):
        if len(row) != len(header):
            raise SchemaError(
                f"{path}, row {RawCsv.row_number(index)}: has {len(row)} fields, the header has {len(header)}; "
                "quote a value that contains a comma, or fill in what is missing"
            )
    return header, rows
