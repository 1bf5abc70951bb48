"""Customers without a label: those to decide about, and those to compare with others."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from churnsaver.domain.schema import FEATURE_ROLES, DatasetSchema, Role, Scalar
from churnsaver.errors import SchemaError
from trainers.data.csv_reader import read_csv
from trainers.data.prepare import read_prepared
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


def read_features(path: Path, schema: DatasetSchema | None) -> pl.DataFrame:
    """The features of a CSV or of a folder that `data prepare` wrote, with what a model has never seen left in.

    Blanks and unlisted categories are let through, because whoever compares two data sets asks for them.

    Raises:
        SchemaError: a column is missing, a number is none or out of its range, or a CSV comes without a schema.
    """
    if path.is_dir():
        prepared = read_prepared(path, None)
        names = schema.feature_names if schema else prepared.schema.feature_names
        if missing := sorted(set(names) - set(prepared.schema.feature_names)):
            raise SchemaError(f"{path}: was prepared without the feature {missing[0]!r}; prepare it with this schema")
        return prepared.frame.select(names)
    if schema is None:
        raise SchemaError(f"{path}: is no prepared folder; say with --schema how to read the CSV")
    columns = {
        name: schema.columns[name].model_copy(update={"optional": True, "categories": None})
        for name in schema.feature_names
    }
    frame, _ = validate(read_csv(path), schema.model_copy(update={"columns": columns}))
    return frame
