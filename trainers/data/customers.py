"""Customers to decide about: rows that follow a schema but need no label."""

from __future__ import annotations

from pathlib import Path

from churnsaver.domain.schema import FEATURE_ROLES, DatasetSchema, Role, Scalar
from trainers.data.csv_reader import read_csv
from trainers.data.validate import validate


def read_customers(path: Path, schema: DatasetSchema) -> list[dict[str, Scalar]]:
    """The customers of a CSV: id and features; a label is neither needed nor read.

    Raises:
        SchemaError: a column is missing or a value does not follow the schema.
    """
    columns = {name: column for name, column in schema.columns.items() if column.role in FEATURE_ROLES | {Role.ID}}
    frame, _ = validate(read_csv(path), schema.model_copy(update={"columns": columns}))
    rows: list[dict[str, Scalar]] = frame.to_dicts()
    return rows
