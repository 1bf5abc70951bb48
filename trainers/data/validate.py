"""Gives a CSV's text the meaning that a schema says, or says where it does not follow it.

Every distinct text of a column is checked once with `DatasetSchema.check_value`: the rule that the
gateway applies to a request's attributes is the rule that training data passed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from churnsaver.domain.schema import BINARY_ROLES, MISSING, NUMERIC_ROLES, DatasetSchema, Role, Scalar
from churnsaver.errors import SchemaError
from trainers.data.csv_reader import RawCsv

MAX_ERRORS_SHOWN = 10
MAX_ROWS_SHOWN = 5
MAX_CATEGORIES = 100
NUMBER_ROLES = NUMERIC_ROLES | {Role.PROPENSITY, Role.OUTCOME_USD}
NO_NUMBERS = frozenset({"nan", "inf", "-inf", "null", "na", "n/a", "#n/a", "?"})
LEARNED_ROLES = frozenset({Role.CATEGORICAL, Role.TREATMENT})


@dataclass(frozen=True, slots=True, order=True)
class CellError:
    """One value that cannot be used; `row` counts as in the file, the header being row 1."""

    row: int
    column: str
    message: str


def validate(raw: RawCsv, schema: DatasetSchema) -> tuple[pl.DataFrame, DatasetSchema]:
    """The schema's columns typed, and the schema with every category that it left to be learned.

    Numbers are Float64, labels and outcomes Boolean, the rest String; a missing value is null.

    Raises:
        SchemaError: a column is missing, or values do not follow the schema; each is named by row.
    """
    names = [name for name, column in schema.columns.items() if column.role is not Role.IGNORE]
    _check_columns(raw, schema, names)
    for name in schema.names(*BINARY_ROLES):
        _check_classes(raw, schema, name)
    schema = schema.with_categories(_learn_categories(raw, schema))
    typed: list[pl.Series] = []
    errors: list[CellError] = []
    for name in names:
        series, found = _type_column(raw.cells[name], schema)
        typed.append(series)
        errors += found
    if (id_name := schema.name_of(Role.ID)) is not None:
        errors += _duplicates(raw.cells[id_name])
    if errors:
        raise SchemaError(_report(raw, schema, errors))
    return pl.DataFrame(typed), schema


def _check_columns(raw: RawCsv, schema: DatasetSchema, names: Iterable[str]) -> None:
    header = raw.cells.columns
    for name in names:
        if name in header:
            continue
        near = difflib.get_close_matches(name, header, n=1)
        mend = f"did you mean {near[0]!r}?" if near else f"the header has {', '.join(header[:12])}"
        role = schema.columns[name].role
        raise SchemaError(
            f"{raw.path}, row 1: column {name!r} ({role}) is missing; "
            f"add it or take it out of schema {schema.name} ({mend})"
        )


def _check_classes(raw: RawCsv, schema: DatasetSchema, name: str) -> None:
    """A label must say yes in some rows and one other thing in all others."""
    values = sorted(set(raw.cells[name].unique()) - {""})
    yes = schema.columns[name].yes
    shown = ", ".join(map(repr, values[:5])) or "nothing but blanks"
    where = f"{raw.path}, column {name}"
    for value in values:
        if value != yes and value.lower() in NO_NUMBERS:
            row = raw.row_number(int((raw.cells[name] == value).arg_max() or 0))
            raise SchemaError(
                f"{where}, row {row}: is {value!r}, which is no answer; leave the row out, or say what it is"
            )
    if len(values) > 2:
        raise SchemaError(f"{where}: a {schema.columns[name].role} needs two values, found {len(values)}: {shown}")
    if yes not in values:
        raise SchemaError(f"{where}: no row is {yes!r}, which schema {schema.name} says means yes; found {shown}")
    if len(values) < 2:
        raise SchemaError(f"{where}: every row is {yes!r}; nothing can be learned without rows of both kinds")


def _learn_categories(raw: RawCsv, schema: DatasetSchema) -> dict[str, list[str]]:
    learned = {}
    for name in schema.names(*LEARNED_ROLES):
        if schema.columns[name].categories is not None:
            continue
        values = sorted(set(raw.cells[name].unique()) - {""})
        if len(values) > MAX_CATEGORIES:
            raise SchemaError(
                f"{raw.path}, column {name}: has {len(values)} distinct values, more than {MAX_CATEGORIES}; "
                f"give it the role ignore or numeric in schema {schema.name}"
            )
        learned[name] = values
    return learned


def _type_column(cells: pl.Series, schema: DatasetSchema) -> tuple[pl.Series, list[CellError]]:
    """One column typed, and its first faults; where there are any, the values do not matter."""
    name, column = cells.name, schema.columns[cells.name]
    texts: list[str] = cells.unique().to_list()
    values = {text: _parse(column.role, text) for text in texts}
    wrong = {text: message for text in texts if (message := _fault(schema, name, text, values[text])) is not None}
    if wrong:
        return cells, [
            CellError(RawCsv.row_number(index), name, wrong[text]) for index, text in enumerate(cells) if text in wrong
        ]
    if column.role in BINARY_ROLES:
        return cells == column.yes, []
    dtype = pl.Float64 if column.role in NUMBER_ROLES else pl.String
    return cells.replace_strict(list(values), list(values.values()), return_dtype=dtype), []


def _parse(role: Role, text: str) -> Scalar:
    """`text` as a number where the role is one and it can be; a text that is none stays text."""
    if text in MISSING:
        return None
    if role in NUMBER_ROLES and "_" not in text:  # float() reads 1_000, no spreadsheet writes it
        try:
            return float(text)
        except ValueError:
            return text
    return text


def _fault(schema: DatasetSchema, name: str, text: str, value: Scalar) -> str | None:
    message = schema.check_value(name, value)
    if message is not None and text.lower() in {"nan", "na", "n/a", "null", "none"}:
        return f"{message} (leave the cell blank where the value is unknown and the schema says optional)"
    return message


def _duplicates(cells: pl.Series) -> list[CellError]:
    repeated = cells.filter(cells.is_duplicated() & (cells != ""))
    first: dict[str, int] = {}
    wanted, errors = set(repeated), []
    for index, text in enumerate(cells if wanted else ()):
        if text not in wanted:
            continue
        row = RawCsv.row_number(index)
        if text in first:
            errors.append(CellError(row, cells.name, f"is {text!r} again (first in row {first[text]}); ids are unique"))
        else:
            first[text] = row
    return errors


def _report(raw: RawCsv, schema: DatasetSchema, errors: list[CellError]) -> str:
    """One error on one line; several as a list that stops after MAX_ERRORS_SHOWN, the same in many rows as one."""
    errors = sorted(errors)
    if len(errors) == 1:
        error = errors[0]
        return f"{raw.path}, row {error.row}, column {error.column}: {error.message}"
    alike: dict[tuple[str, str], list[int]] = {}
    for error in errors:
        alike.setdefault((error.column, error.message), []).append(error.row)
    shown = list(alike.items())[:MAX_ERRORS_SHOWN]
    lines = [f"  row {rows[0]}, column {column}: {message}{_again(rows)}" for (column, message), rows in shown]
    if left := len(errors) - sum(len(rows) for _, rows in shown):
        lines.append(f"  … and {left} more")
    return "\n".join([f"{raw.path}: {len(errors)} values do not follow schema {schema.name}:", *lines])


def _again(rows: list[int]) -> str:
    """In which rows the same fault stands, where they are several."""
    if len(rows) == 1:
        return ""
    first = ", ".join(map(str, rows[:MAX_ROWS_SHOWN]))
    return f" ({len(rows)} rows: {first}{', …' if len(rows) > MAX_ROWS_SHOWN else ''})"
